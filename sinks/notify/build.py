"""From settings to notifiers."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from yarl import URL

from driftline.schemas.clock import Clock
from driftline.schemas.errors import ConfigError
from driftline.sinks.notify.base import Notifier
from driftline.sinks.notify.config import NotifyConfig
from driftline.sinks.notify.http import HttpSender
from driftline.sinks.notify.log import LogNotifier
from driftline.sinks.notify.pagerduty import PagerDutyNotifier
from driftline.sinks.notify.slack import SlackNotifier
from driftline.sinks.notify.webhook import WebhookNotifier


@asynccontextmanager
async def open_notifiers(config: NotifyConfig, clock: Clock) -> AsyncIterator[list[Notifier]]:
    """Every configured notifier, over one HTTP session. Raises ConfigError for a URL that is none."""
    if config.dry_run:
        yield [LogNotifier()]
        return
    notifiers: list[Notifier] = []
    async with aiohttp.ClientSession(headers={"User-Agent": "driftline"}) as session:
        if (pagerduty := config.pagerduty) is not None:
            key = pagerduty.routing_key.get_secret_value()
            _check(pagerduty.url, "notify.pagerduty.url")
            notifiers.append(PagerDutyNotifier(pagerduty, HttpSender(session, "PagerDuty", pagerduty, clock, [key])))
        if (slack := config.slack) is not None:
            url = slack.webhook_url.get_secret_value()
            _check(url, "notify.slack.webhook_url")
            notifiers.append(SlackNotifier(slack, HttpSender(session, "Slack", slack, clock, secrets_of(url)), clock))
        for webhook in config.webhooks:
            url = webhook.url.get_secret_value()
            _check(url, f"notify.webhooks.{webhook.name}.url")
            if URL(url).user and "authorization" in map(str.lower, webhook.headers):
                raise ConfigError(
                    f"notify.webhooks.{webhook.name} has credentials in its url and its headers: keep one"
                )
            secrets = [*secrets_of(url), *(value.get_secret_value() for value in webhook.headers.values())]
            sender = HttpSender(session, f"Webhook {webhook.name}", webhook, clock, secrets)
            notifiers.append(WebhookNotifier(webhook, sender))
        if config.log:
            notifiers.append(LogNotifier())
        yield notifiers


def _check(url: str, key: str) -> None:
    try:
        parsed = URL(url)
    except ValueError:
        parsed = URL()
    if parsed.scheme not in {"http", "https"} or not parsed.host:
        raise ConfigError(f"{key} is not an http or https URL")  # without the URL, which may be a secret


def secrets_of(url: str) -> list[str]:
    """Every form in which an error could show what is secret of a URL: all but scheme and host."""
    parsed = URL(url)
    forms = {url, str(parsed), parsed.path_qs, parsed.raw_path_qs, parsed.path, parsed.raw_path}
    forms |= {parsed.password or "", parsed.raw_password or "", parsed.query_string, parsed.raw_query_string}
    return sorted(forms - {"", "/"}, key=len, reverse=True)

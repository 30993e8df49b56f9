"""From settings to notifiers."""

from collections.abc import AsyncIterator, Iterator
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
    if problems := list(wrong(config)):
        raise ConfigError("; ".join(problems))
    if config.dry_run:
        yield [LogNotifier()]
        return
    notifiers: list[Notifier] = []
    async with aiohttp.ClientSession(headers={"User-Agent": "driftline"}) as session:
        if (pagerduty := config.pagerduty) is not None:
            key = pagerduty.routing_key.get_secret_value()
            notifiers.append(PagerDutyNotifier(pagerduty, HttpSender(session, "PagerDuty", pagerduty, clock, [key])))
        if (slack := config.slack) is not None:
            url = slack.webhook_url.get_secret_value()
            notifiers.append(SlackNotifier(slack, HttpSender(session, "Slack", slack, clock, secrets_of(url)), clock))
        for webhook in config.webhooks:
            url = webhook.url.get_secret_value()
            secrets = [*secrets_of(url), *(value.get_secret_value() for value in webhook.headers.values())]
            sender = HttpSender(session, f"Webhook {webhook.name}", webhook, clock, secrets)
            notifiers.append(WebhookNotifier(webhook, sender))
        if config.log:
            notifiers.append(LogNotifier())
        yield notifiers


def wrong(config: NotifyConfig) -> Iterator[str]:
    """What keeps its receivers from being told, a line each, without what may be a secret."""
    if config.pagerduty is not None and not _is_url(config.pagerduty.url):
        yield "notify.pagerduty.url is not an http or https URL"
    if config.slack is not None and not _is_url(config.slack.webhook_url.get_secret_value()):
        yield "notify.slack.webhook_url is not an http or https URL"
    for webhook in config.webhooks:
        url = webhook.url.get_secret_value()
        if not _is_url(url):
            yield f"notify.webhooks.{webhook.name}.url is not an http or https URL"
        elif URL(url).user and "authorization" in map(str.lower, webhook.headers):
            yield f"notify.webhooks.{webhook.name} has credentials in its url and its headers: keep one"


def _is_url(url: str) -> bool:
    try:
        parsed = URL(url)
        return parsed.scheme in {"http", "https"} and bool(parsed.host)
    except ValueError:
        return False


def secrets_of(url: str) -> list[str]:
    """Every form in which an error could show what is secret of a URL: all but scheme and host."""
    parsed = URL(url)
    forms = {url, str(parsed), parsed.path_qs, parsed.raw_path_qs, parsed.path, parsed.raw_path}
    forms |= {parsed.password or "", parsed.raw_password or "", parsed.query_string, parsed.raw_query_string}
    return sorted(forms - {"", "/"}, key=len, reverse=True)

"""Pages people through PagerDuty's Events API v2: trigger when something begins, resolve when it ends.

Limits as documented: an event is at most 512 KB, a summary 1,024 characters, a dedup key 255. 202 is accepted, 400 is
refused for good, 429 and 5xx pass. A repeated trigger joins the open alert of its dedup key, a resolve without an
open alert is dropped: repeats do no harm.
https://developer.pagerduty.com/docs/events-api-v2/trigger-events/
"""

from typing import Any

import msgspec
from pydantic import Field, SecretStr

from driftline.schemas.ids import stable_id
from driftline.schemas.results import BreakerSignal
from driftline.sinks.notify.base import Notice, dedup_key, happened_at, phase
from driftline.sinks.notify.http import HttpConfig, HttpSender
from driftline.sinks.notify.message import message
from driftline.sinks.notify.text import clip, length, one_line, rfc3339

EVENT_BYTES = 512_000
SUMMARY = 1_024
DEDUP_KEY = 255
FIELD = 255  # of source, component, group and class: not documented, and long enough


class PagerDutyConfig(HttpConfig):
    routing_key: SecretStr = Field(min_length=32, max_length=32)  # the integration key of an Events API v2 integration
    url: str = "https://events.pagerduty.com/v2/enqueue"  # events.eu.pagerduty.com for accounts of the EU region
    first_wait_s: float = Field(5.0, gt=0)  # PagerDuty asks to back off for half a minute and more
    links: dict[str, str] = Field(default={})  # text -> https address, shown on every alert: a dashboard, a runbook


class PagerDutyNotifier:
    name = "pagerduty"

    def __init__(self, config: PagerDutyConfig, sender: HttpSender) -> None:
        self._config = config
        self._sender = sender

    async def notify(self, notice: Notice) -> None:
        event = render(notice, self._config.links)
        if event is None:
            return
        body = encode(event, self._config.routing_key.get_secret_value())
        await self._sender.post(self._config.url, body, {"Content-Type": "application/json"})


def render(notice: Notice, links: dict[str, str]) -> dict[str, Any] | None:
    """The event without its routing key; None where PagerDuty has nothing to change."""
    key = short(dedup_key(notice))
    match phase(notice):
        case "continues":
            return None
        case "ends":
            return {"event_action": "resolve", "dedup_key": key}
    told = message(notice)
    named = {
        "source": notice.app,
        "group": notice.app,
        "component": notice.provider if isinstance(notice, BreakerSignal) else notice.release,
        "class": told.facts.get("What", told.title),
    }
    payload: dict[str, Any] = {
        "summary": clip(told.summary, SUMMARY),
        "severity": told.severity,
        "timestamp": rfc3339(happened_at(notice)),
        **{name: clip(line, FIELD) for name, text in named.items() if (line := one_line(text))},
        "custom_details": {
            **told.facts,
            **{name: text for name, text in (("Description", told.description), ("Action", told.action)) if text},
        },
    }
    event: dict[str, Any] = {"event_action": "trigger", "dedup_key": key, "client": "Driftline", "payload": payload}
    if links:
        event["links"] = [{"href": href, "text": text} for text, href in links.items()]
    return event


def encode(event: dict[str, Any], routing_key: str) -> bytes:
    """The request body. Details that make it too big are left out, and a note says so."""
    event = {"routing_key": routing_key, **event}
    body = msgspec.json.encode(event)
    if len(body) <= EVENT_BYTES:
        return body
    note = {
        "Note": f"The details were left out: with them the event has {len(body):,} bytes of {EVENT_BYTES:,} allowed."
    }
    return msgspec.json.encode({**event, "payload": {**event["payload"], "custom_details": note}})


def short(key: str) -> str:
    """A dedup key that fits, and differs where the long one does."""
    if length(key) <= DEDUP_KEY:
        return key
    return f"{key[:100]}/{stable_id(key)}"

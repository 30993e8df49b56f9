"""Tells a Slack channel through an incoming webhook, in Block Kit.

Limits as documented: a message has at most 50 blocks, a header 150 characters, a section's text 3,000, ten fields of
2,000 each, ten context elements. Beside them all blocks together must stay below about 13,200 characters, or the
answer is `msg_blocks_too_long` (slackapi/bolt-js#2509). One message per second; more are answered with 429.
Incoming webhooks cannot change a message: what is over is a new message.
https://docs.slack.dev/reference/block-kit/blocks
"""

import asyncio
from typing import Any

import msgspec
from pydantic import Field, SecretStr

from driftline.schemas.clock import Clock
from driftline.sinks.notify.base import Notice, phase
from driftline.sinks.notify.http import HttpConfig, HttpSender
from driftline.sinks.notify.message import Message, message
from driftline.sinks.notify.text import CUT, clip, length

HEADER = 150
FIELDS = 10
# Well below what one text may have, so that a whole message stays below what all may have together.
SUMMARY, DESCRIPTION, ACTION, FIELD, CONTEXT = 1_000, 2_500, 1_500, 400, 1_000

_ESCAPES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_ICONS = {"critical": "🔴", "error": "🟠", "warning": "🟡", "info": "🔵"}
_IN_CONTEXT = ("False alarms", "Evidence", "Evidence of harm", "Seen")


class SlackConfig(HttpConfig):
    webhook_url: SecretStr  # whoever has it can post
    interval_s: float = Field(1.0, ge=0)  # between two messages: Slack takes about one per second


class SlackNotifier:
    name = "slack"

    def __init__(self, config: SlackConfig, sender: HttpSender, clock: Clock) -> None:
        self._config = config
        self._sender = sender
        self._clock = clock
        self._turn = asyncio.Lock()
        self._next = clock.monotonic()

    async def notify(self, notice: Notice) -> None:
        body = msgspec.json.encode(render(notice))
        async with self._turn:
            await asyncio.sleep(max(0.0, self._next - self._clock.monotonic()))
            try:
                await self._sender.post(
                    self._config.webhook_url.get_secret_value(),
                    body,
                    {"Content-Type": "application/json; charset=utf-8"},
                )
            finally:
                self._next = self._clock.monotonic() + self._config.interval_s


def render(notice: Notice) -> dict[str, Any]:
    told = message(notice)
    icon = "✅" if phase(notice) == "ends" else _ICONS[told.severity]
    fields = [(label, text) for label, text in told.facts.items() if label not in _IN_CONTEXT]
    small = [(label, text) for label, text in told.facts.items() if label in _IN_CONTEXT]
    blocks: list[dict[str, Any]] = [
        {
            "type": "header",
            "text": {"type": "plain_text", "text": clip(f"{icon} {told.title}", HEADER), "emoji": False},
        },
        _section(escape(told.summary, SUMMARY)),
        {"type": "section", "fields": [_mrkdwn(_labelled(label, text, FIELD)) for label, text in fields[:FIELDS]]},
    ]
    if told.description:
        blocks.append(_section(escape(told.description, DESCRIPTION)))
    if told.action:
        blocks.append(_section(_labelled("What to do", told.action, ACTION)))
    if small:
        blocks.append(
            {"type": "context", "elements": [_mrkdwn(_labelled(label, text, CONTEXT)) for label, text in small]}
        )
    return {"text": escape(_plain(told, icon), SUMMARY), "blocks": blocks}


def _plain(told: Message, icon: str) -> str:
    """What notifications and screen readers show."""
    return f"{icon} {told.title}: {told.summary}"


def _section(text: str) -> dict[str, Any]:
    return {"type": "section", "text": _mrkdwn(text)}


def _mrkdwn(text: str) -> dict[str, Any]:
    return {"type": "mrkdwn", "text": text, "verbatim": True}  # verbatim: what users wrote makes no links or mentions


def _labelled(label: str, text: str, limit: int) -> str:
    head = f"*{label}*\n"
    return head + escape(text, limit - length(head))


def escape(text: str, limit: int) -> str:
    """Slack's three control characters escaped, and at most `limit` long after that, never cut within an escape."""
    escaped = "".join(_ESCAPES.get(char, char) for char in text)
    if length(escaped) <= limit:
        return escaped
    taken, room = [], limit - length(CUT)
    for char in text:
        piece = _ESCAPES.get(char, char)
        room -= length(piece)
        if room < 0:
            break
        taken.append(piece)
    return "".join(taken).rstrip() + CUT

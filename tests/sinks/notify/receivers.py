"""Local servers that stand for PagerDuty, Slack and a webhook's receiver, and refuse what those refuse.

Each takes a script of `faults` for its next requests, keeps every request, and keeps what a person would see.
"""

import asyncio
import hashlib
import hmac
import json
import re
import socket
import struct
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Self

from aiohttp import web

UNESCAPED = re.compile(r"[<>]|&(?!amp;|lt;|gt;)")


class Answer(NamedTuple):
    """Answered instead of looking at the request."""

    status: int
    body: str = ""
    headers: Mapping[str, str] = {}


Fault = Answer | Literal["hang", "reset", "accept_then_reset"]


class Refused(Exception):
    def __init__(self, answer: Answer) -> None:
        self.answer = answer


@dataclass
class Seen:
    body: bytes
    headers: Mapping[str, str]


class Receiver(ABC):
    """An HTTP server on a free port of 127.0.0.1; an async context manager."""

    path = "/"

    def __init__(self) -> None:
        self.faults: deque[Fault] = deque()
        self.seen: list[Seen] = []
        self.refusals: list[Answer] = []
        self._closing = asyncio.Event()

    @abstractmethod
    def take(self, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Validate and keep. Raises Refused."""

    @property
    @abstractmethod
    def told(self) -> list[Any]:
        """What a person, or the program behind the webhook, has got to know, repeats not counted where the real
        receiver does not count them."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{self.path}"

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_post(self.path, self._handle)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port: int = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closing.set()
        await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.seen.append(Seen(body, dict(request.headers)))
        fault = self.faults.popleft() if self.faults else None
        match fault:
            case Answer():
                return web.Response(status=fault.status, text=fault.body, headers=dict(fault.headers))
            case "hang":
                await self._closing.wait()
            case "reset":
                _reset(request)
                return web.Response()
        try:
            answer = self.take(body, request.headers)
        except Refused as refused:
            answer = refused.answer
            self.refusals.append(answer)
        if fault == "accept_then_reset":
            _reset(request)
        return web.Response(status=answer.status, text=answer.body, headers=dict(answer.headers))


def _reset(request: web.Request) -> None:
    """Ends the connection with RST, as a crashing peer does."""
    assert request.transport is not None
    connection: socket.socket = request.transport.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.transport.abort()


def _json(body: bytes, refusal: Answer) -> Any:
    def refuse_constant(name: str) -> None:
        raise ValueError(name)

    try:
        return json.loads(body.decode("utf-8"), parse_constant=refuse_constant)
    except ValueError:
        raise Refused(refusal) from None


@dataclass
class PagerDutyAlert:
    dedup_key: str
    status: Literal["triggered", "resolved"]
    events: list[dict[str, Any]] = field(default_factory=list)


class PagerDutyReceiver(Receiver):
    """Events API v2: validates an event and keeps the alerts by dedup key."""

    path = "/v2/enqueue"
    routing_key = "0123456789abcdef0123456789abcdef"

    def __init__(self) -> None:
        super().__init__()
        self.alerts: list[PagerDutyAlert] = []
        self.dropped: list[dict[str, Any]] = []

    @property
    def told(self) -> list[Any]:
        return [(alert.dedup_key, alert.status) for alert in self.alerts]

    def take(self, body: bytes, headers: Mapping[str, str]) -> Answer:
        unreadable = {
            "status": "Unrecognized object",
            "message": "Event object format is unrecognized",
            "errors": ["JSON parse error"],
        }
        if len(body) > 512_000:
            raise Refused(Answer(413, "Request Entity Too Large"))
        event = _json(body, Answer(400, json.dumps(unreadable)))
        errors = list(self._problems(event))
        if errors:
            answer = {"status": "invalid event", "message": "Event object is invalid", "errors": errors}
            raise Refused(Answer(400, json.dumps(answer)))
        key = event["dedup_key"]
        open_alert = next((a for a in self.alerts if a.dedup_key == key and a.status == "triggered"), None)
        if open_alert is not None:
            open_alert.events.append(event)
            open_alert.status = "resolved" if event["event_action"] == "resolve" else "triggered"
        elif event["event_action"] == "trigger":
            self.alerts.append(PagerDutyAlert(key, "triggered", [event]))
        else:
            self.dropped.append(event)
        return Answer(202, json.dumps({"status": "success", "message": "Event processed", "dedup_key": key}))

    def _problems(self, event: Any) -> list[str]:
        if not isinstance(event, dict):
            return ["event is not an object"]
        problems = []
        if len(event.get("routing_key", "")) != 32:
            problems.append("Length of 'routing_key' is incorrect (should be 32 characters)")
        elif event["routing_key"] != self.routing_key:
            problems.append("'routing_key' is not known")
        if event.get("event_action") not in ("trigger", "acknowledge", "resolve"):
            problems.append("'event_action' is invalid (should be 'trigger', 'acknowledge' or 'resolve')")
        if not 0 < len(event.get("dedup_key", "")) <= 255:
            problems.append("'dedup_key' is missing or too long (maximum 255 characters)")
        for link in event.get("links", []):
            if not link.get("href", "").startswith("https://"):
                problems.append("'links.href' is invalid")
        if event.get("event_action") == "trigger":
            problems += self._payload_problems(event.get("payload"))
        unknown = event.keys() - {
            *("routing_key", "event_action", "dedup_key", "payload", "client", "client_url", "links", "images")
        }
        return problems + [f"'{name}' is not a field" for name in sorted(unknown)]

    def _payload_problems(self, payload: Any) -> list[str]:
        if not isinstance(payload, dict):
            return ["'payload' is missing or blank"]
        problems = [f"'payload.{name}' is missing or blank" for name in ("summary", "source") if not payload.get(name)]
        if len(payload.get("summary", "")) > 1024:
            problems.append("'payload.summary' is too long (maximum 1024 characters)")
        if payload.get("severity") not in ("critical", "error", "warning", "info"):
            problems.append("'payload.severity' is invalid")
        if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:?\d\d)", payload.get("timestamp", "")):
            problems.append("'payload.timestamp' is invalid")
        if not isinstance(payload.get("custom_details", {}), dict):
            problems.append("'payload.custom_details' is not an object")
        problems += [
            f"'payload.{name}' is not a text"
            for name in ("component", "group", "class")
            if name in payload and (not isinstance(payload[name], str) or not payload[name])
        ]
        return problems


class SlackReceiver(Receiver):
    """An incoming webhook: validates Block Kit and keeps the messages."""

    path = "/services/T00000000/B00000000/the-webhooks-secret"

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[dict[str, Any]] = []

    @property
    def told(self) -> list[Any]:
        return self.messages

    def take(self, body: bytes, headers: Mapping[str, str]) -> Answer:
        if not headers.get("Content-Type", "").startswith("application/json"):
            raise Refused(Answer(400, "invalid_payload"))
        message = _json(body, Answer(400, "invalid_payload"))
        if not isinstance(message, dict) or message.keys() - {"text", "blocks"}:
            raise Refused(Answer(400, "invalid_payload"))
        if not message.get("text") and not message.get("blocks"):
            raise Refused(Answer(400, "no_text"))
        if _length(message["text"]) > 40_000 or UNESCAPED.search(message["text"]):
            raise Refused(Answer(400, "invalid_payload"))
        blocks = message["blocks"]
        if not 0 < len(blocks) <= 50 or not all(self._block_ok(block) for block in blocks):
            raise Refused(Answer(400, "invalid_blocks"))
        if sum(_length(text) for text in self.texts(message)) > 13_200:
            raise Refused(Answer(400, "msg_blocks_too_long"))
        self.messages.append(message)
        return Answer(200, "ok")

    @staticmethod
    def texts(message: dict[str, Any]) -> list[str]:
        """Everything a person reads in it, in order."""
        found = []
        for block in message["blocks"]:
            objects = [block.get("text"), *block.get("fields", []), *block.get("elements", [])]
            found += [item["text"] for item in objects if item]
        return found

    def _block_ok(self, block: dict[str, Any]) -> bool:
        match block["type"]:
            case "header":
                return block.keys() == {"type", "text"} and _text_ok(block["text"], 150, ("plain_text",))
            case "section":
                if not block.keys() <= {"type", "text", "fields"} or len(block) < 2:
                    return False
                fields = block.get("fields")
                if fields is not None and not (0 < len(fields) <= 10 and all(_text_ok(f, 2000) for f in fields)):
                    return False
                return "text" not in block or _text_ok(block["text"], 3000)
            case "context":
                elements = block["elements"]
                return 0 < len(elements) <= 10 and all(_text_ok(element, 3000) for element in elements)
            case "divider":
                return True
        return False


def _text_ok(text: Any, limit: int, types: tuple[str, ...] = ("plain_text", "mrkdwn")) -> bool:
    """A text object as Slack takes it. Refused as well, though Slack would not: characters that make up a mention or
    a link out of what a user wrote."""
    if not isinstance(text, dict) or text.get("type") not in types:
        return False
    markdown = text["type"] == "mrkdwn"
    if not text.keys() <= {"type", "text", "verbatim" if markdown else "emoji"}:
        return False
    return 0 < _length(text["text"]) <= limit and not (markdown and UNESCAPED.search(text["text"]))


def _length(text: str) -> int:
    return len(text.encode("utf-16-le")) // 2


class WebhookReceiver(Receiver):
    """A program that takes CloudEvents 1.0 in structured mode, checks the signature, and drops repeats by id."""

    path = "/hook"
    secret = "the-signing-secret"

    def __init__(self) -> None:
        super().__init__()
        self.events: dict[tuple[str, str], dict[str, Any]] = {}

    @property
    def told(self) -> list[Any]:
        return list(self.events.values())

    def take(self, body: bytes, headers: Mapping[str, str]) -> Answer:
        if headers.get("Content-Type") != "application/cloudevents+json; charset=UTF-8":
            raise Refused(Answer(415, "Unsupported Media Type"))
        expected = hmac.new(self.secret.encode(), body, hashlib.sha256).hexdigest()
        if headers.get("X-Driftline-Signature") != f"sha256={expected}":
            raise Refused(Answer(401, "bad signature"))
        event = _json(body, Answer(400, "not JSON"))
        required = ("id", "source", "type")
        if event.get("specversion") != "1.0" or not all(
            isinstance(event.get(name), str) and event[name] for name in required
        ):
            raise Refused(Answer(400, "not a CloudEvent"))
        known = {*required, "specversion", "subject", "time", "datacontenttype", "data"}
        if event.keys() - known or not event.get("subject", "x") or not re.search(r"(Z|[+-]\d\d:\d\d)$", event["time"]):
            raise Refused(Answer(400, "not a CloudEvent"))
        self.events.setdefault((event["source"], event["id"]), event)
        return Answer(204)

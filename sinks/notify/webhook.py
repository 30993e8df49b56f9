"""Hands every transition to a program, as a CloudEvents 1.0 event in structured JSON mode.

A repeat has the same `id` and `source`, so receivers may drop it, as the specification intends. With a secret, the
header `X-Driftline-Signature: sha256=<hex>` is the HMAC-SHA256 of the body under it.
https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md
"""

import hashlib
import hmac
from urllib.parse import quote

import msgspec
from pydantic import Field, SecretStr

from driftline.schemas.codec import encode
from driftline.schemas.results import Alert, BreakerSignal, RollbackSignal
from driftline.sinks.notify.base import Notice, happened_at, notice_id
from driftline.sinks.notify.http import HttpConfig, HttpSender
from driftline.sinks.notify.text import rfc3339

CONTENT_TYPE = "application/cloudevents+json; charset=UTF-8"
SIGNATURE = "X-Driftline-Signature"


class WebhookConfig(HttpConfig):
    name: str = Field("webhook", pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")  # part of a consumer group's name
    url: SecretStr  # may carry credentials
    source: str = Field("/driftline", min_length=1)  # a URI reference that names this installation
    secret: SecretStr | None = None  # None: events are not signed
    headers: dict[str, SecretStr] = Field(default={})  # such as Authorization


class CloudEvent(msgspec.Struct, kw_only=True, omit_defaults=True):
    specversion: str
    id: str
    source: str
    type: str
    subject: str = ""
    time: str
    datacontenttype: str
    data: msgspec.Raw


class WebhookNotifier:
    def __init__(self, config: WebhookConfig, sender: HttpSender) -> None:
        self._config = config
        self._sender = sender

    @property
    def name(self) -> str:
        return self._config.name

    async def notify(self, notice: Notice) -> None:
        body = encode(render(notice, self._config.source))
        headers = {name: value.get_secret_value() for name, value in self._config.headers.items()}
        headers["Content-Type"] = CONTENT_TYPE
        if self._config.secret is not None:
            headers[SIGNATURE] = signature(body, self._config.secret.get_secret_value())
        await self._sender.post(self._config.url.get_secret_value(), body, headers)


def render(notice: Notice, source: str) -> CloudEvent:
    return CloudEvent(
        specversion="1.0",
        id=notice_id(notice),
        source=f"{source}/apps/{quote(notice.app, safe='')}",
        type=event_type(notice),
        subject=subject(notice),
        time=rfc3339(happened_at(notice)),
        datacontenttype="application/json",
        data=msgspec.Raw(encode(notice)),
    )


def event_type(notice: Notice) -> str:
    match notice:
        case Alert():
            return f"dev.driftline.alert.{notice.state}.v1"
        case RollbackSignal():
            return "dev.driftline.rollback.v1"
        case BreakerSignal():
            return f"dev.driftline.breaker.{notice.state}.v1"


def subject(notice: Notice) -> str:
    match notice:
        case Alert():
            return "/".join(filter(None, (notice.release, notice.rule, notice.component)))
        case RollbackSignal():
            return notice.deployment_id
        case BreakerSignal():
            return "/".join(filter(None, (notice.provider, notice.model)))


def signature(body: bytes, secret: str) -> str:
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()

"""What every notifier keeps, tried against receivers that are as strict as the real ones."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from driftline.schemas.clock import SystemClock
from driftline.schemas.errors import PermanentError, RetryableError
from driftline.sinks.notify.base import Notice, Notifier
from driftline.sinks.notify.build import open_notifiers
from driftline.sinks.notify.config import NotifyConfig
from tests.sinks.notify.receivers import Answer, Fault, PagerDutyReceiver, Receiver, SlackReceiver, WebhookReceiver
from tests.sinks.notify.samples import ODD, ORDINARY, alert, resolved

QUICK: dict[str, Any] = {"first_wait_s": 0.001, "max_wait_s": 0.002, "give_up_after_s": 5.0, "timeout_s": 5.0}
RECEIVERS: dict[str, type[Receiver]] = {
    "pagerduty": PagerDutyReceiver,
    "slack": SlackReceiver,
    "webhook": WebhookReceiver,
}


def settings(kind: str, url: str, **changes: float) -> NotifyConfig:
    http = QUICK | changes
    sections: dict[str, Any] = {
        "pagerduty": {"routing_key": PagerDutyReceiver.routing_key, "url": url, **http},
        "slack": {"webhook_url": url, "interval_s": 0, **http},
        "webhook": {
            "url": url,
            "secret": WebhookReceiver.secret,
            "headers": {"X-Api-Key": "the-api-key"},
            **http,
        },
    }
    section = sections[kind]
    return NotifyConfig.model_validate(
        {"log": False, **({"webhooks": [section]} if kind == "webhook" else {kind: section})}
    )


@asynccontextmanager
async def opened(kind: str, url: str, **changes: float) -> AsyncIterator[Notifier]:
    async with open_notifiers(settings(kind, url, **changes), SystemClock()) as notifiers:
        (notifier,) = notifiers
        yield notifier


@pytest.fixture(params=RECEIVERS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def receiver(kind: str) -> AsyncIterator[Receiver]:
    async with RECEIVERS[kind]() as running:
        yield running


@pytest.mark.parametrize("notice", [*ORDINARY.values(), *ODD.values()], ids=[*ORDINARY, *ODD])
async def test_whatever_is_to_be_told_is_accepted(kind: str, receiver: Receiver, notice: Notice) -> None:
    async with opened(kind, receiver.url) as notifier:
        await notifier.notify(notice)
    assert receiver.refusals == []


@pytest.mark.parametrize(
    "fault",
    [
        Answer(429),
        Answer(500, "rollup_error"),
        Answer(502),
        Answer(503),
        Answer(504),
        Answer(408),
        "reset",
        "accept_then_reset",
    ],
    ids=str,
)
async def test_what_passes_is_tried_again(kind: str, receiver: Receiver, fault: Fault) -> None:
    receiver.faults.extend([fault] * 3)
    async with opened(kind, receiver.url) as notifier:
        await notifier.notify(alert())
    assert len(receiver.seen) == 4
    assert len({seen.body for seen in receiver.seen}) == 1
    assert receiver.told


@pytest.mark.parametrize(
    "answer",
    [Answer(400, "invalid_blocks"), Answer(401), Answer(403, "invalid_token"), Answer(404, "no_service"), Answer(410)],
)
async def test_what_is_refused_is_not_tried_again(kind: str, receiver: Receiver, answer: Answer) -> None:
    receiver.faults.append(answer)
    async with opened(kind, receiver.url) as notifier:
        with pytest.raises(PermanentError, match=f"HTTP {answer.status}: {answer.body}"):
            await notifier.notify(alert())
    assert len(receiver.seen) == 1


async def test_a_redirect_is_not_followed(kind: str, receiver: Receiver) -> None:
    receiver.faults.append(Answer(302, headers={"Location": receiver.url}))
    async with opened(kind, receiver.url) as notifier:
        with pytest.raises(PermanentError, match="HTTP 302"):
            await notifier.notify(alert())
    assert len(receiver.seen) == 1


async def test_a_receiver_that_hangs_is_given_up_and_tried_again(kind: str, receiver: Receiver) -> None:
    receiver.faults.append("hang")
    async with opened(kind, receiver.url, timeout_s=0.2) as notifier:
        await notifier.notify(alert())
    assert len(receiver.seen) == 2
    assert len(receiver.told) == 1


async def test_it_waits_as_long_as_the_receiver_asks(
    kind: str, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.faults.append(Answer(429, headers={"Retry-After": "0.25"}))
    async with opened(kind, receiver.url) as notifier:
        await notifier.notify(alert())
    assert "the next in 0.2 s" in caplog.text
    assert len(receiver.seen) == 2


async def test_it_gives_up_rather_than_wait_longer_than_it_may(kind: str, receiver: Receiver) -> None:
    receiver.faults.append(Answer(429, headers={"Retry-After": "7200"}))
    async with opened(kind, receiver.url) as notifier:
        with pytest.raises(RetryableError, match="HTTP 429") as caught:
            await notifier.notify(alert())
    assert caught.value.retry_after_s == 7200
    assert len(receiver.seen) == 1


async def test_it_gives_up_in_the_end(kind: str, receiver: Receiver) -> None:
    receiver.faults.extend([Answer(503)] * 10_000)
    async with opened(kind, receiver.url, give_up_after_s=0.05) as notifier:
        with pytest.raises(RetryableError, match="HTTP 503"):
            await notifier.notify(alert())
    assert 1 < len(receiver.seen) < 10_000


async def test_nobody_listens(kind: str) -> None:
    async with RECEIVERS[kind]() as receiver:
        url = receiver.url
    async with opened(kind, url, give_up_after_s=0.02) as notifier:
        with pytest.raises(RetryableError, match=r": no connection to 127\.0\.0\.1:\d+ \(Connection refused\)$"):
            await notifier.notify(alert())


async def test_a_repeat_is_the_same_to_the_byte(kind: str, receiver: Receiver) -> None:
    async with opened(kind, receiver.url) as notifier:
        await notifier.notify(alert())
        await notifier.notify(alert())
    first, second = (seen.body for seen in receiver.seen)
    assert first == second


@pytest.mark.parametrize("kind", ["pagerduty", "webhook"])
async def test_repeats_tell_nothing_new(kind: str) -> None:
    """Slack cannot know a repeat: there the notify role drops them."""
    async with RECEIVERS[kind]() as receiver, opened(kind, receiver.url) as notifier:
        for notice in (alert(), alert(), resolved(), resolved()):
            await notifier.notify(notice)
        assert len(receiver.told) == (1 if kind == "pagerduty" else 2)


@pytest.mark.parametrize(
    "fault", [Answer(400, "echo"), Answer(500, "echo"), Answer(302, "echo"), "hang", "reset", "refused"], ids=str
)
async def test_no_secret_is_logged_or_raised(kind: str, fault: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "driftline")
    async with RECEIVERS[kind]() as receiver:
        url = receiver.url.replace("http://", "http://someone:the-password@") + "?token=the-query"
        if isinstance(fault, Answer):  # as a proxy does that shows the whole request on its error page
            path = receiver.path
            echo = f"{url} {path}?token=the-query {path} {PagerDutyReceiver.routing_key} the-api-key"
            fault = fault._replace(body=echo)
        receiver.faults.extend([] if fault == "refused" else [fault] * 1000)
        if fault == "refused":
            url = url.replace(f":{receiver.port}", ":1")
        async with opened(kind, url, give_up_after_s=0.1, timeout_s=0.05) as notifier:
            with pytest.raises((PermanentError, RetryableError)) as caught:
                await notifier.notify(alert())
    in_url = ["the-password", "the-webhooks-secret", "the-query"]
    secrets = {"pagerduty": [PagerDutyReceiver.routing_key], "slack": in_url, "webhook": [*in_url, "the-api-key"]}[kind]
    said = caplog.text + str(caught.value) + repr(caught.value.__cause__)
    assert [secret for secret in secrets if secret in said] == []

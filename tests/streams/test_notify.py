"""The notify role on a broker, with receivers as strict as the real ones."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from prometheus_client import REGISTRY

from driftline.schemas.clock import ManualClock, SystemClock
from driftline.schemas.codec import encode
from driftline.schemas.errors import ConfigError
from driftline.schemas.results import Alert, BreakerSignal, RollbackSignal
from driftline.sinks.notify.base import Notice
from driftline.sinks.notify.config import NotifyConfig
from driftline.streams import notify as role
from driftline.streams.health import Health
from driftline.streams.notify import run_notify
from driftline.streams.ready import READY_FILE
from tests.brokers import Kafka, eventually, on_each_broker
from tests.sinks.notify.receivers import Answer, PagerDutyReceiver, SlackReceiver
from tests.sinks.notify.samples import alert, breaker, resolved, rollback

QUICK: dict[str, Any] = {"first_wait_s": 0.001, "max_wait_s": 0.01, "give_up_after_s": 20.0}
LATER_US = 3_600_000_000


@pytest.fixture
async def pagerduty() -> AsyncIterator[PagerDutyReceiver]:
    async with PagerDutyReceiver() as receiver:
        yield receiver


@pytest.fixture
async def slack() -> AsyncIterator[SlackReceiver]:
    async with SlackReceiver() as receiver:
        yield receiver


def config(*receivers: PagerDutyReceiver | SlackReceiver, **http: float) -> NotifyConfig:
    sections: dict[str, Any] = {"log": False}
    for receiver in receivers:
        if isinstance(receiver, SlackReceiver):
            sections["slack"] = {"webhook_url": receiver.url, "interval_s": 0, **QUICK, **http}
        else:
            sections["pagerduty"] = {"routing_key": receiver.routing_key, "url": receiver.url, **QUICK, **http}
    return NotifyConfig.model_validate(sections)


@asynccontextmanager
async def running(
    kafka: Kafka, config: NotifyConfig, *, later: bool = False, health: Health | None = None
) -> AsyncIterator[None]:
    """The role at work; `later`: an hour from now."""
    clock = ManualClock(SystemClock().now() + LATER_US) if later else None
    stop = asyncio.Event()
    working = asyncio.create_task(run_notify(kafka.config, kafka.topics, config, stop=stop, clock=clock, health=health))
    try:
        yield
    finally:
        stop.set()
        await working


async def send(kafka: Kafka, *notices: Notice) -> None:
    topics = {
        Alert: kafka.topics.alerts,
        RollbackSignal: kafka.topics.rollbacks,
        BreakerSignal: kafka.topics.breakers,
    }
    for notice in notices:
        await kafka.send(topics[type(notice)], encode(notice), key=notice.app.encode())


def count(items: list[Any], at_least: int) -> Callable[[], Awaitable[bool]]:
    async def enough() -> bool:
        return len(items) >= at_least

    return enough


def titles(slack: SlackReceiver) -> list[str]:
    return [SlackReceiver.texts(message)[0] for message in slack.messages]


FIRING, RESOLVED = "🔴 Firing: error_rate of support-bot", "✅ Resolved: error_rate of support-bot"


@on_each_broker
async def test_everything_is_told_to_everybody(
    kafka: Kafka, pagerduty: PagerDutyReceiver, slack: SlackReceiver
) -> None:
    async with running(kafka, config(pagerduty, slack)):
        await send(kafka, alert(), rollback(), breaker(), resolved())
        await eventually(count(slack.messages, 4), "four messages")
        await eventually(count(pagerduty.seen, 4), "four events")
    assert sorted(pagerduty.told) == [
        ("breaker/support-bot/openai/gpt-5", "triggered"),
        ("rollback/support-bot/d1", "triggered"),
        ("support-bot/error_rate/1", "resolved"),
    ]
    assert [title for title in titles(slack) if title in (FIRING, RESOLVED)] == [FIRING, RESOLVED]


async def test_a_copy_is_told_once_even_after_a_restart(kafka: Kafka, slack: SlackReceiver) -> None:
    async with running(kafka, config(slack)):
        await send(kafka, alert(), alert())
        await eventually(count(slack.messages, 1), "a message")
    async with running(kafka, config(slack)):
        await send(kafka, alert(), alert(id="a2"))
        await eventually(count(slack.messages, 2), "the new alert")
    assert titles(slack) == [FIRING] * 2
    assert len(slack.seen) == 2


async def test_what_came_while_it_was_down_is_told(kafka: Kafka, slack: SlackReceiver) -> None:
    async with running(kafka, config(slack)):
        await send(kafka, alert())
        await eventually(count(slack.messages, 1), "a message")
    await send(kafka, resolved())
    async with running(kafka, config(slack), later=True):
        await eventually(count(slack.messages, 2), "that it is over")
    assert titles(slack) == [FIRING, RESOLVED]


async def started(kafka: Kafka, topic: str) -> bool:
    """Whether PagerDuty's group has an offset everywhere: from then on nothing is old news of a first start."""
    options = kafka.config.client_options()
    consumer = AIOKafkaConsumer(**options, group_id=f"{kafka.config.prefix}.notify.pagerduty", enable_auto_commit=False)
    await consumer.start()
    try:
        partitions = [TopicPartition(topic, number) for number in range(kafka.config.partitions)]
        consumer.assign(partitions)
        return all([await consumer.committed(tp) is not None for tp in partitions])
    finally:
        await consumer.stop()


async def test_a_first_start_tells_of_open_episodes_only(kafka: Kafka, pagerduty: PagerDutyReceiver) -> None:
    await send(kafka, rollback())
    for number in range(50):
        await send(kafka, alert(id=f"a{number}", dedup_key=f"k{number}"))
        if number != 30:
            await send(kafka, resolved(id=f"a{number}", dedup_key=f"k{number}"))
    async with running(kafka, config(pagerduty), later=True):
        await eventually(count(pagerduty.alerts, 1), "a page")
        await eventually(lambda: started(kafka, kafka.topics.rollbacks), "the end of the first start")
        await send(kafka, rollback(deployment_id="d2", id="r2"))
        await eventually(count(pagerduty.alerts, 2), "a page")
    assert sorted(pagerduty.told) == [("k30", "triggered"), ("rollback/support-bot/d2", "triggered")]


async def test_a_copy_of_the_beginning_does_not_hide_the_end(kafka: Kafka, pagerduty: PagerDutyReceiver) -> None:
    async with running(kafka, config(pagerduty)):
        await send(kafka, alert())
        await eventually(count(pagerduty.alerts, 1), "a page")
    await send(kafka, alert(), resolved())  # the monitor had crashed, and published the first once more
    async with running(kafka, config(pagerduty), later=True):
        await eventually(count(pagerduty.seen, 2), "that it is over")
    assert pagerduty.told == [("support-bot/error_rate/1", "resolved")]


async def test_one_that_refuses_does_not_keep_the_other_from_knowing(
    kafka: Kafka, pagerduty: PagerDutyReceiver, slack: SlackReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    slack.faults.extend([Answer(404, "no_service")] * 2)
    async with running(kafka, config(pagerduty, slack)):
        await send(kafka, alert(), resolved(), alert(id="a2"))
        await eventually(count(slack.messages, 1), "the third message")
        await eventually(count(pagerduty.seen, 3), "three events")
    assert [alert.status for alert in pagerduty.alerts] == ["resolved", "triggered"]
    ours = [record for record in caplog.records if record.name == "driftline.streams.notify"]
    errors = [record.message for record in ours if record.levelno == logging.ERROR]
    assert errors == [
        f"slack has not been told of alert/a1 (a1/{state}): Slack: HTTP 404: no_service"
        for state in ("firing", "resolved")
    ]


async def test_one_that_is_down_does_not_hold_up_the_other_and_is_told_in_order_later(
    kafka: Kafka, pagerduty: PagerDutyReceiver, slack: SlackReceiver
) -> None:
    slack.faults.extend([Answer(503)] * 1_000_000)
    async with running(kafka, config(pagerduty, slack)):
        await send(kafka, alert(), resolved())
        await eventually(count(pagerduty.seen, 2), "both events")
        await eventually(count(slack.seen, 3), "tries")
        assert slack.messages == []
        slack.faults.clear()
        await eventually(count(slack.messages, 2), "both messages")
    assert titles(slack) == [FIRING, RESOLVED]


async def test_what_could_not_be_told_before_a_stop_is_told_after_the_next_start(
    kafka: Kafka, slack: SlackReceiver
) -> None:
    slack.faults.extend([Answer(503)] * 1_000_000)
    async with running(kafka, config(slack)):
        await send(kafka, alert())
        await eventually(count(slack.seen, 1), "a try")
    slack.faults.clear()
    async with running(kafka, config(slack)):
        await eventually(count(slack.messages, 1), "the message")
    assert titles(slack) == [FIRING]


@on_each_broker
async def test_a_stop_in_the_middle_repeats_nothing_that_was_told(kafka: Kafka, slack: SlackReceiver) -> None:
    down = Answer(503)
    slack.faults.extend([Answer(200), *[down] * 1_000_000])
    await send(kafka, alert(), resolved())
    async with running(kafka, config(slack)):
        await eventually(count(slack.seen, 3), "the second to be tried again")
    slack.faults.clear()
    async with running(kafka, config(slack)):
        await eventually(count(slack.messages, 1), "the second message")
    assert titles(slack) == [RESOLVED]  # the first was taken before the receiver went down


async def test_giving_up_is_said_and_the_next_is_told(
    kafka: Kafka, slack: SlackReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    slack.faults.append(Answer(429, headers={"Retry-After": "86400"}))
    async with running(kafka, config(slack)):
        await send(kafka, alert(), resolved())
        await eventually(count(slack.messages, 1), "the second message")
    assert titles(slack) == [RESOLVED]
    assert "slack has not been told of alert/a1 (a1/firing): Slack: HTTP 429" in caplog.text


async def test_a_record_that_cannot_be_read_is_said_and_skipped(
    kafka: Kafka, slack: SlackReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    for value in (b"\xff{", b'{"type":"window"}', None):
        await kafka.send(kafka.topics.alerts, value, key=b"support-bot")
    await send(kafka, alert())
    async with running(kafka, config(slack)):
        await eventually(count(slack.messages, 1), "a message")
    assert [record.levelname for record in caplog.records if "cannot be told" in record.message] == ["ERROR"] * 3


@on_each_broker
async def test_two_instances_share_the_work(kafka: Kafka, slack: SlackReceiver) -> None:
    ids = [f"a{number}" for number in range(20)]
    async with running(kafka, config(slack)):
        for id_ in ids[:10]:
            await kafka.send(kafka.topics.alerts, encode(alert(id=id_)), partition=int(id_[1:]) % 2)
        await eventually(count(slack.messages, 5), "some messages")
        async with running(kafka, config(slack)):
            for id_ in ids[10:]:
                await kafka.send(kafka.topics.alerts, encode(alert(id=id_)), partition=int(id_[1:]) % 2)
            await eventually(count(slack.messages, 15), "more messages")
        await eventually(count(slack.messages, 20), "all messages")
    assert len(slack.messages) <= 21  # one may be under way in a rebalance


async def test_a_mistake_in_one_notice_does_not_stop_the_next(
    kafka: Kafka, slack: SlackReceiver, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from driftline.sinks.notify import slack as module

    render = module.render

    def broken(notice: Notice) -> dict[str, Any]:
        if isinstance(notice, Alert) and notice.state == "firing":
            raise ZeroDivisionError
        return render(notice)

    monkeypatch.setattr(module, "render", broken)
    async with running(kafka, config(slack)):
        await send(kafka, alert(), resolved())
        await eventually(count(slack.messages, 1), "the second message")
    assert "slack has not been told of alert/a1 (a1/firing): ZeroDivisionError" in caplog.text


async def test_it_says_when_it_is_ready(
    kafka: Kafka, slack: SlackReceiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(READY_FILE, str(tmp_path / "ready"))

    async def ready() -> bool:
        return (tmp_path / "ready").exists()

    async with running(kafka, config(slack)):
        await eventually(ready, "the ready file")


async def test_nobody_to_tell_stops_the_start(kafka: Kafka) -> None:
    with pytest.raises(ConfigError, match="nobody to tell"):
        await run_notify(kafka.config, kafka.topics, NotifyConfig(log=False), stop=asyncio.Event())


async def test_a_receiver_that_is_down_is_a_problem_of_which_it_tells_until_it_is_up(
    kafka: Kafka, slack: SlackReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(role, "PATIENCE_S", 0.0)
    labels = {"consumer": "notify.slack"}

    def delivered() -> float:
        return REGISTRY.get_sample_value("driftline_notices_delivered_total", labels) or 0.0

    def repeated() -> float:
        return REGISTRY.get_sample_value("driftline_dropped_total", {**labels, "reason": "repeated"}) or 0.0

    before = (delivered(), repeated())
    health = Health("notify")
    slack.faults.extend([Answer(503)] * 1_000_000)
    async with running(kafka, config(slack), health=health):

        async def ready() -> bool:
            return health.ready

        async def unhealthy() -> bool:
            return bool(health.problems)

        async def counted() -> bool:
            return (delivered() - before[0], repeated() - before[1]) == (1, 1)

        await eventually(ready, "it has its partitions")
        await send(kafka, alert(), alert())
        await eventually(unhealthy, "slack takes nothing")
        assert health.problems[0].what.startswith("slack has not been told of alert/a1: ")
        assert "[notify]" in health.problems[0].do
        slack.faults.clear()
        await eventually(count(slack.messages, 1), "the message")
        await eventually(counted, "one delivered, one repeated")
        assert health.problems == []
        assert health.ready

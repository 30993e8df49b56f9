"""Targets that fold nothing: records of the state topic, control records, what notifiers render, what the SDK hears."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import msgspec
from aiokafka import ConsumerRecord

from benchmarks.fuzz import data
from benchmarks.fuzz.data import Choices
from driftline.producers import ProducerConfig, SignalListener
from driftline.schemas.codec import DecodeError, decode_logged, encode, encode_event
from driftline.schemas.errors import PermanentError
from driftline.schemas.events import BaselineSet, Forwarded, Tick
from driftline.schemas.results import Alert, BreakerSignal, RollbackSignal
from driftline.schemas.topics import Topics
from driftline.sinks.notify import log, pagerduty, slack, webhook
from driftline.sinks.notify.base import Notice, dedup_key, episode, notice_id, phase
from driftline.streams.runtime import state as states

TOPICS = Topics("fuzz")
PARTITIONS = 4


def _info(type_: type) -> Any:
    return msgspec.inspect.type_info(type_)


def state(raw: bytes) -> None:
    """Records of the state topic: a state, or a `PermanentError` that says why not; never other bytes than were
    written."""
    choices = Choices(raw)
    skipped = tuple(states.Skipped(choices.number(100), choices.number(2**40)) for _ in range(choices.number(3)))
    written = states.State(choices.number(2**40), {"t": choices.number(100)}, choices.bytes(255), skipped, fold="drift")
    value = asyncio.run(states.encode(written))
    assert states.decode(value, "drift") == written, "a state does not survive"
    for record in (raw, data.damaged(value, choices), value[: choices.number(len(value))]):
        with contextlib.suppress(PermanentError):
            assert states.decode(record).snapshot in (written.snapshot, b""), "other bytes than were written"
        with contextlib.suppress(DecodeError):
            states.decode_note(record)


def controls(raw: bytes) -> None:
    """Control records of any shape: signed by us they are taken, changed in a byte or for another partition not."""
    choices = Choices(raw)
    type_ = choices.of((Tick, BaselineSet, Forwarded))
    control = data.value(_info(type_), choices)
    partition = choices.number(PARTITIONS)
    value = encode_event(TOPICS.controls.signed(control, partition))
    for record in (raw, data.damaged(value, choices), value):
        for number in range(PARTITIONS):
            events, rejects = TOPICS.controls.decode(decode_logged, record, number)
            ours = [event for event in events if isinstance(event, Tick | BaselineSet | Forwarded)]
            assert all(TOPICS.controls.is_ours(event, number) for event in ours), "a control of others is taken"
            if record is value and number != partition:
                assert ours == [], "a control of another partition is taken"
            assert all(reject.reason for reject in rejects)


_RENDERED: tuple[Callable[[Notice], object], ...] = (
    notice_id, episode, dedup_key, phase, log.render, slack.render,
    lambda notice: pagerduty.render(notice, {}), lambda notice: webhook.render(notice, "driftline"),
)  # fmt: skip


def notices(raw: bytes) -> None:
    """What notifiers make of transitions at the edges of their types: JSON, one line in the log."""
    choices = Choices(raw)
    while choices:
        notice: Notice = data.value(_info(choices.of((Alert, RollbackSignal, BreakerSignal))), choices)
        for render in _RENDERED:
            msgspec.json.encode(render(notice))
        assert "\n" not in log.render(notice), "more than a line in the log"


def listener(raw: bytes) -> None:
    """The SDK's listener: whatever comes, and whatever the application's own code raises, it goes on."""

    def raises(signal: object) -> None:
        raise RuntimeError("of the application")

    heard = SignalListener(ProducerConfig(app="a", topic_prefix="fuzz"), on_rollback=raises, on_breaker=raises)
    choices = Choices(raw)
    made = [encode(data.value(_info(type_), choices)) for type_ in (RollbackSignal, BreakerSignal)]
    for topic in (TOPICS.rollbacks, TOPICS.breakers):
        for value in (raw, None, b"", *made, *(data.damaged(value, choices) for value in made)):
            heard._take(ConsumerRecord(topic, 0, 0, 0, 0, None, value, None, 0, len(value or b""), ()))

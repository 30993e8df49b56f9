"""Numbers of silent streams are given to others: that changes nothing, whatever still has a number."""

from collections.abc import Callable, Sequence

import msgspec
import pytest

from driftline.detectors.config import DetectorsConfig
from driftline.schemas.codec import encode_events, pack
from driftline.schemas.events import MICROSECONDS, Event, Score, Tick, Trace
from driftline.schemas.results import Embedding, EmbeddingEvent, Result
from driftline.schemas.topics import Topics
from driftline.streams.fold import Fold
from driftline.streams.monitor.config import MonitorConfig
from driftline.streams.monitor.drift import DriftFold
from driftline.streams.monitor.fold import MonitorFold
from driftline.streams.monitor.watch import Streams
from driftline.streams.pricing import Pricer
from tests.streams.monitor.log import START, FakeRecord, run_log
from tests.streams.monitor.test_drift import VECTOR, embedding

DAY = 86_400
CONFIG = DetectorsConfig.model_validate({"units": {"forget_after_s": DAY, "close_after_s": DAY}})
LIVES = [  # (when in days, app): each is silent for longer than numbers are kept, then others come
    (0.0, "a"), (4.0, "b"), (4.0, "c"), (8.5, "a"), (8.5, "d"), (13.0, "b"), (17.0, "e"), (17.1, "a"), (17.1, "f"),
]  # fmt: skip


def ts(days: float) -> int:
    return START + round(days * DAY) * MICROSECONDS


def embeddings(days: float, app: str) -> list[EmbeddingEvent]:
    """Two of one conversation, which has the same name in every app, and one that is open when the app falls silent."""
    of = msgspec.structs.replace(embedding(0, 0), app=app, response=VECTOR, prompt_language="en")
    made: list[EmbeddingEvent] = []
    for i, conversation in enumerate(["1", "1", app]):
        at = ts(days) + i * MICROSECONDS
        made.append(msgspec.structs.replace(of, ts=at, trace_id=f"{days}{i}", conversation_id=conversation))
    return made


def events(days: float, app: str) -> list[Event]:
    made: list[Event] = []
    for i, conversation in enumerate(["1", "1", app]):
        at, id_ = ts(days) + i * MICROSECONDS, f"{days}{i}"
        made.append(Trace(app=app, ts=at, trace_id=id_, conversation_id=conversation, release="v1", latency_ms=1.0))
        made.append(
            Score(app=app, ts=at, id=id_, trace_id=id_, conversation_id=conversation, release="v1", name="n", value=0.5)
        )
    return made


def drift(topics: Topics) -> tuple[Fold, list[FakeRecord]]:
    return DriftFold(MonitorConfig(), CONFIG, topics, None), log(embeddings, pack)


def monitor(topics: Topics) -> tuple[Fold, list[FakeRecord]]:
    return MonitorFold(MonitorConfig(), CONFIG, topics, Pricer(), None), log(events, encode_events)


def log(
    made: Callable[[float, str], Sequence[Event | Embedding]], encode: Callable[[list[Event | Embedding]], bytes]
) -> list[FakeRecord]:
    """A tick each half day."""
    at = [(days, made(days, app)) for days, app in LIVES]
    at += [(half / 2 + 0.01, [Tick(ts=ts(half / 2 + 0.01))]) for half in range(44)]
    return [FakeRecord(i, encode(list(batch))) for i, (_, batch) in enumerate(sorted(at, key=lambda pair: pair[0]))]


@pytest.mark.parametrize("half", [drift, monitor])
async def test_an_app_that_gets_anothers_number_gets_nothing_else(
    topics: Topics, monkeypatch: pytest.MonkeyPatch, half: Callable[[Topics], tuple[Fold, list[FakeRecord]]]
) -> None:
    async def told() -> list[Result]:
        fold, records = half(topics)
        return sorted(await run_log(fold, records), key=lambda result: (result.app, str(result)))

    found = await told()
    monkeypatch.setattr(Streams, "tick", lambda *_: None)  # no number is ever given away
    expected = await told()
    assert found == expected
    assert {result.app for result in expected} >= {app for _, app in LIVES}

"""What each part makes of each type on the events topic, by trying. A new type fails here until it stands in the table,
with what it is to be, and each part does that."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, get_args

import msgspec
import pytest
from aiokafka import ConsumerRecord, TopicPartition

import driftline.schemas
from driftline.detectors.config import DetectorsConfig
from driftline.schemas import results
from driftline.schemas.baselines import Baseline
from driftline.schemas.codec import decode_events, embeddings_in, encode, encode_event, pack
from driftline.schemas.events import (
    CONTROLS,
    EVENT_TYPES,
    MICROSECONDS,
    BaselineSet,
    Forwarded,
    Logged,
    Release,
    Score,
    Tick,
    Trace,
)
from driftline.schemas.results import result_types
from driftline.schemas.topics import Topics
from driftline.sinks.clickhouse import tables
from driftline.streams.archive import Batch
from driftline.streams.commands import tail
from driftline.streams.embed.config import EmbedConfig
from driftline.streams.embed.embedder import CachedEmbedder
from driftline.streams.embed.fold import EmbedFold
from driftline.streams.intake import Intake
from driftline.streams.judge import JudgeConfig, JudgeFold, RelevanceJudge
from driftline.streams.monitor.config import MonitorConfig
from driftline.streams.monitor.drift import DriftFold
from driftline.streams.monitor.fold import MonitorFold
from driftline.streams.operate.comparison import SHAPES
from driftline.streams.operate.folds import STORED
from driftline.streams.operate.tally import Selection, Tally
from driftline.streams.poison import PoisonWatch
from driftline.streams.pricing import Pricer
from tests.sinks.clickhouse.samples import FULL
from tests.streams.embed.fakes import FakeEncoder

TS = 1_793_606_400 * MICROSECONDS
TOPICS = Topics("test")
TRACE = Trace(app="bot", ts=TS, trace_id="t", input_text="hello", output_text="hi")
[BASELINE] = [result for result in FULL if isinstance(result, Baseline)]


class Wiring(NamedTuple):
    archive: str  # the table of its rows; "": none
    monitor: str  # counts: is in windows; remembers; moves time
    embed: tuple[str, ...]  # what it sends on
    drift: str  # the same as of the monitor, of what embed sends on
    judge: str  # scores; moves time
    tally: str  # of reconcile: counts, adopts, moves time
    replay: str  # from ClickHouse: the view it is read from, or how it is there without
    tail: str  # how `driftline tail` calls it


WIRED: dict[type, tuple[Any, Wiring]] = {
    Trace: (
        TRACE,
        Wiring("traces_raw", "counts", ("embedding",), "remembers", "scores", "counts", "traces", "trace"),
    ),
    Score: (
        Score(app="bot", ts=TS, id="s", trace_id="t", name="n", value=0.5),
        Wiring("scores_raw", "counts", (), "", "", "counts", "scores", "score"),
    ),
    Release: (
        Release(app="bot", ts=TS, id="r", kind="deploy", release="v1"),
        Wiring("releases_raw", "remembers", ("release",), "remembers", "", "counts", "releases", "release"),
    ),
    Tick: (
        Tick(ts=TS),
        Wiring("", "moves time", ("tick",), "moves time", "moves time", "moves time", "made anew", "tick"),
    ),
    BaselineSet: (
        BaselineSet(app="bot", ts=TS, id="b", baseline=msgspec.structs.replace(BASELINE, detector="embedding_drift")),
        Wiring("", "remembers", ("baseline_set",), "remembers", "", "", "from baselines", "baseline_set"),
    ),
    Forwarded: (
        Forwarded(partition=1, offset=7, events=[TRACE]),
        Wiring("", "counts", ("embedding",), "remembers", "scores", "adopts", "its events are stored", ""),
    ),
}
WITHOUT_VIEW: dict[type, str] = {Tick: "made anew", BaselineSet: "from baselines", Forwarded: "its events are stored"}


@dataclass(frozen=True)
class Sent:
    offset: int
    value: bytes
    key: bytes | None = None
    timestamp: int = 0
    timestamp_type: int = 0


def logged(event: Any) -> bytes:
    [signed] = TOPICS.controls.all_signed([event], 0)
    return encode_event(signed)


def consumed(value: bytes) -> ConsumerRecord:
    return ConsumerRecord(TOPICS.events, 0, 0, 0, 0, b"bot", value, None, 3, len(value), ())


def archived(value: bytes) -> str:
    batch = Batch(TOPICS, Pricer(), PoisonWatch(10))
    batch.add(TopicPartition(TOPICS.events, 0), [consumed(value)])
    assert batch.letters == []
    return ",".join(batch.rows)


async def told(fold: Any, value: bytes, tick: bytes) -> str:
    """What a fold makes of a record; `counts`: a window has it when the tick has come."""
    await fold.absorb([Sent(0, b"[]" if isinstance(fold, MonitorFold) else pack([]))])
    before, watermark = fold.snapshot(), fold.watermark
    outputs = await fold.absorb([Sent(1, value)])
    assert fold.counters["undecodable"] == 0
    if fold.watermark != watermark:
        return "moves time"
    if isinstance(fold, JudgeFold):
        return "scores" if outputs else ""
    after = fold.snapshot()
    windows = [output for output in await fold.absorb([Sent(2, tick)]) if output.topic == TOPICS.windows]
    return "counts" if windows else "remembers" if after != before else ""


def tallied(value: bytes) -> str:
    tally = Tally(Selection(60), TOPICS)
    tally.add(0, [consumed(value)])
    assert not tally.rejects
    found = {"adopts": tally.adopted, "moves time": tally.ticks, "counts": tally.events}
    return next((what for what, there in found.items() if there), "")


async def wiring(type_: type, event: Any) -> Wiring:
    config, value = EmbedConfig(), logged(event)
    later = Tick(ts=TS + 600 * MICROSECONDS)
    monitor = MonitorFold(MonitorConfig(), DetectorsConfig(), TOPICS, Pricer(), None, partition=0)
    drift = DriftFold(MonitorConfig(), DetectorsConfig(), TOPICS, None)
    embed = EmbedFold(config, "e", CachedEmbedder(FakeEncoder(), config), None, Intake(TOPICS, 0), ahead_s=3600)
    judge = JudgeFold(JudgeConfig(), TOPICS.events, RelevanceJudge())
    outputs = await embed.absorb([Sent(0, value)])
    assert embed.counters["undecodable"] == 0
    sent = [item for output in outputs for item in embeddings_in(output.value).events]
    sent_on = pack(sent)
    views = {stored: view for view, stored in STORED.items()}
    tag = str(type_.__struct_config__.tag)  # type: ignore[attr-defined]  # they are structs
    return Wiring(
        archive=archived(value),
        monitor=await told(monitor, value, logged(later)),
        embed=tuple(str(type(item).__struct_config__.tag) for item in sent),
        drift=await told(drift, sent_on, pack([later])),
        judge=await told(judge, sent_on, pack([later])),
        tally=tallied(value),
        replay=views.get(type_) or WITHOUT_VIEW[type_],
        tail=tag if tag in tail.EVENTS else "",
    )


def test_every_type_stands_in_the_table() -> None:
    assert set(WIRED) == set(EVENT_TYPES)
    assert set(CONTROLS) == {type_ for type_, (_, wired) in WIRED.items() if not wired.archive}
    assert all(type(event) is type_ for type_, (event, _) in WIRED.items())


@pytest.mark.parametrize("type_", EVENT_TYPES, ids=lambda type_: type_.__name__)
async def test_each_part_does_with_it_what_the_table_says(type_: type) -> None:
    event, wired = WIRED[type_]
    assert await wiring(type_, event) == wired


def test_what_applications_send_has_an_example() -> None:
    examples = Path(driftline.schemas.__path__[0]) / "examples"
    shown = {type(event) for path in examples.glob("*.json") for event in decode_events(path.read_bytes()).events}
    assert shown == set(EVENT_TYPES) - set(CONTROLS)


class ResultWiring(NamedTuple):
    topic: str  # of Topics
    table: str  # where the archive puts it; "": nowhere
    replay: bool  # whether both runs are compared in it
    tail: bool  # whether `driftline tail` shows it


RESULTS: dict[type, ResultWiring] = {
    results.WindowStats: ResultWiring("windows", "windows_raw", replay=True, tail=True),
    results.LeftOut: ResultWiring("windows", "left_out_raw", replay=True, tail=True),
    results.Evidence: ResultWiring("evidence", "evidence_raw", replay=True, tail=True),
    results.Alert: ResultWiring("alerts", "alerts_raw", replay=True, tail=True),
    results.RollbackSignal: ResultWiring("rollbacks", "rollbacks_raw", replay=True, tail=True),
    results.BreakerSignal: ResultWiring("breakers", "breakers_raw", replay=True, tail=True),
    Baseline: ResultWiring("baselines", "baselines_raw", replay=False, tail=True),  # evidence tells of another one
    results.DeadLetter: ResultWiring("dlq", "dead_letters_raw", replay=False, tail=True),  # the archive's, not a fold's
    results.Progress: ResultWiring("progress", "", replay=False, tail=False),  # how far a fold has come
}


def test_every_result_stands_in_the_table() -> None:
    assert set(RESULTS) == set(results.RESULT_TYPES)


@pytest.mark.parametrize("type_", results.RESULT_TYPES, ids=lambda type_: type_.__name__)
def test_each_part_does_with_a_result_what_the_table_says(type_: type) -> None:
    wired = RESULTS[type_]
    topic, table = getattr(TOPICS, wired.topic), ""
    if topic in result_types(TOPICS):
        sample = next(result for result in FULL if type(result) is type_)
        batch = Batch(TOPICS, Pricer(), PoisonWatch(10))
        value = encode(sample)
        record = ConsumerRecord(topic, 0, 0, 0, 0, b"bot", value, None, 3, len(value), ())
        batch.add(TopicPartition(topic, 0), [record])
        assert batch.letters == []
        [table] = batch.rows
    view = table.removesuffix("_raw")
    tag = str(type_.__struct_config__.tag)  # type: ignore[attr-defined]  # they are structs
    assert ResultWiring(wired.topic, table, view in SHAPES, tag in tail.RESULTS) == wired
    assert not table or {table, view} <= set(tables.made())


def test_no_type_stands_in_one_list_alone() -> None:
    """Unions of types, which codecs take, and tuples of them, which tests and `driftline schema` go through."""
    assert types_in(Logged) == set(EVENT_TYPES)
    assert types_in(results.Result) | {results.DeadLetter, results.Progress} == set(results.RESULT_TYPES)
    published = set().union(*map(types_in, result_types(TOPICS).values()))
    assert published | {results.Progress} == set(results.RESULT_TYPES)


def types_in(union: Any) -> set[type]:
    return set(get_args(union) or (union,))

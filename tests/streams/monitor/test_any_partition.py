"""Whichever partition a producer chooses, each app is counted once, at home."""

from collections.abc import Sequence
from random import Random

import msgspec
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from driftline.detectors.config import DetectorsConfig
from driftline.schemas.codec import decode_logged, encode, encode_events
from driftline.schemas.events import MICROSECONDS, Event, Forwarded, Release, Score, Tick, Trace
from driftline.schemas.homes import home
from driftline.schemas.results import LeftOut, WindowStats
from driftline.schemas.topics import Topics
from driftline.streams.fold import Fold, Output
from driftline.streams.monitor.config import MonitorConfig
from driftline.streams.monitor.fold import monitor_fold_factory
from tests.streams.monitor.log import START, FakeRecord

HOMES = 3
TOPICS = Topics("test", homes=HOMES)
APPS = ("a", "b", "c", "d", "bot")


_results: msgspec.json.Decoder[WindowStats | LeftOut] = msgspec.json.Decoder(WindowStats | LeftOut)


class Cluster:
    """All partitions of the events topic, each with its fold; what a fold publishes there comes back."""

    def __init__(self, partitions: int = HOMES) -> None:
        self.make = monitor_fold_factory(MonitorConfig(), DetectorsConfig(), TOPICS)
        self.folds: list[Fold] = [self.make(number, None) for number in range(partitions)]
        self.logs: list[list[FakeRecord]] = [[] for _ in range(partitions)]
        self.absorbed = [0] * partitions
        self.results: list[Output] = []

    def append(self, partition: int, value: bytes) -> None:
        log = self.logs[partition]
        log.append(FakeRecord(len(log), value))

    def send(self, partition: int, events: Sequence[Event]) -> None:
        self.append(partition, encode_events(TOPICS.controls.all_signed(events, partition)))

    async def work(self, partition: int, *, dies: bool = False) -> None:
        """`dies`: after publishing and before its state is written, so all of it is done again."""
        before = self.folds[partition].snapshot()
        for output in await self.folds[partition].absorb(self.logs[partition][self.absorbed[partition] :]):
            if output.topic == TOPICS.events:
                assert output.partition is not None
                self.append(output.partition, output.value)
            else:
                assert output.partition is None
                self.results.append(output)
        if dies:
            self.folds[partition] = self.make(partition, before)
        else:
            self.absorbed[partition] = len(self.logs[partition])

    async def finish(self, ts: int) -> dict[str, bytes]:
        for _ in range(2):
            for partition in range(len(self.folds)):
                await self.work(partition)
        for partition in range(len(self.folds)):
            self.send(partition, [Tick(ts=ts)])
            await self.work(partition)
        windows = [_results.decode(output.value) for output in self.results if output.topic == TOPICS.windows]
        return {w.id: encode(_without_place(w)) for w in windows}


def _without_place(result: WindowStats | LeftOut) -> WindowStats | LeftOut:
    return msgspec.structs.replace(result, revision=0)


def event_of(kind: type, app: str, second: int, number: int) -> Trace | Score:
    """Copies are equal but for the time, as of which of them is the first nobody can say."""
    ts = START + second * MICROSECONDS
    if kind is Trace:
        return Trace(app=app, ts=ts, trace_id=str(number), latency_ms=float(number))
    return Score(app=app, ts=ts, id=str(number), trace_id="t", name="n", value=float(number))


EVENTS = st.lists(
    st.builds(
        event_of, st.sampled_from((Trace, Score)), st.sampled_from(APPS), st.integers(0, 200), st.integers(0, 20)
    ),
    max_size=20,
)


@settings(max_examples=40, phases=(Phase.generate,))
@given(
    st.lists(st.tuples(EVENTS, st.integers(0, HOMES), st.booleans()), max_size=5),
    st.randoms(use_true_random=False),
)
async def test_windows_are_those_of_keyed_producers(
    steps: list[tuple[list[Trace | Score], int, bool]], random: Random
) -> None:
    keyed, foreign = Cluster(HOMES + 1), Cluster(HOMES + 1)
    for events, partition, dies in steps:
        for event in events:
            keyed.send(home(event.app, HOMES), [event])
        cut = random.randint(0, len(events))
        foreign.send(partition, events[:cut])  # arrays that mix apps
        for event in events[cut:]:
            foreign.send(random.randint(0, HOMES), [event])
        await foreign.work(partition, dies=dies)
    end = START + 400 * MICROSECONDS
    assert await foreign.finish(end) == await keyed.finish(end)


def forwarded(outputs: Sequence[Output]) -> list[Forwarded]:
    found = []
    for output in outputs:
        if output.topic == TOPICS.events:
            assert output.partition is not None
            decoded = TOPICS.controls.decode(decode_logged, output.value, output.partition)
            found += [event for event in decoded.events if isinstance(event, Forwarded)]
            assert not decoded.rejects
    return found


def elsewhere() -> tuple[str, int]:
    """An app, and a partition that is not its home."""
    return "a", (home("a", HOMES) + 1) % HOMES


async def test_a_release_and_a_trace_go_home_as_they_came() -> None:
    app, partition = elsewhere()
    fold = monitor_fold_factory(MonitorConfig(), DetectorsConfig(), TOPICS)(partition, None)
    events = [
        Trace(app=app, ts=START, trace_id="t", attributes={"x": 1}),
        Release(app=app, ts=START, id="r", kind="deploy", release="v2"),
    ]
    [found] = forwarded(await fold.absorb([FakeRecord(5, encode_events(events))]))
    assert (found.partition, found.offset, found.events) == (partition, 5, events)
    assert fold.counters["forwarded"] == 2
    assert fold.counters["adopted"] == 0


async def test_what_is_large_goes_in_parts_and_what_is_huge_without_its_end() -> None:
    app, partition = elsewhere()
    fold = monitor_fold_factory(MonitorConfig(), DetectorsConfig(), TOPICS)(partition, None)
    events = [Trace(app=app, ts=START, trace_id=str(n), input_text="x" * 600_000) for n in range(3)]
    events.append(Trace(app=app, ts=START, trace_id="huge", input_text="é" * 7_000_000))
    outputs = await fold.absorb([FakeRecord(0, encode_events(events))])
    assert max(len(output.value) for output in outputs) < 1_100_000
    found = forwarded(outputs)
    assert [f.part for f in found] == list(range(len(found)))
    together = [event for f in found for event in f.events]
    assert [event.trace_id for event in together if isinstance(event, Trace)] == ["0", "1", "2", "huge"]
    assert together[:3] == events[:3]


async def test_a_forged_forward_counts_nothing() -> None:
    app, partition = elsewhere()
    fold = monitor_fold_factory(MonitorConfig(), DetectorsConfig(), TOPICS)(home(app, HOMES), None)
    forged = Forwarded(partition=partition, offset=0, events=[Trace(app=app, ts=START, trace_id="t")])
    await fold.absorb([FakeRecord(0, encode(forged))])
    assert fold.counters["undecodable"] == 1
    assert fold.counters["adopted"] == 0


async def test_a_forged_tick_moves_no_time() -> None:
    fold = monitor_fold_factory(MonitorConfig(), DetectorsConfig(), TOPICS)(0, None)
    await fold.absorb([FakeRecord(0, encode(Tick(ts=START)))])
    assert fold.watermark is None
    assert fold.counters["undecodable"] == 1

"""A record that ends a role, whatever ends it, ends it only a few times; the others are absorbed once."""

import itertools
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftline.schemas.clock import ManualClock
from driftline.schemas.codec import decode, encode_event
from driftline.schemas.errors import ConfigError, PermanentError, RetryableError
from driftline.schemas.events import EARLIEST_TS, Trace
from driftline.schemas.results import Alert, DeadLetter
from driftline.schemas.topics import Topics
from driftline.streams.fold import Output, Record
from driftline.streams.runtime import quarantine
from driftline.streams.runtime import state as states
from driftline.streams.runtime.config import KafkaConfig
from driftline.streams.runtime.partition import Partition, Surroundings
from driftline.streams.runtime.quarantine import REASON_CHARS, Raised, reason
from driftline.streams.runtime.transport import Run

TOPICS = Topics("t")


class Killed(BaseException):
    """The process is gone."""


class Got(NamedTuple):
    offset: int
    value: bytes = b"good"
    key: bytes | None = b"bot"
    timestamp: int = 1_790_000_000_000
    timestamp_type: int = 0


class Ack(NamedTuple):
    topic: str
    offset: int


class Absorbed:
    """Remembers what it absorbed. One that raised on a record has absorbed what came before it."""

    watermark = None

    def __init__(self, snapshot: bytes | None) -> None:
        self.offsets: list[int] = msgspec.json.decode(snapshot) if snapshot else []
        self.counters: dict[str, int] = {}

    async def absorb(self, records: Sequence[Record]) -> list[Output]:
        for record in records:
            match record.value:
                case b"raises":
                    raise RecursionError("too deep")
                case b"kills":
                    raise Killed
                case b"is large":
                    raise MemoryError
                case b"waits":
                    raise RetryableError("Kafka is away")
                case b"is refused":
                    raise ConfigError("kafka.brokers")
            self.offsets.append(record.offset)
        return [Output(TOPICS.windows, None, b"%d" % record.offset) for record in records]

    def snapshot(self) -> bytes:
        return msgspec.json.encode(self.offsets)


class World:
    """A source partition, its state topic, and a role that is started again and again."""

    def __init__(self, values: Sequence[bytes], run: int = 4, save_every: int = 1_000, limit: int = 100) -> None:
        self.records = [Got(offset, value) for offset, value in enumerate(values)]
        self.run = run
        self.topic: list[Output] = []  # the state topic's partition
        self.results: list[Output] = []
        self.told: list[str] = []
        self.deaths = 0
        self.raised = 0
        self.clock = ManualClock(0)
        self.config = KafkaConfig(checkpoint_records=save_every, quarantine_limit=limit)
        self.killed_at = -1  # write to the state topic: the process is gone after it

    async def send(self, outputs: Sequence[Output], partition: int) -> list[Ack]:
        acks = []
        for output in outputs:
            to = self.topic if output.topic == TOPICS.state("fold") else self.results
            to.append(output)
            acks.append(Ack(output.topic, len(to) - 1))
        if len(self.topic) == self.killed_at:
            self.killed_at = -1
            raise Killed
        return acks

    def start(self) -> tuple[Partition, Absorbed]:
        at = max((i for i, output in enumerate(self.topic) if output.key == b"p0"), default=states.NOWHERE)
        note = states.decode_note(self.topic[-1].value) if self.topic and self.topic[-1].key == b"n0" else None
        assert note is None or note.state_at == at, "a note says where its state is"
        state = states.State(-1, {}, b"") if at < 0 else states.decode(self.topic[at].value)
        fold = Absorbed(state.snapshot or None)
        around = Surroundings(
            self.config, TOPICS, self.clock, self.send, lambda _: True, lambda *_: None,
            {topic.name: topic.max_message_bytes for topic in TOPICS.all()},
            lambda key, what, do: self.told.append(what),
        )  # fmt: skip
        return Partition("src", 0, 1, "fold", fold, state, around, note, at), fold

    async def live(self, starts: int = 100) -> list[int]:
        """Started again whenever it ends, until all is absorbed: what the last state has absorbed."""
        for _ in range(starts):
            partition, fold = self.start()
            try:
                while partition.offset < len(self.records) - 1:
                    first = partition.offset + 1
                    records = self.records[first : first + self.run]
                    await partition.take(Run("src", 0, 1, first, records), lambda: None)
                await partition.save()
                return fold.offsets
            except (Killed, MemoryError):
                self.deaths += 1
            except Raised:
                self.raised += 1
        pytest.fail(f"not through after {starts} starts")

    def published(self, topic: str) -> list[bytes]:
        return [output.value for output in self.results if output.topic == topic]

    @property
    def letters(self) -> list[DeadLetter]:
        return [decode(value, DeadLetter) for value in self.published(TOPICS.dlq)]


def values(*bad: int, of: int = 20, kind: bytes = b"raises") -> list[bytes]:
    return [kind if i in bad else b"good" for i in range(of)]


async def test_a_record_that_raises_is_put_aside_with_its_traceback_and_the_others_go_on() -> None:
    world = World(values(9))
    assert await world.live() == [i for i in range(20) if i != 9]
    assert world.deaths == 0, "no process ended"
    [letter] = world.letters
    assert (letter.topic, letter.partition, letter.offset, letter.role) == ("src", 0, 9, "fold")
    assert (letter.raw, letter.key) == (b"raises", b"bot")
    assert "RecursionError: too deep" in letter.reason
    assert "in absorb" in letter.reason
    assert {int(value) for value in world.published(TOPICS.windows)} == set(range(20)) - {9}
    assert world.told == ["fold goes on without 1 records of src[0] that ended it, the last at offset 9"]


async def test_the_state_after_a_record_put_aside_has_its_time() -> None:
    """By it retention is told from a log that was made anew."""
    world = World(values(3, of=4), run=1)
    world.records = [record._replace(timestamp=record.timestamp + record.offset) for record in world.records]
    await world.live()
    [at_3] = {
        (s.offset, s.timestamp) for o in world.topic if o.key == b"p0" if (s := states.decode(o.value)).offset == 3
    }
    assert at_3 == (3, world.records[3].timestamp)


@pytest.mark.parametrize("kind", [b"kills", b"is large"])
async def test_a_record_that_kills_is_put_aside_after_four_deaths(kind: bytes) -> None:
    """One of an unknown run, one of a run, two of the record alone."""
    world = World([b"good"] * 8, save_every=1)
    await world.live()
    world.records += [Got(8 + i, value) for i, value in enumerate(values(3, kind=kind))]
    assert await world.live() == [i for i in range(28) if i != 11]
    assert world.deaths <= 4
    [letter] = world.letters
    assert letter.offset == 11
    assert "killed, out of memory, or standing still" in letter.reason


async def test_an_alert_says_so_under_the_apps_name_where_that_is_readable() -> None:
    world = World(values(2))
    world.records[2] = Got(2, encode_event(Trace(app="shop", ts=1_790_000_000_000_000, trace_id="t")))
    partition, _ = world.start()
    await partition._quarantine(world.records[2], "ValueError: no")
    [alert] = [decode(value, Alert) for value in world.published(TOPICS.alerts)]
    assert (alert.app, alert.rule, alert.severity, alert.state) == ("shop", "quarantine", "error", "firing")
    assert alert.ts == 1_790_000_000_000_000
    assert "offset 2" in alert.summary
    assert "ValueError: no" in alert.description


async def test_a_record_that_kills_is_not_read_again_for_its_alert() -> None:
    world = World([b"kills"])
    await world.live()
    assert [decode(value, Alert).app for value in world.published(TOPICS.alerts)] == ["(driftline)"]


@pytest.mark.parametrize("kind", [b"raises", b"kills"])
async def test_bad_ones_among_good_ones_are_found_each(kind: bytes) -> None:
    world = World(values(0, 5, 6, 19, kind=kind), run=7)
    assert await world.live() == [i for i in range(20) if i not in (0, 5, 6, 19)]
    assert sorted({letter.offset for letter in world.letters}) == [0, 5, 6, 19]
    assert len({letter.id for letter in world.letters}) == 4


@pytest.mark.parametrize(("kind", "error"), [(b"waits", RetryableError), (b"is refused", ConfigError)])
async def test_what_passes_by_itself_and_settings_are_no_records_fault(kind: bytes, error: type[Exception]) -> None:
    world = World(values(3, kind=kind))
    for _ in range(10):
        partition, _ = world.start()
        with pytest.raises(error):
            await partition.take(Run("src", 0, 1, 0, world.records), lambda: None)
    assert world.letters == []
    world.records[3] = Got(3)
    assert await world.live() == list(range(20))


async def test_a_process_that_is_killed_between_absorbing_and_publishing_blames_nobody() -> None:
    world = World(values())
    partition, _ = world.start()

    async def dies(outputs: Sequence[Output], number: int) -> list[Ack]:
        if outputs[0].topic == TOPICS.windows:
            raise Killed
        return await world.send(outputs, number)

    for _ in range(10):
        partition, _ = world.start()
        partition._around = replace(partition._around, send=dies)
        with pytest.raises(Killed):
            await partition.take(Run("src", 0, 1, 0, world.records[:4]), lambda: None)
    assert await world.live() == list(range(20))
    assert world.letters == []


async def test_a_stop_that_was_asked_for_blames_nobody() -> None:
    world = World(values(3, kind=b"kills"))
    for _ in range(6):
        partition, _ = world.start()
        with pytest.raises(Killed):
            await partition.take(Run("src", 0, 1, 0, world.records), lambda: None)
        await partition.close_note()
    assert world.letters == []


async def test_more_than_records_can_be_at_fault_for_stops_the_role() -> None:
    world = World([b"raises"] * 20, limit=5)
    with pytest.raises(PermanentError, match=r"put 5 records .* Install a Driftline .* RecursionError: too deep$"):
        await world.live()
    assert {letter.offset for letter in world.letters} == {0, 1, 2, 3, 4}


async def test_what_was_put_aside_long_ago_does_not_count() -> None:
    world = World([b"raises"] * 20, limit=1)
    world.records = [
        record._replace(timestamp=record.timestamp + 3_600_001 * record.offset) for record in world.records
    ]
    assert await world.live() == []
    assert len({letter.offset for letter in world.letters}) == 20


async def test_a_healthy_role_writes_notes_until_its_first_state_and_never_again() -> None:
    world = World([b"good"] * 40, run=2, save_every=4)
    await world.live()
    keys = [output.key for output in world.topic]
    assert keys[: keys.index(b"p0")] == [b"n0"] * 4, "two runs, each noted and closed"
    assert set(keys[keys.index(b"p0") :]) == {b"p0"}


async def test_the_skip_is_part_of_the_state() -> None:
    world = World(values(9))
    await world.live()
    newest = states.decode(world.topic[-1].value)
    assert [skip.offset for skip in newest.skipped] == [9]


async def test_what_is_known_to_be_good_is_absorbed_once_more_and_not_with_each_try() -> None:
    world = World(values(17, kind=b"kills"))
    await world.live()
    assert [int(value) for value in world.published(TOPICS.windows)].count(0) <= 2


@given(
    bad=st.dictionaries(st.integers(0, 29), st.sampled_from([b"raises", b"kills"]), max_size=4),
    run=st.integers(1, 9),
    save_every=st.integers(1, 12),
    deaths=st.lists(st.integers(1, 25), max_size=3),
)
async def test_whatever_dies_when_each_good_record_counts_once_and_each_bad_one_is_a_letter(
    bad: dict[int, bytes], run: int, save_every: int, deaths: list[int]
) -> None:
    """Also with kill -9 after any write, as long as it does not hit the same record alone twice."""
    world = World([bad.get(i, b"good") for i in range(30)], run, save_every)
    for after in itertools.accumulate(deaths):
        world.killed_at = len(world.topic) + after
        partition, _ = world.start()
        first = partition.offset + 1
        with suppress(Killed, Raised, IndexError):
            await partition.take(Run("src", 0, 1, first, world.records[first : first + run]), lambda: None)
        world.killed_at = -1
        world.topic.append(Output(TOPICS.state("fold"), b"n0", states.encode_note(closed(world))))
    assert await world.live() == [i for i in range(30) if i not in bad]
    assert {letter.offset for letter in world.letters} == set(bad)


def closed(world: World) -> states.Note:
    at = max((i for i, output in enumerate(world.topic) if output.key == b"p0"), default=states.NOWHERE)
    return states.Note(at, 0, -1)


def test_a_reason_is_bounded_and_keeps_the_end() -> None:
    text = reason(ValueError("x" * 100_000 + "the end"))
    assert len(text) == REASON_CHARS + 1
    assert text.endswith("the end")


@pytest.mark.parametrize("timestamp", [-1, 0, 2**62, 1_790_000_000, 1_790_000_000_000_000])
def test_an_alert_of_a_record_with_a_timestamp_that_says_nothing_can_be_stored(timestamp: int) -> None:
    """Where the topic keeps its producers' times."""
    alert = quarantine.alert("fold", "src", 0, Got(9, timestamp=timestamp), "bot", "")
    assert alert.ts == alert.since == EARLIEST_TS

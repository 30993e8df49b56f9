"""The checkpoint cycle of one partition, without a broker: its order, and when it must stop."""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

import pytest
from prometheus_client import REGISTRY

from driftline.schemas.clock import ManualClock
from driftline.schemas.codec import decode
from driftline.schemas.errors import PermanentError, RetryableError
from driftline.schemas.results import DeadLetter, Progress
from driftline.schemas.topics import Topics
from driftline.streams.fold import Output, Record
from driftline.streams.runtime import state as states
from driftline.streams.runtime.config import KafkaConfig
from driftline.streams.runtime.lost import Gap
from driftline.streams.runtime.partition import Partition, Step, Surroundings
from driftline.streams.runtime.quarantine import Raised, suspects
from driftline.streams.runtime.transport import Run

TOPICS = Topics("t")


class Got(NamedTuple):
    offset: int
    key: bytes | None = None
    value: bytes | None = b""
    timestamp: int = 1_793_606_400_000
    timestamp_type: int = 0


class Ack(NamedTuple):
    topic: str
    offset: int


class Numbers:
    """Publishes each record's offset; a record with value "tick" moves the watermark instead, "bad" raises when it is
    absorbed."""

    def __init__(self) -> None:
        self.absorbed: list[int] = []
        self.watermark: int | None = None
        self.counters: dict[str, int] = {"odd": 0}

    async def absorb(self, records: Sequence[Record]) -> list[Output]:
        self.absorbed += [record.offset for record in records]
        if any(record.value == b"bad" for record in records):
            raise ValueError("bad")
        self.counters["odd"] += sum(record.offset % 2 for record in records)
        if any(record.value == b"tick" for record in records):
            self.watermark = records[-1].offset
            return []
        return [Output(TOPICS.windows, None, b"%d" % record.offset) for record in records if record.value]

    def snapshot(self) -> bytes:
        return repr(self.absorbed).encode()


class Slow(Numbers):
    def __init__(self) -> None:
        super().__init__()
        self.begun, self.go_on = asyncio.Event(), asyncio.Event()

    async def absorb(self, records: Sequence[Record]) -> list[Output]:
        self.begun.set()
        await self.go_on.wait()
        return await super().absorb(records)


class Bench:
    """A partition at offset 9, and what it did in order."""

    def __init__(self, epoch: int = 1, checkpoint_records: int = 1_000, fold: "Numbers | None" = None) -> None:
        self.log: list[str] = []
        self.sent: list[Output] = []
        self.notes: list[states.Note] = []
        self.clock = ManualClock(1_793_606_400_000_000)
        self.revoke_after: Step | None = None
        self.broker_gone = False
        self.fold = fold or Numbers()
        self.revoked = False
        self.told: list[str] = []
        config = KafkaConfig(checkpoint_s=2, checkpoint_records=checkpoint_records)
        largest = {topic.name: topic.max_message_bytes for topic in TOPICS.all()}
        around = Surroundings(
            config, TOPICS, self.clock, self._send, lambda partition: not self.revoked, self._hook, largest,
            lambda key, what, do: self.told.append(f"{key}: {what}"),
        )  # fmt: skip
        self.partition = Partition("src", 3, epoch, "monitor", self.fold, states.State(9, {}, b""), around)

    async def _send(self, outputs: Sequence[Output], partition: int) -> list[Ack]:
        assert partition == 3
        if [output.key for output in outputs] == [states.note_key(3)]:
            self.notes += [states.decode_note(output.value) for output in outputs]
            return [Ack(outputs[0].topic, 0)]
        self.sent += outputs
        self.log += [f"send {output.topic}" for output in outputs]
        if self.broker_gone:
            raise RetryableError("gone")
        return [Ack(output.topic, 100 + len(self.sent)) for output in outputs]

    def _hook(self, step: Step, partition: int) -> None:
        self.revoked = self.revoked or step == self.revoke_after

    async def take(self, *offsets: int, position: int | None = None, value: bytes = b"") -> None:
        records = [Got(offset, None, value) for offset in offsets]
        run = Run("src", 3, 1, offsets[0] if position is None else position, records)
        await self.partition.take(run, lambda: self.log.append("ack"))


async def test_publishes_then_reports_then_saves_then_acknowledges() -> None:
    bench = Bench()
    bench.clock.advance(2)
    await bench.take(10, 11, value=b"x")
    expected = [TOPICS.windows, TOPICS.windows, TOPICS.progress, TOPICS.state("monitor")]
    assert bench.log == [*(f"send {topic}" for topic in expected), "ack"]
    progress = decode(bench.sent[2].value, Progress)
    assert progress == Progress(
        role="monitor", topic="src", partition=3, offset=11, watermark=None, published={TOPICS.windows: 102}
    )
    assert bench.sent[3].key == b"p3"
    assert states.decode(bench.sent[3].value) == states.State(
        11, {TOPICS.windows: 102}, b"[10, 11]", timestamp=Got(11).timestamp, fold="monitor"
    )


async def test_a_rebalance_in_the_middle_of_absorbing_is_no_end() -> None:
    fold = Slow()
    bench = Bench(fold=fold)
    taking = asyncio.create_task(bench.take(10))
    await fold.begun.wait()
    assert (bench.notes[-1].first, bench.notes[-1].last) == (10, 10)
    bench.revoked = True
    await bench.partition.leave()
    assert suspects(bench.notes[-1], 9) is None
    fold.go_on.set()
    await taking
    assert len(bench.notes) == 2, "it is another's now"


async def test_saves_by_time_and_by_records_only() -> None:
    bench = Bench(checkpoint_records=3)
    await bench.take(10)
    bench.clock.advance(1.9)
    await bench.take(11)
    assert bench.log == []
    await bench.take(12)
    assert bench.log == [f"send {TOPICS.state('monitor')}", "ack"], "three records"
    await bench.take(13)
    bench.clock.advance(2)
    await bench.take(14)
    assert bench.log == [f"send {TOPICS.state('monitor')}", "ack"] * 2, "two seconds"


async def test_a_tick_alone_is_reported() -> None:
    bench = Bench()
    await bench.take(10, value=b"tick")
    assert [decode(output.value, Progress).watermark for output in bench.sent] == [10]


async def test_what_the_state_covers_is_skipped() -> None:
    bench = Bench()
    await bench.take(7, 8, 9, position=7)
    await bench.take(8, 9, 10, 12, position=8)
    assert bench.fold.absorbed == [10, 12]


@pytest.mark.parametrize("offsets", [(10,), (14,)])
async def test_offsets_that_do_not_exist_are_no_hole(offsets: tuple[int, ...]) -> None:
    bench = Bench()
    await bench.take(*offsets, position=10)
    assert bench.fold.absorbed == list(offsets)


async def test_a_run_that_was_lost_on_the_way_is_noticed() -> None:
    bench = Bench()
    with pytest.raises(PermanentError, match="from offset 12 follows 9"):
        await bench.take(12)
    assert bench.fold.absorbed == []


async def test_a_log_that_begins_anew_is_noticed() -> None:
    bench = Bench()
    with pytest.raises(PermanentError, match="continues at offset 0, before the 10"):
        await bench.take(0, 1, position=10)


@pytest.mark.parametrize(
    ("after", "sent"),
    [("absorbed", 0), ("progressed", 2), ("saved", 3)],
)
async def test_a_rebalance_stops_it_before_the_next_write(after: Step, sent: int) -> None:
    bench = Bench()
    bench.clock.advance(2)
    bench.revoke_after = after
    await bench.take(10, value=b"x")
    assert len(bench.sent) == sent
    assert "ack" not in bench.log


async def test_it_is_busy_with_two_runs_handed_out() -> None:
    bench = Bench()
    first, second = (Run("src", 3, 1, offset, [Got(offset)]) for offset in (10, 11))
    bench.partition.handed_out(first)
    assert not bench.partition.busy
    bench.partition.handed_out(second)
    assert bench.partition.busy
    await bench.partition.take(first, lambda: None)
    assert not bench.partition.busy


async def test_what_is_not_saved_is_saved_when_the_partition_is_idle_once_it_is_due() -> None:
    bench = Bench()
    await bench.take(10)
    await bench.take(11)
    await bench.partition.save_if_due()
    assert bench.log == []
    bench.clock.advance(2)
    for _ in range(2):
        await bench.partition.save_if_due()
    assert bench.log == [f"send {TOPICS.state('monitor')}", "ack"]
    assert states.decode(bench.sent[0].value).offset == 11


async def test_a_last_save_does_not_wait_until_it_is_due() -> None:
    bench = Bench()
    await bench.partition.save()
    assert bench.log == [], "there was nothing to save"
    await bench.take(10)
    await bench.partition.save()
    assert bench.log == [f"send {TOPICS.state('monitor')}", "ack"]


async def test_a_fold_that_raised_is_never_saved() -> None:
    """It may have absorbed a part of the run, which its next start takes again."""
    bench = Bench()
    await bench.take(10)
    with pytest.raises(Raised, match=r"offsets 11 to 12: (?s:.*)ValueError: bad"):
        await bench.take(11, 12, value=b"bad")
    bench.clock.advance(2)
    await bench.partition.save_if_due()
    await bench.partition.save()
    assert bench.sent == []


async def test_nothing_is_saved_whose_results_are_not_acknowledged() -> None:
    bench = Bench()
    bench.broker_gone = True
    with pytest.raises(RetryableError):
        await bench.take(10, value=b"x")
    bench.broker_gone = False
    await bench.partition.save()
    assert [output.topic for output in bench.sent] == [TOPICS.windows]


@pytest.mark.parametrize(("after", "sent"), [("absorbed", 0), ("progressed", 2)])
async def test_nothing_is_saved_by_an_owner_whose_partition_has_moved(after: Step, sent: int) -> None:
    bench = Bench()
    bench.revoke_after = after
    await bench.take(10, value=b"x")
    await bench.partition.save()
    assert len(bench.sent) == sent
    assert "ack" not in bench.log


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


async def test_it_counts_what_came_what_went_and_what_the_fold_left_out() -> None:
    labels = {"consumer": "monitor"}

    def counted() -> list[float]:
        return [
            value("driftline_records_in_total", **labels, topic="src"),
            value("driftline_results_out_total", **labels, topic=TOPICS.windows),
            value("driftline_dropped_total", **labels, reason="odd"),
            value("driftline_delay_seconds_count", **labels, topic="src"),
            value("driftline_delay_seconds_sum", **labels, topic="src"),
            value("driftline_checkpoint_seconds_count", **labels, partition="3"),
        ]

    before = counted()
    bench = Bench()
    bench.clock.advance(3)
    await bench.take(10, 11, 13, value=b"x")
    await bench.take(15, position=14)
    after = [now - then for now, then in zip(counted(), before, strict=True)]
    assert after == pytest.approx([4, 3, 3, 2, 6, 1])
    assert value("driftline_state_bytes", **labels, partition="3") == len(bench.sent[-1].value)


async def test_counts_of_a_state_that_is_loaded_are_not_counted_again() -> None:
    before = value("driftline_dropped_total", consumer="monitor", reason="odd")
    fold = Numbers()
    fold.counters["odd"] = 1_000
    bench = Bench(fold=fold)
    await bench.take(11, position=10)
    assert value("driftline_dropped_total", consumer="monitor", reason="odd") == before + 1


async def test_what_retention_deleted_is_a_letter_before_a_state_is_past_it() -> None:
    bench = Bench()
    bench.clock.advance(2)
    gap = Gap("src", 3, 10, 15)
    run = Run("src", 3, 1, 15, [Got(15)], (gap,))
    await bench.partition.take(run, lambda: bench.log.append("ack"))
    assert bench.log[0] == f"send {TOPICS.dlq}"
    assert bench.log[-2:] == [f"send {TOPICS.state('monitor')}", "ack"]
    letter = decode(bench.sent[0].value, DeadLetter)
    assert (letter.role, letter.offset, letter.until, letter.count, letter.raw) == ("monitor", 10, 15, 5, b"")
    assert "retention deleted 5 records of src[3], offsets 10 to 14, before monitor had read them" in letter.reason
    assert bench.fold.absorbed == [15]


async def test_what_was_deleted_before_the_start_is_told_without_a_new_record() -> None:
    bench = Bench()
    bench.partition._gone = (Gap("src", 3, 5, 10),)
    await bench.partition.save_if_due()
    assert bench.log == [f"send {TOPICS.dlq}", f"send {TOPICS.state('monitor')}"]
    await bench.partition.save_if_due()
    assert len(bench.log) == 2


async def test_a_result_too_large_for_its_topic_is_cut_and_published() -> None:
    class Talkative(Numbers):
        async def absorb(self, records: Sequence[Record]) -> list[Output]:
            self.absorbed += [record.offset for record in records]
            return [Output(TOPICS.alerts, b"bot", b'{"type":"alert","id":"a","summary":"' + b"x" * 2**21 + b'"}')]

    bench = Bench(fold=Talkative())
    await bench.take(10)
    alert = next(output for output in bench.sent if output.topic == TOPICS.alerts)
    assert len(alert.value) < 5_000
    assert b"2,097,152 characters" in alert.value


async def test_a_full_state_is_told() -> None:
    bench = Bench()
    bench.fold.counters["state_full"] = 0
    await bench.take(10)
    assert bench.told == []
    bench.fold.counters["state_full"] = 3
    await bench.take(11)
    await bench.take(12)
    [told] = bench.told
    assert told.startswith("full.monitor.3: monitor has no room in its state of src[3]")

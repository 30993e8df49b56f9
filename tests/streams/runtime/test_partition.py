"""The checkpoint cycle of one partition, without a broker: its order, and when it must stop."""

from collections.abc import Sequence
from typing import NamedTuple

import pytest

from driftline.schemas.clock import ManualClock
from driftline.schemas.codec import decode
from driftline.schemas.errors import PermanentError
from driftline.schemas.results import Progress
from driftline.schemas.topics import Topics
from driftline.streams.fold import Output, Record
from driftline.streams.runtime import state as states
from driftline.streams.runtime.config import KafkaConfig
from driftline.streams.runtime.partition import Partition, Step, Surroundings
from driftline.streams.runtime.transport import Run

TOPICS = Topics("t")


class Got(NamedTuple):
    offset: int
    key: bytes | None = None
    value: bytes | None = b""


class Ack(NamedTuple):
    topic: str
    offset: int


class Numbers:
    """Publishes each record's offset; a record with value "tick" moves the watermark instead."""

    def __init__(self) -> None:
        self.absorbed: list[int] = []
        self.watermark: int | None = None

    async def absorb(self, records: Sequence[Record]) -> list[Output]:
        self.absorbed += [record.offset for record in records]
        if any(record.value == b"tick" for record in records):
            self.watermark = records[-1].offset
            return []
        return [Output(TOPICS.windows, None, b"%d" % record.offset) for record in records if record.value]

    def snapshot(self) -> bytes:
        return repr(self.absorbed).encode()


class Bench:
    """A partition at offset 9, and what it did in order."""

    def __init__(self, epoch: int = 1, checkpoint_records: int = 1_000) -> None:
        self.log: list[str] = []
        self.sent: list[Output] = []
        self.clock = ManualClock(0)
        self.revoke_after: Step | None = None
        self.fold = Numbers()
        self._revoked = False
        config = KafkaConfig(checkpoint_s=2, checkpoint_records=checkpoint_records)
        around = Surroundings(config, TOPICS, self.clock, self._send, lambda partition: not self._revoked, self._hook)
        self.partition = Partition("src", 3, epoch, "monitor", self.fold, states.State(9, {}, b""), around)

    async def _send(self, outputs: Sequence[Output], partition: int) -> list[Ack]:
        assert partition == 3
        self.sent += outputs
        self.log += [f"send {output.topic}" for output in outputs]
        return [Ack(output.topic, 100 + len(self.sent)) for output in outputs]

    def _hook(self, step: Step, partition: int) -> None:
        self._revoked = self._revoked or step == self.revoke_after

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
    assert states.decode(bench.sent[3].value) == states.State(11, {TOPICS.windows: 102}, b"[10, 11]")


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

"""The parts of the transport that a race would have to hit to be tested on a broker."""

from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import pytest
from aiokafka.structs import TopicPartition
from faust.types.tuples import TP

from driftline.schemas.topics import Topics
from driftline.streams.fold import Fold
from driftline.streams.runtime.config import KafkaConfig
from driftline.streams.runtime.lost import Gap
from driftline.streams.runtime.state import Found, State
from driftline.streams.runtime.transport import Run
from driftline.streams.runtime.worker import FaustRole, Source
from tests.streams.runtime.sums_role import Sums

TOPICS = Topics("t")
HERE = TP(TOPICS.events, 0)


class Got(NamedTuple):
    offset: int
    key: bytes | None = None
    value: bytes | None = b""
    timestamp: int = 0
    timestamp_type: int = 0


class Seeks:
    """Stands where aiokafka's consumer stands."""

    def __init__(self) -> None:
        self.seen: list[tuple[TopicPartition, int]] = []

    def seek(self, tp: TopicPartition, offset: int) -> None:
        self.seen.append((tp, offset))


@pytest.fixture
async def role() -> AsyncIterator[FaustRole]:
    def fold(partition: int, snapshot: bytes | None) -> Fold:
        return Sums(TOPICS, partition, snapshot)

    role = FaustRole("monitor", KafkaConfig(prefix="t"), TOPICS, [Source(TOPICS.events, "monitor", fold)])
    role._app.finalize()
    yield role
    consumer(role)._thread.thread_loop.close()


def consumer(role: FaustRole) -> Any:
    return role._app.consumer


async def test_a_run_carries_the_epoch_and_the_position_that_it_continues(role: FaustRole) -> None:
    thread, seeks = consumer(role)._thread, Seeks()
    thread._consumer = seeks
    await thread._start_at(4, {HERE: 10})
    assert seeks.seen == [(TopicPartition(*HERE), 10)]
    first = thread._run(HERE, [Got(12), Got(13)])
    second = thread._run(HERE, [Got(14)])
    assert [(run.epoch, run.position, run.offset) for run in (first, second)] == [(4, 10, 13), (4, 14, 14)]
    await thread._start_at(5, {HERE: 11})
    again = thread._run(HERE, [Got(12)])
    assert (again.epoch, again.position) == (5, 11)
    thread._consumer = None


async def test_faust_never_believes_it_has_read_something(role: FaustRole) -> None:
    read = consumer(role)._read_offset
    read[HERE] = 5
    read.update({HERE: 6})
    assert read[HERE] is None


async def test_the_newest_acknowledged_run_is_committed(role: FaustRole) -> None:
    it = consumer(role)
    assert it._new_offset(HERE) is None
    it._acked[HERE] = [13, 40, 27]
    it._acked_index[HERE] = {13, 40, 27}
    assert it._new_offset(HERE) == 41
    assert it._new_offset(HERE) is None


NEW = Found(None, None)


async def test_what_was_handed_out_before_a_rebalance_does_not_count(role: FaustRole) -> None:
    run = Run(HERE.topic, HERE.partition, 1, 0, [Got(0)])
    role._partitions = {HERE: role._open(HERE, 1, NEW, None, 0)}
    assert role._partition_of(run) is not None
    role._partitions = {HERE: role._open(HERE, 2, NEW, None, 0)}
    assert role._partition_of(run) is None
    role.handed_out(run)
    assert not role._partitions[HERE].working
    role.revoked()
    assert role._partition_of(run) is None


async def test_what_retention_deleted_after_the_state_is_gone_on_after(role: FaustRole) -> None:
    fresh = role._open(HERE, 1, NEW, None, 7)
    assert (fresh.offset, fresh._gone) == (6, ()), "nobody had read it, and nobody misses it"
    snapshot = Sums(TOPICS, 0, None).snapshot()
    behind = role._open(HERE, 1, NEW, State(5, {}, snapshot), 20)
    assert (behind.offset, behind._gone) == (19, (Gap("t.events", HERE.partition, 6, 20),))
    ahead = role._open(HERE, 1, NEW, State(25, {}, snapshot), 20)
    assert (ahead.offset, ahead._gone) == (25, ())

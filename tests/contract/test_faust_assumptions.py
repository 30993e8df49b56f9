"""What we believe of Faust 0.15.3, and build on or around. Needs no broker but for the last test.

The first part are known defects that the runtime avoids: where one of these tests fails after an upgrade, a reason for
our own transport or state has gone. The second part are the private parts of Faust that the transport overrides.
"""

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import faust
import pytest
from faust.app import App
from faust.tables.manager import TableManager
from faust.transport import consumer as faust_consumer
from faust.transport.drivers import aiokafka as driver
from faust.types.tuples import TP, ConsumerMessage

from driftline.streams.runtime import transport
from driftline.streams.runtime.transport import FoldApp, Run
from tests.brokers import Broker, Kafka, eventually

PARTITION = TP("t", 0)


@pytest.fixture
async def app() -> AsyncIterator[App]:
    app = faust.App("probe", broker="aiokafka://127.0.0.1:1", store="memory://", cache="memory://", autodiscover=False)
    app.finalize()
    app.flow_control.resume()
    app.topics.acking_topics.add(PARTITION.topic)
    app.consumer_generation_id = 1
    consumer: Any = app.consumer
    yield app
    consumer._thread.thread_loop.close()


def message(offset: int) -> Any:
    found = ConsumerMessage(
        PARTITION.topic, PARTITION.partition, offset, 0.0, 0, None, None, b"v", None, tp=PARTITION, generation_id=1
    )
    found.incref(1)
    return found


def event(app: App, message: Any) -> Any:
    return app.create_event(None, message.value, None, message)


async def subscribed(channel: Any) -> None:
    async def has_subscribers() -> bool:
        return len(channel._subscribers) > 0

    await eventually(has_subscribers, "a subscriber", timeout_s=5, every_s=0.001)


# Defects.


async def test_leaving_the_loop_over_a_stream_acknowledges_the_event(app: App) -> None:
    """As an exception in an agent does."""
    channel, lost = app.channel(), message(0)
    stream = app.stream(channel)
    iterator = aiter(stream)
    first = asyncio.ensure_future(anext(iterator))
    await subscribed(channel)
    await channel.put(event(app, lost))
    await first
    with suppress(RuntimeError):
        await iterator.athrow(RuntimeError())  # type: ignore[attr-defined]
    assert lost.acked


@pytest.mark.parametrize(("method", "acknowledged"), [("take", True), ("noack_take", False)])
async def test_take_acknowledges_a_batch_whose_body_raises(app: App, method: str, acknowledged: bool) -> None:
    channel, batch = app.channel(), [message(offset) for offset in range(3)]
    stream = app.stream(channel)
    await stream.start()
    taken = getattr(stream, method)(3, within=5)
    first = asyncio.ensure_future(anext(taken))
    await subscribed(channel)
    for one in batch:
        await channel.put(event(app, one))
    assert len(await first) == 3
    with suppress(RuntimeError):
        await taken.athrow(RuntimeError())
    assert [one.acked for one in batch] == [acknowledged] * 3
    await stream.stop()


async def test_acks_out_of_order_commit_past_a_message_in_flight(app: App) -> None:
    for offset in (0, 1, 3, 4):
        app.consumer.ack(message(offset))
    consumer: Any = app.consumer
    assert consumer._new_offset(PARTITION) == 2
    assert consumer._new_offset(PARTITION) == 5, "offset 2 was never acknowledged"


async def test_a_failed_commit_is_taken_for_a_good_one(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(offsets: Any) -> bool:
        return False

    async def flush() -> None: ...

    consumer: Any = app.consumer
    monkeypatch.setattr(consumer, "_commit", refuse)
    monkeypatch.setattr(consumer, "assignment", lambda: {PARTITION})
    monkeypatch.setattr(app.producer, "flush", flush)
    assert await consumer._commit_offsets({PARTITION: 5}) is False
    assert consumer._committed_offset[PARTITION] == 5


async def test_windowed_tables_keep_recovered_keys_for_ever_and_lose_closed_windows(app: App) -> None:
    closed = []

    async def on_close(key: Any, value: Any) -> None:
        closed.append(key)

    app.Table("w", default=int, partitions=2, on_window_close=on_close).tumbling(10, expires=1)
    table: Any = app.tables["w"]
    recovered, newer, older = ("r", (0.0, 9.9)), ("n", (1000.0, 1009.9)), ("o", (500.0, 509.9))
    table.data.update({recovered: 1, newer: 2, older: 3})
    table._maybe_set_key_ttl(newer, 0)
    table._maybe_set_key_ttl(older, 1)
    await table._del_old_keys()
    assert closed == [newer], "the older window of the other partition closed as well"
    assert dict(table.data) == {recovered: 1}


# What the transport overrides.

OVERRIDDEN: list[tuple[Callable[..., Any], list[str]]] = [
    (App.on_rebalance_start, ["self"]),
    (App._create_directories, ["self"]),
    (TableManager.on_start, ["self"]),
    (TableManager._update_channels, ["self"]),
    (driver.AIOKafkaConsumerThread.__post_init__, ["self"]),
    (driver.AIOKafkaConsumerThread._create_worker_consumer, ["self", "transport"]),
    (
        driver.AIOKafkaConsumerThread._fetch_records,
        ["self", "consumer", "active_partitions", "timeout", "max_records"],
    ),
    (driver.AIOKafkaConsumerThread._commit, ["self", "offsets"]),
    (driver.AIOKafkaConsumerThread._ensure_consumer, ["self"]),
    (driver.AIOKafkaConsumerThread.call_thread, ["self", "fun", "args", "kwargs"]),
    (driver.Consumer._new_consumer_thread, ["self"]),
    (driver.Consumer.seek_to_committed, ["self"]),
    (driver.Consumer._getmany, ["self", "active_partitions", "timeout"]),
    (driver.Consumer._to_message, ["self", "tp", "record"]),
    (driver.Consumer._new_offset, ["self", "tp"]),
    (driver.Consumer.verify_event_path, ["self", "now", "tp"]),
    (driver.Producer._new_producer, ["self", "transactional_id"]),
    (driver.Producer.send, ["self", "topic", "key", "value", "partition", "timestamp", "headers", "transactional_id"]),
]


@pytest.mark.parametrize(("method", "parameters"), OVERRIDDEN, ids=lambda value: getattr(value, "__qualname__", ""))
def test_overridden_methods_take_the_same_parameters(method: Callable[..., Any], parameters: list[str]) -> None:
    assert list(inspect.signature(method).parameters) == parameters


@pytest.mark.parametrize("ours", [transport.Thread, transport.Consumer, transport.Producer, transport.FoldApp])
def test_every_private_override_exists_in_faust(ours: type) -> None:
    own = {"_start_at", "_run", "_go_on"}
    private = {name for name in vars(ours) if name.startswith("_") and not name.startswith("__")} - own
    parents = {name for parent in ours.__mro__[1:] for name in vars(parent)}
    annotations = {name for parent in ours.__mro__ for name in inspect.get_annotations(parent)}
    assert private <= parents | annotations


def test_what_is_read_is_asked_only_of_the_table_that_we_replace() -> None:
    """`_drain_messages` skips below, and counts gaps above, what it finds in `_read_offset`: ours is always empty."""
    source = inspect.getsource(faust_consumer.Consumer._drain_messages)
    assert "get_read_offset = self._read_offset.__getitem__" in source
    assert "if r_offset is None or offset >= r_offset:" in source
    assert "if gap > 1 and r_offset:" in source


class Recorder:
    """A feed that notes what it is asked, and starts each partition at 0."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []
        self.runs: list[Run] = []
        self._epoch = 0

    def revoked(self) -> None:
        self.calls.append(("revoked", self._epoch))

    async def left(self) -> None:
        self.calls.append(("left", self._epoch))

    async def positions(self, assigned: set[TP]) -> tuple[int, dict[TP, int]]:
        self._epoch += 1
        self.calls.append(("positions", self._epoch))
        return self._epoch, dict.fromkeys(assigned, 0)

    async def again(self, tp: TP) -> tuple[int, dict[TP, int]]:
        return await self.positions({tp})

    def busy(self, tp: TP) -> bool:
        return False

    def handed_out(self, run: Run) -> None:
        self.calls.append(("run", run.epoch))

    def failed(self, error: Exception) -> None:
        pytest.fail(f"{error!r}")


async def test_a_rebalance_revokes_then_asks_for_positions_then_hands_out_runs_from_there(
    embedded_kafka: Broker,
) -> None:
    config = embedded_kafka.config(session_timeout_s=1.0, heartbeat_interval_s=0.2)
    async with Kafka(config) as kafka:
        topic = kafka.topics.events
        apps = []

        async def start() -> Recorder:
            recorder = Recorder()
            app = FoldApp(f"{config.prefix}.probe", config, recorder)

            async def agent(stream: Any) -> None:
                async for found in stream.noack().events():
                    recorder.runs.append(found.message.value)

            app.agent(app.topic(topic, value_serializer="raw", key_serializer="raw"), isolated_partitions=True)(agent)
            apps.append(app)
            await app.start()
            return recorder

        try:
            for number in range(20):
                await kafka.send(topic, b"%d" % number, partition=number % 2)
            first = await start()

            async def absorbed() -> bool:
                return len(offsets(first, epoch=1)) == 20

            await eventually(absorbed, "all records come as runs")
            second = await start()

            async def moved() -> bool:
                last = first.calls[-1][1]
                return last > 1 and len(offsets(first, last)) == 10 and len(offsets(second, second.calls[-1][1])) == 10

            await eventually(moved, "each has one partition, from where it was told to start")
        finally:
            for app in apps:
                await app.stop()
        for recorder in (first, second):
            kinds = [kind for kind, _ in recorder.calls]
            assert kinds.index("positions") < kinds.index("run")
        changed = [kind for kind, _ in first.calls[first.calls.index(("run", 1)) :] if kind != "run"]
        assert changed[:3] == ["revoked", "left", "positions"]
        for epoch in {run.epoch for run in first.runs}:
            check_no_hole([run for run in first.runs if run.epoch == epoch])


def offsets(recorder: Recorder, epoch: int) -> set[tuple[int, int]]:
    return {(run.partition, record.offset) for run in recorder.runs if run.epoch == epoch for record in run.records}


def check_no_hole(runs: list[Run]) -> None:
    next_offset: dict[int, int] = {}
    for run in runs:
        assert run.position == next_offset.get(run.partition, 0)
        next_offset[run.partition] = run.offset + 1

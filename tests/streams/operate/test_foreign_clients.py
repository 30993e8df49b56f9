"""Any Kafka client's events are stored and counted once, in whichever partition, codec, batch or transaction."""

import asyncio
import json
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from driftline.schemas.codec import encode_event, encode_events
from driftline.streams.operate.reconcile import reconcile
from driftline.streams.operate.tally import Selection
from tests.brokers import on_each_broker
from tests.streams.operate.conftest import START, Pipeline, trace

APPS = [f"app-{n}" for n in range(6)]


class Client:
    """librdkafka, as Python, Go, Node and .NET use it."""

    def __init__(self, pipeline: Pipeline, numbers: Iterator[int], **config: Any) -> None:
        self._topic = pipeline.kafka.topics.events
        self._numbers = numbers
        self.producer = Producer({"bootstrap.servers": pipeline.kafka.config.brokers, **config})
        self.sent: Counter[str] = Counter()

    def send(
        self,
        apps: list[str],
        *,
        keyed: bool = True,
        key: bytes | None = None,
        partition: int = -1,
        counts: bool = True,
        **record: Any,
    ) -> None:
        """A record with an event of each app."""
        events = [trace(next(self._numbers), 1, app) for app in apps]
        value = encode_event(events[0]) if len(events) == 1 else encode_events(events)
        name = apps[0].encode() if keyed and key is None else key
        self.producer.produce(self._topic, value, name, partition, on_delivery=_delivered, **record)
        if counts:
            self.sent.update(apps)

    def flush(self) -> None:
        assert self.producer.flush(30) == 0


def _delivered(error: Any, _: Any) -> None:
    assert error is None, error


@pytest.fixture
def numbers() -> Iterator[int]:
    return iter(range(10**9))


async def counted(pipeline: Pipeline, sent: Counter[str]) -> None:
    """All of it, by tables and windows, and nothing else."""
    await pipeline.monitor()
    await pipeline.tick(200)
    await pipeline.monitor()
    selection = Selection(60)
    balance = await reconcile(pipeline.settings, selection, wait_s=30, tell=lambda *_: None)
    assert balance.differences == []
    assert balance.in_flight == []
    assert balance.in_windows == sent.total()
    rows = pipeline.command(
        "SELECT toJSONString(groupArray((app, n))) FROM (SELECT app, sum(requests) AS n FROM windows GROUP BY app)"
    )
    assert {app: int(n) for app, n in json.loads(rows)} == dict(sent)


@on_each_broker
async def test_partitioners_keys_codecs_and_batches_change_no_number(
    pipeline_on_each: Pipeline, numbers: Iterator[int]
) -> None:
    pipeline, sent = pipeline_on_each, Counter[str]()
    for config in (
        {"partitioner": "consistent_random"},  # librdkafka's own: CRC32, and any partition for no key
        {"partitioner": "murmur2_random", "compression.type": "gzip"},
        {"partitioner": "fnv1a_random", "compression.type": "snappy", "linger.ms": 50},
        {"partitioner": "random", "compression.type": "lz4", "batch.num.messages": 3},
        {"compression.type": "zstd", "linger.ms": 50, "enable.idempotence": pipeline.kafka.config.idempotent},
    ):
        client = Client(pipeline, numbers, **config)
        for _ in range(5):
            client.send(APPS)  # an array that mixes apps, keyed by one of them
            client.send(APPS[:1], keyed=False, headers={"traceparent": "00-ab"})
            for app in APPS:
                client.send([app, app])
                client.send([app], key=b"\xff not an app")
        client.flush()
        sent += client.sent
    await counted(pipeline, sent)


@on_each_broker
async def test_tombstones_are_dead_letters_and_nothing_else(pipeline_on_each: Pipeline, numbers: Iterator[int]) -> None:
    client = Client(pipeline_on_each, numbers)
    for app in APPS:
        client.producer.produce(client._topic, None, app.encode())
        client.send([app])
    client.flush()
    await counted(pipeline_on_each, client.sent)
    assert pipeline_on_each.command("SELECT uniqExact(partition, offset) FROM dead_letters") == str(len(APPS))


@pytest.mark.kafka
@pytest.mark.parametrize("broker", ["apache"], indirect=True)
async def test_what_a_transaction_took_back_never_happened(pipeline_on_each: Pipeline, numbers: Iterator[int]) -> None:
    first = Client(pipeline_on_each, numbers)  # a partition that begins with what was taken back would look cut
    for number in range(pipeline_on_each.kafka.config.partitions):
        first.send(APPS[:1], partition=number)
    first.flush()
    client = Client(pipeline_on_each, numbers, **{"transactional.id": "payments"})
    other = Client(pipeline_on_each, numbers, **{"transactional.id": "search"})
    for each in (client, other):
        each.producer.init_transactions(30)
    for commits in (True, False, True, True, False):
        for each in (client, other):
            each.producer.begin_transaction()
        for app in APPS:  # of two transactions, mixed in each partition
            client.send([app], counts=commits)
            other.send([app, *APPS], counts=not commits)
        for each, done in ((client, commits), (other, not commits)):
            each.flush()
            if done:
                each.producer.commit_transaction(30)
            else:
                each.producer.abort_transaction(30)
    await counted(pipeline_on_each, first.sent + client.sent + other.sent)


@pytest.mark.kafka
@pytest.mark.parametrize("broker", ["apache"], indirect=True)
async def test_what_comes_to_a_partition_that_only_events_have_is_stored(pipeline_on_each: Pipeline) -> None:
    pipeline, topics = pipeline_on_each, pipeline_on_each.kafka.topics
    await pipeline.send([trace(0, 1)])
    await pipeline.stored("traces", 1)  # the archive runs: one that starts would refuse
    await pipeline.kafka.add_partitions(topics.events, 4)
    client = Client(pipeline, iter(range(10**9)), **{"topic.metadata.refresh.interval.ms": 200})
    for value in (b"{oops", encode_event(trace(1, 1))):
        client.producer.produce(topics.events, value, None, 3, on_delivery=_delivered)
    client.flush()
    await pipeline.stored("dead_letters", 1)
    await pipeline.stored("traces", 2)
    assert pipeline.command("SELECT any(partition) FROM dead_letters") == "3"


KAFKAJS = """
const { Kafka, logLevel, CompressionTypes, Partitioners } = require('kafkajs')
const [broker, topic, ts, transactions] = process.argv.slice(2)
const kafka = new Kafka({ brokers: [broker], logLevel: logLevel.ERROR })
const message = (name, n) => {
  const app = `app-${n % 6}`
  const event = { type: 'trace', app, ts: Number(ts), trace_id: `${name}-${n}`, latency_ms: 1 }
  return { key: n % 2 ? app : null, value: JSON.stringify(event), headers: { a: 'b' } }
}
const send = async (createPartitioner, name) => {
  const producer = kafka.producer({ createPartitioner })
  await producer.connect()
  for (let n = 0; n < 12; n++) {
    const compression = n % 3 ? CompressionTypes.GZIP : CompressionTypes.None
    await producer.send({ topic, compression, acks: n % 2 ? -1 : 1, messages: [message(name, n)] })
  }
  await producer.disconnect()
}
const transact = async (commits) => {
  const producer = kafka.producer({ transactionalId: `${topic}-js`, idempotent: true, maxInFlightRequests: 1,
    createPartitioner: Partitioners.DefaultPartitioner })
  await producer.connect()
  const transaction = await producer.transaction()
  const messages = Array.from({ length: 12 }, (_, n) => message(commits, n))
  await transaction.send({ topic, acks: -1, messages })
  await (commits ? transaction.commit() : transaction.abort())
  await producer.disconnect()
}
(async () => {
  await send(Partitioners.DefaultPartitioner, 'default')
  await send(Partitioners.LegacyPartitioner, 'legacy')
  if (transactions === 'yes') for (const commits of [true, false]) await transact(commits)
})().catch(error => { console.error(error); process.exit(1) })
"""


async def run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(
        subprocess.run, command, cwd=cwd, capture_output=True, text=True, check=False, timeout=120
    )


@pytest.mark.slow
@on_each_broker
async def test_kafkajs_counts_too(pipeline_on_each: Pipeline, tmp_path: Path) -> None:
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("node and npm are not installed")
    installed = await run(npm, "install", "kafkajs@2", cwd=tmp_path)
    if installed.returncode:
        pytest.skip(f"kafkajs cannot be installed: {installed.stderr[-300:]}")
    (tmp_path / "send.js").write_text(KAFKAJS)
    kafka = pipeline_on_each.kafka
    transactions = kafka.config.idempotent
    told = (kafka.config.brokers, kafka.topics.events, str(START), "yes" if transactions else "no")
    sent = await run(node, "send.js", *told, cwd=tmp_path)
    assert sent.returncode == 0, sent.stderr
    await counted(pipeline_on_each, Counter(dict.fromkeys(APPS, 6 if transactions else 4)))

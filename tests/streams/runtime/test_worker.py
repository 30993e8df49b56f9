"""How a Faust role ends, without a broker."""

import asyncio
import os
import signal

import pytest

from driftline.schemas.errors import ConfigError, RetryableError
from driftline.schemas.topics import Topics
from driftline.streams.runtime.config import KafkaConfig
from driftline.streams.runtime.worker import FaustRole


@pytest.fixture
def role(free_port: int) -> FaustRole:
    """Waits for its broker until it ends."""
    return FaustRole("monitor", KafkaConfig(brokers=f"127.0.0.1:{free_port}"), Topics("t"), [])


async def started(role: FaustRole) -> "asyncio.Task[int]":
    working = asyncio.create_task(role.run())
    await asyncio.sleep(0)
    return working


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_what_fails_after_a_stop_that_was_asked_for_is_told_and_no_failure(
    role: FaustRole, number: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def stop() -> None:
        role.failed(RetryableError("the broker is gone"))
        raise OSError("no goodbye")

    monkeypatch.setattr(role._app, "stop", stop)
    working = await started(role)
    os.kill(os.getpid(), number)
    assert await working == 0
    said = [(record.levelname, record.getMessage()) for record in caplog.records if "Role" in record.getMessage()]
    assert [level for level, _ in said] == ["WARNING", "WARNING"]
    assert "the broker is gone" in said[0][1]
    assert "no goodbye" in said[1][1]


@pytest.mark.parametrize(("error", "code"), [(RetryableError("away"), 1), (ConfigError("wrong"), 78)])
async def test_a_failure_before_a_stop_is_asked_for_keeps_its_exit_code(
    role: FaustRole, error: Exception, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def stop() -> None: ...

    monkeypatch.setattr(role._app, "stop", stop)
    working = await started(role)
    role.failed(error)
    os.kill(os.getpid(), signal.SIGTERM)
    assert await working == code

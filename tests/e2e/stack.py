"""Starts the whole local stack as a user starts it."""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from driftline.sinks.clickhouse.config import ClickHouseConfig
from driftline.streams.runtime.config import KafkaConfig
from tests.brokers import find_free_port

STARTS_WITHIN_S = 120.0  # torch and a model are loaded, perhaps on a busy machine


@dataclass
class RunningStack:
    process: subprocess.Popen[bytes]
    log: Path
    environment: dict[str, str]
    kafka: KafkaConfig
    clickhouse: ClickHouseConfig


def default_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("DRIFTLINE_")}


def stack_environment(folder: Path) -> dict[str, str]:
    """Ticks are off: tests bring their own time. Few texts are embedded: it is the slow part."""
    return {
        **default_environment(),
        "DRIFTLINE_STACK__STATE_DIR": str(folder),
        "DRIFTLINE_STACK__KAFKA_PORT": str(find_free_port()),
        "DRIFTLINE_STACK__CLICKHOUSE_PORT": str(find_free_port()),
        "DRIFTLINE_HEALTH__PORT": "0",
        "DRIFTLINE_KAFKA__PARTITIONS": "2",
        "DRIFTLINE_TICKS__ENABLED": "false",
        "DRIFTLINE_EMBED__SAMPLE__RATE": "0.05",
    }


def start_stack(environment: dict[str, str], log: Path, folder: Path | None = None) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "driftline.streams.cli", "up"],
            env=environment, cwd=folder, stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
    deadline = time.monotonic() + STARTS_WITHIN_S
    while b"Driftline is up" not in log.read_bytes():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"the stack did not start:\n{log.read_text(errors='replace')}")
        time.sleep(0.1)
    return process

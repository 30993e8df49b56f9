"""The demo on the embedded broker, on Apache Kafka, and with workers started by hand: the same account each time."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from driftline.sinks.clickhouse.embedded import EmbeddedServer
from driftline.streams.demo.command import OVERRIDES
from driftline.streams.embedded_kafka import EmbeddedKafka
from tests.brokers import Broker, find_free_port

pytestmark = pytest.mark.slow

DRIFTLINE = [sys.executable, "-m", "driftline.streams.cli"]
SAME = ("events_sent", "events_stored", "incidents", "alerts", "rollbacks", "breakers")


def environment(folder: Path, **settings: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("DRIFTLINE_")}
    return {**inherited, "DRIFTLINE_STACK__STATE_DIR": str(folder), **settings}


def run_demo(folder: Path, *options: str, **settings: str) -> dict[str, Any]:
    out = folder / "out.json"
    done = subprocess.run(
        [*DRIFTLINE, "demo", "-o", str(out), *options],
        env=environment(folder, **settings), capture_output=True, text=True, timeout=540, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4_000:] + done.stderr[-4_000:]
    summary: dict[str, Any] = json.loads(out.read_bytes())
    return summary


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run_demo(tmp_path_factory.mktemp("embedded"))


def test_every_incident_is_found_and_nothing_is_lost_or_false(embedded: dict[str, Any]) -> None:
    assert embedded["lost"] == embedded["duplicated"] == embedded["false_alarms"] == 0
    assert embedded["events_sent"] == embedded["events_stored"] + embedded["events_dead_lettered"]
    assert all(incident["detected_at"] and incident["resolved_at"] for incident in embedded["incidents"])
    assert [rollback["release"] for rollback in embedded["rollbacks"]] == ["v2"]
    assert [breaker["state"] for breaker in embedded["breakers"]][-1] == "closed"


def test_apache_kafka_gives_the_same_account(embedded: dict[str, Any], apache_kafka: Broker, tmp_path: Path) -> None:
    summary = run_demo(tmp_path, "--brokers", apache_kafka.config().brokers)
    assert {key: summary[key] for key in SAME} == {key: embedded[key] for key in SAME}


def test_workers_started_by_hand_give_the_same_account(embedded: dict[str, Any], tmp_path: Path) -> None:
    settings = {
        "DRIFTLINE_KAFKA__IDEMPOTENT": "false",
        "DRIFTLINE_KAFKA__SESSION_TIMEOUT_S": "2",
        "DRIFTLINE_KAFKA__HEARTBEAT_INTERVAL_S": "0.3",
        "DRIFTLINE_KAFKA__FETCH_MAX_WAIT_MS": "20",
        "DRIFTLINE_KAFKA__PARTITIONS": "1",
        "DRIFTLINE_HEALTH__PORT": "0",
        **OVERRIDES,
    }
    workers: list[subprocess.Popen[bytes]] = []
    with EmbeddedKafka(find_free_port()) as kafka, EmbeddedServer(tmp_path / "clickhouse", find_free_port()) as server:
        settings |= {"DRIFTLINE_KAFKA__BROKERS": kafka.brokers, "DRIFTLINE_CLICKHOUSE__DSN": server.dsn}
        env = environment(tmp_path, **settings)
        for command in (["topics", "apply"], ["migrate"]):
            subprocess.run([*DRIFTLINE, *command], env=env, check=True, timeout=60)
        try:
            for role in ("embed", "judge", "monitor", "archive", "notify"):
                workers.append(subprocess.Popen([*DRIFTLINE, "worker", "--role", role], env=env))
            summary = run_demo(tmp_path, "--attach", **settings)
        finally:
            for worker in workers:
                worker.send_signal(signal.SIGTERM)
            for worker in workers:
                worker.wait(timeout=20)
    assert {key: summary[key] for key in SAME} == {key: embedded[key] for key in SAME}

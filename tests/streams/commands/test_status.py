"""What is said at three in the morning: does it work, what is behind, by how long, what to do."""

import fcntl
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result
from msgspec import Raw

from driftline.streams.cli import main
from driftline.streams.running import FILE, LOCK

METRICS = """# HELP driftline_lag_records Records written and not yet taken.
driftline_lag_records{consumer="monitor",partition="0",topic="t"} 1200.0
driftline_lag_records{consumer="drift",partition="0",topic="t"} 34.0
driftline_lag_seconds{consumer="monitor",partition="0",topic="t"} 420.5
driftline_lag_seconds{consumer="drift",partition="0",topic="t"} 0.0
driftline_other_lag_records{partition="0"} 7.0
"""
PROBLEM = {"what": "ClickHouse refuses", "do": "free its disk", "since": "2026-11-29T03:00:00+00:00"}


class Role:
    report: dict[str, Any]
    metrics = METRICS

    def __init__(self) -> None:
        self.report = {"role": "monitor", "healthy": True, "ready": True, "problems": []}


@pytest.fixture
def role() -> Role:
    return Role()


@pytest.fixture
def url(role: Role) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(msgspec.json.encode(role.report) if self.path == "/healthz" else role.metrics.encode())

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def status(url: str, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["status", "--role", url, *arguments], env={"COLUMNS": "80"})


def test_all_is_well(role: Role, url: str) -> None:
    role.metrics = ""
    result = status(url)
    assert result.exit_code == 0
    assert "All roles work." in result.stdout


def test_what_is_behind_and_by_how_long(role: Role, url: str) -> None:
    result = status(url)
    assert result.exit_code == 0
    assert "1,234" in result.stdout
    assert "7 min" in result.stdout
    assert "behind, and catching up unless that grows: monitor" in result.stdout
    [told] = json.loads(status(url, "--json").stdout)["roles"]
    assert (told["lag_records"], told["lag_seconds"], told["state"]) == (1234, 420.5, "ready")


def test_what_is_wrong_and_what_to_do(role: Role, url: str) -> None:
    role.report |= {"healthy": False, "problems": [PROBLEM]}
    result = status(url)
    assert result.exit_code == 1
    assert "monitor: ClickHouse refuses; free its disk (since 2026-11-29T03:00:00+00:00)" in result.stdout
    assert "Something is wrong: monitor." in result.stdout


def test_a_role_that_starts(role: Role, url: str) -> None:
    role.report["ready"] = False
    result = status(url)
    assert result.exit_code == 1
    assert "Starting: monitor." in result.stdout


@pytest.mark.parametrize("report", [{}, {"problems": 5}, {"role": "m", "ready": True, "problems": ["x"]}, [1], "x"])
def test_what_answers_is_no_role(role: Role, url: str, report: Any) -> None:
    role.report = report
    result = status(url)
    assert result.exit_code == 1
    assert "no role of Driftline" in result.stdout


def test_numbers_that_are_none(role: Role, url: str) -> None:
    role.metrics = 'driftline_lag_records{a="b"} NaN\ndriftline_lag_seconds{a="b"} +Inf\n\x00\xff'
    assert status(url).exit_code == 0


@pytest.mark.parametrize("number", ["1abc", "1e999", "1e308", "9" * 5_000, "9e18", "1_000", "-1", "0x10"])
@pytest.mark.parametrize("unit", ["records", "seconds"])
def test_any_number_of_any_server_is_a_line(role: Role, url: str, unit: str, number: str) -> None:
    role.metrics = f'driftline_lag_{unit}{{a="b"}} {number}\n' * 2
    for arguments in ([], ["--json"]):
        result = status(url, *arguments)
        assert (result.exit_code, "monitor" in result.stdout) == (0, True)


def test_nested_without_end_is_no_role(role: Role, url: str) -> None:
    role.report["more"] = Raw(b"[" * 100_000 + b"]" * 100_000)
    result = status(url)
    assert (result.exit_code, "no role of Driftline" in result.stdout) == (1, True)


def test_a_stack_that_starts_or_stops_is_not_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".driftline").mkdir()
    with (tmp_path / ".driftline" / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = CliRunner().invoke(main, ["status"])
    assert result.exit_code == 1
    assert "a stack is starting in .driftline, or stopping" in result.stderr
    (tmp_path / ".driftline" / FILE).write_text("{}")
    assert "no stack runs in .driftline" in CliRunner().invoke(main, ["status"]).stderr

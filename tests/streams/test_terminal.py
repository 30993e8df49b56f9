import errno
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from driftline.schemas.errors import ConfigError, PermanentError, RetryableError
from driftline.streams import terminal
from driftline.streams.supervisor import StackFailed
from tests.hostile import TEXTS, obeyed


def run(error: BaseException, *args: str) -> Result:
    @click.group(cls=terminal.Cli)
    @click.option("-v", "--verbose", is_flag=True)
    def group(verbose: bool) -> None: ...

    @group.command()
    def work() -> None:
        raise error

    return CliRunner().invoke(group, [*args, "work"])


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (ConfigError("kafka.broker: no such key"), 78, "kafka.broker: no such key"),
        (RetryableError("Kafka is away"), 1, "Kafka is away"),
        (PermanentError("too few"), 1, "too few"),
        (TimeoutError(), 1, "no answer in time"),
        (PermissionError(errno.EACCES, "Permission denied", "/root/x"), 1, "/root/x: Permission denied"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "No space left on device: make room"),
        (ExceptionGroup("both", [RetryableError("first"), TimeoutError()]), 1, "first"),
        (MemoryError(), 1, "out of memory"),
    ],
)
def test_what_can_go_wrong_is_one_line_and_a_code(error: Exception, code: int, says: str) -> None:
    result = run(error)
    assert result.exit_code == code
    assert result.stderr.startswith("driftline: ")
    assert says in result.stderr
    assert result.stderr.count("\n") == 1


def test_ctrl_c_is_no_error() -> None:
    result = run(KeyboardInterrupt())
    assert (result.exit_code, result.output) == (130, "")


def test_a_bug_says_where_its_traceback_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    result = run(ZeroDivisionError("[/] by zero"))
    assert result.exit_code == 70
    assert result.stderr.startswith("driftline: ZeroDivisionError: [/] by zero. This is a bug")
    [kept] = tmp_path.iterdir()
    assert str(kept) in result.stderr
    assert "Traceback" in kept.read_text()
    assert kept.stat().st_mode & 0o777 == 0o600
    assert "Traceback" in run(ZeroDivisionError(), "-v").stderr


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_errors_may_quote_anything(text: str) -> None:
    result = run(RetryableError(f"ClickHouse: {text}"))
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert obeyed(result.stderr, keep="\n") == ""


def test_last_words_of_a_role_keep_their_lines() -> None:
    result = run(StackFailed("Role a ended.\na | one\na | \x1b[2Jtwo"))
    assert result.stderr == "driftline: Role a ended.\na | one\na | \\x1b[2Jtwo\n"


@pytest.mark.parametrize("command", [["--help"], ["schema"]])
def test_a_reader_who_leaves_is_no_error(command: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "driftline.streams.entry", *command], stdout=writing, stderr=subprocess.PIPE, check=False
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_one_line() -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "driftline.streams.entry", "schema"],
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr.startswith(b"driftline: ")
    assert done.stderr.count(b"\n") == 1


def test_ctrl_c_waits_for_no_server(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        silent.settimeout(60)
        command = subprocess.Popen(
            [sys.executable, "-m", "driftline.streams.entry", "reconcile"],
            env={**os.environ, "DRIFTLINE_CLICKHOUSE__DSN": f"http://127.0.0.1:{port}"},
            cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        client, _ = silent.accept()
        with client:
            try:
                assert client.recv(1)
                command.send_signal(signal.SIGINT)
                stdout, stderr = command.communicate(timeout=30)
            finally:
                command.kill()
    assert (command.returncode, stdout, stderr) == (130, b"", b"")

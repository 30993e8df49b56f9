"""Every command where what it asks is away, or is something else: one line that says what to do, and an exit code."""

import fcntl
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner
from pydantic import SecretStr

from driftline.schemas.errors import RetryableError
from driftline.sinks.clickhouse.client import session
from driftline.sinks.clickhouse.config import ClickHouseConfig
from driftline.streams.cli import main
from driftline.streams.running import FILE, LOCK
from driftline.streams.runtime.config import KafkaConfig
from tests.hostile import obeyed
from tests.streams.commands.test_walk import leaves

ASK_NOBODY = {"check-config", "schema", "demo", "up", "worker"}
ASKING = {
    "alerts ls": [],
    "alerts show": ["x"],
    "apps": [],
    "baseline fit": ["--app", "a", "--last-healthy", "5m"],
    "baseline list": [],
    "baseline show": ["x"],
    "dlq ls": [],
    "dlq requeue": ["--all"],
    "dlq show": ["x"],
    "migrate": [],
    "query": ["SELECT 1"],
    "reconcile": ["--wait", "0"],
    "replay": ["--from", "-1h", "--source", "clickhouse"],
    "report": ["--app", "a", "--from", "-1h"],
    "state reset": ["--role", "judge", "--yes"],
    "status": ["--role", "monitor=http://{address}"],
    "tail": ["-n", "1"],
    "topics apply": [],
}
ANSWERS = {
    "nobody": None,
    "a web server": b"HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\nConnection: close\r\n\r\n\x1b[2J<b>x",
    "a page": b'HTTP/1.1 200 OK\r\nContent-Length: 8\r\nConnection: close\r\n\r\n{"a": 1}',
    "another protocol": b"-ERR unknown command\r\n",
    "who hangs up": b"",
}


@contextmanager
def answering(answer: bytes | None) -> Iterator[str]:
    """Its address: a server that has one answer for all; None: nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"

        def serve() -> None:
            while True:
                try:
                    client, _ = server.accept()
                except OSError:
                    return
                with client:
                    client.recv(65_536)
                    client.sendall(answer or b"")

        if answer is None:
            server.close()
        else:
            threading.Thread(target=serve, daemon=True).start()
        yield address
        if answer is not None:
            server.shutdown(socket.SHUT_RDWR)


def environment(address: str) -> dict[str, str]:
    return {"DRIFTLINE_KAFKA__BROKERS": address, "DRIFTLINE_CLICKHOUSE__DSN": f"http://me:s3cr3tpass@{address}"}


def test_no_command_is_left_out() -> None:
    assert ASKING.keys() == set(leaves(main)) - ASK_NOBODY


@pytest.mark.parametrize("who", ANSWERS)
@pytest.mark.parametrize("command", ASKING)
def test_who_answers_is_nobody_we_know(command: str, who: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with answering(ANSWERS[who]) as address:
        arguments = [argument.format(address=address) for argument in ASKING[command]]
        result = CliRunner().invoke(main, [*command.split(), *arguments], env=environment(address))
    said = result.stdout if command == "status" else result.stderr
    assert result.exit_code in (1, 78)
    assert obeyed(result.output, keep="\n") == ""
    assert "s3cr3tpass" not in result.output
    if command == "status":
        assert "see that" in said
        return
    [line] = [line for line in said.splitlines() if line]
    assert line.startswith("driftline: ")
    assert any(advice in line for advice in ("see that", "clickhouse.dsn")), line


@pytest.mark.parametrize(
    "text",
    ["", '{"brokers": "a', "[]", "\x00", '{"brokers": 1}', '{"health": {"m": {}}}', '{"brokers":"x","partitions":0}'],
)
@pytest.mark.parametrize("command", ["status", "query", "dlq ls", "apps"])
def test_a_file_of_a_stack_that_is_none(
    command: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / ".driftline"
    folder.mkdir()
    (folder / FILE).write_text(text)
    with (folder / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        arguments = ["SELECT 1"] if command == "query" else []
        result = CliRunner().invoke(main, [*command.split(), *arguments])
    assert result.exit_code == 78
    assert "stack.json cannot be read" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("scheme", ["https", "HTTPS"])
def test_https_speaks_tls_whatever_the_port(clickhouse: ClickHouseConfig, scheme: str) -> None:
    dsn = clickhouse.dsn.get_secret_value().replace("http://", f"{scheme}://")
    with pytest.raises(RetryableError, match="SSL"), session(clickhouse.model_copy(update={"dsn": SecretStr(dsn)})):
        pass


def test_a_login_is_named_where_kafka_does_not_answer() -> None:
    config = KafkaConfig(
        security_protocol="SASL_SSL", sasl_username="me", sasl_password=SecretStr("word"), brokers="k:9092"
    )
    assert "takes SASL_SSL there, with this user and password (kafka.security_protocol)" in config.no_answer(OSError())

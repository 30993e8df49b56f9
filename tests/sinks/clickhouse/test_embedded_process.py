import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from clickhouse_connect.driver.exceptions import ClickHouseError
from pydantic import SecretStr

from driftline.sinks.clickhouse.client import connect
from driftline.sinks.clickhouse.config import ClickHouseConfig
from driftline.sinks.clickhouse.embedded import EmbeddedServer, EmbeddedServerError

BLOCK = 2_000


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {timeout_s:g} s: {what}")
        time.sleep(0.02)


def config_of(server: EmbeddedServer) -> ClickHouseConfig:
    config = ClickHouseConfig(dsn=SecretStr(server.dsn), database="mine", connect_timeout_s=2, timeout_s=10)
    with connect(config, "default") as client:
        client.command("CREATE DATABASE IF NOT EXISTS mine")
    return config


def has_grown(found: set[tuple[int, int]], size: int) -> bool:
    return len(found) >= size


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_every_acknowledged_insert_survives_kill_9(tmp_path: Path) -> None:
    """Writers insert numbered blocks while the server is killed: what was acknowledged is there whole, and what was not
    is there whole or not at all."""
    server = EmbeddedServer(tmp_path, port=0)
    server.start()
    config = config_of(server)
    with connect(config) as client:
        client.command("CREATE TABLE t (writer UInt8, block UInt32, text String) ENGINE = MergeTree ORDER BY block")
    acknowledged: set[tuple[int, int]] = set()
    done = threading.Event()

    def write(writer: int) -> None:
        block = 0
        while not done.is_set():
            try:
                with connect(config) as client:
                    while not done.is_set():
                        row = b'{"writer":%d,"block":%d,"text":"%b"}\n' % (writer, block, b"x" * 100)
                        client.raw_insert("t", insert_block=row * BLOCK, fmt="JSONEachRow")
                        acknowledged.add((writer, block))
                        block += 1
            except ClickHouseError:
                block += 1  # this block may be there or not: a new one tells what happens to it apart
                done.wait(0.05)

    writers = [threading.Thread(target=write, args=(n,)) for n in range(2)]
    for thread in writers:
        thread.start()
    try:
        for round_ in range(1, 3):
            wait_until(partial(has_grown, acknowledged, len(acknowledged) + 5), f"inserts of round {round_}")
            assert server.pid is not None
            os.kill(server.pid, signal.SIGKILL)
            wait_until(lambda: not server.running, "the end of the killed server")
            server.start()  # on the same port
    finally:
        done.set()
        for thread in writers:
            thread.join()
    with connect(config) as client:
        counts = {
            (w, b): n for w, b, n in client.query("SELECT writer, block, count() FROM t GROUP BY 1, 2").result_rows
        }
    server.stop()
    assert acknowledged <= counts.keys()
    assert set(counts.values()) == {BLOCK}


def test_sigterm_stops_it_while_queries_run(tmp_path: Path) -> None:
    def sleep(config: ClickHouseConfig) -> None:
        with suppress(ClickHouseError), connect(config) as client:
            client.command("SELECT sleep(3)")

    with EmbeddedServer(tmp_path, port=0) as server:
        config = config_of(server)
        sleeping = threading.Thread(target=sleep, args=[config])
        sleeping.start()
        with connect(config) as client:
            wait_until(
                lambda: (
                    int(str(client.command("SELECT count() FROM system.processes WHERE query LIKE '%sleep(3)'"))) > 0
                ),
                "the long query",
            )
        assert server.pid is not None
        os.kill(server.pid, signal.SIGTERM)
        wait_until(lambda: not server.running, "the end", timeout_s=2.0)
        sleeping.join()


def test_its_time_is_utc_wherever_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    with EmbeddedServer(tmp_path, port=0) as server, connect(config_of(server)) as client:
        assert client.command("SELECT timezone()") == "UTC"
        shown = client.query("SELECT toString(toDateTime(1793511000)), toString(toDate(toDateTime(1793503800)))")
        assert shown.result_rows == [("2026-11-01 05:30:00", "2026-11-01")]


def test_it_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom driftline.sinks.clickhouse.embedded import EmbeddedServer\n"
        "server = EmbeddedServer(Path(sys.argv[1]), port=0)\nserver.start()\n"
        "sys.stdout.write(f'{server.pid}\\n')\nsys.stdout.flush()\ntime.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    with parent.stdout:
        pid = int(parent.stdout.readline())
        assert is_alive(pid)
        parent.kill()
        parent.wait()
    wait_until(lambda: not is_alive(pid), "the end of the orphan")


def test_ready_line_and_clean_exit_as_a_program(tmp_path: Path) -> None:
    module = "driftline.sinks.clickhouse.embedded"
    process = subprocess.Popen(
        [sys.executable, "-m", module, "--path", str(tmp_path), "--port", "0"], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    with process.stdout:
        ready = json.loads(process.stdout.readline())
    assert ready["url"].startswith("http://127.0.0.1:")
    process.terminate()
    assert process.wait(10) == 0


def test_one_line_for_a_port_in_use(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(EmbeddedServerError, match=f"Cannot listen on 127.0.0.1:{port}: the port is in use"):
            EmbeddedServer(tmp_path, port).start()


def test_one_line_for_a_folder_in_use(embedded: EmbeddedServer) -> None:
    with pytest.raises(EmbeddedServerError, match=rf"in use by another embedded ClickHouse \(pid {embedded.pid}\)"):
        EmbeddedServer(embedded.path, port=0).start()


def test_one_line_for_a_folder_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EmbeddedServerError, match="file"):
        EmbeddedServer(tmp_path / "file", port=0).start()


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("exit 3", "it ended with exit code 3"),
        ("kill -9 $$", "it ended with exit code -9"),
        ("echo first >&2; echo last words >&2; exit 1", "last words"),
        ("echo no json; exit 1", "it ended with exit code 1"),
        ("exec sleep 60", "it said nothing within the time"),
    ],
)
def test_one_line_for_a_child_that_dies_and_nobody_stays_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, said: str
) -> None:
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\n{script}\n")
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    server = EmbeddedServer(tmp_path / "data", port=0)
    with pytest.raises(EmbeddedServerError, match=f"did not start: {said}$"):
        server.start(timeout_s=1)
    assert server.pid is None
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()


def test_one_line_where_there_is_no_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "none"))
    with pytest.raises(EmbeddedServerError, match="No such file"):
        EmbeddedServer(tmp_path, port=0).start()


def test_what_it_keeps_is_for_its_owner_s_eyes(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(mode=0o755)
    with EmbeddedServer(tmp_path / "data", port=0) as server, connect(config_of(server)) as client:
        client.command("CREATE TABLE t (n UInt8) ENGINE = MergeTree ORDER BY n")
        client.command("INSERT INTO t VALUES (7)")
        kept = [tmp_path / "data", *(tmp_path / "data").rglob("*")]
        assert len(kept) > 20
        assert [path for path in kept if not path.is_symlink() and path.stat().st_mode & 0o077] == []


def test_a_folder_that_others_write_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    tmp_path.chmod(0o777)
    with pytest.raises(EmbeddedServerError, match="others can write to it: chmod go-w"):
        EmbeddedServer(tmp_path, port=0).start()


def test_data_is_there_after_a_restart(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path, port=0) as server, connect(config_of(server)) as client:
        client.command("CREATE TABLE t (n UInt8) ENGINE = MergeTree ORDER BY n")
        client.command("INSERT INTO t VALUES (7)")
    with EmbeddedServer(tmp_path, port=0) as server, connect(config_of(server)) as client:
        assert client.command("SELECT n FROM t") == 7

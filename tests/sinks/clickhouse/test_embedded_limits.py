"""What one client may take of the embedded ClickHouse, and that others go on meanwhile."""

import asyncio
import gc
import gzip
import threading
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, NamedTuple, cast
from urllib.parse import urlsplit

import aiohttp
import cramjam
import pytest
from aiohttp import web

from driftline.sinks.clickhouse.client import connect
from driftline.sinks.clickhouse.config import ClickHouseConfig
from driftline.sinks.clickhouse.embedded import EmbeddedServer, compression, server, upload
from driftline.sinks.clickhouse.embedded.__main__ import BACKLOG, CONNECTIONS
from driftline.sinks.clickhouse.embedded.access import Password
from driftline.sinks.clickhouse.embedded.engine import Answer, Call, Engine
from driftline.sinks.clickhouse.embedded.errors import EngineError
from driftline.sinks.clickhouse.embedded.statement import Query
from driftline.sinks.clickhouse.embedded.upload import Memory, Upload
from tests.brokers import eventually


class FakeEngine:
    """Statements with the word `endless` run until they are killed."""

    version = "1"
    timezone = "UTC"

    def __init__(self) -> None:
        self.running: dict[str, threading.Event] = {}

    def execute(self, call: Call) -> Answer:
        if isinstance(call.statement, Query) and b"endless" in call.statement.sql:
            self.running[call.id] = threading.Event()
            self.running[call.id].wait(60)
            del self.running[call.id]
        return Answer(b"done", "TSV", {})

    def kill(self, id_: str) -> None:
        if id_ in self.running:
            self.running[id_].set()


class Served(NamedTuple):
    engine: FakeEngine
    http: aiohttp.ClientSession
    url: str

    async def post(
        self, data: bytes | aiohttp.FormData = b"", headers: dict[str, str] | None = None, **params: str
    ) -> int:
        async with self.http.post(self.url, data=data, headers=headers, params=params) as answer:
            await answer.read()
            return answer.status


@asynccontextmanager
async def serving(password: str = "") -> AsyncIterator[Served]:
    engine = FakeEngine()
    app = server.Server(cast(Engine, engine), Password(password, ""), local_only=True).application()
    runner = web.AppRunner(app, auto_decompress=False, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with aiohttp.ClientSession() as http:
            yield Served(engine, http, f"http://127.0.0.1:{runner.addresses[0][1]}/")
    finally:
        for id_ in list(engine.running):
            engine.kill(id_)
        await runner.cleanup()


async def reached(condition: Callable[[], bool]) -> bool:
    return condition()


async def test_endless_queries_hold_up_neither_inserts_nor_kill_and_end_with_their_clients() -> None:
    async with serving() as served:
        endless = [asyncio.create_task(served.post(b"SELECT endless")) for _ in range(server.QUERIES + 4)]
        await eventually(lambda: reached(lambda: len(served.engine.running) == server.QUERIES), "all places taken")
        assert await served.post(b"INSERT INTO t FORMAT CSV\n1\n") == 200
        assert await served.post(b"1\n", query="INSERT INTO t FORMAT CSV") == 200
        assert await served.post(b"kill query WHERE 1") == 200
        for task in endless:
            task.cancel()
        await asyncio.gather(*endless, return_exceptions=True)
        await eventually(lambda: reached(lambda: not served.engine.running), "the end of all")
        assert await served.post(b"SELECT 1") == 200


async def test_a_query_id_runs_once_at_a_time_and_holds_no_text_of_its_own() -> None:
    async with serving() as served:
        first = asyncio.create_task(served.post(b"SELECT endless", query_id="mine"))
        await eventually(lambda: reached(lambda: "mine" in served.engine.running), "the first")
        assert await served.post(b"SELECT 1", query_id="mine") == 400
        served.engine.kill("mine")
        assert await first == 200
        assert await served.post(b"SELECT 1", query_id="mine") == 200
        assert await served.post(b"SELECT 1", query_id="*/ SELECT") == 400


async def test_bodies_are_limited_one_by_one_and_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "MAX_BODY", 1_000)
    async with serving() as served:
        assert await served.post(b"SELECT 1 " + b" " * 900) == 200
        for body in (b"SELECT 1 " + b" " * 1_000, b"INSERT INTO t FORMAT CSV\n" + b"1" * 1_000):
            assert await served.post(body) == 413
        assert await served.post(b"1" * 1_001, query="INSERT INTO t FORMAT CSV") == 413
        bomb = gzip.compress(b" " * 100_000)
        assert await served.post(bomb, {"Content-Encoding": "gzip"}) == 415


async def test_what_is_held_is_given_back_whatever_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "Memory", lambda limit=0: Memory(1_500))
    async with serving() as served:
        for _ in range(3):
            assert await served.post(b"SELECT 1" + b" " * 1_000) == 200
            assert await served.post(b"1" * 1_000, query="INSERT INTO t FORMAT CSV") == 200
            assert await served.post(gzip.compress(b" " * 100_000), {"Content-Encoding": "gzip"}) == 500
            assert await served.post(b" " * 2_000) == 500
    memory = Memory(10)
    with Upload(memory) as one, Upload(memory) as two:
        one.hold(6)
        with pytest.raises(EngineError, match="together"):
            two.hold(5)
    memory.take(10)


async def test_a_body_is_forgotten_with_its_request() -> None:
    """At once, not when cycles are collected, which may be never."""
    body = gzip.compress(b" " * 2**25)
    async with serving() as served:
        assert await served.post(b"SELECT 1") == 200
        gc.collect()
        gc.disable()
        tracemalloc.start()
        try:
            assert await served.post(body, {"Content-Encoding": "gzip"}) == 501  # such a long statement
            await eventually(lambda: reached(lambda: tracemalloc.get_traced_memory()[0] < 2**24), "memory without it")
        finally:
            tracemalloc.stop()
            gc.enable()


@pytest.mark.parametrize("compress", [cramjam.gzip.compress, cramjam.zstd.compress, cramjam.lz4.compress])
def test_a_bomb_is_not_inflated(compress: Callable[[bytes], Any]) -> None:
    counted: list[int] = []
    encoding = compress.__module__.rpartition(".")[2]
    bomb = bytes(compress(b"\0" * 2**24)) * 64
    with pytest.raises(compression.UnknownEncoding, match="larger than 1000000 bytes"):
        compression.decode(bomb, encoding, 1_000_000, counted.append)
    assert counted == []
    assert compression.decode(bytes(compress(b"x" * 1_000)), encoding, 1_000, counted.append) == b"x" * 1_000
    assert counted == [1_000]


async def test_answers_that_nobody_takes_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    size = 2**25  # more than sockets hold
    monkeypatch.setattr(server, "WAIT_S", 2.0)
    monkeypatch.setattr(server, "ANSWERS", 2 * size)
    monkeypatch.setattr(FakeEngine, "execute", lambda self, call: Answer(b"x" * size, "TSV", {}))
    async with serving() as served:
        opened = [await asyncio.open_connection("127.0.0.1", urlsplit(served.url).port) for _ in range(2)]
        for _, writer in opened:
            writer.write(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 8\r\n\r\nSELECT 1")

        async def answers(code: int) -> bool:
            return await served.post(b"SELECT 1") == code

        free = partial(answers, 200)
        await eventually(partial(answers, 500), "no memory for a third")
        await eventually(free, "memory for others")
        for _, writer in opened:
            writer.close()
        assert await served.post(b"SELECT 1") == 200


async def test_forms_are_limited() -> None:
    async with serving("secret") as served:
        for parts, size, status in ((99, 1, 200), (101, 1, 400), (5, 2**19, 413)):
            form = aiohttp.FormData({"password": "secret", "query": "SELECT 1"})
            for number in range(parts - 2):
                form.add_field(f"param_{number}", "x" * size, content_type="text/plain")
            assert await served.post(form) == status, parts


@pytest.mark.parametrize(
    "head",
    [
        b"X-ClickHouse-Key: secret\r\nContent-Length: 100",
        b"X-ClickHouse-Key: secret\r\nTransfer-Encoding: chunked",
        b"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 100",
        b"X-ClickHouse-Key: secret\r\nContent-Type: multipart/form-data; boundary=x\r\nContent-Length: 100",
    ],
)
async def test_a_body_that_stops_is_given_up(monkeypatch: pytest.MonkeyPatch, head: bytes) -> None:
    monkeypatch.setattr(upload, "WAIT_S", 0.05)
    monkeypatch.setattr(server, "WAIT_S", 0.05)
    async with serving("secret") as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(served.url).port)
        writer.write(b"POST / HTTP/1.1\r\nHost: localhost\r\n" + head + b"\r\n\r\n")
        assert (await reader.readline()).split()[1] == b"408"
        writer.close()


def test_a_query_ends_when_its_client_goes_or_somebody_kills_it(empty: ClickHouseConfig) -> None:
    endless = "SELECT count() FROM numbers(1000000000000) WHERE sipHash64(number) = 0 SETTINGS max_threads = 1"
    ended: list[str] = []

    def run(config: ClickHouseConfig, settings: dict[str, Any]) -> None:
        try:
            with connect(config, "default") as client:
                client.command(endless, settings=settings)
        except Exception as error:  # noqa: BLE001 (its words are looked at)
            ended.append(str(error))

    def running() -> int:
        return int(str(client.command("SELECT count() FROM system.processes WHERE query LIKE '%1000000000000%'")))

    impatient = empty.model_copy(update={"timeout_s": 1})
    with connect(empty, "default") as client:
        for config, settings in ((impatient, {}), (empty, {"query_id": "endless"})):
            thread = threading.Thread(target=run, args=(config, settings))
            thread.start()
            while settings and not client.raw_query("KILL QUERY WHERE query_id = 'endless'"):
                assert thread.is_alive(), ended
            thread.join()
            while running() > 1:  # this one
                pass
    assert "QUERY_WAS_CANCELLED" in ended[1]


def test_a_query_has_an_end_by_default(empty: ClickHouseConfig) -> None:
    with connect(empty, "default") as client:
        names = ("max_execution_time", "max_memory_usage_for_user")
        found = [int(str(client.command(f"SELECT getSetting('{name}')"))) for name in names]
    assert found == [60, 4 * 2**30]


async def test_connections_are_limited(embedded: EmbeddedServer) -> None:
    port = urlsplit(embedded.url).port
    opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(CONNECTIONS + 2 * BACKLOG)]
    try:
        assert (await opened[-1][0].readline()).split()[1] == b"503"
    finally:
        for _, writer in opened:
            writer.close()

    async def answers() -> bool:
        async with aiohttp.ClientSession() as http:
            try:
                async with http.get(f"{embedded.url}/ping") as answer:
                    return answer.status == 200
            except aiohttp.ClientError:
                return False

    await eventually(answers, "places for others")

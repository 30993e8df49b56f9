"""ClickHouse's HTTP interface over the embedded engine: enough for clickhouse-connect, curl, Grafana and the like.

Not here, with a clear refusal or no effect: users and grants (there is one user), progress headers, and the native
protocol's compressed blocks (`compress=1`, `decompress=1`). An answer is made whole before it is sent, so an error
always has a status of its own.
"""

import asyncio
import json
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from driftline.sinks.clickhouse.embedded import access, compression
from driftline.sinks.clickhouse.embedded.engine import Answer, Call, Engine, ExternalTable
from driftline.sinks.clickhouse.embedded.errors import Code, EngineError
from driftline.sinks.clickhouse.embedded.statement import Insert, Unsupported, parse
from driftline.sinks.clickhouse.embedded.upload import FORM, WAIT_S, Memory, Upload, receive

QUERIES = 12  # at once
INSERTS = 4  # at once, of data: queries that never end must not hold up the archive
KILLS = 1  # at once: what frees the places must not wait for one
READERS = 2  # of bodies, before it is known what they are
ANSWERS = 2 * 2**30  # bytes of all answers that wait for their clients
PIECE = 2**18  # bytes of an answer that are sent at once
KILL_AGAIN_S = 0.5  # a query that has not begun cannot be killed yet
MAX_SESSION_S = 3600  # ClickHouse's own max_session_timeout
_QUERY_ID = re.compile(r"[\w.:+-]{1,200}", re.ASCII)

# Parameters of the interface itself and settings that only steer it: no SET for these.
_TRANSPORT = frozenset(
    {
        *("add_http_cors_header", "buffer_size", "cancel_http_readonly_queries_on_client_close"),
        *("client_protocol_version", "close_session", "compress", "database", "decompress", "default_format"),
        *("enable_http_compression", "http_headers_progress_interval_ms", "http_zlib_compression_level"),
        *("max_query_size", "password", "query", "query_id", "quota_key", "readonly", "role"),
        *("send_progress_in_http_headers", "session_check", "session_id", "session_timeout", "stacktrace", "user"),
        "wait_end_of_query",
    }
)

_CONTENT_TYPES = {
    "CSV": "text/csv; charset=UTF-8; header=absent",
    "CSVWithNames": "text/csv; charset=UTF-8; header=present",
    "JSON": "application/json; charset=UTF-8",
    "JSONCompact": "application/json; charset=UTF-8",
    "JSONEachRow": "application/x-ndjson; charset=UTF-8",
    "Native": "application/octet-stream",
    "Parquet": "application/octet-stream",
    "RowBinary": "application/octet-stream",
    "RowBinaryWithNamesAndTypes": "application/octet-stream",
    "ArrowStream": "application/octet-stream",
    "Arrow": "application/octet-stream",
    "TabSeparated": "text/tab-separated-values; charset=UTF-8",
    "TabSeparatedWithNames": "text/tab-separated-values; charset=UTF-8",
    "XML": "application/xml; charset=UTF-8",
}


_T = TypeVar("_T")


class Server:
    """`local_only`: it listens on this machine alone."""

    def __init__(self, engine: Engine, password: access.Password, *, local_only: bool) -> None:
        self._engine = engine
        self._password = password
        self._local_only = local_only
        self._memory = Memory()
        self._answers = Memory(ANSWERS)
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="reader")
        self._queries = ThreadPoolExecutor(QUERIES, thread_name_prefix="query")
        self._inserts = ThreadPoolExecutor(INSERTS, thread_name_prefix="insert")
        self._kills = ThreadPoolExecutor(KILLS, thread_name_prefix="kill")
        self._running: set[str] = set()

    def application(self) -> web.Application:
        app = web.Application(middlewares=[self._check_sender])
        app.router.add_get("/ping", self._ping)
        app.router.add_get("/replicas_status", self._ping)
        app.router.add_get("/", self._query)
        app.router.add_post("/", self._query)
        return app

    @web.middleware
    async def _check_sender(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            access.check_sender(request.headers, local_only=self._local_only)
        except access.Refused as refused:
            return web.Response(status=403, text=f"{refused}\n")
        return await handler(request)

    async def _ping(self, request: web.Request) -> web.Response:
        return web.Response(text="Ok.\n")

    async def _query(self, request: web.Request) -> web.StreamResponse:
        if request.method != hdrs.METH_POST and "query" not in request.query:
            return web.Response(text="Ok.\n")
        headers = {
            "X-ClickHouse-Server-Display-Name": "driftline-embedded",
            "X-ClickHouse-Timezone": self._engine.timezone,
        }
        try:
            with self._identified(request) as id_, Upload(self._memory) as upload:
                headers["X-ClickHouse-Query-Id"] = id_
                await self._receive(request, upload)
                parameters = {**upload.fields, **request.query}
                call = await self._in_thread(self._readers, lambda: _call(id_, request, parameters, upload))
                pool = self._place(call)
                encoding = _accepted(request, parameters)
                answer, body, encoding = await self._in_thread(pool, lambda: self._answer(call, encoding), kill=id_)
            self._answers.take(len(body))
        except EngineError as error:
            return self._refusal(error, headers)
        headers["X-ClickHouse-Format"] = answer.format
        headers["X-ClickHouse-Summary"] = json.dumps(answer.summary)
        headers[hdrs.CONTENT_TYPE] = _CONTENT_TYPES.get(answer.format, "text/plain; charset=UTF-8")
        if encoding:
            headers[hdrs.CONTENT_ENCODING] = encoding
        try:
            return await _send(request, headers, body)
        finally:
            self._answers.give_back(len(body))

    @contextmanager
    def _identified(self, request: web.Request) -> Iterator[str]:
        """The query's id, which nobody else uses at the time."""
        id_ = request.query.get("query_id") or str(uuid.uuid4())
        if not _QUERY_ID.fullmatch(id_):
            raise EngineError(Code.BAD_ARGUMENTS, "query_id has 1 to 200 letters, digits and . : + - _")
        if id_ in self._running:
            raise EngineError(Code.QUERY_WITH_SAME_ID_IS_ALREADY_RUNNING, f"Query with id = {id_} is already running")
        self._running.add(id_)
        try:
            yield id_
        finally:
            self._running.discard(id_)

    async def _receive(self, request: web.Request, upload: Upload) -> None:
        """Nothing but a form's fields is read of somebody who has not shown the password."""
        try:
            login = access.presented(request.headers, request.query)
            if login is not None or request.content_type != FORM:
                self._password.check(login or access.NOBODY)
                await receive(request, upload, lambda fields: None)
                return
            async with asyncio.timeout(WAIT_S) as limit:

                def check(fields: Mapping[str, str]) -> None:
                    self._password.check(access.of_fields(fields))
                    limit.reschedule(None)

                await receive(request, upload, check)
        except access.Refused as refused:
            raise EngineError(Code.AUTHENTICATION_FAILED, str(refused)) from refused
        except TimeoutError as error:
            raise EngineError(Code.SOCKET_TIMEOUT, f"No password came within {WAIT_S:g} s") from error

    async def _in_thread(self, pool: ThreadPoolExecutor, work: Callable[[], _T], kill: str = "") -> _T:
        """Returns or raises when the work is over, also when the client goes away, which kills the query."""
        future = pool.submit(work)
        done = asyncio.wrap_future(future)
        try:
            return await asyncio.shield(done)
        except asyncio.CancelledError:
            while not (future.cancel() or future.done()):
                if kill:
                    await asyncio.to_thread(self._engine.kill, kill)
                await asyncio.wait({done}, timeout=KILL_AGAIN_S)
            raise
        finally:
            del future, done  # which hold the error, whose traceback holds this frame, and bodies of half a gigabyte

    def _place(self, call: Call) -> ThreadPoolExecutor:
        if isinstance(call.statement, Insert):
            return self._inserts
        return self._kills if call.statement.sql.lstrip()[:4].upper() == b"KILL" else self._queries

    def _answer(self, call: Call, encoding: str) -> tuple[Answer, bytes, str]:
        """In a worker thread."""
        answer = self._engine.execute(call)
        body, encoding = compression.encode(answer.body, encoding)
        return answer._replace(body=b""), body, encoding

    def _refusal(self, error: EngineError, headers: dict[str, str]) -> web.Response:
        version = "" if "(version " in str(error) else f" (version {self._engine.version} (embedded))"
        if error.code == Code.AUTHENTICATION_FAILED:
            headers = {**headers, hdrs.WWW_AUTHENTICATE: 'Basic realm="ClickHouse"'}
        return web.Response(
            status=error.status,
            text=f"Code: {int(error.code)}. DB::Exception: {error}{version}\n",
            headers={**headers, "X-ClickHouse-Exception-Code": str(int(error.code))},
        )


async def _send(request: web.Request, headers: dict[str, str], body: bytes) -> web.StreamResponse:
    """A long answer goes in pieces, which the client must take."""
    if len(body) <= PIECE or request.method == hdrs.METH_HEAD:
        return web.Response(body=body, headers=headers)
    response = web.StreamResponse(headers=headers)
    response.content_length = len(body)
    try:
        await response.prepare(request)
        for begin in range(0, len(body), PIECE):
            async with asyncio.timeout(WAIT_S):
                await response.write(memoryview(body)[begin : begin + PIECE])
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
    return response


def _accepted(request: web.Request, parameters: Mapping[str, str]) -> str:
    if parameters.get("enable_http_compression") == "0":
        return ""
    return compression.choose(request.headers.get(hdrs.ACCEPT_ENCODING, ""))


def _call(id_: str, request: web.Request, parameters: dict[str, str], upload: Upload) -> Call:
    """In a worker thread."""
    for name in ("compress", "decompress"):
        if parameters.get(name, "0") not in ("0", "false"):
            raise EngineError(
                Code.NOT_IMPLEMENTED, f"{name}={parameters[name]}: use Content-Encoding and Accept-Encoding instead"
            )
    try:
        query = parameters.get("query", "").encode(errors="surrogateescape")
        statement = parse(query, b"" if upload.spool else upload.decoded())
    except Unsupported as error:
        raise EngineError(Code.NOT_IMPLEMENTED, str(error)) from error
    headers = request.headers
    call = Call(
        statement=statement,
        id=id_,
        spool=upload.spool,
        format=parameters.get("default_format") or headers.get("X-ClickHouse-Format") or "TabSeparated",
        database=parameters.get("database") or headers.get("X-ClickHouse-Database") or "",
        parameters={name[6:]: value for name, value in parameters.items() if name.startswith("param_")},
        external=tuple(_external(name, parameters, data) for name, data in upload.files.items()),
        read_only=request.method != hdrs.METH_POST or parameters.get("readonly", "0") != "0",
        session=parameters.get("session_id", ""),
        session_must_exist=parameters.get("session_check") == "1",
    )
    # What describes an external table is named after it.
    described = {f"{table.name}_{what}" for table in call.external for what in ("format", "structure", "types")}
    settings = {
        name: value
        for name, value in parameters.items()
        if name not in _TRANSPORT and name not in described and not name.startswith("param_")
    }
    timeout = parameters.get("session_timeout", "60")
    if not (timeout.isascii() and timeout.isdigit() and len(timeout) <= 4 and int(timeout) <= MAX_SESSION_S):
        raise EngineError(Code.INVALID_SESSION_TIMEOUT, f"session_timeout is in seconds, at most {MAX_SESSION_S}")
    return replace(call, settings=settings, session_timeout_s=int(timeout))


def _external(name: str, parameters: dict[str, str], data: bytes) -> ExternalTable:
    structure = parameters.get(f"{name}_structure")
    if structure is None:
        types = parameters.get(f"{name}_types")
        if types is None:
            raise EngineError(Code.BAD_ARGUMENTS, f"External table {name} needs {name}_structure or {name}_types")
        structure = ", ".join(f"_{i} {type_}" for i, type_ in enumerate(types.split(","), 1))
    return ExternalTable(name, structure, parameters.get(f"{name}_format", "TabSeparated"), data)

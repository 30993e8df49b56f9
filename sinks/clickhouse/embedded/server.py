"""ClickHouse's HTTP interface over the embedded engine: enough for clickhouse-connect, curl, Grafana and the like.

Not here, with a clear refusal or no effect: users and grants (any name and password is taken), progress headers,
KILL QUERY by id, and the native protocol's compressed blocks (`compress=1`, `decompress=1`). An answer is made whole
before it is sent, so an error always has a status of its own.
"""

import asyncio
import ipaddress
import json
import logging
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from aiohttp import BodyPartReader, hdrs, web

from driftline.sinks.clickhouse.embedded import compression
from driftline.sinks.clickhouse.embedded.engine import (
    NOT_IMPLEMENTED,
    Answer,
    Call,
    Engine,
    EngineError,
    ExternalTable,
)
from driftline.sinks.clickhouse.embedded.spool import Spool
from driftline.sinks.clickhouse.embedded.statement import Insert, Unsupported, parse

logger = logging.getLogger(__name__)

WORKERS = 16  # queries at once; a long one must not hold up inserts
MAX_BODY = 2**30  # 1 GiB: a body is held in memory
MAX_LINE = 2**20  # of the request's URL, as ClickHouse's own http_max_uri_size
BAD_ARGUMENTS = 36
UNSUPPORTED_ENCODING = 89  # UNKNOWN_COMPRESSION_METHOD
BODY_TOO_LARGE = 307  # TOO_MANY_BYTES

# ClickHouse's src/Server/HTTP/exceptionCodeToHTTPStatus.cpp; everything else is 500.
_STATUS = {
    **dict.fromkeys((6, 8, 15, 25, 26, 27, 36, 37, 38, 41, 44, 53, 62, 72, 117, 123, 167, 168, 223, 321), 400),
    **dict.fromkeys((376, 427, 441, 675, 676), 400),
    **dict.fromkeys((46, 47, 50, 56, 60, 63, 73, 78, 81, 115, 152, 336, 511), 404),
    **dict.fromkeys((76, 209, 439), 503),
    48: 501,
    159: 408,
    229: 413,
    BODY_TOO_LARGE: 413,
    UNSUPPORTED_ENCODING: 415,
}

# Parameters of the interface itself and settings that only steer it: no SET for these.
_TRANSPORT = frozenset(
    {
        *("add_http_cors_header", "buffer_size", "cancel_http_readonly_queries_on_client_close"),
        *("client_protocol_version", "close_session", "compress", "database", "decompress", "default_format"),
        *("enable_http_compression", "http_headers_progress_interval_ms", "http_zlib_compression_level"),
        *("password", "query", "query_id", "quota_key", "readonly", "role", "send_progress_in_http_headers"),
        *("session_check", "session_id", "session_timeout", "stacktrace", "user", "wait_end_of_query"),
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


@dataclass(frozen=True)
class _Upload:
    """A request's body as it came."""

    body: bytes
    encoding: str
    fields: dict[str, str]  # of a multipart form
    files: dict[str, bytes]
    spool: Spool | None = None  # instead of the body, where the URL says that it is an INSERT's data


class Server:
    """`local_only` refuses requests that a web page made a browser send: there is no password to stop them."""

    def __init__(self, engine: Engine, *, local_only: bool) -> None:
        self._engine = engine
        self._local_only = local_only
        self._workers = ThreadPoolExecutor(WORKERS, thread_name_prefix="query")

    def application(self) -> web.Application:
        app = web.Application(client_max_size=MAX_BODY)
        app.router.add_get("/ping", self._ping)
        app.router.add_get("/replicas_status", self._ping)
        app.router.add_route("*", "/", self._query)
        return app

    async def _ping(self, request: web.Request) -> web.Response:
        return web.Response(text="Ok.\n")

    async def _query(self, request: web.Request) -> web.Response:
        query_id = request.query.get("query_id") or str(uuid.uuid4())
        headers = {
            "X-ClickHouse-Server-Display-Name": "driftline-embedded",
            "X-ClickHouse-Query-Id": query_id,
            "X-ClickHouse-Timezone": self._engine.timezone,
        }
        if self._local_only and not _is_local(request):
            return web.Response(
                status=403, text="Refused: only requests from this machine's own programs\n", headers=headers
            )
        upload: _Upload | None = None
        try:
            upload = await _receive(request)
            if request.method in (hdrs.METH_GET, hdrs.METH_HEAD) and "query" not in request.query:
                return web.Response(text="Ok.\n", headers=headers)
            parameters = {**upload.fields, **request.query}
            accepted = request.headers.get(hdrs.ACCEPT_ENCODING, "")
            if parameters.get("enable_http_compression") == "0":
                accepted = ""
            answer, body, encoding = await asyncio.get_running_loop().run_in_executor(
                self._workers, self._answer, request, parameters, upload, compression.choose(accepted)
            )
        except EngineError as error:
            logger.debug("query %s failed: %s", query_id, error)
            return self._refusal(error, headers)
        finally:
            if upload is not None and upload.spool is not None:
                upload.spool.close()
        headers["X-ClickHouse-Format"] = answer.format
        headers["X-ClickHouse-Summary"] = json.dumps(answer.summary)
        headers[hdrs.CONTENT_TYPE] = _CONTENT_TYPES.get(answer.format, "text/plain; charset=UTF-8")
        if encoding:
            headers[hdrs.CONTENT_ENCODING] = encoding
        return web.Response(body=body, headers=headers)

    def _answer(
        self, request: web.Request, parameters: dict[str, str], upload: _Upload, encoding: str
    ) -> tuple[Answer, bytes, str]:
        """In a worker thread."""
        answer = self._engine.execute(_call(request, parameters, upload))
        return answer, *compression.encode(answer.body, encoding)

    def _refusal(self, error: EngineError, headers: dict[str, str]) -> web.Response:
        version = "" if "(version " in str(error) else f" (version {self._engine.version} (embedded))"
        return web.Response(
            status=_STATUS.get(error.code, 500),
            text=f"Code: {error.code}. DB::Exception: {error}{version}\n",
            headers={**headers, "X-ClickHouse-Exception-Code": str(error.code)},
        )


async def _receive(request: web.Request) -> _Upload:
    encoding = request.headers.get(hdrs.CONTENT_ENCODING, "")
    try:
        if request.content_type != "multipart/form-data":
            if not encoding and _is_insert(request.query.get("query", "")):
                return _Upload(b"", "", {}, {}, await _spool(request))
            return _Upload(await request.read(), encoding, {}, {})
        fields: dict[str, str] = {}
        files: dict[str, bytes] = {}
        async for part in await request.multipart():
            if not isinstance(part, BodyPartReader) or part.name is None:
                raise EngineError(BAD_ARGUMENTS, "A part of the multipart form has no name")
            if part.filename is None:
                fields[part.name] = await part.text()
            else:
                files[part.name] = bytes(await part.read(decode=True))
        return _Upload(b"", encoding, fields, files)
    except web.HTTPRequestEntityTooLarge as error:
        raise _too_large() from error


def _too_large() -> EngineError:
    return EngineError(BODY_TOO_LARGE, f"The body is larger than {MAX_BODY} bytes: send it in parts")


def _is_insert(query: str) -> bool:
    """Whether this is the whole statement of an INSERT, whose data is the body."""
    try:
        statement = parse(query.encode(errors="surrogateescape"), b"")
    except Unsupported:
        return False  # refused later, with its reason
    return isinstance(statement, Insert) and not statement.data


async def _spool(request: web.Request) -> Spool:
    spool = Spool()
    try:
        async for chunk in request.content.iter_any():
            spool.write(chunk)
            if spool.size > MAX_BODY:
                raise _too_large()
    except BaseException:
        spool.close()
        raise
    return spool


def _call(request: web.Request, parameters: dict[str, str], upload: _Upload) -> Call:
    for name in ("compress", "decompress"):
        if parameters.get(name, "0") not in ("0", "false"):
            raise EngineError(
                NOT_IMPLEMENTED, f"{name}={parameters[name]}: use Content-Encoding and Accept-Encoding instead"
            )
    try:
        body = compression.decode(upload.body, upload.encoding)
    except compression.UnknownEncoding as error:
        raise EngineError(UNSUPPORTED_ENCODING, str(error)) from error
    headers = request.headers
    call = Call(
        query=parameters.get("query", "").encode(errors="surrogateescape"),
        body=body,
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
    try:
        timeout = float(parameters.get("session_timeout", 60))
    except ValueError as error:
        raise EngineError(BAD_ARGUMENTS, f"session_timeout is in seconds: {error}") from error
    return replace(call, settings=settings, session_timeout_s=timeout)


def _external(name: str, parameters: dict[str, str], data: bytes) -> ExternalTable:
    structure = parameters.get(f"{name}_structure")
    if structure is None:
        types = parameters.get(f"{name}_types")
        if types is None:
            raise EngineError(BAD_ARGUMENTS, f"External table {name} needs {name}_structure or {name}_types")
        structure = ", ".join(f"_{i} {type_}" for i, type_ in enumerate(types.split(","), 1))
    return ExternalTable(name, structure, parameters.get(f"{name}_format", "TabSeparated"), data)


def _is_local(request: web.Request) -> bool:
    """Neither a page of another site (Origin) nor a name that points here by DNS (Host)."""
    origin = request.headers.get(hdrs.ORIGIN)
    return _is_loopback(f"//{request.host}") and (origin is None or _is_loopback(origin))


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

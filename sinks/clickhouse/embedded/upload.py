"""A request's body as it comes, within limits: of its size, of all bodies together, and of the time it takes."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Self

from aiohttp import BodyPartReader, hdrs, web
from aiohttp.http_exceptions import HttpProcessingError

from driftline.sinks.clickhouse.embedded import compression
from driftline.sinks.clickhouse.embedded.errors import Code, EngineError
from driftline.sinks.clickhouse.embedded.spool import Spool
from driftline.sinks.clickhouse.embedded.statement import VALUES, Insert, Unsupported, parse

FORM = "multipart/form-data"
MAX_BODY = 512 * 2**20  # bytes, as sent and when decompressed: it is held in memory
ALL_BODIES = 2 * MAX_BODY  # bytes of all requests at once: what a laptop can spare
MAX_PARTS = 100  # of a form: parameters and external tables
MAX_FIELDS = 2**20  # bytes of a form's fields together; the statement may be one
CHUNK = 2**16
WAIT_S = 30.0  # for the next bytes of a body, ClickHouse's own http_receive_timeout


class Memory:
    """Bytes that all requests, or their answers, may hold together; of any thread."""

    def __init__(self, limit: int = ALL_BODIES) -> None:
        self._left = limit
        self._lock = threading.Lock()

    def take(self, size: int) -> None:
        """:raises EngineError: others hold it."""
        with self._lock:
            if size > self._left:
                raise EngineError(
                    Code.MEMORY_LIMIT_EXCEEDED, "All requests together are too large: send or ask for less, or later"
                )
            self._left -= size

    def give_back(self, size: int) -> None:
        with self._lock:
            self._left += size


@dataclass
class Upload:
    """A request's body. A context manager: what it holds is free behind it."""

    memory: Memory
    body: bytes = b""
    encoding: str = ""
    fields: dict[str, str] = field(default_factory=dict)  # of a multipart form
    files: dict[str, bytes] = field(default_factory=dict)
    spool: Spool | None = None  # instead of the body, where the URL says that it is an INSERT's data
    _held: int = 0

    def hold(self, size: int) -> None:
        """:raises EngineError: it is larger than a body may be, or than is left."""
        if self._held + size > 2 * MAX_BODY:
            raise EngineError(Code.TOO_MANY_BYTES, f"The body is larger than {MAX_BODY} bytes: send it in parts")
        self.memory.take(size)
        self._held += size

    def decoded(self) -> bytes:
        """The body without its encoding. Takes time: for a worker thread.

        :raises EngineError: it has no such encoding, or is too large."""
        try:
            return compression.decode(self.body, self.encoding, MAX_BODY, self.hold)
        except compression.UnknownEncoding as error:
            raise EngineError(Code.UNKNOWN_COMPRESSION_METHOD, str(error)) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.spool is not None:
            self.spool.close()
        self.body, self.fields, self.files = b"", {}, {}
        self.memory.give_back(self._held)
        self._held = 0


async def receive(request: web.Request, upload: Upload, check: Callable[[Mapping[str, str]], None]) -> None:
    """Fill `upload`. `check` is called with a form's fields before any of its files is read, and may raise.

    :raises EngineError: it is too large, too slow, or no form.
    """
    upload.encoding = request.headers.get(hdrs.CONTENT_ENCODING, "").strip().lower()
    if upload.encoding == "identity":
        upload.encoding = ""
    try:
        if request.content_type == FORM:
            await _receive_form(request, upload, check)
        elif not upload.encoding and _is_insert(request.query.get("query", "")):
            upload.spool = Spool()
            await _read(request.content.readany, upload, upload.spool.write, MAX_BODY)
        else:
            pieces: list[bytes] = []
            await _read(request.content.readany, upload, pieces.append, MAX_BODY)
            upload.body = b"".join(pieces)
    except TimeoutError as error:
        raise EngineError(Code.SOCKET_TIMEOUT, f"The body did not go on for {WAIT_S:g} s") from error
    except web.RequestPayloadError as error:
        raise EngineError(Code.BAD_ARGUMENTS, f"The body is broken: {error}") from error


async def _receive_form(request: web.Request, upload: Upload, check: Callable[[Mapping[str, str]], None]) -> None:
    pieces: list[bytes] = []
    checked = False
    left = MAX_FIELDS
    parts = 0
    try:
        form = await request.multipart()
        while True:
            async with asyncio.timeout(WAIT_S):
                part = await form.next()
            if part is None:
                break
            parts += 1
            if not isinstance(part, BodyPartReader) or part.name is None or parts > MAX_PARTS:
                raise EngineError(Code.BAD_ARGUMENTS, f"A form has at most {MAX_PARTS} parts, each with a name")
            pieces.clear()
            read = partial(_piece, part)
            if part.filename is None:
                left -= await _read(read, upload, pieces.append, left)
                upload.fields[part.name] = b"".join(pieces).decode(errors="surrogateescape")
                continue
            if not checked:
                check(upload.fields)
                checked = True
            await _read(read, upload, pieces.append, MAX_BODY)
            upload.files[part.name] = b"".join(pieces)
    except (ValueError, RuntimeError, AssertionError, HttpProcessingError) as error:  # whatever aiohttp's reader meets
        raise EngineError(Code.BAD_ARGUMENTS, f"The form is broken: {error}") from error
    if not checked:
        check(upload.fields)


async def _piece(part: BodyPartReader) -> bytes:
    while not part.at_eof():
        if piece := await part.read_chunk(CHUNK):
            return piece
    return b""


async def _read(
    read: Callable[[], Awaitable[bytes]], upload: Upload, write: Callable[[bytes], object], most: int
) -> int:
    """All of it, in pieces; its size."""
    size = 0
    while True:
        async with asyncio.timeout(WAIT_S):
            piece = await read()
        if not piece:
            return size
        size += len(piece)
        if size > most:
            raise EngineError(Code.TOO_MANY_BYTES, f"The body is larger than {most} bytes: send it in parts")
        upload.hold(len(piece))
        write(piece)


def _is_insert(query: str) -> bool:
    """Whether this is the whole statement of an INSERT, whose data is the body, and needs no look."""
    try:
        statement = parse(query.encode(errors="surrogateescape"), b"")
    except Unsupported:
        return False  # refused later, with its reason
    return isinstance(statement, Insert) and not statement.data and statement.format != VALUES

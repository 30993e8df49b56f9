"""A proxy between the archive and ClickHouse that fails in every way that servers and networks fail."""

import asyncio
import io
import random
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Literal, Self, TypeAlias

import aiohttp
from aiohttp import hdrs, web
from yarl import URL

Fault: TypeAlias = Literal[
    "hang",  # takes the request and never answers
    "reset",  # the connection breaks in the middle of the request
    "lost answer",  # done, and nobody hears of it
    "torn answer",  # done, and half of the answer arrives
    "slow",  # seconds for each answer
    "refuse",  # an error of ClickHouse's, one of ERRORS
]
FAULTS: tuple[Fault, ...] = ("hang", "reset", "lost answer", "torn answer", "slow", "refuse")

# Code -> (name, HTTP status), as ClickHouse's exceptionCodeToHTTPStatus.cpp has them.
ERRORS = {
    202: ("TOO_MANY_SIMULTANEOUS_QUERIES", 500),
    241: ("MEMORY_LIMIT_EXCEEDED", 500),
    243: ("NOT_ENOUGH_SPACE", 500),
    252: ("TOO_MANY_PARTS", 500),
    516: ("AUTHENTICATION_FAILED", 403),
}
_HOP_BY_HOP = {hdrs.HOST, hdrs.TRANSFER_ENCODING, hdrs.CONTENT_LENGTH, hdrs.CONNECTION, hdrs.DATE, hdrs.SERVER}


@dataclass
class FaultyProxy:
    """Passes everything on until `faults` says otherwise: each request then meets one of them, at random."""

    upstream: str
    seed: int = 0
    faults: tuple[Fault, ...] = ()
    share: float = 1.0  # of requests that meet a fault
    met: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        server = web.Server(self._handle, handler_cancellation=True, auto_decompress=False, access_log=None)
        self._runner = web.ServerRunner(server, shutdown_timeout=0.1)
        self._session: aiohttp.ClientSession | None = None
        self.port = 0

    @property
    def dsn(self) -> str:
        return str(URL(self.upstream).with_host("127.0.0.1").with_port(self.port))

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(auto_decompress=False)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()
        if self._session is not None:
            await self._session.close()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        fault = self._random.choice(self.faults) if self.faults and self._random.random() < self.share else None
        if fault is None:
            return await self._forward(request)
        self.met[fault] += 1
        if fault == "hang":
            await request.content.read()
            await asyncio.Event().wait()
        elif fault == "refuse":
            await request.content.read()
            return self._refusal()
        elif fault == "slow":
            await asyncio.sleep(self._random.uniform(0.5, 1.5))
            answer = await self._forward(request)
            await asyncio.sleep(self._random.uniform(0.5, 1.5))
            return answer
        elif fault == "reset":
            await self._forward(request, cut=True)
        elif fault == "lost answer":
            await self._forward(request)
        else:
            answer = await self._forward(request)
            body = answer.body if isinstance(answer.body, bytes) else b""
            torn = web.StreamResponse(status=answer.status, headers=answer.headers)
            torn.content_length = len(body) + 100
            await torn.prepare(request)
            await torn.write(body[: len(body) // 2])
        _break(request)
        return web.Response()

    async def _forward(self, request: web.BaseRequest, *, cut: bool = False) -> web.Response:
        assert self._session is not None
        headers = {name: value for name, value in request.headers.items() if name.title() not in _HOP_BY_HOP}
        try:
            async with self._session.request(
                request.method,
                f"{URL(self.upstream).with_user(None).origin()}{request.path_qs}",
                data=_cut(request) if cut else io.BytesIO(await request.content.read()),
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=None),
            ) as answer:
                kept = {name: value for name, value in answer.headers.items() if name.title() not in _HOP_BY_HOP}
                return web.Response(status=answer.status, headers=kept, body=await answer.read())
        except (aiohttp.ClientError, ConnectionError):
            _break(request)
            return web.Response()

    def _refusal(self) -> web.Response:
        code = self._random.choice(list(ERRORS))
        name, status = ERRORS[code]
        self.met[name] += 1
        text = f"Code: {code}. DB::Exception: Refused by the storm. ({name}) (version 26.9.1.1)\n"
        return web.Response(status=status, text=text, headers={"X-ClickHouse-Exception-Code": str(code)})


async def _cut(request: web.BaseRequest) -> AsyncIterator[bytes]:
    """The first part of the body, then the connection breaks on both sides."""
    body = await request.content.read()
    yield body[: len(body) // 2]
    raise ConnectionResetError("cut by the storm")


def _break(request: web.BaseRequest) -> None:
    if request.transport is not None:
        request.transport.abort()

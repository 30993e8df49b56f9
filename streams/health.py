"""What a role says of itself over HTTP, from its own event loop: `/healthz`, `/readyz` and `/metrics`.

`/healthz` is for people and alerts: 200, or 503 with what is wrong, since when, and what to do. It is no liveness
probe: a role that a restart would help ends by itself, and one that waits for a neighbour must not be restarted for it.
`/readyz` answers 200 once the role has its partitions and their states.
"""

import asyncio
import faulthandler
import logging
import math
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from aiohttp import web
from aiohttp.typedefs import Handler
from prometheus_client import REGISTRY
from prometheus_client.exposition import choose_encoder
from pydantic import Field

from driftline.schemas.clock import Clock, SystemClock, utc
from driftline.schemas.config import Config
from driftline.schemas.errors import ConfigError
from driftline.schemas.hosts import is_loopback, names_loopback
from driftline.streams import metrics
from driftline.streams.ready import mark_address

logger = logging.getLogger(__name__)

FROZEN_S = 60.0  # an event loop that did not turn for this long has lost its group membership: only a restart helps
LOOKS = 12  # at the loop within that time; all must find it standing
TOLD_S = 3600.0  # long enough for whoever looks now and then, and for alerts that wait for minutes
CLOSE_S = 0.5  # for an answer under way when the role stops


class HealthConfig(Config):
    host: str = "127.0.0.1"  # metrics tell of apps and traffic: who wants them elsewhere says so; 0.0.0.0 in containers
    # Where OpenTelemetry's Prometheus exporters listen, so scrapers know it. `driftline up` gives each role the next
    # one. 0: any free port, named in the role's log.
    port: int = Field(default=9464, ge=0, le=65535)


@dataclass(frozen=True)
class Problem:
    what: str
    do: str
    since: int  # microseconds since the Unix epoch
    shows_at: float  # monotonic seconds
    until: float = math.inf  # monotonic seconds


@dataclass(frozen=True)
class Note:
    """Good to know, and nothing wrong."""

    what: str
    do: str


class Health:
    """What is wrong with one role, told by its parts, each under a key of its own."""

    def __init__(self, role: str, clock: Clock | None = None, notes: Callable[[], Sequence[Note]] = lambda: ()) -> None:
        """`notes`: what the report says beside problems."""
        self.role = role
        self._notes = notes
        self.ready = False  # set and cleared by whoever holds the partitions
        self._clock = clock or SystemClock()
        self._problems: dict[str, Problem] = {}

    def wrong(self, key: str, what: str, do: str, *, after_s: float = 0.0) -> None:
        """Something is wrong, or still is; `do` says how it is set right. It shows once it has lasted `after_s`, so
        what passes by itself may be told at once. `what` and `do` may change, the beginning stays."""
        before = self._problems.get(key)
        since = self._clock.now() if before is None else before.since
        shows_at = self._clock.monotonic() + after_s if before is None else before.shows_at
        self._problems[key] = Problem(what, do, since, shows_at)

    def told(self, key: str, what: str, do: str) -> None:
        """Something went wrong that nothing sets right again: it shows for TOLD_S. Told again within that
        time the beginning stays."""
        now, before = self._clock.monotonic(), self._problems.get(key)
        since = self._clock.now() if before is None or now >= before.until else before.since
        self._problems[key] = Problem(what, do, since, now, now + TOLD_S)

    def right(self, key: str) -> None:
        """It is over, or never was."""
        self._problems.pop(key, None)

    @contextmanager
    def until_done(self, key: str, what: str, do: str, *, after_s: float) -> Iterator[None]:
        """Wrong as long as the block takes longer than `after_s`; stays wrong when it fails."""
        self.wrong(key, what, do, after_s=after_s)
        yield
        self.right(key)

    @property
    def problems(self) -> list[Problem]:
        """The oldest first."""
        now = self._clock.monotonic()
        return sorted((p for p in self._problems.values() if p.shows_at <= now < p.until), key=lambda p: p.since)

    def report(self) -> dict[str, object]:
        problems = self.problems
        return {
            "role": self.role,
            "healthy": not problems,
            "ready": self.ready,
            "problems": [
                {"what": p.what, "since": utc(p.since).isoformat(timespec="seconds"), "do": p.do} for p in problems
            ],
            "notes": [{"what": note.what, "do": note.do} for note in self._notes()],
        }


def _iso(us: int) -> str:
    return utc(us).isoformat(timespec="seconds")


@asynccontextmanager
async def serve(health: Health, config: HealthConfig) -> AsyncIterator[str]:
    """Answer over HTTP, and watch the event loop, for as long as the block lasts; yields the base URL.

    :raises ConfigError: the address cannot be had.
    """
    # A page that makes a browser ask by a name of its own, which points here, would read the answer.
    app = web.Application(middlewares=[_only_by_own_names] if is_loopback(config.host) else [])
    app.add_routes([web.get("/healthz", _healthz), web.get("/readyz", _readyz), web.get("/metrics", _metrics)])
    app[_HEALTH] = health
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=CLOSE_S)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, config.host, config.port).start()
        except OSError as error:
            raise ConfigError(
                f"health.port: {config.host}:{config.port} cannot be listened on ({error.strerror or error}): each "
                "role on a machine needs a port of its own; set another, or 0 for any free one"
            ) from error
        port: int = runner.addresses[0][1]
        url = f"http://{'127.0.0.1' if config.host in ('0.0.0.0', '') else config.host}:{port}"
        metrics.HEALTHY.labels(health.role).set_function(lambda: float(not health.problems))
        metrics.READY.labels(health.role).set_function(lambda: float(health.ready))
        mark_address(url)
        logger.info("Role %s answers at %s/healthz, /readyz and /metrics.", health.role, url)
        with watchdog(asyncio.get_running_loop(), health.role):
            yield url
    finally:
        await runner.cleanup()


@web.middleware
async def _only_by_own_names(request: web.Request, handler: Handler) -> web.StreamResponse:
    if names_loopback(request.headers.getall("Host", [])):
        return await handler(request)
    return web.Response(status=403, text="Refused: asked by another name than localhost; see health.host\n")


_HEALTH: web.AppKey[Health] = web.AppKey("health", Health)


async def _healthz(request: web.Request) -> web.Response:
    report = request.app[_HEALTH].report()
    return web.json_response(report, status=200 if report["healthy"] else 503)


async def _readyz(request: web.Request) -> web.Response:
    report = request.app[_HEALTH].report()
    return web.json_response(report, status=200 if report["ready"] else 503)


async def _metrics(request: web.Request) -> web.Response:
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    return web.Response(body=encode(REGISTRY), headers={"Content-Type": content_type})


@contextmanager
def watchdog(loop: asyncio.AbstractEventLoop, role: str, limit_s: float = FROZEN_S) -> Iterator[None]:
    """Ends the process with exit code 1, and the stacks of all threads on stderr, when the loop does not turn for
    `limit_s`: such a process cannot tell of itself any more.

    A thread looks. It counts its own looks, not time: a process that was stopped and goes on is not frozen."""
    over, turned = threading.Event(), threading.Event()

    def look() -> None:
        missed = 0
        loop.call_soon_threadsafe(turned.set)
        while not over.wait(limit_s / LOOKS):
            if turned.is_set():
                missed = 0
                turned.clear()
                loop.call_soon_threadsafe(turned.set)
            else:
                missed += 1
            if missed >= LOOKS:
                logger.critical("Role %s stands still for %g s and is ended; where it stands follows.", role, limit_s)
                logging.shutdown()
                faulthandler.dump_traceback(sys.__stderr__ or sys.stderr, all_threads=True)
                os._exit(1)

    thread = threading.Thread(target=look, name="watchdog", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()

"""Every role by name: what `driftline worker --role R` runs, in this process, until SIGTERM or Ctrl-C."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import NoReturn

from driftline.schemas.clock import SystemClock
from driftline.streams.health import Health, serve
from driftline.streams.settings import Settings

logger = logging.getLogger(__name__)

STOP_TIMEOUT_S = 5.0  # a plain role stops in two; a frozen broker answers no goodbye, and aiokafka waits half a minute

# Roles import what they need when they start: torch takes seconds and half a gigabyte, and one role alone needs it.


def run_embed(settings: Settings) -> None:
    from driftline.streams.embed.fold import embed_fold_factory
    from driftline.streams.runtime.worker import Source, run_faust_role
    from driftline.streams.shaping import shaping

    factory = embed_fold_factory(settings.embed, settings.topics, settings.monitor.windows.ahead_s)
    sources = [Source(settings.topics.source("embed"), "embed", factory, shaping("embed", settings))]
    run_faust_role("embed", settings.kafka, settings.topics, sources, health=settings.health)


def run_judge(settings: Settings) -> None:
    from driftline.streams.judge import judge_fold_factory
    from driftline.streams.runtime.worker import Source, run_faust_role
    from driftline.streams.shaping import shaping

    factory = judge_fold_factory(settings.judge, settings.topics)
    sources = [Source(settings.topics.source("judge"), "judge", factory, shaping("judge", settings))]
    run_faust_role("judge", settings.kafka, settings.topics, sources, health=settings.health)


def run_monitor(settings: Settings) -> None:
    from driftline.streams import caps
    from driftline.streams.keying import Keying
    from driftline.streams.monitor.drift import drift_fold_factory
    from driftline.streams.monitor.fold import monitor_fold_factory
    from driftline.streams.runtime.worker import Source, Ticker, run_faust_role
    from driftline.streams.shaping import shaping

    topics = settings.topics
    keying = Keying(topics)
    monitor = monitor_fold_factory(settings.monitor, settings.detectors, topics, keying.arrived)
    drift = drift_fold_factory(settings.monitor, settings.detectors, topics)
    sources = [
        Source(topics.source("monitor"), "monitor", monitor, shaping("monitor", settings)),
        Source(topics.source("drift"), "drift", drift, shaping("drift", settings)),
    ]
    ticker = Ticker(SystemClock(), settings.ticks.interval_s) if settings.ticks.enabled else None
    run_faust_role(
        *("monitor", settings.kafka, topics, sources),
        ticker=ticker,
        health=settings.health,
        notes=lambda: [*keying.notes, *caps.notes()],
    )


def run_archive(settings: Settings) -> None:
    from driftline.streams.archive import run_archive
    from driftline.streams.pricing import Pricer

    async def archive(stop: asyncio.Event, health: Health) -> None:
        await run_archive(
            settings.kafka,
            settings.clickhouse,
            settings.topics,
            Pricer(),
            stop=stop,
            config=settings.archive,
            health=health,
        )

    _run_until_stopped("archive", settings, archive)


def run_notify(settings: Settings) -> None:
    from driftline.streams.notify import run_notify

    async def notify(stop: asyncio.Event, health: Health) -> None:
        await run_notify(settings.kafka, settings.topics, settings.notify, stop=stop, health=health)

    _run_until_stopped("notify", settings, notify)


ROLES: dict[str, Callable[[Settings], None]] = {
    "embed": run_embed,
    "judge": run_judge,
    "monitor": run_monitor,
    "archive": run_archive,
    "notify": run_notify,
}


def run_role(name: str, settings: Settings) -> NoReturn:
    """Run it in this process, and end the process. Torn down by the interpreter, torch takes seconds more, for nothing:
    all is saved and said by then."""
    ROLES[name](settings)
    logging.shutdown()
    sys.stdout.flush()
    os._exit(0)


def _run_until_stopped(name: str, settings: Settings, role: Callable[[asyncio.Event, Health], Awaitable[None]]) -> None:
    async def main() -> None:
        stop, health = asyncio.Event(), Health(name)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        async with serve(health, settings.health):
            working, stopped = asyncio.ensure_future(role(stop, health)), asyncio.create_task(stop.wait())
            await asyncio.wait({working, stopped}, return_when=asyncio.FIRST_COMPLETED)
            done, _ = await asyncio.wait({working}, timeout=STOP_TIMEOUT_S)
            if not done:
                logger.warning("Role %s did not stop within %g s and is ended.", name, STOP_TIMEOUT_S)
                logging.shutdown()
                os._exit(0)  # nothing is lost: what is not committed is read again
            stopped.cancel()
            failure = working.exception()
            if failure is not None and not stop.is_set():
                raise failure
            if failure is not None:
                logger.warning("Role %s failed while it stopped: %r", name, failure)

    asyncio.run(main())

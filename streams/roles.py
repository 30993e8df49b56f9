"""Every role by name: what `driftline worker --role R` runs, in this process, until SIGTERM or Ctrl-C."""

import asyncio
import signal
from collections.abc import Awaitable, Callable

from driftline.schemas.clock import SystemClock
from driftline.streams.settings import Settings

# Roles import what they need when they start: torch takes seconds and half a gigabyte, and one role alone needs it.


def run_embed(settings: Settings) -> None:
    from driftline.streams.embed.fold import embed_fold_factory
    from driftline.streams.runtime.worker import Source, run_faust_role

    factory = embed_fold_factory(settings.embed, settings.topics)
    run_faust_role("embed", settings.kafka, settings.topics, [Source(settings.topics.events, "embed", factory)])


def run_judge(settings: Settings) -> None:
    from driftline.streams.judge import judge_fold_factory
    from driftline.streams.runtime.worker import Source, run_faust_role

    factory = judge_fold_factory(settings.judge, settings.topics)
    run_faust_role("judge", settings.kafka, settings.topics, [Source(settings.topics.embeddings, "judge", factory)])


def run_monitor(settings: Settings) -> None:
    from driftline.streams.monitor.drift import drift_fold_factory
    from driftline.streams.monitor.fold import monitor_fold_factory
    from driftline.streams.runtime.worker import Source, Ticker, run_faust_role

    topics = settings.topics
    sources = [
        Source(topics.events, "monitor", monitor_fold_factory(settings.monitor, settings.detectors, topics)),
        Source(topics.embeddings, "drift", drift_fold_factory(settings.monitor, settings.detectors, topics)),
    ]
    ticker = Ticker(SystemClock(), settings.ticks.interval_s) if settings.ticks.enabled else None
    run_faust_role("monitor", settings.kafka, topics, sources, ticker=ticker)


def run_archive(settings: Settings) -> None:
    from driftline.streams.archive import run_archive
    from driftline.streams.pricing import Pricer

    _run_until_stopped(
        lambda stop: run_archive(settings.kafka, settings.clickhouse, settings.topics, Pricer(), stop=stop)
    )


def run_notify(settings: Settings) -> None:
    from driftline.streams.notify import run_notify

    _run_until_stopped(lambda stop: run_notify(settings.kafka, settings.topics, settings.notify, stop=stop))


ROLES: dict[str, Callable[[Settings], None]] = {
    "embed": run_embed,
    "judge": run_judge,
    "monitor": run_monitor,
    "archive": run_archive,
    "notify": run_notify,
}


def _run_until_stopped(role: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    async def main() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        await role(stop)

    asyncio.run(main())

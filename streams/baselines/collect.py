"""Stored traffic through the monitor's own folds, with watches that only learn: what they hold at the end is what the
monitor would have learned from the same range, had it waited for its end."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import msgspec

from driftline.detectors.base import Insufficient
from driftline.detectors.seasons import DAY, REFITS
from driftline.schemas import codec
from driftline.schemas.codec import encode_events
from driftline.schemas.events import MICROSECONDS, BaselineSet, Event, Release, Tick
from driftline.schemas.homes import home
from driftline.schemas.results import EmbeddingEvent
from driftline.streams.monitor.analysis import RULES
from driftline.streams.monitor.drift import DriftFold
from driftline.streams.monitor.fold import MonitorFold
from driftline.streams.monitor.watch import Collector, Fit, Watch
from driftline.streams.operate.folds import Made, stored_events, stored_releases, with_ticks
from driftline.streams.operate.log import Log, Reading
from driftline.streams.operate.times import show_time
from driftline.streams.pricing import Pricer
from driftline.streams.settings import Settings

Tell: TypeAlias = Callable[[str, int], None]
"""(what is read, the event time reached)"""


@dataclass(frozen=True)
class Range:
    """The traffic of one app in [since, until), microseconds; of some releases, or of all that were no canaries."""

    app: str
    since: int
    until: int
    releases: frozenset[str] = frozenset()

    def takes(self, app: str, release: str, ts: int) -> bool:
        served = not self.releases or release in self.releases
        return served and app == self.app and self.since <= ts < self.until


class Collected(NamedTuple):
    fits: list[tuple[str, Fit]]  # detector, and what its reference makes or lacks
    embed_model: str = ""
    note: str = ""  # what could not be read


def settled(settings: Settings, until: int) -> int:
    """When all units of events before `until` have closed."""
    wait = settings.monitor.windows.grace_s + settings.detectors.units.close_after_s
    return until + round((wait + 2 * settings.detectors.budget.tick_s) * MICROSECONDS)


async def from_tables(settings: Settings, traffic: Range, detectors: Collection[str], tell: Tell) -> Collected:
    """What detectors of traces and scores learn.

    :raises RetryableError: ClickHouse does not answer.
    """
    if not set(RULES) & set(detectors):
        return Collected([])
    fold = await _through(settings, traffic, [], tell)
    wanted = [name for name in fold.watches if name in detectors]
    fits = _fits(fold, wanted)
    made = [(name, fit) for name, fit in fits if not isinstance(fit.baseline, Insufficient)]
    if not made or traffic.until - traffic.since < REFITS[0] * DAY * 3600 * MICROSECONDS:
        return Collected(fits)
    again = await _through(settings, traffic, made, lambda what, ts: tell(f"{what} again, for the hours", ts))
    return Collected([(name, _with_hours(fit, again.watches[name])) for name, fit in fits])


async def _through(settings: Settings, traffic: Range, held: Collection[tuple[str, Fit]], tell: Tell) -> MonitorFold:
    """The fold at the end of the traffic."""
    fold = MonitorFold(settings.monitor, settings.detectors, settings.topics, Pricer(), None, Collector)
    for name, fit in held:
        _collector(fold, name).hold(fit)
    tick_us = round(settings.detectors.budget.tick_s * MICROSECONDS)
    before = stored_releases(settings.clickhouse, traffic.app, traffic.since)
    await fold.absorb([Made(0, None, encode_events(_at_the_beginning(before, traffic.since)))])
    offset = 1
    async for piece in stored_events(
        settings.clickhouse, traffic.app, traffic.since, traffic.until, settled(settings, traffic.until)
    ):
        events = [event for event in piece.events if _is_of(traffic, event)]
        begin = piece.since if events else piece.until - tick_us  # of quiet time, its last tick does what all would do
        values = list(with_ticks(events, begin, piece.until, tick_us))
        await fold.absorb([Made(offset + i, None, value) for i, value in enumerate(values)])
        offset += len(values)
        tell("Reading traces and scores", min(piece.until, traffic.until))
    return fold


def _with_hours(fit: Fit, watch: Watch) -> Fit:
    baseline = watch.baseline(fit.app, fit.component)
    return fit if isinstance(fit.baseline, Insufficient) else fit._replace(baseline=baseline)


async def from_log(settings: Settings, traffic: Range, detectors: Collection[str], tell: Tell) -> Collected:
    """What detectors of embeddings learn: from the embeddings topic, which keeps a day of them.

    :raises RetryableError: Kafka does not answer.
    """
    fold = DriftFold(settings.monitor, settings.detectors, settings.topics, None, Collector)
    wanted = [name for name in fold.watches if name in detectors]
    if not wanted:
        return Collected([])
    end = settled(settings, traffic.until)
    oldest: int | None = None
    quiet: list[EmbeddingEvent] = []  # the newest tick since the last embedding: it does what all would do
    async with Log(settings.kafka) as log:
        reading = await embeddings_of(log, settings, traffic.app, traffic.since)
        async for tp, records in reading:
            for record in records:
                items = codec.embeddings_in(record.value).events
                ticks = [item.ts for item in items if isinstance(item, Tick)]
                if oldest is None and ticks:
                    oldest = ticks[0]
                kept = _kept(traffic, end, items)
                if all(isinstance(item, Tick) for item in kept):
                    quiet = kept[-1:] or quiet
                else:
                    await fold.absorb([Made(record.offset, None, codec.pack([*quiet, *kept]))])
                    quiet = []
                if ticks and ticks[-1] >= end:
                    reading.stop(tp)
                    break
            reached = quiet[-1].ts if quiet else fold.watermark
            tell("Reading embeddings", min(reached or traffic.since, traffic.until))
    await fold.absorb([Made(2**62, None, codec.pack([Tick(ts=end, source="baseline")]))])
    note = ""
    if oldest is None:
        note = (
            f"{settings.topics.embeddings} holds nothing of that time: embedding drift needs it, ClickHouse keeps none"
        )
    elif oldest > traffic.since:
        note = f"{settings.topics.embeddings} begins at {show_time(oldest)}: earlier embeddings are gone"
    return Collected(_fits(fold, wanted), fold.embed_model, note)


async def embeddings_of(log: Log, settings: Settings, app: str, since: int) -> Reading:
    """The app's partition of the embeddings topic, from where events of `since` may begin.

    :raises RetryableError: Kafka does not answer.
    """
    number = home(app, settings.kafka.home_partitions)
    [partition] = [tp for tp in await log.partitions(settings.topics.embeddings) if tp.partition == number]
    sent_from = since - settings.monitor.windows.ahead_s * MICROSECONDS
    return log.read(await log.starts([partition], sent_from))


def _at_the_beginning(releases: Sequence[Release], since: int) -> list[Event]:
    """As if all of them had happened just before: time need not be lived through again."""
    first = since - len(releases)
    return [msgspec.structs.replace(release, ts=first + i) for i, release in enumerate(releases)]


def _is_of(traffic: Range, event: Event) -> bool:
    if isinstance(event, Release):
        return True
    return not isinstance(event, Tick | BaselineSet) and traffic.takes(event.app, event.release, event.ts)


def _kept(traffic: Range, end: int, items: Sequence[EmbeddingEvent]) -> list[EmbeddingEvent]:
    kept: list[EmbeddingEvent] = []
    for item in items:
        if isinstance(item, Tick):
            if traffic.since <= item.ts <= end:
                kept.append(item)
        elif not isinstance(item, Release | BaselineSet) and traffic.takes(item.app, item.release, item.ts):
            kept.append(item)
    return kept


def _fits(fold: MonitorFold | DriftFold, wanted: Collection[str]) -> list[tuple[str, Fit]]:
    return [(name, fit) for name in wanted for fit in _collector(fold, name).fit_all()]


def _collector(fold: MonitorFold | DriftFold, name: str) -> Collector:
    watch = fold.watches[name]
    assert isinstance(watch, Collector)
    return watch

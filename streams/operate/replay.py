"""`driftline replay`: the monitor's folds anew, from a fresh state, into a database of their own; then both runs are
compared."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import msgspec
from aiokafka import TopicPartition

from driftline.schemas.errors import ConfigError
from driftline.schemas.events import MICROSECONDS
from driftline.schemas.homes import home_among
from driftline.schemas.results import result_types
from driftline.sinks.clickhouse.client import Client, session
from driftline.sinks.clickhouse.config import ClickHouseConfig
from driftline.sinks.clickhouse.writer import Writer
from driftline.streams.monitor.drift import DETECTORS as DRIFT
from driftline.streams.monitor.drift import drift_fold_factory
from driftline.streams.monitor.fold import MonitorFold, monitor_fold_factory
from driftline.streams.operate.comparison import SHAPES, Comparison, Expectation, Rows, Table, compare
from driftline.streams.operate.folds import Extent, FoldName, Results, run_over_events, run_over_log, stored_events
from driftline.streams.operate.log import Log
from driftline.streams.operate.progress import Absorbed, Roles
from driftline.streams.pricing import Pricer
from driftline.streams.runtime import quarantine
from driftline.streams.settings import Settings

Source: TypeAlias = Literal["kafka", "clickhouse"]
Tell: TypeAlias = Callable[[str, int | None], None]
"""(what is being done, the event time reached)"""

WAIT_S = 30.0  # for the archive to store what the first run has published
POLL_S = 0.5
PARTS: tuple[tuple[Table, FoldName], ...] = (
    *((table, "monitor") for table in SHAPES),
    ("evidence", "drift"),
    ("alerts", "drift"),
)


@dataclass(frozen=True)
class Span:
    """Results to compare: of [since, until) in event time, of one app or of all."""

    since: int | None = None
    until: int | None = None
    app: str | None = None


class Replayed(msgspec.Struct, frozen=True):
    database: str
    comparisons: list[Comparison]
    notes: list[str]

    @property
    def failed(self) -> bool:
        return any(comparison.failed for comparison in self.comparisons)


async def replay(settings: Settings, span: Span, source: Source, into: str | None, tell: Tell) -> Replayed:
    """:raises ConfigError: the database to write into is somebody's.
    :raises RetryableError: Kafka or ClickHouse does not answer.
    """
    target = await asyncio.to_thread(prepare, settings.clickhouse, into)
    writer = await Writer.open(target)
    try:
        results = Results(writer, settings.topics, settings.clickhouse.batch_rows, span.app)
        run = _from_log if source == "kafka" else _from_tables
        scope = await run(settings, span, results, tell)
    finally:
        await writer.close()
    tell("Comparing", None)
    comparisons = await asyncio.to_thread(_compare, settings.clickhouse, target, scope)
    return Replayed(target.database, comparisons, scope.notes)


def prepare(config: ClickHouseConfig, into: str | None) -> ClickHouseConfig:
    """An empty database: the default one is replaced, another must not exist yet."""
    target = ClickHouseConfig.model_validate({**config.model_dump(), "database": into or f"{config.database}_replay"})
    with session(config.model_copy(update={"database": "default"})) as client:
        exists = client.command(f"EXISTS DATABASE {target.database}") == 1
        if exists and into is not None:
            raise ConfigError(f"database {into} exists: name one that does not, or leave --into out")
        if exists:
            client.command(f"DROP DATABASE {target.database}")
    return target


@dataclass
class Scope:
    """What of both runs can be compared, and what must be equal."""

    span: Span
    home: Callable[[str], int]
    expectations: dict[tuple[Table, FoldName], Expectation]
    notes: list[str]
    extents: Mapping[FoldName, Extent] | None = None  # of a replay of the log
    closed: Mapping[int, int] | None = None  # of one of the tables: the time up to which the first run has come
    left_out: frozenset[tuple[str, str]] = frozenset()  # app and start of windows of which events were left out

    def is_beyond(self, fold: FoldName, row: Mapping[str, Any], time: int) -> bool:
        """Whether the first run computed this after what was replayed."""
        if self.closed is not None:
            return time >= self.closed.get(self.home(row["app"]), 0) or (row["app"], row.get("start")) in self.left_out
        assert self.extents is not None
        return int(row["revision"]) >= self.extents[fold].ends.get(self.home(row["app"]), 0)

    def is_incomplete(self, table: Table, row: Mapping[str, Any], time: int) -> bool:
        """Whether a window began before what was replayed."""
        if self.extents is None or table not in ("windows", "left_out"):
            return False
        return time < self.extents["monitor"].begins.get(self.home(row["app"]), 0)

    def is_of_earlier_log(self, row: Mapping[str, Any], ingested: int) -> bool:
        return self.extents is not None and ingested < self.extents["monitor"].born.get(self.home(row["app"]), 0)


async def _from_log(settings: Settings, span: Span, results: Results, tell: Tell) -> Scope:
    topics, windows = settings.topics, settings.monitor.windows
    # No event's time is further ahead of when it was sent, or it is left out.
    sent_from = None if span.since is None else span.since - windows.ahead_s * MICROSECONDS
    settled = (windows.size_s + windows.grace_s + windows.lateness_s) * MICROSECONDS  # then a window stays as it is
    notes: list[str] = []
    async with Log(settings.kafka) as log:
        tell("Waiting for the archive", None)
        absorbed = await _absorbed(log, settings, notes)
        sources: tuple[tuple[FoldName, str, Any], ...] = (
            ("monitor", topics.events, monitor_fold_factory(settings.monitor, settings.detectors, topics)),
            ("drift", topics.embeddings, drift_fold_factory(settings.monitor, settings.detectors, topics)),
        )
        extents: dict[FoldName, Extent] = {}
        for fold, topic, make in sources:
            extents[fold] = await run_over_log(
                log,
                topic,
                make,
                results,
                limits={p: absorbed[fold, p].offset + 1 for p in range(settings.kafka.partitions)},
                aside={p: absorbed[fold, p].aside for p in range(settings.kafka.partitions)},
                sent_from=sent_from,
                until=None if span.until is None else span.until + settled,
                tell=lambda at, topic=topic: tell(f"Replaying {topic}", at),  # type: ignore[misc]  # the loop's topic
            )
    expectations = {}
    for table, fold in PARTS:
        whole = extents[fold].whole
        must = whole or table in ("windows", "left_out")
        why = "" if must else "starts later than the log: baselines are learned anew"
        expectations[table, fold] = Expectation(must, why=why)
    if not extents["monitor"].whole:
        notes.append(
            "The replay does not start where the log began, so detectors learn their baselines anew: "
            "evidence, alerts, rollbacks and breakers are shown and need not be equal."
        )
    return Scope(span, home_among(settings.kafka.home_partitions), expectations, notes, extents=extents)


async def _absorbed(log: Log, settings: Settings, notes: list[str]) -> dict[tuple[FoldName, int], Absorbed]:
    """How far the first run has come; waits until the archive has stored what came of it."""
    topics, partitions = settings.topics, range(settings.kafka.partitions)
    roles = Roles(log, topics, ("monitor", "drift"))
    await roles.look()
    folds: tuple[FoldName, ...] = ("monitor", "drift")
    absorbed = {
        (fold, p): roles.newest(fold, p)._replace(aside=roles.aside(fold, p)) for fold in folds for p in partitions
    }
    every = [TopicPartition(topic, p) for topic in result_types(topics) for p in partitions]
    now = asyncio.get_running_loop().time
    deadline = now() + WAIT_S
    while True:
        committed = await log.committed(f"{topics.prefix}.archive", every)
        if all(found.is_stored(committed, p) for (_, p), found in absorbed.items()):
            return absorbed
        if now() >= deadline:
            notes.append(
                "The archive has not stored all results of the first run yet: what is missing may be on its way."
            )
            return absorbed
        await asyncio.sleep(POLL_S)


async def _from_tables(settings: Settings, span: Span, results: Results, tell: Tell) -> Scope:
    windows, topics, pricer = settings.monitor.windows, settings.topics, Pricer()
    first = await asyncio.to_thread(_first_run, settings.clickhouse, span, windows.size_s)
    home = home_among(settings.kafka.home_partitions)
    closed: dict[int, int] = {}
    for app, end in first.ends.items():
        closed[home(app)] = max(end, closed.get(home(app), 0))
    size = windows.size_s * MICROSECONDS
    since = first.begin if span.since is None else span.since // size * size
    until = max(closed.values()) if span.until is None else min(max(closed.values()), -(-span.until // size) * size)
    tick_us = round(settings.detectors.budget.tick_s * MICROSECONDS)
    await run_over_events(
        stored_events(
            settings.clickhouse, span.app, since, until, until + windows.grace_s * MICROSECONDS + 2 * tick_us
        ),
        lambda _, snapshot: MonitorFold(settings.monitor, settings.detectors, topics, pricer, snapshot),
        results,
        home=home,
        tick_us=tick_us,
        tell=lambda at: tell("Replaying ClickHouse's events", at),
    )
    notes = ["Ticks are made anew, one every tick_s: revision and late are not compared, nor is regular evidence."]
    exact = not first.late and not first.left_out and not first.has_before
    why = "" if exact else "the first run had late events, or began before: not the same input tick by tick"
    if first.left_out:
        notes.append(f"{len(first.left_out):,} windows that left events out in the first run are not compared.")
    computed = frozenset({"revision", "late"})
    expectations: dict[tuple[Table, FoldName], Expectation] = {
        ("windows", "monitor"): Expectation(True, computed),
        ("alerts", "monitor"): Expectation(exact, computed, why),
        ("rollbacks", "monitor"): Expectation(exact, computed, why),
        ("breakers", "monitor"): Expectation(exact, computed, why),
        ("evidence", "monitor"): Expectation(False, computed, "its times depend on the first run's ticks"),
    }
    return Scope(span, home, expectations, notes, closed=closed, left_out=first.left_out)


@dataclass(frozen=True)
class _FirstRun:
    begin: int  # of its first window
    ends: Mapping[str, int]  # of each app's last window
    late: int
    left_out: frozenset[tuple[str, str]]
    has_before: bool  # whether there were windows before what is replayed


def _first_run(config: ClickHouseConfig, span: Span, size_s: int) -> _FirstRun:
    app = "({app:String} = '' OR app = {app:String})"
    within = _within("start", span)
    parameters = {"app": span.app or ""}
    with session(config) as client:
        rows = client.query(
            f"SELECT app, toUnixTimestamp64Micro(min(start)), toUnixTimestamp64Micro(max(start)), "
            f"sumIf(late, {within}) FROM windows WHERE {app} AND size_s = {size_s} GROUP BY app",
            parameters=parameters,
        ).result_rows
        if not rows:
            raise ConfigError(f"there are no windows of {size_s} s in {config.database}: nothing to compare with")
        left_out = client.query(
            f"SELECT DISTINCT app, toString(start) FROM left_out WHERE {app} AND {within}", parameters=parameters
        ).result_rows
    begin = min(row[1] for row in rows)
    return _FirstRun(
        begin,
        {row[0]: row[2] + size_s * MICROSECONDS for row in rows},
        sum(row[3] for row in rows),
        frozenset((a, start) for a, start in left_out),
        span.since is not None and span.since > begin,
    )


def _compare(config: ClickHouseConfig, target: ClickHouseConfig, scope: Scope) -> list[Comparison]:
    comparisons = []
    with session(config) as first_run, session(target) as second_run:
        for (table, fold), expectation in scope.expectations.items():
            first, replay, beyond = Rows(table), Rows(table), set()
            for row, time, ingested in _rows(first_run, table, fold, scope.span):
                if scope.is_incomplete(table, row, time):
                    continue
                if scope.is_beyond(fold, row, time):
                    beyond.add(SHAPES[table].key_of(row))
                elif not scope.is_of_earlier_log(row, ingested):
                    first.add(row)
            for row, time, _ in _rows(second_run, table, fold, scope.span):
                if not scope.is_incomplete(table, row, time) and not scope.is_beyond(fold, row, time):
                    replay.add(row)
            name = table if fold == "monitor" else f"{table} of embeddings"
            comparisons.append(compare(name, first, replay.without(beyond), expectation))
    return comparisons


def _rows(client: Client, table: Table, fold: FoldName, span: Span) -> Iterator[tuple[dict[str, Any], int, int]]:
    """Rows, each with its time and when it was stored, microseconds."""
    time = SHAPES[table].time
    rule = {"evidence": "detector", "alerts": "rule"}.get(table)
    # What the runtime says of a record that it put aside is no result of a fold.
    of_fold = f"{rule} IN {DRIFT}" if fold == "drift" else f"{rule} NOT IN {(quarantine.RULE, *DRIFT)}"
    of_fold = "1" if rule is None else of_fold
    lines = client.raw_query(
        f"SELECT * EXCEPT (ingested_at), toUnixTimestamp64Micro({time}) AS _time, "
        f"toUnixTimestamp64Micro(ingested_at) AS _ingested FROM {table} "
        f"WHERE {of_fold} AND {_within(time, span)} AND ({{app:String}} = '' OR app = {{app:String}})",
        parameters={"app": span.app or ""},
        fmt="JSONEachRow",
        settings={"output_format_json_quote_64bit_integers": 0},
    ).splitlines()
    for line in lines:
        row = msgspec.json.decode(line)
        yield row, row.pop("_time"), row.pop("_ingested")


def _within(column: str, span: Span) -> str:
    since = "1" if span.since is None else f"{column} >= fromUnixTimestamp64Micro({span.since})"
    until = "1" if span.until is None else f"{column} < fromUnixTimestamp64Micro({span.until})"
    return f"{since} AND {until}"

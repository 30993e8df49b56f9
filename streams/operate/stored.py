"""What ClickHouse has of a selection of windows, counted by itself."""

import re
from base64 import b64decode
from collections import Counter
from collections.abc import Collection, Iterator, Mapping

from driftline.schemas.events import MICROSECONDS
from driftline.sinks.clickhouse.client import Client, session
from driftline.sinks.clickhouse.config import ClickHouseConfig
from driftline.streams.monitor.names import OTHER
from driftline.streams.operate.balance import VIEWS, Lost, Rows, Stored
from driftline.streams.operate.tally import Group, Kind, Place, Selection

_TTL = re.compile(r"TTL toDateTime\(ingested_at\) \+ toIntervalDay\((\d+)\)(?: SETTINGS|$)")
_HOUR = 3_600 * MICROSECONDS  # rows come after their records, and clocks differ
_WHOLE = "(reason != 'incomplete')"  # what is left out of an incomplete window may be in one that was published before
_AT_ONCE = 1_000  # dead letters asked for in one query


def count_stored(config: ClickHouseConfig, selection: Selection, topic: str, born: Mapping[int, int]) -> Stored:
    """`topic` is that of the dead letters; those of a partition from before it was `born` are of an earlier log."""
    with session(config) as client:
        tables: dict[Group, Rows] = {}
        for kind, view in VIEWS.items():
            tables |= _groups(client, kind, selection, "ts", "count()", view)
        windows: dict[Group, Rows] = {}
        incomplete: dict[Group, Rows] = {}
        size = f"size_s = {selection.size_s}"
        for kind, counted in (("trace", "sum(requests)"), ("score", "sum(arraySum(s -> s.1, mapValues(scores)))")):
            found = [
                _groups(client, kind, selection, "start", counted, "windows", size),
                _groups(
                    client,
                    kind,
                    selection,
                    "start",
                    "sum(events)",
                    "left_out",
                    f"{size} AND kind = '{kind}' AND {_WHOLE}",
                ),
            ]
            windows |= _added(found)
            where = f"{size} AND kind = '{kind}' AND NOT {_WHOLE}"
            incomplete |= _groups(client, kind, selection, "start", "sum(events)", "left_out", where)
        rows = client.query(
            "SELECT partition, offset, index, toUnixTimestamp64Micro(ingested_at) FROM dead_letters "
            "WHERE topic = {topic:String} AND role = '' AND ({app:String} = '' OR key = {app:String})",
            parameters={"topic": topic, "app": selection.app or ""},
        ).result_rows
        lost = _lost(client, selection)
        kept_since = _kept_since(client)
    letters = {Place(p, offset, element) for p, offset, element, ingested in rows if ingested >= born.get(p, 0)}
    return Stored(tables, windows, letters, lost, incomplete, kept_since)


def _kept_since(client: Client) -> dict[str, int]:
    """By view: rows of what came before may be gone. Under a TTL that is not ours, all may be."""
    rows = client.query(
        "SELECT name, engine_full, toUnixTimestamp64Micro(now64(6)) FROM system.tables "
        "WHERE database = currentDatabase() AND endsWith(name, '_raw')"
    ).result_rows
    since = {}
    for name, engine, now in rows:
        ttl = _TTL.search(engine)
        days = int(ttl[1]) if ttl else 0 if " TTL " in engine else 1_000_000
        since[name.removesuffix("_raw")] = max(0, now - days * 24 * _HOUR + _HOUR)
    since["windows"] = max(since["windows"], since["left_out"])
    return since


def _lost(client: Client, selection: Selection) -> list[Lost]:
    """What was noticed since the selection begins: records that are gone do not say whose events they held, or when."""
    rows = client.query(
        "SELECT role, topic, partition, offset, until FROM dead_letters WHERE until > 0 "
        f"AND toUnixTimestamp64Micro(ingested_at) >= {selection.since or 0} ORDER BY role, topic, partition, offset"
    ).result_rows
    return [Lost(*row) for row in rows]


def put_aside(config: ClickHouseConfig, topic: str, role: str) -> Iterator[tuple[int, bytes]]:
    """The partition and the bytes of each record that a role goes on without."""
    with session(config) as client:
        for p, raw in client.query(
            "SELECT partition, base64Encode(raw) FROM dead_letters "
            "WHERE topic = {topic:String} AND role = {role:String} AND until = 0",
            parameters={"topic": topic, "role": role},
        ).result_rows:
            yield p, b64decode(raw)


def raw_letters(config: ClickHouseConfig, topic: str, places: Collection[Place]) -> Iterator[tuple[Place, bytes]]:
    ordered = sorted(places)
    with session(config) as client:
        for i in range(0, len(ordered), _AT_ONCE):
            wanted = ", ".join(str(tuple(place)) for place in ordered[i : i + _AT_ONCE])
            for p, offset, element, raw in client.query(
                "SELECT partition, offset, index, base64Encode(raw) FROM dead_letters "
                f"WHERE topic = {{topic:String}} AND role = '' AND (partition, offset, index) IN ({wanted})",
                parameters={"topic": topic},
            ).result_rows:
                yield Place(p, offset, element), b64decode(raw)


def _groups(
    client: Client, kind: Kind, selection: Selection, time: str, counted: str, view: str, where: str = "1"
) -> dict[Group, Rows]:
    size = selection.size_s * MICROSECONDS
    since = 0 if selection.since is None else selection.start_of(selection.since)
    until = 2**62 if selection.until is None else selection.start_of(selection.until - 1) + size
    rows = client.query(
        f"SELECT app, intDiv(toUnixTimestamp64Micro({time}), {size}) * {size} AS begins, {counted}, min(revision), "
        f"toUnixTimestamp64Micro(min(ingested_at)) FROM {view} WHERE {where} "
        f"AND toUnixTimestamp64Micro({time}) >= {since} AND toUnixTimestamp64Micro({time}) < {until} "
        "AND ({app:String} = '' OR app IN ({app:String}, {other:String})) GROUP BY app, begins",
        parameters={"app": selection.app or "", "other": OTHER if time == "start" else selection.app or ""},
    ).result_rows
    return {
        Group(kind, app, begins): Rows(int(count), oldest, ingested)
        for app, begins, count, oldest, ingested in rows
        if count
    }


def _added(parts: Collection[Mapping[Group, Rows]]) -> dict[Group, Rows]:
    counts: Counter[Group] = Counter()
    ingested: dict[Group, int] = {}
    for part in parts:
        for group, rows in part.items():
            counts[group] += rows.count
            ingested[group] = min(rows.ingested, ingested.get(group, rows.ingested))
    return {group: Rows(count, ingested=ingested[group]) for group, count in counts.items()}

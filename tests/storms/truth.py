"""What must be in ClickHouse and on the result topics after the storm: the log, folded offline in one go.

All of it is a pure function of the events topic, as it stands at the end.
"""

import base64
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import aiohttp
import msgspec
from aiokafka.structs import ConsumerRecord

from driftline.detectors.config import DetectorsConfig
from driftline.schemas.codec import decode_logged
from driftline.schemas.events import CONTROLS, Release, Score, Trace
from driftline.streams.monitor.config import MonitorConfig
from driftline.streams.monitor.fold import monitor_fold_factory
from driftline.streams.pricing import Pricer
from tests.brokers import Kafka

Row: TypeAlias = dict[str, Any]
Rows: TypeAlias = dict[tuple[Any, ...], Row]
Place: TypeAlias = tuple[str, int, int, int]  # topic, partition, offset, index in the record's array (-1: no array)

EVENT_VIEWS: dict[type, str] = {Trace: "traces", Score: "scores", Release: "releases"}
KEYS: dict[str, tuple[str, ...]] = {
    "traces": ("app", "minute", "trace_id", "span_id"),
    "scores": ("app", "minute", "id"),
    "releases": ("app", "id"),
    "alerts": ("id", "state"),
    "baselines": ("app", "detector", "component", "id"),
    "dead_letters": ("topic", "partition", "offset", "index"),
}
RESULT_VIEWS = {  # by the tag of the record
    "window": "windows",
    "left_out": "left_out",
    "evidence": "evidence",
    "alert": "alerts",
    "rollback": "rollbacks",
    "breaker": "breakers",
    "baseline": "baselines",
}
MINUTE = 60_000_000


@dataclass
class Truth:
    events: dict[str, Rows]  # by view
    places: dict[Place, Trace | Score | Release]  # every copy of every event
    letters: Rows
    outputs: dict[str, set[bytes]]  # what each result topic must hold
    records: int = 0
    results: dict[str, Rows] = field(default_factory=dict)  # by view

    def __post_init__(self) -> None:
        self.results = newest(value for values in self.outputs.values() for value in values)

    @property
    def copies(self) -> int:
        return len(self.places)

    @property
    def distinct(self) -> int:
        return sum(map(len, self.events.values()))

    def refuse(self, refused: Callable[[Row], bool]) -> dict[Place, Trace]:
        """Take out the traces that ClickHouse will refuse, and return all their copies."""
        rows = self.events["traces"]
        bad = {key for key, row in rows.items() if refused(row)}
        for key in bad:
            del rows[key]
        return {
            place: e for place, e in self.places.items() if isinstance(e, Trace) and key_of("traces", fields(e)) in bad
        }


async def read_truth(kafka: Kafka, monitor: MonitorConfig, detectors: DetectorsConfig) -> Truth:
    records = await kafka.read(kafka.topics.events)
    factory = monitor_fold_factory(monitor, detectors, kafka.topics)
    outputs: dict[str, set[bytes]] = {}
    for partition in range(kafka.config.partitions):
        mine = [record for record in records if record.partition == partition]
        for output in await factory(partition, None).absorb(mine):
            if output.topic == kafka.topics.events:
                continue  # forwarded: the roles have done it, it is in the log
            outputs.setdefault(output.topic, set()).add(output.value)
    return Truth(*_stored(records), outputs, len(records))


def _stored(
    records: Sequence[ConsumerRecord],
) -> tuple[dict[str, Rows], dict[Place, Trace | Score | Release], Rows]:
    pricer = Pricer()
    events: dict[str, Rows] = {view: {} for view in EVENT_VIEWS.values()}
    places: dict[Place, Trace | Score | Release] = {}
    letters: Rows = {}
    for record in records:
        decoded = decode_logged(record.value)
        for event, index in zip(decoded.events, decode_logged.indexes(record.value), strict=True):
            if isinstance(event, CONTROLS):
                continue
            places[record.topic, record.partition, record.offset, index] = event
            view = EVENT_VIEWS[type(event)]
            row = _event_row(event, record.offset, pricer)
            key = key_of(view, row)
            if key not in events[view] or events[view][key]["revision"] <= row["revision"]:
                events[view][key] = row  # the copy that ClickHouse keeps; one partition's are in order
        for reject in decoded.rejects:
            letter = {
                "topic": record.topic,
                "partition": record.partition,
                "offset": record.offset,
                "index": reject.index,
                "reason": reject.reason,
                "raw": base64.b64encode(reject.raw).decode(),
                "count": reject.count,
                "key": None if record.key is None else base64.b64encode(record.key).decode(),
            }
            letters[key_of("dead_letters", letter)] = letter
    return events, places, letters


def fields(event: msgspec.Struct) -> Row:
    return {name: getattr(event, name) for name in event.__struct_fields__}


def _event_row(event: Trace | Score | Release, revision: int, pricer: Pricer) -> Row:
    row = {**fields(event), "revision": revision}
    row["attributes"] = {name: _text(value) for name, value in event.attributes.items()}
    if isinstance(event, Trace):
        price = pricer.cost_usd(event)
        row["cost_status"] = "reported" if event.cost_usd is not None else "unpriced" if price is None else "priced"
        row["cost_usd"] = price
    return row


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def key_of(view: str, row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row["ts"] // MINUTE if name == "minute" else row[name] for name in KEYS.get(view, ("id",)))


def newest(values: Iterable[bytes]) -> dict[str, Rows]:
    """Results by view, as ClickHouse keeps them: of one key the highest revision."""
    found: dict[str, Rows] = {view: {} for view in RESULT_VIEWS.values()}
    for value in values:
        row = json.loads(value)
        view = RESULT_VIEWS[row.pop("type")]
        key = key_of(view, row)
        if key not in found[view] or found[view][key]["revision"] < row["revision"]:
            found[view][key] = row
    return found


def differences(what: str, expected: Rows, found: Rows) -> list[str]:
    """Short, however many there are."""
    problems = []
    missing, extra = expected.keys() - found.keys(), found.keys() - expected.keys()
    wrong = [key for key in expected.keys() & found.keys() if expected[key] != found[key]]
    if missing:
        problems.append(f"{what}: {len(missing)} of {len(expected)} missing, such as {min(missing)}")
    if extra:
        problems.append(f"{what}: {len(extra)} too many, such as {min(extra)}")
    for key in wrong[:3]:
        columns = {
            name: (expected[key].get(name), found[key].get(name))
            for name in expected[key].keys() | found[key].keys()
            if expected[key].get(name) != found[key].get(name)
        }
        problems.append(f"{what}: {len(wrong)} differ, such as {key}: (expected, found) {columns}")
    return problems


class Store:
    """What ClickHouse's views say."""

    def __init__(self, dsn: str, database: str) -> None:
        self._dsn = dsn
        self._database = database

    async def query(self, sql: str) -> list[Row]:
        parameters = {"database": self._database, "output_format_json_quote_64bit_integers": "0"}
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=120)) as session,
            session.post(self._dsn, params=parameters, data=f"{sql} FORMAT JSONEachRow".encode()) as response,
        ):
            body = await response.read()
            assert response.status == 200, body
        return [json.loads(line) for line in body.splitlines()]

    async def rows(self, view: str) -> Rows:
        """By key. Every row once, or this fails."""
        columns = await self.query(
            f"SELECT name, type FROM system.columns WHERE database = currentDatabase() AND table = '{view}'"
        )
        wanted = [_selected(column["name"], column["type"]) for column in columns if column["name"] != "ingested_at"]
        found = await self.query(f"SELECT {', '.join(wanted)} FROM {view}")
        rows = {key_of(view, row): _plain(row) for row in found}
        assert len(rows) == len(found), f"{view}: {len(found) - len(rows)} rows twice"
        return rows

    async def letters(self) -> Rows:
        found = await self.query(
            "SELECT topic, partition, offset, index, reason, count, base64Encode(raw) AS raw, base64Encode(key) AS key "
            "FROM dead_letters"
        )
        rows = {key_of("dead_letters", row): row for row in found}
        assert len(rows) == len(found), f"dead_letters: {len(found) - len(rows)} rows twice"
        return rows

    async def views(self) -> set[str]:
        rows = await self.query("SELECT name FROM system.tables WHERE database = currentDatabase() AND engine = 'View'")
        return {row["name"] for row in rows}


def _selected(name: str, type_: str) -> str:
    return f"toUnixTimestamp64Micro(`{name}`) AS `{name}`" if "DateTime64" in type_ else f"`{name}`"


def _plain(row: Row) -> Row:
    """As the result's own JSON has it: quantiles of nothing are null."""
    for name in ("latency_ms", "ttft_ms"):
        if isinstance(row.get(name), dict) and row[name]["count"] == 0:
            row[name] = None
    return row

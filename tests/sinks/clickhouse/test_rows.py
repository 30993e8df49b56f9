"""Every event and every result comes back from ClickHouse as it went in."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import driftline.schemas
from driftline.schemas.codec import DecodeError, decode, decode_events, encode
from driftline.schemas.columns import FIRST_TIME, LAST_TIME
from driftline.schemas.events import CONTROLS, EARLIEST_TS, LATEST_TS, Release, Score, Trace
from driftline.schemas.results import RESULT_TYPES, DeadLetter, Progress, Quantiles, Result
from driftline.sinks.clickhouse.client import connect
from driftline.sinks.clickhouse.config import ClickHouseConfig
from driftline.sinks.clickhouse.rows import (
    EventRow,
    Row,
    TraceRow,
    complete_row,
    decode_rows,
    encode_rows,
    result_row,
    settle_cost,
)
from tests.sinks.clickhouse.samples import FULL, SPARSE

EXAMPLES = sorted((Path(driftline.schemas.__path__[0]) / "examples").glob("*.json"))
STRICT = {"input_format_skip_unknown_fields": 0}
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def read_back(config: ClickHouseConfig, table: str, row: Row) -> dict[str, Any]:
    """The only row of the view, in plain types."""
    with connect(config) as client:
        client.raw_insert(table, insert_block=encode_rows([row]), fmt="JSONEachRow", settings=STRICT)
        result = client.query(f"SELECT * FROM {table.removesuffix('_raw')}", column_tzs={})
        (found,) = result.result_rows
        client.command(f"TRUNCATE TABLE {table}")
    return {name: plain(value) for name, value in zip(result.column_names, found, strict=True)}


def plain(value: Any) -> Any:
    if isinstance(value, datetime):
        aware = value if value.tzinfo else value.replace(tzinfo=UTC)
        return (aware - EPOCH) // timedelta(microseconds=1)
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    return value


def as_text(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)


def row_of(event: Trace | Score | Release, price: float | None = None) -> tuple[str, EventRow]:
    (row,) = decode_rows(encode(event)).events
    assert not isinstance(row, CONTROLS)
    if isinstance(row, TraceRow):
        settle_cost(row, price)
    return complete_row(row, 41), row


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_events_of_the_examples(tables: ClickHouseConfig, path: Path) -> None:
    events = [event for event in decode_events(path.read_bytes()).events if not isinstance(event, CONTROLS)]
    assert events
    for event in events:
        row = read_back(tables, *row_of(event))
        expected = msgspec.structs.asdict(event)
        expected["attributes"] = {name: as_text(value) for name, value in event.attributes.items()}
        assert {name: row[name] for name in expected} == expected
        assert row["revision"] == 41


@pytest.mark.parametrize("result", [*FULL, *SPARSE], ids=lambda result: f"{type(result).__name__}-{result.id}")
def test_results(tables: ClickHouseConfig, result: Result | DeadLetter) -> None:
    row = read_back(tables, *result_row(result, 41))
    expected = {name: msgspec.to_builtins(value) for name, value in msgspec.structs.asdict(result).items()}
    if isinstance(result, DeadLetter):
        assert row["revision"] == 41
        expected["raw"], expected["key"] = row["raw"], row["key"]
        with connect(tables) as client:  # the driver takes strings for text: compare the bytes in ClickHouse
            table, again = result_row(result, 41)
            client.raw_insert(table, insert_block=encode_rows([again]), fmt="JSONEachRow", settings=STRICT)
            hexed = client.query("SELECT hex(raw), hex(key) FROM dead_letters").result_rows[0]
            client.command(f"TRUNCATE TABLE {table}")
        assert hexed == (result.raw.hex().upper(), None if result.key is None else result.key.hex().upper())
    for name in ("latency_ms", "ttft_ms"):
        if name in expected and expected[name] is None:
            expected[name] = msgspec.to_builtins(Quantiles(0, 0.0, None, None, None))  # type: ignore[arg-type]  # NULL
    assert {name: row[name] for name in expected} == expected


def whole_numbers(type_: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], msgspec.inspect.IntType]]:
    """Where a result holds them, and how large they may be."""
    match type_:
        case msgspec.inspect.IntType():
            yield path, type_
        case msgspec.inspect.UnionType(types=types):
            for inner in types:
                yield from whole_numbers(inner, path)
        case msgspec.inspect.StructType(fields=fields):
            for field in fields:
                yield from whole_numbers(field.type, (*path, field.encode_name))
        case msgspec.inspect.DictType(value_type=value):
            yield from whole_numbers(value, (*path, "a key"))


@pytest.mark.parametrize("result", FULL, ids=lambda result: type(result).__name__)
def test_what_columns_cannot_hold_is_no_result(tables: ClickHouseConfig, result: Result | DeadLetter) -> None:
    """Else ClickHouse refuses the row, and thousands of them one by one."""
    found = list(whole_numbers(msgspec.inspect.type_info(type(result))))
    assert found
    rows = []
    for path, bounds in found:
        assert bounds.ge is not None, path
        assert bounds.le is not None, path
        for number in (bounds.ge, bounds.le):
            rows.append(result_row(decode(with_number(result, path, number), type(result)), 41))
        for number in (bounds.ge - 1, bounds.le + 1, 10**30, -(10**30)):
            with pytest.raises(DecodeError):
                decode(with_number(result, path, number), type(result))
    with connect(tables) as client:
        table = rows[0][0]
        client.raw_insert(
            table,
            insert_block=encode_rows([row for _, row in rows]),
            fmt="JSONEachRow",
            settings={**STRICT, "optimize_on_insert": 0},
        )
        times = [name for name, value in rows[0][1].items() if isinstance(value, str) and value.isdigit()]  # type: ignore[union-attr]
        for name in times:
            low, high = client.query(
                f"SELECT toUnixTimestamp64Micro(min({name})), toUnixTimestamp64Micro(max({name})) FROM {table}"
            ).result_rows[0]
            assert (low, high) == (FIRST_TIME, LAST_TIME)


def with_number(result: Result | DeadLetter, path: tuple[str, ...], number: int) -> bytes:
    plain = msgspec.to_builtins(result)
    inner = plain
    for name in path[:-1]:
        inner = inner[name] if name != "a key" else next(iter(inner.values()))
    inner[path[-1]] = number
    return json.dumps(plain).encode()


def test_every_field_of_every_type_is_a_column(tables: ClickHouseConfig) -> None:
    types: dict[type, str] = {Trace: "traces", Score: "scores", Release: "releases"}
    types |= {type(result): result_row(result, 0)[0].removesuffix("_raw") for result in FULL}
    assert set(RESULT_TYPES) - types.keys() == {Progress}
    with connect(tables) as client:
        for type_, view in types.items():
            columns = {row[0] for row in client.query(f"DESCRIBE TABLE {view}").result_rows}
            fields = set(type_.__struct_fields__)  # type: ignore[attr-defined]  # they are structs
            ours = {"revision", "ingested_at"} | ({"cost_status"} if type_ is Trace else set())
            assert columns == fields | ours


@pytest.mark.parametrize(
    ("reported", "price", "cost", "status"),
    [
        (0.5, None, 0.5, "reported"),
        (None, 1e-7, 1e-7, "priced"),
        (None, 0.0, 0.0, "priced"),
        (None, None, None, "unpriced"),
    ],
)
def test_cost(
    tables: ClickHouseConfig, reported: float | None, price: float | None, cost: float | None, status: str
) -> None:
    trace = Trace(app="a", ts=EARLIEST_TS, trace_id="t", cost_usd=reported)
    row = read_back(tables, *row_of(trace, price))
    assert (row["cost_usd"], row["cost_status"]) == (cost, status)


@given(app=st.text(min_size=1, max_size=200), ts=st.integers(EARLIEST_TS, LATEST_TS), text=st.text(), key=st.text())
def test_rows_are_the_event_with_a_version_and_a_time_as_text(app: str, ts: int, text: str, key: str) -> None:
    tricky: dict[str, Any] = {key: ts, "ts": text, "type": '\n{"type":"trace",'}
    trace = Trace(app=app, ts=ts, trace_id=',"ts":1', input_text=text, attributes=tricky)
    line = encode_rows([row_of(trace)[1]])
    assert line.endswith(b"\n")
    assert b"\n" not in line[:-1]
    row = json.loads(line)
    assert "type" not in row
    assert (row.pop("ts"), row.pop("revision"), row.pop("cost_status")) == (str(ts), 41, "unpriced")
    assert msgspec.convert({**row, "ts": ts}, Trace) == trace


def test_an_app_may_use_the_names_of_our_columns() -> None:
    fields = {"app": "a", "ts": EARLIEST_TS, "revision": "v2", "cost_status": {"paid": False}}
    record = json.dumps([{"type": "trace", "trace_id": "t", **fields}, {"type": "release", **fields}]).encode()
    for decoder in (decode_events, decode_rows):
        decoded = decoder(record)
        assert [type(event).__name__.removesuffix("Row") for event in decoded.events] == ["Trace"]
        assert [reject.index for reject in decoded.rejects] == [1]
    (row,) = decode_rows(record).events
    assert isinstance(row, TraceRow)
    settle_cost(row, 0.5)
    complete_row(row, 7)
    assert (row.revision, row.cost_status, row.cost_usd) == (7, "priced", 0.5)


@pytest.mark.parametrize(
    "value", [b'"\xff"', b'"\\ud800"', b"9" * 5_000, b"1e999", b"NaN", b"[" * 400 + b"]" * 400, b"[" * 600 + b"]" * 600]
)
@pytest.mark.parametrize("name", [b"revision", b"cost_status", b"other", b"user_id", b"attributes"])
def test_rows_and_events_are_refused_alike(name: bytes, value: bytes) -> None:
    event = b'{"type":"trace","app":"a","ts":%d,"trace_id":"t","%b":%b}' % (EARLIEST_TS, name, value)
    assert decode_rows(event).rejects == decode_events(event).rejects
    assert decode_rows(b"[1,%b]" % event).rejects == decode_events(b"[1,%b]" % event).rejects


@pytest.mark.parametrize("ts", [EARLIEST_TS, LATEST_TS, 1_790_000_000_123_456])
def test_times_keep_their_microseconds(tables: ClickHouseConfig, ts: int) -> None:
    row = read_back(tables, *row_of(Trace(app="a", ts=ts, trace_id="t")))
    assert row["ts"] == ts

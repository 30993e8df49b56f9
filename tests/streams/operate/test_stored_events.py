"""Events come back from ClickHouse as they were sent: all that a fold reads of them."""

from collections.abc import Iterator

import msgspec
import pytest

from driftline.detectors.config import DetectorsConfig
from driftline.schemas.codec import encode_events
from driftline.schemas.events import CONTROLS, MICROSECONDS, Event, Release, Score, Tick, Trace
from driftline.sinks.clickhouse.client import connect
from driftline.sinks.clickhouse.config import ClickHouseConfig
from driftline.sinks.clickhouse.rows import TraceRow, complete_row, decode_rows, encode_rows, settle_cost
from driftline.streams.monitor.config import MonitorConfig
from driftline.streams.monitor.fold import MonitorFold
from driftline.streams.operate.folds import TEXTS, stored_events
from driftline.streams.pricing import Pricer
from tests.streams.monitor.log import TOPICS, FakeRecord
from tests.tables import truncate

TS = 1_793_606_400_000_001
EVENTS: list[Trace | Score | Release] = [
    Trace(app="bot", ts=TS, trace_id="only what must be"),
    Trace(
        app="bot",
        ts=TS,
        trace_id="t",
        span_id="s",
        parent_span_id="p",
        conversation_id="c",
        user_id="u",
        environment="prod",
        release="v2",
        canary_share=0.1,
        operation="embeddings",
        provider="openai",
        request_model="gpt-4o",
        response_model="gpt-4o-2024-08-06",
        prompt_name="support",
        prompt_version="7",
        input_tokens=2**40,
        output_tokens=0,
        cache_read_input_tokens=3,
        cache_write_input_tokens=4,
        reasoning_output_tokens=5,
        latency_ms=0.1,
        ttft_ms=1 / 3,
        cost_usd=0.000_123,
        stream=False,
        status="error",
        error_type="429",
        finish_reasons=["stop", "length"],
        input_text="in",
        output_text="out",
        attributes={"tier": "gold"},
    ),
    Score(app="bot", ts=TS, id="only what must be", trace_id="t", name="n", value=0),
    Score(
        app="bot",
        ts=TS,
        id="s",
        trace_id="t",
        name="quality",
        value=-0.1,
        span_id="s",
        label="good",
        explanation="because",
        source="user",
        judge_model="j",
        rubric_version="2",
        conversation_id="c",
        user_id="u",
        environment="prod",
        release="v2",
        canary_share=0.1,
        model="gpt-4o",
        attributes={"tier": "gold"},
    ),
    Release(app="bot", ts=TS, id="only what must be", kind="deploy", release="v1"),
    Release(
        app="bot",
        ts=TS,
        id="r",
        kind="canary_stop",
        release="v2",
        stable="v1",
        deployment_id="d",
        share=0.1,
        outcome="promoted",
        environment="prod",
        description="a canary",
        attributes={"tier": "gold"},
    ),
]
SINCE, UNTIL = TS - 60 * MICROSECONDS, TS + 540 * MICROSECONDS


@pytest.fixture
def tables(operate_tables: ClickHouseConfig) -> Iterator[ClickHouseConfig]:
    yield operate_tables
    truncate(operate_tables)


def without_texts(event: Trace | Score | Release) -> Trace | Score | Release:
    blank = {field.name: field.default for field in msgspec.structs.fields(event) if field.name in TEXTS}
    blank |= {"attributes": {}}
    return msgspec.structs.replace(event, **blank)


@pytest.mark.parametrize("type_", [Trace, Score, Release])
def test_the_events_here_set_every_field(type_: type[Trace | Score | Release]) -> None:
    def is_set(field: msgspec.structs.FieldInfo) -> bool:
        default = field.default_factory() if field.default_factory is not msgspec.NODEFAULT else field.default
        return any(getattr(event, field.name) != default for event in EVENTS if isinstance(event, type_))

    assert [field.name for field in msgspec.structs.fields(type_) if not is_set(field)] == []


async def test_every_field_but_texts_comes_back(tables: ClickHouseConfig) -> None:
    with connect(tables) as client:
        for offset, row in enumerate(decode_rows(encode_events(list[Event](EVENTS))).events):
            assert not isinstance(row, CONTROLS)
            if isinstance(row, TraceRow):
                settle_cost(row, 0.25)
            client.raw_insert(complete_row(row, offset), insert_block=encode_rows([row]), fmt="JSONEachRow")
    found = [event async for piece in stored_events(tables, None, SINCE, UNTIL, UNTIL) for event in piece.events]
    sent = [without_texts(event) for event in EVENTS]
    assert sorted(found, key=repr) == sorted(sent, key=repr)


async def test_no_fold_of_events_reads_texts() -> None:
    snapshots = []
    for events in (EVENTS, list(map(without_texts, EVENTS))):
        fold = MonitorFold(MonitorConfig(), DetectorsConfig(), TOPICS, Pricer(), None)
        records: list[list[Event]] = [[*events], [Tick(ts=UNTIL)]]
        await fold.absorb([FakeRecord(i, encode_events(record)) for i, record in enumerate(records)])
        snapshots.append(fold.snapshot())
    assert snapshots[0] == snapshots[1]

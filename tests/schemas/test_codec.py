import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftline.schemas import codec
from driftline.schemas.events import EARLIEST_TS, Release, Score, Tick, Trace

EXAMPLES = sorted((Path(__file__).parents[2] / "schemas" / "examples").glob("*.json"))
TS = 1_793_606_400_000_000
GOOD: dict[str, Any] = {"type": "trace", "app": "a", "ts": TS, "trace_id": "t"}


def decode(document: Any) -> codec.Decoded[Any]:
    return codec.decode_events(json.dumps(document).encode())


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_examples_decode_and_survive_a_round_trip(path: Path) -> None:
    events, rejects = codec.decode_events(path.read_bytes())
    assert events
    assert not rejects
    assert codec.decode_events(codec.encode_events(events)) == (events, [])


def test_one_object_and_an_array_give_the_same_events() -> None:
    assert decode(GOOD) == decode([GOOD])


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({**GOOD, "ts": 0}, "1970-01-01"),
        ({**GOOD, "ts": TS // 1_000}, "looks like milliseconds"),
        ({**GOOD, "ts": TS // 1_000_000}, "looks like seconds"),
        ({**GOOD, "ts": TS * 1_000}, "looks like nanoseconds"),
        ({**GOOD, "ts": "2026-11-01T00:00:00Z"}, "microseconds since 1970"),
        ({**GOOD, "ts": 10**30}, "$.ts"),
        ({"type": "trace", "ts": TS, "trace_id": "t"}, "missing required field `app`"),
        ({**GOOD, "app": ""}, "$.app"),
        ({**GOOD, "latency_ms": -1}, "$.latency_ms"),
        ({**GOOD, "input_tokens": 1.5}, "$.input_tokens"),
        ({**GOOD, "type": "span"}, "$.type"),
        ({**GOOD, "latency_ms": float("nan")}, "$.latency_ms is NaN or infinite"),
        ({**GOOD, "attributes": {"x": float("inf")}}, "$.attributes.x is NaN or infinite"),
        ({**GOOD, "trace_id": "\ud800"}, "surrogate"),
        ({**GOOD, "attributes": {"\udfff": 1}}, "surrogate"),
        ({**GOOD, "attributes": {"\ud800": float("nan")}}, "NaN"),
        ("text", "Expected `object`"),
        (None, "Expected `object`"),
    ],
)
def test_a_bad_element_is_rejected_with_its_reason_and_its_neighbours_are_kept(bad: Any, reason: str) -> None:
    neighbour = {**GOOD, "trace_id": "neighbour"}
    events, rejects = decode([neighbour, bad, neighbour])
    assert [e.trace_id for e in events if isinstance(e, Trace)] == ["neighbour", "neighbour"]
    assert [r.index for r in rejects] == [1]
    assert reason in rejects[0].reason
    if bad is not None and bad != "text":
        assert json.loads(rejects[0].raw).keys() == bad.keys()


@pytest.mark.parametrize("value", [None, b"", b"\xff\xfe", b"{", b"[1", b"garbage", b"[" * 100_000])
def test_bytes_that_are_no_document_are_one_reject(value: bytes | None) -> None:
    events, rejects = codec.decode_events(value)
    assert events == []
    assert [r.index for r in rejects] == [-1]
    assert rejects[0].raw == (value or b"")


def test_an_attribute_of_any_size_never_stops_the_stream() -> None:
    neighbour = {**GOOD, "trace_id": "neighbour"}
    events, rejects = decode([neighbour, {**GOOD, "attributes": {"x": 10**30}}])
    assert events[0] == decode(neighbour).events[0]
    assert len(events) + len(rejects) == 2
    codec.encode_events(events)
    for reject in rejects:
        reject.reason.encode()


def test_unknown_fields_are_ignored() -> None:
    assert decode({**GOOD, "from_the_future": 1}) == decode(GOOD)


def test_a_prompt_of_five_megabytes_is_taken() -> None:
    [event], rejects = decode({**GOOD, "input_text": "x" * 5_000_000})
    assert isinstance(event, Trace)
    assert len(event.input_text) == 5_000_000
    assert not rejects


@given(st.binary(max_size=200))
def test_no_bytes_make_it_raise(value: bytes) -> None:
    events, rejects = codec.decode_events(value)
    assert events or rejects or value.strip() == b"[]"


@given(
    st.builds(
        Trace,
        app=st.text(min_size=1, max_size=20),
        ts=st.integers(EARLIEST_TS, TS),
        trace_id=st.text(min_size=1, max_size=20),
        latency_ms=st.none() | st.floats(0, 1e9),
        input_text=st.text(),
        attributes=st.dictionaries(st.text(), st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text()),
    )
)
def test_traces_survive_a_round_trip(trace: Trace) -> None:
    assert codec.decode_events(codec.encode_event(trace)) == ([trace], [])


def test_decode_names_the_type_that_it_wanted() -> None:
    with pytest.raises(codec.DecodeError, match="not a Tick"):
        codec.decode(b"{}", Tick)
    with pytest.raises(codec.DecodeError, match="not a Score"):
        codec.unpack(b"\xc1", Score)
    release = Release(app="a", ts=TS, id="r", kind="deploy", release="v1")
    assert codec.unpack(codec.pack(release), Release) == release


def test_json_schema_can_be_made_of_every_type() -> None:
    from driftline.schemas import events, results

    schemas, _ = msgspec.json.schema_components((*events.EVENT_TYPES, *results.RESULT_TYPES))
    assert len(schemas) == len(events.EVENT_TYPES) + len(results.RESULT_TYPES)

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftline.schemas import codec
from driftline.schemas.events import EARLIEST_TS, Release, Score, Tick, Trace
from driftline.schemas.topics import LARGE

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
        ({**GOOD, "ts": TS / 1_000_000 + 0.25}, "looks like seconds"),
        ({**GOOD, "ts": f"{TS // 1_000}"}, "looks like milliseconds"),
        ({**GOOD, "ts": f"{TS}"}, "ts is an integer, microseconds since 1970"),
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


HUNDRED = codec.MAX_REJECTS
EVENT = json.dumps(GOOD).encode()
BOMBS = {
    "ones": b"[%b%b]" % (EVENT, b",1" * 200_000),
    "empty objects": b"[%b%b]" % (EVENT, b",{}" * 200_000),
    "good and bad in turn": b"[%b1]" % ((EVENT + b",1,") * 2_000),
    "deep in an unknown field": b"[%b,{%b}]" % (EVENT, EVENT[1:-1] + b',"x":' + b"[" * 501 + b"]" * 501),
    "deep in a bad event": b"[%b,%b]" % (EVENT, b'{"x":' * 900 + b"1" + b"}" * 900),
    "as deep as the stack": b"[%b,%b]" % (EVENT, b"[" * 50_000 + b"]" * 50_000),
    "a digit too many": b"[%b,{%b}]" % (EVENT, EVENT[1:-1] + b',"attributes":{"x":' + b"9" * 5_000 + b"}"),
    "backslashes": b'["%b",%b]' % (b"\\" * 300_000, EVENT),
    "escaped quotes": b'["%b",%b]' % (b'\\"' * 300_000, EVENT),
    "brackets in texts": b'["%b",%b]' % (b"[{" * 300_000, EVENT),
    "not UTF-8": b'["\xff",{%b},%b]' % (EVENT[1:-1] + b',"user_id":"\xff"', EVENT),
    "malformed": b'[{"type":"trace",},%b,tru,,"\\x"]' % EVENT,
}


@pytest.mark.parametrize("value", BOMBS.values(), ids=BOMBS)
def test_whatever_stands_beside_it_a_good_event_is_kept_and_all_elements_are_accounted_for(value: bytes) -> None:
    events, rejects = codec.decode_events(value)
    assert events[0] == decode(GOOD).events[0]
    assert len(rejects) <= HUNDRED + 1
    assert len(codec.decode_events.indexes(value)) == len(events)
    assert all(len(reject.reason) <= codec.MAX_REASON for reject in rejects)
    assert sum(len(reject.raw) for reject in rejects) <= len(value)
    taken_apart = [codec.decode_events(reject.raw) for reject in rejects]
    assert [found.events for found in taken_apart] == [[]] * len(rejects)
    for reject, found in zip(rejects, taken_apart, strict=True):
        assert reject.count == max(1, sum(again.count for again in found.rejects))


def test_of_very_many_bad_elements_the_first_are_told_and_the_rest_counted_with_their_bytes() -> None:
    events, rejects = codec.decode_events(b"[%b]" % b",".join([b"1", EVENT] * 150 + [b"2", b"3"]))
    assert len(events) == 150
    assert [reject.index for reject in rejects] == list(range(0, 202, 2))
    assert [reject.count for reject in rejects] == [1] * HUNDRED + [52]
    assert json.loads(rejects[-1].raw) == [1] * 50 + [2, 3]
    assert rejects[-1].reason == "52 more elements of this record cannot be taken; the first: " + rejects[0].reason


@pytest.mark.parametrize("deep", [b"[" * 490 + b"]" * 490, b'{"x":' * 490 + b"1" + b"}" * 490])
def test_what_is_deep_is_refused_alike_from_any_stack(deep: bytes) -> None:
    def below(calls: int, value: bytes) -> codec.Decoded[Any]:
        return below(calls - 1, value) if calls else codec.decode_events(value)

    for value in (b"[%b]" % (EVENT[:-1] + b',"x":' + deep + b"}"), EVENT[:-1] + b',"x":' + deep + b"}"):
        assert not below(0, value).rejects
        assert below(300, value) == below(0, value)
        deeper = value.replace(deep, b"[" * 15 + deep + b"]" * 15)
        assert [r.reason for r in below(0, deeper).rejects] == ["nested more than 500 deep"]
        assert below(300, deeper) == below(0, deeper)


def test_reasons_are_short_and_say_where() -> None:
    [reject] = decode({**GOOD, "status": "x" * 1_000_000}).rejects
    assert len(reject.reason) <= codec.MAX_REASON
    assert "characters, cut" in reject.reason
    assert reject.reason.endswith("at `$.status`")
    with pytest.raises(codec.DecodeError) as refused:
        codec.decode(json.dumps({"type": "x" * 1_000_000}).encode(), Tick)
    assert len(str(refused.value)) <= codec.MAX_REASON


def test_a_record_larger_than_its_topic_takes_is_refused_whole() -> None:
    [reject] = codec.decode_events(b" " * (LARGE + 1)).rejects
    assert reject.reason == "a record of 16777217 bytes: at most 16777216"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
def test_other_encodings_of_unicode_are_taken(encoding: str) -> None:
    for document in (GOOD, [GOOD], [GOOD, 1]):
        text = json.dumps(document)
        assert codec.decode_events(text.encode(encoding)) == codec.decode_events(text.encode())


@pytest.mark.parametrize("value", [b"[" + EVENT, EVENT + b"]", b"[%b]]" % EVENT, b"[%b] 1" % EVENT, b'["%b]' % EVENT])
def test_an_array_that_is_cut_off_is_refused_whole(value: bytes) -> None:
    assert [reject.index for reject in codec.decode_events(value).rejects] == [-1]


@pytest.mark.parametrize("value", [b"[" * 2_000 + b"]" * 2_000, b'{"x":' * 2_000 + b"1" + b"}" * 2_000])
def test_whatever_the_bytes_decoding_a_result_raises_one_error(value: bytes) -> None:
    deep = b'{"type":"tick","ts":%d,"x":%b}' % (TS, value)
    for raw, type_ in ((deep, Tick), (value, Score), (b'{"ts":' + b"9" * 9_999 + b"}", Tick), (None, Score)):
        with pytest.raises(codec.DecodeError):
            codec.decode(raw, type_)
    for raw in (b"\x91" * 100_000, b"\xff", None):
        assert [reject.index for reject in codec.embeddings_in(raw).rejects] == [-1]
        with pytest.raises(codec.DecodeError):
            codec.unpack(raw or b"", Score)


WORDS = st.sampled_from(
    [b"[", b"]", b"{", b"}", b",", b":", b'"', b"\\", b" ", b"1", b"-", b"NaN", b"null", b"\xff", b"\\ud800", EVENT]
)


@given(st.binary(max_size=200) | st.lists(WORDS, max_size=30).map(b"".join))
def test_no_bytes_make_it_raise(value: bytes) -> None:
    events, rejects = codec.decode_events(value)
    assert events or rejects or not value.strip(b" \t\r\n\xef\xbb\xbf[]")
    assert len(codec.decode_events.indexes(value)) == len(events)
    for reject in rejects:
        reject.reason.encode()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(JSON | st.just(GOOD), max_size=8), st.booleans())
def test_elements_of_an_array_are_found_as_a_parser_finds_them(document: list[Any], ascii_: bool) -> None:
    value = json.dumps(document, ensure_ascii=ascii_, indent=1).encode(errors="surrogatepass")
    _, rejects = codec.decode_events(value)
    assert [json.loads(r.raw) for r in rejects] == [element for element in document if element != GOOD]
    assert [r.index for r in rejects] == [i for i, element in enumerate(document) if element != GOOD]
    assert list(codec.decode_events.indexes(value)) == [i for i, element in enumerate(document) if element == GOOD]


@given(
    st.builds(
        Trace,
        app=st.text(min_size=1, max_size=20),
        ts=st.integers(EARLIEST_TS, TS),
        trace_id=st.text(min_size=1, max_size=20),
        latency_ms=st.none() | st.floats(0, 1e9),
        input_text=st.text(),
        attributes=st.dictionaries(
            st.text(max_size=200), st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text()
        ),
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


@pytest.mark.parametrize(
    ("most", "more", "where"),
    [
        (
            {"attributes": {str(i): i for i in range(256)}},
            {"attributes": {str(i): i for i in range(257)}},
            "attributes",
        ),
        ({"attributes": {"x" * 200: "y" * 100_000}}, {"attributes": {"x" * 201: ""}}, "attributes"),
        ({"finish_reasons": ["stop"] * 128}, {"finish_reasons": ["stop"] * 129}, "finish_reasons"),
        ({"finish_reasons": ["x" * 200]}, {"finish_reasons": ["x" * 201]}, "finish_reasons"),
    ],
)
def test_maps_and_lists_have_limits_that_the_reason_names(most: Any, more: Any, where: str) -> None:
    assert not decode({**GOOD, **most}).rejects
    [reject] = decode({**GOOD, **more}).rejects
    assert "length <= " in reject.reason
    assert f"$.{where}" in reject.reason

"""What Driftline says to itself is told from what others say."""

from typing import Any

import msgspec
import pytest

from driftline.schemas.baselines import Baseline
from driftline.schemas.codec import decode_logged, encode_event, encode_events
from driftline.schemas.controls import Controls
from driftline.schemas.decoded import Decoded
from driftline.schemas.events import MICROSECONDS, BaselineSet, Forwarded, Logged, Score, Tick, Trace
from tests.sinks.clickhouse.samples import FULL

TS = 1_793_606_400 * MICROSECONDS
OURS = Controls(b"a key of this installation")
TRACE = Trace(app="bot", ts=TS, trace_id="t", attributes={"b": 0.1, "a": None}, input_text="né\u2028\U0001f600")
SCORE = Score(app="bot", ts=TS, id="s", trace_id="t", name="n", value=0.1 + 0.2)
[BASELINE] = [result for result in FULL if isinstance(result, Baseline)]
SAID: list[Any] = [
    Tick(ts=TS, source="monitor"),
    BaselineSet(app="bot", ts=TS, id="b", baseline=BASELINE),
    Forwarded(partition=1, offset=7, events=[TRACE, SCORE]),
]


def check(value: bytes, partition: int = 0) -> Decoded[Logged]:
    return OURS.decode(decode_logged, value, partition)


@pytest.mark.parametrize("control", SAID)
def test_what_is_signed_comes_through(control: Any) -> None:
    signed = OURS.signed(control, 3)
    assert check(encode_event(signed), 3) == ([signed], [])


@pytest.mark.parametrize("control", SAID)
def test_nobody_else_says_it(control: Any) -> None:
    later = msgspec.structs.replace(OURS.signed(control, 0), **{_time(control): _later(control)})
    for forged in (control, Controls(b"another key").signed(control, 0), OURS.signed(control, 1), later):
        value = encode_event(forged)
        events, [reject] = check(value)
        assert events == []
        assert reject.index == -1
        assert reject.raw == value
        assert f"only Driftline writes {control.__struct_config__.tag} records" in reject.reason


def _time(control: Any) -> str:
    return "offset" if isinstance(control, Forwarded) else "ts"


def _later(control: Any) -> int:
    return getattr(control, _time(control)) + 1  # type: ignore[no-any-return]


def test_neighbours_of_a_forgery_are_kept_and_it_is_named_by_its_place() -> None:
    tick = OURS.signed(Tick(ts=TS), 0)
    value = b"[1," + encode_events([TRACE, Tick(ts=TS + 1), tick, SCORE])[1:]
    events, rejects = check(value)
    assert events == [TRACE, tick, SCORE]
    assert [reject.index for reject in rejects] == [0, 2]


def test_a_flood_of_forgeries_is_told_in_a_few() -> None:
    ticks = [Tick(ts=TS + n, signature="0" * 64) for n in range(5_000)]
    events, rejects = check(encode_events([*ticks, TRACE]))
    assert events == [TRACE]
    assert len(rejects) == 101
    assert sum(reject.count for reject in rejects) == 5_000
    assert decode_logged(rejects[-1].raw).events == ticks[100:]


def test_a_signature_of_any_text_is_only_wrong() -> None:
    for signature in ("é", "\x00", "0" * 64, "ß" * 200):
        assert not OURS.is_ours(Tick(ts=TS, signature=signature), 0)


def test_a_prefix_makes_a_key_of_its_own() -> None:
    tick = Controls.of_prefix("a").signed(Tick(ts=TS), 0)
    assert Controls.of_prefix("a").is_ours(tick, 0)
    assert not Controls.of_prefix("b").is_ours(tick, 0)


def test_the_signature_stays_what_it_was() -> None:
    """Or an upgrade would refuse what stands in the log."""
    assert OURS.signed(Tick(ts=TS, source="monitor"), 2).signature == (
        "662d9e6a72bec98842bcd093ced3ab726c7679caeaa438d1eeecf85d2e6bc71a"
    )

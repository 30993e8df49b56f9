from itertools import pairwise

from driftline.schemas.codec import decode_events
from driftline.schemas.events import MICROSECONDS, Tick
from driftline.streams.operate.folds import with_ticks
from tests.streams.operate.conftest import START, trace

SECOND = MICROSECONDS


def test_ticks_stand_where_they_would_in_a_log() -> None:
    events = [trace(n, second) for n, second in enumerate((0, 0.5, 1, 1.5, 3.5))]
    log = [decode_events(value).events for value in with_ticks(events, START, START + 4 * SECOND, SECOND)]
    seconds = [[(type(event) is Tick, (event.ts - START) / SECOND) for event in record] for record in log]
    assert seconds == [
        [(False, 0)],
        [(True, 0)],
        [(False, 0.5), (False, 1)],
        [(True, 1)],
        [(False, 1.5)],
        [(True, 2)],
        [(True, 3)],
        [(False, 3.5)],
    ]


def test_pieces_join_without_a_tick_twice_or_missing() -> None:
    odd = 7 * SECOND
    middle = START + 600 * SECOND
    ticks = [
        event.ts
        for since, until in ((START, middle), (middle, middle + 600 * SECOND))
        for value in with_ticks([], since, until, odd)
        for event in decode_events(value).events
    ]
    assert {b - a for a, b in pairwise(ticks)} == {odd}
    assert not any(tick % odd for tick in ticks)

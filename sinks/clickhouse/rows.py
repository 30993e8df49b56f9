"""Events and results as rows of the tables in `migrations/`: one line of JSON each. Pure.

Timestamps become strings of microseconds. ClickHouse reads a string of at least ten digits in a DateTime64(6) column as
a number of microseconds, in every version; a bare number means microseconds before version 26.7 and seconds after it.
"""

from typing import Any

import msgspec

from driftline.schemas.codec import encode
from driftline.schemas.events import Release, Score, Trace
from driftline.schemas.results import (
    Alert,
    BreakerSignal,
    DeadLetter,
    Evidence,
    Result,
    RollbackSignal,
    WindowStats,
)

TRACES, SCORES, RELEASES = "traces_raw", "scores_raw", "releases_raw"

_RESULTS: dict[type, tuple[str, tuple[str, ...]]] = {  # table, and which fields are times
    WindowStats: ("windows_raw", ("start",)),
    Evidence: ("evidence_raw", ("ts", "since")),
    Alert: ("alerts_raw", ("ts", "since", "fired_at", "resolved_at")),
    RollbackSignal: ("rollbacks_raw", ("decided_at",)),
    BreakerSignal: ("breakers_raw", ("at",)),
    DeadLetter: ("dead_letters_raw", ()),
}
_TS = b',"ts":'
_DIGITS = 16  # of every timestamp that an event may carry: 2020 to 2100 in microseconds


def event_head(offset: int) -> bytes:
    """What all events of one Kafka record have in common: their version."""
    return b'{"revision":%d,' % offset


def trace_row(trace: Trace, head: bytes, price: float | None) -> bytes:
    """`price` is ours, for a trace that does not report its cost."""
    if trace.cost_usd is not None:
        return _event_row(trace, head + b'"cost_status":"reported",')
    if price is None:
        return _event_row(trace, head + b'"cost_status":"unpriced",')
    return _event_row(trace, head + b'"cost_status":"priced","cost_usd":%b,' % msgspec.json.encode(price))


def event_row(event: Score | Release, head: bytes) -> tuple[str, bytes]:
    """The table, and the row."""
    return SCORES if isinstance(event, Score) else RELEASES, _event_row(event, head)


def result_row(result: Result | DeadLetter, offset: int) -> tuple[str, bytes]:
    """The table, and the row. `offset` is the version of a dead letter; the others have their own `revision`."""
    table, times = _RESULTS[type(result)]
    row: dict[str, Any] = {"revision": offset, **msgspec.to_builtins(result)}
    for name in times:
        if row[name] is not None:
            row[name] = str(row[name])
    return table, msgspec.json.encode(row)


def _event_row(event: Trace | Score | Release, head: bytes) -> bytes:
    # An event's JSON begins {"type":"…","app":"…","ts":…, and a quote inside of the app's name is escaped: the first
    # ,"ts": is the key. Splicing costs a tenth of building a second object.
    line = encode(event)
    at = line.index(_TS) + len(_TS)
    return b'%b%b"%b"%b' % (head, line[1:at], line[at : at + _DIGITS], line[at + _DIGITS :])

"""Events and results as rows of the tables in `migrations/`. Pure.

An event is decoded straight into its row: the event's own fields, and those that only the table has. A batch of rows
is then encoded as lines of JSON.

Timestamps become strings of microseconds. ClickHouse reads a string of sixteen digits in a DateTime64(6) column as a
number of microseconds, in every version; a bare number means microseconds before version 26.7 and seconds after it.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, get_args

import msgspec

from driftline.schemas.codec import EventDecoder, encode
from driftline.schemas.events import BaselineSet, Forwarded, Release, Score, Tick, Trace
from driftline.schemas.results import (
    Alert,
    Baseline,
    BreakerSignal,
    DeadLetter,
    Evidence,
    LeftOut,
    Result,
    RollbackSignal,
    WindowStats,
)

TRACES, SCORES, RELEASES = "traces_raw", "scores_raw", "releases_raw"

# An app may send fields of these names. They are skipped like any other that is unknown, and overwritten here.
if TYPE_CHECKING:
    Column: TypeAlias = Any
else:
    Column = msgspec.Raw
SKIPPED = msgspec.Raw()


class TraceRow(Trace, tag="trace", tag_field="type", kw_only=True, omit_defaults=True, gc=False):
    revision: Column = SKIPPED
    cost_status: Column = SKIPPED


class ScoreRow(Score, tag="score", tag_field="type", kw_only=True, omit_defaults=True, gc=False):
    revision: Column = SKIPPED


class ReleaseRow(Release, tag="release", tag_field="type", kw_only=True, omit_defaults=True, gc=False):
    revision: Column = SKIPPED


EventRow: TypeAlias = TraceRow | ScoreRow | ReleaseRow
Row: TypeAlias = EventRow | dict[str, Any]

decode_rows: EventDecoder[EventRow | Tick | BaselineSet | Forwarded] = EventDecoder(
    EventRow | Tick | BaselineSet | Forwarded
)
"""Takes and refuses what `schemas.codec.decode_events` does. Each row is complete after `complete_row`."""

_RESULTS: dict[type, tuple[str, tuple[str, ...]]] = {  # table, and which fields are times
    WindowStats: ("windows_raw", ("start",)),
    LeftOut: ("left_out_raw", ("start", "tick")),
    Evidence: ("evidence_raw", ("ts", "since")),
    Alert: ("alerts_raw", ("ts", "since", "fired_at", "resolved_at")),
    RollbackSignal: ("rollbacks_raw", ("decided_at",)),
    BreakerSignal: ("breakers_raw", ("at",)),
    Baseline: ("baselines_raw", ("at", "from_ts", "to_ts", "fitted_at")),
    DeadLetter: ("dead_letters_raw", ()),
}


def complete_row(row: EventRow, offset: int) -> str:
    """Add the version, which is the offset of the event's Kafka record. Returns the row's table. A trace's cost is
    still to be settled."""
    row.revision = offset
    row.ts = str(row.ts)  # type: ignore[assignment]  # from here on it is a row
    return TRACES if type(row) is TraceRow else SCORES if type(row) is ScoreRow else RELEASES


def encode_rows(rows: Sequence[Row]) -> bytes:
    """As lines of JSON, without the tags of events: every field has a column."""
    lines: list[bytes] = []
    for row in rows:
        begins = _TAGS.get(type(row), 0)
        lines += (b"{", encode(row)[begins:], b"\n") if begins else (encode(row), b"\n")
    return b"".join(lines)


_TAGS = {row: len(f'{{"type":"{row.__struct_config__.tag}",') for row in get_args(EventRow)}  # msgspec writes it first


def settle_cost(row: TraceRow, price: float | None) -> None:
    """`price` is ours, in US dollars, for a trace that does not report its cost."""
    if row.cost_usd is not None:
        row.cost_status = "reported"
    elif price is None:
        row.cost_status = "unpriced"
    else:
        row.cost_usd = price
        row.cost_status = "priced"


def result_row(result: Result | DeadLetter, offset: int) -> tuple[str, Row]:
    """The table, and the row. `offset` is the version of a dead letter; the others have their own `revision`."""
    table, times = _RESULTS[type(result)]
    row: dict[str, Any] = {"revision": offset, **msgspec.to_builtins(result)}
    row.pop("type", None)  # its tag
    for name in times:
        if row[name] is not None:
            row[name] = str(row[name])
    return table, row

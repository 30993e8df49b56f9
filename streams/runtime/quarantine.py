"""Which record ends a role, found by starts that know of each other, and what is said of it. No I/O.

A record must not end a role for ever. What cannot be decoded is never the fold's; this is for what nobody thought of: a
fold that raises, a process that is killed for its memory or its standing still, at the same record again and again.

After each start, until its first state, a partition writes a *note* into its state topic before it absorbs: which
records. It is closed when they are absorbed. So a start that finds an open note knows what ended the one before, and
looks more closely:

1. a run of records ended it: everything before is absorbed and saved, then one record at a time, a note for each;
2. one record ended it: once more, alone;
3. one record ended it twice, alone: it is skipped. The skip is part of the state, so whoever goes on knows of it.

A fold that raised has absorbed a part: it is dropped and built anew from its state, as after a crash. One that had no
memory for a record ends its process, as if it were killed: with the rest of its memory nobody can go on. A healthy role
pays a few small records after each start, and nothing after that. What is not the record's fault does not count: notes
are closed before results are published, and when a rebalance takes the partition away; errors that pass by themselves,
or that are settings', end the process as ever.
"""

import traceback
from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import NamedTuple, Protocol, TypeVar

from driftline.schemas.codec import decode_events
from driftline.schemas.errors import ConfigError, PermanentError, RetryableError
from driftline.schemas.events import EARLIEST_TS
from driftline.schemas.ids import stable_id
from driftline.schemas.results import Alert, DeadLetter
from driftline.schemas.topics import LARGE
from driftline.streams.fold import sent_at
from driftline.streams.runtime.state import Note, Skipped

TWICE = 2  # alone: an operator's kill -9 would have to hit the same millisecond twice
WITHIN_S = 3600.0  # of the records' time: more than the limit within it is no record's fault
REASON_CHARS = 4_000  # of a traceback: its end, with what was raised
RULE = "quarantine"
NO_APP = "(driftline)"  # of alerts that are about no app
MOST_RAW = LARGE // 2  # bytes of a record in its letter, which is sent as the results are; base64 makes four of three
EXCERPT = 64 * 1024  # bytes of a record that has more


class Raised(Exception):
    """A fold raised on records, and has absorbed a part of them: it must be built anew."""

    def __init__(self, first: int, last: int, reason: str) -> None:
        super().__init__(f"offsets {first} to {last}: {reason}")


class Fetched(Protocol):
    """The part of a consumed Kafka record that is looked at."""

    @property
    def offset(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def timestamp(self) -> int: ...  # milliseconds since the Unix epoch


R = TypeVar("R", bound=Fetched)


class Suspects(NamedTuple):
    """Records that may be what ended the role: `first` to `last`, and how often exactly these did."""

    first: int
    last: int
    ended: int
    reason: str

    @property
    def guilty(self) -> bool:
        return self.first == self.last and self.ended >= TWICE

    def parts(self, records: Sequence[R]) -> Iterator[Sequence[R]]:
        """Suspects one by one, and those before and after them together."""
        before = [record for record in records if record.offset < self.first]
        after = [record for record in records if record.offset > self.last]
        if before:
            yield before
        for record in records[len(before) : len(records) - len(after)]:
            yield [record]
        if after:
            yield after


def suspects(note: Note | None, absorbed: int) -> Suspects | None:
    """What an earlier start left behind: an open note is of records that ended it. `absorbed`: the offset of the state,
    which what is noted comes after."""
    if note is None or note.first > note.last or note.last <= absorbed:
        return None
    return Suspects(note.first, note.last, note.ended + 1, note.reason)


def is_its_fault(error: Exception) -> bool:
    """Whether the record is why a fold raised: not for what passes by itself, nor for settings."""
    return not isinstance(error, RetryableError | ConfigError)


def reason(error: Exception) -> str:
    text = "".join(traceback.format_exception(error)).strip()
    return text if len(text) <= REASON_CHARS else "…" + text[-REASON_CHARS:]


def last_line(why: str) -> str:
    """Of a reason: what was raised."""
    return (why or ENDED).rstrip().splitlines()[-1][:200]


def over_limit(skipped: Sequence[Skipped], now_ms: int, limit: int) -> bool:
    """Whether one more record would be more than records can be at fault for."""
    recent = [skip for skip in skipped if now_ms - skip.timestamp <= WITHIN_S * 1_000]
    return len(recent) >= limit


def too_many(fold: str, where: str, limit: int, why: str) -> PermanentError:
    return PermanentError(
        f"{fold} cannot absorb {where}, and has put {limit} records of this partition aside within an hour: it is no "
        "record's fault. Install a Driftline that takes them, or delete the partition's state; nothing is lost "
        f"meanwhile. To go on all the same, raise kafka.quarantine_limit. It ended with: {last_line(why)}"
    )


def letter(fold: str, topic: str, partition: int, record: Fetched, why: str) -> DeadLetter:
    raw, cut = record.value or b"", ""
    if len(raw) > MOST_RAW:
        cut = f"Here are the first {EXCERPT} of {len(raw)} bytes with SHA-256 {sha256(raw).hexdigest()}. "
        raw = raw[:EXCERPT]
    return DeadLetter(
        id=stable_id(topic, partition, record.offset, record.timestamp, RULE, fold),
        topic=topic,
        partition=partition,
        offset=record.offset,
        index=-1,
        reason=f"quarantined: it ended {fold} each time it was absorbed. {cut}{why or ENDED}",
        raw=raw,
        key=record.key and record.key[:1_000],
        role=fold,
    )


ENDED = "The process ended without a word: killed, out of memory, or standing still (its log says which)"


def app_of(record: Fetched) -> str:
    """The one app of the record's events, where that is readable."""
    apps = {event.app for event in decode_events(record.value).events if hasattr(event, "app")}
    return apps.pop() if len(apps) == 1 else NO_APP


def alert(fold: str, topic: str, partition: int, record: Fetched, app: str, why: str) -> Alert:
    """One for each record: at most as many as may be put aside."""
    at = sent_at(record.timestamp) or EARLIEST_TS
    id_ = stable_id("alert", RULE, fold, topic, partition, record.offset, record.timestamp)
    where = f"{topic}[{partition}], offset {record.offset}"
    return Alert(
        id=id_,
        dedup_key=id_,
        app=app,
        release="",
        rule=RULE,
        component=fold,
        state="firing",
        severity="error",
        episode=record.offset,
        ts=at,
        since=at,
        fired_at=at,
        resolved_at=None,
        revision=record.offset,
        summary=f"Driftline's {fold} put a record aside that ended it: {where}",
        description=f"What it holds is in no result of {fold}; others may have it. It ended with: {last_line(why)}",
        action="`driftline dlq ls --reason quarantined` shows it with the traceback. It is a fault of Driftline's: "
        "report it with the record; once a version takes it, `driftline dlq requeue` sends it again.",
        value=None,
        baseline=None,
        effect=None,
        effect_low=None,
        effect_high=None,
        n_events=0,
        false_alarms="never: it is counted, not tested",
        contributors=[],
        labels={"app": app, "release": "", "rule": RULE, "component": fold},
        evidence_id="",
    )

"""What of the events topic counts here: the events of the apps at home in this partition, wherever their producers put
them."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

import msgspec

from driftline.schemas.codec import decode_logged, encode_event
from driftline.schemas.decoded import Decoded, Reject
from driftline.schemas.events import CLOCK, CONTROLS, Event, Forwarded, Logged, Release, Score, Tick, Trace
from driftline.schemas.homes import home
from driftline.schemas.topics import Topics
from driftline.streams.fold import Output, Record, broker_time

FORWARDED_BYTES = 1_000_000  # of one record's events: far below the topic's limit, and enough for most arrays whole
TEXT_CHARS = 250_000  # of each text of an event that alone is larger: no number depends on it, no model reads more
KNOWN_APPS = 65_536  # at home here, remembered by name; beyond that each is looked up

Own: TypeAlias = Trace | Score | Release

_CONTROLS: frozenset[type] = frozenset(CONTROLS)


class Taken(NamedTuple):
    events: list[Event]  # to be counted here, among them those that were forwarded here
    rejects: int
    adopted: int  # of the events, those that were forwarded here
    away: Sequence[Own]  # events of apps at home in other partitions


class Intake:
    """Of one partition. Without one (records that Driftline makes itself) nothing is checked and all are at home."""

    def __init__(self, topics: Topics | None = None, partition: int | None = None) -> None:
        self._topics = topics or Topics()
        self._partition = partition
        self._homes = None if partition is None else self._topics.homes
        self._at_home: set[str] = set()

    def __call__(self, record: Record) -> Taken:
        if self._partition is None:
            decoded = decode_logged(record.value)
        else:
            decoded = self._topics.controls.decode(decode_logged, record.value, self._partition)
        events: list[Any] = decoded.events
        if _CONTROLS.isdisjoint(map(type, events)):
            if self._homes is None or {event.app for event in events} <= self._at_home:
                return Taken(events, _count(decoded.rejects), 0, ())
        elif len(events) == 1 and type(events[0]) is Tick:
            return Taken([timed(events[0], record)], _count(decoded.rejects), 0, ())
        return self._sorted(decoded)

    def _sorted(self, decoded: Decoded[Logged]) -> Taken:
        here: list[Event] = []
        away: list[Own] = []
        adopted = 0
        for event in decoded.events:
            if isinstance(event, Forwarded):
                here += event.events
                adopted += len(event.events)
            elif isinstance(event, Trace | Score | Release) and not self._is_at_home(event.app):
                away.append(event)
            else:
                here.append(event)
        return Taken(here, _count(decoded.rejects), adopted, away)

    def _is_at_home(self, app: str) -> bool:
        if self._homes is None or app in self._at_home:
            return True
        if home(app, self._homes) != self._partition:
            return False
        if len(self._at_home) < KNOWN_APPS:
            self._at_home.add(app)
        return True

    def forward(self, offset: int, away: Iterable[Own]) -> list[Output]:
        """To the homes of these events of the record at `offset`. A repeat is dropped there like any other copy."""
        if self._homes is None or self._partition is None:
            return []
        by_home: dict[int, list[Own]] = {}
        for event in away:
            by_home.setdefault(home(event.app, self._homes), []).append(event)
        outputs = []
        for number, events in sorted(by_home.items()):
            for part, some in enumerate(_parts(events)):
                forwarded = Forwarded(partition=self._partition, offset=offset, part=part, events=some)
                value = encode_event(self._topics.controls.signed(forwarded, number))
                outputs.append(Output(self._topics.events, None, value, number))
        return outputs


def timed(tick: Tick, record: Record) -> Tick:
    """The tick with the time that counts. What time it is now the broker says, where the topic keeps its time: so no
    wrong clock of a worker moves time, and a replay of the log sees the same."""
    at = broker_time(record) if tick.source == CLOCK else None
    return tick if at is None else msgspec.structs.replace(tick, ts=at)


def _count(rejects: Sequence[Reject]) -> int:
    return sum(reject.count for reject in rejects) if rejects else 0


def _parts(events: Iterable[Own]) -> Iterable[list[Own]]:
    part: list[Own] = []
    size = 0
    for event in events:
        length = len(encode_event(event))
        if length > FORWARDED_BYTES:
            event = _shortened(event)
            length = len(encode_event(event))
        if part and size + length > FORWARDED_BYTES:
            yield part
            part, size = [], 0
        part.append(event)
        size += length
    if part:
        yield part


def _shortened(event: Own) -> Own:
    """Without what nobody counts: the archive has it whole, from where it came."""
    if isinstance(event, Trace):
        return msgspec.structs.replace(
            event, input_text=event.input_text[:TEXT_CHARS], output_text=event.output_text[:TEXT_CHARS], attributes={}
        )
    if isinstance(event, Score):
        return msgspec.structs.replace(event, explanation=event.explanation[:TEXT_CHARS], attributes={})
    return msgspec.structs.replace(event, description=event.description[:TEXT_CHARS], attributes={})

"""The one way between bytes and types.

`decode_events` never raises: what cannot be taken comes back as rejects with a reason that says what was wrong, where,
and what to do. Good neighbours in the same record are kept.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from driftline.schemas.clock import utc
from driftline.schemas.events import EARLIEST_TS, LATEST_TS, Event
from driftline.schemas.results import EmbeddingEvent

T = TypeVar("T")
E = TypeVar("E")

_raws: msgspec.json.Decoder[list[msgspec.Raw]] = msgspec.json.Decoder(list[msgspec.Raw])
_json = msgspec.json.Encoder()
_msgpack = msgspec.msgpack.Encoder()
_embeddings: msgspec.msgpack.Decoder[list[EmbeddingEvent]] = msgspec.msgpack.Decoder(list[EmbeddingEvent])


@dataclass(frozen=True, slots=True)
class Reject:
    index: int  # within the record's array; -1: the whole record
    reason: str
    raw: bytes


class Decoded(NamedTuple, Generic[E]):
    events: list[E]
    rejects: list[Reject]


class DecodeError(ValueError):
    """Bytes that are not the expected type; the message says why."""


class EventDecoder(Generic[E]):
    """Decodes records of the events topic to `types`, a union of event types or of subclasses of them."""

    def __init__(self, types: Any) -> None:
        self._types = types
        self._one: msgspec.json.Decoder[E] = msgspec.json.Decoder(types)
        self._many: msgspec.json.Decoder[list[E]] = msgspec.json.Decoder(list[types])

    def __call__(self, value: bytes | None) -> Decoded[E]:
        """One record's value to its events. Fast for what is whole (one pass in C), element by element for what is
        not."""
        if not value:
            return Decoded([], [Reject(-1, "empty record: expected a JSON object or an array of them", value or b"")])
        try:
            if value[:1] == b"[":
                return Decoded(self._many.decode(value), [])
            return Decoded([self._one.decode(value)], [])
        except (msgspec.DecodeError, UnicodeDecodeError):
            return self._salvage(value)

    def _salvage(self, value: bytes) -> Decoded[E]:
        try:
            document: Any = json.loads(value)  # more lenient than the standard: takes NaN, which then fails on its own
        except (ValueError, RecursionError) as error:
            return Decoded([], [Reject(-1, f"not JSON: {error}", value)])
        if not isinstance(document, list):
            return self._collect([(-1, document, value)])
        try:
            raws = [bytes(raw) for raw in _raws.decode(value)]
        except (msgspec.DecodeError, UnicodeDecodeError):
            raws = [json.dumps(element).encode() for element in document]
        return self._collect([(i, element, raw) for i, (element, raw) in enumerate(zip(document, raws, strict=True))])

    def _collect(self, elements: list[tuple[int, Any, bytes]]) -> Decoded[E]:
        events: list[E] = []
        rejects = []
        for index, element, raw in elements:
            try:
                bad = _not_finite(element)
                if bad:
                    raise msgspec.ValidationError(f"{bad} is NaN or infinite: leave out what was not measured")
                event: E = msgspec.convert(element, self._types)
                _json.encode(event)  # refuses lone surrogates, which json.loads takes and nothing downstream can write
                events.append(event)
            except (ValueError, OverflowError) as error:  # msgspec's own are ValueErrors
                reason = _explain(error, element).encode(errors="replace").decode()
                rejects.append(Reject(index, reason, raw))
        return Decoded(events, rejects)


decode_events: EventDecoder[Event] = EventDecoder(Event)


def _not_finite(element: Any, path: str = "$") -> str:
    if isinstance(element, float) and not math.isfinite(element):
        return path
    if isinstance(element, dict):
        return next(filter(None, (_not_finite(v, f"{path}.{k}") for k, v in element.items())), "")
    return ""


def _explain(error: Exception, element: Any) -> str:
    reason = str(error)
    if isinstance(error, UnicodeEncodeError):
        return f"text that is not Unicode: {error.reason} (a lone surrogate)"
    if isinstance(element, dict) and reason.endswith("$.ts`"):
        reason += _explain_ts(element.get("ts"))
    return reason


def _explain_ts(ts: Any) -> str:
    if not isinstance(ts, int):
        return ": ts is an integer, microseconds since 1970-01-01 UTC"
    for unit, factor in (("seconds", 1_000_000), ("milliseconds", 1_000)):
        if EARLIEST_TS <= ts * factor <= LATEST_TS:
            return f": ts={ts} looks like {unit}; it is in microseconds"
    if EARLIEST_TS <= ts // 1_000 <= LATEST_TS:
        return f": ts={ts} looks like nanoseconds; it is in microseconds"
    try:
        when = utc(ts).isoformat()
    except OverflowError:
        when = "out of range"
    return f": ts={ts} is {when}; it is in microseconds, from 2020 to 2100"


def encode_event(event: Event) -> bytes:
    return _json.encode(event)


def encode_events(events: list[Any]) -> bytes:
    """An array: how producers batch."""
    return _json.encode(events)


def encode_lines(items: Sequence[Any]) -> bytes:
    """A line of JSON each."""
    return _json.encode_lines(items)


def encode(result: msgspec.Struct) -> bytes:
    """A result as JSON."""
    return _json.encode(result)


def decode(value: bytes | None, type_: type[T]) -> T:
    try:
        return msgspec.json.decode(value or b"", type=type_)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DecodeError(f"not a {type_.__name__}: {error}") from error


def pack(value: Any) -> bytes:
    """MessagePack, for what only Driftline reads: embeddings and state."""
    return _msgpack.encode(value)


def unpack(value: bytes, type_: type[T]) -> T:
    try:
        return msgspec.msgpack.decode(value, type=type_)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DecodeError(f"not a {type_.__name__}: {error}") from error


def decode_embeddings(value: bytes | None) -> list[EmbeddingEvent]:
    """One record of the embeddings topic. Raises DecodeError: only Driftline writes there."""
    try:
        return _embeddings.decode(value or b"")
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DecodeError(f"not a list of embeddings and ticks: {error}") from error

"""The one way between bytes and types: the boundary to whoever can write to a topic.

`EventDecoder` never raises, whatever the bytes: what cannot be taken comes back as rejects with a reason that says what
was wrong, where, and what to do. Good neighbours in the same record are kept. Time and memory are bounded by the size
of the record, and what is taken and refused depends on the bytes alone, so that every role decides alike. `decode` and
its like raise DecodeError and nothing else.
"""

import codecs
import json
import math
import re
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import msgspec

from driftline.schemas.clock import utc
from driftline.schemas.decoded import Decoded as Decoded
from driftline.schemas.decoded import Reject as Reject
from driftline.schemas.events import EARLIEST_TS, LATEST_TS, Event, Logged
from driftline.schemas.results import EmbeddingEvent
from driftline.schemas.topics import LARGE

T = TypeVar("T")
E = TypeVar("E")

MAX_DEPTH = 500  # brackets in each other: events have three; parsers recurse, and Python's stack ends at 1,000
MAX_REJECTS = 100  # of a record, each with its reason; more are one reject, which says how many
MAX_REASON = 500  # characters: a reason may quote the value
EXPLAINED = 64 * 1024  # bytes of an element that are parsed once more to say where it is wrong

_UNREADABLE = b"\0driftline: unreadable batch\0"  # never the beginning of JSON or MessagePack that is taken

_SPACE = b" \t\n\r"
_SHORTEST = 36  # bytes: `{"type":"tick","ts":1793606400000000}` is the shortest event
_LONE_SURROGATE = re.compile(rb"(?<!\\)(?:\\\\)*\\u(?:d[89ab]..(?!\\ud[c-f])|d[c-f])", re.IGNORECASE)
_NOT_FINITE = re.compile(rb"[:,\[]\s*-?(?:NaN|Infinity)")

_json = msgspec.json.Encoder()
_msgpack = msgspec.msgpack.Encoder()
_embeddings: msgspec.msgpack.Decoder[list[EmbeddingEvent]] = msgspec.msgpack.Decoder(list[EmbeddingEvent])


class DecodeError(ValueError):
    """Bytes that are not the expected type; the message says why."""


class EventDecoder(Generic[E]):
    """Decodes records of the events topic to `types`, a union of event types or of subclasses of them."""

    def __init__(self, types: Any) -> None:
        self._one: msgspec.json.Decoder[E] = msgspec.json.Decoder(types)
        self._many: msgspec.json.Decoder[list[E]] = msgspec.json.Decoder(list[types])

    def __call__(self, value: bytes | None) -> Decoded[E]:
        """One record's value to its events. Fast for what is whole (one pass in C), element by element for what is
        not."""
        value = value or b""
        events = self._whole(value)
        return Decoded(events, []) if events is not None else self._taken_apart(value)[0]

    def indexes(self, value: bytes | None) -> Sequence[int]:
        """Of each decoded event, in order: its index within the record's array; -1: it is the record."""
        value = value or b""
        events = self._whole(value)
        if events is None:
            return self._taken_apart(value)[1]
        return range(len(events)) if value[:1] == b"[" else (-1,)

    def _whole(self, value: bytes) -> list[E] | None:
        """None: something is wrong with it."""
        if len(value) > LARGE:
            return None
        try:
            events = self._many.decode(value) if value[:1] == b"[" else [self._one.decode(value)]
        except Exception:  # noqa: BLE001  # whatever it is, `_taken_apart` finds out what and where
            return None
        return None if is_deep(value, len(events)) else events

    def _taken_apart(self, value: bytes) -> tuple[Decoded[E], list[int]]:
        try:
            return self._salvage(value)
        except Exception as error:  # noqa: BLE001  # the last resort: a record that ends a role ends it for ever
            return _refused(value, f"cannot be decoded: {type(error).__name__}: {error}")

    def _salvage(self, value: bytes) -> tuple[Decoded[E], list[int]]:
        if not value:
            return _refused(value, "empty record: expected a JSON object or an array of them")
        if value.startswith(_UNREADABLE):
            return _refused(value, *_what_was_unreadable(value))
        if len(value) > LARGE:
            return _refused(value, f"a record of {len(value)} bytes: at most {LARGE}")
        text = _utf8(value).strip(_SPACE)
        if text[:1] == b"[":
            return self._elements(value, text)
        try:
            if is_deep(text, 1):
                raise DecodeError(_TOO_DEEP)
            return Decoded([self._one.decode(text)], []), [-1]
        except Exception as error:  # noqa: BLE001  # any error of any parser is a reason to refuse
            return _refused(value, _explain(error, text))

    def _elements(self, value: bytes, text: bytes) -> tuple[Decoded[E], list[int]]:
        """Of an array: each element stands for itself."""
        import numpy as np  # here, since a producer never comes here and numpy takes long to import

        from driftline.schemas.elements import structure

        shape = structure(text, MAX_DEPTH)
        if shape.end != len(text) - 1:
            what = (
                "the array does not end" if shape.end < 0 else f"characters after the array, from byte {shape.end + 1}"
            )
            return _refused(value, f"not JSON: {what}")
        starts, ends = shape.bounds
        if len(starts) == 1 and not text[1:-1].strip(_SPACE):
            return Decoded([], []), []
        first = np.frombuffer(text, np.uint8)[starts]
        worth = (ends - starts >= _SHORTEST) & ((first == ord("{")) | (first <= ord(" ")))
        worth[shape.deep] = False
        events: list[E] = []
        indexes: list[int] = []
        for i in np.flatnonzero(worth).tolist():
            try:
                events.append(self._one.decode(text[starts[i] : ends[i]]))
            except Exception:  # noqa: BLE001  # explained below
                continue
            indexes.append(i)
        bad = np.ones(len(starts), bool)
        bad[indexes] = False
        numbers = np.flatnonzero(bad)
        deep = set(shape.deep[:MAX_REJECTS].tolist())

        def why(number: int) -> tuple[str, bytes]:
            raw = text[starts[number] : ends[number]].strip(_SPACE)
            return (_TOO_DEEP if number in deep else self._reason(raw)), raw

        rejects = [Reject(number, *why(number)) for number in numbers[:MAX_REJECTS].tolist()]
        rest = numbers[MAX_REJECTS:]
        if len(rest):
            reason = bounded(
                f"{len(rest)} more elements of this record cannot be taken; the first: {why(int(rest[0]))[0]}"
            )
            breaks = np.flatnonzero(np.diff(rest) > 1)  # good ones between them are left out
            firsts, lasts = rest[np.concatenate([[0], breaks + 1])], rest[np.concatenate([breaks, [len(rest) - 1]])]
            raws = (text[a:b] for a, b in zip(starts[firsts].tolist(), ends[lasts].tolist(), strict=True))
            rejects.append(Reject(int(rest[0]), reason, b"[%b]" % b",".join(raws), len(rest)))
        return Decoded(events, rejects), indexes

    def _reason(self, raw: bytes) -> str:
        if not raw:
            return "nothing between two commas: expected a JSON object"
        try:
            self._one.decode(raw)
        except Exception as error:  # noqa: BLE001  # any error of any parser is a reason to refuse
            return _explain(error, raw)
        return "cannot be taken"


decode_events: EventDecoder[Event] = EventDecoder(Event)
decode_logged: EventDecoder[Logged] = EventDecoder(Logged)

_TOO_DEEP = f"nested more than {MAX_DEPTH} deep"


def unreadable(reason: str, records: int) -> bytes:
    """In place of the value of a record: so many records of a batch that could not be read. Every decoder refuses it,
    with the reason."""
    return b"%b%d %b" % (_UNREADABLE, records, bounded(reason).encode())


def _what_was_unreadable(value: bytes) -> tuple[str, int]:
    count, _, reason = value.removeprefix(_UNREADABLE).partition(b" ")
    return reason.decode(errors="replace"), int(count) if count.isdigit() and len(count) < 10 else 1


def _refused(value: bytes, reason: str, count: int = 1) -> tuple[Decoded[Any], list[int]]:
    return Decoded([], [Reject(-1, bounded(reason), value, count)]), []


def is_deep(value: bytes, elements: int, depth: int = MAX_DEPTH) -> bool:
    """Whether it nests deeper than `depth`. Parsers tell only when Python's stack ends, which depends on the caller.
    `elements`: how many objects stand beside each other at least."""
    if len(value) <= 2 * depth:
        return False
    from driftline.schemas.elements import count_openers, structure  # here, since importing numpy takes long

    return count_openers(value) - elements > depth and bool(structure(value, depth).deep.size)


def _utf8(value: bytes) -> bytes:
    """JSON is UTF-8; a byte order mark, and UTF-16 and UTF-32, are taken."""
    if value.startswith(codecs.BOM_UTF8):
        return value[len(codecs.BOM_UTF8) :]
    encoding = json.detect_encoding(value)
    if encoding.startswith("utf-8"):
        return value
    try:
        return value.decode(encoding).encode()
    except UnicodeError:
        return value


def bounded(reason: str) -> str:
    """At most MAX_REASON characters. The middle is cut: it quotes a value, and the end says where."""
    reason = reason.encode(errors="replace").decode()  # lone surrogates
    if len(reason) <= MAX_REASON:
        return reason
    tail = MAX_REASON // 4
    return f"{reason[: MAX_REASON - tail - 40]} … {len(reason)} characters, cut … {reason[-tail:]}"


def _explain(error: Exception, raw: bytes) -> str:
    """What is wrong with one element. `raw` nests at most MAX_DEPTH deep."""
    reason = str(error)
    if isinstance(error, UnicodeDecodeError):
        reason = f"text that is not UTF-8: {error.reason}"
    elif isinstance(error, RecursionError):
        reason = _TOO_DEEP
    elif isinstance(error, msgspec.ValidationError):
        if reason.endswith("$.ts`"):
            reason += _explain_ts(raw)
    elif isinstance(error, msgspec.DecodeError):
        if path := _not_finite(raw):
            reason = f"{path} is NaN or infinite: leave out what was not measured"
        elif _LONE_SURROGATE.search(raw):
            reason = "text that is not Unicode: a lone surrogate"
        else:
            reason = f"not JSON: {reason}"
    return bounded(reason)


def _not_finite(raw: bytes) -> str:
    """The path to a number that is none; empty: there is none."""
    if not _NOT_FINITE.search(raw):
        return ""
    if len(raw) > EXPLAINED:
        return "a number"
    try:
        left: list[tuple[str, Any]] = [("$", json.loads(raw))]
    except (ValueError, RecursionError):
        return "a number"
    while left:
        path, value = left.pop()
        if isinstance(value, float) and not math.isfinite(value):
            return path
        if isinstance(value, dict):
            left += [(f"{path}.{name}"[:MAX_REASON], inner) for name, inner in reversed(value.items())]
        elif isinstance(value, list):
            left += [(f"{path}[{i}]", inner) for i, inner in reversed(list(enumerate(value)))]
    return ""


_WHOLE = re.compile(rb'\s*"?(-?\d{1,30})(?:\.\d{0,30})?"?\s*')  # of a number, or of one in quotes


class _Ts(msgspec.Struct):
    ts: msgspec.Raw = msgspec.Raw(b"")


def _explain_ts(raw: bytes) -> str:
    try:
        found = _WHOLE.fullmatch(bytes(msgspec.json.decode(raw, type=_Ts).ts))
    except msgspec.DecodeError:  # after `ts` it is no JSON
        found = None
    ts = int(found[1]) if found else EARLIEST_TS
    if EARLIEST_TS <= ts <= LATEST_TS:
        return ": ts is an integer, microseconds since 1970-01-01 UTC"
    for unit, factor in (("seconds", 1_000_000), ("milliseconds", 1_000)):
        if EARLIEST_TS <= ts * factor <= LATEST_TS:
            return f": ts={ts} looks like {unit}; it is in microseconds"
    if EARLIEST_TS <= ts // 1_000 <= LATEST_TS:
        return f": ts={ts} looks like nanoseconds; it is in microseconds"
    try:
        when = utc(ts).isoformat()
    except (OverflowError, ValueError):
        when = "out of range"
    return f": ts={ts} is {when}; it is in microseconds, from 2020 to 2100"


def encode_event(event: Logged) -> bytes:
    return _json.encode(event)


def encode_events(events: list[Any]) -> bytes:
    """An array: how producers batch."""
    return _json.encode(events)


def encode(result: msgspec.Struct | dict[str, Any]) -> bytes:
    """A result, or a row, as JSON."""
    return _json.encode(result)


def decode(value: bytes | None, type_: type[T]) -> T:
    """:raises DecodeError: whatever is wrong with it."""
    try:
        return msgspec.json.decode(value or b"", type=type_)
    except Exception as error:  # any error of any parser
        raise _not_a(type_, value, error) from error


def pack(value: Any) -> bytes:
    """MessagePack, for what only Driftline reads: embeddings and state."""
    return _msgpack.encode(value)


def unpack(value: bytes, type_: type[T]) -> T:
    """:raises DecodeError: whatever is wrong with it."""
    try:
        return msgspec.msgpack.decode(value, type=type_)
    except Exception as error:  # any error of any parser
        raise _not_a(type_, value, error) from error


def decode_embeddings(value: bytes | None) -> list[EmbeddingEvent]:
    """One record of the embeddings topic.

    :raises DecodeError: whatever is wrong with it.
    """
    try:
        return _embeddings.decode(value or b"")
    except Exception as error:  # any error of any parser
        raise _not_a("list of embeddings and ticks", value, error) from error


def embeddings_in(value: bytes | None) -> Decoded[EmbeddingEvent]:
    """`decode_embeddings` for folds, which go on whatever comes: never raises."""
    try:
        return Decoded(decode_embeddings(value), [])
    except DecodeError as error:
        return Decoded([], [Reject(-1, str(error), value or b"")])


def _not_a(type_: Any, value: bytes | None, error: Exception) -> DecodeError:
    if value and value.startswith(_UNREADABLE):
        return DecodeError(bounded(_what_was_unreadable(value)[0]))
    return DecodeError(
        bounded(f"not a {type_ if isinstance(type_, str) else getattr(type_, '__name__', type_)}: {error}")
    )

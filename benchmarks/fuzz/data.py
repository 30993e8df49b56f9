"""Inputs from bytes: whatever a fuzzer chooses becomes events at the edges of their types, and JSON damaged here and
there."""

import random
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from driftline.schemas.codec import encode_event
from driftline.schemas.events import LATEST_TS, MICROSECONDS, BaselineSet, Release, Score, Tick, Trace

T = TypeVar("T")

START = 1_793_606_400 * MICROSECONDS
NAMES = [
    "",
    "a",
    "b",
    "stable",
    "canary",
    "golden",
    "(other)",
    "x" * 200,
    "\x00\x1b[2J",
    "😀" * 50,
    "gpt-4o",
    "gpt-4o-mini",
]
FLOATS = [0.0, -0.0, 5e-324, 1e-308, 1e-9, 0.1, 0.5, 0.9999999999999999, 1.0, 100.0, 1e6, 1e9]
WORDS = [
    b"[",
    b"]",
    b"{",
    b"}",
    b",",
    b":",
    b'"',
    b"\\",
    b"NaN",
    b"-",
    b"1e999",
    b"9" * 50,
    b"null",
    b"\xff",
    b"\\ud800",
]


class Choices:
    """A finite source of choices; when it is used up, always the first."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def number(self, below: int) -> int:
        """In [0, below)."""
        size = max(1, ((below - 1).bit_length() + 7) // 8)
        chosen = int.from_bytes(self._data[self._at : self._at + size])
        self._at += size
        return chosen % below

    def of(self, options: Sequence[T]) -> T:
        return options[self.number(len(options))]

    def bytes(self, most: int) -> bytes:
        size = self.number(most + 1)
        self._at += size
        return self._data[self._at - size : self._at]


def value(type_: inspect.Type, choices: Choices) -> Any:
    """A value of the type, mostly at its edges."""
    match type_:
        case inspect.Metadata():
            return value(type_.type, choices)
        case inspect.UnionType():
            return value(choices.of(type_.types), choices)
        case inspect.IntType():
            low = type_.ge if type_.ge is not None else -(2**63)
            high = type_.le if type_.le is not None else 2**63 - 1
            return choices.of([low, high, min(high, max(low, choices.number(2**12))), low + choices.number(high - low)])
        case inspect.FloatType():
            least = -1e308 if type_.ge is None else float(type_.ge)
            most = 1e308 if type_.le is None else float(type_.le)
            return min(most, max(least, choices.of([*FLOATS, least, most, choices.number(1_000) / 1_000, -1.0])))
        case inspect.StrType():
            text = choices.of(NAMES)[: type_.max_length]
            return text if len(text) >= (type_.min_length or 0) else "a"
        case inspect.BoolType():
            return choices.of([False, True])
        case inspect.LiteralType():
            return choices.of(type_.values)
        case inspect.ListType():
            return [value(type_.item_type, choices) for _ in range(choices.number(3))]
        case inspect.DictType():
            return {value(type_.key_type, choices): value(type_.value_type, choices) for _ in range(choices.number(3))}
        case inspect.BytesType():
            return choices.bytes(64)
        case inspect.StructType():
            return type_.cls(**fields(type_, choices))
    return None


def fields(type_: inspect.StructType, choices: Choices) -> dict[str, Any]:
    return {
        field.name: value(field.type, choices) for field in type_.fields if field.required or choices.number(3) == 0
    }


_TYPES: dict[type, inspect.StructType] = {
    type_: inspect.type_info(type_)  # type: ignore[misc]  # of structs it is that
    for type_ in (Trace, Score, Release, Tick, BaselineSet)
}


def event(
    choices: Choices, now: int, number: int, types: Sequence[type] = (Trace, Trace, Trace, Score, Release)
) -> Any:
    """One event near `now`, mostly of few names, so that what it changes meets what others changed."""
    type_ = choices.of(types)
    given = fields(_TYPES[type_], choices)
    given["ts"] = choices.of([now - choices.number(20) * MICROSECONDS] * 7 + [now - 3_600 * MICROSECONDS, LATEST_TS])
    if choices.number(4):
        common = {"app": "a", "release": choices.of(["stable", "canary"]), "stable": "stable", "trace_id": f"t{number}"}
        common |= {"id": f"i{number}", "user_id": f"u{number % 50}", "conversation_id": f"c{number // 2}", "name": "q"}
        known = {field.name for field in _TYPES[type_].fields}
        given |= {name: text for name, text in common.items() if name in known}
    return type_(**given)


def log(choices: Choices, most: int = 400) -> list[bytes]:
    """Records of the events topic: arrays of events that repeat with small changes, and ticks in between."""
    now, number = START, 0
    records: list[bytes] = []
    while choices and len(records) < most:
        one = event(choices, now, number)
        events = [encode_event(one)]
        for _ in range(choices.of([0, 0, 1, 5, 40])):
            number += 1
            if "trace_id" in type(one).__struct_fields__:
                one = msgspec.structs.replace(
                    one, trace_id=f"t{number}", conversation_id=f"c{number}", ts=min(one.ts, now)
                )
                one = msgspec.structs.replace(one, id=f"i{number}") if isinstance(one, Score) else one
            events.append(encode_event(one))
        number += 1
        record = b"[%b]" % b",".join(events)
        records.append(damaged(record, choices) if choices.number(10) == 9 else record)
        now += choices.of([0, 1, 1, 5, 60]) * MICROSECONDS
        records.append(encode_event(Tick(ts=now)))
    return records


def damaged(record: bytes, choices: Choices) -> bytes:
    for _ in range(1 + choices.number(4)):
        at = choices.number(len(record) + 1)
        insert: Callable[[], bytes] = choices.of([lambda: choices.of(WORDS), lambda: choices.bytes(8), lambda: b""])
        record = record[:at] + insert() + record[at + choices.number(4) :]
    return record


def random_bytes(seed: int, most: int = 4_096) -> bytes:
    source = random.Random(seed)
    return source.randbytes(source.randrange(most))

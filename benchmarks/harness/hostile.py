"""Records that a stranger might write to the events topic: broken bytes, events mutated along their JSON Schema, and
what is known to have hurt. Everything comes from one seeded generator, and its apps are its own (`hostile-…`)."""

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from driftline.schemas.events import EVENT_TYPES, MICROSECONDS

APPS = 40  # names that come again and again; every tenth record has one that never does
BOMB_MB = 12  # of spaces: as large as a record may be
MANY = 50_000  # elements of an array that is nothing but garbage
DEPTH = 1_100  # of nesting: beyond Python's recursion limit

_NUMBERS = (0, -1, 1, 5e-324, 1e-300, 0.1, 1e9, 1e308, -1e308, 2**31, 2**40, 2**53 + 1, 2**63, 2**64, 10**400)
_TEXTS = (
    "", " ", "\x00", "\x1b[2J\x1b]8;;http://x\x07", "\u202egpj.exe", "\ud800", "[INST] hi [/INST]", "</script><script>",
    "<!channel>", "%s %n {0}", "=1+1", "a\nb\r\nc\u2028d", "NaN", "null", "𝒳" * 60, "x" * 201, "(other)",
)  # fmt: skip


class Hostile:
    """One stranger. `now` is the wall clock in microseconds: most of what it writes is timely, so that it counts."""

    def __init__(self, seed: int, now: Callable[[], int]) -> None:
        self._random = random.Random(seed)
        self._now = now
        _, components = msgspec.json.schema_components(EVENT_TYPES)
        self._schemas = {name: schema for name, schema in components.items() if "type" in schema.get("properties", {})}
        self._number = 0
        self._kinds: tuple[Callable[[], bytes | None], ...] = (
            *(self._mutant,) * 12, *(self._wild_names,) * 6, *(self._array,) * 4, self._random_bytes, self._cut,
            self._nested, self._refused_and_nested, self._long_status, self._control, lambda: None, lambda: b"",
        )  # fmt: skip

    def records(self) -> Iterator[tuple[bytes | None, bytes | None]]:
        """Keys and values, without end."""
        while True:
            key = self._random.choice((None, b"", b"\xff\xfe", self._app().encode(errors="surrogatepass")))
            yield key, self._random.choice(self._kinds)()

    def heavy(self) -> bytes:
        """What costs a careless reader minutes or gigabytes; to be sent now and then."""
        return self._random.choice((self._crowd, self._bomb, self._megabytes))()

    def _app(self) -> str:
        self._number += 1
        return f"hostile-{self._number if self._number % 10 == 0 else self._random.randrange(APPS)}"

    def _event(self, name: str | None = None) -> dict[str, Any]:
        """Valid, and of every field that the schema knows about half."""
        schema = self._schemas[name or self._random.choice(("Trace", "Trace", "Trace", "Score", "Release"))]
        required = set(schema["required"])
        event = {
            key: self._value(key, part)
            for key, part in schema["properties"].items()
            if key in required or self._random.random() < 0.5
        }
        return event | {"app": self._app()}

    def _value(self, key: str, part: dict[str, Any]) -> Any:
        if key == "ts":
            return self._now() - self._random.randrange(3 * MICROSECONDS)
        if "enum" in part:
            return self._random.choice(part["enum"])
        if "anyOf" in part:
            return self._value(key, self._random.choice(part["anyOf"]))
        if part.get("type") == "string":
            return f"{key}-{self._random.randrange(5)}"
        if part.get("type") in ("number", "integer"):
            low, high = max(part.get("minimum", 0), 0), min(part.get("maximum", 1000), 1000)
            drawn = self._random.uniform(low, high)
            return int(drawn) if part["type"] == "integer" else drawn
        return {"boolean": True, "array": ["stop"], "object": {"tier": "gold"}}.get(part.get("type", ""))

    def _mutant(self) -> bytes:
        """One to three fields replaced by something that the schema forbids, or by its outermost values."""
        event = self._event()
        for _ in range(self._random.randint(1, 3)):
            event[self._random.choice((*event, "unknown", "attributes"))] = self._odd()
        return self._encode(event)

    def _odd(self) -> Any:
        choice = self._random.choice
        return choice(
            (
                choice(_NUMBERS), choice(_NUMBERS), choice(_TEXTS), choice(_TEXTS), True, None, [], {}, float("nan"),
                float("inf"), [choice(_TEXTS)] * 50, {choice(_TEXTS): choice(_NUMBERS)}, self._noise(160),
            )
        )  # fmt: skip

    def _wild_names(self) -> bytes:
        """Valid events whose every name is new."""
        event = self._event(self._random.choice(("Trace", "Trace", "Score", "Release")))
        for key in ("error_type", "release", "request_model", "provider", "name", "user_id", "conversation_id", "id"):
            if key in event:
                event[key] = self._noise(60)
        return self._encode(
            event | ({"status": "error", "error_type": self._noise(160)} if "trace_id" in event else {})
        )

    def _array(self) -> bytes:
        return self._encode([self._event() if self._random.random() < 0.5 else self._odd() for _ in range(20)])

    def _random_bytes(self) -> bytes:
        return self._random.randbytes(self._random.randrange(2_000))

    def _cut(self) -> bytes:
        whole = bytearray(self._encode(self._event()))
        for _ in range(self._random.randint(1, 4)):
            whole[self._random.randrange(len(whole))] = self._random.randrange(256)
        return bytes(whole[: self._random.randrange(len(whole))])

    def _nested(self) -> bytes:
        opened, closed = self._random.choice((("[", "]"), ('{"a":', "}")))
        deep = opened * DEPTH + "1" + closed * DEPTH
        return self._encode(self._event())[:-1] + f', "unknown": {deep}}}'.encode()

    def _refused_and_nested(self) -> bytes:
        depth = self._random.randint(450, DEPTH)
        return b'{"type": "trace", "app": "", "unknown": ' + b'{"a":' * depth + b"NaN" + b"}" * depth + b"}"

    def _long_status(self) -> bytes:
        return self._encode(self._event("Trace") | {"status": self._noise(20_000)})

    def _control(self) -> bytes:
        """What only Driftline writes: ticks of the past and of the future, baselines with wild numbers."""
        tick = {"type": "tick", "ts": self._now() + self._random.choice((-1, 1)) * 86_400 * MICROSECONDS}
        return self._encode(self._random.choice((tick, self._event("BaselineSet"))))

    def _crowd(self) -> bytes:
        return self._encode([self._event(), *[1] * MANY])

    def _bomb(self) -> bytes:
        """A few kilobytes once a producer has compressed it."""
        return b"[" + b" " * (BOMB_MB * 2**20) + b"]"

    def _megabytes(self) -> bytes:
        return self._encode(self._event("Trace") | {"status": self._noise(4 * 2**20)})

    def _noise(self, length: int) -> str:
        return self._random.randbytes(length // 2 + 1).hex()[:length]

    @staticmethod
    def _encode(value: Any) -> bytes:
        return json.dumps(value).encode()  # writes NaN and lone surrogates, as careless clients do

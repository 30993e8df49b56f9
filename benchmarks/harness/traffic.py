"""Traffic for the benchmarks: traces and scores of several apps, releases and models, no two alike, at a steady rate of
event time, with the ticks that a monitor would write.

Texts are random words and repeat only after tens of thousands of events, ids are random digits: nothing compresses
better than it would in earnest. What repeats is a pool of encoded records; ids and times are written into copies of
them, which costs the producer half a microsecond per event and no memory.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from driftline.schemas.codec import encode_event, encode_events
from driftline.schemas.controls import Controls
from driftline.schemas.events import MICROSECONDS, Release, Score, Tick, Trace
from driftline.schemas.homes import home

START_US = 1_790_000_040 * MICROSECONDS  # a whole minute
MODELS = ("gpt-4o-mini", "gpt-4o")
CONVERSATION = 4  # events of one
SCORED = 20  # traces per score
SINGLES = 200  # events of a pool record that is sent one by one
POOL = 25  # records per app: 40,000 events for eight apps
CANARY_SHARE = 0.1

Bytes = NDArray[np.uint8]
Numbers = NDArray[np.uint64]


@dataclass(frozen=True)
class Shape:
    """What to send. `rate`: events per second of event time, and so the number of ticks: at ten thousand, a pipeline
    that takes a hundred thousand a second works through ten ticks a second on every partition, ten times as many as
    in production."""

    traces: int
    per_record: int  # 1: an object; else an array
    partitions: int
    apps: int = 8
    rate: int = 10_000

    @property
    def unit(self) -> int:
        """Traces of one app in a row."""
        return self.per_record if self.per_record > 1 else SINGLES

    @property
    def blocks(self) -> int:
        """A block is one unit of every app."""
        return max(1, self.traces // (self.unit * self.apps))

    @property
    def block_us(self) -> int:
        return self.unit * self.apps * MICROSECONDS // self.rate

    @property
    def sent_traces(self) -> int:
        return self.blocks * self.unit * self.apps

    @property
    def sent_scores(self) -> int:
        return self.blocks * (self.unit // SCORED) * self.apps

    @property
    def last_tick(self) -> int:
        """Past the end of the last window and its grace."""
        end = (START_US + self.blocks * self.block_us) // MICROSECONDS
        return (end + 120) * MICROSECONDS

    @property
    def events(self) -> int:
        return self.sent_traces + self.sent_scores


class Message(NamedTuple):
    """One Kafka record. Its key is the app; ticks have none."""

    partition: int
    key: bytes | None
    value: bytes


class Block(NamedTuple):
    events: int
    messages: list[Message]


def named(prefix: str, partition: int, partitions: int) -> str:
    """The first such name that is at home in that partition."""
    return next(name for n in count() if home(name := f"{prefix}-{n}", partitions) == partition)


def blocks(shape: Shape, controls: Controls) -> Iterator[Block]:
    """All traffic, in order. The last tick closes every window."""
    names = [named(f"app-{app}", app % shape.partitions, shape.partitions) for app in range(shape.apps)]
    rng = np.random.default_rng(0)
    traces = [
        [_Template(_traces(rng, names[app], shape.unit, canary=app == 0)) for _ in range(POOL)]
        for app in range(shape.apps)
    ]
    scores = [_Template(_scores(rng, names[app], shape.unit // SCORED, canary=app == 0)) for app in range(shape.apps)]
    yield Block(0, [Message(0, names[0].encode(), encode_event(_canary(names[0])))])
    per_block = (shape.unit + shape.unit // SCORED) * shape.apps
    second = START_US // MICROSECONDS
    for number in range(shape.blocks):
        begins = START_US + number * shape.block_us
        messages = []
        for app in range(shape.apps):
            key, partition = names[app].encode(), app % shape.partitions
            made = [
                traces[app][number % POOL].fill(number, app, shape.unit, begins, shape.block_us, 0),
                *(
                    [scores[app].fill(number, app, shape.unit // SCORED, begins, shape.block_us, 1)]
                    if shape.unit >= SCORED
                    else []
                ),
            ]
            values = [value for array in made for value in ([array.whole] if shape.per_record > 1 else array.split())]
            messages += [Message(partition, key, value) for value in values]
        ends = (begins + shape.block_us) // MICROSECONDS
        if ends > second:
            second = ends
            messages += _ticks(shape, controls, second * MICROSECONDS)
        yield Block(per_block, messages)
    yield Block(0, _ticks(shape, controls, shape.last_tick))


def _ticks(shape: Shape, controls: Controls, ts: int) -> list[Message]:
    tick = Tick(ts=ts, source="benchmark")
    return [Message(p, None, encode_event(controls.signed(tick, p))) for p in range(shape.partitions)]


class _Array(NamedTuple):
    whole: bytes
    starts: list[int]
    ends: list[int]

    def split(self) -> list[bytes]:
        return [self.whole[start:end] for start, end in zip(self.starts, self.ends, strict=True)]


_ID, _CONVERSATION, _TS = "T" * 16, "C" * 16, 1_999_999_999_999_999


class _Template:
    """An encoded array whose ids and times are still to be written."""

    def __init__(self, events: list[Trace] | list[Score]) -> None:
        whole = encode_events(list(events))
        self._bytes = np.frombuffer(whole, np.uint8)
        self._ids = _places(whole, _ID)
        self._conversations = _places(whole, _CONVERSATION).reshape(len(events), -1, 16)
        self._times = _places(whole, str(_TS))
        lengths = [len(encode_event(event)) for event in events]
        self._starts = (1 + np.cumsum([0, *(length + 1 for length in lengths[:-1])])).tolist()
        self._ends = [start + length for start, length in zip(self._starts, lengths, strict=True)]

    def fill(self, block: int, app: int, size: int, begins: int, span: int, stream: int) -> _Array:
        number = np.arange(size, dtype=np.uint64) + np.uint64(block * size)
        filled = self._bytes.copy()
        filled[self._ids] = _hex(_mix(number << np.uint64(8) | np.uint64(app << 1 | stream)))
        # A conversation has one event in each of some consecutive blocks.
        talk = np.arange(size, dtype=np.uint64) + np.uint64(block // CONVERSATION * size)
        filled[self._conversations] = _hex(_mix(talk << np.uint64(8) | np.uint64(app)))[:, None, :]
        filled[self._times] = _digits(begins + np.arange(size, dtype=np.int64) * span // size)
        return _Array(filled.tobytes(), self._starts, self._ends)


def _places(whole: bytes, placeholder: str) -> NDArray[np.intp]:
    starts = np.array([match.start() for match in re.finditer(placeholder.encode(), whole)], dtype=np.intp)
    return starts[:, None] + np.arange(16)


def _mix(number: Numbers) -> Numbers:
    """SplitMix64's finaliser: a permutation of the 64-bit numbers, so no two are the same."""
    number = number * np.uint64(0x9E3779B97F4A7C15)
    number = (number ^ (number >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    number = (number ^ (number >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return number ^ (number >> np.uint64(31))


_HEX = np.frombuffer("".join(f"{byte:02x}" for byte in range(256)).encode(), np.uint16)
_POWERS = 10 ** np.arange(15, -1, -1, dtype=np.int64)


def _hex(number: Numbers) -> Bytes:
    return _HEX[number.view(np.uint8)].view(np.uint8).reshape(-1, 16)


def _digits(number: NDArray[np.int64]) -> Bytes:
    return (number[:, None] // _POWERS % 10 + 48).astype(np.uint8)


def _canary(app: str) -> Release:
    return Release(
        app=app,
        ts=START_US,
        id="canary-start",
        kind="canary_start",
        release="v2",
        stable="v1",
        deployment_id="deployment-1",
        share=CANARY_SHARE,
    )


def _vocabulary() -> list[str]:
    rng = np.random.default_rng(1)
    letters = np.array(list("etaoinshrdlucmfwypvbgk"))
    return ["".join(rng.choice(letters, size)) for size in rng.integers(2, 10, 5_000)]


_WORDS = _vocabulary()


def _text(rng: np.random.Generator, words: int) -> str:
    return " ".join([_WORDS[i] for i in (rng.random(words) ** 2 * len(_WORDS)).astype(int)])


def _traces(rng: np.random.Generator, app: str, size: int, *, canary: bool) -> list[Trace]:
    """Healthy calls of one app: what every detector learns from and then tests."""
    latency = rng.lognormal(6.5, 0.4, size)
    failed = rng.random(size) < 0.003
    return [
        Trace(
            app=app,
            ts=_TS,
            trace_id=_ID + rng.bytes(8).hex(),
            span_id=rng.bytes(8).hex(),
            conversation_id=_CONVERSATION,
            user_id=_CONVERSATION,
            environment="production",
            release="v2" if i < size * CANARY_SHARE else "v1",
            canary_share=CANARY_SHARE if canary else None,
            provider="openai",
            request_model=MODELS[i % 2],
            response_model=MODELS[i % 2],
            input_tokens=int(rng.integers(50, 2_000)),
            output_tokens=int(rng.integers(20, 500)),
            latency_ms=round(float(latency[i]), 1),
            ttft_ms=round(float(latency[i]) / 4, 1),
            status="error" if failed[i] else "ok",
            error_type="timeout" if failed[i] else "",
            finish_reasons=["stop"],
            input_text=_text(rng, int(rng.integers(20, 50))),
            output_text=_text(rng, int(rng.integers(20, 60))),
            attributes={"region": "eu-west-1", "tier": "free"},
        )
        for i in range(size)
    ]


def _scores(rng: np.random.Generator, app: str, size: int, *, canary: bool) -> list[Score]:
    return [
        Score(
            app=app,
            ts=_TS,
            id=_ID,
            trace_id=rng.bytes(16).hex(),
            name="relevance",
            value=round(float(rng.beta(8, 2)), 4),
            judge_model="relevance-1",
            conversation_id=_CONVERSATION,
            user_id=_CONVERSATION,
            release="v2" if i < size * CANARY_SHARE else "v1",
            canary_share=CANARY_SHARE if canary else None,
            model=MODELS[i % 2],
        )
        for i in range(size)
    ]


def probe(app: str, number: int, ts: int) -> bytes:
    """A trace whose way is timed."""
    return encode_event(Trace(app=app, ts=ts, trace_id=f"probe-{number}", release="v1", latency_ms=1.0))

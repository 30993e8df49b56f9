"""Seeded traffic in simulated time: several apps, retried and corrected records, late events, garbage, its own ticks.

What is right is read from the log afterwards (`truth.py`), so a record that a broken connection wrote twice, or a
retry that came in another order, is part of the game.
"""

import asyncio
import logging
import random
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from driftline.schemas.codec import encode_event, encode_events
from driftline.schemas.events import MICROSECONDS, Event, Release, Score, Tick, Trace
from driftline.schemas.topics import Topics
from driftline.streams.runtime.config import KafkaConfig

logger = logging.getLogger(__name__)

START = 1_793_606_400 * MICROSECONDS
STEP = 5 * MICROSECONDS  # of event time, between ticks
PACE_S = 0.25  # of real time for a step: a minute of the log every three seconds
APPS = ("search", "support", "coder", "tutor", 'an "odd" name, öäü', "writer")
CANARY, FAILING = "support", "coder"  # one gets a bad canary, the other's provider fails for two minutes
MODELS = (("openai", "gpt-4o"), ("anthropic", "claude-3-5-sonnet-20241022"), ("home", "of-no-known-price"))
WORDS = ("how", "do", "I", "reset", "my", "second", "mailbox", "why", "so", "slow", "日本語", "\\", '"', "😀")
BAD_ELEMENTS = (b"{}", b'{"type":"trace","app":"x","ts":5,"trace_id":"x"}', b"1e999", b"null")
BAD_RECORDS = (b"\x00\xff not text", b"[{]", b"", None, b'"text"', b"[[1]]")


class Record(NamedTuple):
    key: bytes | None
    value: bytes | None
    partition: int | None = None  # None: by key


@dataclass
class Traffic:
    """`run` until it is cancelled or told to stop; then `close` ends the log."""

    config: KafkaConfig
    topics: Topics
    traces: int = 50  # of each app in a step
    seed: int = 0
    start: int = START

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._step = 0
        self._numbers = 0
        self._sent: deque[Record] = deque(maxlen=400)  # about a minute of it
        self._traces: deque[Trace] = deque(maxlen=4_000)
        self._producer: AIOKafkaProducer | None = None
        self.acknowledged: set[str] = set()  # keys of events
        self.events = 0  # handed to the producer, repeats included
        self.resent = 0  # steps sent again because the broker's answers did not come

    @property
    def now(self) -> int:
        return self.start + self._step * STEP

    @asynccontextmanager
    async def flowing(self) -> AsyncIterator[None]:
        """At a steady rate for as long as the block lasts; ends between steps."""
        enough = asyncio.Event()
        task = asyncio.create_task(self._flow(enough))
        try:
            yield
        finally:
            enough.set()
            await task

    async def steps(self, number: int) -> None:
        """As fast as it goes."""
        for _ in range(number):
            await self.step()

    async def _flow(self, enough: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while not enough.is_set():
            await self.step()
            due = max(due + PACE_S, loop.time())
            with suppress(TimeoutError):
                await asyncio.wait_for(enough.wait(), due - loop.time())

    async def step(self) -> None:
        records = [record for app in APPS for record in self._of(app)]
        self._random.shuffle(records)
        self._sent += records
        self._step += 1
        await self._send([*records, *self._repeats(), *self._ticks(self.now)])

    def jump(self, seconds: int) -> None:
        """Nothing happens for so long in simulated time."""
        self._step += seconds * MICROSECONDS // STEP

    async def end(self) -> None:
        """The ticks that close all windows."""
        self._step += 120 * MICROSECONDS // STEP
        await self._send(self._ticks(self.now))

    async def nudge(self) -> None:
        """A tick that says nothing new: roles look at the clock when a record comes."""
        await self._send(self._ticks(self.now))

    async def close(self) -> None:
        if self._producer is not None:
            producer, self._producer = self._producer, None
            with suppress(TimeoutError, KafkaError):
                async with asyncio.timeout(10):
                    await producer.stop()

    # What is sent.

    def _of(self, app: str) -> list[Record]:
        events: list[Event] = []
        for _ in range(self.traces):
            trace = self._trace(app)
            events.append(trace)
            self._traces.append(trace)
            if self._random.random() < 0.3:
                events.append(self._score(trace))
            if self._random.random() < 0.01:
                old = self._random.choice(self._traces)
                if old.app == app:  # a corrected copy: the newest is stored, the first is counted
                    events.append(self._corrected(old))
        if app == CANARY and self._step == 4:
            events.append(self._release(app, "canary_start", share=0.5))
        if self._step % 40 == 20:
            events.append(self._release(app, "deploy"))
        self.events += len(events)
        return [Record(app.encode(), value) for value in self._values(events)]

    def _trace(self, app: str) -> Trace:
        pick = self._random
        self._numbers += 1
        number = self._numbers
        canary = app == CANARY and self._step > 4 and pick.random() < 0.5
        provider, model = MODELS[pick.choices((0, 1, 2), (6, 3, 1))[0]]
        bad = 0.3 if canary else 0.6 if app == FAILING and 12 <= self._step < 36 else 0.002
        failed = pick.random() < bad
        return Trace(
            app=app,
            ts=self._time(),
            trace_id=f"t{number}",
            span_id="" if number % 3 else f"s{number}",
            conversation_id=f"c{number // 4}",
            user_id=f"u{number % 500}",
            environment="production",
            release="v2" if canary else "v1",
            canary_share=0.5 if app == CANARY and self._step > 4 else None,
            provider=provider,
            request_model=model,
            response_model=model if number % 7 else "",
            input_tokens=pick.randint(1, 4_000),
            output_tokens=pick.randint(0, 900),
            cache_read_input_tokens=pick.choice((None, 0, 1)),
            latency_ms=pick.lognormvariate(6.5, 0.7),
            ttft_ms=pick.choice((None, pick.lognormvariate(5, 0.5))),
            cost_usd=pick.choice((None, None, None, pick.random() / 7)),
            stream=pick.choice((None, True, False)),
            status="error" if failed else "ok",
            error_type=pick.choice(("500", "timeout")) if failed else "",
            finish_reasons=[] if failed else ["stop"],
            input_text=" ".join(pick.choices(WORDS, k=8)),
            output_text="" if failed else " ".join(pick.choices(WORDS, k=12)),
            attributes={"number": number, "tier": pick.choice(("gold", "free")), "beta": pick.random() < 0.5},
        )

    def _time(self) -> int:
        """Mostly now; some late, some later than windows wait for, a few from a clock that runs hours ahead."""
        behind = self._random.choices((0, 60, 400, 1_500, -7_200), (950, 30, 14, 5, 1))[0]
        ts = self.now + self._random.randrange(STEP) - self._random.randint(0, abs(behind)) * MICROSECONDS
        return ts if behind >= 0 else self.now + 7_200 * MICROSECONDS

    def _score(self, trace: Trace) -> Score:
        return Score(
            app=trace.app,
            ts=trace.ts,
            id=f"q{trace.trace_id}",
            trace_id=trace.trace_id,
            span_id=trace.span_id,
            name=self._random.choice(("helpful", "safe")),
            value=self._random.random() ** 0.5,
            explanation="because",
            conversation_id=trace.conversation_id,
            release=trace.release,
            canary_share=trace.canary_share,
            model=trace.model,
        )

    def _corrected(self, trace: Trace) -> Trace:
        fields = {name: getattr(trace, name) for name in trace.__struct_fields__}
        return Trace(**{**fields, "latency_ms": 1.5, "output_text": "corrected", "attributes": {"corrected": True}})

    def _release(self, app: str, kind: Any, share: float | None = None) -> Release:
        id_ = f"{kind}-{self._step}"
        start = kind == "canary_start"
        return Release(
            app=app,
            ts=self.now,
            id=id_,
            kind=kind,
            release="v2" if start else "v1",
            stable="v1" if start else "",
            deployment_id="d" if start else "",
            share=share,
        )

    def _values(self, events: list[Event]) -> list[bytes | None]:
        """Arrays of up to 25, and single events; now and then garbage, alone or among good neighbours."""
        values: list[bytes | None] = []
        while events:
            if self._random.random() < 0.1:
                values.append(encode_event(events.pop(0)))
                continue
            size = self._random.randint(1, 25)
            batch, events = events[:size], events[size:]
            value = encode_events(list(batch))
            if self._random.random() < 0.03:
                bad = self._random.choice(BAD_ELEMENTS)
                value = b"[" + bad + b"," + value[1:]
            values.append(value)
        if self._random.random() < 0.1:
            values.append(self._random.choice(BAD_RECORDS))
        return values

    def _repeats(self) -> list[Record]:
        """As a producer that did not hear of its success sends them."""
        return self._random.sample(self._sent, k=min(len(self._sent), 2))

    def _ticks(self, ts: int) -> list[Record]:
        controls = self.config.topics.controls
        return [
            Record(None, encode_event(controls.signed(Tick(ts=ts), partition)), partition)
            for partition in range(self.config.partitions)
        ]

    # Sending.

    async def _send(self, records: list[Record]) -> None:
        """Until every record is acknowledged."""
        while True:
            try:
                producer = await self._connected()
                acks = [
                    await producer.send(self.topics.events, record.value, key=record.key, partition=record.partition)
                    for record in records
                ]
                await asyncio.gather(*acks)
            except (KafkaError, OSError) as error:
                logger.info("The traffic sends a step again: %r", error)
                self.resent += 1
                await self.close()
                await asyncio.sleep(0.2)
            else:
                self.acknowledged.update(key for record in records for key in trace_ids(record.value))
                return

    async def _connected(self) -> AIOKafkaProducer:
        if self._producer is None:
            options = {**self.config.client_options(), "request_timeout_ms": 60_000}
            producer = AIOKafkaProducer(**options, **self.config.producer_options(linger_ms=0))
            try:
                await producer.start()
            except BaseException:
                await producer.stop()
                raise
            self._producer = producer
        return self._producer


def trace_ids(value: bytes | None) -> list[str]:
    """Found without a decoder: that it has been sent must not depend on what reads it."""
    return [part.split(b'"', 1)[0].decode() for part in (value or b"").split(b'"trace_id":"t')[1:]]

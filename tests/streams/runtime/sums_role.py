"""A small role for tests, run as a process: sums of score values per partition and event-time window of 10 s.

python sums_role.py '{"brokers": …, "prefix": …, "partitions": …, …}'   fields of KafkaConfig, and of `Options`
"""

import json
import logging
import os
import resource
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from driftline.schemas.codec import decode_events, pack, unpack
from driftline.schemas.events import Score, Tick
from driftline.schemas.topics import Topics
from driftline.streams.fold import Output, Record
from driftline.streams.health import HealthConfig
from driftline.streams.runtime import lag, watch, worker
from driftline.streams.runtime.config import KafkaConfig
from driftline.streams.runtime.worker import Source, Ticker, run_faust_role

WINDOW_US = 10_000_000
ROLE = "monitor"
SECOND = "drift"


class Sum(msgspec.Struct, frozen=True):
    """The result of one window; `id` names it."""

    id: str
    revision: int
    count: int
    total: float


class _State(msgspec.Struct):
    watermark: int | None = None
    open: dict[int, tuple[int, float]] = {}
    padding: bytes = b""
    undecodable: int = 0


class Sums:
    def __init__(self, topics: Topics, partition: int, snapshot: bytes | None, padding: int = 0) -> None:
        self._topic = topics.windows
        self._alerts = topics.alerts
        self._partition = partition
        self._state = _State(padding=os.urandom(padding)) if snapshot is None else unpack(snapshot, _State)

    @property
    def watermark(self) -> int | None:
        return self._state.watermark

    @property
    def counters(self) -> Mapping[str, int]:
        return {"undecodable": self._state.undecodable}

    async def absorb(self, records: Sequence[Record]) -> list[Output]:
        outputs = []
        for record in records:
            if record.value == b"poison":
                raise ValueError("this fold does not take poison")
            if record.value == b"hungry":
                bytearray(2**40)
            if record.value == b"deadly":
                os.kill(os.getpid(), signal.SIGKILL)
            if record.value == b"talkative":
                outputs.append(Output(self._alerts, b"app", b'{"type":"alert","summary":"' + b"x" * 2**21 + b'"}'))
            decoded = decode_events(record.value)
            self._state.undecodable += len(decoded.rejects)
            for event in decoded.events:
                if isinstance(event, Score):
                    window = event.ts // WINDOW_US
                    count, total = self._state.open.get(window, (0, 0.0))
                    self._state.open[window] = (count + 1, total + event.value)
                elif isinstance(event, Tick):
                    self._state.watermark = max(event.ts, self._state.watermark or 0)
                    outputs += self._close(record.offset)
        return outputs

    def _close(self, revision: int) -> list[Output]:
        outputs = []
        for window in sorted(self._state.open):
            if (window + 1) * WINDOW_US <= (self._state.watermark or 0):
                count, total = self._state.open.pop(window)
                result = Sum(f"{self._partition}/{window}", revision, count, total)
                outputs.append(Output(self._topic, result.id.encode(), msgspec.json.encode(result)))
        return outputs

    def snapshot(self) -> bytes:
        return pack(self._state)


class Options(msgspec.Struct, kw_only=True):
    kill_at: str = ""  # a step of the cycle: kill -9 this process there …
    kill_after: int = 1  # … when it is reached for the n-th time
    memory: int = 0  # bytes of address space it may take; 0: any
    padding: int = 0  # bytes of incompressible state
    ticker: bool = False
    deaf: bool = False  # fetches nothing, as if the consumer had gone silent
    second_source: bool = False  # the same fold over the embeddings topic
    settings: dict[str, str] = {}  # that shape its state
    health_port: int = -1  # where to tell of its health; negative: nowhere


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    arguments: dict[str, Any] = json.loads(sys.argv[1])
    names = [name for name in Options.__struct_fields__ if name in arguments]
    options = msgspec.convert({name: arguments.pop(name) for name in names}, Options)
    config = KafkaConfig(**arguments)
    if options.memory:
        resource.setrlimit(resource.RLIMIT_AS, (options.memory, options.memory))
    topics = Topics(config.prefix)
    reached = 0
    watch.LOOK_S = 0.5  # so that every test has the watch at work
    if options.deaf:
        lag.STALL_S = 2.0
        worker.FaustRole.busy = lambda *_: True  # type: ignore[method-assign]

    def hook(step: str, partition: int) -> None:
        nonlocal reached
        if step == options.kill_at:
            reached += 1
            if reached == options.kill_after:
                os.kill(os.getpid(), signal.SIGKILL)

    def fold(partition: int, snapshot: bytes | None) -> Sums:
        return Sums(topics, partition, snapshot, options.padding)

    sources = [Source(topics.events, ROLE, fold, options.settings)]
    if options.second_source:
        sources.append(Source(topics.embeddings, SECOND, fold))
    run_faust_role(
        ROLE,
        config,
        topics,
        sources,
        ticker=Ticker(interval_s=0.05) if options.ticker else None,
        hook=hook,
        health=HealthConfig(port=options.health_port) if options.health_port >= 0 else None,
    )


if __name__ == "__main__":
    main()

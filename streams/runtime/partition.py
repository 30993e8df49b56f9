"""One source partition and its fold, since the last rebalance: the checkpoint cycle, apart from Faust and aiokafka."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from driftline.schemas.clock import Clock
from driftline.schemas.codec import encode as encode_result
from driftline.schemas.errors import PermanentError
from driftline.schemas.results import Progress
from driftline.schemas.topics import Topics
from driftline.streams import metrics
from driftline.streams.fold import Fold, Output
from driftline.streams.runtime import state as states
from driftline.streams.runtime.config import KafkaConfig
from driftline.streams.runtime.transport import Fetched, Run

logger = logging.getLogger(__name__)

QUEUED_RUNS = 2  # one being absorbed, one waiting: so fetching neither idles nor fills the memory

Step: TypeAlias = Literal["absorbed", "published", "progressed", "saved", "acked"]
Hook: TypeAlias = Callable[[Step, int], None]
"""(step just completed, partition): lets tests end the process between any two steps."""


class Ack(Protocol):
    """What the broker answers for a record."""

    @property
    def topic(self) -> str: ...
    @property
    def offset(self) -> int: ...


Send: TypeAlias = Callable[[Sequence[Output], int], Awaitable[Sequence[Ack]]]
"""(records, partition) → their acks, when all have come; raises when one does not."""


@dataclass(frozen=True)
class Surroundings:
    """What all partitions of a role share."""

    config: KafkaConfig
    topics: Topics
    clock: Clock
    send: Send
    current: "Callable[[Partition], bool]"  # False from the beginning of a rebalance on
    hook: Hook


class Partition:
    """Takes runs in turn; `offset` is how far it has absorbed."""

    def __init__(
        self, topic: str, number: int, epoch: int, name: str, fold: Fold, state: states.State, around: Surroundings
    ) -> None:
        self.topic = topic
        self.number = number
        self.epoch = epoch
        self.offset = state.offset
        self._name = name  # of the fold: names the state topic and the Progress records
        self._fold = fold
        self._around = around
        self._published = dict(state.published)
        self._unsaved = 0  # records absorbed since the last state record
        self._saved_at = around.clock.monotonic()
        self._queued: set[int] = set()  # last offsets of the runs handed out
        self._whole = True  # all that is absorbed is also published: what a state record says
        self._acknowledge: Callable[[], object] = _nothing_to_acknowledge  # of the newest run absorbed
        self._counted = dict(fold.counters)
        metrics.dropped(name, dict.fromkeys(self._counted, 0))
        self._turn = asyncio.Lock()

    @property
    def working(self) -> bool:
        return bool(self._queued)

    @property
    def busy(self) -> bool:
        return len(self._queued) >= QUEUED_RUNS

    def handed_out(self, run: Run) -> None:
        self._queued.add(run.offset)

    async def take(self, run: Run, acknowledge: Callable[[], object]) -> None:
        """Absorb a run, publish, and save when it is time. `acknowledge` is called when a state record covers the run.
        Whatever this raises must end the process."""
        async with self._turn:
            try:
                await self._take(run, acknowledge)
            finally:
                self._queued.discard(run.offset)

    async def save_if_due(self) -> None:
        """For a partition without new runs, which `take` would save."""
        if self._due():
            await self.save()

    async def save(self) -> None:
        """Save what is absorbed and not saved, after the take under way. Whatever this raises, nothing is lost."""
        async with self._turn:
            if self._unsaved and self._whole:
                await self._save()

    async def _take(self, run: Run, acknowledge: Callable[[], object]) -> None:
        records = self._new(run)
        if not records:
            return
        before = self._fold.watermark
        self._whole = False  # a fold that raises may have absorbed a part
        outputs = await self._fold.absorb(records)
        self.offset = records[-1].offset
        self._acknowledge = acknowledge
        self._unsaved += len(records)
        self._done("absorbed")
        # Once a rebalance has begun, the partition's next owner does the rest again: this one stops at any point.
        if not self._around.current(self):
            return
        if outputs:
            await self._publish(outputs)
            self._done("published")
        if outputs or self._fold.watermark != before:
            await self._around.send([self._progress()], self.number)
            self._done("progressed")
        self._whole = True
        self._measure(records)
        if self._due():
            await self._save()

    def _measure(self, records: Sequence[Fetched]) -> None:
        counters = dict(self._fold.counters)
        metrics.took(self._name, self.topic, len(records))
        new = {reason: n - self._counted.get(reason, 0) for reason, n in counters.items()}
        # A fold that forgets an app may forget what it counted of it: below zero is no event that came back.
        metrics.dropped(self._name, {reason: n for reason, n in new.items() if n > 0})
        metrics.delayed(self._name, self.topic, records[0].timestamp * 1_000, self._around.clock.now())
        self._counted = counters

    def _new(self, run: Run) -> list[Fetched]:
        """What is not absorbed yet. Raises rather than let a record be missed."""
        if run.position > self.offset + 1:
            raise PermanentError(
                f"A run from offset {run.position} follows {self.offset}: records in between were fetched and lost"
            )
        if run.records[0].offset < run.position:
            raise PermanentError(
                f"The log continues at offset {run.records[0].offset}, before the {run.position} that was asked for: "
                "the topic was made anew. Delete its state topics too, or use another prefix"
            )
        return [record for record in run.records if record.offset > self.offset]

    async def _publish(self, outputs: list[Output]) -> None:
        acks = await self._around.send(outputs, self.number)
        for output, ack in zip(outputs, acks, strict=True):
            if output.partition not in (None, self.number):
                continue  # `published` is of the partitions of this number
            self._published[ack.topic] = max(ack.offset, self._published.get(ack.topic, -1))
        metrics.put_out(self._name, (output.topic for output in outputs))

    def _progress(self) -> Output:
        progress = Progress(
            role=self._name,
            topic=self.topic,
            partition=self.number,
            offset=self.offset,
            watermark=self._fold.watermark,
            published=self._published,
        )
        return Output(self._around.topics.progress, self._name.encode(), encode_result(progress))

    def _due(self) -> bool:
        config, clock = self._around.config, self._around.clock
        return self._unsaved >= config.checkpoint_records or clock.monotonic() - self._saved_at >= config.checkpoint_s

    async def _save(self) -> None:
        began = self._around.clock.monotonic()
        value = await states.encode(states.State(self.offset, self._published, self._fold.snapshot()))
        if not self._around.current(self):
            return
        record = Output(self._around.topics.state(self._name), states.key(self.number), value)
        await self._around.send([record], self.number)
        self._done("saved")
        if not self._around.current(self):
            return
        self._acknowledge()
        self._unsaved = 0
        self._saved_at = self._around.clock.monotonic()
        self._done("acked")
        metrics.STATE_BYTES.labels(self._name, self.number).set(len(value))
        metrics.CHECKPOINT_SECONDS.labels(self._name, self.number).observe(self._saved_at - began)
        logger.debug("Saved %s[%d] at offset %d, %d bytes.", self._name, self.number, self.offset, len(value))

    def _done(self, step: Step) -> None:
        self._around.hook(step, self.number)


def _nothing_to_acknowledge() -> None: ...

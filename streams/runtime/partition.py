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
from driftline.streams.fold import Fold, Output, Record
from driftline.streams.runtime import state as states
from driftline.streams.runtime.config import KafkaConfig
from driftline.streams.runtime.transport import Run

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

    async def _take(self, run: Run, acknowledge: Callable[[], object]) -> None:
        records = self._new(run)
        if not records:
            return
        before = self._fold.watermark
        outputs = await self._fold.absorb(records)
        self.offset = records[-1].offset
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
        if self._due():
            await self._save(acknowledge)

    def _new(self, run: Run) -> list[Record]:
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
        for ack in await self._around.send(outputs, self.number):
            self._published[ack.topic] = max(ack.offset, self._published.get(ack.topic, -1))

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

    async def _save(self, acknowledge: Callable[[], object]) -> None:
        value = await states.encode(states.State(self.offset, self._published, self._fold.snapshot()))
        if not self._around.current(self):
            return
        record = Output(self._around.topics.state(self._name), states.key(self.number), value)
        await self._around.send([record], self.number)
        self._done("saved")
        if not self._around.current(self):
            return
        acknowledge()
        self._unsaved = 0
        self._saved_at = self._around.clock.monotonic()
        self._done("acked")
        logger.debug("Saved %s[%d] at offset %d, %d bytes.", self._name, self.number, self.offset, len(value))

    def _done(self, step: Step) -> None:
        self._around.hook(step, self.number)

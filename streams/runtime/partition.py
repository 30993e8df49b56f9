"""One source partition and its fold, since the last rebalance: the checkpoint cycle, apart from Faust and aiokafka."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import msgspec

from driftline.schemas.clock import Clock
from driftline.schemas.codec import encode as encode_result
from driftline.schemas.errors import PermanentError
from driftline.schemas.results import Progress
from driftline.schemas.text import for_log
from driftline.schemas.topics import Topics
from driftline.streams import metrics
from driftline.streams.fold import Fold, Output, sent_at
from driftline.streams.runtime import lost, quarantine
from driftline.streams.runtime import state as states
from driftline.streams.runtime.config import KafkaConfig
from driftline.streams.runtime.fit import fits, smaller
from driftline.streams.runtime.lost import Gap
from driftline.streams.runtime.state import NOWHERE
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
    largest: Mapping[str, int]  # topic -> bytes that it takes in one record; filled in at the start
    tell: "Callable[[str, str, str], None]" = lambda key, what, do: None  # of /healthz, for a while


class Partition:
    """Takes runs in turn; `offset` is how far it has absorbed."""

    def __init__(
        self,
        topic: str,
        number: int,
        epoch: int,
        name: str,
        fold: Fold,
        state: states.State,
        around: Surroundings,
        note: states.Note | None = None,
        state_at: int = NOWHERE,
        gone: tuple[Gap, ...] = (),
    ) -> None:
        """`note`: what the start before left behind; `state_at`: where the state's record is; `gone`: what retention
        deleted after the state that was loaded, and `state` goes on after."""
        self.topic = topic
        self.number = number
        self.epoch = epoch
        self.offset = state.offset
        self.name = name  # of the fold: names the state topic and the Progress records
        self._fold = fold
        self._around = around
        self._published = dict(state.published)
        self._unsaved = 0  # records absorbed since the last state record
        self._saved_at = around.clock.monotonic()
        self._queued: set[int] = set()  # last offsets of the runs handed out
        self._whole = True  # all that is absorbed is also published: what a state record says
        self._acknowledge: Callable[[], object] = _nothing_to_acknowledge  # of the newest run absorbed
        self._skipped = state.skipped
        self._settings = state.settings
        self._timestamp = state.timestamp
        self._suspects = quarantine.suspects(note, state.offset)
        self._state_at = state_at
        self._watched = True  # until the first state, and until all suspects are absorbed: notes are written
        self._noted = False  # a note is open
        self._gone = gone  # and not said yet
        self._counted = dict(fold.counters)
        metrics.dropped(name, dict.fromkeys((*self._counted, "quarantined", "lost"), 0))
        self._turn = asyncio.Lock()

    @property
    def watermark(self) -> int | None:
        """The newest tick absorbed."""
        return self._fold.watermark

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
            await self._say_what_is_gone()
            if self._unsaved and self._whole:
                await self._save()

    async def close_note(self) -> None:
        """The process stops because it was asked to: what is being absorbed has not ended it."""
        if self._noted:
            await self._note(_NOTHING)

    async def leave(self) -> None:
        """A rebalance has begun, and nobody else has loaded the partition yet: what is being absorbed here has ended
        nothing, and whoever goes on must not think so."""
        if self._noted:
            await self._write_note(_NOTHING)

    async def _take(self, run: Run, acknowledge: Callable[[], object]) -> None:
        for gap in run.gone:
            if gap.first <= self.offset + 1 < gap.until:
                self._gone += (gap,)
                self.offset, self._timestamp = gap.until - 1, states.UNKNOWN
        await self._say_what_is_gone()
        records = self._new(run)
        parts = [records] if self._suspects is None else list(self._suspects.parts(records))
        for part in filter(None, parts):
            if self._unsaved and self._suspects is not None and self.offset < self._suspects.first <= part[0].offset:
                await self._save()  # what is known to be good is not absorbed again with each try
            if not self._around.current(self):
                return
            if part is parts[-1]:
                self._acknowledge = acknowledge
            await self._absorb(part)

    async def _absorb(self, records: Sequence[Fetched]) -> None:
        first, last = records[0].offset, records[-1].offset
        again = self._suspects if self._suspects is not None and self._suspects[:2] == (first, last) else None
        if again is not None and again.guilty:
            await self._quarantine(records[0], again.reason)
            return
        note = states.Note(NOWHERE, first, last) if again is None else states.Note(NOWHERE, *again)
        if self._watched:
            await self._note(note)
        before = self._fold.watermark
        self._whole = False  # a fold that raises may have absorbed a part
        try:
            outputs = await self._fold.absorb(records)
        except Exception as error:
            if isinstance(error, MemoryError):
                raise  # ends the process, and the note says at what
            if not quarantine.is_its_fault(error):
                await self.close_note()
                raise
            why = quarantine.reason(error)
            await self._note(msgspec.structs.replace(note, reason=why))
            raise quarantine.Raised(first, last, why) from error
        await self.close_note()
        self.offset, self._timestamp = last, records[-1].timestamp
        self._unsaved += len(records)
        if self._suspects is not None and last >= self._suspects.last:
            self._suspects = None
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

    async def _say_what_is_gone(self) -> None:
        """Before a state says that it is past."""
        if not self._gone or not self._around.current(self):
            return
        dlq = self._around.topics.dlq
        await self._publish([Output(dlq, None, encode_result(lost.letter(self.name, gap))) for gap in self._gone])
        for gap in self._gone:
            self._around.tell(*lost.tell(self.name, gap))
        self._gone = ()
        self._unsaved += 1

    async def _note(self, note: states.Note) -> None:
        """Before its ack comes nothing of it may be absorbed."""
        if self._around.current(self):
            await self._write_note(note)

    async def _write_note(self, note: states.Note) -> None:
        self._noted = note.first <= note.last
        value = states.encode_note(msgspec.structs.replace(note, state_at=self._state_at))
        await self._around.send(
            [Output(self._around.topics.state(self.name), states.note_key(self.number), value)], self.number
        )

    async def _quarantine(self, record: Fetched, why: str) -> None:
        """Go on without this record: said to the dead letters and as an alert, before a state says so."""
        limit = self._around.config.quarantine_limit
        where = f"{self.topic}[{self.number}], offset {record.offset}"
        if quarantine.over_limit(self._skipped, record.timestamp, limit):
            raise quarantine.too_many(self.name, where, limit, why or quarantine.ENDED)
        app = quarantine.app_of(record) if why else quarantine.NO_APP  # a record that kills may kill by being read
        of = (self.name, self.topic, self.number, record)
        topics, key = self._around.topics, record.key and record.key[:1_000]
        outputs = [
            Output(topics.dlq, key, encode_result(quarantine.letter(*of, why))),
            Output(topics.alerts, app.encode(), encode_result(quarantine.alert(*of, app, why))),
        ]
        await self._publish(outputs)
        logger.error(
            "%s put %s aside, which has ended it again and again: %s",
            *(self.name, where, for_log(why or quarantine.ENDED)),
        )
        self._skipped += (states.Skipped(record.offset, record.timestamp),)
        self._noted = False
        self.offset, self._timestamp = record.offset, record.timestamp
        self._unsaved += 1
        self._suspects = None
        metrics.dropped(self.name, {"quarantined": 1})
        await self._save()
        self.tell()

    def tell(self) -> None:
        """Of what is newly put aside, to /healthz."""
        if self._skipped:
            last = self._skipped[-1]
            self._around.tell(
                f"quarantine.{self.name}.{self.number}",
                f"{self.name} goes on without {len(self._skipped)} records of {self.topic}[{self.number}] that ended "
                f"it, the last at offset {last.offset}",
                "`driftline dlq ls --reason quarantined` shows them with the traceback; report it. This is said for an "
                "hour after each start and each such record",
            )

    def _measure(self, records: Sequence[Fetched]) -> None:
        counters = dict(self._fold.counters)
        metrics.took(self.name, self.topic, len(records))
        new = {reason: n - self._counted.get(reason, 0) for reason, n in counters.items()}
        # A fold that forgets an app may forget what it counted of it: below zero is no event that came back.
        metrics.dropped(self.name, {reason: n for reason, n in new.items() if n > 0})
        if new.get("state_full", 0) > 0:
            self._around.tell(
                f"full.{self.name}.{self.number}",
                f"{self.name} has no room in its state of {self.topic}[{self.number}] for all that wants to learn or "
                "be watched: what it has goes on, and what is new waits",
                "give the topic more partitions, or lower what is kept for each app (`driftline_state_bytes`, "
                "`driftline_dropped`, reason `state_full`). This is said for an hour",
            )
        metrics.delayed(self.name, self.topic, sent_at(records[0].timestamp), self._around.clock.now())
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
                "the topic was made anew. Restore it, or stop the role and run `driftline state reset --role R`"
            )
        return [record for record in run.records if record.offset > self.offset]

    async def _publish(self, outputs: list[Output]) -> None:
        outputs = [piece for output in outputs for piece in self._fitting(output)]
        acks = await self._around.send(outputs, self.number)
        for output, ack in zip(outputs, acks, strict=True):
            if output.partition not in (None, self.number):
                continue  # `published` is of the partitions of this number
            self._published[ack.topic] = max(ack.offset, self._published.get(ack.topic, -1))
        metrics.put_out(self.name, (output.topic for output in outputs))

    def _fitting(self, output: Output) -> list[Output]:
        """What its topic takes of it. Once the broker has refused a record, an idempotent producer cannot go on."""
        limit = self._around.largest[output.topic]
        return [output] if fits(output, limit) else smaller(output, limit, self.name)

    def _progress(self) -> Output:
        progress = Progress(
            role=self.name,
            topic=self.topic,
            partition=self.number,
            offset=self.offset,
            watermark=self._fold.watermark,
            published=self._published,
        )
        return Output(self._around.topics.progress, self.name.encode(), encode_result(progress))

    def _due(self) -> bool:
        config, clock = self._around.config, self._around.clock
        return (
            bool(self._gone)
            or self._unsaved >= config.checkpoint_records
            or clock.monotonic() - self._saved_at >= config.checkpoint_s
        )

    async def _save(self) -> None:
        began = self._around.clock.monotonic()
        state = states.State(
            self.offset,
            self._published,
            self._fold.snapshot(),
            self._skipped,
            self._settings,
            self._timestamp,
            self.name,
        )
        value = await states.encode(state)
        if not self._around.current(self):
            return
        record = Output(self._around.topics.state(self.name), states.key(self.number), value)
        [ack] = await self._around.send([record], self.number)
        self._state_at = ack.offset
        self._watched = self._suspects is not None
        self._done("saved")
        if not self._around.current(self):
            return
        self._acknowledge()
        self._acknowledge = _nothing_to_acknowledge
        self._unsaved = 0
        self._saved_at = self._around.clock.monotonic()
        self._done("acked")
        metrics.STATE_BYTES.labels(self.name, self.number).set(len(value))
        metrics.CHECKPOINT_SECONDS.labels(self.name, self.number).observe(self._saved_at - began)
        logger.debug("Saved %s[%d] at offset %d, %d bytes.", self.name, self.number, self.offset, len(value))

    def _done(self, step: Step) -> None:
        self._around.hook(step, self.number)


_NOTHING = states.Note(NOWHERE, 0, -1)


def _nothing_to_acknowledge() -> None: ...

"""How far a role has come with the log, as it says itself."""

from collections.abc import Mapping, Set
from typing import NamedTuple

from aiokafka import TopicPartition

from driftline.schemas.codec import DecodeError, decode
from driftline.schemas.results import Progress
from driftline.schemas.topics import Topics
from driftline.streams.operate.log import Log
from driftline.streams.runtime import state as states


class Absorbed(NamedTuple):
    """Of one source partition."""

    offset: int = -1  # of the newest record
    published: Mapping[str, int] = {}  # topic -> offset of the newest result in the partition of the same number
    aside: Set[int] = frozenset()  # offsets of records that it goes on without, where asked for

    def is_stored(self, committed: Mapping[TopicPartition, int], partition: int) -> bool:
        """Whether the archive has committed past all results."""
        return all(committed[TopicPartition(topic, partition)] > offset for topic, offset in self.published.items())


class Roles:
    """The newest word of each fold; `look` asks again. Reads one log, whose other readings must be over."""

    def __init__(self, log: Log, topics: Topics, folds: tuple[str, ...]) -> None:
        self._log = log
        self._topics = topics
        self._folds = folds
        self._absorbed: dict[tuple[str, int], Absorbed] = {}
        self._read: dict[TopicPartition, int] = {}
        self._aside: dict[tuple[str, int], Set[int]] = {}

    def aside(self, fold: str, partition: int) -> Set[int]:
        """The offsets of the records that the fold goes on without."""
        return self._aside.get((fold, partition), set())

    def newest(self, fold: str, partition: int) -> Absorbed:
        return self._absorbed.get((fold, partition), Absorbed())

    async def look(self) -> None:
        if not self._read:
            await self._read_states()
            self._read = await self._log.beginnings(await self._log.partitions(self._topics.progress))
        reading = self._log.read(self._read)
        async for _, records in reading:
            for record in records:
                try:
                    progress = decode(record.value, Progress)
                except DecodeError:
                    continue  # somebody else's record
                self._take(progress.role, progress.partition, Absorbed(progress.offset, progress.published))
        self._read = reading.ends

    async def _read_states(self) -> None:
        """The progress topic keeps an hour; a role that has been quiet for longer has its state."""
        for fold in self._folds:
            partitions = await self._log.partitions(self._topics.state(fold))
            for tp, record in (await self._log.newest(partitions)).items():
                state = states.decode(record.value)
                self._take(fold, tp.partition, Absorbed(state.offset, state.published))
                self._aside[fold, tp.partition] = {skip.offset for skip in state.skipped}

    def _take(self, fold: str, partition: int, absorbed: Absorbed) -> None:
        if absorbed.offset > self.newest(fold, partition).offset:
            self._absorbed[fold, partition] = absorbed

"""`driftline reconcile`: reads the log, waits for what is on its way, asks ClickHouse, and compares."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal, TypeAlias

import msgspec
from aiokafka import TopicPartition

from driftline.schemas.codec import decode_events
from driftline.schemas.errors import ConfigError
from driftline.schemas.events import MICROSECONDS
from driftline.schemas.homes import home_among
from driftline.schemas.results import result_types
from driftline.sinks.clickhouse.config import ClickHouseConfig
from driftline.sinks.clickhouse.migrate import check
from driftline.sinks.clickhouse.tables import Difference as Altered
from driftline.streams.fold import sent_at
from driftline.streams.operate.balance import Balance, Reach, Stored, compare
from driftline.streams.operate.log import Log
from driftline.streams.operate.progress import Absorbed, Roles
from driftline.streams.operate.stored import count_stored, put_aside, raw_letters
from driftline.streams.operate.tally import Selection, Tally
from driftline.streams.settings import Settings

Stage: TypeAlias = Literal["reading", "waiting", "asking", "comparing"]
Tell: TypeAlias = Callable[[Stage, int, int], None]
"""(what is being done, how much of it is done, of how much)"""

POLL_S = 0.5
MONITOR = "monitor"


async def reconcile(settings: Settings, selection: Selection, *, wait_s: float, tell: Tell) -> Balance:
    """Compare what the events topic holds with what ClickHouse has.

    :raises ConfigError: ClickHouse's tables are not up to date.
    :raises RetryableError: Kafka or ClickHouse does not answer.
    """
    events = settings.topics.events
    if altered := await asyncio.to_thread(_altered, settings.clickhouse):
        return Balance(altered=altered)
    async with Log(settings.kafka) as log:
        partitions = await log.partitions(events)
        ahead = settings.monitor.windows.ahead_s * MICROSECONDS  # an event's time is not further ahead of its record's
        starts = await log.starts(partitions, None if selection.since is None else selection.since - ahead)
        tally = Tally(selection, settings.topics)
        born: dict[int, int] = {}
        reading = log.read(starts)
        async for tp, records in reading:
            born.setdefault(tp.partition, sent_at(records[0].timestamp) or 0)
            await asyncio.to_thread(tally.add, tp.partition, records)
            done = sum(reading.positions[p] - starts[p] for p in starts)
            tell("reading", done, sum(reading.ends.get(p, starts[p]) - starts[p] for p in starts))
        ends = reading.ends
        reaches = {
            tp.partition: Reach(
                partition=tp.partition,
                start=starts[tp],
                end=ends[tp],
                archived=0,
                absorbed=0,
                letters_stored=False,
                results_stored=False,
                born=born.get(tp.partition, 0),
            )
            for tp in partitions
        }
        reaches = await _Wait(log, settings, tally, tell).settle(reaches, wait_s)
        tell("asking", 0, 1)
        stored = await asyncio.to_thread(_ask, settings, tally, selection, born)
        later = log.read(ends)
        async for tp, records in later:  # whatever ClickHouse answered, it can only come from records up to here
            await asyncio.to_thread(tally.touch, tp.partition, records)
    tell("comparing", 0, 1)
    grace = settings.monitor.windows.grace_s
    home = home_among(settings.kafka.home_partitions)
    found = await asyncio.to_thread(compare, tally, stored, reaches, grace, home)
    return msgspec.structs.replace(found, held=sum(reading.held.values()))


def _altered(config: ClickHouseConfig) -> list[Altered]:
    found = check(config)
    if found.pending and found.differences:
        raise ConfigError(
            f"ClickHouse's database {config.database} lacks {', '.join(found.pending)}: run `driftline migrate` first"
        )
    return found.differences


def _ask(settings: Settings, tally: Tally, selection: Selection, born: Mapping[int, int]) -> Stored:
    """Dead letters that can be decoded were refused by ClickHouse: these are taken off what it must have."""
    events = settings.topics.events
    stored = count_stored(settings.clickhouse, selection, events, born)
    for partition, raw in put_aside(settings.clickhouse, events, MONITOR):
        tally.put_aside(partition, raw)
    refused = set()
    for place, raw in raw_letters(settings.clickhouse, events, stored.letters - tally.rejects):
        decoded = decode_events(raw)
        if decoded.events and not decoded.rejects:
            refused.add(place)
            for event in decoded.events:
                tally.refuse(event)
    return replace(stored, letters=set(stored.letters) - refused)


class _Wait:
    """For the archive and the monitor to come as far as the log was read."""

    def __init__(self, log: Log, settings: Settings, tally: Tally, tell: Tell) -> None:
        self._log = log
        self._topics = settings.topics
        self._partitions = range(settings.kafka.partitions)
        self._roles = Roles(log, settings.topics, (MONITOR,))
        self._last_tick = {p: ticks[-1][0] for p, ticks in tally.ticks.items()}
        self._tell = tell
        # Fixed once the partition is there: what comes after it is not waited for.
        self._letters: dict[int, int] = {}  # end of the dead letters of what was read
        self._absorbed: dict[int, Absorbed] = {}

    async def settle(self, reaches: Mapping[int, Reach], wait_s: float) -> dict[int, Reach]:
        """As soon as all is there, or after `wait_s` what is there by then."""
        now = asyncio.get_running_loop().time
        began = now()
        while True:
            found = await self._look(reaches)
            waited = now() - began
            self._tell("waiting", min(round(waited), round(wait_s)), round(wait_s))
            if waited >= wait_s or all(self._is_there(reach) for reach in found.values()):
                return found
            await asyncio.sleep(POLL_S)

    def _is_there(self, reach: Reach) -> bool:
        absorbed = reach.absorbed > self._last_tick.get(reach.partition, -1)
        return reach.archived >= reach.end and absorbed and reach.letters_stored and reach.results_stored

    async def _look(self, reaches: Mapping[int, Reach]) -> dict[int, Reach]:
        topics = self._topics
        names = (topics.events, *result_types(topics))
        every = [TopicPartition(name, p) for name in names for p in self._partitions]
        committed = await self._log.committed(f"{topics.prefix}.archive", every)
        await self._roles.look()
        archived = {p: min(reach.end, committed[TopicPartition(topics.events, p)]) for p, reach in reaches.items()}
        there = [p for p, reach in reaches.items() if archived[p] >= reach.end and p not in self._letters]
        self._letters |= await self._ends_of_letters(there, committed)
        found = {}
        for p, reach in reaches.items():
            absorbed = self._roles.newest(MONITOR, p)
            if absorbed.offset >= self._last_tick.get(p, -1):
                absorbed = self._absorbed.setdefault(p, absorbed)
            found[p] = replace(
                reach,
                archived=archived[p],
                absorbed=absorbed.offset + 1,
                letters_stored=p in self._letters and committed[TopicPartition(topics.dlq, p)] >= self._letters[p],
                results_stored=absorbed.is_stored(committed, p),
            )
        return found

    async def _ends_of_letters(
        self, partitions: Sequence[int], committed: Mapping[TopicPartition, int]
    ) -> dict[int, int]:
        dlq = [TopicPartition(self._topics.dlq, p) for p in partitions]
        beginnings = await self._log.beginnings(dlq) if dlq else {}
        reading = self._log.read({tp: max(beginnings[tp], committed[tp]) for tp in dlq})
        async for _ in reading:
            pass
        return {tp.partition: end for tp, end in reading.ends.items()}

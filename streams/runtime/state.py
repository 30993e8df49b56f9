"""The state topic: one record per source partition holds everything of that partition, and the offset it stands for.

One record is at worst old, never torn. The newest record of a partition of the topic is the partition's state: there is
one key per partition, and one writer. After it there may be a *note*, a small record under a key of its own: which
source records were being absorbed (`quarantine.py`). A note says where in the topic its state is, so that a start still
reads two records at most.
"""

import asyncio
import mmap
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import cramjam
import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.structs import ConsumerRecord
from xxhash import xxh3_64_intdigest

from driftline.schemas.codec import DecodeError, pack, unpack
from driftline.schemas.errors import ConfigError, PermanentError
from driftline.schemas.text import for_log
from driftline.schemas.topics import LARGE

VERSION = 1
UNKNOWN = -1
LIMIT = LARGE - 128 * 1024  # leaves room for what Kafka's record format and a second compression add
_MOST_INFLATED = 2**28  # bytes of a snapshot: what compresses so well that more fits is no state of ours
_LEVEL = 3  # zstd's own default
_RENAMED = {"kafka.homes": "kafka.partitions"}  # setting -> what states made before it came hold in its place


class State(msgspec.Struct, frozen=True):
    """Of one source partition, after absorbing everything up to `offset`."""

    offset: int
    published: dict[str, int]  # topic -> offset of the newest result in the partition's partition of it
    snapshot: bytes
    skipped: tuple["Skipped", ...] = ()  # quarantined: absorbed by nobody
    settings: dict[str, str] = {}  # those that shaped the snapshot; empty: written before they were noted
    timestamp: int = UNKNOWN  # of the record at `offset`, as the log has it: another one there is another log
    fold: str = ""  # whose it is; empty: written before that was noted


class Skipped(msgspec.Struct, frozen=True, array_like=True):
    """A source record that ended the role again and again."""

    offset: int
    timestamp: int  # of the record, milliseconds since the Unix epoch


class Note(msgspec.Struct, frozen=True, array_like=True):
    """The source records `first` to `last` are being absorbed, by a fold that is built from the state; none if `first`
    is above `last`."""

    state_at: int  # the offset of that state's record in the state topic; NOWHERE: there is none
    first: int
    last: int
    ended: int = 0  # how often exactly these have ended the role before
    reason: str = ""  # what they raised the last time; empty: the process ended


NOWHERE = -1


class Found(NamedTuple):
    """The newest of one partition of the state topic. A reset (`operate/reset.py`) has no value."""

    state: ConsumerRecord | None
    note: Note | None  # about records after that state


class _Stored(msgspec.Struct, frozen=True, array_like=True):
    version: int
    offset: int
    published: dict[str, int]
    compressed: bytes
    skipped: tuple[Skipped, ...] = ()
    settings: dict[str, str] = {}
    timestamp: int = UNKNOWN
    fold: str = ""
    checksum: int = 0  # of `compressed`; 0: written before there was one


def key(partition: int) -> bytes:
    return b"p%d" % partition


def note_key(partition: int) -> bytes:
    return b"n%d" % partition


def encode_note(note: Note) -> bytes:
    return pack(note)


def decode_note(value: bytes) -> Note:
    return unpack(value, Note)


def _note(value: bytes) -> Note | None:
    """None: nobody of ours wrote it, and it does not say where the state is."""
    try:
        return decode_note(value)
    except DecodeError:
        return None


async def encode(state: State) -> bytes:
    """The record's value. Compresses on another thread.

    :raises PermanentError: too large for one record.
    """
    compressed = bytes(await asyncio.to_thread(cramjam.zstd.compress, state.snapshot, _LEVEL))
    what = (state.offset, state.published, compressed, state.skipped, state.settings, state.timestamp, state.fold)
    value = pack(_Stored(VERSION, *what, xxh3_64_intdigest(compressed)))
    if len(value) > LIMIT:
        raise PermanentError(
            f"The state is {len(value) / 2**20:.1f} MiB compressed, and {LIMIT / 2**20:.1f} MiB fit in one record: "
            "spread the apps over more partitions, or lower what is kept per app"
        )
    return value


def decode(value: bytes, fold: str = "") -> State:
    """`fold`: whose state it must be; empty: anybody's.

    :raises PermanentError: it was written by another version of Driftline, by another fold, or by nobody of ours.
    """
    try:
        stored = unpack(value, _Stored)
        if stored.version == VERSION:
            snapshot = _snapshot(stored)
    except (DecodeError, cramjam.DecompressionError) as error:
        raise PermanentError(f"The record is no state: {error}") from error
    if stored.version != VERSION:
        raise PermanentError(f"The state has version {stored.version}, this Driftline reads {VERSION}")
    if fold and stored.fold not in ("", fold):
        raise PermanentError(f"The state is that of {for_log(stored.fold)}")
    settings, timestamp = stored.settings, stored.timestamp
    return State(stored.offset, stored.published, snapshot, stored.skipped, settings, timestamp, stored.fold)


def _snapshot(stored: _Stored) -> bytes:
    if stored.checksum not in (0, xxh3_64_intdigest(stored.compressed)):
        raise DecodeError("its checksum is that of other bytes")
    with mmap.mmap(-1, _MOST_INFLATED) as whole:  # of which only what is written takes memory
        return whole[: cramjam.zstd.decompress_into(stored.compressed, whole)]


def unusable(role: str, where: str, error: Exception) -> ConfigError:
    """What a start says of a state that no fold can be built from."""
    return ConfigError(
        f"The state at {where} cannot be used: {for_log(str(error) or repr(error), 300)}. Install the Driftline that "
        f"wrote it, or stop the role and run `driftline state reset --role {role}`, after which it builds its state "
        "anew from the log"
    )


def check_settings(role: str, fold: str, then: Mapping[str, str], now: Mapping[str, str]) -> None:
    """:raises ConfigError: what the state was made with is not what is set now. A setting that one of them does not
    know came with another version of Driftline, and is no change.
    """
    before = {key: then.get(key, then.get(_RENAMED.get(key, ""))) for key in now}
    changed = [f"{key} is {now[key]} and was {was}" for key, was in before.items() if was not in (None, now[key])]
    if changed:
        raise ConfigError(
            f"{'; '.join(changed)} when the state of {fold} was made, which does not fit any more: put it back, or "
            f"stop the role and run `driftline state reset --role {role}`, after which it builds its state anew from "
            "the log"
        )


def is_note(record: ConsumerRecord) -> bool:
    return bool(record.key) and record.key[:1] == b"n" and record.value is not None


async def read_newest(
    consumer: AIOKafkaConsumer, partitions: Collection[TopicPartition]
) -> dict[TopicPartition, ConsumerRecord]:
    """The newest state record of each partition that has one. The consumer is started, and of no group."""
    found = await read_found(consumer, partitions)
    return {tp: newest.state for tp, newest in found.items() if newest.state is not None}


async def check_log(consumer: AIOKafkaConsumer, absorbed: Mapping[TopicPartition, State]) -> None:
    """The log is the one that the states were made from: the last record that they cover is still there, if any is.
    The consumer is started, and of no group.

    :raises PermanentError: another record is in its place.
    """
    known = {tp: state for tp, state in absorbed.items() if state.timestamp != UNKNOWN}
    if not known:
        return
    consumer.assign(list(known))
    first = await consumer.beginning_offsets(known)
    end = await consumer.end_offsets(known)
    unread = {tp for tp, state in known.items() if first[tp] <= state.offset < end[tp]}
    for tp in unread:
        consumer.seek(tp, known[tp].offset)
    while unread:
        for tp, records in (await consumer.getmany(*unread, timeout_ms=50)).items():
            unread.discard(tp)
            there, state = records[0], known[tp]
            if there.offset == state.offset and there.timestamp != state.timestamp:
                raise PermanentError(
                    f"The record at offset {there.offset} of {tp.topic}[{tp.partition}] is not the one that was "
                    "absorbed there: the topic was made anew. Restore it; or, when what it held is not to come back, "
                    "stop the role and run `driftline state reset --role R`"
                )
        unread = {tp for tp in unread if not await _at_end(consumer, tp)}


async def read_found(consumer: AIOKafkaConsumer, partitions: Collection[TopicPartition]) -> dict[TopicPartition, Found]:
    """The newest state and note of each partition. The consumer is started, and of no group."""
    if not partitions:
        return {}
    consumer.assign(list(partitions))
    first = await consumer.beginning_offsets(partitions)
    end = await consumer.end_offsets(partitions)
    newest = await _read_to_end(consumer, {tp: max(first[tp], end[tp] - 1) for tp in partitions})
    told = {tp: _note(record.value) for tp, record in newest.items() if is_note(record)}
    notes = {tp: note for tp, note in told.items() if note is not None}
    states = {tp: record for tp, record in newest.items() if tp not in told and record.value is not None}
    wanted = {tp: note.state_at for tp, note in notes.items() if note.state_at != NOWHERE}
    states |= await _read_to_end(consumer, wanted, notes=False)
    # The last offset may hold no record (a transaction's marker, say): then look through the whole partition.
    holes = [tp for tp in partitions if tp not in newest and end[tp] > first[tp]]
    holes += [tp for tp in wanted if tp not in states]
    holes += told.keys() - notes.keys()
    states |= await _read_to_end(consumer, {tp: first[tp] for tp in holes}, notes=False)
    return {tp: Found(states.get(tp), notes.get(tp)) for tp in partitions}


async def _read_to_end(
    consumer: AIOKafkaConsumer, starts: dict[TopicPartition, int], *, notes: bool = True
) -> dict[TopicPartition, ConsumerRecord]:
    """The last record of each. `notes`: whether they count.

    The end is the high water mark of a fetch. An empty poll is not the end, and the embedded broker's answer to "latest
    offset" is the first offset of the last batch plus one."""
    newest: dict[TopicPartition, ConsumerRecord] = {}
    for tp, start in starts.items():
        consumer.seek(tp, start)
    unread = set(starts)
    while unread:
        for tp, records in (await consumer.getmany(*unread, timeout_ms=50)).items():
            if last := _last(records, notes):
                newest[tp] = last
        unread = {tp for tp in unread if not await _at_end(consumer, tp)}
    return newest


def _last(records: Sequence[ConsumerRecord], notes: bool) -> ConsumerRecord | None:
    wanted: Iterable[ConsumerRecord] = reversed(records)
    return next((record for record in wanted if notes or not is_note(record)), None)


async def _at_end(consumer: AIOKafkaConsumer, tp: TopicPartition) -> bool:
    highwater = consumer.highwater(tp)
    return highwater is not None and await consumer.position(tp) >= highwater

"""The boundary before the codec: what a Kafka client makes of the batches that a broker hands over.

A batch is compressed as a whole, and aiokafka inflates it without a limit: 10 kB of zstd are 300 MiB of spaces, in
every consumer. And a batch that it cannot read (a wrong CRC, an unknown codec, a header that is not UTF-8) is an error
that comes again at every fetch, since the position never moves. `bounded_batches`, given to a consumer of ours as its
`value_deserializer`, changes both: a batch is inflated up to a limit, and one that cannot be read is passed over by its
offsets, as one record whose value says so (`schemas.codec.unreadable`): for decoders it is a reject with the reason.

aiokafka has no such setting, so importing this module wraps four of its parts; `tests/contract` pins them. Consumers
without `bounded_batches`, such as an application's own beside our SDK, behave as they did.
"""

import contextlib
import mmap
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import cramjam
from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException
from aiokafka.record import default_records, legacy_records
from aiokafka.record._crecords import default_records as c_default_records
from aiokafka.record._crecords import legacy_records as c_legacy_records
from aiokafka.structs import TopicPartition

from driftline.schemas.codec import unreadable

MOST_BYTES = 64 * 2**20  # inflated: four of the largest records that a topic of ours takes
MOST_RECORDS = 250_000  # as many of the shortest events as a producer may send at once: 16 MiB of 62 bytes each
MOST_HEADERS = 100  # of a record; who has more gets none, and where they are most of it, no record: 2 bytes make 64
ATTEMPTS = 3  # at a batch whose CRC is wrong: what the network did is gone at the next fetch, what the disk did is not

_ORDINARY = 2 * 2**20  # bytes inflated into memory that is kept: producers make batches of up to a mebibyte

_LARGE = 2**16  # bytes of a record whose headers are counted before they become objects
_RECORDS_AT = 61  # in a batch of format 2, after its head
_REMEMBERED = 1_000  # batches with a wrong CRC
_XERIAL_MAGIC = b"\x82SNAPPY\x00\x00\x00\x00\x01\x00\x00\x00\x01"


def bounded_batches(value: bytes | None) -> bytes | None:
    """The `value_deserializer` of a consumer whose batches are bounded."""
    return value


class TooLarge(Exception):
    """A batch holds more than is inflated."""


class _Local(threading.local):
    is_bounded = False
    has_headers = False
    scratch: bytearray | None = None


_local = _Local()


def _inflate_into(inflate: Callable[[Any, Any], int], payload: bytes) -> bytes:
    scratch = _local.scratch = _local.scratch or bytearray(_ORDINARY)
    with contextlib.suppress(cramjam.DecompressionError):  # larger, or corrupt: the second attempt tells
        return bytes(memoryview(scratch)[: inflate(payload, scratch)])
    with mmap.mmap(-1, MOST_BYTES) as large:  # of which only what is written takes memory
        try:
            return large[: inflate(payload, large)]
        except cramjam.DecompressionError as error:
            if "whole buffer" in str(error):
                raise _too_large() from error
            raise


def _too_large() -> TooLarge:
    return TooLarge(f"it holds more than {MOST_BYTES} bytes inflated, which is the most that is read")


def _zstd(payload: bytes) -> bytes:
    return _inflate_into(cramjam.zstd.decompress_into, payload)


def _lz4(payload: bytes) -> bytes:
    return _inflate_into(cramjam.lz4.decompress_into, payload)


def _gzip(payload: bytes) -> bytes:
    whole = b""
    while payload:  # one member after the other
        stream = zlib.decompressobj(wbits=31)
        whole += stream.decompress(payload, MOST_BYTES + 1 - len(whole))
        if len(whole) > MOST_BYTES:
            raise _too_large()
        if not stream.eof:
            raise CorruptRecordException("gzip: the data ends early")
        payload = stream.unused_data
    return whole


def _snappy(payload: bytes) -> bytes:
    """A block, or the framing of xerial that Java's clients write."""
    if payload[:16] != _XERIAL_MAGIC:
        return _snappy_block(payload, 0)
    at, total = 16, 0
    blocks = []
    while at < len(payload):
        size = int.from_bytes(payload[at : at + 4])
        at += 4
        blocks.append(_snappy_block(payload[at : at + size], total))
        total += len(blocks[-1])
        at += size
    return b"".join(blocks)


def _snappy_block(block: bytes, before: int) -> bytes:
    if cramjam.snappy.decompress_raw_len(block) + before > MOST_BYTES:
        raise _too_large()
    return bytes(cramjam.snappy.decompress_raw(block))


def _wrapped(original: Callable[[Any], bytes], limited: Callable[[bytes], bytes]) -> Callable[[Any], bytes]:
    def decode(payload: Any) -> bytes:
        if not _local.is_bounded:
            return original(payload)
        records = limited(bytes(payload))
        if _local.has_headers:
            _check_headers(records)
        return records

    return decode


def _check_headers(records: bytes) -> None:
    """Of records in format 2.

    :raises TooLarge: one has so many headers that they would be half a gigabyte of objects.
    """
    at, last = 0, len(records) - _LARGE
    while at < last:
        low, high = records[at], records[at + 1]
        if low < 0x80:
            length, at = low >> 1, at + 1
        elif high < 0x80:
            length, at = (low & 0x7F | high << 7) >> 1, at + 2
        else:
            length, at = _varint(records, at)
            if length > _LARGE and (count := _headers(records, at)) > MOST_HEADERS:
                raise TooLarge(f"a record in it has {count} headers, and {MOST_HEADERS} are the most that are read")
        if length < 0:
            raise CorruptRecordException("a record has a length below zero")
        at += length


def _headers(records: bytes, at: int) -> int:
    """How many headers the record has whose body begins there."""
    at += 1  # attributes
    for _ in range(2):  # time and offset
        _, at = _varint(records, at)
    for _ in range(2):  # key and value
        length, at = _varint(records, at)
        at += max(0, length)
    return _varint(records, at)[0]


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A zigzag number, and where it ends. IndexError: the data ends before."""
    number = shift = 0
    while True:
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (number >> 1) ^ -(number & 1), at
        shift += 7


class _Record(NamedTuple):
    """In place of records that could not be read, or of one without its many headers."""

    offset: int
    timestamp: int
    timestamp_type: int
    value: bytes | None
    key: bytes | None = None
    checksum: int | None = None
    headers: tuple[()] = ()


class _Batch:
    """One batch of a fetch, as `PartitionRecords` uses it."""

    def __init__(self, tp: TopicPartition, batch: Any, position: int, fetch: "_Fetch", raw: memoryview) -> None:
        self._raw = raw
        self._place = (*tp, batch.base_offset)
        self._batch = batch
        self._position = position  # the offset that is wanted next
        self._fetch = fetch
        count = batch.next_offset - batch.base_offset
        # Where a wrong CRC leaves no other number to trust, one offset is passed over and the fetch tried again.
        self.next_offset = batch.next_offset if 0 < count <= 2**31 else position + 1

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __next__(self) -> Any:
        return next(self._batch)  # of a control batch

    def validate_crc(self) -> bool:
        """Always: `__iter__` says what becomes of a wrong one."""
        return True

    def __iter__(self) -> Iterator[Any]:
        batch = self._batch
        reached = self._position
        try:
            if not batch.validate_crc():
                if self._is_worth_another_fetch():
                    return
                if self.next_offset - self._place[2] > MOST_RECORDS:
                    self.next_offset = self._position + 1
                raise CorruptRecordException("its CRC is wrong: the disk of the broker, or the network, changed it")
            _failures.pop(self._place, None)
            if self.next_offset - batch.base_offset > MOST_RECORDS:
                raise TooLarge(f"it has more than {MOST_RECORDS} records, which is the most that is read")
            for record in _inflated(batch, self._raw):
                yield record if len(record.headers) <= MOST_HEADERS else _without_headers(record)
                reached = max(reached, record.offset + 1)
        except Exception as error:  # noqa: BLE001  # whatever it is, it would come again at every fetch
            first, end = max(reached, self._place[2]), self.next_offset
            if end > first:
                reason = f"a batch of records that cannot be read, offsets {first} to {end - 1}: {error or repr(error)}"
                yield _Record(end - 1, max(0, batch.max_timestamp), 0, unreadable(reason, end - first))

    def _is_worth_another_fetch(self) -> bool:
        failed = _failures.get(self._place, 0) + 1
        if failed >= ATTEMPTS:
            _failures.pop(self._place, None)
            return False
        if len(_failures) > _REMEMBERED:
            _failures.clear()
        _failures[self._place] = failed
        self.next_offset = self._position
        self._fetch.is_over = True
        return True


_failures: dict[tuple[str, int, int], int] = {}  # wrong CRCs in a row, by topic, partition and offset


def _inflated(batch: Any, raw: memoryview) -> Iterator[Any]:
    _local.is_bounded, _local.has_headers = True, raw[16] == 2
    try:
        if _local.has_headers and not raw[22] & 7 and len(raw) > _LARGE:  # not compressed
            _check_headers(bytes(raw[_RECORDS_AT:]))
        return iter(batch)
    finally:
        _local.is_bounded = False


def _without_headers(record: Any) -> _Record:
    return _Record(record.offset, record.timestamp, record.timestamp_type, record.value, record.key, record.checksum)


class _MemoryRecords(fetcher.MemoryRecords):  # type: ignore[misc]  # aiokafka ships no types
    """Its bytes are to be seen as well."""

    def __init__(self, data: Any) -> None:
        super().__init__(data)
        self.raw = memoryview(data)


class _Fetch:
    """The batches of one fetch of a partition, as `PartitionRecords` uses them."""

    def __init__(self, tp: TopicPartition, batches: _MemoryRecords, position: Callable[[], int]) -> None:
        self._tp = tp
        self._batches = batches
        self._rest = batches.raw
        self._position = position
        self.is_over = False

    def has_next(self) -> bool:
        return not self.is_over and self._batches.has_next()

    def next_batch(self) -> _Batch:
        end = 12 + int.from_bytes(self._rest[8:12])  # offset and length stand before what the length is of
        raw, self._rest = self._rest[:end], self._rest[end:]
        return _Batch(self._tp, self._batches.next_batch(), self._position(), self, raw)


class _PartitionRecords(fetcher.PartitionRecords):  # type: ignore[misc]  # aiokafka ships no types
    def __init__(
        self,
        tp: TopicPartition,
        records: Any,
        aborted_transactions: Any,
        fetch_offset: int,
        key_deserializer: Any,
        value_deserializer: Any,
        check_crcs: bool,
        isolation_level: int,
    ) -> None:
        if value_deserializer is bounded_batches:
            value_deserializer = None
            records = _Fetch(tp, records, lambda: self.next_fetch_offset)
        super().__init__(
            *(tp, records, aborted_transactions, fetch_offset),
            *(key_deserializer, value_deserializer, check_crcs, isolation_level),
        )


fetcher.MemoryRecords = _MemoryRecords
fetcher.PartitionRecords = _PartitionRecords
for _name, _limited in {"gzip": _gzip, "snappy": _snappy, "lz4": _lz4, "zstd": _zstd}.items():
    for _module in (default_records, legacy_records, c_default_records, c_legacy_records):
        if _original := getattr(_module, f"{_name}_decode", None):
            setattr(_module, f"{_name}_decode", _wrapped(_original, _limited))


READING: Mapping[str, Any] = {  # what every consumer of ours is made with
    "value_deserializer": bounded_batches,
    "isolation_level": "read_committed",
    "enable_auto_commit": False,
}

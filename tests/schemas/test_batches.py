"""Batches as brokers hand them over: whole, too large, and unreadable."""

import gzip
import struct
import tracemalloc
from collections.abc import Callable
from typing import Any

import cramjam
import pytest
from aiokafka import TopicPartition
from aiokafka.consumer import fetcher
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c

from driftline.schemas import batches
from driftline.schemas.batches import bounded_batches
from driftline.schemas.codec import DecodeError, decode, decode_events, embeddings_in
from driftline.schemas.results import Alert

TP = TopicPartition("driftline.events", 0)
CODECS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
HEADER = 61  # bytes before a batch's records


def batch(*values: bytes, codec: str = "none", base: int = 0, headers: Any = ()) -> bytes:
    builder = DefaultRecordBatchBuilder(2, CODECS[codec], False, -1, -1, -1, 2**31 - 1)
    for offset, value in enumerate(values):
        builder.append(offset, 1_000, b"bot", value, list(headers))
    return _based(bytes(builder.build()), base)


def _based(raw: bytes, base: int) -> bytes:
    return struct.pack(">q", base) + raw[8:]


def forged(raw: bytes, payload: bytes | None = None, codec: int | None = None) -> bytes:
    """With other contents, under a right length and CRC."""
    body = raw[HEADER:] if payload is None else payload
    attributes = raw[21:23] if codec is None else struct.pack(">h", codec)
    checked = attributes + raw[23:HEADER] + body
    return (
        raw[:8] + struct.pack(">i", 9 + len(checked)) + raw[12:17] + struct.pack(">I", calc_crc32c(checked)) + checked
    )


def read(*raws: bytes, start: int = 0, deserializer: Any = bounded_batches) -> tuple[list[Any], int]:
    """The records, and the offset that is fetched next."""
    records = fetcher.PartitionRecords(
        TP, fetcher.MemoryRecords(b"".join(raws)), [], start, None, deserializer, True, 0
    )
    return list(records), records.next_fetch_offset


def reasons(records: list[Any]) -> list[str]:
    return [reject.reason for record in records for reject in decode_events(record.value).rejects]


def xerial(*blocks: bytes) -> bytes:
    return batches._XERIAL_MAGIC + b"".join(struct.pack(">i", len(block)) + block for block in blocks)


INFLATED: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "snappy": lambda data: bytes(cramjam.snappy.compress_raw(data)),
    "lz4": lambda data: bytes(cramjam.lz4.compress(data)),
    "zstd": lambda data: bytes(cramjam.zstd.compress(data)),
}


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("size", [0, 1, 1_000, 5_000_000])
def test_what_is_whole_is_read_as_without_limits(codec: str, size: int) -> None:
    raw = batch(b"x" * size, b"second", codec=codec, base=5, headers=[("h", b"v")])
    assert read(raw) == read(raw, deserializer=None)
    records, following = read(raw, start=6)
    assert [(r.offset, r.value) for r in records] == [(6, b"second")]
    assert following == 7


@pytest.mark.parametrize("codec", INFLATED)
def test_a_batch_that_inflates_beyond_the_limit_is_one_record_that_says_so(
    codec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "MOST_BYTES", 4_000_000)
    bomb = batch(b" " * 4_000_000, b"second", codec=codec, base=5)
    good = batch(b"good", codec=codec, base=7)
    records, following = read(bomb, good)
    assert [record.offset for record in records] == [6, 7]
    assert records[1].value == b"good"
    assert following == 8
    [reject] = decode_events(records[0].value).rejects
    assert (reject.index, reject.count) == (-1, 2)
    assert reject.reason == (
        "a batch of records that cannot be read, offsets 5 to 6: it holds more than 4000000 bytes inflated, which is "
        "the most that is read"
    )
    with pytest.raises(DecodeError, match="offsets 5 to 6"):
        decode(records[0].value, Alert)
    assert "offsets 5 to 6" in embeddings_in(records[0].value).rejects[0].reason


def test_a_consumer_that_is_not_ours_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "MOST_BYTES", 1_000)
    records, _ = read(batch(b" " * 5_000_000, codec="zstd"), deserializer=None)
    assert len(records[0].value) == 5_000_000


@pytest.mark.parametrize(
    ("name", "payload"),
    [
        ("gzip", gzip.compress(b"x", mtime=0)[:-5]),
        ("gzip", b"garbage"),
        ("snappy", xerial(b"") + struct.pack(">i", -4)),  # endless in aiokafka
        ("snappy", b"\xff\xff\xff\xff\x0f"),
        ("snappy", b"\xff" * 30),
        ("lz4", b"garbage"),
        ("zstd", b"garbage"),
        ("zstd", INFLATED["zstd"](b"no records")),
        ("none", b"\xff" * 100),
        ("none", b""),
    ],
)
def test_a_batch_that_cannot_be_read_is_passed_over(name: str, payload: bytes) -> None:
    bad = forged(batch(b"1", b"2", codec=name, base=5), payload)
    records, following = read(bad, batch(b"good", base=7))
    assert [record.offset for record in records] == [6, 7]
    assert following == 8
    [reason] = reasons(records[:1])
    assert reason.startswith("a batch of records that cannot be read, offsets 5 to 6: ")


@pytest.mark.parametrize("codec", [5, 6, 7])
def test_an_unknown_codec_is_named(codec: int) -> None:
    records, following = read(forged(batch(b"1"), codec=codec))
    assert "codec" in reasons(records)[0]
    assert following == 1


def test_a_header_that_is_not_utf8_costs_its_batch_from_there_on() -> None:
    raw = batch(b"1", base=5) + batch(b"2", b"3", base=6, headers=[("head", b"v")])
    records, following = read(_with_bad_header(raw))
    assert [(r.offset, r.value) for r in records[:1]] == [(5, b"1")]
    assert [r.offset for r in records[1:]] == [7]
    assert "offsets 6 to 7" in reasons(records[1:])[0]
    assert following == 8


def _with_bad_header(raw: bytes) -> bytes:
    first = 12 + struct.unpack(">i", raw[8:12])[0]
    second = raw[first:]
    return raw[:first] + forged(second, second[HEADER:].replace(b"head", b"h\xff\xffd"))


def test_a_wrong_crc_is_fetched_again_and_then_passed_over() -> None:
    good, following = batch(b"good", base=5), batch(b"next", base=7)
    bad = bytearray(batch(b"1", base=6))
    bad[-3] ^= 1
    for _ in range(batches.ATTEMPTS - 1):
        records, position = read(good, bytes(bad), following, start=5)
        assert [record.value for record in records] == [b"good"]
        assert position == 6
    records, position = read(bytes(bad), following, start=6)
    assert [record.offset for record in records] == [6, 7]
    assert "its CRC is wrong" in reasons(records[:1])[0]
    assert position == 8


def test_a_batch_of_too_many_records_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "MOST_RECORDS", 10)
    assert len(read(batch(*[b""] * 10, codec="zstd"))[0]) == 10
    records, following = read(batch(*[b""] * 11, codec="zstd"))
    assert "more than 10 records" in reasons(records)[0]
    assert following == 11


def test_several_frames_and_members_are_one_payload() -> None:
    raw = batch(b"1" * 100, b"2" * 100)
    half = HEADER + 60
    for name, deflate in INFLATED.items():
        if name == "snappy":
            payload = xerial(deflate(raw[HEADER:half]), deflate(raw[half:]))
        else:
            payload = deflate(raw[HEADER:half]) + deflate(raw[half:])
        found = read(forged(raw, payload, CODECS[name]))
        assert [record.value for record in found[0]] == [b"1" * 100, b"2" * 100], name


def test_members_and_blocks_count_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "MOST_BYTES", 3_000_000)
    raw, part = batch(b"1"), b" " * 1_500_001
    payloads: dict[str, Callable[[], bytes]] = {
        "gzip": lambda: gzip.compress(part) * 2,
        "snappy": lambda: xerial(INFLATED["snappy"](part), INFLATED["snappy"](part)),
        "zstd": lambda: INFLATED["zstd"](part) * 2,
    }
    for name, payload in payloads.items():
        records, _ = read(forged(raw, payload(), CODECS[name]))
        assert "more than 3000000 bytes" in reasons(records)[0], name


@pytest.mark.parametrize("codec", CODECS)
def test_a_record_of_headers_is_passed_over_before_they_are_objects(codec: str) -> None:
    many, some = [("", b"")] * 200_000, [("h", b"v")] * (batches.MOST_HEADERS + 1)
    raws = [
        batch(b"one", codec=codec, headers=[("h", b"v")] * batches.MOST_HEADERS),
        batch(b"two", codec=codec, base=1, headers=some),
        batch(b"three", codec=codec, base=2, headers=many),
        batch(b"x" * 200_000, codec=codec, base=3, headers=[("h", b"v")]),
    ]
    tracemalloc.start()
    records, following = read(*raws)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [(r.offset, len(r.headers)) for r in records] == [(0, batches.MOST_HEADERS), (1, 0), (2, 0), (3, 1)]
    assert [r.value for r in records[:2]] == [b"one", b"two"]
    assert "a record in it has 200000 headers, and 100 are the most that are read" in reasons(records)[2]
    assert records[3].value == b"x" * 200_000
    assert following == 4
    assert peak < 8_000_000, "the headers alone are 200,000 tuples"

"""HTTP content encodings, as clickhouse-connect, curl and browsers ask for them."""

import mmap
import threading
from collections.abc import Callable

import cramjam

_Into = Callable[[bytes, memoryview], int]

_DECODERS: dict[str, _Into] = {
    "lz4": cramjam.lz4.decompress_into,
    "zstd": cramjam.zstd.decompress_into,
    "gzip": cramjam.gzip.decompress_into,
    "deflate": cramjam.zlib.decompress_into,
    "br": cramjam.brotli.decompress_into,
}
_ENCODERS: dict[str, Callable[[bytes], bytes]] = {  # by cost: the first that a client takes is used
    "lz4": lambda data: bytes(cramjam.lz4.compress(data)),
    "zstd": lambda data: bytes(cramjam.zstd.compress(data, 1)),
    "gzip": lambda data: bytes(cramjam.gzip.compress(data, 3)),
    "deflate": lambda data: bytes(cramjam.zlib.compress(data, 3)),
}
_WORTH_IT = 1024  # bytes; below, headers and CPU cost more than what is saved
_one_at_a_time = threading.Lock()  # whose memory is counted when its size is known


class UnknownEncoding(Exception):
    pass


def decode(data: bytes, encoding: str, limit: int, count: Callable[[int], None]) -> bytes:
    """Not more than `limit` bytes. `count` gets how many there are before they are copied, and may raise.

    :raises UnknownEncoding: also for data that is not of the encoding, or is larger.
    """
    if not encoding:
        return data
    decoder = _DECODERS.get(encoding)
    if decoder is None:
        raise UnknownEncoding(f"Content-Encoding {encoding} is not one of {', '.join(_DECODERS)}")
    if not data:
        return b""
    # Memory that was never written to costs nothing.
    with _one_at_a_time, mmap.mmap(-1, limit + 1) as room, memoryview(room) as view:
        try:
            size = decoder(data, view)
        except cramjam.DecompressionError as error:
            raise UnknownEncoding(f"The body is not {encoding}, or is larger than {limit} bytes: {error}") from error
        if size > limit:
            raise UnknownEncoding(f"The body is larger than {limit} bytes when decompressed: send it in parts")
        count(size)
        return bytes(view[:size])


def choose(accepted: str) -> str:
    """The encoding for a client's Accept-Encoding; "" for none."""
    wanted = {part.partition(";")[0].strip() for part in accepted.split(",") if "q=0" not in part.replace("q=0.", "")}
    return next((name for name in _ENCODERS if name in wanted), "")


def encode(data: bytes, encoding: str) -> tuple[bytes, str]:
    """The data and the encoding it has now."""
    if not encoding or len(data) < _WORTH_IT:
        return data, ""
    return _ENCODERS[encoding](data), encoding

"""HTTP content encodings, as clickhouse-connect, curl and browsers ask for them."""

from collections.abc import Callable

import cramjam

_DECODERS: dict[str, Callable[[bytes], bytes]] = {
    "lz4": lambda data: bytes(cramjam.lz4.decompress(data)),
    "zstd": lambda data: bytes(cramjam.zstd.decompress(data)),
    "gzip": lambda data: bytes(cramjam.gzip.decompress(data)),
    "deflate": lambda data: bytes(cramjam.zlib.decompress(data)),
    "br": lambda data: bytes(cramjam.brotli.decompress(data)),
}
_ENCODERS: dict[str, Callable[[bytes], bytes]] = {  # by cost: the first that a client takes is used
    "lz4": lambda data: bytes(cramjam.lz4.compress(data)),
    "zstd": lambda data: bytes(cramjam.zstd.compress(data, 1)),
    "gzip": lambda data: bytes(cramjam.gzip.compress(data, 3)),
    "deflate": lambda data: bytes(cramjam.zlib.compress(data, 3)),
}
_WORTH_IT = 1024  # bytes; below, headers and CPU cost more than what is saved


class UnknownEncoding(Exception):
    pass


def decode(data: bytes, encoding: str) -> bytes:
    """Raises UnknownEncoding, also for data that is not of the encoding."""
    if encoding in ("", "identity"):
        return data
    decoder = _DECODERS.get(encoding)
    if decoder is None:
        raise UnknownEncoding(f"Content-Encoding {encoding} is not one of {', '.join(_DECODERS)}")
    try:
        return decoder(data)
    except cramjam.DecompressionError as error:
        raise UnknownEncoding(f"The body is not {encoding}: {error}") from error


def choose(accepted: str) -> str:
    """The encoding for a client's Accept-Encoding; "" for none."""
    wanted = {part.partition(";")[0].strip() for part in accepted.split(",") if "q=0" not in part.replace("q=0.", "")}
    return next((name for name in _ENCODERS if name in wanted), "")


def encode(data: bytes, encoding: str) -> tuple[bytes, str]:
    """The data and the encoding it has now."""
    if not encoding or len(data) < _WORTH_IT:
        return data, ""
    return _ENCODERS[encoding](data), encoding

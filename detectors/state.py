"""Snapshots to bytes and back, exact to the bit: nested dicts and lists of numpy arrays and plain values, as
MessagePack. Never pickle: a state record must not be able to run code."""

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from driftline.detectors.base import State

# MessagePack extensions:
_ARRAY = 1  # an array as [dtype, shape, bytes], little-endian
_INTEGER = 2  # one beyond 64 bits, in decimal digits: sums of what strangers send
_DIGITS = 100
_KINDS = "biuf"  # bool, integers, floats


def _encode(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in _KINDS:
            raise TypeError(f"arrays of {value.dtype} have no place in a snapshot")
        array: NDArray[Any] = np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("<"))
        return msgspec.msgpack.Ext(_ARRAY, _plain.encode([array.dtype.str, list(value.shape), array.tobytes()]))
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} has no place in a snapshot")


def _decode(code: int, data: memoryview) -> Any:
    if code == _INTEGER and len(data) <= _DIGITS:
        return int(bytes(data))
    if code != _ARRAY:
        raise ValueError(f"unknown extension {code} in a snapshot")
    dtype, shape, raw = _array.decode(data)
    array = np.frombuffer(raw, dtype=dtype).reshape(shape)
    return array.astype(array.dtype.newbyteorder("="))  # a copy: the decoded buffer is read-only


_plain = msgspec.msgpack.Encoder()
_array: msgspec.msgpack.Decoder[tuple[str, list[int], bytes]] = msgspec.msgpack.Decoder(tuple[str, list[int], bytes])
_encoder = msgspec.msgpack.Encoder(enc_hook=_encode)
_decoder: msgspec.msgpack.Decoder[dict[str, Any]] = msgspec.msgpack.Decoder(dict[str, Any], ext_hook=_decode)


def size_of(value: Any) -> int:
    """Bytes of a part of a snapshot, about, without packing it."""
    if isinstance(value, np.ndarray):
        return value.nbytes + 24
    if isinstance(value, str):
        return len(value) + 3
    if isinstance(value, Mapping):
        return sum(size_of(key) + size_of(part) for key, part in value.items()) + 3
    if isinstance(value, list | tuple):
        return sum(map(size_of, value)) + 3
    return 9


def pack(state: State) -> bytes:
    """TypeError for what a snapshot must not hold."""
    try:
        return _encoder.encode(state)
    except OverflowError:
        return _encoder.encode(_with_large_integers(state))


def _with_large_integers(value: Any) -> Any:
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return msgspec.msgpack.Ext(_INTEGER, str(value).encode())
    if isinstance(value, Mapping):
        return {key: _with_large_integers(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_with_large_integers(inner) for inner in value]
    return value


def unpack(data: bytes) -> dict[str, Any]:
    """The inverse of `pack`, except that tuples come back as lists. ValueError if `data` is not a snapshot."""
    return _decoder.decode(data)

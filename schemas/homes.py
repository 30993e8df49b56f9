"""Where an app lives: the one partition of the events topic whose fold counts it, whichever its producer chose."""

from collections.abc import Callable
from functools import lru_cache

APPS = 65_536  # names whose home is remembered: a few MB at worst, and 3 µs for a name that is not


@lru_cache(maxsize=APPS)
def home(app: str, homes: int) -> int:
    """Where the Java client, aiokafka and our SDK put records keyed by the app, among `homes` partitions."""
    return (murmur2(app.encode()) & 0x7FFF_FFFF) % homes


def home_among(homes: int) -> Callable[[str], int]:
    return lambda app: home(app, homes)


def murmur2(data: bytes) -> int:
    """Kafka's: 32 bits, with its seed."""
    m, mask = 0x5BD1E995, 0xFFFF_FFFF
    h = 0x9747B28C ^ len(data)
    whole = len(data) & ~3
    for i in range(0, whole, 4):
        k = int.from_bytes(data[i : i + 4], "little") * m & mask
        k = (k ^ k >> 24) * m & mask
        h = h * m & mask ^ k
    if rest := data[whole:]:
        h = (h ^ int.from_bytes(rest, "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    return h ^ h >> 15

"""Names as 64-bit digests, and a table of them with a number each, for a million at a time.

Two different names among a million have one digest with a probability of 3e-8, and a new name is taken for one of the
million with 5e-14: what is remembered about names is as good as exact, in 8 bytes instead of a string.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from driftline.detectors.base import State

Digests = NDArray[np.uint64]

NONE = 0  # the digest of no name
MISSING = np.iinfo(np.int64).min
_SMALLEST = 1 << 10


def digests(names: Iterable[str]) -> Digests:
    """The digest of each name; `NONE` of an empty one."""
    return np.array([xxh3_64_intdigest(name.encode()) if name else NONE for name in names], np.uint64)


def firsts(keys: Digests) -> NDArray[np.bool_]:
    """Which of the keys had not come before in the array."""
    ordered = np.sort(keys)
    if not (ordered[1:] == ordered[:-1]).any():
        return np.ones(len(keys), np.bool_)
    mask = np.zeros(len(keys), np.bool_)
    mask[np.unique(keys, return_index=True)[1]] = True
    return mask


class DigestTable:
    """Digests to int64: open addressing with linear probing, on arrays. What `get` answers depends on what was put and
    dropped alone, never on the table's size or order."""

    def __init__(self, state: State | None = None) -> None:
        if state is None:
            self._build(np.empty(0, np.uint64), np.empty(0, np.int64))
        else:
            keys = np.cumsum(state["keys"].T.copy().view(np.uint64).ravel(), dtype=np.uint64)
            self._build(keys, state["values"].astype(np.int64) + state["least"])

    def __len__(self) -> int:
        return self._n

    @property
    def nbytes(self) -> int:
        """Of the snapshot, about."""
        return 8 * self._n

    def get(self, keys: Digests) -> NDArray[np.int64]:
        """The number of each key; `MISSING` for those that have none."""
        keys = np.maximum(keys, 1)
        slots = self._slots(keys)
        return np.where(self._keys[slots] == keys, self._values[slots], MISSING)

    def put(self, keys: Digests, values: NDArray[np.int64]) -> None:
        """Set the numbers of keys that differ from each other."""
        keys = np.maximum(keys, 1)
        if 3 * (self._n + len(keys)) > 2 * len(self._keys):
            self._build(*self._entries(), len(keys))
        while len(keys):
            slots = self._slots(keys)
            empty = self._keys[slots] == 0
            self._keys[slots] = keys  # of several that are new and want one slot, the last gets it
            placed = self._keys[slots] == keys
            self._values[slots[placed]] = values[placed]
            self._n += int((placed & empty).sum())
            keys, values = keys[~placed], values[~placed]

    def drop_below(self, least: int) -> None:
        """Forget the keys with smaller numbers."""
        keys, values = self._entries()
        kept = values >= least
        self._build(keys[kept], values[kept])

    def trim(self, limit: int, least: int) -> int:
        """Forget the keys with numbers below `least`. If more than `limit` remain, forget those with the smallest
        numbers until at most half of `limit` do: their number is returned."""
        if self._n <= limit:
            return 0
        self.drop_below(least)
        excess = self._n - limit // 2 if self._n > limit else 0
        if excess:
            before = self._n
            self.drop_below(int(np.partition(self._entries()[1], excess - 1)[excess - 1]) + 1)
            excess = before - self._n
        return excess

    def snapshot(self, least: int = MISSING) -> State:
        """Without the keys whose numbers are below `least`. Sorted keys as differences, the bytes of equal weight
        together: a million random keys compress to 6 MB instead of 8."""
        keys, values = self._entries()
        kept = values >= least
        keys, values = keys[kept], values[kept]
        smallest = int(values.min()) if len(values) else 0
        return {
            "keys": np.diff(keys, prepend=np.uint64(0)).view(np.uint8).reshape(-1, 8).T,
            "values": _smallest_type(values - smallest),
            "least": smallest,
        }

    def _build(self, keys: Digests, values: NDArray[np.int64], more: int = 0) -> None:
        """The table of these alone, sorted by key, with room for `more`."""
        bits = max(_SMALLEST, 2 * (len(keys) + more)).bit_length()
        self._keys: Digests = np.zeros(1 << bits, np.uint64)
        self._values: NDArray[np.int64] = np.zeros(1 << bits, np.int64)
        self._shift = np.uint64(64 - bits)
        # A key's place is in proportion to the key, or as soon after it as the keys before it allow.
        rank = np.arange(len(keys))
        slots = np.maximum.accumulate((keys >> self._shift).astype(np.intp) - rank) + rank
        inside = slots < len(self._keys)
        self._keys[slots[inside]] = keys[inside]
        self._values[slots[inside]] = values[inside]
        self._n = int(inside.sum())
        if self._n < len(keys):
            self.put(keys[~inside], values[~inside])

    def _entries(self) -> tuple[Digests, NDArray[np.int64]]:
        """Sorted by key."""
        used = np.flatnonzero(self._keys)
        keys = self._keys[used]
        order = np.argsort(keys, kind="stable")  # nearly in order already
        return keys[order], self._values[used[order]]

    def _slots(self, keys: Digests) -> NDArray[np.intp]:
        """Where each key is, or the empty slot where the search for it ended."""
        slots = (keys >> self._shift).astype(np.intp)
        there = self._keys[slots]
        searching = np.flatnonzero((there != keys) & (there != 0))
        while len(searching):
            slots[searching] = (slots[searching] + 1) & (len(self._keys) - 1)
            there = self._keys[slots[searching]]
            searching = searching[(there != keys[searching]) & (there != 0)]
        return slots


def _smallest_type(values: NDArray[np.int64]) -> NDArray[np.signedinteger | np.unsignedinteger]:
    return values.astype(np.min_scalar_type(int(values.max()) if len(values) else 0))

"""Per-slot state as flat arrays that grow together."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from driftline.detectors.base import State


class Columns:
    """Named arrays with one row a slot. A column is its row's shape, dtype and initial value."""

    def __init__(self, **columns: tuple[tuple[int, ...], type[np.generic], float]) -> None:
        self._columns = columns
        self._arrays = {
            name: np.full((0, *shape), fill, np.dtype(dtype)) for name, (shape, dtype, fill) in columns.items()
        }
        self._n = 0

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, name: str) -> NDArray[Any]:
        """A view of the rows in use: write through it, and take it anew after `claim`."""
        return self._arrays[name][: self._n]

    @property
    def row_bytes(self) -> int:
        """Of a row in the snapshot."""
        return sum(np.dtype(dtype).itemsize * math.prod(shape) for shape, dtype, _ in self._columns.values())

    def claim(self, slot: int | None) -> int:
        """A new row, or `slot` cleared. IndexError for a slot that does not exist."""
        if slot is None:
            slot, self._n = self._n, self._n + 1
            for name, array in self._arrays.items():
                if len(array) < self._n:
                    shape, dtype, fill = self._columns[name]
                    larger = np.full((max(8, 2 * len(array)), *shape), fill, np.dtype(dtype))
                    larger[: len(array)] = array
                    self._arrays[name] = larger
        if not 0 <= slot < self._n:
            raise IndexError(f"there is no slot {slot}")
        self.clear(slot)
        return slot

    def clear(self, rows: Any) -> None:
        for name, (_, _, fill) in self._columns.items():
            self[name][rows] = fill

    def snapshot(self) -> State:
        return {name: self[name].copy() for name in self._columns}

    def restore(self, state: State) -> None:
        self._arrays = {name: np.array(state[name]) for name in self._columns}
        self._n = len(next(iter(self._arrays.values())))

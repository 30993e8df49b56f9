"""An even sample of vectors with a number each, at a byte a coordinate: what a reference keeps of its sessions."""

import numpy as np
from numpy.typing import NDArray

from driftline.detectors.base import Floats, State

_STEPS = 127  # of a coordinate, up to the row's largest: rounding adds 1e-4 of the variance of texts


class Thinned:
    """The first row, and every `stride`-th after it; the stride doubles when there are too many. What is kept depends
    on the rows and on the limits asked for, not on how rows were batched."""

    def __init__(self, d: int) -> None:
        self._codes = np.empty((0, d), np.int8)  # of these and the next two, `_kept` rows are in use
        self._steps = np.empty(0, np.float32)
        self._numbers = np.empty(0, np.int64)
        self._kept = 0
        self._stride = 1
        self._n = 0

    def __len__(self) -> int:
        return self._kept

    @property
    def nbytes(self) -> int:
        """Of the snapshot, about."""
        return self._kept * (self._codes.shape[1] + 12)

    def add(self, rows: Floats, numbers: NDArray[np.int64]) -> None:
        chosen = slice(-self._n % self._stride, None, self._stride)
        self._n += len(rows)
        rows, numbers = rows[chosen], numbers[chosen]
        if not len(rows):
            return
        if self._kept + len(rows) > len(self._codes):
            self._resize(max(256, 2 * self._kept, self._kept + len(rows)))
        new = slice(self._kept, self._kept + len(rows))
        steps = (np.abs(rows).max(1) / _STEPS).astype(np.float32)
        self._codes[new] = np.rint(rows / np.maximum(steps, np.finfo(np.float32).tiny)[:, None])
        self._steps[new], self._numbers[new] = steps, numbers
        self._kept += len(rows)

    def _resize(self, size: int, step: int = 1) -> None:
        """Room for `size` rows, for every `step`-th of those there are."""
        for name in ("_codes", "_steps", "_numbers"):
            kept = getattr(self, name)[: self._kept : step]
            larger = np.empty((size, *kept.shape[1:]), kept.dtype)
            larger[: len(kept)] = kept
            setattr(self, name, larger)
        self._kept = -(-self._kept // step)

    def thin(self, limit: int) -> None:
        """Keep at most `limit` rows."""
        while len(self) > limit:
            self._stride *= 2
            self._resize(len(self._codes), 2)

    def rows(self) -> tuple[Floats, NDArray[np.int64]]:
        """[n, d], [n]"""
        kept = slice(self._kept)
        return self._codes[kept] * self._steps[kept].astype(np.float64)[:, None], self._numbers[kept].copy()

    def copy(self) -> "Thinned":
        other = Thinned(self._codes.shape[1])
        other.restore(self.snapshot())
        return other

    def snapshot(self) -> State:
        kept = slice(self._kept)
        return {
            "codes": self._codes[kept].copy(),
            "steps": self._steps[kept].copy(),
            "numbers": self._numbers[kept].copy(),
            "stride": self._stride,
            "n": self._n,
        }

    def restore(self, state: State) -> None:
        self._codes, self._steps = state["codes"].copy(), state["steps"].copy()
        self._numbers, self._kept = state["numbers"].copy(), len(state["numbers"])
        self._stride, self._n = state["stride"], state["n"]

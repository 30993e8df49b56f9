"""What the detectors of a partition share: places for streams, and room in the state."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from driftline.detectors.config import BudgetConfig
from driftline.streams.monitor.config import LimitsConfig

_GONE = 7  # times the idle time, then a baseline is given up for another's: weekends and holidays are shorter


class Holder(Protocol):
    """A detector's watch, as far as its size goes."""

    @property
    def nbytes(self) -> int: ...
    def latest(self) -> tuple[int, tuple[str, str]] | None:
        """What began to learn last: the tick, and its group."""

    def give_up(self, group: tuple[str, str]) -> None: ...


class Places:
    """How many streams the watches of a partition may hold together: the false-alarm budget is divided among them. And
    how many bytes of its state are left for what they hold and learn: all of it has to fit into one record."""

    def __init__(self, budget: BudgetConfig, state_bytes: int = LimitsConfig().state_bytes) -> None:
        self._limit = budget.streams
        self._idle = budget.ticks(budget.idle_s)
        self._bytes = state_bytes
        self._watches: list[Holder] = []
        self.margin = state_bytes // 4  # with less left the state is as good as full
        self.others = 0  # bytes of the rest of the state
        self.used = 0

    def join(self, watch: Holder) -> None:
        self._watches.append(watch)

    @property
    def bytes_left(self) -> int:
        return self._bytes - self.others - sum(watch.nbytes for watch in self._watches)

    def shed(self) -> None:
        """What began to learn last begins anew later, if the state is too large."""
        while self.bytes_left < 0:
            newest = [(*latest, i) for i, watch in enumerate(self._watches) if (latest := watch.latest()) is not None]
            if not newest:
                return
            _, group, i = max(newest)
            self._watches[i].give_up(group)

    @property
    def full(self) -> bool:
        return self.used >= self._limit

    def idle(self, seen: NDArray[np.int64], tick: int) -> NDArray[np.bool_]:
        """Which streams, last seen at those ticks, have been silent for so long that they give their place away."""
        idle: NDArray[np.bool_] = seen <= tick - self._idle
        return idle

    def idle_from(self, seen: int) -> int:
        """The tick from which what was last seen then is idle."""
        return seen + self._idle

    def gone(self, seen: NDArray[np.int64], tick: int) -> NDArray[np.bool_]:
        """Which have been silent for so long that not even their baseline stays, if others need the place."""
        gone: NDArray[np.bool_] = seen <= tick - _GONE * self._idle
        return gone

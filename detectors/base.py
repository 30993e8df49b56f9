"""The shape of every detector.

A detector is a bank of streams of one kind, updated together as arrays. A stream is, say, the error rate of one
release of one app. Its life: units of evidence go into a `Reference` until `fit` makes a `Baseline` of it; `open` gives
a stream a slot against a baseline; `update` steps all slots by one tick and reports which began to alarm and which
recovered; `measure` says what a slot knows now. `snapshot` and `restore` are exact to the bit.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from driftline.schemas.results import Guarantee

if TYPE_CHECKING:
    from driftline.detectors.seasons import Season

Floats: TypeAlias = NDArray[np.float64]
Slots: TypeAlias = NDArray[np.intp]
State: TypeAlias = Mapping[str, Any]  # arrays and plain values, for `driftline.detectors.state.pack`


@dataclass(frozen=True)
class TickBatch:
    """The units of evidence that one tick closes, for all streams of one detector, in canonical order
    (event time, then key).

    slot: [n] the stream of each unit.
    value: [n], or [n, d] for vectors. NaN, vectors of the wrong length or zero norm, and whatever else a detector calls
        invalid are counted, never dropped silently.
    session: [n] a number that is equal for events of one session; -1: no session known. Only detectors that take
        every event of a session (tscan) read it.
    began: [n] the tick of each unit's first event, where that is not the one that closes it; None: all in this one.
    """

    slot: Slots
    value: Floats
    session: NDArray[np.int64]
    began: NDArray[np.int64] | None = None

    def first(self, slots: Slots, tick: int) -> NDArray[np.int64] | None:
        """Of each of these slots the tick of the first event of its units, which `tick` closes."""
        if self.began is None:
            return None
        first = np.full(int(self.slot.max()) + 1, tick)
        np.minimum.at(first, self.slot, self.began)
        chosen: NDArray[np.int64] = first[slots]
        return chosen


@dataclass(frozen=True)
class Transitions:
    fired: list[int]  # slots that began to alarm in this tick
    recovered: list[int]  # slots whose incident ended in this tick


@dataclass(frozen=True)
class Insufficient:
    """Why no baseline can be made of a reference, and what it lacks."""

    note: str
    have: int
    need: int


class Baseline(Protocol):
    """Frozen facts about the reference, a msgspec Struct; `id` is a hash of them."""

    @property
    def id(self) -> str: ...

    @property
    def n(self) -> int:
        """Units in the reference."""

    @property
    def guarantee(self) -> Guarantee: ...


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """What one slot knows now, in the stream's own unit; becomes `Evidence` and `Alert`."""

    log_e: float | None = None
    log_p: float | None = None
    threshold: float
    part: str = ""  # what of the stream the numbers are about: the category that moved
    value: float | None = None
    baseline: float | None = None
    effect: float | None = None  # value relative to baseline
    effect_low: float | None = None
    effect_high: float | None = None
    n_events: int = 0
    n_units: int = 0
    n_not_scored: int = 0
    guarantee: Guarantee
    since_tick: int | None = None  # index of the tick in which the change began, while in alarm
    note: str = ""


class Reference(Protocol):
    """Accumulates units of healthy traffic for one baseline."""

    @property
    def n(self) -> int:
        """Valid units so far."""

    @property
    def nbytes(self) -> int:
        """Of the snapshot, about; a function of the state alone."""

    def add(self, value: Floats, session: NDArray[np.int64]) -> None:
        """Units in canonical order; same shapes as in a TickBatch."""

    def snapshot(self) -> State: ...


B = TypeVar("B", bound=Baseline)
R = TypeVar("R", bound=Reference)


class Detector(Protocol[R, B]):
    name: str
    baseline_type: type[B]  # a msgspec Struct

    def reference(self, state: State | None = None) -> R:
        """A new reference, or one restored from its snapshot."""

    def fit(self, reference: R) -> B | Insufficient:
        """Pure and deterministic."""

    def season(self, baseline: B, state: State | None = None) -> "Season | None":
        """What learns how the hours of the day and week differ, in traffic that is held against this baseline; restored
        from its snapshot if there is one. None: this detector knows no hours."""

    def seasoned(self, baseline: B, season: "Season") -> B:
        """The baseline with what is known of the hours."""

    def carried(self, baseline: B, before: B) -> B:
        """A new baseline with the hours of the one before it, as far as that one knew them: by how much they differ
        from each other."""

    def open(self, baseline: B, slot: int | None = None) -> int:
        """A stream's slot: a new one (0, 1, 2, …), or `slot` used again, with nothing left of the stream before."""

    def update(self, batch: TickBatch, tick: int) -> Transitions:
        """Step every slot to tick number `tick` (> the last one; ticks between were empty for all slots). Empty batches
        are fine: silence is no evidence, it only lets incidents reach their longest duration."""

    def reset(self, slot: int) -> None:
        """Forget evidence and incident of a slot (its release is gone, or its baseline was replaced)."""

    def measure(self, slot: int) -> Measurement: ...

    def baseline(self, slot: int) -> B: ...

    def slot_bytes(self, baseline: B) -> int:
        """What a stream that is held against this baseline may cost in the snapshot, its baseline included."""

    def snapshot(self) -> State: ...

    def restore(self, state: State) -> None: ...

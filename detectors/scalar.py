"""What detectors of scalar units share: references that keep a sample, slots, counts, the step through the engine."""

from abc import ABC, abstractmethod
from hashlib import blake2b
from typing import Any, Generic, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from driftline.detectors.base import Floats, Insufficient, Measurement, Slots, State, TickBatch, Transitions
from driftline.detectors.columns import Columns
from driftline.detectors.config import BudgetConfig, RecoveryConfig
from driftline.detectors.engine import Engine, Run
from driftline.detectors.seasons import Season
from driftline.detectors.tempering import BLOCK_S, MIN_BLOCKS, Blocks, note
from driftline.detectors.units import NO_SESSION
from driftline.schemas.results import Guarantee

MAX_SAMPLE = 50_000  # of a reference, kept exactly; beyond, every second one, then every fourth, …
HORIZON = 1000  # units within which a change that is called detectable is found
_RECENT = 512  # half-life, in units, of what is shown while nothing is wrong


class SampleReference:
    """A reference of scalar units: exact up to 50,000 of them, evenly thinned beyond."""

    def __init__(
        self, low: float, high: float, state: State | None = None, limit: int = MAX_SAMPLE, block_ticks: int = 60
    ) -> None:
        """Units outside [low, high] and NaN are invalid. `limit`: of the sample, instead of 50,000. `block_ticks`: as
        many as a block of events without sessions lasts."""
        self._low, self._high, self._limit = low, high, limit
        self._sample: list[float] = []
        self._stride = 1
        self._n = 0
        self.invalid = 0
        self.without_session = 0
        self.sums = np.zeros(2)  # of the finite units and of their squares
        self.blocks = Blocks(block_ticks, state["blocks"] if state else None)
        if state is not None:
            self._sample = state["sample"].tolist()
            self._stride, self._n = state["stride"], state["n"]
            self.invalid, self.without_session = state["invalid"], state["without_session"]
            self.sums = state["sums"].copy()

    @property
    def n(self) -> int:
        return self._n

    @property
    def nbytes(self) -> int:
        return 8 * len(self._sample) + self.blocks.nbytes + 100

    @property
    def guarantee(self) -> Guarantee:
        return "none" if self.without_session else "stated"

    def add(self, value: Floats, session: NDArray[np.int64]) -> None:
        valid = (value >= self._low) & (value <= self._high)
        taken = value[valid]
        self.invalid += len(value) - len(taken)
        self.without_session += int((session[valid] == NO_SESSION).sum())
        finite = taken[np.isfinite(taken)]
        self.sums += (finite.sum(), (finite * finite).sum())
        self._sample += taken[-self._n % self._stride :: self._stride].tolist()
        self._n += len(taken)
        while len(self._sample) > self._limit:
            self._thin()
        if self.without_session:
            self.blocks.add(taken)

    def _thin(self) -> None:
        self._sample = self._sample[::2]
        self._stride *= 2

    def sorted(self) -> Floats:
        return np.sort(np.array(self._sample))

    def unsettled(self) -> Insufficient | None:
        """Too little time has passed to see how units without a session depend on each other."""
        blocks = len(self.blocks)
        if not self.without_session or blocks >= MIN_BLOCKS:
            return None
        need = max(self._n + 1, self._n * MIN_BLOCKS // max(1, blocks))
        text = "too few minutes to see how requests without a session id depend on each other; sessions need fewer"
        return Insufficient(text, self._n, need)

    def digest(self) -> str:
        """A hash of what was seen."""
        counts = f"{self._n},{self.invalid},{self.blocks.deff().tolist()}"
        return blake2b(self.sorted().tobytes() + counts.encode(), digest_size=16).hexdigest()

    def snapshot(self) -> State:
        return {
            "sample": np.array(self._sample),
            "stride": self._stride,
            "n": self._n,
            "invalid": self.invalid,
            "without_session": self.without_session,
            "sums": self.sums.copy(),
            "blocks": self.blocks.snapshot(),
        }


class ScalarBaseline(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    n: int  # units in the reference
    guarantee: Guarantee
    deff: float = 1.0  # logs of factors are divided by it: units without a session depend on each other


B = TypeVar("B", bound=ScalarBaseline)


class Opened(Generic[B]):
    """The baseline of each slot; equal ones are stored once."""

    def __init__(self, type_: type[B]) -> None:
        self._type = type_
        self._slots: list[B] = []

    def __getitem__(self, slot: int) -> B:
        return self._slots[slot]

    def __iter__(self) -> Any:
        return iter(self._slots)

    def put(self, slot: int, baseline: B) -> None:
        if slot == len(self._slots):
            self._slots.append(baseline)
        else:
            self._slots[slot] = baseline

    def snapshot(self) -> State:
        known = {baseline.id: msgspec.structs.asdict(baseline) for baseline in self._slots}
        return {"known": known, "slots": [baseline.id for baseline in self._slots]}

    def restore(self, state: State) -> None:
        known = {key: self._type(**fields) for key, fields in state["known"].items()}
        self._slots = [known[key] for key in state["slots"]]


class ScalarDetector(ABC, Generic[B]):
    """A bank of e-detectors on scalar units. Subclasses say which units are valid, what their statistic is, and the
    logs of its factors."""

    _low = 0.0
    _high = np.inf

    def __init__(
        self,
        name: str,
        baseline: type[B],
        bets: int,
        recovery_bets: int,
        budget: BudgetConfig,
        recovery: RecoveryConfig,
    ) -> None:
        self.name = name
        self.baseline_type = baseline
        self._budget = budget
        self._engine = Engine(bets, recovery_bets, budget, recovery)
        self._baselines: Opened[B] = Opened(baseline)
        self._counts = Columns(
            units=((), np.int64, 0),
            invalid=((), np.int64, 0),
            without_session=((), np.int64, 0),
            recent=((2,), np.float64, 0),  # decayed: units, sum of the statistic
        )

    @abstractmethod
    def fit(self, reference: SampleReference) -> B | Insufficient: ...

    @abstractmethod
    def _statistic(self, slot: Slots, value: Floats) -> Floats:
        """Of valid units."""

    @abstractmethod
    def _logs(self, slots: Slots, index: Slots, x: Floats, units: NDArray[np.int64]) -> tuple[Floats, Floats]:
        """Logs of the factors of alarm and recovery, [k, bets] each, for `slots`. x: [n] statistics, unit i belongs
        to slots[index[i]]; units: [k] their numbers."""

    @abstractmethod
    def _shown(self, slot: int, mean: float, run: Run | None) -> dict[str, Any]:
        """Value, baseline, effect and its interval for a mean of the statistic."""

    def _seen(self, slot: Slots, x: Floats) -> Floats:
        """What is shown of the statistics of valid units: its mean becomes the value."""
        return x

    def _configure(self, slot: int, baseline: B) -> None:
        """Prepare what is derived from a slot's baseline."""

    def reference(self, state: State | None = None) -> SampleReference:
        return SampleReference(self._low, self._high, state, block_ticks=self._budget.ticks(BLOCK_S))

    def slot_bytes(self, baseline: B) -> int:
        return self._engine.row_bytes + self._counts.row_bytes + 40

    def season(self, baseline: B, state: State | None = None) -> Season | None:
        return None

    def seasoned(self, baseline: B, season: Season) -> B:
        raise NotImplementedError(f"{self.name} knows no hours")

    def carried(self, baseline: B, before: B) -> B:
        return baseline

    def open(self, baseline: B, slot: int | None = None) -> int:
        slot = self._engine.open(slot)
        self._counts.claim(None if slot == len(self._counts) else slot)
        self._baselines.put(slot, baseline)
        self._configure(slot, baseline)
        return slot

    def update(self, batch: TickBatch, tick: int) -> Transitions:
        if not len(batch.slot):
            return self._engine.idle(tick)
        valid = (batch.value >= self._low) & (batch.value <= self._high)
        slot, value, session = batch.slot, batch.value, batch.session
        if not valid.all():
            np.add.at(self._counts["invalid"], slot[~valid], 1)
            slot, value, session = slot[valid], value[valid], session[valid]
        x = self._statistic(slot, value)
        of_slot = np.bincount(slot, minlength=len(self._counts))
        slots = np.flatnonzero(of_slot)
        units = of_slot[slots]
        index = (np.cumsum(of_slot > 0) - 1)[slot]
        seen = self._seen(slot, x)
        sums: Floats = np.stack([np.bincount(index, seen, len(slots)), np.bincount(index, seen**2, len(slots))], axis=1)
        self._counts["units"][slots] += units
        np.add.at(self._counts["without_session"], slot[session == NO_SESSION], 1)
        recent = np.stack([units, sums[:, 0]], axis=1)
        self._counts["recent"][slots] = self._counts["recent"][slots] * np.exp2(-units / _RECENT)[:, None] + recent
        log_l, log_r = self._logs(slots, index, x, units)
        return self._engine.step(slots, log_l, log_r, units, sums, tick, began=batch.first(slots, tick))

    def reset(self, slot: int) -> None:
        self._engine.reset(slot)
        self._counts.clear(slot)

    def measure(self, slot: int) -> Measurement:
        run = self._engine.run(slot)
        units, total = self._counts["recent"][slot]
        mean = run.mean if run else total / units if units else None
        baseline = self._baselines[slot]
        independent = not self._counts["without_session"][slot]
        invalid = int(self._counts["invalid"][slot])
        return Measurement(
            log_e=self._engine.log_e(slot),
            threshold=self._engine.threshold,
            n_events=run.units if run else int(self._counts["units"][slot]),
            n_units=run.units if run else int(self._counts["units"][slot]),
            n_not_scored=invalid,
            guarantee=baseline.guarantee if independent else "none",
            since_tick=run.since_tick if run else None,
            note=" ".join(
                filter(
                    None,
                    [self._note(baseline), note(baseline.deff), f"{invalid} invalid units." if invalid else ""],
                )
            ),
            **({} if mean is None else self._shown(slot, float(mean), run)),
        )

    def _note(self, baseline: B) -> str:
        return ""

    def baseline(self, slot: int) -> B:
        return self._baselines[slot]

    def snapshot(self) -> State:
        return {
            "engine": self._engine.snapshot(),
            "counts": self._counts.snapshot(),
            "baselines": self._baselines.snapshot(),
        }

    def restore(self, state: State) -> None:
        self._engine.restore(state["engine"])
        self._counts.restore(state["counts"])
        self._baselines.restore(state["baselines"])
        for slot, baseline in enumerate(self._baselines):
            self._configure(slot, baseline)


def relative(value: float, baseline: float) -> float | None:
    return value / baseline - 1 if baseline > 0 else None

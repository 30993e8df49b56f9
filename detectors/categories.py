"""Categories: finish reasons, error codes, types of query. Which became more common, rarer, or are new?

A baseline holds the shares of the reference's most common categories; all others are one more, "other". Each category
has two tests of a Bernoulli rate (see `bernoulli`): its share is above the upper confidence bound of its share in the
reference, or below the lower one, so that the uncertainty of the reference never causes an alarm. All bounds of a
baseline hold at once with 99.9 %. A category with more than half has no tests: it moves when the others do, and what
these say tells more.

Categories that the reference never had have one test together. Of n reference units, let N1 be the categories seen
once. If the next unit is exchangeable with them, e = (n + 1) / (N1 + 1) if its category is new, else 0, has a mean of
at most 1 (averaged over references: the probability of something new is the share of singletons among n + 1 units), and
so has 1 - eta + eta e. New categories also count as "other", whose test needs no such average.

A stream alarms when any of its tests does. With R tests, each starts with 1/R of the stream's e-detector,
M = L (M + 1/R), so that its expected false alarms are those of the stream's share of the budget, divided by R. Unlike
one test of their sum, each ends by itself: a stream recovers when the last of its tests has.

A test ends when it is convinced that the share has left the region in which it could alarm: null, the alternative
nearest to the reference; alternatives, the reference's own share and its bound. (Against the bound itself, a large
reference, whose bound is close, would take tens of thousands of units to recover.)

Units are categories as numbers, from `Categories.codes`: 52 bits of a digest, which a float64 holds exactly. Names are
kept beside, for people.
"""

from collections.abc import Sequence
from hashlib import blake2b
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from driftline.detectors.base import Floats, Insufficient, Measurement, Slots, State, TickBatch, Transitions
from driftline.detectors.bernoulli import ALWAYS, clopper_pearson, log_ratios, recovered_from_above, worse
from driftline.detectors.columns import Columns
from driftline.detectors.config import BudgetConfig, CategoriesConfig
from driftline.detectors.detectable import detectable_rate
from driftline.detectors.digests import digests
from driftline.detectors.engine import Engine
from driftline.detectors.scalar import HORIZON, Opened, ScalarBaseline, relative
from driftline.detectors.seasons import WEEK, Clock, Season, both, confidence, no_table
from driftline.detectors.tempering import BLOCK_S, MIN_BLOCKS, Blocks, note
from driftline.detectors.units import NO_SESSION
from driftline.schemas.ids import stable_id
from driftline.schemas.results import Guarantee

OTHER = "other"
CONFIDENCE = 0.999  # of all bounds of a baseline together
MAX_DISTINCT = 1_000  # categories of a reference; with more they are no categories, and new ones no news
CODES = float(2**52)
_POLYNOMIALS = 3  # of `Blocks.deff`
_BETS = 8
_RECENT = 512  # half-life, in units, of the shares that are shown while nothing is wrong
_RARER = 1 / np.geomspace(1.25, 20, _BETS)
ETAS = np.geomspace(0.01, 0.5, _BETS)  # shares of new categories that are soon found
_MAX_NAMES = 4_000
_LONGEST = 200  # characters of a name that count
_MAX_NEW = 16  # new categories of a stream that are told apart, for people

_BATCH = 512  # units that a season counts at once

UP, DOWN, NEW = 0, 1, 2
_NO_EVIDENCE = (np.zeros(_BETS), np.zeros(_BETS), np.zeros(3), np.zeros(3))


class CategoriesBaseline(ScalarBaseline, frozen=True, kw_only=True):
    codes: list[int]  # the most common categories, and how often each was there
    counts: list[int]
    names: list[str]
    rare: list[int]  # the other categories of the reference
    singletons: int | None  # categories seen once; None: there were too many to tell new ones
    hour_shares: Floats = msgspec.field(default_factory=no_table)  # [24 or 168, K + 1] of categories and "other"
    hour_units: Floats = msgspec.field(default_factory=no_table)  # [24 or 168, K + 1] independent units that know them

    @property
    def shares(self) -> Floats:
        """[K + 1] of categories and "other"."""
        counts = np.array([*self.counts, self.n - sum(self.counts)], np.float64)
        return counts / self.n

    def has(self, code: int) -> bool:
        """Whether the reference had it, or may have had it."""
        return self.singletons is None or code in self.codes or code in self.rare


class CategoryNames:
    """Names of codes. Of too many, only the newer half is kept: a category that comes again is named again."""

    def __init__(self) -> None:
        self._codes: dict[str, float] = {}
        self._names: dict[int, str] = {}

    def codes(self, names: Sequence[str]) -> Floats:
        known = self._codes
        try:
            return np.array([known[name] for name in names], np.float64)
        except KeyError:
            names = [name[:_LONGEST] for name in names]
        distinct = dict.fromkeys(names)
        if not known.keys() >= distinct.keys():
            if len(known) + len(distinct) > _MAX_NAMES:
                for name in list(known)[: -_MAX_NAMES // 2]:
                    del self._names[int(known.pop(name))]
            self._add(list(distinct))
        return np.array([known[name] for name in names], np.float64)

    def _add(self, names: list[str]) -> None:
        for name, code in zip(names, (digests(names) >> np.uint64(12)).astype(np.float64).tolist(), strict=True):
            self._codes[name] = code
            self._names[int(code)] = name

    def name(self, code: int) -> str:
        return self._names.get(code, f"{code:013x}")

    def snapshot(self) -> State:
        return {"names": list(self._codes)}

    def restore(self, state: State) -> None:
        self._codes, self._names = {}, {}
        self._add(state["names"])


class CategoryReference:
    """How often each category was there."""

    def __init__(self, names: CategoryNames, block_ticks: int, state: State | None = None) -> None:
        self.names = names
        self.blocks = Blocks(block_ticks, state["blocks"] if state else None)  # of events without sessions
        self.counts: dict[int, int] = dict(state["counts"]) if state else {}
        self.n: int = state["n"] if state else 0
        self.uncounted: int = state["uncounted"] if state else 0  # units of categories beyond the most
        self.invalid: int = state["invalid"] if state else 0
        self.without_session: int = state["without_session"] if state else 0

    @property
    def guarantee(self) -> Guarantee:
        return "none" if self.without_session else "stated"

    def add(self, value: Floats, session: NDArray[np.int64]) -> None:
        valid = _valid(value)
        self.n += int(valid.sum())
        self.invalid += len(value) - int(valid.sum())
        self.without_session += int((session[valid] == NO_SESSION).sum())
        if self.without_session:
            self.blocks.add(value[valid])
        codes, counts = np.unique(value[valid].astype(np.int64), return_counts=True)
        for code, count in zip(codes.tolist(), counts.tolist(), strict=True):
            if code in self.counts or len(self.counts) < MAX_DISTINCT:
                self.counts[code] = self.counts.get(code, 0) + count
            else:
                self.uncounted += count

    @property
    def deff(self) -> float:
        """How much less evidence there is in events without sessions, which depend on each other: the most that
        polynomials of the codes show. A code is an arbitrary number, but the same for the same category."""
        return float(self.blocks.deff()[:_POLYNOMIALS].max())

    def digest(self) -> str:
        """A hash of what was seen."""
        seen = f"{sorted(self.counts.items())},{self.uncounted},{self.invalid},{self.deff}"
        return blake2b(seen.encode(), digest_size=16).hexdigest()

    @property
    def nbytes(self) -> int:
        return 10 * len(self.counts) + self.blocks.nbytes + 100

    def snapshot(self) -> State:
        return {
            "counts": sorted(self.counts.items()),
            "n": self.n,
            "blocks": self.blocks.snapshot(),
            "uncounted": self.uncounted,
            "invalid": self.invalid,
            "without_session": self.without_session,
        }


class Categories:
    """Alarms when the share of a category leaves that of the reference, or when there are categories that the reference
    never had. Units: first events of sessions, as numbers from `codes`."""

    baseline_type = CategoriesBaseline

    def __init__(self, name: str, config: CategoriesConfig, budget: BudgetConfig) -> None:
        self.name = name
        self._config = config
        self._budget = budget
        self._clock = Clock(budget)
        self._block_ticks = budget.ticks(BLOCK_S)
        self._names = CategoryNames()
        self._engine = Engine(_BETS, 3, budget, config.recovery)  # its slots are tests
        self._baselines: Opened[CategoriesBaseline] = Opened(CategoriesBaseline)
        self._tests: list[list[int]] = []  # of each slot
        self._category_of: list[dict[int, int]] = []  # of each slot: code -> number of the category, in its baseline
        self._new: list[dict[int, int]] = []  # of each slot: new categories, the latest last, and how often
        self._counts = Columns(
            units=((), np.int64, 0),
            invalid=((), np.int64, 0),
            without_session=((), np.int64, 0),
            recent=((), np.float64, 0),  # decayed units
            alarms=((), np.int64, 0),  # tests in alarm
            lead=((), np.int64, -1),  # the test that began the incident
        )
        self._recent = Columns(k=((), np.float64, 0))  # of each test: decayed units of its category
        self._fixed = Columns(  # of each test, from its baseline
            slot=((), np.int64, 0),
            category=((), np.int64, 0),
            direction=((), np.int64, 0),
            share=((), np.float64, 0),
            bound=((), np.float64, 0),
            weight=((), np.float64, 0),
            hit=((_BETS,), np.float64, 0),  # log of the factor of a unit of the category, and of another unit
            miss=((_BETS,), np.float64, 0),
            hit_r=((3,), np.float64, 0),
            miss_r=((3,), np.float64, 0),
        )

    def codes(self, names: Sequence[str]) -> Floats:
        """Categories as units. The names are remembered, for `measure`."""
        return self._names.codes(names)

    def slot_bytes(self, baseline: CategoriesBaseline) -> int:
        tests = 2 * (self._config.top + 2)  # two directions each, the rest, and what is new
        return tests * (self._engine.row_bytes + self._recent.row_bytes + 5) + self._counts.row_bytes + 100

    def reference(self, state: State | None = None) -> CategoryReference:
        return CategoryReference(self._names, self._block_ticks, state)

    def fit(self, reference: CategoryReference) -> CategoriesBaseline | Insufficient:
        config = self._config
        if reference.n < config.min_units:
            return Insufficient("too few sessions for the shares of categories", reference.n, config.min_units)
        if reference.without_session and len(reference.blocks) < MIN_BLOCKS:
            need = max(reference.n + 1, reference.n * MIN_BLOCKS // max(1, len(reference.blocks)))
            return Insufficient("too few minutes to see how requests depend on each other", reference.n, need)
        ranked = sorted(reference.counts.items(), key=lambda item: (-item[1], item[0]))
        top, rest = ranked[: config.top], ranked[config.top :]
        return CategoriesBaseline(
            id=stable_id(self.name, config.model_dump_json(), reference.digest()),
            n=reference.n,
            guarantee=reference.guarantee,
            deff=reference.deff,
            codes=[code for code, _ in top],
            counts=[count for _, count in top],
            names=[reference.names.name(code) for code, _ in top],
            rare=sorted(code for code, _ in rest),
            singletons=None if reference.uncounted else sum(count == 1 for _, count in ranked),
        )

    def season(self, baseline: CategoriesBaseline, state: State | None = None) -> Season:
        ordered = sorted((code, number) for number, code in enumerate(baseline.codes))
        codes = np.array([*(code for code, _ in ordered), CODES])
        numbers = np.array([*(number for _, number in ordered), len(ordered)])
        other = len(ordered)

        def categories(value: Floats, session: NDArray[np.int64]) -> Floats:
            value = value[_valid(value)]
            place = codes.searchsorted(value)
            number = np.where(codes[place] == value, numbers[place], other)
            rows: Floats = np.eye(other + 1)[number]
            return rows

        return Season(categories, other + 1, self._budget, batch=_BATCH, state=state)

    def seasoned(self, baseline: CategoriesBaseline, season: Season) -> CategoriesBaseline:
        shares = baseline.shares
        hours = season.fit(shares * (1 - shares) * baseline.deff)
        return msgspec.structs.replace(
            baseline,
            id=stable_id(baseline.id, hours.digest()),
            hour_shares=hours.mean,
            hour_units=hours.units,
        )

    def carried(self, baseline: CategoriesBaseline, before: CategoriesBaseline) -> CategoriesBaseline:
        if not len(before.hour_shares):
            return baseline
        place = {code: i for i, code in enumerate(before.codes)}
        same = np.array([*(place.get(code, -1) for code in baseline.codes), len(before.codes)])
        apart = np.where(same < 0, 0.0, (before.hour_shares - before.hour_shares.mean(0))[:, same])
        return msgspec.structs.replace(
            baseline,
            id=stable_id(baseline.id, before.id),
            hour_shares=np.clip(baseline.shares + apart, 0, 1),
            hour_units=both(np.where(same < 0, np.inf, before.hour_units[:, same]), baseline.n / baseline.deff),
        )

    def open(self, baseline: CategoriesBaseline, slot: int | None = None) -> int:
        if slot is None:
            slot = len(self._tests)
            self._tests.append([])
            self._category_of.append({})
            self._new.append({})
            self._counts.claim(None)
        else:
            self._counts.claim(slot)
            for test in self._tests[slot]:
                self._engine.reset(test)
        self._tests[slot] = []
        self._new[slot] = {}
        self._baselines.put(slot, baseline)
        tests = _tests(baseline)
        free = self._free()
        for i in range(len(tests)):
            test = self._engine.open(free[i] if i < len(free) else None)
            self._recent.claim(test if i < len(free) else None)
            self._tests[slot].append(test)
        self._configure(slot, baseline)
        return slot

    def _free(self) -> list[int]:
        """Tests that no slot uses any more."""
        if sum(map(len, self._tests)) == len(self._recent):
            return []
        used = {test for tests in self._tests for test in tests}
        return [test for test in range(len(self._recent)) if test not in used]

    def _configure(self, slot: int, baseline: CategoriesBaseline) -> None:
        other = len(baseline.codes)
        self._category_of[slot] = {code: i for i, code in enumerate(baseline.codes)} | dict.fromkeys(
            baseline.rare, other
        )
        self._hold(slot, baseline)

    def _hold(self, slot: int, baseline: CategoriesBaseline) -> None:
        """A slot's tests against the shares of the hour."""
        hours = len(baseline.hour_shares)
        tests = _tests(baseline, self._clock.hour % hours if hours else None)
        f = self._fixed
        for row, test in zip(self._tests[slot], tests, strict=True):
            while len(f) <= row:
                f.claim(None)
            f["slot"][row], f["weight"][row] = slot, 1 / len(tests)
            f["category"][row], f["direction"][row] = test.category, test.direction
            f["share"][row], f["bound"][row] = test.share, test.bound
            f["hit"][row], f["miss"][row], f["hit_r"][row], f["miss_r"][row] = (
                log / baseline.deff for log in test.factors
            )

    def update(self, batch: TickBatch, tick: int) -> Transitions:
        if self._clock.strike(tick):
            for number, baseline in enumerate(self._baselines):
                if len(baseline.hour_shares):
                    self._hold(number, baseline)
        slot, value, session = batch.slot, batch.value, batch.session
        valid = _valid(value)
        if not valid.all():
            np.add.at(self._counts["invalid"], slot[~valid], 1)
            slot, value, session = slot[valid], value[valid], session[valid]
        if not len(slot):
            return self._of_slots(self._engine.idle(tick))
        of_slot = np.bincount(slot)
        slots = np.flatnonzero(of_slot)
        units = of_slot[slots]
        self._counts["units"][slots] += units
        self._counts["recent"][slots] = self._counts["recent"][slots] * np.exp2(-units / _RECENT) + units
        np.add.at(self._counts["without_session"], slot[session == NO_SESSION], 1)
        tests, k, n = self._count(slots, units, slot, value)

        f = self._fixed
        hits, misses = k[:, None], (n - k)[:, None]
        self._recent["k"][tests] = self._recent["k"][tests] * np.exp2(-n / _RECENT) + k
        changes = self._engine.step(
            tests,
            hits * f["hit"][tests] + misses * f["miss"][tests],
            hits * f["hit_r"][tests] + misses * f["miss_r"][tests],
            n,
            np.stack([k, k], axis=1).astype(np.float64),
            tick,
            f["weight"][tests],
            batch.first(f["slot"][tests], tick),
        )
        return self._of_slots(changes)

    def _count(
        self, slots: Slots, units: NDArray[np.int64], slot: Slots, value: Floats
    ) -> tuple[Slots, NDArray[np.int64], NDArray[np.int64]]:
        """All tests of the slots that have units; and for each, how many were of its category, of how many."""
        order = np.lexsort((value, slot))
        ordered_slot, ordered = slot[order], value[order].astype(np.int64)
        changes = (ordered_slot[1:] != ordered_slot[:-1]) | (ordered[1:] != ordered[:-1])
        starts = np.concatenate([[0], np.flatnonzero(changes) + 1])
        sizes = np.diff(starts, append=len(ordered))
        places = {number: i for i, number in enumerate(slots.tolist())}
        widths = [len(self._baselines[number].codes) + 2 for number in places]  # and other, and new
        begin = np.cumsum([0, *widths])
        counts = np.zeros(int(begin[-1]), np.int64)
        rows = zip(ordered_slot[starts].tolist(), ordered[starts].tolist(), sizes.tolist(), strict=True)
        for number, code, count in rows:
            place = places[number]
            category = self._category_of[number].get(code)
            if category is None:
                category = widths[place] - 2
                counts[begin[place] + category + 1] += count
                _note(self._new[number], code, count)
            counts[begin[place] + category] += count
        tests = np.array([test for number in places for test in self._tests[number]], np.intp)
        of = np.repeat(np.arange(len(places)), [len(self._tests[number]) for number in places])
        return tests, counts[begin[of] + self._fixed["category"][tests]], units[of]

    def _of_slots(self, changes: Transitions) -> Transitions:
        """A slot is in alarm while any of its tests is."""
        if not changes.fired and not changes.recovered:
            return changes
        alarms = self._counts["alarms"]
        before = alarms > 0
        np.add.at(alarms, self._fixed["slot"][changes.fired], 1)
        np.subtract.at(alarms, self._fixed["slot"][changes.recovered], 1)
        after = alarms > 0
        fired, recovered = np.flatnonzero(after & ~before).tolist(), np.flatnonzero(before & ~after).tolist()
        for slot in fired:
            self._counts["lead"][slot] = self._strongest([t for t in changes.fired if self._fixed["slot"][t] == slot])
        for slot in recovered:
            self._new[slot].clear()
        return Transitions(fired, recovered)

    def _strongest(self, tests: Sequence[int]) -> int:
        """The test with the most evidence; what became more common says more than what became rarer."""
        direction = self._fixed["direction"]
        return max(tests, key=lambda test: (direction[test] != DOWN, self._log_e(test), -test))

    def _log_e(self, test: int) -> float:
        log_e = self._engine.log_e(test)
        return -np.inf if log_e is None else log_e

    def reset(self, slot: int) -> None:
        for test in self._tests[slot]:
            self._engine.reset(test)
        self._recent.clear(self._tests[slot])
        self._counts.clear(slot)
        self._new[slot].clear()

    def measure(self, slot: int) -> Measurement:
        """Of the test that began the slot's incident; without one, of the test with the most evidence."""
        tests = self._tests[slot]
        bad = self._engine.in_alarm()[tests]
        moved = [test for test, is_bad in zip(tests, bad.tolist(), strict=True) if is_bad]
        lead = int(self._counts["lead"][slot])
        if lead not in moved:
            lead = self._strongest(moved) if moved else max(tests, key=self._log_e)
        baseline, run = self._baselines[slot], self._engine.run(lead)
        invalid = int(self._counts["invalid"][slot])
        share, was = self._share(slot, lead), float(self._fixed["share"][lead])
        notes = [self._said(slot, test) for test in moved]
        if not moved and share is not None:
            notes = [f"Nearest to an alarm: {self._said(slot, lead)}{self._detectable(slot, lead)}"]
        if baseline.deff > 1:
            notes.append(note(baseline.deff))
        if unknown := confidence(len(baseline.hour_shares), WEEK):
            notes.append(unknown)
        if invalid:
            notes.append(f"{invalid} invalid units.")
        units = run.units if run else int(self._counts["units"][slot])
        low, high = clopper_pearson(run.sums[0], run.units, 0.025) if run else (None, None)
        return Measurement(
            log_e=self._engine.log_e(lead),
            threshold=self._engine.threshold,
            part=self._name(slot, lead),
            value=share,
            baseline=None if share is None else was,
            effect=None if share is None else relative(share, was),
            effect_low=None if low is None else relative(low, was),
            effect_high=None if high is None else relative(high, was),
            n_events=units,
            n_units=units,
            n_not_scored=invalid,
            guarantee=baseline.guarantee if not self._counts["without_session"][slot] else "none",
            since_tick=run.since_tick if run else None,
            note=" ".join(notes),
        )

    def _share(self, slot: int, test: int) -> float | None:
        """Of a test's category now: since the change began, or lately."""
        if run := self._engine.run(test):
            return run.mean
        recent = self._counts["recent"][slot]
        return float(self._recent["k"][test] / recent) if recent else None

    def _said(self, slot: int, test: int) -> str:
        f = self._fixed
        share, name = f"{self._share(slot, test):.2%}", self._name(slot, test)
        if f["direction"][test] == NEW:
            return f"New: {name} ({share})."
        way = "up" if f["direction"][test] == UP else "down"
        return f"“{name}” {way} to {share}, was {f['share'][test]:.2%}."

    def _detectable(self, slot: int, test: int) -> str:
        if self._fixed["direction"][test] != UP:
            return ""
        units = max(1, round(HORIZON / self._baselines[slot].deff))
        rate = detectable_rate(float(self._fixed["bound"][test]), units, self._budget)
        return "" if rate is None else f" Detectable within {HORIZON} sessions: {rate:.2%}."

    def _name(self, slot: int, test: int) -> str:
        baseline = self._baselines[slot]
        category = int(self._fixed["category"][test])
        if category < len(baseline.names):
            return baseline.names[category]
        new = sorted(self._new[slot].items(), key=lambda item: (-item[1], item[0]))
        if self._fixed["direction"][test] == NEW and new:
            return ", ".join(self._names.name(code) for code, _ in new[:3])
        return OTHER

    def baseline(self, slot: int) -> CategoriesBaseline:
        return self._baselines[slot]

    def snapshot(self) -> State:
        return {
            "names": self._names.snapshot(),
            "engine": self._engine.snapshot(),
            "hour": self._clock.hour,
            "baselines": self._baselines.snapshot(),
            "tests": [list(tests) for tests in self._tests],
            "new": [list(new.items()) for new in self._new],
            "counts": self._counts.snapshot(),
            "recent": self._recent.snapshot(),
        }

    def restore(self, state: State) -> None:
        self._names.restore(state["names"])
        self._engine.restore(state["engine"])
        self._clock.hour = state["hour"]
        self._baselines.restore(state["baselines"])
        self._tests = [list(tests) for tests in state["tests"]]
        self._new = [dict(new) for new in state["new"]]
        self._counts.restore(state["counts"])
        self._recent.restore(state["recent"])
        self._category_of = [{} for _ in self._tests]
        for slot, baseline in enumerate(self._baselines):
            self._configure(slot, baseline)


class _Test(NamedTuple):
    category: int  # its number in the baseline; then other, then new
    direction: int
    share: float  # in the reference
    bound: float  # of the share, which is no alarm yet
    factors: tuple[Floats, Floats, Floats, Floats]  # logs: hit and miss for alarm, hit and miss for recovery


def _tests(baseline: CategoriesBaseline, hour: int | None = None) -> list[_Test]:
    """In an hour or at any time: the same tests, against other shares."""
    n = baseline.n
    shares = baseline.shares
    now, units = shares, np.full(len(shares), n / baseline.deff)
    if hour is not None:
        units = baseline.hour_units[hour]
        now = np.clip(baseline.hour_shares[hour], 0.5 / np.maximum(units, 1), 1 - 0.5 / np.maximum(units, 1))
    tail = (1 - CONFIDENCE) / (2 * len(shares))
    tests = []
    for category, share in enumerate(shares.tolist()):
        if share > 0.5:
            continue
        at, known = float(now[category]), float(units[category])
        low, high = clopper_pearson(at * known, known, tail)
        high = min(high, ALWAYS)
        tests.append(_Test(category, UP, at, high, (*log_ratios(high, worse(high)), *recovered_from_above(high, at))))
        if clopper_pearson(share * n / baseline.deff, n / baseline.deff, tail)[0] > 0:
            back = np.array([low, (low + at) / 2, at])
            factors = (*log_ratios(low, low * _RARER), *log_ratios(low * _RARER[0], back)) if low > 0 else _NO_EVIDENCE
            tests.append(_Test(category, DOWN, at, low, factors))
    if baseline.singletons is not None:
        e = (n + 1) / (baseline.singletons + 1)
        still = max(ETAS[0], min(0.9, 3 / e))
        back = min(1 / e, still / 2) * np.array([1, 1 / 2, 1 / 6])
        new = (np.log1p(ETAS * (e - 1)), np.log1p(-ETAS))
        tests.append(_Test(len(shares), NEW, 0.0, 0.0, (*new, *log_ratios(still, back))))
    return tests


def _note(new: dict[int, int], code: int, count: int) -> None:
    new[code] = new.pop(code, 0) + count
    if len(new) > _MAX_NEW:
        del new[next(iter(new))]


def _valid(value: Floats) -> NDArray[np.bool_]:
    valid: NDArray[np.bool_] = (value >= 0) & (value < CODES) & (value == np.floor(value))
    return valid

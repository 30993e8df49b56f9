"""Whether a detector can work with a baseline that came from outside: its numbers are such as a reference can have, and
a trial with traffic of all kinds brings neither an error nor a number that is none."""

import math
from collections.abc import Iterator
from functools import singledispatch
from typing import Any

import msgspec
import numpy as np

from driftline.detectors.base import Baseline, Floats, TickBatch
from driftline.detectors.bernoulli import ALWAYS, RateBaseline
from driftline.detectors.bounded_mean import MeanBaseline
from driftline.detectors.categories import CODES, CategoriesBaseline
from driftline.detectors.config import BudgetConfig
from driftline.detectors.embeddings import EmbeddingBaseline
from driftline.detectors.pit import SPAN, Pit, PitBaseline
from driftline.detectors.registry import AnyDetector
from driftline.detectors.saddlepoint import quantile
from driftline.detectors.scalar import ScalarBaseline
from driftline.detectors.seasons import DAY, WEEK
from driftline.detectors.units import NO_SESSION
from driftline.detectors.witness import WitnessBaseline

MOST = 2**53  # units, and whatever else is counted
LARGEST = 1e15  # in the unit of values
LEAST = 1e-12  # but for zero
ITEMS = 100_000  # of a list
CELLS = 2**20  # of an array
TEXT = 4_000  # characters
DIMENSIONS = 4_096  # of a vector: no embedding model in use has more
CATEGORIES = 200  # told apart, twice the most of the settings
SCALES = 32  # of embedding_drift, which has five
_UNITS = 64  # of one tick in the trial
_NUMBERS = 2**15  # in the vectors of one tick in the trial, so that it is short whatever their dimension


def check(detector: AnyDetector, baseline: Baseline, budget: BudgetConfig) -> None:
    """`detector` is one of its own, for the trial.

    :raises ValueError: it says what is wrong.
    """
    for name, value in msgspec.structs.asdict(baseline).items():  # type: ignore[arg-type]  # baselines are structs
        _check_field(name, value)
    for problem in _problems(baseline):
        raise ValueError(problem)
    if isinstance(detector, Pit) and isinstance(baseline, PitBaseline) and detector.ratio:
        _check_ratio(baseline)
    _try(detector, baseline, budget)


def dimension(baseline: Baseline) -> int:
    """Of the vectors it is held against; 0: it is of no vectors."""
    if isinstance(baseline, EmbeddingBaseline):
        return baseline.d
    return np.size(baseline.mu_1) if isinstance(baseline, WitnessBaseline) else 0


def _check_field(name: str, value: Any) -> None:
    if isinstance(value, np.ndarray):
        if value.size > CELLS:
            raise ValueError(f"{name} has {value.size} numbers")
        if not np.isfinite(value).all():
            raise ValueError(f"{name} holds what is no number")
        if (np.abs(value) > LARGEST).any():
            raise ValueError(f"{name} holds numbers beyond {LARGEST:g}")
    elif isinstance(value, list):
        if len(value) > ITEMS:
            raise ValueError(f"{name} has {len(value)} items")
        for item in value:
            _check_field(name, item)
    elif isinstance(value, str):
        if len(value) > TEXT:
            raise ValueError(f"{name} has {len(value)} characters")
    elif isinstance(value, int) and not isinstance(value, bool):
        if abs(value) > MOST:
            raise ValueError(f"{name} is beyond {MOST}")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} is {value}")


def _check_ratio(baseline: PitBaseline) -> None:
    """What is shown are logs of values, clipped about the median's."""
    if not LEAST <= baseline.center <= LARGEST or abs(baseline.typical - math.log(baseline.center)) > SPAN + 1e-6:
        raise ValueError(f"its typical value is none of a sample with the median {baseline.center:g}")


def _within(name: str, value: float, low: float, high: float) -> Iterator[str]:
    if not low <= value <= high:
        yield f"{name} is {value:g}, not within [{low:g}, {high:g}]"


def _arrays(*arrays: tuple[str, Any, tuple[int | None, ...]]) -> Iterator[str]:
    """None: any length."""
    for name, array, shape in arrays:
        if not isinstance(array, np.ndarray) or array.ndim != len(shape):
            yield f"{name} is no array of {len(shape)} dimensions"
        elif any(want is not None and want != have for want, have in zip(shape, array.shape, strict=True)):
            yield f"{name} has the shape {array.shape}, not {shape}"


def _hours(means: Any, units: Any, columns: int, units_name: str = "hour_units") -> Iterator[str]:
    yield from _arrays(("hours", means, (None, None)), (units_name, units, (None, None)))
    if len(means) and (len(means) not in (DAY, WEEK) or means.shape[1] != columns or units.shape != means.shape):
        yield f"hours are tables of {means.shape} and {units.shape}, not [{DAY} or {WEEK}, {columns}]"
    elif not len(means) and units.size:
        yield f"{units_name} are of hours that are not there"
    if (units < LEAST).any():
        yield f"{units_name} are less than none"


def _are_hours(baseline: EmbeddingBaseline | WitnessBaseline, columns: int) -> bool:
    """Whether its hours are those of a day, or not known."""
    units, apart = baseline.hour_units, baseline.hour_apart
    known = baseline.hours.shape == (DAY, columns) and len(units) == len(apart) == DAY
    return not len(baseline.hours) or bool(known and (units >= LEAST).all() and (apart >= 0).all())


@singledispatch
def _problems(baseline: Any) -> Iterator[str]:
    raise TypeError(type(baseline))


@_problems.register
def _(baseline: RateBaseline) -> Iterator[str]:
    yield from _scalar(baseline)
    yield from _within("p0", baseline.p0, 1e-9, ALWAYS)
    yield from _within("rate", baseline.rate, 0, 1)
    yield from _within("cut", baseline.cut, 0, 1e300)
    if baseline.typical:
        yield from _within("typical", baseline.typical, LEAST, LARGEST)


@_problems.register
def _(baseline: MeanBaseline) -> Iterator[str]:
    yield from _scalar(baseline)
    yield from _within("mean", baseline.mean, -LARGEST, LARGEST)
    yield from _within("limit", baseline.limit, 1e-9, 1 - 1e-9)
    yield from _within("detectable", baseline.detectable or 0, -LARGEST, LARGEST)


@_problems.register
def _(baseline: CategoriesBaseline) -> Iterator[str]:
    yield from _scalar(baseline)
    codes, counts = baseline.codes, baseline.counts
    yield from _within("categories", len(codes), 0, CATEGORIES)
    if not len(codes) == len(counts) == len(baseline.names):
        yield f"it has {len(codes)} categories, {len(counts)} counts and {len(baseline.names)} names"
    if len({*codes, *baseline.rare}) != len(codes) + len(baseline.rare):
        yield "a category is there twice"
    if not all(0 <= code < CODES for code in (*codes, *baseline.rare)):
        yield "a category has no code"
    if min(counts, default=0) < 0 or sum(counts) > baseline.n:
        yield f"its counts are not those of {baseline.n} units"
    yield from _within("singletons", baseline.singletons or 0, 0, baseline.n)
    yield from _hours(baseline.hour_shares, baseline.hour_units, len(codes) + 1)
    if (baseline.hour_shares < 0).any() or (baseline.hour_shares > 1).any():
        yield "a share is not within [0, 1]"


@_problems.register
def _(baseline: PitBaseline) -> Iterator[str]:
    yield from _scalar(baseline)
    if sorted(set(baseline.edges)) != baseline.edges or len(baseline.counts) != len(baseline.edges) + 1:
        yield "its edges do not ascend, or are not one less than its counts"
    if min(baseline.counts, default=-1) < 0 or not 0 < sum(baseline.counts) <= MOST:
        yield "its counts are not those of units"
    for deff in baseline.deffs:
        yield from _within("deffs", deff, 1, 1e6)
    if baseline.detectable is not None:
        yield from _within("detectable", baseline.detectable, -LARGEST, LARGEST)
    yield from _within("center", baseline.center, -LARGEST, LARGEST)
    yield from _within("typical", baseline.typical, -LARGEST, LARGEST)
    yield from _hours(baseline.hour_means, baseline.hour_units, len(baseline.deffs))


@_problems.register
def _(baseline: EmbeddingBaseline) -> Iterator[str]:
    features, d = baseline.mu.shape[-1] if isinstance(baseline.mu, np.ndarray) and baseline.mu.ndim else 0, baseline.d
    yield from _within("n", baseline.n, 1, MOST)
    yield from _within("d", d, 1, DIMENSIONS)
    yield from _within("features", features, 1, DIMENSIONS)
    yield from _within("bandwidth", baseline.bandwidth, 0, LARGEST)
    yield from _within("events_per_unit", baseline.events_per_unit, 1, LARGEST)
    scales = len(baseline.scales) if isinstance(baseline.scales, np.ndarray) else 0
    yield from _arrays(
        ("mu", baseline.mu, (None,)),
        ("spectrum", baseline.spectrum, (None,)),
        ("scales", baseline.scales, (None,)),
        ("log_alpha", baseline.log_alpha, (scales,)),
        ("limit", baseline.limit, (scales,)),
        ("tail", baseline.tail, (None, 3)),
        ("shares", baseline.shares, (None,)),
        ("centers", baseline.centers, (None, None)),
        ("hours", baseline.hours, (None, None)),
        ("hour_units", baseline.hour_units, (None,)),
        ("hour_apart", baseline.hour_apart, (None,)),
        ("hour_factors", baseline.hour_factors, (None, None)),
    )
    if not scales or baseline.scales.dtype.kind != "i" or (np.diff(baseline.scales, prepend=0) <= 0).any():
        yield "its scales do not ascend from 1"
    elif scales > SCALES:
        yield f"it has {scales} scales"
    elif baseline.scales[-1] > 10**6:
        yield f"its longest window has {baseline.scales[-1]} texts"
    if not 0 < len(baseline.spectrum) <= features or (baseline.spectrum < LEAST).any():
        yield "its spectrum is not positive, or longer than its mean"
    if (np.abs(baseline.mu) > 2).any() or (np.abs(baseline.hours) > 2).any():
        yield "its means are none of unit vectors"
    if (baseline.log_alpha >= 0).any() or (baseline.limit <= 0).any() or baseline.quiet <= 0:
        yield "its thresholds are none"
    for scale in range(scales):
        values = baseline.tail[baseline.tail[:, 0] == scale][:, 1:]
        if not len(values) or (np.diff(values[:, 0]) < 0).any() or (values[:, 1] > 0).any():
            yield "its tails are none"
    k = len(baseline.centers)
    if k and (baseline.centers.shape[1] != d or (np.abs(baseline.centers) > 2).any()):
        yield "its topics are none of such texts"
    if len(baseline.shares) != k + 1 and len(baseline.shares) + k:
        yield f"it has {k} topics and {len(baseline.shares)} shares"
    if (baseline.shares < 0).any() or (baseline.shares > 1).any():
        yield "a share is not within [0, 1]"
    factors = baseline.hour_factors
    wrong = len(baseline.hours) and (factors.shape != (DAY, scales) or (factors < 1).any())
    if wrong or not _are_hours(baseline, features):
        yield "its hours are none"


@_problems.register
def _(baseline: WitnessBaseline) -> Iterator[str]:
    d = len(baseline.mu_1) if isinstance(baseline.mu_1, np.ndarray) and baseline.mu_1.ndim else 0
    r = len(baseline.variances) if isinstance(baseline.variances, np.ndarray) and baseline.variances.ndim else 0
    yield from _within("n", baseline.n, 1, MOST)
    yield from _within("units", baseline.units, 1, baseline.n)
    yield from _within("d", d, 1, DIMENSIONS)
    yield from _within("directions", r, 0, d)
    yield from _arrays(
        ("mu_1", baseline.mu_1, (d,)),
        ("mu_2", baseline.mu_2, (d,)),
        ("directions", baseline.directions, (r, d)),
        ("variances", baseline.variances, (r,)),
        ("hours", baseline.hours, (None, None)),
        ("hour_units", baseline.hour_units, (None,)),
        ("hour_apart", baseline.hour_apart, (None,)),
    )
    means = (baseline.mu_1, baseline.mu_2, baseline.directions, baseline.hours)
    if not d or any((np.abs(mean) > 2).any() for mean in means):
        yield "its means are none of unit vectors"
    for name, value in (("rest", baseline.rest), ("spread", baseline.spread)):
        yield from _within(name, value, 0, 4)
    if (baseline.variances < 0).any() or (baseline.variances > 4).any():
        yield "its variances are none of unit vectors"
    if not _are_hours(baseline, d):
        yield "its hours are none"


def _scalar(baseline: ScalarBaseline) -> Iterator[str]:
    yield from _within("n", baseline.n, 1, MOST)
    yield from _within("deff", baseline.deff, 1, 1e6)


def _try(detector: AnyDetector, baseline: Baseline, budget: BudgetConfig) -> None:
    """Each hour of a week: units of all kinds that there are, healthy ones and bad ones."""
    rng = np.random.default_rng(0)
    hour_ticks = budget.ticks(3600)
    with np.errstate(over="raise", invalid="raise", divide="ignore"):
        slot = detector.open(baseline)
        _check_measured(detector, slot)
        # The hours of embeddings take seconds, for hundreds of quantiles of such laws.
        season = detector.season(baseline) if not isinstance(baseline, EmbeddingBaseline) else None
        if isinstance(baseline, EmbeddingBaseline):
            for level in baseline.log_alpha.tolist():
                if not 0 < quantile(level, baseline.spectrum) < LARGEST:
                    raise ValueError("its spectrum has no quantiles")
        for hour in range(WEEK):
            value = _traffic(baseline, rng, hour)
            session = np.where(np.arange(len(value)) % 7 == 6, NO_SESSION, np.arange(len(value)) + hour * len(value))
            detector.update(TickBatch(np.full(len(value), slot, np.intp), value, session), hour * hour_ticks)
            _check_measured(detector, slot)
            if season is not None:
                season.add(value, session, hour * hour_ticks)
        if season is not None:
            detector.open(detector.carried(baseline, detector.seasoned(baseline, season)), slot)
        detector.restore(detector.snapshot())
        _check_measured(detector, slot)


def _traffic(baseline: Baseline, rng: np.random.Generator, hour: int) -> Floats:
    """All of one kind for some hours, so that detectors come to alarm and recover, then of another."""
    kind = hour // 12 % 4
    if isinstance(baseline, EmbeddingBaseline | WitnessBaseline):
        d = dimension(baseline)
        vectors = rng.normal(size=(min(_UNITS, _NUMBERS // d), d)) + (0, 1, -1, 0)[kind]
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    if isinstance(baseline, CategoriesBaseline):
        codes = [*baseline.codes[:8], *baseline.rare[:8], 1, 2, 3]
        return np.array(codes, np.float64)[rng.integers(0, (len(codes), 1, len(codes), 2)[kind], _UNITS)]
    low, high = ((0.0, 1.0), (0.0, 1e12), (0.9, 1.0), (-1.0, 0.1))[kind]
    return rng.uniform(low, high, _UNITS)


def _check_measured(detector: AnyDetector, slot: int) -> None:
    for name, value in msgspec.structs.asdict(detector.measure(slot)).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"with some traffic its {name} is {value}")

"""A baseline from outside is refused, or a detector works with it: whatever its numbers are."""

import math
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from driftline.detectors import soundness
from driftline.detectors.baselines import dump, load
from driftline.detectors.registry import FACTORIES
from driftline.detectors.state import pack
from tests.detectors.test_conformance import KINDS, D, batch, config, make, ready

HOURS = 3600
NUMBERS: list[Any] = [
    *(0, -1, 1, 2, 2**31, 2**53, 2**63 - 1, -(2**63)),
    *(math.nan, math.inf, -math.inf, 1e308, -1e308, 5e-324, -5e-324, 2.2e-308, 1e-300, 1e300, 1e16, -1e16, 709.0, 1e-9),
    *(0.5, 0.999999999, 1.0, 1 - 1e-16, 1 + 1e-16, -0.0, 1e4),
]
SCALES = [0.0, -1.0, 1e-3, 0.5, 2.0, 1e3, 1e100, 1e-100, 1e-320]


@st.composite
def mutated(draw: st.DrawFn, fields: dict[str, Any]) -> dict[str, Any]:
    """One to three fields changed: another number, length, shape or type."""
    changed = dict(fields)
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from(sorted(fields)))
        changed[name] = draw(spoilt(changed[name]))
    return changed


@st.composite
def spoilt(draw: st.DrawFn, value: Any) -> Any:
    if isinstance(value, np.ndarray):
        kind = draw(st.sampled_from(["item", "scale", "cut", "longer", "flat", "empty", "list", "order"]))
        array: Any = value.copy()
        if kind == "item" and array.size:
            number = draw(st.sampled_from(NUMBERS))
            place = draw(st.integers(0, array.size - 1))
            with np.errstate(all="ignore"):
                array = array if array.dtype.kind == "f" or math.isfinite(number) else array.astype(np.float64)
                if array.dtype.kind == "i":
                    number = int(max(min(number, 2**62), -(2**62)))
                array.flat[place] = number
        elif kind == "scale":
            with np.errstate(all="ignore"):
                array = array * draw(st.sampled_from(SCALES))
        elif kind == "order":
            array = array[::-1].copy()
        else:
            shapes = {"cut": array[:-1], "longer": np.concatenate([array, array]), "flat": array.reshape(-1)}
            array = shapes.get(kind, array.tolist() if kind == "list" else array[:0])
        return array
    if isinstance(value, list):
        kind = draw(st.sampled_from(["item", "cut", "longer", "empty", "order", "huge"]))
        items = list(value)
        if kind == "item" and items:
            place = draw(st.integers(0, len(items) - 1))
            items[place] = draw(spoilt(items[place]))
            return items
        long = items * (200_001 // max(1, len(items)))
        return {"cut": items[:-1], "longer": items + items[:1], "order": items[::-1], "huge": long}.get(kind, [])
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return draw(st.sampled_from(["", "x" * 5_000, "none", "\n"]))
    number = draw(st.sampled_from(NUMBERS))
    if value is None or draw(st.integers(0, 9)) == 0:
        return draw(st.sampled_from([None, number, "1", [1.0], True]))
    if isinstance(value, int):
        return int(number) if math.isfinite(number) and abs(number) < 2**63 else number
    return float(number)


@pytest.mark.parametrize("name", FACTORIES)
@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
def test_a_baseline_is_refused_or_works(name: str, data: st.DataObject) -> None:
    fields = msgspec.structs.asdict(_hourly(name))
    changed = data.draw(mutated(fields))
    try:
        payload = pack(changed)
        baseline = load(name, config(), payload)
    except (ValueError, TypeError, OverflowError):
        return
    _bear_traffic(name, baseline)


def _bear_traffic(name: str, baseline: Any) -> None:
    detector, kind = make(name, config()), KINDS[name]
    slots = [detector.open(baseline), detector.open(baseline)]
    rng = np.random.default_rng(5)
    for tick in range(24):
        some = (kind.healthy, kind.bad)[tick // 8 % 2]
        detector.update(batch(some(rng, 60), np.arange(60) % 2), tick * HOURS)
        if tick == 12:
            detector.restore(detector.snapshot())
        for slot in slots:
            measured = msgspec.structs.asdict(detector.measure(slot))
            assert all(math.isfinite(n) for n in measured.values() if isinstance(n, float)), measured
    season = detector.season(baseline)
    if season is not None:
        for hour in range(49):
            season.add(kind.healthy(rng, 20), np.arange(20) + 20 * hour, hour * HOURS)
        detector.open(detector.carried(detector.seasoned(baseline, season), baseline), 0)
    dump(detector.baseline(0))


def _hourly(name: str) -> Any:
    """A baseline that knows its hours, where the detector does."""
    detector, kind = ready(name)
    baseline = detector.baseline(0)
    season = detector.season(baseline)
    if season is None:
        return baseline
    rng = np.random.default_rng(6)
    for hour in range(49):
        season.add(kind.healthy(rng, 40), np.arange(40) + 40 * hour, hour * HOURS)
    return detector.seasoned(baseline, season)


@pytest.mark.parametrize("name", FACTORIES)
def test_what_is_learned_is_sound(name: str) -> None:
    for baseline in (ready(name)[0].baseline(0), _hourly(name)):
        assert dump(load(name, config(), dump(baseline))) == dump(baseline)


@pytest.mark.parametrize(
    ("name", "field", "number", "reason"),
    [
        ("scalar_drift", "typical", 1e308, "typical is 1e"),
        ("scalar_drift", "typical", 800.0, "typical value is none of a sample with the median"),
        ("scalar_drift", "center", 5e-324, "typical value is none of a sample with the median"),
        ("error_rate", "p0", 0.0, "p0 is 0, not within"),
        ("error_rate", "n", -5, "n is -5, not within"),
        ("latency_p99", "typical", 1e-320, "typical is 9.99989e-321, not within"),
        ("quality", "mean", math.nan, "mean is nan"),
        ("finish_reason", "counts", [1, 2], "3 categories, 2 counts and 3 names"),
        ("finish_reason", "rare", list(range(100_001)), "rare has 100001 items"),
        ("judge_drift", "edges", [2.0, 1.0], "edges do not ascend"),
        ("embedding_drift", "mu", np.full(D, np.nan), "mu holds what is no number"),
        ("embedding_witness", "rest", 1e300, "rest is 1e"),
    ],
)
def test_the_reason_names_the_number(name: str, field: str, number: Any, reason: str) -> None:
    fields = msgspec.structs.asdict(ready(name)[0].baseline(0))
    with pytest.raises(ValueError, match=reason):
        load(name, config(), pack({**fields, field: number}))


@pytest.mark.parametrize("name", ["embedding_witness", "embedding_drift"])
def test_vectors_longer_than_any_models_are_refused_before_they_are_tried(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector, _ = ready(name)
    baseline = detector.baseline(0)
    long = np.full(soundness.DIMENSIONS + 1, 1e-3)
    changes: dict[str, Any] = {"d": len(long)}
    if name == "embedding_witness":
        changes = {"mu_1": long, "mu_2": long, "directions": np.empty((0, len(long))), "variances": np.empty(0)}
    monkeypatch.setattr(soundness, "_try", None)
    with pytest.raises(ValueError, match="d is 4097, not within"):
        soundness.check(make(name, config()), msgspec.structs.replace(baseline, **changes), config().budget)


def test_a_trial_has_as_many_numbers_whatever_their_dimension() -> None:
    baseline = ready("embedding_drift")[0].baseline(0)
    for d in (8, 384, 4_096):
        traffic = soundness._traffic(msgspec.structs.replace(baseline, d=d), np.random.default_rng(0), 0)
        assert 0 < traffic.size <= 2**15


def test_scales_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    n = soundness.SCALES + 1
    levels = {"scales": np.arange(1, n + 1), "log_alpha": np.full(n, -9.0), "limit": np.full(n, 9.0)}
    tail = np.array([[i, 1.0, -9.0] for i in range(n)])
    baseline = msgspec.structs.replace(ready("embedding_drift")[0].baseline(0), **levels, tail=tail)
    monkeypatch.setattr(soundness, "_try", None)
    with pytest.raises(ValueError, match="it has 33 scales"):
        soundness.check(make("embedding_drift", config()), baseline, config().budget)


@pytest.mark.parametrize(
    ("name", "changes", "problem"),
    [
        ("finish_reason", {"codes": list(range(201))}, "categories is 201, not within"),
        ("embedding_drift", {"mu": np.zeros(4_097)}, "features is 4097, not within"),
        ("embedding_drift", {"spectrum": np.ones(D + 1)}, "longer than its mean"),
        ("embedding_witness", {"directions": np.zeros((D + 1, D)), "variances": np.ones(D + 1)}, "directions is"),
    ],
)
def test_what_would_take_long_is_refused(name: str, changes: dict[str, Any], problem: str) -> None:
    baseline = msgspec.structs.replace(ready(name)[0].baseline(0), **changes)
    with pytest.raises(ValueError, match=problem):
        soundness.check(make(name, config()), baseline, config().budget)

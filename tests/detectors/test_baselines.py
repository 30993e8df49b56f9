"""Baselines as records, of every detector that there is."""

import msgspec
import numpy as np
import pytest

from driftline.detectors.baselines import dump, fingerprint, load, summary
from driftline.detectors.config import BudgetConfig
from driftline.detectors.registry import FACTORIES
from driftline.detectors.state import pack
from tests.detectors.test_conformance import batch, config, ready


@pytest.mark.parametrize("name", FACTORIES)
def test_a_baseline_survives_being_a_record(name: str) -> None:
    detector, kind = ready(name)
    baseline = detector.baseline(0)
    payload = dump(baseline)
    again = load(name, config(), payload)
    assert dump(again) == payload
    assert again.id == baseline.id
    assert len(payload) < 200_000
    assert all(np.isfinite(value) for value in summary(baseline).values())
    detector.open(again)
    rng = np.random.default_rng(3)
    for tick in range(20):
        detector.update(batch(kind.bad(rng, 40), np.arange(40) % 2), tick)
    detector.update(batch(np.repeat(kind.bad(rng, 40), 2, axis=0), np.arange(80) % 2), 20)
    assert type(again) is type(baseline)


def test_of_another_detector_or_damaged_is_said() -> None:
    payload = dump(ready("quality")[0].baseline(0))
    for name, data, reason in (
        ("astrology", payload, "unknown detector"),
        ("error_rate", payload, "no baseline of error_rate"),
        ("quality", payload[:-3], "no baseline of quality"),
        ("quality", b"\xc1", "no baseline of quality"),
        ("quality", pack({}), "no baseline of quality"),
        ("embedding_drift", pack({"id": "x"}), "no baseline of embedding_drift"),
    ):
        with pytest.raises(ValueError, match=reason):
            load(name, config(), data)


def test_numbers_of_another_type_are_said() -> None:
    fields = msgspec.structs.asdict(ready("quality")[0].baseline(0))
    with pytest.raises(ValueError, match=r"Expected `float`, got `str` - at `\$\.mean`"):
        load("quality", config(), pack({**fields, "mean": "high"}))


def test_the_settings_that_count_are_in_the_fingerprint() -> None:
    settings = config()
    other = settings.model_copy(update={"quality": settings.quality.model_copy(update={"high": 5.0})})
    budget = settings.model_copy(update={"budget": BudgetConfig(per_days=7)})
    assert fingerprint("quality", other) != fingerprint("quality", settings) != fingerprint("quality", budget)
    assert fingerprint("error_rate", other) == fingerprint("error_rate", settings)
    assert all(name in type(settings).model_fields for name in FACTORIES)

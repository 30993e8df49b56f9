"""One name for each thing, and numbers in the units of the events."""

import math
import re
from pathlib import Path

import pytest

from driftline.detectors.registry import FACTORIES
from driftline.streams.baselines.names import NAMES, names_of, shown, unit, values, within

README = Path(__file__).parents[3] / "README.md"


def test_readmes_table_lists_the_detectors_under_these_names() -> None:
    listed = set(re.findall(r"`(\w+)`", "\n".join(re.findall(r"^\| (`[^|]+)\|", README.read_text(), re.MULTILINE))))
    assert set(NAMES) <= listed
    assert "scalar_drift" not in NAMES


def test_each_name_belongs_to_the_detector_that_does_its_work() -> None:
    assert {within(name) for name in NAMES} == set(FACTORIES)
    assert sorted(name for detector in FACTORIES for name in names_of(detector)) == sorted(NAMES)
    assert shown("scalar_drift", "latency") == ("latency_drift", "")
    assert shown("embedding_drift", "prompt") == ("embedding_drift", "prompt")


def test_numbers_are_the_values_themselves() -> None:
    assert values("scalar_drift", {"center": 2.0, "typical": math.log(3)}) == {
        "center": 2.0,
        "typical": pytest.approx(3),
    }
    assert values("quality_pit", {"typical": -0.5}) == {"typical": -0.5}
    assert [unit("scalar_drift", c, "typical") for c in ("latency", "cost", "input_tokens")] == [" ms", " USD", ""]
    assert unit("scalar_drift", "latency", "detectable") == unit("error_rate", "", "p0") == ""

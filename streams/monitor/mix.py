"""Requests by category: what finished them, and which error they met, as units for `detectors.categories`."""

from typing import Any

import numpy as np

from driftline.detectors.base import Detector, Floats
from driftline.detectors.categories import Categories, CategoriesBaseline
from driftline.streams.monitor.columns import Traces

OK = "ok"
UNNAMED = "error"


def finish_reasons(detector: Detector[Any, Any], traces: Traces) -> Floats:
    """NaN for requests that failed, and for those that do not say."""
    told = (traces.finish_reason != "") & ~traces.failed
    value = np.full(len(told), np.nan)
    value[told] = _codes(detector, traces.finish_reason[told].tolist())
    return value


def error_types(detector: Detector[Any, Any], traces: Traces) -> Floats:
    """Of all requests: those without an error are a category too."""
    value = np.broadcast_to(_codes(detector, [OK]), len(traces.ts)).copy()
    value[traces.failed] = _codes(detector, [code or UNNAMED for code in traces.error_type[traces.failed].tolist()])
    return value


def knows(detector: Detector[Any, Any], baseline: CategoriesBaseline, name: str) -> bool:
    """Whether a category was in the reference."""
    return baseline.has(int(_codes(detector, [name])[0]))


def _codes(detector: Detector[Any, Any], names: list[str]) -> Floats:
    assert isinstance(detector, Categories)
    return detector.codes(names)

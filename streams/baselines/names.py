"""Baselines as people know them: under the names of the alerts, with numbers in the units of the events. Within, one
bank (`scalar_drift`) steps several detectors together, and knows of some numbers the logarithm."""

import math
from collections.abc import Mapping

from driftline.detectors.registry import FACTORIES
from driftline.streams.monitor import scalars
from driftline.streams.monitor.watch import Stream

_UNITS = {"latency": " ms", "ttft": " ms", "cost": " USD", "input_tokens": "", "output_tokens": ""}
_VALUES = ("center", "typical")  # of a baseline's numbers, in the unit of what is watched


def shown(detector: str, component: str) -> tuple[str, str]:
    """Detector and component, as alerts name them."""
    rule, stream = scalars.published(detector, Stream("", "", component))
    return rule, stream.component


_WITHIN = {name: name for name in FACTORIES if name != scalars.BANK}
_WITHIN |= {shown(scalars.BANK, component)[0]: scalars.BANK for component in scalars.COMPONENTS}
NAMES = tuple(_WITHIN)


def within(name: str) -> str:
    """The detector that does the work of the one so named."""
    return _WITHIN[name]


def names_of(detector: str) -> list[str]:
    """The inverse of `within`."""
    return [name for name, its in _WITHIN.items() if its == detector]


def values(detector: str, numbers: Mapping[str, float]) -> dict[str, float]:
    """A baseline's numbers: the values themselves, where it knows their logarithm."""
    log = ("typical",) if detector == scalars.BANK else ()
    return {name: math.exp(value) if name in log else value for name, value in numbers.items()}


def unit(detector: str, component: str, number: str) -> str:
    """To put behind a number of a baseline."""
    return _UNITS[component] if detector == scalars.BANK and number in _VALUES else ""

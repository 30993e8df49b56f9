"""Peers that take one number at a time (river). Runs in the peers' environment."""

from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple


class SequentialMethod(NamedTuple):
    default: float  # of the parameter that sets the false-alarm rate
    low: float  # between which it is tuned
    high: float
    make: Callable[[float], Any]
    events: int  # of null that tuning and null runs may take: some cost 150 µs an event


def _drift(name: str) -> Any:
    return getattr(import_module("river.drift"), name)


SEQUENTIAL_METHODS = {
    "ADWIN": SequentialMethod(0.002, 1e-12, 0.9, lambda delta: _drift("ADWIN")(delta=delta), 400_000),
    "Page-Hinkley": SequentialMethod(
        50.0, 1e-4, 1e7, lambda threshold: _drift("PageHinkley")(threshold=threshold), 200_000
    ),
    "KSWIN": SequentialMethod(0.005, 1e-12, 0.05, lambda alpha: _drift("KSWIN")(alpha=alpha, seed=0), 20_000),
}


def alarms(method: SequentialMethod, parameter: float, values: list[float], until: int) -> list[int]:
    """Positions at which it alarms, up to the first at or after `until`. It starts anew by itself, as river's do."""
    detector = method.make(parameter)
    found = []
    for position, value in enumerate(values):
        detector.update(value)
        if detector.drift_detected:
            found.append(position)
            if position >= until:
                break
    return found

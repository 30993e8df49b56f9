"""The numbers of requests whose distributions are watched, all by one bank of e-detectors: a tick steps them together.

Its streams are published as rules of their own: component "latency" of `scalar_drift` is the rule `latency_drift`.
"""

import numpy as np
from numpy.typing import NDArray

from driftline.detectors.base import Floats
from driftline.streams.monitor.columns import Bools, Integers, Traces
from driftline.streams.monitor.watch import Stream, Streams, Units
from driftline.streams.pricing import UNKNOWN

BANK = "scalar_drift"
COMPONENTS = ("latency", "ttft", "input_tokens", "output_tokens", "cost")
NANO = 1_000_000_000


def units(streams: Streams, traces: Traces, stream: Integers, session: Integers, learn: Bools) -> Units:
    """First events of sessions; those that lack a number are left out of its stream."""
    values = np.concatenate(
        [
            traces.latency,
            traces.ttft,
            _known(traces.input_tokens),
            _known(traces.output_tokens),
            _known(traces.nanousd) / NANO,
        ]
    )
    seen = np.flatnonzero(np.bincount(stream)).tolist()
    names = [streams.names[number] for number in seen]
    numbers = np.zeros((len(COMPONENTS), int(stream.max(initial=-1)) + 1), np.int64)
    for row, component in zip(numbers, COMPONENTS, strict=True):
        row[seen] = [streams.number(app, release, component) for app, release, _ in names]
    known = ~np.isnan(values)
    times = len(COMPONENTS)
    return Units(
        numbers[:, stream].ravel()[known], values[known], np.tile(session, times)[known], np.tile(learn, times)[known]
    )


def _known(counts: Integers | NDArray[np.int32]) -> Floats:
    return np.where(counts == UNKNOWN, np.nan, counts)


def published(rule: str, stream: Stream) -> tuple[str, Stream]:
    """Under which rule and stream something is told."""
    if rule != BANK:
        return rule, stream
    return f"{stream.component}_drift", Stream(stream.app, stream.release, "")

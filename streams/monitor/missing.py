"""Which requests lack what detectors look at, as units for `invalid_rate`: a detector that gets no values is silent,
and nobody would know."""

import numpy as np

from driftline.detectors.base import Floats
from driftline.detectors.units import SessionUnits
from driftline.streams.monitor.columns import Bools, Integers, Traces
from driftline.streams.monitor.watch import Streams, Units

COMPONENTS = ("latency", "token counts", "finish reason")


def of_requests(streams: Streams, traces: Traces, stream: Integers, session: Integers, learn: Bools) -> Units:
    """Requests that did not fail: one that did may lack everything."""
    fine = ~traces.failed
    stream, session, learn = stream[fine], session[fine], learn[fine]
    lacks = (~np.isfinite(traces.latency[fine]), ~traces.counted[fine], traces.finish_reason[fine] == "")
    different, index = np.unique(stream, return_inverse=True)
    names = [streams.names[number] for number in different.tolist()]
    numbers = [np.array([streams.number(s.app, s.release, c) for s in names], np.int64)[index] for c in COMPONENTS]
    return Units(
        np.concatenate(numbers),
        np.concatenate(lacks).astype(np.float64),
        np.tile(session, len(COMPONENTS)),
        np.tile(learn, len(COMPONENTS)),
    )


def of_scores(streams: Streams, scores: SessionUnits, learn: Bools, began: Integers, low: float, high: float) -> Units:
    """Scores outside of their range, or no numbers. `began`: the tick of each one's first event."""
    different, index = np.unique(scores.stream, return_inverse=True)
    names = [streams.names[number] for number in different.tolist()]
    numbers = np.array([streams.number(s.app, s.release, f"{s.component} score") for s in names], np.int64)
    return Units(numbers[index], _outside(scores.value, low, high), scores.session, learn, began)


def _outside(value: Floats, low: float, high: float) -> Floats:
    return (~((value >= low) & (value <= high))).astype(np.float64)

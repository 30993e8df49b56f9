import numpy as np

from driftline.detectors.units import SessionUnits
from driftline.streams.monitor import missing
from driftline.streams.monitor.columns import NO_TRACES
from driftline.streams.monitor.watch import Streams


def test_requests_that_did_not_fail_say_what_they_lack() -> None:
    streams = Streams()
    numbers = np.array([streams.number("bot", release) for release in ("v1", "v1", "v2", "v2")], np.int64)
    traces = NO_TRACES._replace(
        failed=np.array([False, False, False, True]),
        latency=np.array([100.0, np.nan, np.inf, np.nan]),
        counted=np.array([True, False, True, False]),
        finish_reason=np.array(["stop", "", "", ""], np.object_),
    )
    units = missing.of_requests(streams, traces, numbers, np.arange(4), np.array([True, True, False, True]))
    found = {
        (streams.names[n].release, streams.names[n].component, session): (value, learn)
        for n, value, session, learn in zip(
            units.stream.tolist(), units.value.tolist(), units.session.tolist(), units.learn.tolist(), strict=True
        )
    }
    assert len(found) == 9
    lacking = {key for key, (value, _) in found.items() if value == 1}
    assert lacking == {
        ("v1", "latency", 1),
        ("v2", "latency", 2),
        ("v1", "token counts", 1),
        ("v1", "finish reason", 1),
        ("v2", "finish reason", 2),
    }
    assert all(learn == (release == "v1") for (release, *_), (_, learn) in found.items())


def test_scores_outside_their_range_are_missing() -> None:
    streams = Streams()
    number = streams.number("bot", "v1", "relevance")
    value = np.array([0.5, 1.5, -0.1, np.nan, 1.0])
    closed = SessionUnits(np.full(5, number), value, np.arange(5), np.ones(5, np.int64), np.arange(5))
    units = missing.of_scores(streams, closed, np.ones(5, np.bool_), closed.opened - 1, 0.0, 1.0)
    assert units.value.tolist() == [0, 1, 1, 1, 0]
    assert units.began is not None
    assert units.began.tolist() == [-1, 0, 1, 2, 3]
    assert {streams.names[n] for n in units.stream.tolist()} == {("bot", "v1", "relevance score")}

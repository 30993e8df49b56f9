"""Limits that were reached are told, and are no problem."""

from prometheus_client import REGISTRY

from driftline.detectors.config import DetectorsConfig
from driftline.schemas.codec import encode_events
from driftline.schemas.events import Trace
from driftline.schemas.topics import Topics
from driftline.streams import caps, metrics
from driftline.streams.health import Health
from driftline.streams.monitor.config import LimitsConfig, MonitorConfig
from driftline.streams.monitor.fold import MonitorFold
from driftline.streams.pricing import Pricer
from tests.streams.monitor.log import START, FakeRecord


async def test_what_counts_under_other_is_told() -> None:
    config = MonitorConfig(limits=LimitsConfig(apps=2))
    fold = MonitorFold(config, DetectorsConfig(), Topics("p"), Pricer(), None, partition=None)
    events = [Trace(app=f"a{n}", ts=START, trace_id=f"t{n}") for n in range(5)]
    await fold.absorb([FakeRecord(0, encode_events(events))])
    place = {"consumer": "monitor", "reason": "series_overflow"}
    before = REGISTRY.get_sample_value("driftline_dropped_total", place) or 0
    metrics.dropped("monitor", fold.counters)
    health = Health("monitor", notes=caps.notes)
    [note] = [note for note in caps.notes() if "monitor.limits knows apart" in note.what]
    assert note.what.startswith(f"Since the start {before + 3:,.0f} events are counted under (other)")
    assert health.report()["healthy"]
    assert len(list(health.report()["notes"])) == len(caps.notes())  # type: ignore[call-overload]  # a list


def test_every_limit_that_is_counted_is_told() -> None:
    fold = MonitorFold(MonitorConfig(), DetectorsConfig(), Topics("p"), Pricer(), None, partition=0)
    assert {name for name in fold.counters if name.endswith(("overflow", "over_limit"))} == set(caps.CAPS)

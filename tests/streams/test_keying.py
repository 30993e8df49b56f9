"""Producers that key otherwise are told so, and nothing is wrong with them."""

from typing import Any

from driftline.detectors.config import DetectorsConfig
from driftline.schemas.clock import ManualClock
from driftline.schemas.codec import encode_event, encode_events
from driftline.schemas.events import Tick, Trace
from driftline.schemas.homes import home
from driftline.schemas.topics import Topics
from driftline.streams.health import Health
from driftline.streams.keying import ENOUGH, QUIET_S, RECENT, Keying
from driftline.streams.monitor.config import MonitorConfig
from driftline.streams.monitor.fold import monitor_fold_factory
from tests.streams.monitor.log import START, FakeRecord

TOPICS = Topics("p", homes=4)


def keying() -> tuple[Keying, ManualClock]:
    clock = ManualClock(START)
    return Keying(TOPICS, clock), clock


def test_a_share_is_told_with_an_app_and_is_no_problem() -> None:
    found, _ = keying()
    health = Health("monitor", notes=lambda: found.notes)
    found.arrived(1, 700, 200, "bot")
    assert found.notes == [], "of few events a share says nothing"
    found.arrived(1, 100, 0, "")
    report: dict[str, Any] = health.report()
    [note] = report["notes"]
    assert "such as those of bot (20% in partition 1)" in note["what"]
    assert "murmur2_random" in note["do"]
    assert report["healthy"] is True


def test_traffic_that_is_keyed_well_is_not_told_of() -> None:
    found, _ = keying()
    found.arrived(0, 10 * ENOUGH, ENOUGH // 2, "bot")
    assert found.notes == []


def test_a_corrected_producer_is_forgotten() -> None:
    found, _ = keying()
    found.arrived(0, 0, RECENT, "bot")
    assert found.notes
    for _ in range(10):
        found.arrived(0, RECENT // 2, 0, "")
    assert found.notes == []


def test_a_partition_of_another_worker_is_forgotten() -> None:
    found, clock = keying()
    found.arrived(0, 0, ENOUGH, "bot")
    clock.advance(QUIET_S + 1)
    assert found.notes == []


def test_where_no_app_is_at_home_nobody_is_blamed() -> None:
    found, _ = keying()
    found.arrived(4, 0, ENOUGH, "bot")
    assert found.notes == []


async def test_a_fold_tells_what_came_and_not_what_was_forwarded() -> None:
    told: list[tuple[int, int, int, str]] = []
    make = monitor_fold_factory(MonitorConfig(), DetectorsConfig(), TOPICS, lambda *what: told.append(what))
    at, other = home("bot", 4), (home("bot", 4) + 1) % 4
    events = encode_events([Trace(app="bot", ts=START, trace_id=str(number)) for number in range(3)])
    forwarded = await make(other, None).absorb([FakeRecord(0, events)])
    assert told.pop() == (other, 0, 3, "bot")
    tick = encode_event(TOPICS.controls.signed(Tick(ts=START), at))
    await make(at, None).absorb([FakeRecord(0, events), FakeRecord(1, forwarded[0].value), FakeRecord(2, tick)])
    assert told.pop() == (at, 3, 0, "")

"""All detectors of a partition share its places, and a new release gets the place of one that is gone."""

import numpy as np

from driftline.detectors.config import BudgetConfig, DetectorsConfig
from driftline.detectors.registry import make
from driftline.detectors.state import pack, unpack
from driftline.streams.monitor.places import Places
from driftline.streams.monitor.watch import Streams, Units, Watch

CONFIG = DetectorsConfig(budget=BudgetConfig(streams=3, idle_s=100))


class World:
    def __init__(self) -> None:
        self.streams, self.places = Streams(), Places(CONFIG.budget)
        self.errors = Watch(make("error_rate", CONFIG), self.streams, self.places)
        self.slow = Watch(make("latency_p99", CONFIG), self.streams, self.places)

    def step(self, watch: Watch, release: str, tick: int, n: int = 3000, bad: bool = False) -> None:
        number = self.streams.number("bot", release)
        units = Units(np.full(n, number), np.full(n, float(bad)), np.arange(n), np.ones(n, np.bool_))
        watch.step(units, tick)

    def watched(self, watch: Watch) -> list[str]:
        return sorted(r.stream.release for r in watch.readings() if r.measurement is not None)


def test_places_are_shared_and_those_of_silent_streams_given_away() -> None:
    world = World()
    world.step(world.errors, "v1", 0)
    world.step(world.errors, "v2", 1, 10)
    world.step(world.slow, "v1", 2)
    assert world.places.used == 3
    world.step(world.slow, "v2", 3, 10)
    world.step(world.errors, "v3", 4, 10)
    assert world.slow.over_limit == world.errors.over_limit == 1
    assert world.watched(world.errors) == ["v1", "v2"]
    world.step(world.errors, "v3", 200, 10)
    assert world.watched(world.errors) == ["v3"]
    assert world.places.used == 3
    world.step(world.errors, "v2", 201, 10)  # it is no longer watched, and nobody is silent
    assert world.watched(world.errors) == []
    assert world.errors.over_limit == 2


def test_the_source_of_a_baseline_and_an_alarm_stay() -> None:
    world = World()
    world.step(world.errors, "v1", 0)
    world.step(world.errors, "v2", 1, 100, bad=True)
    world.step(world.errors, "v3", 2, 10)
    world.step(world.errors, "v4", 1000, 10)
    assert world.watched(world.errors) == ["v1", "v2", "v4"]
    world.step(world.errors, "v5", 1001, 10)
    assert world.errors.over_limit == 1


def test_a_restored_watch_goes_on_with_its_places() -> None:
    world = World()
    world.step(world.errors, "v1", 0)
    world.step(world.errors, "v2", 1, 10)
    world.step(world.errors, "v3", 2, 10)
    state = unpack(pack(world.errors.snapshot()))
    places = Places(CONFIG.budget)
    world.errors = Watch(make("error_rate", CONFIG), world.streams, places, state)
    assert places.used == 3
    assert pack(world.errors.snapshot()) == pack(state)
    world.step(world.errors, "v4", 101, 10)
    world.step(world.errors, "v2", 102, 10)
    assert world.watched(world.errors) == ["v1", "v2", "v4"]
    assert places.used == 3

import numpy as np
import pytest

from driftline.detectors.breaker import BreakerKey, Breakers, BreakerTransition
from driftline.detectors.config import BreakerConfig
from driftline.detectors.state import pack, unpack

S = 1_000_000
KEY = BreakerKey("bot", "acme", "large")
CONFIG = BreakerConfig()


def run(
    breakers: Breakers, start: int, seconds: int, requests: int, errors: int
) -> list[tuple[int, BreakerTransition]]:
    return [
        (second, transition)
        for second in range(start, start + seconds)
        for transition in breakers.update({KEY: (requests, errors)} if requests else {}, second * S)
    ]


def opened(errors: int = 50) -> tuple[Breakers, int]:
    breakers = Breakers(CONFIG)
    changes = run(breakers, 0, 10, 100, errors)
    assert changes[0][1].state == "open"
    return breakers, changes[0][0]


def test_half_the_requests_failing_opens_in_a_second() -> None:
    breakers = Breakers(CONFIG)
    assert run(breakers, 0, 120, 100, 0) == []
    (second, change), *_ = run(breakers, 120, 5, 100, 50)
    assert second == 120
    assert change.state == "open"
    assert "failing now" in change.reason


def test_a_rate_above_the_limit_opens_after_it_has_lasted() -> None:
    breakers = Breakers(CONFIG)
    assert run(breakers, 0, 60, 20, 0) == []
    (second, change), *_ = run(breakers, 60, 60, 20, 2)  # 10 %, against a limit of 5 %
    assert 75 <= second <= 119
    assert change.errors == 2 * (second - 59)


def test_little_traffic_needs_certainty() -> None:
    breakers = Breakers(CONFIG)
    quiet = [breakers.update({KEY: (1, int(second in (3, 9)))}, second * 3 * S) for second in range(20)]
    assert not any(quiet)  # 2 of 20, the pure ratio rule would open
    breakers = Breakers(CONFIG)
    assert run(breakers, 0, 19, 1, 1)[0][1].state == "open"


def test_false_openings_are_rare() -> None:
    """At 2 % errors and 100 requests a minute the ratio rule trips in 1.5 % of the windows."""
    rng = np.random.default_rng(0)
    breakers = Breakers(CONFIG)
    openings = 0
    for second in range(0, 60_000, 2):
        changes = breakers.update({KEY: (3, int(rng.binomial(3, 0.02)))}, second * S)
        openings += sum(change.state == "open" for change in changes)
    assert openings <= 1


def test_closes_after_ninety_clean_probes() -> None:
    breakers, at = opened()
    changes = run(breakers, at + 1, 29, 100, 100)  # what still arrives while open does not count
    assert changes == []
    assert breakers.state(KEY) == "open"
    changes = run(breakers, at + 30, 200, 1, 0)
    assert [(second, change.state) for second, change in changes] == [(at + 30, "half_open"), (at + 120, "closed")]
    assert changes[1][1].requests == 90
    assert run(breakers, at + 121, 120, 100, 2) == []


def test_a_failed_probe_begins_the_row_again() -> None:
    breakers, at = opened()
    run(breakers, at + 30, 61, 1, 0)
    run(breakers, at + 91, 1, 1, 1)
    assert run(breakers, at + 92, 89, 1, 0) == []
    assert run(breakers, at + 181, 1, 1, 0)[0][1].state == "closed"


def test_failing_probes_reopen_for_twice_as_long() -> None:
    breakers, at = opened()
    half_open = [second for second, change in run(breakers, at + 1, 3000, 2, 2) if change.state == "half_open"]
    pauses = np.diff(half_open)
    assert list(pauses[:5]) == pytest.approx([60, 120, 240, 480, 600], abs=5)
    assert pauses[5] == pytest.approx(600, abs=5)


def test_pauses_end_without_traffic() -> None:
    breakers, at = opened()
    assert [change.state for _, change in run(breakers, at + 1, 60, 0, 0)] == ["half_open"]


def test_silence_neither_opens_nor_is_remembered() -> None:
    breakers = Breakers(CONFIG)
    run(breakers, 0, 5, 10, 1)
    run(breakers, 5, 20_000, 0, 0)
    assert run(breakers, 20_005, 1, 10, 2) == []
    run(breakers, 20_006, 200, 0, 0)
    assert breakers.snapshot() == {"breakers": []}


def test_keys_are_apart() -> None:
    breakers = Breakers(CONFIG)
    other = KEY._replace(model="small")
    changes = [breakers.update({KEY: (100, 50), other: (100, 0)}, second * S) for second in range(3)]
    assert [change.key for tick in changes for change in tick] == [KEY]
    assert breakers.state(other) == "closed"


def test_goes_on_from_a_snapshot() -> None:
    rng = np.random.default_rng(0)
    breakers = Breakers(CONFIG)
    for second in range(3000):
        restored = Breakers(CONFIG)
        restored.restore(unpack(pack(breakers.snapshot())))
        rate = 0.3 if second // 400 % 2 else 0.01
        counts = {KEY: (5, int(rng.binomial(5, rate)))} if second % 3 else {}
        assert breakers.update(counts, second * S) == restored.update(counts, second * S)
        assert pack(breakers.snapshot()) == pack(restored.snapshot())

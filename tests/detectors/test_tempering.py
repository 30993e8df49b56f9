import numpy as np
import pytest

from driftline.detectors.base import Floats
from driftline.detectors.state import pack, unpack
from driftline.detectors.tempering import LOCATION, P99, Blocks, note


def fed(values: Floats, tick: int = 20, span: int = 5) -> Blocks:
    blocks = Blocks(span)
    for part in np.split(values, np.arange(tick, len(values), tick)):
        blocks.add(part)
    return blocks


def test_independent_values_are_worth_what_they_are() -> None:
    deff = fed(np.random.default_rng(0).lognormal(size=60_000)).deff()
    assert (deff >= 1).all()
    assert (deff < 1.3).all()


@pytest.mark.parametrize("run", [4, 16])
def test_runs_of_equal_values_are_worth_one(run: int) -> None:
    deff = fed(np.repeat(np.random.default_rng(0).lognormal(size=120_000 // run), run)).deff()
    assert deff[LOCATION] == pytest.approx(run, rel=0.35)
    assert deff[P99] == pytest.approx(run, rel=0.5)


def test_a_slow_wave_weighs_more_than_short_runs() -> None:
    wave = np.sin(np.arange(60_000) / 3000)
    rng = np.random.default_rng(0)
    assert fed(wave + rng.normal(size=60_000)).deff()[LOCATION] > 20


def test_errors_in_bursts() -> None:
    rng = np.random.default_rng(0)
    bursts = np.repeat(rng.random(6000) < 0.02, 10).astype(np.float64)
    assert fed(bursts).deff()[LOCATION] == pytest.approx(10, rel=0.35)
    assert (fed(np.zeros(5000)).deff() == 1).all()


def test_blocks_are_merged_when_they_are_many_and_nothing_is_lost() -> None:
    values = np.repeat(np.random.default_rng(0).lognormal(size=20_000), 4)
    blocks = fed(values)
    assert len(pack(blocks.snapshot())) < 30_000
    assert len(blocks) > 500
    assert blocks.deff()[LOCATION] == pytest.approx(4, rel=0.4)


def test_goes_on_to_the_bit() -> None:
    rng = np.random.default_rng(0)
    straight, resumed = Blocks(5), Blocks(5)
    for _ in range(200):
        values = rng.lognormal(size=30)
        straight.add(values)
        resumed = Blocks(5, unpack(pack(resumed.snapshot())))
        resumed.add(values)
    assert pack(straight.snapshot()) == pack(resumed.snapshot())
    assert straight.deff().tolist() == resumed.deff().tolist()


def test_says_by_how_much() -> None:
    assert note(1.0) == ""
    assert "2.1 (deff)" in note(2.01)

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driftline.detectors.config import UnitsConfig
from driftline.detectors.state import pack, unpack
from driftline.detectors.units import FirstSixteen
from driftline.detectors.vector_means import VectorMeans

D = 4
SECOND = 1_000_000


def ints(*values: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array(values, np.int64)


def test_a_session_closes_with_the_mean_of_its_unit_vectors() -> None:
    means = VectorMeans(100)
    rows = np.array([[2.0, 0, 0, 0], [0, 3, 0, 0], [0, 0, 1, 0], [0, 0, 0, 5]])
    learn = np.array([True, True, True, False])
    assert not len(means.step(ints(7, 7, 8, 9), ints(0, 0, 1, -1), rows, learn, 0, 5).session)
    assert means.held() == {7, 8}
    closed = means.step(ints(7, 8), ints(0, 1), rows[2:], learn[2:], 1, 6)
    assert closed.began.tolist() == [5]
    assert closed.stream.tolist() == [7]
    assert closed.session.tolist() == [0]
    assert closed.learn.tolist() == [True]
    assert closed.value == pytest.approx(np.array([[1, 1, 1, 0]]) / 3, abs=1e-7)
    closed = means.step(ints(), ints(), np.empty((0, 0)), np.empty(0, np.bool_), 2, 7)
    assert closed.stream.tolist() == [8]
    assert closed.learn.tolist() == [False]


def test_invalid_vectors_are_left_out() -> None:
    means = VectorMeans(100)
    rows = np.array([[1.0, 0, 0, 0], [np.nan, 0, 0, 0], [0, 0, 0, 0]])
    closed = means.step(ints(1, 1, 2), ints(0, 0, 1), rows, np.ones(3, np.bool_), 2, 0)
    assert closed.session.tolist() == [0]
    assert closed.value.tolist() == [[1, 0, 0, 0]]


def test_too_many_close_the_oldest_for_good() -> None:
    means = VectorMeans(3)
    rows, learn = np.eye(D), np.ones(D, np.bool_)
    closed = means.step(ints(1, 1, 1, 1), ints(5, 2, 3, 4), rows, learn, 0, 0)
    assert closed.session.tolist() == [2]
    assert means.cut_short == 1
    closed = means.step(ints(1, 1), ints(2, 3), rows[2:], learn[2:], 4, 1)
    assert closed.session.tolist() == [3]
    assert closed.value == pytest.approx(np.array([[0, 0, 0.5, 0.5]]))
    assert means.cut_short == 1


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), limit=st.sampled_from([2, 5, 1000]))
def test_every_session_becomes_one_unit_whatever_the_restarts(seed: int, limit: int) -> None:
    rng = np.random.default_rng(seed)
    config = UnitsConfig(max_events=4, close_after_s=5)
    sessions, straight, resumed = FirstSixteen(config), VectorMeans(limit), VectorMeans(limit)
    seen: list[int] = []
    taken_numbers: set[int] = set()
    for tick in range(60):
        n = int(rng.integers(0, 6)) if tick < 50 else 0
        stream = rng.integers(0, 2, n)
        taken = sessions.take(stream, rng.integers(1, 30, n).astype(np.uint64), tick * SECOND)
        mask = taken.mask
        taken_numbers |= set(taken.session[mask].tolist())
        units = stream[mask], taken.session[mask], rng.normal(size=(int(mask.sum()), D)), rng.random(mask.sum()) < 0.9
        one, two = (m.step(*units, sessions.open_from, tick) for m in (straight, resumed))
        assert one.session.tolist() == two.session.tolist()
        assert (one.value == two.value).all()
        assert one.began.tolist() == two.began.tolist()
        assert all(tick - 5 <= began <= tick for began in one.began.tolist())
        seen += one.session.tolist()
        resumed = VectorMeans(limit, unpack(pack(resumed.snapshot())))
        assert pack(resumed.snapshot()) == pack(straight.snapshot())
    assert sorted(seen) == sorted(taken_numbers)
    assert len(set(seen)) == len(seen)

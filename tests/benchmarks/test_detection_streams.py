"""Streams of the detection benchmark: the same every time, null where they say so, changed where they say so."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.detection.ours import KNOWN, SAME, Bank, Refused, fit, settings
from benchmarks.detection.scenarios import DRIFTS, NULLS, QUICK, null_of
from benchmarks.detection.streams import (
    BURST_FACTOR,
    DAY_TICKS,
    HEALTHY,
    Scenario,
    Streams,
    Table,
    drifts,
    nulls,
    reference,
)
from driftline.detectors.registry import FACTORIES

N = 1000
SCALAR = Table.of("x", {HEALTHY: np.arange(N) / N, "up": np.arange(N) / N + 1})
TOPICS = np.arange(N) % 10
TEXTS = Table("texts", np.arange(N + 50, dtype=np.float64), {HEALTHY: 0, "new": N}, {HEALTHY: N, "new": 50}, TOPICS)


@pytest.mark.parametrize("null", NULLS, ids=lambda null: null.name)
@pytest.mark.parametrize("table", [SCALAR, TEXTS], ids=lambda table: table.signal)
def test_equal_seeds_give_equal_streams_of_healthy_rows(table: Table, null: Scenario) -> None:
    scenario = null_of(null, table.signal, "")
    first, again = nulls(table, scenario, 3, 50), nulls(table, scenario, 3, 50)
    assert (first.index == again.index).all()
    assert (first.index[0] != first.index[1]).any()
    assert first.index.max() < N
    assert (first.change == first.n).all()
    learned = reference(table, scenario, first.n, 0)
    assert (learned.index[0, :100] != first.index[0, :100]).any()
    assert (learned.index != reference(table, scenario, first.n, 1).index).any()
    assert (np.diff(first.session, axis=1) >= 0).all()


@pytest.mark.parametrize("table", [SCALAR, TEXTS], ids=lambda table: table.signal)
@pytest.mark.parametrize("session", [1, 4, 16])
def test_sessions_keep_the_rows_uniform(table: Table, session: int) -> None:
    streams = nulls(table, Scenario("n", table.signal, session=session), 20, 500)
    assert streams.index.mean() == pytest.approx((N - 1) / 2, abs=15)
    assert np.histogram(streams.index, 10)[0] / streams.index.size == pytest.approx(np.full(10, 0.1), abs=0.01)


def test_sessions_are_alike_inside() -> None:
    texts = nulls(TEXTS, Scenario("n", "texts", session=4), 2, 100)
    topics = TOPICS[texts.index].reshape(2, -1, 4)
    assert (topics == topics[..., :1]).all()
    numbers = nulls(SCALAR, Scenario("n", "x", session=4), 2, 1000).index.reshape(-1, 4)
    same = (numbers[:, :1] == numbers[:, 1:]).mean()
    assert same == pytest.approx(0.25, abs=0.03)  # both are copies


def test_days_change_what_is_usual_but_not_over_a_day() -> None:
    day = nulls(SCALAR, Scenario("n", "x", diurnal=True), 4, DAY_TICKS)
    hours = day.index.reshape(4, 24, -1).mean((0, 2)) / N
    assert hours.max() - hours.min() > 0.1
    assert day.index.mean() / N == pytest.approx(0.5, abs=0.01)
    texts = TOPICS[nulls(TEXTS, Scenario("n", "texts", diurnal=True), 4, DAY_TICKS).index] < 5
    assert np.ptp(texts.reshape(4, 24, -1).mean((0, 2))) > 0.3


def test_bursts_have_more_events_a_tick() -> None:
    sizes = np.diff(nulls(SCALAR, Scenario("n", "x", bursts=True), 1, 300).ends)
    assert set(sizes.tolist()) == {16, 16 * BURST_FACTOR}
    assert (sizes > 16).mean() == pytest.approx(0.2, abs=0.01)


def _changed(streams: Streams) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    return streams.index >= N


@pytest.mark.parametrize("share", [1.0, 0.2])
def test_drifts_begin_at_their_change(share: float) -> None:
    streams = drifts(TEXTS, Scenario("d", "texts", "new", share, after=5000), 10, 1000)
    assert streams.change.min() >= 1000
    assert len(set(streams.change.tolist())) > 1
    for changed, change in zip(_changed(streams), streams.change.tolist(), strict=True):
        assert not changed[:change].any()
        assert changed[change:].mean() == pytest.approx(share, abs=0.02)


def test_sessions_drift_as_a_whole_and_ramps_slowly() -> None:
    sessions = drifts(TEXTS, Scenario("d", "texts", "new", 0.5, session=4, after=4000), 1, 1000)
    changed = _changed(sessions)[0, -2000:].reshape(-1, 4)
    assert (changed == changed[:, :1]).all()
    ramp = drifts(TEXTS, Scenario("d", "texts", "new", 1.0, ramp=4000, after=4000), 20, 1000)
    at = int(ramp.change.max())
    assert _changed(ramp)[:, at : at + 500].mean() < 0.2 < 0.7 < _changed(ramp)[:, at + 3300 : at + 3800].mean()


def test_rows_of_equal_blocks_change_one_by_one() -> None:
    scenario = Scenario("d", "x", "up", after=1000)
    drifted = drifts(SCALAR, scenario, 2, 1000)
    healthy = drifts(SCALAR, replace(scenario, drift=HEALTHY), 2, 1000)
    assert (drifted.index % N == healthy.index % N).all()


def test_limits_apply_to_live_nulls_only() -> None:
    scenario = null_of(NULLS[0], "x", "up")
    assert nulls(SCALAR, scenario, 1, 10).index.min() >= N
    assert reference(SCALAR, scenario, 100, 0).index.max() < N
    assert not null_of(NULLS[3], "x", "up").limit


def test_names_are_known() -> None:
    assert set(KNOWN) | set(SAME) <= set(FACTORIES)
    assert set(SAME.values()) <= set(KNOWN)
    assert set(QUICK) <= {scenario.name for scenario in DRIFTS}
    assert len({scenario.name for scenario in DRIFTS}) == len(DRIFTS)


ERRORS = Table.of("error", {HEALTHY: np.arange(N) >= 995, "half": np.arange(N) >= 500})


def test_a_bank_alarms_after_the_change_and_stops_there() -> None:
    scenario = Scenario("d", "error", "half", per_tick=50, session=2, after=2000)
    config = settings(1e-9, scenario)
    baseline = fit("error_rate", config, ERRORS, reference(ERRORS, scenario, 4000, 0))
    assert baseline.n == 2000  # one unit a session
    streams = drifts(ERRORS, scenario, 3, 1000)
    outcome = Bank("error_rate", config, ERRORS, [baseline], 3).run(streams)
    assert [len(alarms) for alarms in outcome.alarms] == [1, 1, 1]
    for alarms, change in zip(outcome.alarms, streams.change.tolist(), strict=True):
        assert change <= alarms[0] < change + 400
        assert alarms[0] + 1 in streams.ends
    assert outcome.events < streams.index.size


def test_means_are_over_sessions() -> None:
    scenario = Scenario("n", "score", session=4)
    scores = Table.of("score", {HEALTHY: np.linspace(0.2, 0.8, N)})
    learned = reference(scores, scenario, 8000, 0)
    baseline = fit("quality", settings(1e-3, scenario), scores, learned)
    means = scores.values[learned.index[0]].reshape(-1, 4).mean(1)
    assert baseline.n == len(means)
    assert baseline.mean == pytest.approx(means.mean())


def test_too_little_reference_is_refused() -> None:
    scenario = Scenario("n", "error")
    with pytest.raises(Refused, match="too few sessions"):
        fit("error_rate", settings(1e-3, scenario), ERRORS, reference(ERRORS, scenario, 50, 0))

import itertools

from driftline.streams.demo.scenario import MINUTE, TAIL_MINUTES, Scenario


def test_phases_cover_the_day_without_gaps() -> None:
    scenario = Scenario()
    assert scenario.phases[0].began_at == scenario.start
    assert scenario.phases[-1].ended_at == scenario.end
    for before, after in itertools.pairwise(scenario.phases):
        assert before.ended_at == after.began_at
    assert scenario.phase(scenario.quiet.began_at) is scenario.quiet
    assert scenario.phase(scenario.end).name == "recovery"


def test_effects_do_not_overlap() -> None:
    scenario = Scenario()
    for before, after in itertools.pairwise(scenario.incidents):
        assert before.ended_at + TAIL_MINUTES * MINUTE <= after.began_at


def test_nothing_goes_wrong_outside_the_incidents() -> None:
    scenario = Scenario()
    for ts in range(scenario.start, scenario.end, MINUTE // 4):
        phase = scenario.phase(ts).name
        assert (scenario.error_rate(ts) > 0.01) == (phase == "provider_outage")
        assert (scenario.slowness(ts) > 1) == (phase == "provider_outage")
        assert (scenario.spender_share(ts) > 0) == (phase == "cost_spike")
        moved = scenario.coding_share(ts) + scenario.language_share(ts)
        assert moved <= 0.7 + 1e-9
        if phase != "topic_drift":
            assert moved == 0


def test_what_each_incident_is() -> None:
    scenario = Scenario()
    drift, outage = scenario.topic_drift.began_at, scenario.outage
    assert scenario.coding_share(drift + 15 * MINUTE) == 0.7
    assert scenario.language_share(drift + 30 * MINUTE) == 0.7
    assert scenario.coding_share(drift + 30 * MINUTE) == 0
    rates = [scenario.error_rate(ts) for ts in range(outage.began_at, outage.ended_at, MINUTE // 4)]
    assert 0.3 <= min(rates) < max(rates) <= 0.6

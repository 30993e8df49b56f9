"""Which streams are run: nulls N, drifts D (numbers as in the design's protocol)."""

from dataclasses import replace

from benchmarks.detection.streams import Scenario

NULLS = (
    Scenario("N1 independent", ""),
    Scenario("N2 sessions of 4", "", session=4),
    Scenario("N2 sessions of 16", "", session=16),
    Scenario("N3 diurnal", "", diurnal=True, per_tick=4),
    Scenario("N4 bursts", "", bursts=True),
)

DRIFTS = (
    Scenario("D1 new topic 100 %", "embedding", "new", 1.0, after=1_000),
    Scenario("D1 new topic 50 %", "embedding", "new", 0.5, after=2_000),
    Scenario("D1 new topic 20 %", "embedding", "new", 0.2, after=4_000),
    Scenario("D1 new topic 10 %", "embedding", "new", 0.1, after=8_000),
    Scenario("D1 new topic 50 %, sessions of 4", "embedding", "new", 0.5, session=4, after=4_000),
    Scenario("D2 new topic, ramp over 10,000", "embedding", "new", 1.0, ramp=10_000, after=10_000),
    Scenario("D4 length +5 %", "length", "+5%", per_tick=100, after=40_000),
    Scenario("D4 length +10 %", "length", "+10%", per_tick=100, after=20_000),
    Scenario("D4 length +25 %", "length", "+25%", per_tick=100, after=10_000),
    Scenario("D5 length, spread x1.3", "length", "spread", per_tick=100, after=10_000),
    Scenario("D6 new code 1 %", "code", "new", per_tick=100, after=10_000),
    Scenario("D6 rare code x10", "code", "x10", per_tick=100, after=10_000),
    Scenario("D7 Beta(8,2) scores -10 %", "score", "-10%", per_tick=10, after=4_000),
    Scenario("D7 Beta(8,2) scores -30 %", "score", "-30%", per_tick=10, after=2_000),
    Scenario("D7 real scores -10 %", "real_score", "-10%", per_tick=10, after=10_000),
    Scenario("D7 real scores -30 %", "real_score", "-30%", per_tick=10, after=10_000),
    Scenario("D8 p99 latency x1.5", "latency", "x1.5", per_tick=100, after=20_000),
    Scenario("D8 p99 latency x2", "latency", "x2", per_tick=100, after=20_000),
    Scenario("D8 p99 latency x4", "latency", "x4", per_tick=100, after=20_000),
    Scenario("D9 errors 1 % to 2 %", "error", "2%", base="1%", per_tick=100, after=20_000),
    Scenario("D9 errors 1 % to 5 %", "error", "5%", base="1%", per_tick=100, after=5_000),
    Scenario("D9 errors 1 % to 20 %", "error", "20%", base="1%", per_tick=100, after=2_000),
    Scenario("D11 cost x1.5", "cost", "x1.5", per_tick=100, after=10_000),
)

QUICK = (
    "D1 new topic 50 %",
    "D4 length +25 %",
    "D6 new code 1 %",
    "D7 Beta(8,2) scores -10 %",
    "D8 p99 latency x4",
    "D9 errors 1 % to 5 %",
    "D11 cost x1.5",
)


def null_of(scenario: Scenario, signal: str, limit: str) -> Scenario:
    """A null for a signal; at the limit of what a detector allows if there is one. Not by day, which would pass it."""
    return replace(scenario, signal=signal, limit="" if scenario.diurnal else limit)

"""Baselines that the monitor learns are published; those fitted by hand come into force at their place in the log."""

import math
import random
from collections.abc import Callable
from itertools import pairwise

import msgspec
import pytest
import pytest_asyncio

from driftline.detectors.config import DetectorsConfig
from driftline.detectors.state import pack, unpack
from driftline.schemas.events import LATEST_TS, MICROSECONDS, BaselineSet, Event, Release, Trace
from driftline.schemas.results import Alert, Baseline, Evidence, Result
from driftline.schemas.topics import Topics
from driftline.streams.monitor.baselines import Baselines, Versions, record
from driftline.streams.monitor.config import MonitorConfig
from driftline.streams.monitor.drift import DriftFold
from driftline.streams.monitor.fold import MonitorFold
from driftline.streams.monitor.places import Places
from driftline.streams.monitor.watch import Fit, Streams, Watch
from driftline.streams.pricing import Pricer
from tests.detectors.test_conformance import D, config, make, ready
from tests.streams.monitor.log import START, TOPICS, Log, results_of, run_log, traffic
from tests.streams.monitor.test_drift import embedding, records, tick

HEALTHY = 62
SECOND = MICROSECONDS


def new_fold(topics: Topics, snapshot: bytes | None = None, **settings: int) -> MonitorFold:
    return MonitorFold(MonitorConfig(**settings), DetectorsConfig(), topics, Pricer(), snapshot)


def log_of(*events: Event, until: float) -> Log:
    log = Log()
    log.extend(list(events), START + round(until * SECOND))
    return log


def of_errors(results: list[Result]) -> list[Baseline]:
    return [r for r in results if isinstance(r, Baseline) and r.detector == "error_rate"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def other() -> Baseline:
    """From other traffic of the same app."""
    return await learned(TOPICS, seed=2)


async def learned(topics: Topics, seed: int = 1) -> Baseline:
    """Of error rates, from healthy traffic."""
    results = await run_log(new_fold(topics), log_of(*traffic(seed, 0, HEALTHY, 5), until=HEALTHY).records)
    [baseline] = of_errors(results)
    return baseline


def fitted(baseline: Baseline, at: float, **changes: object) -> BaselineSet:
    changed = msgspec.structs.replace(baseline, **changes)
    return BaselineSet(app="bot", ts=START + round(at * SECOND), id=f"{at}{sorted(changes)}", baseline=changed)


async def test_what_is_learned_is_published_once_with_where_it_came_from(topics: Topics) -> None:
    log = log_of(*traffic(1, 0, HEALTHY, 5), until=HEALTHY)
    baseline = await learned(topics)
    assert (baseline.source, baseline.state, baseline.releases) == ("learned", "active", ["v1"])
    assert baseline.n >= 200
    assert START <= baseline.from_ts < baseline.to_ts == baseline.at <= START + HEALTHY * SECOND
    assert baseline.summary["p0"] == 0.01
    results = await run_log(new_fold(topics), log.records)
    [evidence] = [e for e in results if isinstance(e, Evidence) and e.detector == "error_rate"]
    assert evidence.baseline_id == baseline.id


async def test_a_fitted_baseline_restarts_the_streams_and_ends_their_incidents(topics: Topics, other: Baseline) -> None:
    def failing(trace: Trace, rng: random.Random) -> None:
        if trace.ts >= START + HEALTHY * SECOND and rng.random() < 0.5:
            trace.status, trace.error_type = "error", "503"

    change = fitted(other, HEALTHY + 15)
    log = log_of(*traffic(1, 0, HEALTHY + 30, 5, failing), change, until=HEALTHY + 30)
    results = await run_log(new_fold(topics), log.records)
    first, second = of_errors(results)
    assert (first.source, second.source, second.id, second.at) == ("learned", "fitted", other.id, change.ts)
    alerts = [a for a in results if isinstance(a, Alert) and a.rule == "error_rate"]
    assert [a.state for a in alerts] == ["firing", "resolved", "firing"]
    assert "new baseline" in alerts[1].description
    assert alerts[1].ts == change.ts
    evidence = {e.id: e for e in results if isinstance(e, Evidence)}
    assert [evidence[a.evidence_id].baseline_id for a in alerts] == [first.id, first.id, second.id]


async def test_it_may_come_before_any_traffic(topics: Topics, other: Baseline) -> None:
    log = log_of(fitted(other, 0.5), *traffic(1, 1, 70, 5), until=70)
    results = await run_log(new_fold(topics), log.records)
    assert [b.source for b in of_errors(results)] == ["fitted"]
    [evidence] = {e.baseline_id for e in results if isinstance(e, Evidence) and e.detector == "error_rate"}
    assert evidence == other.id


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda b: {"detector": "astrology"}, "unknown detector 'astrology'"),
        (lambda b: {"config": "0"}, "other settings of error_rate"),
        (lambda b: {"payload": b"\xc1"}, "no baseline of error_rate"),
        (lambda b: {"payload": b.payload[:-1]}, "no baseline of error_rate"),
        (lambda b: {"id": "0"}, "its payload is that of baseline"),
        (lambda b: {"app": "other"}, "fitted for the app other"),
    ],
)
async def test_what_does_not_fit_is_refused_and_said(
    topics: Topics, other: Baseline, spoil: Callable[[Baseline], dict[str, object]], reason: str
) -> None:
    log = log_of(*traffic(1, 0, HEALTHY, 5), fitted(other, 50, **spoil(other)), until=HEALTHY)
    fold = new_fold(topics)
    results = await run_log(fold, log.records)
    [refused] = [r for r in results if isinstance(r, Baseline) and r.state == "refused"]
    assert reason in refused.note
    assert refused.app == "bot"
    assert fold.counters["baselines_refused"] == 1
    assert new_fold(topics, fold.snapshot()).counters["baselines_refused"] == 1
    assert [b.source for b in of_errors(results) if b.state == "active"] == ["learned"]


async def test_of_embeddings_is_the_other_folds(topics: Topics, other: Baseline) -> None:
    log = log_of(fitted(other, 1, detector="embedding_drift"), until=30)
    assert not [r for r in await run_log(new_fold(topics), log.records) if isinstance(r, Baseline)]
    drift = DriftFold(MonitorConfig(), DetectorsConfig(), topics, None)
    wrong, not_mine = fitted(other, 1, detector="embedding_drift"), fitted(other, 2)
    outputs = await drift.absorb(records([embedding(1, 1), wrong, not_mine, tick(30)]))
    [refused] = [r for r in results_of(outputs) if isinstance(r, Baseline)]
    assert refused.state == "refused"
    assert drift.counters["baselines_refused"] == 1


async def test_restarts_and_repeats_change_nothing(topics: Topics, other: Baseline) -> None:
    change = fitted(other, 55)
    log = log_of(fitted(other, 0.2), *traffic(1, 3, HEALTHY, 5), change, change, until=HEALTHY)
    whole = await run_log(new_fold(topics), log.records)
    assert len(of_errors(whole)) == 2
    cuts = [*range(1, 20), *random.Random(5).sample(range(20, len(log.records)), 8)]
    fold, pieces = new_fold(topics), []
    for start, stop in pairwise([0, *sorted(cuts), len(log.records)]):
        pieces += results_of(await fold.absorb(log.records[start:stop]))
        fold = new_fold(topics, fold.snapshot())
    assert pieces == whole


async def test_a_promoted_release_gives_the_baseline_after_a_day_without_incidents(topics: Topics) -> None:
    def served(trace: Trace, rng: random.Random) -> None:
        if trace.ts >= START + 60 * SECOND:
            trace.release = "v2"
        if START + 75 * SECOND <= trace.ts < START + 90 * SECOND:
            trace.status, trace.error_type = "error", "503"

    common = {"app": "bot", "release": "v2", "stable": "v1", "deployment_id": "d", "share": 0.5}
    promotion = (
        Release(ts=START + 50 * SECOND, id="1", kind="canary_start", **common),  # type: ignore[arg-type]
        Release(ts=START + 60 * SECOND, id="2", kind="canary_stop", outcome="promoted", **common),  # type: ignore[arg-type]
    )
    log = log_of(*traffic(3, 0, 260, 12, served), *promotion, until=260)
    results = await run_log(new_fold(topics, relearn_after_s=10), log.records)
    first, second = of_errors(results)
    assert (first.releases, second.releases) == (["v1"], ["v2"])
    alerts = [a for a in results if isinstance(a, Alert) and a.rule == "error_rate"]
    assert [a.state for a in alerts] == ["firing", "resolved"]
    assert alerts[0].fired_at > START + 70 * SECOND  # when learning had begun: it begins again after the incident
    assert second.from_ts >= alerts[1].ts
    assert second.summary["rate"] < 0.05


async def test_an_id_names_one_baseline(topics: Topics, other: Baseline) -> None:
    """Under the id of one in force another would take its place in the state."""
    fields = unpack(other.payload)
    forged = msgspec.structs.replace(other, payload=pack({**fields, "p0": 0.5}))
    events = [fitted(other, 0.5), fitted(forged, 1), fitted(other, 2)]
    results = await run_log(new_fold(topics), log_of(*events, *traffic(1, 3, 70, 5), until=70).records)
    assert [(b.state, b.note) for b in of_errors(results)] == [
        ("active", ""),
        ("refused", f"another baseline is in force as {other.id}"),
        ("active", ""),
    ]


async def test_wild_numbers_about_a_baseline_are_not_told(topics: Topics, other: Baseline) -> None:
    wild = {"n": 2**62, "summary": {"p0": 1e308}, "from_ts": 10**16 - 1, "releases": ["x" * 300] * 5_000}
    results = await run_log(
        new_fold(topics), log_of(fitted(other, 0.5, **wild), *traffic(1, 1, 20, 5), until=20).records
    )
    [told] = of_errors(results)
    assert (told.state, told.n, told.summary, told.from_ts) == ("active", other.n, other.summary, LATEST_TS)
    assert (len(told.releases), len(told.releases[0])) == (1_000, 200)


def test_what_a_refused_baseline_says_of_itself_is_bounded(other: Baseline) -> None:
    """The embeddings topic can hold what is no number, and tables and JSON cannot."""
    summary = {"p0": math.nan, "x" * 300: math.inf, "y" * 300: 1.0} | {str(n): 0.0 for n in range(500)}
    watches = {"error_rate": new_watch("error_rate")}
    installed = Baselines(config()).install(fitted(other, 0.5, id="0", summary=summary), watches, START, 0)
    assert installed is not None
    told = installed.baseline
    assert told.state == "refused"
    assert len(told.summary) == 100
    assert told.summary["y" * 200] == 1.0
    assert all(map(math.isfinite, told.summary.values()))


@pytest.mark.parametrize("spoil", [{"id": "0"}, {"config": "0"}, {"app": "other"}])
async def test_what_is_quickly_seen_is_refused_without_a_trial(
    topics: Topics, other: Baseline, spoil: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("driftline.detectors.baselines.check", None)
    [told] = of_errors(await run_log(new_fold(topics), log_of(fitted(other, 0.5, **spoil), until=20).records))
    assert told.state == "refused"
    assert "no baseline of" not in told.note


def test_a_baseline_of_other_vectors_than_those_in_use_is_refused() -> None:
    detector, _ = ready("embedding_witness")
    fit = Fit("bot", "prompt", detector.baseline(0), ["v1"], 0, 1)
    given = record("embedding_witness", fit, config(), Versions(embed_model="e"), made=START)
    baselines, watches = Baselines(config()), {"embedding_witness": new_watch("embedding_witness")}
    for d, note in ((D + 1, f"it is of vectors of {D} dimensions, and those in use have {D + 1}"), (D, ""), (0, "")):
        installed = baselines.install(fitted(given, 1), watches, START, 0, "e", d)
        assert installed is not None
        assert installed.baseline.note == note


def new_watch(name: str) -> Watch:
    return Watch(make(name, config()), Streams(), Places(config().budget))

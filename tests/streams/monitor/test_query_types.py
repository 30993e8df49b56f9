"""What prompts are about, as categories: whose topics they are, when they are learned, and what alerts say."""

from collections.abc import Callable

import msgspec
import numpy as np
import pytest
import pytest_asyncio

from driftline.detectors.config import DetectorsConfig
from driftline.schemas.codec import pack
from driftline.schemas.events import MICROSECONDS, BaselineSet, Tick
from driftline.schemas.results import Alert, Baseline, Embedding, EmbeddingEvent, Evidence, Result
from driftline.streams.monitor.config import MonitorConfig
from driftline.streams.monitor.drift import DriftFold
from driftline.streams.monitor.watch import Transition, Units
from tests.streams.monitor.log import START, TOPICS, FakeRecord, results_of
from tests.streams.monitor.test_drift import embedding

D = 24
PER_S = 50
LEARNED = 4000 // PER_S  # seconds until embedding_drift has a baseline
SHIFT = LEARNED + 30
CONFIG = DetectorsConfig.model_validate(
    {
        "units": {"close_after_s": 2},
        "embedding_drift": {"min_events": 4000, "chains": 200},
        "query_type": {"min_units": 500, "recovery": {"min_open_s": 5}},
    }
)
Change = Callable[[Embedding], Embedding]


def log(
    seconds: range, topics: Callable[[int], list[int]], change: Change = lambda e: e, seed: int = 1
) -> list[FakeRecord]:
    """Sessions of one prompt, each on one of `topics(second)`; a tick at the end of each second."""
    rng = np.random.default_rng(seed)
    records = []
    for second in seconds:
        chosen = rng.choice(topics(second), PER_S).tolist()
        x = np.eye(D)[chosen] + 0.05 * rng.normal(size=(PER_S, D))
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        batch: list[EmbeddingEvent] = [
            change(
                msgspec.structs.replace(
                    embedding(PER_S * second + i, second + i / PER_S),
                    conversation_id=f"c{second}-{i}",
                    prompt=vector.astype("<f2").tobytes(),
                    excerpt=f"about {topic}",
                )
            )
            for i, (topic, vector) in enumerate(zip(chosen, x, strict=True))
        ]
        records.append(FakeRecord(second, pack([*batch, Tick(ts=START + (second + 1) * MICROSECONDS)])))
    return records


def new_fold(snapshot: bytes | None = None) -> DriftFold:
    return DriftFold(MonitorConfig(evidence_s=5), CONFIG, TOPICS, snapshot)


async def run(fold: DriftFold, records: list[FakeRecord]) -> list[Result]:
    return results_of(await fold.absorb(records))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def learned() -> tuple[bytes, list[Result]]:
    """The state of a fold that has learned ten topics and their shares, and what it said until then."""
    fold = new_fold()
    results = await run(fold, log(range(SHIFT), lambda second: list(range(10))))
    return fold.snapshot(), results


def of_types(results: list[Result]) -> tuple[list[Evidence], list[Alert], list[Baseline]]:
    return (
        [r for r in results if isinstance(r, Evidence) and r.detector == "query_type"],
        [r for r in results if isinstance(r, Alert) and r.rule == "query_type"],
        [r for r in results if isinstance(r, Baseline) and r.detector == "query_type"],
    )


def test_they_are_learned_once_there_are_topics(learned: tuple[bytes, list[Result]]) -> None:
    evidence, alerts, [baseline] = of_types(learned[1])
    assert not alerts
    assert (baseline.component, baseline.embed_model, baseline.source, baseline.releases) == (
        *("prompt", "e", "learned", ["v1"]),
    )
    assert 500 <= baseline.n < 500 + 2 * PER_S
    [topics] = [b for b in learned[1] if isinstance(b, Baseline) and b.detector == "embedding_drift"]
    assert baseline.from_ts >= topics.at - MICROSECONDS
    assert evidence[0].state == "insufficient_reference"
    assert "there is none yet" in evidence[0].note
    assert "too few sessions for the shares of categories (" in "".join(e.note for e in evidence)
    assert evidence[-1].baseline_id == baseline.id


async def test_an_alert_names_the_type_that_grew(learned: tuple[bytes, list[Result]]) -> None:
    fold = new_fold(learned[0])
    results = await run(fold, log(range(SHIFT, SHIFT + 20), lambda second: [*range(10), 3, 3, 3, 3]))
    _, [alert], _ = of_types(results)
    assert (alert.state, alert.severity, alert.component) == ("firing", "info", "prompt")
    assert alert.summary.startswith("bot v1: share of sessions of the query type “about 3")
    assert alert.baseline is not None
    assert alert.value is not None
    assert alert.value > 1.5 * alert.baseline
    assert f"{alert.value:.1%}, was {alert.baseline:.1%}" in alert.summary
    assert alert.contributors == ["“about 3”"]


async def test_what_is_on_no_topic_is_a_type(learned: tuple[bytes, list[Result]]) -> None:
    results = await run(new_fold(learned[0]), log(range(SHIFT, SHIFT + 20), lambda second: [*range(10), 20, 20]))
    _, [alert], _ = of_types(results)
    assert "“unlike all that was usual”" in alert.summary
    assert "“about 20”" in alert.contributors


async def test_restarts_and_batches_change_nothing(learned: tuple[bytes, list[Result]]) -> None:
    records = log(range(SHIFT, SHIFT + 20), lambda second: [*range(10), *[4] * (second // 3 % 2 * 8)])
    whole = await run(new_fold(learned[0]), records)
    assert any(isinstance(r, Alert) for r in whole)
    fold, pieces = new_fold(learned[0]), []
    for record in records:
        pieces += await run(fold, [record])
        fold = new_fold(fold.snapshot())
    assert pieces == whole


async def test_another_baseline_has_other_types(learned: tuple[bytes, list[Result]]) -> None:
    """An open alert ends, nothing is scored against the old shares, and they are learned again."""
    other = await run(new_fold(), log(range(LEARNED + 5), lambda second: list(range(10, 20)), seed=2))
    [topics] = [b for b in other if isinstance(b, Baseline) and b.detector == "embedding_drift"]
    fold, now = new_fold(learned[0]), SHIFT + 20
    before = await run(fold, log(range(SHIFT, now), lambda second: [*range(10), *[3] * 8]))
    assert [alert.state for alert in of_types(before)[1]] == ["firing"]
    event = BaselineSet(app="bot", ts=START + (now + 4) * MICROSECONDS, id="b", baseline=topics)
    change = FakeRecord(now, pack([event]))
    records = [change, *log(range(now, now + 40), lambda second: list(range(10, 20)), seed=3)]
    after = await run(fold, records[:12])
    after += await run(new_fold(fold.snapshot()), records[12:])  # in the middle of learning
    evidence, [resolved], [baseline] = of_types(after)
    assert resolved.state == "resolved"
    assert "query types are new" in resolved.description
    assert baseline.from_ts >= event.ts
    while_learning = [e for e in evidence if event.ts + 5 * MICROSECONDS < e.ts < baseline.at]
    assert while_learning
    assert {e.state for e in while_learning} == {"insufficient_reference"}
    assert evidence[-1].baseline_id == baseline.id
    assert evidence[-1].state == "ok"


async def test_without_sessions_there_are_none(learned: tuple[bytes, list[Result]]) -> None:
    settings = CONFIG.model_copy(
        update={"embedding_drift": CONFIG.embedding_drift.model_copy(update={"max_window": 1024})}
    )
    fold = DriftFold(MonitorConfig(evidence_s=5), settings, TOPICS, None)
    results = await run(
        fold,
        log(range(270), lambda second: list(range(10)), lambda e: msgspec.structs.replace(e, conversation_id="")),
    )
    assert [b.detector for b in results if isinstance(b, Baseline)] == ["embedding_drift"]
    evidence, alerts, _ = of_types(results)
    assert not alerts
    assert {e.state for e in evidence} == {"insufficient_reference"}
    assert evidence[-1].note == "query types are topics of whole sessions, and there are no session ids"


async def test_they_cannot_be_fitted_by_hand(learned: tuple[bytes, list[Result]]) -> None:
    _, _, [baseline] = of_types(learned[1])
    fold = new_fold(learned[0])
    event = BaselineSet(app="bot", ts=START + SHIFT * MICROSECONDS, id="b", baseline=baseline)
    results = await run(fold, [FakeRecord(0, pack([event])), *log(range(SHIFT, SHIFT + 8), lambda second: [1])])
    [refused] = [r for r in results if isinstance(r, Baseline)]
    assert refused.state == "refused"
    assert "fit that one" in refused.note


async def test_units_of_sessions_begin_with_their_first_event(
    learned: tuple[bytes, list[Result]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By that an alert says since when."""
    snapshot, _ = learned
    fold = new_fold(snapshot)
    waited: dict[str, set[int]] = {"embedding_witness": set(), "query_type": set()}
    for name, found in waited.items():

        def step(units: Units, tick: int, found: set[int] = found) -> list[Transition]:
            if len(units.stream):
                assert units.began is not None
                found.update((tick - units.began).tolist())
            return []

        monkeypatch.setattr(fold.watches[name], "step", step)
    await run(fold, log(range(SHIFT, SHIFT + 12), lambda second: list(range(10))))
    after = round(CONFIG.units.close_after_s / CONFIG.budget.tick_s)
    assert waited == {"embedding_witness": {after}, "query_type": {after}}

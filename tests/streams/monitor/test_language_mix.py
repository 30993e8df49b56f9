"""Languages of prompts and responses as categories: which text of a session counts, and what alerts say."""

import msgspec
import numpy as np
import pytest

from driftline.detectors.config import DetectorsConfig
from driftline.detectors.registry import make
from driftline.detectors.units import NO_SESSION
from driftline.schemas.codec import decode_embeddings, pack
from driftline.schemas.events import MICROSECONDS, BaselineSet, Tick
from driftline.schemas.results import Alert, Baseline, Embedding, Evidence, Result
from driftline.streams.monitor.config import MonitorConfig
from driftline.streams.monitor.drift import DriftFold
from driftline.streams.monitor.languages import FirstKnown
from driftline.streams.monitor.watch import Units
from tests.streams.monitor.log import START, TOPICS, FakeRecord
from tests.streams.monitor.test_query_types import PER_S, log, run

CONFIG = DetectorsConfig.model_validate({"language": {"min_units": 1000, "recovery": {"min_open_s": 5}}})
LEARNED = 1000 // PER_S + 8


def new_fold(snapshot: bytes | None = None) -> DriftFold:
    return DriftFold(MonitorConfig(evidence_s=5), CONFIG, TOPICS, snapshot)


def spoken(e: Embedding) -> Embedding:
    """A twentieth of the prompts are German, and answered in German."""
    language = "de" if int(e.trace_id) % 20 == 0 else "en"
    return msgspec.structs.replace(
        e, response=e.prompt, prompt_language=language, response_language=language, excerpt=f"prompt in {language}"
    )


def answered_in_french(e: Embedding) -> Embedding:
    french = int(e.trace_id) % 5 == 0
    return msgspec.structs.replace(spoken(e), response_language="fr") if french else spoken(e)


def records() -> list[FakeRecord]:
    healthy = log(range(LEARNED), lambda second: [1], spoken)
    return [*healthy, *log(range(LEARNED, LEARNED + 25), lambda second: [1], answered_in_french)]


def alerts(results: list[Result]) -> list[Alert]:
    return [r for r in results if isinstance(r, Alert)]


async def test_responses_in_another_language_alarm() -> None:
    results = await run(new_fold(), records())
    baselines = [b for b in results if isinstance(b, Baseline)]
    assert {(b.detector, b.component) for b in baselines} == {("language", "prompt"), ("language", "response")}
    [alert] = alerts(results)
    assert (alert.rule, alert.component, alert.severity, alert.state) == ("language", "response", "warning", "firing")
    assert "share of sessions whose responses are in “fr”" in alert.summary
    assert "New: fr" in alert.description
    assert set(alert.contributors) <= {"“prompt in en”", "“prompt in de”"}
    assert alert.contributors
    quiet = [e for e in results if isinstance(e, Evidence) and (e.detector, e.component) == ("language", "prompt")]
    assert quiet[-1].state == "ok"


async def test_restarts_and_batches_change_nothing() -> None:
    whole = await run(new_fold(), records())
    fold, pieces = new_fold(), []
    for i, record in enumerate(records()):
        pieces += await run(fold, [record])
        if i % 3 == 0:
            fold = new_fold(fold.snapshot())
    assert pieces == whole
    assert alerts(whole)


async def test_another_embedding_model_leaves_languages_alone() -> None:
    healthy = log(range(LEARNED), lambda second: [1], spoken)
    later = log(
        range(LEARNED, LEARNED + 25),
        lambda second: [1],
        lambda e: msgspec.structs.replace(answered_in_french(e), embed_model="other"),
    )
    fold = new_fold()
    events = [item for record in [*healthy, *later] for item in decode_embeddings(record.value)[:-1]]
    end = Tick(ts=START + (LEARNED + 25) * MICROSECONDS)
    results = await run(fold, [FakeRecord(0, pack([*events, end]))])  # one tick closes it all
    assert fold.embed_model == "other"
    assert [b.detector for b in results if isinstance(b, Baseline)] == ["language", "language"]
    assert [alert.rule for alert in alerts(results)] == ["language"]


async def test_a_fitted_baseline_ends_the_alert() -> None:
    """Of traffic in which a fifth of the answers is French."""
    french = await run(new_fold(), log(range(LEARNED), lambda second: [1], answered_in_french))
    [fitted] = [b for b in french if isinstance(b, Baseline) and b.component == "response"]
    at = START + (LEARNED + 15) * MICROSECONDS
    event = BaselineSet(app="bot", ts=at, id="b", baseline=fitted)
    results = await run(new_fold(), [FakeRecord(0, pack([event])), *records()])
    assert [(alert.state, alert.ts) for alert in alerts(results)][1:] == [("resolved", at)]
    assert "new baseline" in alerts(results)[1].description
    last = [e for e in results if isinstance(e, Evidence) and e.component == "response"][-1]
    assert (last.state, last.baseline_id) == ("ok", fitted.id)


async def test_texts_without_a_language_say_nothing() -> None:
    results = await run(new_fold(), log(range(LEARNED), lambda second: [1]))
    assert not [r for r in results if isinstance(r, Evidence) and r.detector == "language"]


class Counted:
    def __init__(self) -> None:
        self.detector = make("language", DetectorsConfig())
        self.it = FirstKnown()

    def step(self, languages: list[str | None], session: list[int], open_from: int) -> Units:
        n = len(languages)
        self.it = FirstKnown(self.it.snapshot())
        return self.it.units(
            self.detector, languages, np.arange(n), np.array(session, np.int64), np.ones(n, np.bool_), open_from
        )


def test_a_session_counts_once_with_its_first_text_that_can_be_told() -> None:
    counted = Counted()
    units = counted.step([None, "de", "en", "en", "fr", None], [0, 0, 0, 1, 1, 2], 0)
    assert (units.stream.tolist(), units.session.tolist()) == ([1, 3], [0, 1])
    again = counted.step(["en", "en", "fr"], [0, 2, 3], 0)
    assert again.stream.tolist() == [1, 2]
    assert len(counted.it.snapshot()) == 4
    assert counted.step(["en"], [2], 3).stream.tolist() == []
    assert counted.it.snapshot().tolist() == [3]


def test_events_without_a_session_count_each() -> None:
    units = Counted().step(["de", None, "en", "de"], [NO_SESSION, NO_SESSION, 4, NO_SESSION], 4)
    assert units.stream.tolist() == [0, 2, 3]


@pytest.mark.parametrize("languages", [[], [None, None]])
def test_nothing_told_is_no_unit(languages: list[str | None]) -> None:
    assert len(Counted().step(languages, [1] * len(languages), 0).stream) == 0

"""How far apart the texts of two periods are."""

import msgspec
import numpy as np
import pytest

from driftline.schemas.errors import PermanentError
from driftline.schemas.events import MICROSECONDS
from driftline.schemas.results import Embedding
from driftline.streams.report import texts
from driftline.streams.report.texts import compare_texts, texts_of
from tests.streams.baselines.test_collect import embeddings, send
from tests.streams.operate.conftest import START, Pipeline


def at(second: int) -> int:
    return START + second * MICROSECONDS


def moved(embedding: Embedding) -> Embedding:
    assert embedding.prompt is not None
    vector = np.frombuffer(embedding.prompt, "<f2").astype(np.float64)
    vector[0] -= 1
    return msgspec.structs.replace(embedding, prompt=(vector / np.linalg.norm(vector)).astype("<f2").tobytes())


async def test_texts_of_a_period_are_read_once_and_compared(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = embeddings(range(60), 5)
    for record in records[30:]:
        record[:] = [moved(item) if isinstance(item, Embedding) else item for item in record]
    await send(pipeline, [*records, records[40]])
    before, now = [await texts_of(pipeline.settings, "bot", at(a), at(a + 20)) for a in (5, 35)]
    assert len(before) == len(now) == 100
    assert {e.ts // MICROSECONDS - START // MICROSECONDS for e in now} == set(range(35, 55))
    prompts, responses = compare_texts(now, before)
    assert prompts.effects is not None
    assert (prompts.effects.current_texts, prompts.effects.reference_texts) == (100, 100)
    assert prompts.effects.p == 0.001
    assert prompts.effects.auc > 0.7
    assert responses.effects is None
    assert "the current period has fewer than 10 sessions" in responses.note
    assert await texts_of(pipeline.settings, "another", at(0), at(60)) == []

    monkeypatch.setattr(texts, "MOST", 60)
    part = await texts_of(pipeline.settings, "bot", at(5), at(25))
    assert 20 < len(part) <= 60
    assert part == await texts_of(pipeline.settings, "bot", at(5), at(25))
    assert {e.key for e in part} < {e.key for e in before}


def test_models_are_not_mixed() -> None:
    [[one, _], [two, _]] = embeddings(range(2), 1)
    assert isinstance(two, Embedding)
    with pytest.raises(PermanentError, match="different models"):
        compare_texts([one], [msgspec.structs.replace(two, embed_model="other")])  # type: ignore[list-item]

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driftline.schemas import codec
from driftline.schemas.events import Release, Score, Tick
from driftline.schemas.results import Embedding, EmbeddingEvent
from driftline.schemas.topics import Topics
from driftline.streams.fold import Output
from driftline.streams.judge import (
    SCORES_PER_RECORD,
    JudgeConfig,
    JudgeFold,
    RelevanceJudge,
    judge_fold_factory,
    relevances,
)
from tests.streams.embed.fakes import T0, absorb_in_pieces, records, tick


def half(*values: float) -> bytes:
    vector = np.array(values)
    return bytes((vector / np.linalg.norm(vector)).astype("<f2"))


def embedding(number: int = 1, **fields: Any) -> Embedding:
    values: dict[str, Any] = {
        "app": "support",
        "ts": T0 + number,
        "trace_id": f"t{number}",
        "span_id": "s",
        "conversation_id": "c",
        "user_id": "u",
        "environment": "prod",
        "release": "v2",
        "canary_share": 0.25,
        "model": "gpt-4o",
        "embed_model": "fake/1",
        "prompt": half(1, 0),
        "response": half(1, 1),
        "excerpt": "",
    }
    return Embedding(**{**values, **fields})


def fold(snapshot: bytes | None = None, **config: Any) -> JudgeFold:
    return JudgeFold(JudgeConfig(**config), "events", RelevanceJudge(), snapshot)


def scores(outputs: Sequence[Output]) -> list[Score]:
    return [
        event for output in outputs for event in codec.decode_events(output.value).events if isinstance(event, Score)
    ]


async def test_names_with_what_stands_between_them_are_scored_apart() -> None:
    pairs = [("5/1", "2"), ("5", "1/2"), ("5\x1f1", "2"), ("5", "1\x1f2")]
    scores = await RelevanceJudge().score([embedding(trace_id=trace, span_id=span) for trace, span in pairs])
    assert len({score.id for score in scores}) == len(pairs)


async def test_a_score_carries_its_trace() -> None:
    (output,) = await fold().absorb(records(codec.pack([embedding(1)])))
    assert (output.topic, output.key) == ("events", b"support")
    (score,) = scores([output])
    assert score == Score(
        app="support",
        ts=T0 + 1,
        id="3d12e69928c7f87564f9db788259b0d2",  # ids stay as they are: stored scores are found by them
        trace_id="t1",
        span_id="s",
        name="relevance",
        value=0.853553,
        source="judge",
        judge_model="cosine/fake/1",
        conversation_id="c",
        user_id="u",
        environment="prod",
        release="v2",
        canary_share=0.25,
        model="gpt-4o",
    )


async def test_ids_depend_on_the_trace_and_the_judge_alone() -> None:
    batch = [
        embedding(1),
        embedding(1, ts=T0 + 9, response=half(0, 1)),
        embedding(2),
        embedding(1, span_id="x"),
        embedding(1, app="other"),
        embedding(1, embed_model="fake/2"),
    ]
    ids = [score.id for score in await RelevanceJudge().score(batch)]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 5


@pytest.mark.parametrize(
    ("response", "value"),
    [(half(1, 0), 1.0), (half(0, 1), 0.5), (half(-1, 0), 0.0)],
)
def test_values_run_from_opposite_to_same(response: bytes, value: float) -> None:
    assert relevances([embedding(response=response)]) == [value]


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": None},
        {"response": None},
        {"response": half(1, 0, 0)},
        {"response": np.array([np.nan, 1], dtype="<f2").tobytes()},
        {"response": np.array([np.inf, 1], dtype="<f2").tobytes()},
        {"response": np.array([0, 0], dtype="<f2").tobytes()},
    ],
)
async def test_what_cannot_be_compared_gets_no_score_and_its_neighbour_does(fields: dict[str, Any]) -> None:
    outputs = await fold().absorb(records(codec.pack([embedding(1, **fields), embedding(2)])))
    assert [score.trace_id for score in scores(outputs)] == ["t2"]


def test_a_value_does_not_depend_on_its_company() -> None:
    rng = np.random.default_rng(0)
    batch = [embedding(n, prompt=half(*rng.normal(size=384)), response=half(*rng.normal(size=384))) for n in range(50)]
    assert relevances(batch) == [relevances([one])[0] for one in batch]
    assert relevances(batch[::-1]) == relevances(batch)[::-1]


async def test_the_watermark_is_the_newest_tick_and_ticks_are_not_published() -> None:
    it = fold()
    assert it.watermark is None
    assert await it.absorb(records(codec.pack([tick(5), tick(3)]))) == []
    assert it.watermark == T0 + 5_000_000
    assert fold(it.snapshot()).watermark == T0 + 5_000_000


async def test_releases_are_the_monitors() -> None:
    release = Release(app="support", ts=T0, id="r", kind="deploy", release="v2")
    assert len(scores(await fold().absorb(records(codec.pack([release, embedding(1)]))))) == 1


async def test_one_record_per_app_and_bounded() -> None:
    batch: list[EmbeddingEvent] = [embedding(n, app="ab"[n % 2]) for n in range(SCORES_PER_RECORD * 2 + 2)]
    outputs = await fold().absorb(records(codec.pack(batch)))
    assert [(output.key, len(scores([output]))) for output in outputs] == [
        (b"a", SCORES_PER_RECORD),
        (b"a", 1),
        (b"b", SCORES_PER_RECORD),
        (b"b", 1),
    ]


async def test_scores_the_configured_share_of_conversations() -> None:
    batch = [embedding(n, conversation_id=f"c{n % 100}") for n in range(500)]
    outputs = await fold(rate=0.3).absorb(records(codec.pack(batch)))
    judged = {score.conversation_id for score in scores(outputs)}
    assert 15 < len(judged) < 45
    assert len(scores(outputs)) == 5 * len(judged)


async def test_disabled_scores_nothing_but_follows_the_time() -> None:
    it = fold(enabled=False)
    assert await it.absorb(records(codec.pack([embedding(1), tick(1)]))) == []
    assert it.watermark == T0 + 1_000_000


@pytest.mark.parametrize("value", [None, b"", b"\xc1", codec.pack({"type": "embedding"}), codec.pack([{"type": "x"}])])
async def test_a_record_that_is_not_ours_is_counted_and_left_out(value: bytes | None) -> None:
    it = fold()
    assert len(await it.absorb(records(value, codec.pack([embedding(1)])))) == 1
    assert it.counters["undecodable"] == 1


def test_the_factory_builds_a_fold_on_the_events_topic() -> None:
    create = judge_fold_factory(JudgeConfig(), Topics("p"))
    outputs = asyncio.run(create(0, None).absorb(records(codec.pack([embedding(1)]))))
    assert [output.topic for output in outputs] == ["p.events"]


_embeddings = st.builds(
    lambda number, app, vector: embedding(number, app=app, response=vector),
    st.integers(1, 30),
    st.sampled_from(["a", "b"]),
    st.sampled_from([None, half(1, 0), half(1, 2), half(-3, 1)]),
)
_items: st.SearchStrategy[Embedding | Tick] = st.one_of(_embeddings, st.integers(0, 100).map(tick))


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.lists(_items, max_size=6), max_size=20), st.lists(st.integers(0, 20), max_size=4), st.integers(0, 20)
)
def test_batching_and_restarts_change_nothing(groups: list[list[EmbeddingEvent]], cuts: list[int], half: int) -> None:
    source = records(*map(codec.pack, groups))

    def by_app(outputs: Sequence[Output]) -> dict[str, list[bytes]]:
        found: dict[str, list[bytes]] = {}
        for score in scores(outputs):
            found.setdefault(score.app, []).append(msgspec.json.encode(score))
        return found

    async def run() -> None:
        whole, split, first = fold(rate=0.9), fold(rate=0.9), fold(rate=0.9)
        at_once = await whole.absorb(source)
        in_pieces = await absorb_in_pieces(split, source, cuts)
        restarted = await first.absorb(source[:half])
        second = fold(first.snapshot(), rate=0.9)
        restarted = [*restarted, *await second.absorb(source[half:])]
        assert by_app(at_once) == by_app(in_pieces) == by_app(restarted)
        assert whole.snapshot() == split.snapshot() == second.snapshot()

    asyncio.run(run())


async def test_it_counts_what_it_leaves_out_as_a_part_of_its_state() -> None:
    it = fold()
    assert it.counters == {"not_sampled": 0, "not_scored": 0, "undecodable": 0}
    await it.absorb(records(codec.pack([embedding(1), embedding(2, response=None)])))
    off = fold(it.snapshot(), enabled=False)
    assert off.counters == {"not_sampled": 0, "not_scored": 1, "undecodable": 0}
    await off.absorb(records(codec.pack([embedding(3)])))
    assert off.counters == {"not_sampled": 1, "not_scored": 1, "undecodable": 0}


async def test_a_state_of_before_there_were_counters_is_read() -> None:
    assert fold(codec.pack({"watermark": 5})).watermark == 5

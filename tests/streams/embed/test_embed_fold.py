import asyncio
import logging
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driftline.schemas import codec
from driftline.schemas.events import Release, Score, Tick, Trace
from driftline.schemas.results import Embedding, EmbeddingEvent
from driftline.streams.embed.config import EmbedConfig, SampleConfig
from driftline.streams.embed.embedder import CachedEmbedder
from driftline.streams.embed.fold import ITEMS_PER_RECORD, EmbedFold
from tests.streams.embed.fakes import (
    SECOND,
    T0,
    FakeEncoder,
    FakeRecord,
    absorb_in_pieces,
    event_records,
    items,
    records,
    tick,
    trace,
)


def fold(snapshot: bytes | None = None, **config: Any) -> EmbedFold:
    settings = EmbedConfig(**config)
    return EmbedFold(settings, "embeddings", CachedEmbedder(FakeEncoder(), settings), snapshot, ahead_s=3600)


async def test_embeds_prompt_and_response_and_carries_the_trace() -> None:
    source = trace(
        1,
        span_id="s",
        conversation_id="c",
        user_id="u",
        environment="prod",
        release="v2",
        canary_share=0.1,
        request_model="gpt-4o",
        input_text="hello " * 100,
    )
    (output,) = await fold(excerpt_chars=11).absorb(event_records(source))
    assert (output.topic, output.key) == ("embeddings", None)
    (embedding,) = items([output])
    vectors = FakeEncoder().encode([source.input_text, source.output_text])
    assert embedding == Embedding(
        app="support",
        ts=source.ts,
        trace_id="t1",
        span_id="s",
        conversation_id="c",
        user_id="u",
        environment="prod",
        release="v2",
        canary_share=0.1,
        model="gpt-4o",
        embed_model="fake/1",
        prompt=vectors[0].tobytes(),
        response=vectors[1].tobytes(),
        excerpt="hello hello",
    )


async def test_no_text_has_no_vector_and_no_text_at_all_is_not_embedded() -> None:
    embeddings = items(
        await fold().absorb(
            event_records(
                trace(1, input_text=""), trace(2, output_text=" \n"), trace(3, input_text="", output_text="\t")
            )
        )
    )
    found = [(e.key, e.prompt is None, e.response is None) for e in embeddings if isinstance(e, Embedding)]
    assert found == [(("t1", ""), True, False), (("t2", ""), False, True)]


async def test_names_with_what_stands_between_them_are_embedded_apart() -> None:
    pairs = [("5/1", "2"), ("5", "1/2"), ("5\x1f1", "2"), ("5", "1\x1f2")]
    traces = [trace(n, trace_id=name, span_id=span) for n, (name, span) in enumerate(pairs)]
    embeddings = items(await fold().absorb(event_records(*traces)))
    assert [item.key for item in embeddings if isinstance(item, Embedding)] == pairs


async def test_ticks_go_on_in_their_place_and_only_forward() -> None:
    outputs = await fold().absorb(event_records(trace(1), tick(5), trace(2), tick(3), tick(5), trace(3), tick(6)))
    assert [item.key if isinstance(item, Embedding) else item for item in items(outputs)] == [
        ("t1", ""),
        tick(5),
        ("t2", ""),
        ("t3", ""),
        tick(6),
    ]


async def test_the_watermark_is_the_newest_tick() -> None:
    it = fold()
    assert it.watermark is None
    await it.absorb(event_records(tick(7), tick(4)))
    assert it.watermark == T0 + 7_000_000


async def test_ticks_move_the_sampler_on() -> None:
    it = fold()
    found = items(await it.absorb(event_records(trace(1), tick(10_000), trace(2), trace(10_001))))
    assert [item.key for item in found if isinstance(item, Embedding)] == [("t1", ""), ("t10001", "")]


async def test_records_are_bounded() -> None:
    outputs = await fold().absorb(event_records(*(trace(n) for n in range(ITEMS_PER_RECORD + 1))))
    assert [len(items([output])) for output in outputs] == [ITEMS_PER_RECORD, 1]


async def test_nothing_to_say_publishes_nothing() -> None:
    score = Score(app="support", ts=T0, id="s", trace_id="t", name="n", value=1.0)
    assert await fold().absorb(event_records(score)) == []
    assert await fold().absorb([]) == []


async def test_releases_go_on_in_their_place() -> None:
    release = Release(app="support", ts=T0, id="r", kind="canary_stop", release="v2", outcome="promoted")
    found = items(await fold().absorb(event_records(trace(1), release, tick(5), release)))
    assert found[1:] == [release, tick(5), release]


async def test_each_text_has_its_language() -> None:
    def language(text: str) -> str | None:
        return {"g": "de", "h": "en"}.get(text[0])

    it = EmbedFold(EmbedConfig(), "embeddings", CachedEmbedder(FakeEncoder(), EmbedConfig(), language), ahead_s=3600)
    source = [
        trace(1, "guten Tag", output_text="hello"),
        trace(2, "hello", output_text=""),
        trace(3, "?", output_text="?"),
    ]
    found = items(await it.absorb(event_records(*source)))
    languages = [(e.prompt_language, e.response_language) for e in found if isinstance(e, Embedding)]
    assert languages == [("de", "en"), ("en", None), (None, None)]


async def test_garbage_is_skipped_and_its_neighbours_kept(caplog: pytest.LogCaptureFixture) -> None:
    good = codec.encode_event(trace(1))
    array = b"[" + codec.encode_event(trace(2)) + b', {"type": "trace"}, 7]'
    with caplog.at_level(logging.INFO):
        found = items(await fold().absorb(records(b"\xff\x00", None, b"", b"{", good, b"[[]]", array)))
    assert [item.key for item in found if isinstance(item, Embedding)] == [("t1", ""), ("t2", "")]
    assert caplog.records == []


async def test_a_copy_is_embedded_once_also_after_a_restart() -> None:
    first = fold()
    before = items(await first.absorb(event_records(trace(1), trace(1), tick(10))))
    restarted = fold(first.snapshot())
    after = items(await restarted.absorb(event_records(trace(1), trace(2))))
    assert [item.key for item in before + after if isinstance(item, Embedding)] == [("t1", ""), ("t2", "")]
    assert restarted.watermark == T0 + 10_000_000


async def test_a_snapshot_that_is_not_one_is_refused() -> None:
    with pytest.raises(codec.DecodeError):
        fold(b"\x01")


_texts = st.sampled_from(["", "  ", "reset my router", "my router is broken", "refund", "a\x00b", "🦊"])
_traces = st.builds(
    trace,
    st.integers(0, 30),
    ts=st.integers(0, 1500).map(lambda s: T0 + s * 1_000_000),
    app=st.sampled_from(["a", "b"]),
    conversation_id=st.sampled_from(["", "c1", "c2", "c3"]),
    input_text=_texts,
    output_text=_texts,
)
_releases = st.integers(0, 3000).map(
    lambda s: Release(app="a", ts=T0 + s * 1_000_000, id=f"r{s}", kind="deploy", release=f"v{s}")
)
_events: st.SearchStrategy[Trace | Tick | Release] = st.one_of(
    _traces, _traces, _releases, st.integers(0, 3000).map(tick)
)
_values = st.one_of(
    _events.map(codec.encode_event),
    st.lists(_events, max_size=4).map(codec.encode_events),
    st.sampled_from([None, b"", b"nonsense", b'[{"type":"trace"}]']),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(_values, max_size=40), st.lists(st.integers(0, 40), max_size=5), st.data())
def test_batching_and_restarts_change_nothing(values: list[bytes | None], cuts: list[int], data: st.DataObject) -> None:
    source = records(*values)
    config: dict[str, Any] = {"sample": SampleConfig(rate=0.8, window_s=120, budget=3)}

    async def run() -> tuple[list[EmbeddingEvent], list[EmbeddingEvent], list[EmbeddingEvent], set[bytes]]:
        whole, split, first = (fold(**config) for _ in range(3))
        at_once = items(await whole.absorb(source))
        in_pieces = items(await absorb_in_pieces(split, source, cuts))
        half = data.draw(st.integers(0, len(source)))
        restarted = items(await first.absorb(source[:half]))
        second = fold(first.snapshot(), **config)
        restarted += items(await second.absorb(source[half:]))
        return at_once, in_pieces, restarted, {whole.snapshot(), split.snapshot(), second.snapshot()}

    at_once, in_pieces, restarted, snapshots = asyncio.run(run())
    assert at_once == in_pieces == restarted
    assert len(snapshots) == 1
    keys = [(item.app, item.key) for item in at_once if isinstance(item, Embedding)]
    ticks = [item.ts for item in at_once if isinstance(item, Tick)]
    assert ticks == sorted(set(ticks))
    assert len(keys) == len(set(keys)) or max(ticks, default=0) > T0 + 600 * 1_000_000


async def test_it_counts_what_it_leaves_out_as_a_part_of_its_state() -> None:
    it = fold(sample=SampleConfig(rate=1.0, budget=1))
    assert it.counters == {"without_text": 0, "not_sampled": 0, "undecodable": 0, "elsewhere": 0, "ahead_of_time": 0}
    await it.absorb(event_records(*(trace(number) for number in range(3)), trace(9, input_text=" ", output_text="")))
    left_out = {"without_text": 1, "not_sampled": 2, "undecodable": 0, "elsewhere": 0, "ahead_of_time": 0}
    assert it.counters == left_out
    again = fold(it.snapshot())
    assert again.counters == left_out
    await again.absorb(records(b"garbage"))
    assert again.counters == {**left_out, "undecodable": 1}
    assert again.snapshot() != it.snapshot()


async def test_what_is_ahead_of_its_time_goes_no_further() -> None:
    """Of the last tick: ticks and texts are left, in their order."""
    it = fold()
    release = Release(app="support", ts=T0 + 7200 * SECOND, id="r", kind="deploy", release="v1")
    found = items(await it.absorb(event_records(trace(1), tick(2), trace(7200), release, trace(3), tick(4))))
    assert [item.ts for item in found] == [T0 + seconds * SECOND for seconds in (1, 2, 3, 4)]
    assert it.counters["ahead_of_time"] == 2
    assert fold(it.snapshot()).counters == it.counters


async def test_what_came_while_no_ticks_came_is_not_ahead_of_its_time() -> None:
    """The monitor, which writes them, was away for a week; the broker's time of each record goes on."""
    week = 7 * 24 * 3600
    sent: list[tuple[int, Trace | Tick]] = [
        (0, tick(0)),
        (week, trace(week)),
        (week + 1, trace(2 * week)),
        (week + 2, tick(week + 2)),
    ]
    log = [
        FakeRecord(i, codec.encode_event(event), None, T0 // 1000 + at * 1000, 1) for i, (at, event) in enumerate(sent)
    ]
    for cuts in ([], [1], [2], [1, 2, 3]):
        found = items(await absorb_in_pieces(fold(), log, cuts))
        assert [item.ts for item in found] == [T0, T0 + week * SECOND, T0 + (week + 2) * SECOND]

"""What is too large for its topic is cut, says so, and is counted; the role goes on."""

import msgspec
import pytest
from prometheus_client import REGISTRY

from driftline.schemas.codec import decode, encode, pack, unpack
from driftline.schemas.errors import PermanentError
from driftline.schemas.results import DeadLetter, Evidence, ScoreStats, WindowStats
from driftline.schemas.topics import LARGE, Topics
from driftline.streams.fold import Output
from driftline.streams.runtime.fit import OTHER, fit, fits, smaller

TOPICS = Topics("t")


def window(errors: dict[str, int], scores: dict[str, ScoreStats]) -> WindowStats:
    return WindowStats(
        id="w", app="bot", release="v1", model="m", start=10**15, size_s=60, revision=1, requests=9, errors=9,
        errors_by_type=errors, latency_ms=None, ttft_ms=None, input_tokens=0, output_tokens=0,
        cache_read_input_tokens=0, cost_usd=None, unpriced=9, scores=scores, late=0,
    )  # fmt: skip


def output(result: msgspec.Struct, topic: str = TOPICS.windows) -> Output:
    return Output(topic, b"bot", encode(result))


def test_what_fits_is_untouched() -> None:
    whole = output(window({"a": 1}, {}))
    assert fit(whole, 1_000_000) == [whole]


def test_maps_keep_their_largest_and_still_add_up() -> None:
    errors = {f"{i:0100}": i for i in range(20_000)}
    scores = {f"s{i:0100}": ScoreStats(count=i, mean=0.25) for i in range(1, 20_000)}
    [cut] = fit(output(window(errors, scores)), 1_048_588)
    told = decode(cut.value, WindowStats)
    assert sum(told.errors_by_type.values()) == sum(errors.values())
    assert max(errors, key=errors.__getitem__) in told.errors_by_type
    assert len(told.errors_by_type) == 201
    assert told.errors_by_type[OTHER] > 0
    assert sum(s.count for s in told.scores.values()) == sum(s.count for s in scores.values())
    assert told.scores[OTHER].mean == pytest.approx(0.25)


@pytest.mark.parametrize("limit", [300_000, 20_000, 3_000])
def test_texts_say_how_long_they_were(limit: int) -> None:
    evidence = Evidence(
        id="e" * 64, app="bot", release="v1", detector="d", component="", ts=10**15, revision=1, state="ok", log_e=None,
        log_p=None, threshold=1, value=None, baseline=None, effect=None, effect_low=None, effect_high=None, n_events=0,
        n_units=0, n_not_scored=0, guarantee="none", baseline_id="b" * 64, since=None, note="x" * 500_000,
    )  # fmt: skip
    [cut] = fit(output(evidence, TOPICS.evidence), limit)
    told = decode(cut.value, Evidence)
    assert fits(cut, limit)
    assert "500,000 characters" in told.note
    assert msgspec.structs.replace(told, note=evidence.note) == evidence


def test_batches_are_divided_and_lose_nothing() -> None:
    items = [{"n": i, "text": "x" * 1000} for i in range(100)]
    pieces = fit(Output(TOPICS.embeddings, None, pack(items)), 10_000)
    assert all(fits(piece, 10_000) for piece in pieces)
    assert [item for piece in pieces for item in unpack(piece.value, list)] == items


@pytest.mark.parametrize(("limit", "kept"), [(1_048_588, 64 * 1024), (20_000, 1_024), (2_000, 0)])
def test_a_dead_letter_keeps_the_beginning_of_its_bytes(limit: int, kept: int) -> None:
    raw = bytes(range(256)) * 8_192
    letter = DeadLetter(
        id="d", topic="t.events", partition=0, offset=7, index=-1, reason="quarantined: " + "x" * 3_000, raw=raw,
        key=b"k" * 1_000, role="monitor",
    )  # fmt: skip
    [cut] = fit(Output(TOPICS.dlq, letter.key, encode(letter)), limit)
    told = decode(cut.value, DeadLetter)
    assert fits(cut, limit)
    assert told.raw == raw[:kept]
    assert told.key == b"k" * min(kept, 1_000)
    assert told.reason.startswith("quarantined: x")
    assert f"the first {kept} of 2097152 bytes" in told.reason
    assert msgspec.structs.replace(told, raw=raw, key=letter.key, reason=letter.reason) == letter


def test_what_cannot_be_cut_is_left_out_and_counted() -> None:
    baseline = Output(TOPICS.baselines, b"k", b'{"type":"baseline","payload":"' + b"A" * LARGE + b'"}')
    before = _counted("results_unpublishable")
    assert smaller(baseline, LARGE, "monitor") == []
    assert _counted("results_unpublishable") == before + 1


@pytest.mark.parametrize("topic", [TOPICS.events, TOPICS.progress, TOPICS.state("monitor")])
def test_what_must_be_whole_stops_the_role_with_the_setting(topic: str) -> None:
    with pytest.raises(PermanentError, match=r"max\.message\.bytes of t\."):
        smaller(Output(topic, None, pack([1, 2, 3, "x" * 1000])), 100, "monitor")


def _counted(reason: str) -> float:
    return REGISTRY.get_sample_value("driftline_dropped_total", {"consumer": "monitor", "reason": reason}) or 0.0

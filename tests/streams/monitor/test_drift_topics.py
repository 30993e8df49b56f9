import msgspec
import numpy as np

from driftline.detectors.base import Floats
from driftline.detectors.config import BudgetConfig, EmbeddingDriftConfig
from driftline.detectors.embeddings import EmbeddingBaseline
from driftline.detectors.state import pack, unpack
from driftline.detectors.tscan import EmbeddingDrift
from driftline.streams.monitor.drift_topics import DriftTopics

D = 8
GROUP = ("bot", "prompt")


def texts(rng: np.random.Generator, topic: list[int]) -> Floats:
    vectors: Floats = np.eye(D)[topic] + 0.02 * rng.normal(size=(len(topic), D))
    return vectors


def learned() -> EmbeddingBaseline:
    config = EmbeddingDriftConfig(min_events=4000, chains=200)
    detector = EmbeddingDrift(config, BudgetConfig())
    rng = np.random.default_rng(0)
    reference = detector.reference()
    reference.add(texts(rng, rng.choice(3, 4100, p=[0.6, 0.3, 0.1]).tolist()), np.arange(4100))
    baseline = detector.fit(reference)
    assert isinstance(baseline, EmbeddingBaseline)
    # Three topics in place of the many parts that twenty of them make of three round clouds.
    return msgspec.structs.replace(
        baseline, centers=np.eye(3, D).astype(np.float32), shares=np.array([0.6, 0.3, 0.1, 0.0]), near=0.9
    )


def test_the_topics_that_moved_are_named_by_their_central_text() -> None:
    rng = np.random.default_rng(1)
    baseline, topics = learned(), DriftTopics()
    usual = [0] * 50 + [1] * 30
    topics.name(GROUP, baseline, texts(rng, usual), [f"topic {i}" for i in usual])
    topics = DriftTopics(unpack(pack(topics.snapshot())))
    now = texts(rng, [0] * 20 + [1] * 30 + [2] * 25 + [7] * 25)
    assert topics.changes(GROUP, baseline, now) == (
        "Share of topics: like “topic 0” 60% → 20%; unlike all that was usual 0% → 25%."
    )
    assert topics.changes(GROUP, baseline, texts(rng, [0] * 60 + [1] * 30 + [2] * 10)) == ""
    assert topics.changes(GROUP, baseline, now[:10]) == ""
    assert topics.changes(("bot", "response"), baseline, now) == ""
    others = msgspec.structs.replace(baseline, id="newer", centers=baseline.centers[::-1].copy())
    assert not topics.keeps(GROUP, others)
    assert topics.changes(GROUP, others, now) == ""


def test_a_baseline_with_the_same_topics_keeps_their_names() -> None:
    """One that knows more of the hours of the day."""
    baseline, topics = learned(), DriftTopics()
    assert not topics.keeps(GROUP, baseline)
    topics.name(GROUP, baseline, texts(np.random.default_rng(1), [0, 1]), ["a", "b"])
    assert topics.keeps(GROUP, baseline)
    assert topics.keeps(GROUP, msgspec.structs.replace(baseline, id="newer"))
    assert topics.labels(GROUP, msgspec.structs.replace(baseline, id="newer"))[:2] == ["a", "b"]
    assert not topics.keeps(("bot", "response"), baseline)


def test_labels_are_short_and_all_different() -> None:
    baseline, topics = learned(), DriftTopics()
    long = "how do I\n reset " + "x" * 200
    topics.name(GROUP, baseline, texts(np.random.default_rng(1), [0, 1]), [long, long])
    labels = topics.labels(GROUP, baseline)
    assert labels[0] == ("how do I reset " + "x" * 200)[:80]
    assert labels[1:] == [f"{labels[0]} (topic 2)", "(topic 3)", "unlike all that was usual"]

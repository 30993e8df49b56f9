import numpy as np

from driftline.detectors.base import Floats
from driftline.detectors.topics import find

D = 16
CENTERS = np.eye(5, D)


def texts(rng: np.random.Generator, topic: Floats) -> Floats:
    x = topic + 0.05 * rng.normal(size=topic.shape)
    phi: Floats = x / np.linalg.norm(x, axis=1, keepdims=True)
    return phi


def test_topics_are_found_counted_and_told_from_what_is_new() -> None:
    rng = np.random.default_rng(0)
    number = np.repeat(np.arange(4), [400, 300, 200, 100])
    topics = find(texts(rng, CENTERS[number]), seed=1)
    assert len(topics.centers) == 20
    pure = topics.of(texts(rng, CENTERS[number]))
    for one in range(4):
        mine = set(pure[number == one].tolist()) - {20}
        assert not mine & set(pure[number != one].tolist())
        assert abs(topics.shares[list(mine)].sum() - (number == one).mean()) < 0.02
    assert abs(topics.shares.sum() - 1) < 1e-12
    assert (topics.of(texts(rng, CENTERS[[4] * 50])) == 20).all()
    assert (pure == 20).mean() < 0.1


def test_few_or_equal_texts_have_few_topics_and_the_same_seed_gives_the_same_bits() -> None:
    rng = np.random.default_rng(0)
    assert len(find(np.repeat(CENTERS[:1], 30, axis=0), seed=1).centers) == 1
    assert len(find(texts(rng, CENTERS[:3]), seed=1).centers) <= 3
    phi = texts(rng, CENTERS[rng.integers(0, 5, 300)])
    assert (find(phi, seed=2).centers == find(phi, seed=2).centers).all()

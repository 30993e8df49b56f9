import asyncio
import threading
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from driftline.streams.embed.config import EmbedConfig
from driftline.streams.embed.embedder import CHARS_PER_TOKEN, SLICE, CachedEmbedder, Embedded
from tests.streams.embed.fakes import FakeEncoder


def embedder(encoder: FakeEncoder, **config: int | str) -> CachedEmbedder:
    return CachedEmbedder(encoder, EmbedConfig.model_validate(config))


async def test_gives_a_vector_for_each_text_in_order() -> None:
    found = await embedder(FakeEncoder()).embed(["b", "", "a", "b", "  "])
    a, b = (Embedded(row.tobytes(), None) for row in FakeEncoder().encode(["a", "b"]))
    assert found == [b, None, a, b, None]


async def test_a_language_is_told_once_for_each_text_without_the_prefix() -> None:
    asked: list[str] = []

    def language(text: str) -> str | None:
        asked.append(text)
        return {"a": "de"}.get(text)

    it = CachedEmbedder(FakeEncoder(), EmbedConfig(text_prefix="passage: "), language)
    first = await it.embed(["a", "b", "a"])
    assert [e and e.language for e in first] == ["de", None, "de"]
    assert await it.embed(["b", "a"]) == first[1:]
    assert asked == ["a", "b"]


async def test_repeated_texts_are_embedded_once() -> None:
    encoder = FakeEncoder()
    it = embedder(encoder)
    first = await it.embed(["a", "b", "a"])
    again = await it.embed(["c", "b", "a"])
    assert encoder.asked == ["a", "b", "c"]
    assert again[1:] == [first[1], first[0]]


async def test_the_cache_forgets_what_was_used_least_recently() -> None:
    encoder = FakeEncoder()
    it = embedder(encoder, cache_entries=2)
    for texts in (["a", "b"], ["a"], ["c"], ["a"], ["b"]):
        await it.embed(texts)
    assert encoder.asked == ["a", "b", "c", "b"]


async def test_much_work_is_given_to_the_thread_in_slices_of_similar_length() -> None:
    sizes: list[tuple[int, int, int]] = []

    class Sliced(FakeEncoder):
        def encode(self, texts: Sequence[str]) -> NDArray[np.float16]:
            lengths = [len(text) for text in texts]
            sizes.append((len(texts), min(lengths), max(lengths)))
            return super().encode(texts)

    texts = [f"{n} " * (n % 2 + 1) for n in range(1000, 1000 + 2 * SLICE)]
    found = await embedder(Sliced()).embed(texts)
    assert sizes == [(SLICE, 5, 5), (SLICE, 10, 10)]
    assert found == [Embedded(row.tobytes(), None) for row in FakeEncoder().encode(texts)]


async def test_works_without_a_cache() -> None:
    encoder = FakeEncoder()
    it = embedder(encoder, cache_entries=0)
    assert await it.embed(["a", "b", "a"]) == await it.embed(["a", "b", "a"])
    assert encoder.asked == ["a", "b", "a", "b"]


async def test_long_texts_are_cut_before_the_model_sees_them_and_the_prefix_comes_first() -> None:
    encoder = FakeEncoder()
    limit = 8 * CHARS_PER_TOKEN
    await embedder(encoder, max_tokens=8, text_prefix="passage: ").embed(["x" * 10_000, "x" * (limit + 1)])
    assert encoder.asked == ["passage: " + "x" * limit]


async def test_a_failure_of_the_model_is_raised_and_not_remembered() -> None:
    class Flaky(FakeEncoder):
        def encode(self, texts: Sequence[str]) -> NDArray[np.float16]:
            if not self.asked:
                self.asked.append("failed")
                raise RuntimeError("out of memory")
            return super().encode(texts)

    it = embedder(Flaky())
    with pytest.raises(RuntimeError, match="out of memory"):
        await it.embed(["a"])
    assert await it.embed(["a"]) == [Embedded(FakeEncoder().encode(["a"])[0].tobytes(), None)]


async def test_the_loop_stays_live_while_the_model_works() -> None:
    class Blocked(FakeEncoder):
        release = threading.Event()

        def encode(self, texts: Sequence[str]) -> NDArray[np.float16]:
            assert self.release.wait(10)
            return super().encode(texts)

    encoder = Blocked()
    working = asyncio.ensure_future(embedder(encoder).embed(["a"]))
    await asyncio.sleep(0)  # lets it start; were it to block the loop, the next line would never run
    assert not working.done()
    encoder.release.set()
    assert len(await working) == 1

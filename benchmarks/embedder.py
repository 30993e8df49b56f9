"""How fast the embed role is: `python benchmarks/embedder.py [texts]`. Prints one JSON object.

Real questions and answers (chatterbot-corpus, English and, to have enough, other languages) through our encoder and
through `SentenceTransformer.encode`, on one thread, the best of three rounds; then the whole fold on events whose
texts are all in the cache; then both encoders on a CUDA device, where there is one. `least_cosine`: of the two's
vectors of one text.
"""

import asyncio
import itertools
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import chatterbot_corpus
import numpy as np
import torch
import yaml

from driftline.schemas import codec
from driftline.schemas.events import Trace
from driftline.streams.embed.config import EmbedConfig, SampleConfig
from driftline.streams.embed.embedder import CachedEmbedder
from driftline.streams.embed.encoder import TransformerEncoder
from driftline.streams.embed.fold import EmbedFold

EVENTS = 50_000
T0 = 1_790_000_000_000_000


@dataclass(frozen=True)
class Record:
    offset: int
    value: bytes
    key: bytes | None = None
    timestamp: int = 0
    timestamp_type: int = 0


def corpus(count: int) -> list[str]:
    files = sorted(
        Path(chatterbot_corpus.__file__).parent.glob("data/**/*.yml"), key=lambda f: (f.parent.name != "english", f)
    )
    lines = (str(line) for file in files for talk in _conversations(file) for line in talk)
    return list(itertools.islice(dict.fromkeys(lines), count))


def _conversations(file: Path) -> list[list[Any]]:
    content: dict[str, list[list[Any]]] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return content["conversations"]


def best_rate(count: int, work: Callable[[], object], rounds: int = 3) -> float:
    def seconds() -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    return count / min(seconds() for _ in range(rounds))


def cached_us_per_event(encoder: TransformerEncoder, config: EmbedConfig, texts: list[str]) -> float:
    """Decode, sample, look up and encode again: everything but the model."""
    traces = [
        Trace(app="a", ts=T0 + n, trace_id=f"{n:032x}", input_text=texts[n % 500], output_text=texts[n % 499])
        for n in range(EVENTS)
    ]
    records = [Record(n, codec.encode_events(list(traces[n : n + 100]))) for n in range(0, EVENTS, 100)]
    fold = EmbedFold(config, "embeddings", CachedEmbedder(encoder, config), ahead_s=3600)

    warm = [Trace(app="b", ts=T0, trace_id=f"w{n}", input_text=text) for n, text in enumerate(texts[:500])]

    async def run() -> float:
        await fold.absorb([Record(0, codec.encode_events(list(warm)))])
        start = time.perf_counter()
        for i in range(0, len(records), 10):
            await fold.absorb(records[i : i + 10])
        return round((time.perf_counter() - start) / EVENTS * 1e6, 2)

    return asyncio.run(run())


def compare(encoder: TransformerEncoder, config: EmbedConfig, texts: list[str]) -> dict[str, Any]:
    theirs = encoder._model
    theirs.max_seq_length = config.max_tokens
    warm = texts[:50]
    encoder.encode(warm)
    theirs.encode(warm, show_progress_bar=False)
    ours = encoder.encode(texts).astype(np.float64)
    other = theirs.encode(texts, show_progress_bar=False).astype(np.float64)
    cosines = (ours * other).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(other, axis=1)
    return {
        "driftline_texts_per_s": round(best_rate(len(texts), lambda: encoder.encode(texts))),
        "sentence_transformers_texts_per_s": round(
            best_rate(len(texts), lambda: theirs.encode(texts, show_progress_bar=False))
        ),
        "least_cosine": round(float(cosines.min()), 6),
    }


def on_cuda(texts: list[str]) -> dict[str, Any]:
    if not torch.cuda.is_available():
        return {"skipped": "torch finds no CUDA device"}
    config = EmbedConfig(sample=SampleConfig(budget=10**9), device="cuda")
    return {"device": torch.cuda.get_device_name(), **compare(TransformerEncoder(config), config, texts)}


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000
    config = EmbedConfig(sample=SampleConfig(budget=10**9), device="cpu")
    encoder = TransformerEncoder(config)
    texts = corpus(count)
    tokens = encoder._model.tokenizer(texts, truncation=True, max_length=config.max_tokens)["input_ids"]
    result = {
        "texts": len(texts),
        "tokens_per_text": round(sum(map(len, tokens)) / len(texts), 1),
        **compare(encoder, config, texts),
        "driftline_one_text_ms": round(
            1000 / best_rate(20, lambda: [encoder.encode([text]) for text in texts[:20]]), 1
        ),
        "cached_us_per_event": cached_us_per_event(encoder, config, texts),
        "cuda": on_cuda(texts),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()

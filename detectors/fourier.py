"""Random Fourier features by torch, the same code on CPU and CUDA: float32 up to phi, sums of it in float64.

Equal input gives equal bits on one device and kind of machine. CPU and CUDA differ by rounding: `TOLERANCE`.
"""

from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from scipy.special import ndtri

from driftline.detectors.base import Floats, Slots
from driftline.schemas.errors import ConfigError

TOLERANCE = 1e-4  # of ||phi|| = 1: the most by which devices, or float32 and exact arithmetic, may differ
_KEY = 0x9E3779B97F4A7C15  # of the frequencies; any number, but the same for ever: baselines hang on it
_RUNS = {"cpu": 64, "cuda": 1024}  # summed at once: what caches hold, what keeps a device busy


class Fourier:
    """phi(x) = sqrt(1/m) [cos(Wx), sin(Wx)] with m rows of W, each N(0, 1/(f sigma)^2): for every factor f as many.
    <phi(x), phi(y)> estimates the mean over f of exp(-||x-y||^2 / (2 (f sigma)^2)), with a standard error of at most
    sqrt(1/(2m)). W depends on these settings and on d alone, so that restarts and replicas agree.

    :raises ConfigError: there is no CUDA device, and the settings ask for one.
    """

    def __init__(
        self, frequencies: int, factors: tuple[float, ...], texts: int, device: Literal["auto", "cpu", "cuda"]
    ) -> None:
        if device == "cuda" and not torch.cuda.is_available():
            raise ConfigError("detectors.embedding_drift.device is cuda, and torch finds no CUDA device")
        self.texts = texts
        self._frequencies = frequencies
        self._factors = factors
        self._height = (frequencies * len(factors)) ** -0.5
        self._device = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
        torch.set_num_threads(1)  # ticks are small: threads cost more than they save, and bits would hang on how many
        if self._device == "cuda":
            torch.backends.cuda.matmul.allow_tf32 = False  # its 10 bits are too few for the cosine's argument

    def size(self, d: int) -> int:
        return 2 * self._frequencies * len(self._factors)

    def of(self, x: Floats, bandwidth: float) -> Floats:
        phi: Floats = torch.cat(self._waves(x, bandwidth), 1).cpu().numpy().astype(np.float64)
        phi *= self._height
        return phi

    def sums(self, x: Floats, starts: Slots, bandwidth: float) -> Floats:
        bounds = np.append(starts, len(x))
        step = _RUNS[self._device]
        parts = [self._sums(x, bounds[i : i + step + 1], bandwidth) for i in range(0, len(starts), step)]
        sums = np.concatenate(parts)
        sums *= self._height
        return sums

    def _sums(self, x: Floats, bounds: Slots, bandwidth: float) -> Floats:
        lengths = torch.from_numpy(np.diff(bounds)).to(self._device)
        waves = self._waves(x[bounds[0] : bounds[-1]], bandwidth)
        sums = [torch.segment_reduce(wave.double(), "sum", lengths=lengths, axis=0, unsafe=True) for wave in waves]
        total: Floats = torch.cat(sums, 1).cpu().numpy()
        return total

    def _waves(self, x: Floats, bandwidth: float) -> list[torch.Tensor]:
        """cos(Wx) and sin(Wx), [n, m] float32 each, on the device."""
        rows = torch.from_numpy(x.astype(np.float32)).to(self._device)
        angles = (rows @ _weights(x.shape[1], self._frequencies, self._factors, self._device)).div_(bandwidth)
        return [angles.cos(), angles.sin()]


@lru_cache(maxsize=8)
def _weights(d: int, frequencies: int, factors: tuple[float, ...], device: str) -> torch.Tensor:
    """[d, frequencies * factors] W' at sigma = 1. Made of raw bits: numpy keeps those for ever, and its normals not."""
    bits = np.random.Philox(key=_KEY).random_raw((len(factors), d, frequencies))
    normal = ndtri(((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53) / np.array(factors)[:, None, None]
    return torch.from_numpy(np.concatenate(list(normal), axis=1).astype(np.float32)).to(device)

"""How fast the detectors are: CPU time, for other work may run beside."""

import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from benchmarks.detection.ours import Bank, fit, settings
from benchmarks.detection.streams import Scenario, Table, nulls, reference, rng_of
from benchmarks.detection.suite import OPERATING
from driftline.detectors.base import TickBatch
from driftline.detectors.config import EmbeddingDriftConfig
from driftline.detectors.embeddings import unit_vectors
from driftline.detectors.features import make_features

Kernel: TypeAlias = Literal["linear", "rff"]

STREAMS, UNITS = 1000, 10  # of a tick
TICKS = 100
CORES = 2
WINDOW = 200  # texts that are checked at once
CUDA_TICK = 65_536  # texts: a device is for many


def embedding_updates_per_s(table: Table, per_tick: int, kernel: Kernel = "linear") -> float:
    """Texts a second on two cores, without the model that makes the vectors: a process each, all windows full, sum of
    events per CPU second."""
    drift = EmbeddingDriftConfig(kernel=kernel, device="cpu")
    with ProcessPoolExecutor(CORES, mp_context=get_context("spawn")) as pool:
        rates = pool.map(_embedding_rate, [table] * CORES, [per_tick] * CORES, [drift] * CORES)
        return sum(rates)


def _embedding_rate(table: Table, per_tick: int, drift: EmbeddingDriftConfig) -> float:
    bank, warm = _full_stream(table, drift)
    batches = [_batch(rows) for rows in _texts(table, 20_000).reshape(-1, per_tick, table.values.shape[1])]
    began = time.process_time()
    for tick, batch in enumerate(batches):
        bank.detector.update(batch, warm + tick)
    return len(batches) * per_tick / (time.process_time() - began)


def cuda(table: Table) -> dict[str, Any]:
    """Texts a second of the kernel rff on a CUDA device, copies included, by wall time, median of ticks: of the whole
    detector and of the feature map alone, which gives sums of 16 texts back."""
    import torch  # seconds: only here

    if not torch.cuda.is_available():
        return {"device": "cpu", "skipped": "torch finds no CUDA device"}
    drift = EmbeddingDriftConfig(kernel="rff", device="cuda")
    bank, tick = _full_stream(table, drift)
    features = make_features(drift)
    rows = _texts(table, CUDA_TICK)
    unit, _ = unit_vectors(rows, None)
    starts = np.arange(0, CUDA_TICK, 16)
    whole, alone = [], []
    for _ in range(20):
        tick += 1
        batch = _batch(rows)
        began = time.perf_counter()
        bank.detector.update(batch, tick)
        updated = time.perf_counter()
        features.sums(unit, starts, 1.3)
        whole.append(updated - began)
        alone.append(time.perf_counter() - updated)
    return {
        "device": torch.cuda.get_device_name(),
        "embedding_updates_per_s_rff": round(CUDA_TICK / float(np.median(whole))),
        "features_per_s": round(CUDA_TICK / float(np.median(alone))),
    }


def window_check_s(table: Table) -> float:
    """CPU seconds to take 200 texts and say whether they drift, median."""
    bank, tick = _full_stream(table)
    spent = []
    for rows in _texts(table, 50 * WINDOW).reshape(50, WINDOW, -1):
        tick += 1
        began = time.process_time()
        bank.detector.update(_batch(rows), tick)
        spent.append(time.process_time() - began)
    return float(np.median(spent))


def _full_stream(table: Table, drift: EmbeddingDriftConfig | None = None) -> tuple[Bank, int]:
    scenario = Scenario("speed", "embedding")
    config = settings(1e-3, scenario)  # a level that is soon fitted; updates cost the same
    config = config.model_copy(update={"embedding_drift": drift or config.embedding_drift})
    baseline = fit("embedding_drift", config, table, reference(table, scenario, 20_000, 0))
    bank = Bank("embedding_drift", config, table, [baseline], 1)
    warm = nulls(table, scenario, 1, 300)
    bank.run(warm)
    return bank, len(warm.ends)


def _texts(table: Table, n: int) -> NDArray[Any]:
    rows = rng_of("speed").integers(0, table.sizes["healthy"], n)
    texts: NDArray[Any] = table.values[rows].astype(np.float64)
    return texts


def _batch(rows: NDArray[Any]) -> TickBatch:
    return TickBatch(np.zeros(len(rows), np.intp), rows, np.arange(len(rows)))


def tick_ms(name: str, table: Table) -> float:
    """A tick of a detector with 1,000 streams and 10 units for each, median of 100, milliseconds of CPU."""
    scenario = Scenario("speed", table.signal)
    config = settings(OPERATING, scenario)
    bank = Bank(name, config, table, [fit(name, config, table, reference(table, scenario, 50_000, 0))], STREAMS)
    rng = rng_of("speed", name)
    slot = np.tile(np.arange(STREAMS), UNITS)
    spent = []
    for tick in range(TICKS):
        value = table.values[rng.integers(0, table.sizes["healthy"], len(slot))].astype(np.float64)
        batch = TickBatch(slot, value, np.arange(len(slot)))
        began = time.process_time()
        bank.detector.update(batch, tick)
        spent.append(time.process_time() - began)
    return 1000 * float(np.median(spent))

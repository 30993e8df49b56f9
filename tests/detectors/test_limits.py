import numpy as np
import pytest

from driftline.detectors import limits
from driftline.detectors.base import Floats
from driftline.detectors.config import BudgetConfig, EmbeddingDriftConfig
from driftline.detectors.limits import Noise
from driftline.detectors.saddlepoint import quantile
from driftline.detectors.splitting import Sample, Tail

SPECTRUM = np.array([1.0, 0.5, 0.2])
SCALES = np.array([64, 128, 256, 512])
SAMPLE = Sample(np.ones((600, 3), np.float32), np.ones(600))


def with_thresholds(monkeypatch: pytest.MonkeyPatch, found: dict[int, float]) -> limits.Limits:
    """Splitting answers for windows of k units with a factor over the law's threshold, or gives up."""

    def threshold(
        sample: Sample, k: int, spectrum: Floats, log_p: float, seed: tuple[int, ...], chains: int
    ) -> Tail | None:
        return Tail(found[k] * quantile(log_p, spectrum), np.empty((0, 2))) if k in found else None

    monkeypatch.setattr(limits, "threshold", threshold)
    return limits.split(EmbeddingDriftConfig(), BudgetConfig(), Noise(SPECTRUM, 1.0), SCALES, SAMPLE, 1)


def test_a_scale_without_a_certain_threshold_is_left_out_and_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    found = with_thresholds(monkeypatch, {128: 1.1})
    assert found.scales.tolist() == [128, 256, 512]
    log_p = float(np.log(BudgetConfig().alpha / 4))
    assert found.log_alpha.tolist() == [log_p] * 3
    assert found.limit == pytest.approx(1.1 * quantile(log_p, SPECTRUM))
    assert found.note == "Without windows of 64 texts: no certain threshold."
    assert np.unique(found.tail[:, 0]).tolist() == [0, 1, 2]


def test_longer_windows_take_the_correction_of_the_longest_that_is_certain(monkeypatch: pytest.MonkeyPatch) -> None:
    found = with_thresholds(monkeypatch, {64: 1.2, 128: 1.1})
    law = quantile(float(found.log_alpha[0]), SPECTRUM)
    assert found.limit / law == pytest.approx([1.2, 1.1, 1.1, 1.1])
    assert not found.note


def test_nothing_certain_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not len(with_thresholds(monkeypatch, {}).scales)

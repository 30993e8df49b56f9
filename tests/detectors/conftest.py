import json
import os
from collections.abc import Callable
from pathlib import Path

import cramjam
import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from driftline.detectors.base import Floats

# The same examples on every machine, however busy it is.
settings.register_profile("steady", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")

_DATA = Path(os.environ.get("DRIFTLINE_TEST_DATA", Path(__file__).parents[3] / "shared" / "data")) / "alpaca_eval"


@pytest.fixture(scope="session")
def preferences() -> Callable[[str], Floats]:
    """Judge scores of a model's answers to the 805 prompts of AlpacaEval, in order of prompts."""
    if not _DATA.is_dir():
        pytest.skip(f"no {_DATA}: real judge scores (set DRIFTLINE_TEST_DATA)")

    def load(model: str) -> Floats:
        raw = bytes(cramjam.zstd.decompress((_DATA / f"{model}.jsonl.zst").read_bytes()))
        return np.array([json.loads(line)["preference"] for line in raw.splitlines()], np.float64)

    return load

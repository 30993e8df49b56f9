"""Where the benchmark keeps what it downloads and computes: outside the project."""

import os
from pathlib import Path


def folder() -> Path:
    """$DRIFTLINE_CACHE, else ~/.cache/driftline; made if it is not there."""
    root = Path(os.environ.get("DRIFTLINE_CACHE", Path.home() / ".cache" / "driftline"))
    path = root / "detection"
    path.mkdir(parents=True, exist_ok=True)
    return path

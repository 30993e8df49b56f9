"""How a role tells whoever started it that it is at work: it writes the file named by DRIFTLINE_READY_FILE, and beside
it, with the suffix .health, the address where it answers."""

import os
from pathlib import Path

READY_FILE = "DRIFTLINE_READY_FILE"


def mark_ready() -> None:
    """To be called once a role has its partitions and their state. Does nothing where nobody asked."""
    path = os.environ.get(READY_FILE)
    if path:
        Path(path).write_text(f"{os.getpid()}\n", encoding="ascii")


def mark_address(url: str) -> None:
    """To be called once /healthz can be asked at `url`. Does nothing where nobody asked."""
    path = os.environ.get(READY_FILE)
    if path:
        address_file(Path(path)).write_text(f"{url}\n", encoding="ascii")


def address_file(ready_file: Path) -> Path:
    return ready_file.with_suffix(".health")

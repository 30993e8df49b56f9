"""How a role tells whoever started it that it is at work: it writes the file named by DRIFTLINE_READY_FILE."""

import os
from pathlib import Path

READY_FILE = "DRIFTLINE_READY_FILE"


def mark_ready() -> None:
    """To be called once a role has its partitions and their state. Does nothing where nobody asked."""
    path = os.environ.get(READY_FILE)
    if path:
        Path(path).write_text(f"{os.getpid()}\n", encoding="ascii")

"""Folders and files for their owner's eyes alone."""

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

OTHERS = stat.S_IRWXG | stat.S_IRWXO
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def make_private(folder: Path, is_ours: Callable[[set[str]], bool]) -> None:
    """Make the folder with mode 700, or give it that where it is empty or ours, by the names in it. One that holds
    somebody's other things stays as it is, as long as nobody else can write to it.

    :raises OSError: it cannot be had; `strerror` says why.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=stat.S_IRWXU)
    mode = folder.stat().st_mode
    if not mode & OTHERS:
        return
    names = {path.name for path in folder.iterdir()}
    if not names or is_ours(names):
        folder.chmod(stat.S_IRWXU)
    elif mode & OTHERS_WRITE:
        raise PermissionError(errno.EPERM, "others can write to it: chmod go-w, or choose another")


def write_private(file: Path, content: bytes) -> None:
    """With mode 600, and whole at any moment. Raises OSError."""
    new = file.with_name(f"{file.name}.new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        out.write(content)
    new.replace(file)

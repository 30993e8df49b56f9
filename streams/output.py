"""What commands give to programs: on standard output nothing else, in a file whole or not at all, and on a terminal
without what a terminal obeys."""

import sys
from collections.abc import Iterable
from pathlib import Path

import click
import msgspec

from driftline.schemas.text import for_terminal, json_for_terminal
from driftline.streams.terminal import console


def json_text(value: object) -> str:
    """Indented, and harmless wherever it is looked at."""
    return json_for_terminal(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def write(pieces: Iterable[bytes], to: Path | None = None) -> None:
    """To a file, whole or not at all (into what is no plain file, such as a pipe, as it comes), or as it is to standard
    output. What users wrote reaches a terminal as text, not as commands."""
    if to is not None and to.exists() and (to.is_symlink() or not to.is_file()):
        with to.open("wb") as file:
            file.writelines(pieces)
    elif to is not None:
        part = to.with_name(f"{to.name}.part")
        try:
            with part.open("wb") as file:
                file.writelines(pieces)
            part.replace(to)
        finally:
            part.unlink(missing_ok=True)
    elif sys.stdout.isatty():
        for piece in pieces:
            for line in piece.decode(errors="backslashreplace").splitlines():
                console.print(for_terminal(line, len(line) * 10), soft_wrap=True, highlight=False)
    else:
        out = click.get_binary_stream("stdout")
        out.writelines(pieces)
        out.flush()

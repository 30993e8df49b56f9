import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from driftline.streams import output


def broken() -> Iterator[bytes]:
    yield b"first"
    raise RuntimeError("no more")


def test_a_file_is_whole_or_what_it_was(tmp_path: Path) -> None:
    to = tmp_path / "out"
    to.write_bytes(b"before")
    with pytest.raises(RuntimeError):
        output.write(broken(), to)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert to.read_bytes() == b"before"
    output.write([b"a", b"b"], to)
    assert to.read_bytes() == b"ab"


def test_what_is_no_plain_file_stays_what_it_is(tmp_path: Path) -> None:
    pipe, link, target = tmp_path / "pipe", tmp_path / "link", tmp_path / "target"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    output.write([b"a", b"b"], pipe)
    reader.join(10)
    assert read == [b"ab"]
    assert pipe.is_fifo()

    target.write_bytes(b"before")
    link.symlink_to(target)
    output.write([b"after"], link)
    assert link.is_symlink()
    assert target.read_bytes() == b"after"

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from contextlib import suppress
from io import StringIO

from rich.console import Console

from driftline.streams.start_view import StartView


def shown(*looks: dict[str, float], terminal: bool = False) -> str:
    out = StringIO()
    with StartView(Console(file=out, force_terminal=terminal, width=60)) as view:
        for look in looks:
            view.update(look)
    return out.getvalue()


def test_plain_lines_say_what_starts_and_repeat_only_what_takes_long() -> None:
    looks = [{"kafka": 0.0}, {"kafka": 1.0}, *({"embed": float(s), "monitor": float(s)} for s in range(10))]
    looks += [{"embed": float(s)} for s in range(10, 31)] + [{}]
    assert shown(*looks).splitlines() == [
        "Starting kafka",
        "Starting embed, monitor",
        "Starting embed: 15 s",
        "Starting embed: 30 s",
    ]


def test_a_terminal_shows_the_seconds_and_is_left_clean() -> None:
    said = shown({"embed": 12.0}, terminal=True)
    assert "Starting" in said
    assert said.endswith("\x1b[?25h") or "\x1b[2K" in said


IN_A_TERMINAL = """
import logging
import time
from driftline.streams.logs import set_up
from driftline.streams.start_view import StartView
from driftline.streams.terminal import console

set_up(verbose=False, libraries=True)
with StartView() as view:
    for second in range(3):
        view.update({"topics and tables": float(second)})
        time.sleep(0.3)  # it is drawn
        logging.getLogger("driftline").info("Applied migration %d.", second)
console.print("Driftline is up.")
"""


def on_screen(output: str) -> list[str]:
    """What a terminal shows that wraps nothing."""
    lines, at, column = [""], 0, 0
    for part in re.findall(r"\x1b\[[?\d;]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", output):
        match part:
            case "\r":
                column = 0
            case "\n":
                at, column = at + 1, 0
                lines += [""] * (at + 1 - len(lines))
            case "\x1b[2K":
                lines[at] = ""
            case "\x1b[1A":
                at -= 1
            case _ if part[0] != "\x1b":
                lines[at] = f"{lines[at][:column]:{column}}{part}{lines[at][column + len(part) :]}"
                column += len(part)
    return [line.rstrip() for line in lines if line.strip()]


def test_the_log_stands_above_what_is_starting() -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    done = subprocess.Popen([sys.executable, "-c", IN_A_TERMINAL], stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    output = b""
    with suppress(OSError):  # Linux' way to say that the other end is closed
        while piece := os.read(ours, 10_000):
            output += piece
    os.close(ours)
    assert done.wait() == 0
    *logged, said = on_screen(output.decode())
    assert [line[10:] for line in logged] == [f"INFO     Applied migration {second}." for second in range(3)]
    assert said == "Driftline is up."

"""What is starting and for how long: one live line on a terminal, a line per part anywhere else."""

from collections.abc import Mapping
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.text import Text

from driftline.streams.terminal import errors

EVERY_S = 15.0  # between two plain lines while nothing changes


class StartView:
    """On the console of the log, whose lines then stand above the live one. Also a context manager. `update` is the
    supervisor's `on_progress`."""

    def __init__(self, console: Console = errors) -> None:
        self._console = console
        self._status = console.status("Starting") if console.is_terminal else None
        self._starting: dict[str, float] = {}
        self._said_at = 0.0

    def __enter__(self) -> Self:
        if self._status:
            self._status.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """Leave the terminal to others."""
        if self._status:
            self._status.stop()

    def update(self, starting: Mapping[str, float]) -> None:
        before, self._starting = self._starting, dict(starting)
        if self._status:
            self._status.update(Text(_line(starting)))
            return
        longest = max(starting.values(), default=0.0)
        if starting.keys() - before.keys():
            self._said_at = 0.0
            self._say(f"Starting {', '.join(starting)}")
        elif longest - self._said_at >= EVERY_S:
            self._said_at = longest
            self._say(_line(starting))

    def _say(self, line: str) -> None:
        self._console.print(Text(line), soft_wrap=True)


def _line(starting: Mapping[str, float]) -> str:
    if not starting:
        return "Ready"
    return f"Starting {', '.join(starting)}: {max(starting.values()):.0f} s"

"""What goes to standard error: each record a line that nobody can forge, without secrets, and no flood of one kind."""

import logging
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from types import TracebackType
from typing import TypeAlias

from rich.logging import RichHandler
from rich.text import Text

from driftline.schemas.text import for_log, for_terminal
from driftline.streams.redact import hide

LINE = 8_000  # characters of one record: a whole message of ours with several foreign values of `text.LINE`
TRACEBACK = 40_000  # hundreds of frames
LIBRARIES = ("aiokafka", "clickhouse_connect", "urllib3", "asyncio", "faust", "mode")
PASSING = (  # what is usual where a group or a broker starts, and is tried again: news only if it lasts
    "Group Coordinator Request failed",
    "Marking the coordinator dead",
)
FIRST_PAUSE_S, LONGEST_PAUSE_S = 10.0, 600.0  # between two lines of one kind from a library; doubles

_ExcInfo: TypeAlias = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


class SafeFormatter(logging.Formatter):
    """Times are UTC, like all others that Driftline shows: an hour that local time has twice is two hours."""

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        record.message = for_log(hide(record.message), LINE)
        return super().formatMessage(record)

    def formatException(self, ei: _ExcInfo) -> str:  # noqa: N802
        return for_terminal(hide(super().formatException(ei)), TRACEBACK).plain


class Repeats(logging.Filter):
    """A library that says the same again and again is heard at once, and then at growing intervals, with a count; of
    what passes by itself (`PASSING`) only if it has not after the first interval.

    What counts as the same is the message before its values are put in.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic, *, silent: Collection[str] = ()) -> None:
        super().__init__()
        self._silent = silent  # libraries of which a command tells the errors itself
        self._now = now
        self._said: dict[tuple[str, object], _Said] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        library = record.name.partition(".")[0]
        if library in _silent or library in self._silent:
            return False
        if library not in LIBRARIES:
            return True
        now, key = self._now(), (record.name, record.msg)
        said = self._said.get(key)
        if said is None or now - said.at > 2 * LONGEST_PAUSE_S:
            if len(self._said) >= 1_000:
                self._said.clear()
            self._said[key] = _Said(now)
            passes = isinstance(record.msg, str) and record.msg.startswith(PASSING)
            self._said[key].missed += passes
            return not passes
        if now < said.at + said.pause_s:
            said.missed += 1
            return False
        if said.missed:
            record.msg, record.args = f"{record.getMessage()} [{said.missed:,} more like this]", ()
        said.at, said.pause_s, said.missed = now, min(2 * said.pause_s, LONGEST_PAUSE_S), 0
        return True


class _Said:
    def __init__(self, at: float) -> None:
        self.at = at
        self.pause_s = FIRST_PAUSE_S
        self.missed = 0


_silent: set[str] = set()


@contextmanager
def without(library: str) -> Iterator[None]:
    """While we say ourselves what it would say."""
    _silent.add(library)
    try:
        yield
    finally:
        _silent.discard(library)


def _utc(at: datetime) -> Text:
    return Text(f"{at.astimezone(UTC):%H:%M:%SZ}")


def set_up(*, verbose: bool, libraries: bool) -> None:
    """Log to standard error. `libraries`: also what libraries warn of, in processes that run for long; a command tells
    its errors itself."""
    handler: logging.Handler
    if sys.stderr.isatty():
        from driftline.streams.terminal import errors

        handler = RichHandler(console=errors, show_path=False, log_time_format=_utc)
        handler.setFormatter(SafeFormatter("%(message)s"))
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(SafeFormatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    if not verbose:
        handler.addFilter(Repeats(silent=() if libraries else LIBRARIES))
    logging.basicConfig(level=logging.DEBUG if verbose else logging.INFO, handlers=[handler])
    logging.getLogger("aiokafka").setLevel(logging.WARNING)

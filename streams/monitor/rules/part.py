"""What every kind of rule over windows has in common."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, TypeAlias

from driftline.detectors.base import Measurement, State
from driftline.streams.monitor.alerts import Wording
from driftline.streams.monitor.watch import Reading, Stream
from driftline.streams.monitor.windows import Closed

FORGET_S = 3_600  # without anything to judge by: then a stream is forgotten, and its alert ends


class Began(NamedTuple):
    """An alert. Times are microseconds."""

    stream: Stream
    at: int
    since: int
    measurement: Measurement
    wording: Wording
    contributors: Sequence[str] = ()


class Ended(NamedTuple):
    stream: Stream
    at: int
    measurement: Measurement
    reason: str


Change: TypeAlias = Began | Ended


class Context(NamedTuple):
    """What rules may ask the rest of the analysis."""

    is_stable: Callable[[str, str], bool]  # (app, release): whether it may serve as a reference
    contributors: Callable[[str, str, str, int], list[str]]  # (detector, app, release, since): who stands behind it


class Part(Protocol):
    """One kind of rule over all apps of a partition."""

    @property
    def rule(self) -> str:
        """Its name in alerts and evidence."""

    @property
    def over_limit(self) -> int:
        """Streams that were not judged, because there are too many."""

    def close(self, start: int, windows: Sequence[Closed]) -> list[Change]:
        """The windows of one start, closed for the first time, in order of key; none: nothing happened. Starts
        ascend."""

    def firing(self) -> set[Stream]: ...

    def forget(self, app: str, release: str, at: int) -> None:
        """A release has left traffic then: its alerts are ended by the caller."""

    def readings(self) -> list[Reading]:
        """Where the streams stand that had windows since the last call, and all that are in alarm."""

    def snapshot(self) -> State: ...

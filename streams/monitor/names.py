"""Which names of others are known apart. Whoever can write an event chooses apps, releases, models, score names and
error types; what the monitor keeps for each of them must stay bounded all the same.

A name is known apart from its first event on, in the order of the log, as long as there is room for it; what comes
above counts under `(other)`, so that sums still add up. It gives its place away after a day without events. So what is
admitted depends on the log alone, never on how it was batched: places are given in the order of events, and fall free
at ticks.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from driftline.detectors.base import State
from driftline.schemas.events import MICROSECONDS
from driftline.streams.monitor.config import LimitsConfig

OTHER = "(other)"
_SWEEP_US = 3600 * MICROSECONDS  # how often idle names are looked for
_DEFAULTS = LimitsConfig()
_OWN = 2  # of an app that are known apart although others have filled what all share: the pool is that much larger
_MANY = 10_000  # names without a place that are remembered, so that they are not looked at again


class TraceSeries(NamedTuple):
    """What many traces have in common."""

    app: str
    release: str
    provider: str
    request_model: str
    response_model: str

    @property
    def model(self) -> str:
        return self.response_model or self.request_model

    @property
    def parts(self) -> tuple[tuple[str, ...], ...]:
        """What has limits of its own within an app: the release, and the model."""
        return (self.release,), self[2:]

    @property
    def watched(self) -> bool:
        """Whether detectors look at it: apps that are mixed have no reference."""
        return self.app != OTHER


class ScoreSeries(NamedTuple):
    app: str
    release: str
    name: str
    model: str

    @property
    def parts(self) -> tuple[tuple[str, ...], ...]:
        return (self.release,), (self.name,), (self.model,)

    @property
    def watched(self) -> bool:
        return OTHER not in (self.app, self.name)


S = TypeVar("S", TraceSeries, ScoreSeries)
Integers = NDArray[np.int64]


class Names(dict[tuple[str, ...], int], Generic[S]):
    """Numbers of series: meaningful in this process only, and never a part of a result. Look a series up to get its
    number, or that of the `(other)` it counts under."""

    def __init__(self, kind: type[S], limits: LimitsConfig = _DEFAULTS, state: State | None = None) -> None:
        state = state or {}
        self._kind: type[S] = kind
        self._limits = limits
        of_part = {
            TraceSeries: (limits.releases, limits.models),
            ScoreSeries: (limits.releases, limits.scores, limits.models),
        }
        self._most: tuple[int, ...] = of_part[kind]
        self._idle = limits.idle_s * MICROSECONDS
        self._now: int = state.get("now", 0)  # the last tick
        self._swept: int = state.get("swept", 0)
        self.overflow: int = state.get("overflow", 0)  # events that counted under `(other)`
        self.names: list[S] = []
        self._others: set[int] = set()  # numbers of series that are not known apart, in a part at least
        self._last: list[int] = []  # of each: the tick of its last events
        self._open()
        for series, last in zip(state.get("names", []), state.get("last", []), strict=True):
            self._add(self._kind(*series), last)

    def _open(self) -> None:
        self.clear()
        self.names, self._last, self._others = [], [], set()
        self._of_app: Counter[str] = Counter()  # how many series each has
        self._parts: Counter[tuple[str, int]] = Counter()  # (app, part) -> how many different ones
        self._known: set[tuple[object, ...]] = set()  # (app,), and (app, part, names)

    def __missing__(self, key: tuple[str, ...]) -> int:
        series = self._admitted(self._kind(*key))
        number = self.get(series)
        if number is None:
            number = self._add(series, self._now)
        if series != key:
            if len(self) > len(self.names) + _MANY:
                self._forget_aliases()
            self[key] = number
        return number

    def _admitted(self, series: S) -> S:
        """The series under which this one counts."""
        app, limits = series.app, self._limits
        if (app,) not in self._known and self._parts["", 0] >= limits.apps:
            return self._kind(*(OTHER,) * len(series))
        parts: list[str] = []
        for number, (part, most) in enumerate(zip(series.parts, self._most, strict=True)):
            room = (app, number, part) in self._known or self._parts[app, number] < most
            parts += part if room else (OTHER,) * len(part)
        admitted = self._kind(app, *parts)
        if admitted in self or len(self.names) < limits.series or self._of_app[app] < _OWN:
            return admitted
        return self._kind(app, *(OTHER,) * (len(series) - 1))

    def _add(self, series: S, last: int) -> int:
        number = self[series] = len(self.names)
        self.names.append(series)
        self._of_app[series.app] += 1
        self._last.append(last)
        if OTHER in series:
            self._others.add(number)
        self._know("", 0, (series.app,), (series.app,))
        for i, part in enumerate(series.parts):
            self._know(series.app, i, part, (series.app, i, part))
        return number

    def _know(self, app: str, part: int, names: tuple[str, ...], key: tuple[object, ...]) -> None:
        if OTHER not in names and key not in self._known:
            self._known.add(key)
            self._parts[app, part] += 1

    def _forget_aliases(self) -> None:
        for key in [key for key, number in self.items() if self.names[number] != key]:
            del self[key]

    def numbers(self, keys: Iterable[tuple[str, ...]]) -> Integers:
        """Of each event's series, in the order of the log."""
        numbers = np.array(list(map(self.__getitem__, keys)), np.int64)
        if self._others:
            self.overflow += int(np.isin(numbers, list(self._others)).sum())
        return numbers

    def watched(self, numbers: Integers) -> NDArray[np.bool_] | None:
        """Which events detectors look at; None: all."""
        mixed = [number for number in self._others if not self.names[number].watched]
        return np.isin(numbers, mixed, invert=True) if mixed else None

    def apart(self, keys: Sequence[tuple[str, ...]], numbers: Integers) -> tuple[Integers, Sequence[S]]:
        """The same with the events' own names, also of those that count under `(other)`: for prices."""
        if not self._others or not np.isin(numbers, list(self._others)).any():
            return numbers, self.names
        own: dict[tuple[str, ...], int] = {}
        apart = np.array([own.setdefault(key, len(own)) for key in keys], np.int64)
        return apart, [self._kind(*key) for key in own]

    def tick(self, now: int, seen: Integers) -> None:
        """seen: the series of the events that this tick gives to the detectors."""
        self._now = now
        for number in np.flatnonzero(np.bincount(seen)).tolist() if len(seen) else ():
            self._last[number] = now

    def sweep(self, waiting: Sequence[Integers]) -> Integers | None:
        """Forget idle series, from time to time. waiting: the series of events that wait for their tick, which are not
        idle. Returns the new numbers by the old ones, if they have changed."""
        if self._now - self._swept < _SWEEP_US:
            return None
        self._swept = self._now
        for numbers in waiting:
            for number in np.flatnonzero(np.bincount(numbers)).tolist():
                self._last[number] = self._now
        kept = [number for number, last in enumerate(self._last) if self._now - last < self._idle]
        if len(kept) == len(self.names):
            return None
        new = np.full(len(self.names), -1, np.int64)
        new[kept] = np.arange(len(kept))
        known = [(self.names[number], self._last[number]) for number in kept]
        self._open()
        for series, last in known:
            self._add(series, last)
        return new

    def snapshot(self) -> State:
        return {
            "now": self._now,
            "swept": self._swept,
            "overflow": self.overflow,
            "names": [list(series) for series in self.names],
            "last": self._last,
        }


class ErrorTypes:
    """The error types of each app that are known apart."""

    def __init__(self, limits: LimitsConfig, state: State | None = None) -> None:
        state = state or {}
        self._limits = limits
        self._idle = limits.idle_s * MICROSECONDS
        self._now: int = state.get("now", 0)
        self._swept: int = state.get("swept", 0)
        self.overflow: int = state.get("overflow", 0)  # failed requests whose error type counted under `(other)`
        self._last: dict[str, dict[str, int]] = {app: dict(types) for app, types in state.get("last", [])}
        self._size = sum(map(len, self._last.values()))

    def known(self, app: str, error_type: str) -> str:
        """The error type, or what it counts under."""
        if not error_type:
            return error_type
        types = self._last.get(app, {})
        if error_type not in types:
            shared = self._size < self._limits.series or len(types) < _OWN
            if len(types) >= self._limits.error_types or not shared:
                self.overflow += 1
                return OTHER
            self._last.setdefault(app, types)
            self._size += 1
        types[error_type] = self._now
        return error_type

    def tick(self, now: int) -> None:
        self._now = now
        if now - self._swept < _SWEEP_US:
            return
        self._swept = now
        fresh = {
            app: {error_type: last for error_type, last in types.items() if now - last < self._idle}
            for app, types in self._last.items()
        }
        self._last = {app: types for app, types in fresh.items() if types}
        self._size = sum(map(len, self._last.values()))

    def snapshot(self) -> State:
        return {
            "now": self._now,
            "swept": self._swept,
            "overflow": self.overflow,
            "last": [[app, list(types.items())] for app, types in self._last.items()],
        }

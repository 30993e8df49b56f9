"""Spending of the last minutes against what is usual for the app at this time of the day.

A robust threshold, no e-process: spending hangs together for hours, so that no e-value per minute would keep a stated
rate. r = ln(1 + microdollars of the last span) - the median of the spans at the same time on the last seven days;
z = r / scale, their median absolute deviation, which has the days' differences and the noise within them. Medians, so
that one bad day moves nothing.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median

import numpy as np

from driftline.detectors.base import Measurement, State
from driftline.schemas.events import MICROSECONDS
from driftline.schemas.ids import stable_id
from driftline.streams.monitor.rules import texts
from driftline.streams.monitor.rules.config import CostSpikeConfig, match
from driftline.streams.monitor.rules.evaluate import Row, Step, Verdict, windows
from driftline.streams.monitor.rules.part import FORGET_S, Began, Change, Ended
from driftline.streams.monitor.rules.reference import DAYS, HOUR
from driftline.streams.monitor.rules.spending import Spendings
from driftline.streams.monitor.watch import Reading, Stream
from driftline.streams.monitor.windows import NANO, Closed

MAX_APPS = 500  # of one partition: 8 kB each in its state
_MAD = 1.4826  # a median absolute deviation, as a standard deviation of a Gaussian
_LEAST_SCALE = 0.05  # of r: steadier spending than this is not worth an alert at 30 % more
_UNIT = 1_000  # nano-dollars in a microdollar
_AROUND = (-1, 0, 1, 2)  # the spans of another day around the one that is judged, which lies between two of them


@dataclass(frozen=True)
class Usual:
    """r of this time of the day."""

    level: float
    scale: float

    def dollars(self, z: float) -> float:
        return math.expm1(self.level + z * self.scale) * _UNIT / NANO


class History:
    """One app: its last windows one by one, and the spans of the last seven days. A span begins at a multiple of its
    length, which divides a day."""

    def __init__(self, first: int, span: int, state: State | None = None) -> None:
        self.first = first  # start of the first window, microseconds
        self._span = span
        self._per_day = 24 * HOUR // span
        self._windows: list[tuple[int, int | None, bool]] = []  # start, nano-dollars, may be learned from
        self._open = first // span  # number of the span that is not over
        self._spans: dict[int, float] = {}  # number -> r + level
        if state is not None:
            self.first, self._open = state["first"], state["open"]
            self._windows = [(start, nanousd, healthy) for start, nanousd, healthy in state["windows"]]
            self._spans = dict(zip(state["numbers"].tolist(), state["values"].tolist(), strict=True))

    def advance(self, start: int) -> None:
        """Time has come to the window that starts then: spans before it are over. Without windows they are without
        spending; the first one is not known from its beginning."""
        now = start // self._span
        if now == self._open:
            return
        oldest = now - DAYS * self._per_day
        for number in range(max(self._open, oldest), now):
            mine = [w for w in self._windows if w[0] // self._span == number]
            if number * self._span >= self.first and all(nanousd is not None and ok for _, nanousd, ok in mine):
                self._spans[number] = _log(sum(nanousd or 0 for _, nanousd, _ in mine))
        while self._spans and (first := next(iter(self._spans))) < oldest:
            del self._spans[first]
        self._windows = [w for w in self._windows if w[0] >= start - self._span]
        self._open = now

    def add(self, start: int, nanousd: int | None) -> None:
        """What the window that starts then spent; None: its price is unknown."""
        self._windows = [w for w in self._windows if w[0] >= start - self._span]
        self._windows.append((start, nanousd, True))

    def hold(self) -> None:
        """The spans that the last windows are of are not healthy."""
        self._windows = [(start, nanousd, False) for start, nanousd, _ in self._windows]

    def began(self, end: int, level: float) -> int:
        """The window from which on, up to `end`, most was spent above twice the usual."""
        share = 2 * math.expm1(level) * _UNIT / self._span  # nano-dollars in a microsecond
        excess, most, began = 0.0, -math.inf, end
        for start, nanousd, _ in reversed(self._windows):
            excess += (nanousd or 0) - share * (end - start)
            end = start
            if excess > most:
                most, began = excess, start
        return began

    def spent(self, end: int) -> int | None:
        """In the span that ends then. None: not known."""
        mine = [nanousd for start, nanousd, _ in self._windows if end - self._span <= start < end]
        if end - self._span < self.first or None in mine:
            return None
        return sum(nanousd or 0 for nanousd in mine)

    def usual(self, end: int, need_days: float) -> Usual | str:
        """For the span that ends then; or why nobody can say."""
        if end - self.first < need_days * 24 * HOUR:
            return f"needs {need_days:g} days of spending to know what is usual"
        number = (end - self._span) // self._span
        days = range(1, DAYS + 1)
        around = [self._spans.get(number + i - day * self._per_day) for day in days for i in _AROUND]
        cell = [value for value in around if value is not None]
        if len(cell) < need_days * len(_AROUND) / 2:
            return "less than half of the spending at this time of the day is known and healthy"
        level = median(cell)
        if level <= 0:
            return "on most days nothing is spent at this time"
        return Usual(level, max(_LEAST_SCALE, _MAD * median(abs(value - level) for value in cell)))

    @property
    def idle(self) -> bool:
        """Nothing was spent in seven days."""
        return not any(self._spans.values()) and not any(nanousd for _, nanousd, _ in self._windows)

    def snapshot(self) -> State:
        return {
            "first": self.first,
            "open": self._open,
            "windows": [list(window) for window in self._windows],
            "numbers": np.array(list(self._spans), np.int64),
            "values": np.array(list(self._spans.values()), np.float64),
        }


@dataclass
class _App:
    history: History
    row: Row = field(default_factory=Row)
    nanousd: int | None = 0  # of the last span; None: unknown
    requests: int = 0  # of the last window
    level: float | None = None  # what was usual then
    scale: float = 0.0
    note: str = ""  # why nothing is usual
    touched: bool = False


class Spikes:
    rule = "cost_spike"

    def __init__(self, config: CostSpikeConfig, size_s: int, spendings: Spendings, state: State | None = None) -> None:
        self._config = config
        self._spendings = spendings
        self._size = size_s * MICROSECONDS
        self._size_s = size_s
        self._span = config.span_s * MICROSECONDS
        self._quiet = windows(FORGET_S, size_s)
        state = state or {}
        self._apps: dict[str, _App] = {}
        if state.get("config") == self._fingerprint():
            for app, fields in state["apps"]:
                history, row = History(0, self._span, fields["history"]), Row(**fields["row"])
                self._apps[app] = _App(**{**fields, "history": history, "row": row})
        self.over_limit: int = state.get("over_limit", 0)

    def _fingerprint(self) -> str:
        return stable_id(self._size_s, self._config.model_dump_json())

    def snapshot(self) -> State:
        return {
            "config": self._fingerprint(),
            "apps": [
                [name, {**_fields(app), "history": app.history.snapshot(), "row": asdict(app.row)}]
                for name, app in sorted(self._apps.items())
            ],
            "over_limit": self.over_limit,
        }

    def close(self, start: int, windows: Sequence[Closed]) -> list[Change]:
        spent: dict[str, list[Closed]] = {}
        for window in windows:
            if match(self._config.app, window.app):
                spent.setdefault(window.app, []).append(window)
        for name in sorted(spent.keys() - self._apps.keys()):
            if len(self._apps) >= MAX_APPS:
                self.over_limit += 1
            else:
                self._apps[name] = _App(History(start, self._span))
        changes: list[Change] = []
        for name, app in sorted(self._apps.items()):
            if name in spent or app.row.firing:
                changes += self._judge(name, app, spent.get(name, ()), start)
        if start % HOUR == 0:
            for app in self._apps.values():
                app.history.advance(start)
            self._apps = {name: app for name, app in self._apps.items() if app.row.firing or not app.history.idle}
        return changes

    def _judge(self, name: str, app: _App, windows_: Sequence[Closed], start: int) -> list[Change]:
        config = self._config
        at = start + self._size
        app.history.advance(start)
        app.history.add(start, _nanousd(windows_))
        app.requests = sum(window.counts["requests"] for window in windows_)
        app.nanousd = app.history.spent(at)
        app.touched = True
        usual = app.history.usual(at, config.history_days)
        app.level, app.scale, app.note = (
            (usual.level, usual.scale, "") if isinstance(usual, Usual) else (None, 0.0, usual)
        )
        verdict = self._verdict(app)
        step = app.row.step(
            verdict,
            start,
            empty=not windows_,
            bad=1,
            clear=windows(config.clear_for_s, self._size_s),
            quiet=self._quiet,
        )
        if app.row.firing:
            app.history.hold()
        stream = Stream(name, "", "")
        if step is Step.FIRED:
            m, since = self._measure(app), app.history.began(at, app.level or 0.0)
            why = self._spendings.why(name, since)
            return [Began(stream, at, since, m, texts.cost_spike(config, name, m, since, why))]
        if step is Step.NOTHING:
            return []
        reason = (
            f"nothing to judge it by for {FORGET_S // 60} min"
            if step is Step.SILENT
            else f"as usual for {texts.duration(config.clear_for_s)}"
        )
        return [Ended(stream, at, self._measure(app), reason)]

    def _verdict(self, app: _App) -> Verdict:
        if app.nanousd is None or app.level is None:
            return Verdict.QUIET
        r = _log(app.nanousd) - app.level
        if r < math.log(self._config.least_ratio) or r <= self._config.z / 2 * app.scale:
            return Verdict.CLEAR
        return Verdict.BAD if r > self._config.z * app.scale else Verdict.BETWEEN

    def _measure(self, app: _App) -> Measurement:
        usual = None if app.level is None else Usual(app.level, app.scale)
        value = None if app.nanousd is None else app.nanousd / NANO
        baseline = None if usual is None else usual.dollars(0)
        limit = (
            None if usual is None else max(usual.dollars(self._config.z), self._config.least_ratio * usual.dollars(0))
        )
        return Measurement(
            threshold=limit or 0.0,
            value=value,
            baseline=baseline,
            effect=value / baseline - 1 if value is not None and baseline else None,
            n_events=app.requests,
            guarantee="none",
            note=app.note,
        )

    def firing(self) -> set[Stream]:
        return {Stream(name, "", "") for name, app in self._apps.items() if app.row.firing}

    def forget(self, app: str, release: str, at: int) -> None:
        """Spending is the app's."""

    def readings(self) -> list[Reading]:
        readings = []
        for name, app in sorted(self._apps.items()):
            if app.touched or app.row.firing:
                app.touched = False
                measurement = None if app.level is None else self._measure(app)
                readings.append(Reading(Stream(name, "", ""), app.row.firing, measurement, "", app.note))
        return readings


def _nanousd(windows_: Iterable[Closed]) -> int | None:
    """None: there were requests, and not one with a price."""
    requests = priced = nanousd = 0
    for window in windows_:
        requests += window.counts["requests"]
        priced += window.counts["priced"]
        nanousd += window.counts["nanousd"]
    return None if requests and not priced else nanousd


def _log(nanousd: int) -> float:
    return math.log1p(nanousd / _UNIT)


def _fields(app: _App) -> dict[str, object]:
    return {name: value for name, value in vars(app).items() if name not in ("history", "row")}

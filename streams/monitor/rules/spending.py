"""What each app lately spent on which model, so that an alert on money can say why it changed."""

from collections.abc import Iterable, Mapping, Sequence

from driftline.detectors.attribution import FACTORS, Spending, cost_change
from driftline.detectors.base import State
from driftline.schemas.events import MICROSECONDS
from driftline.streams.monitor.rules.reference import HOUR
from driftline.streams.monitor.windows import Closed

MAX_APPS = 500  # of one partition: 3 kB each in its state, with three models
MAX_MODELS = 20  # of an app and period; the rest is one
RECENT = 30  # windows that are known one by one
HOURS = 25  # the same hour a day before, and those since
REST = "other models"

Models = dict[str, list[int]]  # requests, tokens, nano-dollars: of requests with a price


class Spendings:
    def __init__(self, size_s: int, state: State | None = None) -> None:
        self._size_s = size_s
        state = state or {}
        self._recent: dict[str, dict[int, Models]] = {app: _load(p) for app, p in state.get("recent", [])}
        self._hours: dict[str, dict[int, Models]] = {app: _load(p) for app, p in state.get("hours", [])}
        self._windows: dict[str, dict[int, int]] = {  # with spending, of each hour
            app: dict(counts) for app, counts in state.get("windows", [])
        }

    def snapshot(self) -> State:
        return {
            "recent": [[app, _dump(periods)] for app, periods in sorted(self._recent.items())],
            "hours": [[app, _dump(periods)] for app, periods in sorted(self._hours.items())],
            "windows": [[app, [list(c) for c in counts.items()]] for app, counts in sorted(self._windows.items())],
        }

    def add(self, start: int, windows: Iterable[Closed]) -> None:
        """The windows of one start, in order of key; starts ascend."""
        hour = start // HOUR
        for window in windows:
            if not window.counts["priced"] or (window.app not in self._recent and len(self._recent) >= MAX_APPS):
                continue
            app = window.app
            recent, hours = self._recent.setdefault(app, {}), self._hours.setdefault(app, {})
            if start not in recent:
                counts = self._windows.setdefault(app, {})
                counts[hour] = counts.get(hour, 0) + 1
            for models in (recent.setdefault(start, {}), hours.setdefault(hour, {})):
                known = window.model in models or len(models) < MAX_MODELS
                row = models.setdefault(window.model if known else REST, [0, 0, 0])
                row[0] += window.counts["priced"]
                row[1] += window.counts["input_tokens"] + window.counts["output_tokens"]
                row[2] += window.counts["nanousd"]
        self._forget(start, hour)

    def _forget(self, start: int, hour: int) -> None:
        oldest = start - RECENT * self._size_s * MICROSECONDS
        for app in list(self._hours):
            recent, hours, counts = self._recent[app], self._hours[app], self._windows[app]
            for old in [at for at in recent if at <= oldest]:
                del recent[old]
            for old in [at for at in hours if at <= hour - HOURS]:
                del hours[old], counts[old]
            if not hours:
                del self._recent[app], self._hours[app], self._windows[app]

    def why(self, app: str, since: int) -> str:
        """What changed in an app's spending since then, against the same hour a day before, or else the hours before.
        Empty where nothing is known to compare."""
        size = self._size_s * MICROSECONDS
        recent = [models for start, models in self._recent.get(app, {}).items() if start + size > since]
        before, windows, name = self._before(app, since // HOUR)
        change = cost_change(_together(before, windows * self._size_s), _together(recent, len(recent) * self._size_s))
        return _told(f"Spending of {app}", name, change, FACTORS)

    def why_each(self, app: str, since: int, recent: Models) -> str:
        """The same of the cost of one request. recent: what is known since then."""
        before, _, name = self._before(app, since // HOUR)
        change = cost_change(
            *(_together(part, sum(r[0] for m in part for r in m.values())) for part in (before, [recent]))
        )
        return _told("Cost per request", name, change, FACTORS[1:])

    def _before(self, app: str, hour: int) -> tuple[list[Models], int, str]:
        """What to compare with, how many windows with spending that was, and in words."""
        hours, counts = self._hours.get(app, {}), self._windows.get(app, {})
        if hour - 24 in hours:
            return [hours[hour - 24]], counts[hour - 24], "the same hour a day before"
        before = [h for h in hours if h < hour]
        return [hours[h] for h in before], sum(counts[h] for h in before), "the hours before"


def _told(what: str, name: str, change: Mapping[str, float] | None, factors: Sequence[str]) -> str:
    if change is None:
        return ""
    parts = ", ".join(f"{factor} {_signed(change[factor])}" for factor in factors)
    return f"{what} against {name}: {_signed(sum(change.values()))} ({parts})."


def _signed(part: float) -> str:
    return f"{part:+.0%}" if abs(part) >= 0.005 else "0%"


def _together(parts: Sequence[Models], seconds: float) -> Spending:
    models: dict[str, tuple[int, int, int]] = {}
    for part in parts:
        for model, (requests, tokens, nanousd) in part.items():
            r, t, n = models.get(model, (0, 0, 0))
            models[model] = (r + requests, t + tokens, n + nanousd)
    return Spending(seconds, models)


def _dump(periods: dict[int, Models]) -> State:
    """With each model's name once."""
    names = sorted({name for models in periods.values() for name in models})
    number = {name: i for i, name in enumerate(names)}
    return {
        "names": names,
        "rows": [[at, number[name], *row] for at, models in periods.items() for name, row in models.items()],
    }


def _load(state: State) -> dict[int, Models]:
    periods: dict[int, Models] = {}
    for at, name, *row in state["rows"]:
        periods.setdefault(at, {})[state["names"][name]] = row
    return periods

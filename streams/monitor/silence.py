"""Apps that fall silent. Without events no detector alarms, and "no drift" would be wrong: it is not known.

Silence counts while requests are expected: in an app that has been active in each of the last 24 hours, always; in one
with nights or weekends, in the hours in which it was active a week ago, hour before and hour after included. So nothing
is said in an app's first day, nor, of an app with nights, in its first week; and holidays are silence. An app is stale
when it is silent for ten times the 99.9 % quantile of the time between its requests, and for a minute at least (half
an hour for apps with nights, which open and close a little earlier or later each day).

It is the app that is watched, not each release: releases replace each other without a word.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from driftline.detectors.base import Measurement, State
from driftline.detectors.columns import Columns
from driftline.detectors.units import NEVER
from driftline.schemas.events import MICROSECONDS
from driftline.schemas.results import Alert, Evidence
from driftline.streams.monitor.alerts import Wording, clock_time
from driftline.streams.monitor.columns import Traces
from driftline.streams.monitor.config import SilenceConfig
from driftline.streams.monitor.incidents import Incidents
from driftline.streams.monitor.names import TraceSeries
from driftline.streams.monitor.watch import Stream

RULE = "stale"
_HOUR = 3600 * MICROSECONDS
_WEEK = 168  # hours
_DAY = 24
_BINS = 53  # of times between requests: up to a second, then four an octave, up to two hours
_EDGES = np.array([2 ** (number / 4) for number in range(_BINS)])  # the longest time in each, seconds
_QUANTILE = 0.999
_MOST = 100_000  # requests, then all counts of gaps are halved: the newer ones weigh more
_NEVER = -1  # of columns
_MAX_APPS = 2_000  # of a partition, 1 kB each; with more, the others are not watched


def active_apps(traces: Traces, names: Sequence[TraceSeries]) -> dict[str, tuple[int, str]]:
    """The number of each app's requests in a tick, and the release that served most of them."""
    apps: dict[str, tuple[int, str]] = {}
    counts = np.bincount(traces.series)
    largest: dict[str, int] = {}
    for number in np.flatnonzero(counts).tolist():
        count, name = int(counts[number]), names[number]
        total, release = apps.get(name.app, (0, ""))
        if count > largest.get(name.app, 0):
            largest[name.app], release = count, name.release
        apps[name.app] = (total + count, release)
    return apps


class Silences:
    def __init__(self, config: SilenceConfig, tick_s: float, notices: Incidents, state: State | None = None) -> None:
        self._config = config
        self._tick_s = tick_s
        self._tick = round(tick_s * MICROSECONDS)
        self._notices = notices
        self._row: dict[str, int] = {}
        self._releases: list[str] = []  # of each row: what served last
        self._columns = Columns(
            last=((), np.int64, _NEVER),  # the end of the last tick with requests
            streak=((), np.int64, 0),  # consecutive hours with requests, up to that tick
            hours=((_WEEK,), np.int32, _NEVER),  # of each hour of the week, the last one with requests
            gaps=((_BINS,), np.int32, 0),
            requests=((), np.int64, 0),  # since the gaps were halved
            silent=((), np.int64, 0),  # ticks in which requests were expected
            stale=((), np.bool_, 0),
        )
        if state:
            self._row = dict(state["rows"])
            self._releases = list(state["releases"])
            self._columns.restore(state["columns"])

    def snapshot(self) -> State:
        return {
            "rows": [list(item) for item in self._row.items()],
            "releases": self._releases,
            "columns": self._columns.snapshot(),
        }

    def step(self, active: Mapping[str, tuple[int, str]], now: int, revision: int) -> list[Evidence | Alert]:
        """The tick that ends at `now`."""
        results: list[Evidence | Alert] = []
        hour = (now - 1) // _HOUR
        for app, (requests, release) in active.items():
            results += self._heard(app, requests, release, hour, now, revision)
        c = self._columns
        waiting = (c["last"] != now) & (c["last"] != _NEVER)
        if not waiting.any():
            return results
        if self._begins_hour(now):
            results += self._give_up(now, revision)
        missed = (c["last"] != now) & self._expected(hour)
        c["silent"][missed] += 1
        rows = np.flatnonzero(missed & (c["silent"] >= self._ticks(self._least())))
        if len(rows):
            usual, limits = self._limits(rows)
            known = c["gaps"][rows].sum(1) >= self._config.min_requests
            stale = known & (c["silent"][rows] >= self._ticks(limits))
            for i in np.flatnonzero(stale).tolist():
                results += self._fire(int(rows[i]), float(usual[i]), float(limits[i]), now, revision)
        return results

    def due(self, now: int) -> int:
        """The end of a tick, if none has requests from the one on that ends at `now`: ticks before it only count as
        silent, all in one hour."""
        c = self._columns
        if not (c["last"] != _NEVER).any():
            return NEVER
        if self._begins_hour(now):
            return now
        hour = (now - 1) // _HOUR
        next_hour = now + (((hour + 1) * _HOUR - now) // self._tick + 1) * self._tick
        rows = np.flatnonzero(self._expected(hour))
        rows = rows[c["gaps"][rows].sum(1) >= self._config.min_requests]
        more = self._ticks(self._limits(rows)[1]) - c["silent"][rows] - 1
        return min(next_hour, now + max(0, int(more.min(initial=_HOUR))) * self._tick)

    def skip(self, ticks: int, now: int) -> None:
        """So many ticks without requests, the first of which ends at `now`; all before `due`."""
        self._columns["silent"][self._expected((now - 1) // _HOUR)] += ticks

    def _begins_hour(self, now: int) -> bool:
        """Whether the tick that ends at `now` is the first of its hour."""
        return (now - 1) // _HOUR != (now - 1 - self._tick) // _HOUR

    def _expected(self, hour: int) -> NDArray[np.bool_]:
        """Of which apps requests are expected in this hour, if they are not stale already."""
        c = self._columns
        expected: NDArray[np.bool_] = (c["streak"] >= _DAY) | _active_a_week_ago(c["hours"], hour)
        expected &= (c["last"] != _NEVER) & ~c["stale"]
        return expected

    def _least(self) -> NDArray[np.float64]:
        return np.where(self._columns["streak"] >= _DAY, self._config.least_s, self._config.least_rhythm_s)

    def _limits(self, rows: NDArray[np.intp]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """[rows] The longest usual time between requests, and that after which silence is stale; seconds."""
        gaps = np.cumsum(self._columns["gaps"][rows], 1)
        usual = _EDGES[(gaps < _QUANTILE * gaps[:, -1:]).sum(1)]
        return usual, np.maximum(self._least()[rows], self._config.factor * usual)

    def _ticks(self, seconds: NDArray[np.float64]) -> NDArray[np.int64]:
        """At least so long."""
        return np.ceil(seconds / self._tick_s).astype(np.int64)

    def _give_up(self, now: int, revision: int) -> list[Evidence | Alert]:
        """Apps that have been silent for too long."""
        results: list[Evidence | Alert] = []
        days, last = self._config.forget_days, self._columns["last"]
        for app, row in list(self._row.items()):
            if now - last[row] >= days * _DAY * _HOUR:
                if self._columns["stale"][row]:
                    results += self._resolve(app, now, revision, f"silent for {days} days, given up")
                del self._row[app]
                self._columns.clear(row)
        return results

    def _heard(
        self, app: str, requests: int, release: str, hour: int, now: int, revision: int
    ) -> list[Evidence | Alert]:
        c = self._columns
        row = self._row.get(app)
        if row is None:
            if len(self._row) == _MAX_APPS:
                return []
            row = self._add(app)
        results = self._resolve(app, now, revision, "requests are back") if c["stale"][row] else []
        self._releases[row] = release
        last = int(c["last"][row])
        before = (last - 1) // _HOUR
        gaps = c["gaps"][row]
        gaps[0] += requests - 1
        if last != _NEVER and hour - before <= 1:
            gaps[_bin((now - last) / MICROSECONDS)] += 1
        c["requests"][row] += requests
        if c["requests"][row] > _MOST:
            gaps //= 2
            c["requests"][row] = gaps.sum()
        if last == _NEVER or hour != before:
            c["streak"][row] = c["streak"][row] + 1 if last != _NEVER and hour == before + 1 else 1
        c["hours"][row, hour % _WEEK] = hour
        c["last"][row], c["silent"][row] = now, 0
        return results

    def _fire(self, row: int, usual: float, limit: float, now: int, revision: int) -> list[Evidence | Alert]:
        c = self._columns
        silent = float(c["silent"][row] * self._tick_s)
        c["stale"][row] = True
        app = next(app for app, its in self._row.items() if its == row)
        stream, since = Stream(app, self._releases[row], ""), int(c["last"][row])
        measurement = Measurement(
            threshold=limit,
            value=silent,
            baseline=usual,
            n_events=int(c["gaps"][row].sum()),
            guarantee="none",
            note=f"Silent for {silent:.0f} s in which requests were expected; the limit is {limit:.0f} s.",
        )
        wording = Wording(
            severity="error" if c["streak"][row] >= _DAY else "warning",
            summary=f"{app}: no requests since {clock_time(since)}",
            description=f"{measurement.note} Between 99.9 % of its requests pass at most {usual:.0f} s. "
            f"Release {stream.release or 'unknown'} served last. As long as this lasts, no detector can say that "
            "nothing is wrong.",
            action="Check whether the app serves its users. If it does, its telemetry is lost on the way: look at the "
            "SDK's drop counters, the gateway and the broker.",
            false_alarms="outside the false-alarm budget: a day without users, say a holiday, is silence too",
        )
        return self._notices.fire(
            RULE, stream, now, since, revision, measurement, "", wording, [], state="stale", episode=now // MICROSECONDS
        )

    def _resolve(self, app: str, now: int, revision: int, reason: str) -> list[Evidence | Alert]:
        row = self._row[app]
        self._columns["stale"][row] = False
        measurement = Measurement(threshold=0, guarantee="none", note=reason)
        return self._notices.resolve(RULE, Stream(app, self._releases[row], ""), now, revision, measurement, "", reason)

    def _add(self, app: str) -> int:
        used = set(self._row.values())
        free = next((row for row in range(len(self._columns)) if row not in used), None)
        row = self._row[app] = self._columns.claim(free)
        if free is None:
            self._releases.append("")
        return row


def _bin(gap_s: float) -> int:
    return 0 if gap_s <= 1 else min(_BINS - 1, 1 + int(4 * np.log2(gap_s)))


def _active_a_week_ago(hours: NDArray[np.int32], hour: int) -> NDArray[np.bool_]:
    """Whether it was active then, in the hour before and in the hour after. (What this week has overwritten counts.)"""
    active = np.ones(len(hours), np.bool_)
    for then in range(hour - _WEEK - 1, hour - _WEEK + 2):
        latest = hours[:, then % _WEEK]
        active &= (latest == then) | (latest == then + _WEEK)
    return active

"""All rules over windows of one partition: from the windows that a tick closes to evidence and alerts."""

from collections.abc import Iterator, Sequence
from itertools import groupby

from driftline.detectors.base import State
from driftline.detectors.config import BudgetConfig
from driftline.schemas.events import MICROSECONDS
from driftline.schemas.results import Alert, Evidence
from driftline.streams.monitor.config import MonitorConfig
from driftline.streams.monitor.incidents import Incidents
from driftline.streams.monitor.rules import money, slo
from driftline.streams.monitor.rules.burns import Burns
from driftline.streams.monitor.rules.money import Budgets
from driftline.streams.monitor.rules.part import FORGET_S, Began, Change, Context, Part
from driftline.streams.monitor.rules.reference import HOUR
from driftline.streams.monitor.rules.spending import Models, Spendings
from driftline.streams.monitor.rules.spikes import Spikes
from driftline.streams.monitor.rules.thresholds import Thresholds
from driftline.streams.monitor.windows import Closed


class Board:
    def __init__(
        self, config: MonitorConfig, budget: BudgetConfig, context: Context, state: State | None = None
    ) -> None:
        state = state or {}
        parts = state.get("parts", {})
        size_s = config.windows.size_s
        self._size = size_s * MICROSECONDS
        self._evidence = config.evidence_s * MICROSECONDS
        self._quiet = FORGET_S // size_s + 2  # empty windows in a row that are looked at, then one an hour
        self._parts: list[Part] = []
        if config.rules:
            self._parts.append(
                Thresholds(config.rules, size_s, config.golden_release, context, parts.get(Thresholds.rule))
            )
        if config.slo:
            objectives = [slo.RequestObjective(objective) for objective in config.slo]
            self._parts.append(Burns(slo.RULE, objectives, size_s, parts.get(slo.RULE)))
        self._spendings = Spendings(size_s, state.get("spendings"))
        self._budgets = Budgets(config.cost_budget, size_s, self._spendings, parts.get(Budgets.rule))
        if config.cost_budget:
            burning = [money.MoneyObjective(b, self._spendings) for b in config.cost_budget if b.burn]
            self._parts += [self._budgets, Burns(money.BURN, burning, size_s, parts.get(money.BURN))]
        if config.cost_spike is not None:
            self._parts.append(Spikes(config.cost_spike, size_s, self._spendings, parts.get(Spikes.rule)))
        self._incidents = Incidents(budget, state.get("incidents"))
        self._restored = bool(state)
        self._next: int | None = None  # number of the first window that has not ended
        if state.get("next") is not None:
            self._next = state["next"] // self._size
        self._active: int | None = None  # number of the last window with events
        if state.get("active") is not None:
            self._active = state["active"] // self._size
        self._reported: int = state.get("reported", 0)

    def snapshot(self) -> State:
        return {
            "parts": {part.rule: part.snapshot() for part in self._parts},
            "spendings": self._spendings.snapshot(),
            "incidents": self._incidents.snapshot(),
            "next": None if self._next is None else self._next * self._size,  # the size of windows may change
            "active": None if self._active is None else self._active * self._size,
            "reported": self._reported,
        }

    @property
    def over_limit(self) -> int:
        return sum(part.over_limit for part in self._parts)

    def close(self, closed: Sequence[Closed], closing: int, revision: int) -> list[Evidence | Alert]:
        """What a tick has closed or corrected. Windows that end at or before `closing` have closed; corrections do not
        count: an alert is about its moment."""
        results: list[Evidence | Alert] = []
        if self._restored:
            results += self._orphans(closing, revision)
            self._restored = False
        end = closing // self._size
        first = sorted((w for w in closed if not w.corrected), key=lambda w: (w.start, w.app, w.release, w.model))
        by_start = {start: list(windows) for start, windows in groupby(first, key=lambda w: w.start)}
        if self._next is None:
            self._next = min(by_start, default=end * self._size) // self._size
        if self._active is None:
            self._active = self._next
        for number in self._numbers([start // self._size for start in by_start], self._next, end):
            start = number * self._size
            self._spendings.add(start, by_start.get(start, ()))
            for part in self._parts:
                for change in part.close(start, by_start.get(start, ())):
                    results += self._publish(part.rule, change, revision)
        self._budgets.correct([window for window in closed if window.corrected])
        self._next = max(end, self._next)
        at = self._next * self._size
        if at - self._reported >= self._evidence:
            self._reported = at
            for part in self._parts:
                results += self._incidents.readings(part.rule, part.readings(), at, revision)
        return results

    def why_requests_cost(self, app: str, since: int, recent: Models) -> str:
        """Why one request costs more than it did, or an empty string."""
        return self._spendings.why_each(app, since, recent)

    def _numbers(self, used: Sequence[int], start: int, end: int) -> Iterator[int]:
        """The windows to look at: those with events, those that follow them, and then the first of each hour: the same
        ones whether ticks have come one by one or one has come for all."""
        assert self._active is not None
        for number in [*used, end]:
            quiet = min(number, max(start, self._active + 1 + self._quiet))
            yield from range(start, quiet)
            hour = quiet * self._size // HOUR
            while (first := max(quiet, -(-hour * HOUR // self._size))) < number:
                if (first - 1) * self._size // HOUR != hour:
                    yield first
                hour += 1
            if number < end:
                self._active = number
                yield number
            start = number + 1

    def _publish(self, rule: str, change: Change, revision: int) -> list[Evidence | Alert]:
        if isinstance(change, Began):
            return self._incidents.fire(
                rule,
                change.stream,
                change.at,
                change.since,
                revision,
                change.measurement,
                "",
                change.wording,
                change.contributors,
            )
        return self._incidents.resolve(rule, change.stream, change.at, revision, change.measurement, "", change.reason)

    def forget(self, app: str, release: str, at: int, revision: int, reason: str) -> list[Alert]:
        """A release has left traffic."""
        results: list[Alert] = []
        for part in self._parts:
            gone = sorted(s for s in part.firing() if (s.app, s.release) == (app, release))
            part.forget(app, release, at)
            results += self._incidents.abandon(part.rule, gone, at, revision, reason)
        return results

    def _orphans(self, at: int, revision: int) -> list[Alert]:
        """Ends alerts of rules that are no longer as they were when they fired."""
        firing = {(part.rule, stream) for part in self._parts for stream in part.firing()}
        results: list[Alert] = []
        for rule, stream in self._incidents.open_alerts():
            if (rule, stream) not in firing:
                results += self._incidents.abandon(rule, [stream], at, revision, "its rule was changed or taken out")
        return results

"""Budgets that must not burn too fast, per app: of errors (slo.py) and of money (money.py)."""

from collections.abc import Iterator, Sequence
from typing import Protocol

from driftline.detectors.base import Measurement, State
from driftline.detectors.burn import LONGEST_S, Buckets, Burn, Pair, began, calm, exceeds
from driftline.schemas.events import MICROSECONDS
from driftline.schemas.ids import stable_id
from driftline.streams.monitor.alerts import Wording
from driftline.streams.monitor.rules import texts
from driftline.streams.monitor.rules.config import match
from driftline.streams.monitor.rules.part import Began, Change, Ended
from driftline.streams.monitor.watch import Reading, Stream
from driftline.streams.monitor.windows import Closed

MAX_BUDGETS = 256  # objective x app, of one partition: 13 kB each in its state (4,320 minutes)


class Objective(Protocol):
    """What may be spent, and how its alerts read."""

    @property
    def name(self) -> str: ...
    @property
    def app(self) -> str:
        """Shell pattern; each app that matches has a budget of its own."""

    @property
    def fingerprint(self) -> str:
        """Of all that decides on alerts."""

    @property
    def pairs(self) -> Sequence[Pair]: ...

    def spent(self, window: Closed) -> tuple[int, int]:
        """What a window spent, and of how many requests."""

    def allowed(self, total: int, seconds: float) -> float:
        """What so many requests, in so much time, may spend."""

    def certain(self, long: Burn) -> bool:
        """Whether the long window is more than chance."""

    def measure(self, pair: Pair, long: Burn, short: Burn) -> Measurement: ...

    def wording(self, pair: Pair, app: str, long: Burn, short: Burn, since: int) -> Wording: ...


class Burns:
    def __init__(self, rule: str, objectives: Sequence[Objective], size_s: int, state: State | None = None) -> None:
        self.rule = rule
        self._objectives = {objective.name: objective for objective in objectives}
        self._size = size_s * MICROSECONDS
        self._size_s = size_s
        self._length = LONGEST_S // size_s
        state = state or {}
        now, then = self._fingerprints(), state.get("objectives", {})
        self._buckets: dict[tuple[str, str], Buckets] = {
            (name, app): Buckets(self._length, 2, buckets)
            for name, app, buckets in state.get("buckets", [])
            if name in now and now[name] == then.get(name)
        }
        self._firing: set[tuple[str, str, str]] = {
            (name, app, pair) for name, app, pair in state.get("firing", []) if (name, app) in self._buckets
        }
        self._touched: set[tuple[str, str]] = {(name, app) for name, app in state.get("touched", [])}
        self._newest: int = state.get("newest", 0)
        self.over_limit: int = state.get("over_limit", 0)

    def snapshot(self) -> State:
        return {
            "objectives": self._fingerprints(),
            "buckets": [[*key, buckets.snapshot()] for key, buckets in sorted(self._buckets.items())],
            "firing": sorted(map(list, self._firing)),
            "touched": sorted(map(list, self._touched)),
            "newest": self._newest,
            "over_limit": self.over_limit,
        }

    def _fingerprints(self) -> dict[str, str]:
        return {name: stable_id(self._size_s, o.fingerprint) for name, o in self._objectives.items()}

    def close(self, start: int, windows: Sequence[Closed]) -> list[Change]:
        self._newest = start // self._size
        now: set[tuple[str, str]] = set()
        for name, objective in self._objectives.items():
            for window in windows:
                if not match(objective.app, window.app):
                    continue
                spent, total = objective.spent(window)
                if total and (buckets := self._own(name, window.app)) is not None:
                    buckets.add(self._newest, (spent, total))
                    now.add((name, window.app))
        self._touched |= now
        changes: list[Change] = []
        for name, app in sorted(now | {(name, app) for name, app, _ in self._firing}):
            changes += self._judge(self._objectives[name], app)
        self._buckets = {key: b for key, b in self._buckets.items() if b.newest > self._newest - self._length}
        return changes

    def _own(self, name: str, app: str) -> Buckets | None:
        buckets = self._buckets.get((name, app))
        if buckets is None:
            if len(self._buckets) >= MAX_BUDGETS:
                self.over_limit += 1
                return None
            buckets = self._buckets[name, app] = Buckets(self._length, 2)
        return buckets

    def _burns(self, objective: Objective, app: str) -> Iterator[tuple[Pair, Burn, Burn]]:
        spans = [seconds for pair in objective.pairs for seconds in (pair.long_s, pair.short_s)]
        sums = self._buckets[objective.name, app].sums(self._newest, [span // self._size_s for span in spans])
        burns = [
            Burn(spent, objective.allowed(total, span), total) for span, (spent, total) in zip(spans, sums, strict=True)
        ]
        yield from zip(objective.pairs, burns[::2], burns[1::2], strict=True)

    def _judge(self, objective: Objective, app: str) -> list[Change]:
        changes: list[Change] = []
        at = (self._newest + 1) * self._size
        for pair, long, short in self._burns(objective, app):
            stream, key = Stream(app, "", f"{objective.name} {pair.name}"), (objective.name, app, pair.name)
            if key in self._firing:
                if calm(long, short, pair.factor):
                    self._firing.discard(key)
                    m = objective.measure(pair, long, short)
                    reason = f"burning at most {pair.factor:g} times the budget for {texts.duration(pair.short_s)}"
                    changes.append(Ended(stream, at, m, reason))
            elif exceeds(long, pair.factor) and exceeds(short, pair.factor) and objective.certain(long):
                self._firing.add(key)
                since = self._since(objective, app, pair)
                m = objective.measure(pair, long, short)
                changes.append(Began(stream, at, since, m, objective.wording(pair, app, long, short, since)))
        return changes

    def _since(self, objective: Objective, app: str, pair: Pair) -> int:
        length = pair.long_s // self._size_s
        spent, total = self._buckets[objective.name, app].last(self._newest, length).tolist()
        allowed = [objective.allowed(n, self._size_s) for n in total]
        return (self._newest - length + 1 + began(spent, allowed, pair.factor)) * self._size

    def firing(self) -> set[Stream]:
        return {Stream(app, "", f"{name} {pair}") for name, app, pair in self._firing}

    def forget(self, app: str, release: str, at: int) -> None:
        """Budgets are the app's."""

    def readings(self) -> list[Reading]:
        readings = []
        for name, app in sorted(self._touched | {(name, app) for name, app, _ in self._firing}):
            if (name, app) not in self._buckets:
                continue
            objective = self._objectives[name]
            for pair, long, short in self._burns(objective, app):
                stream, firing = Stream(app, "", f"{name} {pair.name}"), (name, app, pair.name) in self._firing
                readings.append(Reading(stream, firing, objective.measure(pair, long, short), "", ""))
        self._touched = set()
        return readings

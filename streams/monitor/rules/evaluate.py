"""One rule on one stream, window by window: when it fires and when it is over. Pure."""

import math
from dataclasses import dataclass
from enum import Enum

from driftline.streams.monitor.rules.config import RuleConfig


class Verdict(Enum):
    BAD = "bad"  # meets the condition
    BETWEEN = "between"  # no longer, but not clear either
    CLEAR = "clear"
    QUIET = "quiet"  # too few requests, or no value


class Step(Enum):
    NOTHING = "nothing"
    FIRED = "fired"
    CLEARED = "cleared"
    SILENT = "silent"  # an alert ends because there has been nothing to judge it by


def limit(rule: RuleConfig, of: float, baseline: float | None) -> float:
    """The bound in the metric's unit that `of`, a value of the rule's condition, stands for."""
    if rule.condition == "times_baseline":
        return of * (baseline or 0.0)
    if rule.condition == "drop":
        return (1 - of) * (baseline or 0.0)
    return of


def judge(rule: RuleConfig, value: float | None, n: int, baseline: float | None) -> Verdict:
    """`n`: from how many requests or scores. baseline: of relative rules; None: unknown. Then, and where there is
    nothing above zero to take a share of, nothing can be said."""
    if value is None or n < rule.floor or (rule.relative and (baseline is None or baseline <= 0)):
        return Verdict.QUIET
    bad, clear = limit(rule, rule.limit, baseline), limit(rule, _clear(rule), baseline)
    if rule.condition in ("above", "times_baseline"):
        return Verdict.BAD if value > bad else Verdict.CLEAR if value <= clear else Verdict.BETWEEN
    return Verdict.BAD if value < bad else Verdict.CLEAR if value >= clear else Verdict.BETWEEN


def _clear(rule: RuleConfig) -> float:
    return rule.limit if rule.clear is None else rule.clear


def windows(seconds: float, size_s: int) -> int:
    """How many windows in a row a duration is."""
    return max(1, math.ceil(seconds / size_s))


@dataclass
class Row:
    """What a rule remembers of a stream. A quiet window breaks the row of bad ones that leads to an alert; of an alert
    it says nothing. An alert ends when there has been nothing to judge it by for long."""

    firing: bool = False
    bad: int = 0  # windows in a row
    since: int = 0  # start of the first bad window of this row, microseconds
    clear: int = 0  # windows in a row, while firing
    quiet: int = 0  # windows in a row that were quiet or empty

    def step(self, verdict: Verdict, start: int, *, empty: bool, bad: int, clear: int, quiet: int) -> Step:
        """Take the verdict on the window that starts at `start`. empty: nothing happened in it. The numbers: of windows
        in a row that fire, that clear, and that end an alert for silence."""
        self.quiet = self.quiet + 1 if empty or verdict is Verdict.QUIET else 0
        if not self.firing:
            if verdict is not Verdict.BAD:
                self.bad = 0
                return Step.NOTHING
            if not self.bad:
                self.since = start
            self.bad += 1
            if self.bad < bad:
                return Step.NOTHING
            self.firing, self.clear = True, 0
            return Step.FIRED
        if verdict is not Verdict.QUIET:
            self.clear = self.clear + 1 if verdict is Verdict.CLEAR else 0
        if self.clear < clear and self.quiet < quiet:
            return Step.NOTHING
        step = Step.CLEARED if self.clear >= clear else Step.SILENT
        self.firing, self.bad, self.clear = False, 0, 0
        return step

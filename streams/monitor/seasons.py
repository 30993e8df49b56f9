"""How traffic differs by the hour: learned beside the baselines in force, which become better by it.

A baseline is made as soon as the reference is large enough, often from less than a day. What its streams do from then
on tells how the hours of the day differ after 2 days, better after 7, and those of the week after 14. In the first two
days an alarm may be nothing but an hour that was not known, and counts; from then on incidents are no part of it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from driftline.detectors.base import Detector, Floats, State
from driftline.detectors.seasons import REFITS, Season

Group: TypeAlias = tuple[str, str]


class Refit(NamedTuple):
    baseline: Any  # with the hours
    releases: list[str]  # whose units it is made of
    first_tick: int
    last_tick: int


@dataclass
class _Learning:
    season: Season
    refits: int  # so far
    releases: list[str]
    first: int  # tick
    last: int


class Seasons:
    """Of one detector, by (app, component)."""

    def __init__(self, detector: Detector[Any, Any]) -> None:
        self._detector = detector
        self._groups: dict[Group, _Learning] = {}
        self.nbytes = 0  # of the snapshot, about

    def __len__(self) -> int:
        return len(self._groups)

    def begin(self, group: Group, baseline: Any, releases: list[str], first: int, last: int) -> None:
        """A learned baseline has come into force."""
        self.end(group)
        season = self._detector.season(baseline)
        if season is not None:
            self._groups[group] = _Learning(season, 0, list(releases), first, last)
            self.nbytes += season.nbytes

    def takes(self, group: Group, *, incident: bool) -> bool:
        """Whether the group's units belong to its hours, in an incident or out of one."""
        learning = self._groups.get(group)
        return learning is not None and not (incident and learning.refits)

    def end(self, group: Group) -> None:
        learning = self._groups.pop(group, None)
        if learning is not None:
            self.nbytes -= learning.season.nbytes

    def learn(
        self, group: Group, releases: Iterable[str], value: Floats, session: NDArray[np.int64], tick: int
    ) -> None:
        learning = self._groups[group]
        self.nbytes -= learning.season.nbytes
        learning.season.add(value, session, tick)
        self.nbytes += learning.season.nbytes
        learning.releases += sorted(set(releases) - set(learning.releases))
        learning.last = tick

    def due(self) -> list[Group]:
        """Of which more is known than their baselines say."""
        return [group for group, learning in self._groups.items() if learning.season.days >= REFITS[learning.refits]]

    def refit(self, group: Group, baseline: Any) -> Refit:
        """The baseline in force with what is known of the hours by now."""
        learning = self._groups[group]
        while learning.refits < len(REFITS) and learning.season.days >= REFITS[learning.refits]:
            learning.refits += 1
        if learning.refits == len(REFITS):
            self.end(group)
        seasoned = self._detector.seasoned(baseline, learning.season)
        return Refit(seasoned, sorted(learning.releases), learning.first, learning.last)

    def snapshot(self) -> State:
        return {
            "groups": [
                [list(group), each.refits, each.releases, each.first, each.last, each.season.snapshot()]
                for group, each in self._groups.items()
            ]
        }

    def restore(self, state: State, baselines: dict[Group, Any]) -> None:
        """baselines: those in force."""
        for group, refits, releases, first, last, season in state["groups"]:
            restored = self._detector.season(baselines[tuple(group)], season)
            assert restored is not None
            self._groups[tuple(group)] = _Learning(restored, refits, list(releases), first, last)
            self.nbytes += restored.nbytes

"""What a rollout says to detectors: whose traffic may serve as a reference, and when baselines are learned anew."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from driftline.schemas.events import MICROSECONDS, Release
from driftline.streams.monitor.config import LimitsConfig
from driftline.streams.monitor.watch import Watch

_DEFAULTS = LimitsConfig()


class Unproven:
    """Releases that are canaries, or were sent back. Of an app the latest ones, as many as are known apart; and of the
    partition as many as it knows series, the apps that were heard of last."""

    def __init__(self, state: Sequence[tuple[str, str]] = (), limits: LimitsConfig = _DEFAULTS) -> None:
        self._of_app, self._of_partition = limits.releases, limits.series
        self._apps: dict[str, dict[str, None]] = {}  # the least recent first, apps and the releases of each
        self._size = 0
        for app, release in state:
            self._add(app, release)

    def __contains__(self, release: tuple[str, str]) -> bool:
        """(app, release)"""
        return release[1] in self._apps.get(release[0], ())

    def take(self, event: Release) -> None:
        if event.kind == "canary_start":
            self._discard(event.app, event.release)
            self._add(event.app, event.release)
        elif event.kind == "deploy" or event.outcome == "promoted":
            self._discard(event.app, event.release)

    def _add(self, app: str, release: str) -> None:
        releases = self._apps.pop(app, {})
        if len(releases) >= self._of_app:
            del releases[next(iter(releases))]
            self._size -= 1
        while self._size >= self._of_partition:
            self._size -= len(self._apps.pop(next(iter(self._apps)), ()))
        releases[release] = None
        self._apps[app] = releases
        self._size += 1

    def _discard(self, app: str, release: str) -> None:
        releases = self._apps.get(app, {})
        if release in releases:
            del releases[release]
            self._size -= 1
            if not releases:
                del self._apps[app]

    def snapshot(self) -> list[list[str]]:
        return [[app, release] for app, releases in self._apps.items() for release in releases]


def not_before(event: Release, ts: int) -> Release:
    """One that came late counts from where time has come to: by a clock that is a year behind no canary begins, and no
    alert ends, in the past."""
    return event if event.ts >= ts else msgspec.structs.replace(event, ts=ts)


def left_traffic(event: Release) -> str:
    """That the event takes its release out of traffic, and why; empty if it does not."""
    if event.kind != "canary_stop" or event.outcome == "promoted":
        return ""
    return f"{event.release} was taken out of traffic ({event.outcome or 'stopped'})"


class _Promotion(NamedTuple):
    release: str
    due: int  # when its baselines are to be learned anew
    fitted: list[list[str]]  # detector and component of those that were fitted by hand since: these stay


class Promotions:
    """After a promotion the old baselines stay for a day, so that what the canary made slightly worse adds up to an
    alarm; then the new stable release gives its own, as long as nothing is wrong."""

    def __init__(self, relearn_after_s: int, state: Sequence[tuple[str, list[Any]]] = ()) -> None:
        self._after = relearn_after_s * MICROSECONDS
        self._apps = {app: _Promotion(*promotion) for app, promotion in state}

    def take(self, event: Release) -> None:
        if event.kind == "canary_stop" and event.outcome == "promoted":
            self._apps[event.app] = _Promotion(event.release, event.ts + self._after, [])

    def fitted(self, app: str, detector: str, component: str) -> None:
        """By hand, for what serves now: it is not learned anew."""
        if app in self._apps:
            self._apps[app].fitted.append([detector, component])

    def relearn(self, now: int, watches: Mapping[str, Watch], is_wrong: Callable[[str], bool]) -> None:
        """Start with the apps whose time has come. `is_wrong`: whether anything is, with an app."""
        for app, promotion in sorted(self._apps.items()):
            if promotion.due <= now and not is_wrong(app):
                for name, watch in watches.items():
                    keep = [component for detector, component in promotion.fitted if detector == name]
                    watch.relearn(app, promotion.release, keep)
                del self._apps[app]

    def snapshot(self) -> list[list[Any]]:
        return [[app, list(promotion)] for app, promotion in sorted(self._apps.items())]

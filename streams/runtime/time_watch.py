"""The clock here and the time of the log: what a tick says of the one, and where the two are far apart, for /healthz.
No I/O."""

from collections.abc import Mapping

from driftline.schemas.clock import utc
from driftline.schemas.events import EARLIEST_TS, LATEST_TS, MICROSECONDS
from driftline.streams.health import Health

APART_S = 60.0  # a tick comes each second, and is absorbed within another: neither clocks nor backlogs are far off
LASTS_S = 30.0  # catching up after a start is over by then, mostly


def within(now: int) -> int:
    """What a live tick says of the clock here: the time, or the nearest that an event may have. The broker's counts in
    its place, so that a machine that boots in 1970 closes windows all the same."""
    return min(max(now, EARLIEST_TS), LATEST_TS)


class TimeWatch:
    """Of the monitor's partitions of the events topic, where live ticks say what time it is."""

    def __init__(self, topic: str, health: Health) -> None:
        self._topic = topic
        self._health = health
        self._looked_at: set[int] = set()

    def look(self, watermarks: Mapping[int, int | None], now: int) -> None:
        """`watermarks`: of each partition that is ours, the newest tick absorbed; `now`: by the clock here."""
        for number in self._looked_at - watermarks.keys():
            self._health.right(self._key(number))
        self._looked_at = set(watermarks)
        for number, watermark in watermarks.items():
            where = f"{self._topic}[{number}]"
            if watermark is None:
                self._health.wrong(
                    self._key(number),
                    f"{where} has brought no tick yet, though one is sent each second: windows and detectors wait",
                    "it has a long log to take first (`driftline status` shows its lag), or the ticks are refused: "
                    "`driftline dlq ls` says why",
                    after_s=LASTS_S,
                )
                continue
            apart = (watermark - now) / MICROSECONDS
            if abs(apart) < APART_S:
                self._health.right(self._key(number))
                continue
            at = utc(watermark).isoformat(timespec="seconds")
            if apart > 0:
                what = f"Windows and detectors of {where} have come to {at}, {apart:.0f} s ahead of the clock here"
                do = (
                    "put the clock here right if it is behind. If the broker's was ahead and is right again, what "
                    "comes until that time is stored and counts in no window: wait, or stop monitor and embed and run "
                    "`driftline state reset --role R --at-end` for each"
                )
            else:
                what = f"Windows, detectors and alerts of {where} stand at {at}, {-apart:.0f} s behind the clock here"
                do = (
                    "put the clock here right if it is ahead. Else it has more to take than it can, or catches up: "
                    "`driftline status` shows its lag, and alerts say since when; other partitions are not held up"
                )
            self._health.wrong(self._key(number), what, do, after_s=LASTS_S)

    def _key(self, number: int) -> str:
        return f"time.{number}"

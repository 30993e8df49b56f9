"""How producers key: an event that does not come to its app's home goes through Kafka twice (record 19). That costs
and changes no number, so it is told, and is no problem."""

from dataclasses import dataclass

from driftline.schemas.clock import Clock, SystemClock
from driftline.schemas.text import for_log
from driftline.schemas.topics import Topics
from driftline.streams import metrics
from driftline.streams.health import Note

ENOUGH = 1_000  # events, before a share of them says something
WORTH_TELLING = 0.1  # of the events of a partition: less costs less than reading about it
RECENT = 20_000  # events that a share is of: beyond that the older half of them counts half
QUIET_S = 600.0  # a partition without events for so long may be another worker's by now

DO = (
    "key records by the app, and hash keys as Java does (librdkafka: partitioner=murmur2_random): infra/producers.md "
    "has a snippet for each client. It can also stay as it is: what comes elsewhere is read and written a second time"
)


@dataclass
class _Arrivals:
    at_home: float = 0
    away: float = 0
    app: str = ""
    last: float = 0  # monotonic seconds


class Keying:
    """Of one monitor: its folds tell what `arrived`, and its health shows `notes`."""

    def __init__(self, topics: Topics, clock: Clock | None = None) -> None:
        self._topics = topics
        self._clock = clock or SystemClock()
        self._arrivals: dict[int, _Arrivals] = {}

    def arrived(self, partition: int, at_home: int, away: int, app: str) -> None:
        """`streams.monitor.fold.Arrived`"""
        metrics.ARRIVED.labels(partition, "home").inc(at_home)
        metrics.ARRIVED.labels(partition, "elsewhere").inc(away)
        found = self._arrivals.setdefault(partition, _Arrivals())
        if found.at_home + found.away >= RECENT:
            found.at_home, found.away = found.at_home / 2, found.away / 2
        found.at_home += at_home
        found.away += away
        found.app = app or found.app
        found.last = self._clock.monotonic()

    @property
    def notes(self) -> list[Note]:
        """One at most: of the partitions where many events are of apps at home elsewhere. Where no app is at home,
        since partitions were added, all are, and nobody can help it."""
        since = self._clock.monotonic() - QUIET_S
        homes = self._topics.homes
        shares = {
            number: found.away / (found.at_home + found.away)
            for number, found in sorted(self._arrivals.items())
            if found.last >= since and found.at_home + found.away >= ENOUGH and (homes is None or number < homes)
        }
        told = {number: share for number, share in shares.items() if share >= WORTH_TELLING}
        if not told:
            return []
        where = ", ".join(f"{share:.0%} in partition {number}" for number, share in told.items())
        app = for_log(self._arrivals[max(told, key=lambda number: told[number])].app)
        what = (
            f"Events come to other partitions of {self._topics.events} than their app's home, such as those of {app} "
            f"({where}): they are counted right, and go through Kafka twice"
        )
        return [Note(what, DO)]

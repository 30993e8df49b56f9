"""How far behind a consumer is, for its metrics, and whether it stands still, for its health. No I/O."""

from collections.abc import Collection, Mapping

from aiokafka import TopicPartition

from driftline.schemas.clock import Clock
from driftline.schemas.errors import RetryableError
from driftline.streams import metrics
from driftline.streams.fold import sent_at
from driftline.streams.health import Health
from driftline.streams.runtime.stall import StallWatch

HELD_S = 60.0  # what clients give their transactions by default; a longer one is likely forgotten
STALL_S = 120.0  # well above a rebalance and what aiokafka's own retries take


class LagWatch:
    """Of one consumer. `names`: the metrics' label by topic, where that is not the consumer's name."""

    def __init__(self, name: str, health: Health, clock: Clock, names: Mapping[str, str] | None = None) -> None:
        self.name = name
        self._names = names or {}
        self._health = health
        self._clock = clock
        self._stall: StallWatch[TopicPartition] = StallWatch()
        self._newest_ms: dict[TopicPartition, int] = {}
        self._reported: set[TopicPartition] = set()
        self._held: dict[TopicPartition, tuple[int, float]] = {}  # where it ends for us, and since when

    def taken(self, tp: TopicPartition, timestamp_ms: int) -> None:
        """The Kafka timestamp of the newest record taken."""
        if sent_at(timestamp_ms) is not None:
            self._newest_ms[tp] = timestamp_ms

    def blind(self) -> None:
        """The log's ends cannot be learnt: nobody can say that a partition stood still meanwhile."""
        self._stall = StallWatch()

    def look(
        self,
        positions: Mapping[TopicPartition, int],
        ends: Mapping[TopicPartition, int],
        working: Collection[TopicPartition],
        written: Mapping[TopicPartition, int] | None = None,
    ) -> None:
        """`positions`: the next offset to take, of every partition that is ours; `ends`: the offset after the last
        record that may be taken; `working`: those of which something is being worked on, so that standing still means
        nothing; `written`: the offset after the last record, taken back or not: more where a transaction is open.

        :raises RetryableError: a partition stands still for so long that only a restart helps.
        """
        self._report(positions, ends)
        self._hold({tp: (written or ends).get(tp, end) - end for tp, end in ends.items()}, ends)
        self._judge(self._stall.look(self._clock.monotonic(), positions, ends, working), positions, ends)

    def _report(self, positions: Mapping[TopicPartition, int], ends: Mapping[TopicPartition, int]) -> None:
        for tp in self._reported - positions.keys():
            metrics.forget(self._label(tp), tp.topic, tp.partition)
            self._newest_ms.pop(tp, None)
        self._reported = set(positions)
        for tp, position in positions.items():
            records = max(0, ends[tp] - position)
            newest = self._newest_ms.get(tp)
            metrics.LAG_RECORDS.labels(self._label(tp), tp.topic, tp.partition).set(records)
            if not records:
                seconds = 0.0
            elif newest is not None:
                seconds = max(0.0, self._clock.now() / 1_000_000 - newest / 1_000)
            else:
                continue  # nothing taken since the start: how old the backlog is, is not known yet
            metrics.LAG_SECONDS.labels(self._label(tp), tp.topic, tp.partition).set(seconds)

    def _hold(self, held: Mapping[TopicPartition, int], ends: Mapping[TopicPartition, int]) -> None:
        now, before = self._clock.monotonic(), self._held
        self._held = {}
        for tp, records in held.items():
            metrics.HELD_BACK.labels(self._label(tp), tp.topic, tp.partition).set(max(0, records))
            if records > 0:
                end, since = before.get(tp, (ends[tp], now))
                self._held[tp] = ends[tp], since if end == ends[tp] else now
        key = f"transaction.{self.name}"
        long = [tp for tp, (_, since) in self._held.items() if now - since >= HELD_S]
        if not long:
            self._health.right(key)
            return
        tp = max(long, key=lambda tp: held[tp])
        self._health.wrong(
            key,
            f"{held[tp]} records of {tp.topic}[{tp.partition}], from offset {ends[tp]} on, are held back by a "
            f"transaction that has been open for {now - self._held[tp][1]:.0f} s or more; {len(long)} partitions are",
            "end the producer's transaction; `kafka-transactions.sh find-hanging` names those that nobody ends, "
            f"`kafka-transactions.sh abort --topic {tp.topic} --partition {tp.partition} --start-offset {ends[tp]}` "
            "ends one",
        )

    def _judge(
        self,
        still: Mapping[TopicPartition, float],
        positions: Mapping[TopicPartition, int],
        ends: Mapping[TopicPartition, int],
    ) -> None:
        key = f"stall.{self.name}"
        longest = max(still, key=lambda tp: still[tp], default=None)
        if longest is None or still[longest] < STALL_S / 2:
            self._health.right(key)
            return
        what = f"{self.name} got nothing of {longest.topic}[{longest.partition}] for"
        where = f"it stands at {positions[longest]}, the log goes on to {ends[longest]}"
        if still[longest] >= STALL_S:
            raise RetryableError(f"{what} {still[longest]:.0f} s: {where}")
        do = f"nothing yet: at {STALL_S:g} s the role ends itself, and whoever supervises it starts it again"
        self._health.wrong(key, f"{what} {still[longest]:.0f} s: {where}", do)

    def _label(self, tp: TopicPartition) -> str:
        return self._names.get(tp.topic, self.name)

"""Topics as data: `driftline topics apply` creates them, every role takes their names from here."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from driftline.schemas.controls import Controls

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


@dataclass(frozen=True)
class Topic:
    name: str
    holds: str
    cleanup: Literal["delete", "compact"] = "delete"
    retention_ms: int = 7 * DAY_MS
    max_message_bytes: int = 1_048_588  # Kafka's own default

    def config(self) -> dict[str, str]:
        config = {
            "cleanup.policy": self.cleanup,
            "max.message.bytes": str(self.max_message_bytes),
            # The broker's time, not the producer's: brokers refuse records of clocks that are an hour ahead, and
            # retention deletes at once what clocks that are behind have written.
            "message.timestamp.type": "LogAppendTime",
        }
        if self.cleanup == "delete":
            config["retention.ms"] = str(self.retention_ms)
        return config


LARGE = 16 * 1024 * 1024  # a prompt of millions of tokens, or a partition's whole state, is one record


SOURCES: Mapping[str, Literal["events", "embeddings"]] = {  # what each fold reads, which keeps a state
    "embed": "events",
    "judge": "embeddings",
    "monitor": "events",
    "drift": "embeddings",
}


class Topics:
    """All topics of one installation, under one prefix, and how what Driftline writes into `events` is told from what
    others do. All have the same number of partitions: what is computed from a partition of events goes to the partition
    of the same number. `homes`: over how many of them apps are spread; None: each app is at home where it is met."""

    def __init__(self, prefix: str = "driftline", control_key: bytes | None = None, homes: int | None = None) -> None:
        self.prefix = prefix
        self.controls = Controls.of_prefix(prefix) if control_key is None else Controls(control_key)
        self.homes = homes
        self.events = f"{prefix}.events"
        self.embeddings = f"{prefix}.embeddings"
        self.windows = f"{prefix}.windows"
        self.evidence = f"{prefix}.evidence"
        self.alerts = f"{prefix}.alerts"
        self.rollbacks = f"{prefix}.rollbacks"
        self.breakers = f"{prefix}.breakers"
        self.baselines = f"{prefix}.baselines"
        self.progress = f"{prefix}.progress"
        self.dlq = f"{prefix}.dlq"

    def source(self, fold: str) -> str:
        """What a fold reads."""
        return self.events if SOURCES[fold] == "events" else self.embeddings

    def state(self, role: str) -> str:
        return f"{self.prefix}.state.{role}"

    def all(self) -> list[Topic]:
        return [
            Topic(
                self.events,
                "traces, scores, releases, ticks and fitted baselines (JSON, object or array)",
                max_message_bytes=LARGE,
            ),
            Topic(
                self.embeddings,
                "embeddings of sampled traces, releases, ticks and baselines (MessagePack)",
                retention_ms=DAY_MS,
                max_message_bytes=LARGE,
            ),
            Topic(self.windows, "WindowStats and LeftOut (JSON)"),
            Topic(self.evidence, "Evidence (JSON)"),
            Topic(self.alerts, "Alert transitions (JSON)", retention_ms=30 * DAY_MS),
            Topic(self.rollbacks, "RollbackSignal (JSON)", retention_ms=30 * DAY_MS),
            Topic(self.breakers, "BreakerSignal (JSON)"),
            Topic(self.baselines, "Baseline (JSON), the newest of each", "compact", max_message_bytes=LARGE),
            Topic(self.progress, "Progress of each role (JSON)", retention_ms=HOUR_MS),
            Topic(self.dlq, "DeadLetter (JSON)", retention_ms=30 * DAY_MS, max_message_bytes=2 * LARGE),
            *(
                Topic(
                    self.state(role),
                    f"state of the {role} role, a record per source partition",
                    "compact",
                    max_message_bytes=LARGE,
                )
                for role in SOURCES
            ),
        ]

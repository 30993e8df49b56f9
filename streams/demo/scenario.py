"""What happens when, in event time: a morning and an early afternoon in which four things go wrong.

    08:00  warm-up: the detectors learn what is normal (24,000 requests)
    09:20  quiet: nothing may fire
    10:00  topic drift: users turn to coding, then to other languages, then back
    11:10  bad canary: prompt v2 answers a tenth of the users, with answers to other questions
    11:55  provider outage: eight minutes of errors and slow answers
    12:40  cost spike: one customer pastes logs into every prompt
    13:30  the end

Pure data; nothing here depends on the wall clock or on chance.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Final

from driftline.schemas.events import MICROSECONDS

START: Final = datetime(2026, 11, 2, 8, 0, tzinfo=UTC)
MINUTE: Final = 60 * MICROSECONDS
TAIL_MINUTES: Final = 15  # an effect stays in the longest window of embedding drift (4,096 requests) for so long

ERROR_RATE: Final = 0.002  # of a healthy provider

STABLE: Final = "v1"
CANARY: Final = "v2"
CANARY_SHARE: Final = 0.1
DEPLOYMENT: Final = "prompt-v2"


@dataclass(frozen=True)
class Model:
    provider: str
    request_model: str
    response_model: str
    ttft_ms: float  # median
    token_ms: float  # median, per output token


# The fallback is of another provider and in the same price range, so that the breaker's work is not an incident itself.
PRIMARY: Final = Model("openai", "gpt-4o-mini", "gpt-4o-mini-2024-07-18", ttft_ms=350, token_ms=12)
FALLBACK: Final = Model("google", "gemini-2.5-flash-lite", "gemini-2.5-flash-lite", ttft_ms=300, token_ms=11)


@dataclass(frozen=True)
class Incident:
    """Something that goes wrong on purpose. `caught_by`: rules of alerts, or "rollback", or "breaker"."""

    name: str
    title: str
    began_at: int
    ended_at: int  # at the latest: a rollback ends a bad canary sooner
    caught_by: frozenset[str]


@dataclass(frozen=True)
class Phase:
    name: str
    title: str
    began_at: int
    ended_at: int


class Scenario:
    """All times are microseconds since the Unix epoch."""

    app: Final = "support-bot"
    environment: Final = "demo"
    rate: Final = 5.0  # requests a second, on average

    def __init__(self) -> None:
        self.start = round(START.timestamp()) * MICROSECONDS
        self.end = self._at(330)
        self.quiet = Phase("quiet", "quiet: nothing may fire", self._at(80), self._at(120))
        self.topic_drift = self._incident(
            "topic_drift", "topic drift: coding, then other languages", 120, 162, "embedding_drift"
        )
        self.bad_canary = self._incident(
            "bad_canary", "bad canary: prompt v2 answers other questions", 190, 220, "rollback", "quality"
        )
        self.outage = self._incident(
            "provider_outage", "provider outage: errors and slow answers", 235, 243, "breaker", "error_rate"
        )
        self.cost_spike = self._incident(
            "cost_spike", "cost spike: one customer pastes logs into prompts", 280, 295, "cost_p99"
        )
        self.incidents: Sequence[Incident] = (self.topic_drift, self.bad_canary, self.outage, self.cost_spike)
        self.phases: Sequence[Phase] = tuple(self._phases())

    def phase(self, ts: int) -> Phase:
        return next((phase for phase in self.phases if phase.began_at <= ts < phase.ended_at), self.phases[-1])

    def traffic(self, ts: int) -> float:
        """Requests a second: 12 % up and down over two hours."""
        return self.rate * (1 + 0.12 * math.sin(2 * math.pi * (ts - self.start) / (120 * MINUTE)))

    def coding_share(self, ts: int) -> float:
        """Share of users whose conversations are about coding."""
        began = self.topic_drift.began_at
        return _ramp(
            ts, (began, 0.0), (began + 10 * MINUTE, 0.7), (began + 22 * MINUTE, 0.7), (began + 26 * MINUTE, 0.0)
        )

    def language_share(self, ts: int) -> float:
        """Share of users who do not write in English."""
        began, ended = self.topic_drift.began_at, self.topic_drift.ended_at
        return _ramp(
            ts, (began + 22 * MINUTE, 0.0), (began + 26 * MINUTE, 0.7), (ended - 5 * MINUTE, 0.7), (ended, 0.0)
        )

    def error_rate(self, ts: int) -> float:
        """Of the primary provider: 0.2 %, and 30 to 60 % in the outage."""
        if not self.outage.began_at <= ts < self.outage.ended_at:
            return ERROR_RATE
        progress = (ts - self.outage.began_at) / (self.outage.ended_at - self.outage.began_at)
        return 0.3 + 0.3 * math.sin(math.pi * progress)

    def slowness(self, ts: int) -> float:
        """Factor on the primary provider's latency."""
        return 4.0 if self.outage.began_at <= ts < self.outage.ended_at else 1.0

    def spender_share(self, ts: int) -> float:
        """Share of conversations that are the one customer's with the long prompts."""
        return 0.06 if self.cost_spike.began_at <= ts < self.cost_spike.ended_at else 0.0

    def _at(self, minutes: int) -> int:
        return self.start + minutes * MINUTE

    def _incident(self, name: str, title: str, began: int, ended: int, *caught_by: str) -> Incident:
        return Incident(name, title, self._at(began), self._at(ended), frozenset(caught_by))

    def _phases(self) -> list[Phase]:
        phases = [Phase("warm_up", "warm-up: learning what is normal", self.start, self.quiet.began_at), self.quiet]
        for incident in self.incidents:
            if phases[-1].ended_at < incident.began_at:
                phases.append(Phase("recovery", "recovery", phases[-1].ended_at, incident.began_at))
            phases.append(Phase(incident.name, incident.title, incident.began_at, incident.ended_at))
        phases.append(Phase("recovery", "recovery", phases[-1].ended_at, self.end))
        return phases


def _ramp(ts: int, *knots: tuple[int, float]) -> float:
    """Straight lines between the knots, and their ends' values outside."""
    if ts <= knots[0][0]:
        return knots[0][1]
    for (t0, y0), (t1, y1) in pairwise(knots):
        if ts < t1:
            return y0 + (y1 - y0) * (ts - t0) / (t1 - t0)
    return knots[-1][1]

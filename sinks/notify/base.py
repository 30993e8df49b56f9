"""What a notifier is, and what every notifier needs to know of the things it reports."""

from typing import Literal, Protocol, TypeAlias

from driftline.schemas.ids import as_path
from driftline.schemas.results import Alert, BreakerSignal, RollbackSignal

Notice: TypeAlias = Alert | RollbackSignal | BreakerSignal
Phase: TypeAlias = Literal["begins", "continues", "ends"]


class Notifier(Protocol):
    @property
    def name(self) -> str:
        """Names the receiver in logs and in the consumer group that remembers what it was sent."""

    async def notify(self, notice: Notice) -> None:
        """Deliver one transition, returning when the receiver has accepted it. Retries by itself what may pass.

        Raises RetryableError when it has given up on trying again, PermanentError when the receiver refuses this
        notice or these credentials for good. Neither message holds a secret."""


def notice_id(notice: Notice) -> str:
    """The same for every copy of one transition, different for every other."""
    if isinstance(notice, Alert):
        return f"{notice.id}/{notice.state}"
    return notice.id


def episode(notice: Notice) -> str:
    """What this is a transition of. Transitions of one episode are delivered in their order."""
    match notice:
        case Alert():
            return as_path("alert", notice.id)
        case RollbackSignal():
            return as_path("rollback", notice.app, notice.deployment_id)
        case BreakerSignal():
            return as_path("breaker", notice.app, notice.provider, notice.model)


def dedup_key(notice: Notice) -> str:
    """Groups the transitions of one incident at the receiver."""
    return notice.dedup_key if isinstance(notice, Alert) else episode(notice)


def phase(notice: Notice) -> Phase:
    match notice:
        case Alert():
            return "begins" if notice.state == "firing" else "ends"
        case RollbackSignal():
            return "begins"
        case BreakerSignal(state="open"):
            return "begins"
        case BreakerSignal(state="closed"):
            return "ends"
        case BreakerSignal():
            return "continues"


def happened_at(notice: Notice) -> int:
    """Event time, microseconds since the Unix epoch."""
    match notice:
        case Alert():
            return notice.ts
        case RollbackSignal():
            return notice.decided_at
        case BreakerSignal():
            return notice.at

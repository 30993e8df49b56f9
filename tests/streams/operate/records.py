"""Consumed records for tests of what is pure."""

from collections.abc import Sequence

from aiokafka import ConsumerRecord

from driftline.schemas.codec import encode_events
from driftline.schemas.events import Event
from driftline.schemas.topics import Topics


def record(
    offset: int,
    value: Sequence[Event] | bytes,
    *,
    key: bytes = b"bot",
    at: int = 0,
    headers: Sequence[tuple[str, bytes]] = (),
) -> ConsumerRecord:
    raw = value if isinstance(value, bytes) else encode_events(Topics().controls.all_signed(value, 0))
    return ConsumerRecord("events", 0, offset, at // 1_000, 0, key, raw, None, len(key), len(raw), tuple(headers))

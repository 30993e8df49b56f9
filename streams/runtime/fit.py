"""Results that are larger than their topic takes. Retried they would end the role for ever, so they are cut: maps keep
their largest entries and count the rest under `(other)`, texts and lists are shortened and say so, batches of
embeddings are divided. What cannot be cut, and what others must get whole, is told by an empty list."""

import logging
import re
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import msgspec

from driftline.schemas import codec
from driftline.schemas.errors import PermanentError
from driftline.schemas.results import DeadLetter
from driftline.schemas.text import shorten
from driftline.streams import metrics
from driftline.streams.fold import Output

logger = logging.getLogger(__name__)

OTHER = "(other)"
OVERHEAD = 512  # bytes that Kafka's record format adds, at most
# Characters of a text (ids stay whole), and entries of a map or list.
_STEPS = ((4_000, 200), (1_000, 50), (600, 10), (600, 0))
_EXCERPTS = (64 * 1024, 1_024, 0)  # bytes of the record in a dead letter, and as few of its key
_NEEDED = re.compile(r"\.(events|progress|state\.\w+)$")  # without those the role must not go on
_WHOLE = ("baseline", "forwarded", "tick", "baseline_set")  # half of one would be another


def fits(output: Output, limit: int) -> bool:
    """Whether a topic whose `max.message.bytes` is `limit` takes it, however little it compresses."""
    return len(output.value) + len(output.key or b"") + OVERHEAD <= limit


def smaller(output: Output, limit: int, consumer: str) -> list[Output]:
    """`fit` of what is too large, counted and said.

    :raises PermanentError: what has to be whole does not fit.
    """
    size = f"{len(output.value):,} bytes, where {limit:,} fit (max.message.bytes of {output.topic})"
    if _NEEDED.search(output.topic):
        raise PermanentError(f"A record of {consumer} has {size}, and must be whole: raise the topic's limit")
    pieces = fit(output, limit)
    metrics.dropped(consumer, {"results_cut" if pieces else "results_unpublishable": 1})
    what = "was cut" if pieces else "cannot be cut, and is left out"
    logger.warning("A result of %s has %s: it %s.", consumer, size, what)
    return pieces


def fit(output: Output, limit: int) -> list[Output]:
    """The same in records that fit."""
    if fits(output, limit):
        return [output]
    if not output.value.startswith(b"{"):
        return _divided(output, limit)
    result = msgspec.json.decode(output.value)
    if result.get("type") in _WHOLE:
        return []
    if result.get("type") == "dead_letter":
        return _excerpt(output, limit)
    for texts, entries in _STEPS:
        shorter = {field: _cut(value, texts, entries) for field, value in result.items()}
        cut = output._replace(value=msgspec.json.encode(shorter))
        if fits(cut, limit):
            return [cut]
    return []


def _excerpt(output: Output, limit: int) -> list[Output]:
    """A dead letter with the beginning of its bytes, which are no text; it says how many there were."""
    letter = codec.decode(output.value, DeadLetter)
    for most in _EXCERPTS:
        cut = (
            f". Here are the first {min(most, len(letter.raw))} of {len(letter.raw)} bytes with SHA-256 "
            f"{sha256(letter.raw).hexdigest()}: max.message.bytes of {output.topic} is {limit}"
        )
        key = letter.key and letter.key[:most]
        reason = shorten(letter.reason, 4_000 if most else 600) + cut
        shorter = msgspec.structs.replace(letter, raw=letter.raw[:most], key=key, reason=reason)
        piece = output._replace(key=output.key and output.key[:most], value=codec.encode(shorter))
        if fits(piece, limit):
            return [piece]
    return []


def _divided(output: Output, limit: int) -> list[Output]:
    try:
        items = codec.unpack(output.value, list[msgspec.Raw])
    except Exception:  # noqa: BLE001 (not ours to divide, whatever it is)
        return []
    if len(items) < 2:
        return []
    half = len(items) // 2
    halves = (output._replace(value=codec.pack(part)) for part in (items[:half], items[half:]))
    return [piece for part in halves for piece in fit(part, limit)]


def _cut(value: Any, texts: int, entries: int) -> Any:
    if isinstance(value, str):
        return shorten(value, texts)
    if isinstance(value, list):
        kept = [_cut(item, texts, entries) for item in value[:entries]]
        more = len(value) - len(kept)
        return [*kept, f"{OTHER}: {more:,} more"] if more and isinstance(value[0], str) else kept
    if isinstance(value, dict):
        return _largest({key: _cut(item, texts, entries) for key, item in value.items()}, entries)
    return value


def _largest(entries: Mapping[str, Any], most: int) -> dict[str, Any]:
    """Of a map whose values are counts, or counts with a mean; of other maps the first entries."""
    if len(entries) <= max(most, 1):
        return dict(entries)
    counted = {key: value for key, value in entries.items() if key != OTHER}
    if all(type(value) is int for value in entries.values()):
        order = sorted(counted, key=lambda key: (-counted[key], key))
        rest = sum(entries.values()) - sum(counted[key] for key in order[:most])
        return {**{key: counted[key] for key in sorted(order[:most])}, OTHER: rest}
    if all(isinstance(value, dict) and value.keys() == {"count", "mean"} for value in entries.values()):
        order = sorted(counted, key=lambda key: (-counted[key]["count"], key))
        rest = [value for key, value in entries.items() if key not in order[:most]]
        count = sum(value["count"] for value in rest)
        mean = sum(value["count"] * value["mean"] for value in rest) / count
        return {**{key: counted[key] for key in sorted(order[:most])}, OTHER: {"count": count, "mean": mean}}
    return dict(list(entries.items())[:most])

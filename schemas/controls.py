"""Control records are Driftline's own words on the events topic, where any application may write: each is signed for
its partition, and what is not becomes a reject wherever the topic is read."""

import hashlib
import hmac
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, TypeVar

import msgspec

from driftline.schemas.decoded import Decoded, Reject
from driftline.schemas.events import CONTROLS, BaselineSet, Forwarded, Tick

E = TypeVar("E")
C = TypeVar("C", Tick, BaselineSet, Forwarded)

MAX_REFUSED = 100  # of one record, before the rest of its control records is refused unseen: Driftline's have one each

_CONTROLS: frozenset[type] = frozenset(CONTROLS)
_json = msgspec.json.Encoder().encode


class Decoder(Protocol[E]):
    """`codec.EventDecoder`."""

    def __call__(self, value: bytes | None) -> Decoded[E]: ...
    def indexes(self, value: bytes | None) -> Sequence[int]: ...


class Controls:
    """Signs and verifies with one key: HMAC-SHA256 over the partition and the record's JSON.

    The partition is part of it, so that a copy of one partition's records into another moves no time there.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    @classmethod
    def of_prefix(cls, prefix: str) -> "Controls":
        """With a key that anybody can derive: keeps out accidents (copies, replays by other tools, fuzzers), not
        attackers."""
        return cls(hashlib.sha256(b"driftline control records of " + prefix.encode()).digest())

    def signed(self, control: C, partition: int) -> C:
        return msgspec.structs.replace(control, signature=self._signature(control, partition))

    def all_signed(self, events: Iterable[Any], partition: int) -> list[Any]:
        """The same events, the controls among them signed."""
        return [self.signed(event, partition) if type(event) in _CONTROLS else event for event in events]

    def is_ours(self, control: Tick | BaselineSet | Forwarded, partition: int) -> bool:
        if len(control.signature) != 2 * hashlib.sha256().digest_size:
            return False
        return hmac.compare_digest(self._signature(control, partition).encode(), control.signature.encode())

    def decode(self, decoder: Decoder[E], value: bytes | None, partition: int) -> Decoded[E]:
        """A record of that partition: controls that no Driftline of this installation has signed are rejects."""
        decoded = decoder(value)
        if _CONTROLS.isdisjoint(map(type, decoded.events)):
            return decoded
        return self._checked(decoded, decoder.indexes(value), partition)[0]

    def decode_indexed(
        self, decoder: Decoder[E], value: bytes | None, partition: int
    ) -> tuple[Decoded[E], Sequence[int]]:
        """The same, and of each event its index within the record's array; -1: it is the record."""
        return self._checked(decoder(value), decoder.indexes(value), partition)

    def _checked(self, decoded: Decoded[E], indexes: Sequence[int], partition: int) -> tuple[Decoded[E], Sequence[int]]:
        kept: list[tuple[int, E]] = []
        refused: list[tuple[int, Any]] = []
        event: Any
        for index, event in zip(indexes, decoded.events, strict=True):
            if type(event) not in _CONTROLS or (len(refused) < MAX_REFUSED and self.is_ours(event, partition)):
                kept.append((index, event))
            else:
                refused.append((index, event))
        if not refused:
            return decoded, indexes
        rejects = [Reject(index, _refusal(control), _json(control)) for index, control in refused[:MAX_REFUSED]]
        if rest := refused[MAX_REFUSED:]:
            reason = f"{len(rest)} more control records in this record; the first: {_refusal(rest[0][1])}"
            rejects.append(Reject(rest[0][0], reason, _json([control for _, control in rest]), len(rest)))
        events = Decoded([event for _, event in kept], [*decoded.rejects, *rejects])
        return events, [index for index, _ in kept]

    def _signature(self, control: Tick | BaselineSet | Forwarded, partition: int) -> str:
        content = _json(msgspec.structs.replace(control, signature=""))
        return hmac.new(self._key, b"%d\n" % partition + content, hashlib.sha256).hexdigest()


def _refusal(control: Any) -> str:
    name = control.__struct_config__.tag
    what = "wrongly signed" if control.signature else "not signed"
    return (
        f"only Driftline writes {name} records, and this one is {what}: applications publish trace, score and release; "
        "if it is Driftline's own, kafka.control_key is not the same everywhere, or the record was copied from "
        "another partition"
    )

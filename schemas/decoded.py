"""What comes of a record's bytes."""

from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

E = TypeVar("E")


@dataclass(frozen=True, slots=True)
class Reject:
    index: int  # within the record's array; -1: the whole record
    reason: str  # at most MAX_REASON characters
    raw: bytes  # of several elements: an array of them
    count: int = 1  # elements that it stands for


class Decoded(NamedTuple, Generic[E]):
    events: list[E]
    rejects: list[Reject]

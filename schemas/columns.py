"""What the columns of results can hold. A result with more is refused where it is decoded, like any other garbage: its
row would be refused alone, after halving all that came with it."""

from typing import Annotated, TypeAlias

from msgspec import Meta

FIRST_TIME = 10**15  # in 2001: of sixteen digits, which alone ClickHouse reads as microseconds
LAST_TIME = 10**16 - 1  # in 2286

Time: TypeAlias = Annotated[int, Meta(ge=FIRST_TIME, le=LAST_TIME)]  # microseconds since the Unix epoch, UTC
Count: TypeAlias = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Revision: TypeAlias = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Unsigned32: TypeAlias = Annotated[int, Meta(ge=0, le=2**32 - 1)]

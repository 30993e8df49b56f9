"""Stable ids and hash-based sampling: the same input gives the same id on every machine, in every run."""

from hashlib import blake2b


def stable_id(*parts: object) -> str:
    """A 32-digit hex id of the parts."""
    return blake2b("\x1f".join(map(str, parts)).encode(), digest_size=16).hexdigest()


def unit_interval(salt: str, key: str) -> float:
    """A number in [0, 1) that depends on salt and key alone: `unit_interval(...) < share` selects that share."""
    return int.from_bytes(blake2b(f"{salt}\x1f{key}".encode(), digest_size=8).digest()[:7]) / 2**56

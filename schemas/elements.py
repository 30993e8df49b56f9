"""The structure of JSON bytes, without parsing them: how deep they nest, where the elements of an array begin and end.

Linear in the bytes, without recursion, and in memory that does not depend on what they hold, so that it can be asked
of any bytes. Brackets and commas inside strings do not count. What lies between them is for a parser to judge.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_CHUNK = 256 * 1024  # bytes looked at together: arrays that stay in the cache
_QUOTE, _BACKSLASH, _COMMA, _OPEN, _CLOSE = b'"\\,{}'
_LOWER = 0x20  # makes [ and ] what { and } are: `[` | 0x20 == `{`


@dataclass(frozen=True)
class Structure:
    commas: NDArray[np.int32]  # between the elements of the outermost array or object
    end: int  # of the outermost bracket that closes; -1: it never does
    deep: NDArray[np.int32]  # of the elements, by number, those that nest deeper than was asked

    @property
    def bounds(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Where each element begins and ends; the outermost bracket is the first byte."""
        starts = np.concatenate([np.zeros(1, np.int32), self.commas]) + np.int32(1)
        return starts, np.concatenate([self.commas, np.array([self.end], np.int32)])


def count_openers(value: bytes) -> int:
    """All `{` and `[`, inside of strings too: nothing nests deeper than there are of them."""
    return int(np.count_nonzero((np.frombuffer(value, np.uint8) | _LOWER) == _OPEN))


def structure(value: bytes, depth: int) -> Structure:
    """Up to where the outermost bracket closes. Elements deeper than `depth` are told; the outermost counts as 1."""
    everything = np.frombuffer(value, np.uint8)
    none = np.zeros(0, np.int32)
    commas, deep = [none], [none]
    begin, level, seen, end = 0, 0, 0, -1
    inside = False  # a string, where the chunk begins
    while begin < len(value) and end < 0:
        stop = min(begin + _CHUNK, len(value))
        while stop < len(value) and value[stop - 1] == _BACKSLASH:  # an escape stays in one piece
            stop += 1
        chunk = everything[begin:stop]
        quotes = _quotes(chunk)
        marks = np.flatnonzero(((chunk | _LOWER) == _OPEN) | ((chunk | _LOWER) == _CLOSE) | (chunk == _COMMA))
        marks = marks[(np.searchsorted(quotes, marks) + inside) % 2 == 0]
        inside ^= len(quotes) % 2 == 1
        kinds = chunk[marks]
        folded = kinds | _LOWER
        levels = level + np.cumsum((folded == _OPEN).astype(np.int64) - (folded == _CLOSE))
        over = np.flatnonzero(levels <= 0)
        if over.size:
            end = begin + int(marks[over[0]])
            marks, kinds, levels = marks[: over[0]], kinds[: over[0]], levels[: over[0]]
        outer = (kinds == _COMMA) & (levels == 1)
        commas.append((begin + marks[outer]).astype(np.int32))
        deep.append(np.unique(seen + np.cumsum(outer)[levels > depth]).astype(np.int32))
        seen += int(outer.sum())
        level = int(levels[-1]) if levels.size else level
        begin = stop
    return Structure(np.concatenate(commas), end, np.unique(np.concatenate(deep)))


def _quotes(chunk: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Positions of quotes that begin or end a string: an odd run of backslashes before one escapes it."""
    quotes = np.flatnonzero(chunk == _QUOTE)
    slashes = np.flatnonzero(chunk == _BACKSLASH)
    if not slashes.size or not quotes.size:
        return quotes
    breaks = np.flatnonzero(np.diff(slashes) > 1)
    firsts = slashes[np.concatenate([[0], breaks + 1])]
    lasts = slashes[np.concatenate([breaks, [slashes.size - 1]])]
    escaped = lasts[(lasts - firsts) % 2 == 0] + 1
    return quotes[~np.isin(quotes, escaped, assume_unique=True)]

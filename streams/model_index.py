"""Which model of the genai-prices table a name means, in bounded time whatever the name.

The same answers as `genai_prices`' own `find_provider_model`, which asks every clause of a provider's up to 900 models
in turn (2.5 ms for an unknown name) and remembers every name for ever. Here names that a model equals are looked up,
and the clauses that look into a name are asked only if one of them all holds: ten microseconds or so.
"""

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from functools import lru_cache

from genai_prices.types import (
    ClauseAnd,
    ClauseContains,
    ClauseEndsWith,
    ClauseEquals,
    ClauseOr,
    ClauseStartsWith,
    MatchLogic,
    ModelInfo,
    Provider,
)

_PROVIDERS_REMEMBERED = 1_000
_COMPACT_DATE = re.compile(r"-(20\d{2})(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(?=-|:|$)")

Test = Callable[[str], bool]


class ModelIndex:
    def __init__(self, providers: Sequence[Provider]) -> None:
        self._providers = {provider.id: _Models(provider.models) for provider in providers}
        self._fallbacks = {provider.id: provider.fallback_model_providers or [] for provider in providers}
        self._by_name = [(p.id, _test(p.provider_match)) for p in providers if p.provider_match]
        self._by_model = [(p.id, _test(p.model_match)) for p in providers if p.model_match]
        self._provider = lru_cache(_PROVIDERS_REMEMBERED)(self._find_provider)

    def find(self, name: str, provider: str) -> ModelInfo | None:
        """`provider` may be empty: then the name tells. None: nobody's."""
        name = name.lower()
        if provider.lower() == "litellm":
            first, _, rest = name.partition("/")
            if first and rest and (found := self._provider(first)):
                return self._find(found, rest)
            provider = ""
        id_ = self._provider(provider) if provider else next((i for i, test in self._by_model if test(name)), None)
        return None if id_ is None else self._find(id_, name)

    def _find_provider(self, name: str) -> str | None:
        name = name.lower().strip()
        return name if name in self._providers else next((i for i, test in self._by_name if test(name)), None)

    def _find(self, provider: str, name: str) -> ModelInfo | None:
        for one in dict.fromkeys((name, _COMPACT_DATE.sub(_dashed, name))):
            for id_ in (provider, *self._fallbacks[provider]):
                if id_ in self._providers and (model := self._providers[id_].find(one)):
                    return model
        return None


class _Models:
    """Of one provider: of several that match the first counts."""

    def __init__(self, models: Sequence[ModelInfo]) -> None:
        self._models = list(models)
        self._equal: dict[str, int] = {}
        self._tests: list[tuple[int, Test]] = []
        parts, starts, ends, others = set(), set(), set(), []
        for number, model in enumerate(models):
            for clause in _alternatives(model.match):
                if isinstance(clause, ClauseEquals):
                    self._equal.setdefault(clause.equals.lower(), number)
                    continue
                self._tests.append((number, _test(clause)))
                if isinstance(clause, ClauseContains):
                    parts.add(clause.contains.lower())
                elif isinstance(clause, ClauseStartsWith):
                    starts.add(clause.starts_with.lower())
                elif isinstance(clause, ClauseEndsWith):
                    ends.add(clause.ends_with.lower())
                else:
                    others.append(_test(clause))
        self._parts, self._starts, self._ends, self._others = tuple(parts), tuple(starts), tuple(ends), others

    def find(self, name: str) -> ModelInfo | None:
        best = self._equal.get(name, len(self._models))
        if self._may_test(name):
            best = min(best, next((number for number, test in self._tests if number >= best or test(name)), best))
        return self._models[best] if best < len(self._models) else None

    def _may_test(self, name: str) -> bool:
        return (
            name.startswith(self._starts)
            or name.endswith(self._ends)
            or any(part in name for part in self._parts)
            or any(test(name) for test in self._others)
        )


def _dashed(found: re.Match[str]) -> str:
    year, month, day = map(int, found.groups())
    with contextlib.suppress(ValueError):
        return f"-{date(year, month, day)}"
    return found[0]


def _alternatives(clause: MatchLogic) -> Iterator[MatchLogic]:
    if isinstance(clause, ClauseOr):
        for one in clause.or_:
            yield from _alternatives(one)
    else:
        yield clause


def _test(clause: MatchLogic) -> Test:
    """Of names in lower case."""
    match clause:
        case ClauseOr():
            tests = [_test(one) for one in clause.or_]
            return lambda name: any(test(name) for test in tests)
        case ClauseAnd():
            tests = [_test(one) for one in clause.and_]
            return lambda name: all(test(name) for test in tests)
        case ClauseEquals():
            whole = clause.equals.lower()
            return lambda name: name == whole
        case ClauseStartsWith():
            start = clause.starts_with.lower()
            return lambda name: name.startswith(start)
        case ClauseEndsWith():
            end = clause.ends_with.lower()
            return lambda name: name.endswith(end)
        case ClauseContains():
            part = clause.contains.lower()
            return lambda name: part in name
    pattern = re.compile(clause.regex)
    return lambda name: pattern.search(name) is not None

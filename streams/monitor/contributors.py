"""Who and what stands behind a change: running totals by user, model and error, for the text of alerts."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np

from driftline.detectors.base import State
from driftline.schemas.events import MICROSECONDS
from driftline.streams.monitor.columns import Groups, Traces
from driftline.streams.monitor.names import TraceSeries

_MINUTE = 60 * MICROSECONDS
_KEEP_MINUTES = 30  # alerts look back to "since", rarely further
_KEEP_LABELS = 200  # of each minute that is over; the heaviest are what an alert names
_MOST_LABELS = 5_000  # of the current minute, however many users there are
_MOST_BYTES = 2**20  # of all; an alert can do without the lighter ones of the app that has the most
_WHOLE = ""  # the total of all labels, also of those that were not kept

Kind = Literal["errors", "slow", "cost"]
_KIND_OF: dict[str, Kind] = {"error_rate": "errors", "latency_p99": "slow", "ttft_p99": "slow", "cost_p99": "cost"}
_KIND_OF |= {"latency_drift": "slow", "ttft_drift": "slow", "cost_drift": "cost", "error_type": "errors"}


class Contributors:
    """Totals per minute, release and kind: errors, microseconds and nano-dollars, so that sums are exact."""

    def __init__(self, state: State | None = None) -> None:
        state = state or {}
        self._totals: dict[tuple[str, str, Kind, int], Counter[str]] = {
            (app, release, kind, minute): Counter(labels)
            for app, release, kind, minute, labels in state.get("totals", [])
        }
        self._pruned: int = state.get("pruned", 0)
        self.nbytes = sum(map(_bytes, self._totals.values()))  # of the snapshot, about

    def snapshot(self) -> State:
        return {
            "totals": [[*key, dict(labels)] for key, labels in sorted(self._totals.items())],
            "pruned": self._pruned,
        }

    def add(self, traces: Traces, names: Sequence[TraceSeries]) -> None:
        """At least one trace, in canonical order."""
        groups = Groups(traces.series << 32 | traces.ts // _MINUTE)
        keys = [(names[n >> 32], (n & 0xFFFFFFFF) * _MINUTE) for n in groups.numbers.tolist()]
        labels = [f"{name.provider or 'provider unknown'} {name.model}" for name, _ in keys]
        index, order = groups.index(), groups.order

        failed = np.flatnonzero(traces.failed[order])
        errors = Counter(zip(index[failed].tolist(), traces.error_type[order[failed]].tolist(), strict=True))
        for (group, error_type), count in errors.items():
            name, minute = keys[group]
            self._count("errors", name, minute, f"{labels[group]}: {error_type or 'error'}", count)

        measured = groups.sums(~np.isnan(traces.latency))
        micros = groups.sums(np.rint(np.nan_to_num(traces.latency) * 1000).astype(np.int64))
        for key, label, n, total in zip(keys, labels, measured, micros, strict=True):
            if n:
                self._count("slow", *key, label, total)

        costs, users = traces.nanousd[order], traces.user[order]
        spending = (costs > 0) & users.astype(np.bool_)
        bounds = [*groups.starts.tolist(), len(order)]
        for group, key in enumerate(keys):
            mine = slice(bounds[group], bounds[group + 1])
            paid = spending[mine]
            spent: Counter[str] = Counter()
            for user, cost in zip(users[mine][paid].tolist(), costs[mine][paid].tolist(), strict=True):
                spent[user] += cost
            for user, cost in spent.items():
                self._count("cost", *key, f"user {user}", cost)
        for labels_ in self._totals.values():
            if len(labels_) > _MOST_LABELS:
                self._shorten(labels_, _MOST_LABELS // 2)
        while self.nbytes > _MOST_BYTES:
            self._shed()

    def _count(self, kind: Kind, name: TraceSeries, minute: int, label: str, amount: int) -> None:
        totals = self._totals.setdefault((name.app, name.release, kind, minute), Counter())
        if label not in totals:
            self.nbytes += _bytes((label,) if totals else (label, _WHOLE))
        totals[label] += amount
        totals[_WHOLE] += amount

    def prune(self, watermark: int) -> None:
        current = watermark - watermark % _MINUTE
        if current == self._pruned:
            return
        self._pruned = current
        oldest = watermark - _KEEP_MINUTES * _MINUTE
        for key in [key for key in self._totals if key[3] < oldest]:
            self.nbytes -= _bytes(self._totals.pop(key))
        for key, labels in self._totals.items():
            if key[3] < current and len(labels) > _KEEP_LABELS:
                self._shorten(labels, _KEEP_LABELS)

    def _shed(self) -> None:
        """Half of the labels of the app whose labels take the most."""
        of_app: Counter[str] = Counter()
        for (app, *_), labels in self._totals.items():
            of_app[app] += _bytes(labels)
        largest = min(of_app, key=lambda app: (-of_app[app], app))
        for key in [key for key in self._totals if key[0] == largest]:
            labels = self._totals[key]
            if len(labels) > 2:
                self._shorten(labels, (len(labels) - 1) // 2)
            else:
                self.nbytes -= _bytes(self._totals.pop(key))

    def _shorten(self, labels: Counter[str], limit: int) -> None:
        """Keep the heaviest, and the whole."""
        self.nbytes -= _bytes(labels)
        whole = labels.pop(_WHOLE)
        kept = dict(_top(labels, limit))
        labels.clear()
        labels.update({_WHOLE: whole, **kept})
        self.nbytes += _bytes(labels)

    def top(self, rule: str, app: str, release: str, since: int, limit: int) -> list[str]:
        """The heaviest labels since then, with their shares."""
        kind = _KIND_OF.get(rule)
        total: Counter[str] = Counter()
        for (a, r, k, minute), labels in self._totals.items():
            if (a, r, k) == (app, release, kind) and minute >= since - since % _MINUTE:
                total.update(labels)
        whole = total.pop(_WHOLE, 0)
        if not whole:
            return []
        return [f"{label} ({amount / whole:.0%})" for label, amount in _top(total, limit)]


def _bytes(labels: Iterable[str]) -> int:
    return sum(len(label.encode()) + 12 for label in labels)


def _top(labels: Counter[str], limit: int) -> list[tuple[str, int]]:
    return sorted(labels.items(), key=lambda item: (-item[1], item[0]))[:limit]

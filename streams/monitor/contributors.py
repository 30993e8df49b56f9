"""Who and what stands behind a change: running totals by user, model and error, for the text of alerts."""

from collections import Counter
from collections.abc import Sequence

from driftline.detectors.base import State
from driftline.schemas.events import MICROSECONDS, Trace

_MINUTE = 60 * MICROSECONDS
_KEEP_MINUTES = 30  # alerts look back to "since", rarely further
_KEEP_LABELS = 200  # per minute and kind; the heaviest are what an alert names

_KIND_OF = {"error_rate": "errors", "latency_p99": "slow", "ttft_p99": "slow", "cost_p99": "cost"}


class Contributors:
    """Totals per minute, release and kind."""

    def __init__(self, state: State | None = None) -> None:
        self._totals: dict[tuple[str, str, str, int], Counter[str]] = {
            (app, release, kind, minute): Counter(labels)
            for app, release, kind, minute, labels in (state or {}).get("totals", [])
        }

    def snapshot(self) -> State:
        return {"totals": [[*key, dict(labels)] for key, labels in sorted(self._totals.items())]}

    def add(self, traces: Sequence[Trace]) -> None:
        """Traces in canonical order."""
        for t in traces:
            minute = t.ts - t.ts % _MINUTE
            if t.status == "error":
                self._count(
                    t, "errors", minute, f"{t.provider or 'provider unknown'} {t.model}: {t.error_type or 'error'}", 1
                )
            if t.cost_usd and t.user_id:
                self._count(t, "cost", minute, f"user {t.user_id}", t.cost_usd)
            if t.latency_ms is not None:
                self._count(t, "slow", minute, f"{t.provider or 'provider unknown'} {t.model}", t.latency_ms)

    def _count(self, t: Trace, kind: str, minute: int, label: str, amount: float) -> None:
        self._totals.setdefault((t.app, t.release, kind, minute), Counter())[label] += amount  # type: ignore[assignment]  # Counter takes floats

    def prune(self, watermark: int) -> None:
        oldest = watermark - _KEEP_MINUTES * _MINUTE
        current = watermark - watermark % _MINUTE
        for key in [key for key in self._totals if key[3] < oldest]:
            del self._totals[key]
        for key, labels in self._totals.items():
            if key[3] < current and len(labels) > _KEEP_LABELS:
                self._totals[key] = Counter(dict(_top(labels, _KEEP_LABELS)))

    def top(self, rule: str, app: str, release: str, since: int, limit: int) -> list[str]:
        """The heaviest labels since then, with their shares."""
        kind = _KIND_OF.get(rule)
        total: Counter[str] = Counter()
        for (a, r, k, minute), labels in self._totals.items():
            if (a, r, k) == (app, release, kind) and minute >= since - since % _MINUTE:
                total.update(labels)
        whole = sum(total[label] for label in sorted(total))
        if not whole:
            return []
        return [f"{label} ({amount / whole:.0%})" for label, amount in _top(total, limit)]


def _top(labels: Counter[str], limit: int) -> list[tuple[str, int]]:
    return sorted(labels.items(), key=lambda item: (-item[1], item[0]))[:limit]

"""Users' own threshold rules, each on every release (or app) that it matches."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from driftline.detectors.base import Measurement, State
from driftline.schemas.events import MICROSECONDS
from driftline.schemas.ids import stable_id
from driftline.streams.monitor.rules import texts
from driftline.streams.monitor.rules.config import TOTALS, RuleConfig, match
from driftline.streams.monitor.rules.evaluate import Row, Step, judge, limit, windows
from driftline.streams.monitor.rules.part import FORGET_S, Began, Change, Context, Ended
from driftline.streams.monitor.rules.reference import Reference
from driftline.streams.monitor.rules.totals import Totals, by_release, together
from driftline.streams.monitor.watch import Reading, Stream
from driftline.streams.monitor.windows import Closed

MAX_STREAMS = 5_000  # rule x app x release, of one partition: 60 bytes each in its state
MAX_REFERENCES = 1_000  # relative rule x app: 3 kB each
NEED = 60  # healthy windows before a reference is one: an hour of them at the default size
_UNKNOWN = f"needs {NEED} healthy windows to know what is usual"
_NO_SHARE = "the usual is not above zero, and has no multiples"
_WORDS_ONLY = {"severity", "action"}  # of a rule: they may change without beginning anew


@dataclass
class _Stream:
    row: Row = field(default_factory=Row)
    value: float | None = None  # of the last window
    n: int = 0
    baseline: float | None = None
    touched: bool = False  # since the last readings


class Thresholds:
    rule = "threshold"

    def __init__(
        self, rules: Sequence[RuleConfig], size_s: int, golden: str, context: Context, state: State | None = None
    ) -> None:
        """golden: the release whose scores are the judge's own test, and no traffic."""
        self._rules = {rule.name: rule for rule in rules}
        self._golden = golden
        self._context = context
        self._size = size_s * MICROSECONDS
        self._size_s = size_s
        self._quiet = windows(FORGET_S, size_s)
        state = state or {}
        now, then = self._fingerprints(), state.get("rules", {})
        same = {name for name in now if now[name] == then.get(name)}
        self._streams: dict[Stream, _Stream] = {
            Stream(*key): _Stream(**{**stream, "row": Row(**stream["row"])})
            for key, stream in state.get("streams", [])
            if key[2] in same
        }
        self._references: dict[tuple[str, str], Reference] = {
            (name, app): Reference(reference) for name, app, reference in state.get("references", []) if name in same
        }
        self._left: dict[tuple[str, str], int] = {(app, release): at for app, release, at in state.get("left", [])}
        self.over_limit: int = state.get("over_limit", 0)

    def snapshot(self) -> State:
        return {
            "rules": self._fingerprints(),
            "streams": [[list(key), asdict(stream)] for key, stream in sorted(self._streams.items())],
            "references": [[*key, reference.snapshot()] for key, reference in sorted(self._references.items())],
            "left": [[*key, at] for key, at in sorted(self._left.items())],
            "over_limit": self.over_limit,
        }

    def _fingerprints(self) -> dict[str, str]:
        return {name: stable_id(rule.model_dump_json(exclude=_WORDS_ONLY)) for name, rule in self._rules.items()}

    def close(self, start: int, windows: Sequence[Closed]) -> list[Change]:
        releases = by_release(window for window in windows if window.release != self._golden)
        self._left = {key: at for key, at in self._left.items() if start < at}  # what came before it left is no news
        changes: list[Change] = []
        for name, rule in self._rules.items():
            present = _of_rule(rule, releases)
            if rule.per == "release":
                present = {key: totals for key, totals in present.items() if key not in self._left}
            known = {(key.app, key.release) for key in self._streams if key.component == name}
            baselines: dict[str, float | None] = {}
            for app, release in sorted(known | present.keys()):
                if app not in baselines:
                    reference = self._references.get((name, app))
                    baselines[app] = reference.value(start, NEED) if reference else None
                totals = present.get((app, release))
                changes += self._judge(rule, Stream(app, release, name), totals, baselines[app], start)
                if totals is not None and rule.relative:
                    self._learn(rule, app, release, totals, releases, start)
        self._references = {key: r for key, r in self._references.items() if not r.empty(start)}
        return changes

    def _judge(
        self, rule: RuleConfig, key: Stream, totals: Totals | None, baseline: float | None, start: int
    ) -> list[Change]:
        stream = self._streams.get(key)
        if stream is None:
            if len(self._streams) >= MAX_STREAMS:
                self.over_limit += 1
                return []
            stream = self._streams[key] = _Stream()
        if totals is not None:
            stream.value, stream.n = totals.value(rule.metric, rule.score)
            stream.touched = True
        else:
            stream.value, stream.n = (0.0 if rule.metric in TOTALS else None), 0
        stream.baseline = baseline if rule.relative else None
        step = stream.row.step(
            judge(rule, stream.value, stream.n, baseline),
            start,
            empty=totals is None,
            bad=windows(rule.for_s, self._size_s),
            clear=windows(rule.clear_for_s, self._size_s),
            quiet=self._quiet,
        )
        at = start + self._size
        if step is Step.FIRED:
            like = texts.LIKE.get(rule.metric, "")
            top = self._context.contributors(like, key.app, key.release, stream.row.since) if like else []
            m, since = self._measure(rule, stream), stream.row.since
            return [Began(key, at, since, m, texts.threshold(rule, key, m, since, self._size_s, top), top)]
        if step is Step.NOTHING:
            if totals is None and not stream.row.firing and stream.row.quiet >= self._quiet:
                del self._streams[key]
            return []
        reason = (
            f"nothing to judge it by for {FORGET_S // 60} min"
            if step is Step.SILENT
            else f"clear for {texts.duration(rule.clear_for_s)}"
        )
        return [Ended(key, at, self._measure(rule, stream), reason)]

    def _learn(
        self,
        rule: RuleConfig,
        app: str,
        release: str,
        totals: Totals,
        releases: Mapping[tuple[str, str], Totals],
        start: int,
    ) -> None:
        """Healthy windows of stable releases are what the app is like."""
        stream = self._streams.get(Stream(app, release, rule.name))
        value, n = totals.value(rule.metric, rule.score)
        if stream is None or stream.row.firing or stream.row.bad or value is None or n < rule.floor:
            return
        its = [release] if rule.per == "release" else [r for a, r in releases if a == app and match(rule.release, r)]
        if not all(self._context.is_stable(app, r) for r in its):
            return
        key = (rule.name, app)
        if key not in self._references:
            if len(self._references) >= MAX_REFERENCES:
                self.over_limit += 1
                return
            self._references[key] = Reference()
        self._references[key].add(start, value)

    def _measure(self, rule: RuleConfig, stream: _Stream) -> Measurement:
        value, baseline = stream.value, stream.baseline
        return Measurement(
            threshold=limit(rule, rule.limit, baseline),
            value=value,
            baseline=baseline,
            effect=value / baseline - 1 if value is not None and baseline else None,
            n_events=stream.n,
            guarantee="none",
            note=texts.condition(rule),
        )

    def firing(self) -> set[Stream]:
        return {key for key, stream in self._streams.items() if stream.row.firing}

    def forget(self, app: str, release: str, at: int) -> None:
        self._left[app, release] = at
        for key in [key for key in self._streams if (key.app, key.release) == (app, release)]:
            del self._streams[key]

    def readings(self) -> list[Reading]:
        readings = []
        for key, stream in sorted(self._streams.items()):
            if not (stream.touched or stream.row.firing):
                continue
            stream.touched = False
            rule = self._rules[key.component]
            measurement: Measurement | None = self._measure(rule, stream)
            note = ""
            if rule.relative and (stream.baseline is None or stream.baseline <= 0):
                measurement, note = None, _UNKNOWN if stream.baseline is None else _NO_SHARE
            readings.append(Reading(key, stream.row.firing, measurement, "", note))
        return readings


def _of_rule(rule: RuleConfig, releases: Mapping[tuple[str, str], Totals]) -> dict[tuple[str, str], Totals]:
    """What the rule judges in these windows: by (app, release), the release "" for all of an app."""
    mine = {
        (app, release): totals
        for (app, release), totals in releases.items()
        if match(rule.app, app) and match(rule.release, release)
    }
    if rule.per == "release":
        return mine
    apps: dict[tuple[str, str], list[Totals]] = {}
    for (app, _), totals in mine.items():
        apps.setdefault((app, ""), []).append(totals)
    return {key: together(parts) for key, parts in apps.items()}

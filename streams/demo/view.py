"""What the demo shows: a live picture on a terminal, plain lines anywhere else, and the account at the end."""

from collections import deque
from collections.abc import Iterable, Sequence
from io import StringIO
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from driftline.schemas.clock import utc
from driftline.schemas.results import Alert, BreakerSignal, Evidence, Result, RollbackSignal, WindowStats
from driftline.schemas.text import for_log
from driftline.streams.demo.runner import Update
from driftline.streams.demo.scenario import Scenario
from driftline.streams.demo.summary import Summary

BARS = "▁▂▃▄▅▆▇█"
PICTURE_WIDTH = 120  # columns: alerts fit on a line
PICTURE_HEIGHT = 54  # lines: all evidence
MINUTES = 60  # of history in the sparklines
LINES = 10  # of alerts and signals in the live picture
FIXED_LINES = 15  # of it: the head, the series, three frames, and the prompt's
HEAD_LINES = 8  # of it without the series, which a small screen has no room for
LEAST_LINES = 3  # of evidence that are worth a frame
SERIES_COLUMNS = 36  # of a line of the series, beside its values
BAR = 20
TIMELINE = 66

QUERIES = (
    (
        "What fired, and when was it over?",
        "SELECT rule, release, fired_at, max(resolved_at) AS resolved, any(summary) FROM alerts "
        "GROUP BY id, rule, release, fired_at ORDER BY fired_at",
    ),
    (
        "Who spent the money in the cost spike?",
        "SELECT user_id, count() AS requests, round(sum(cost_usd), 4) AS usd FROM traces "
        "WHERE ts >= '2026-11-02 12:40:00' AND ts < '2026-11-02 12:55:00' GROUP BY user_id ORDER BY usd DESC LIMIT 5",
    ),
    (
        "How good were the canary's answers?",
        "SELECT release, count() AS answers, round(avg(value), 3) AS relevance FROM scores "
        "WHERE ts >= '2026-11-02 11:10:00' AND ts < '2026-11-02 11:40:00' GROUP BY release",
    ),
)


class DemoView:
    """Also a context manager. `update` is the runner's `on_update`."""

    def __init__(self, console: Console, screen: Console) -> None:
        """`console`: of what stays. `screen`: of the live picture, and of the log beside it."""
        self._console = console
        self._screen = screen
        self._scenario = Scenario()
        self._series = Series()
        self._log: deque[Text] = deque(maxlen=LINES)
        self._phase = ""
        self._open: dict[str, Alert] = {}
        self._pressure: dict[str, float] = {}  # evidence over threshold, by detector
        self._last: Update | None = None
        self._live = Live(console=screen, refresh_per_second=4) if console.is_terminal and screen.is_terminal else None

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._live:
            self._live.stop()

    def update(self, update: Update) -> None:
        self._series.add(update.results)
        lines = self._news(update)
        self._log.extend(lines)
        self._last = update
        if self._live:
            self._live.update(self._picture(update, self._screen.width, self._screen.height))
        else:
            for line in lines:
                self._console.print(line, soft_wrap=True)

    def show(self, summary: Summary) -> None:
        """The account at the end."""
        self._account(self._console, summary)
        self._console.print("\nLook further:", highlight=False)
        for question, sql in QUERIES:
            self._console.print(
                f'  # {question}\n  driftline query --demo "{sql}"', highlight=False, soft_wrap=True, markup=False
            )

    def save_picture(self, path: Path, summary: Summary) -> None:
        """The last live picture and the account, as SVG."""
        console = Console(record=True, width=PICTURE_WIDTH, file=StringIO(), force_terminal=True)
        if self._last is not None:
            console.print(self._picture(self._last, PICTURE_WIDTH, PICTURE_HEIGHT))
        self._account(console, summary)
        console.save_svg(str(path), title="driftline demo")

    def _account(self, console: Console, summary: Summary) -> None:
        table = Table("incident", "began", "detected by", "after", "requests", "resolved", title="Incidents")
        for incident in summary.incidents:
            table.add_row(
                incident.name,
                _clock(incident.began_at),
                Text(for_log(incident.detected_by)) if incident.detected_by else Text("missed", "bold red"),
                f"{incident.delay_s:.0f} s" if incident.delay_s is not None else "",
                f"{incident.delay_events:,}" if incident.delay_events is not None else "",
                _clock(incident.resolved_at) if incident.resolved_at else "still open",
            )
        console.print(table)
        console.print(
            f"{summary.events_sent:,} events sent, {summary.events_stored:,} stored, "
            f"{summary.events_dead_lettered:,} dead-lettered, {summary.lost:,} lost, "
            f"{summary.duplicated:,} duplicated; {summary.false_alarms} false alarms, "
            f"{summary.quiet_stretch.alarms} in the quiet stretch; {summary.wall_seconds:.0f} s (seed {summary.seed})",
            highlight=False,
        )
        for failure in summary.failures():
            console.print(Text(f"failed: {for_log(failure)}", "bold red"))

    def _news(self, update: Update) -> list[Text]:
        lines = []
        if update.phase.title != self._phase:
            self._phase = update.phase.title
            lines.append(_line(update.phase.began_at, "phase", update.phase.title, "bold cyan"))
        for release in update.releases:
            words = " ".join(filter(None, (release.kind, release.release, release.outcome)))
            lines.append(_line(release.ts, "release", words, "magenta"))
        for result in update.results:
            if isinstance(result, Alert):
                lines.append(self._alert(result))
            elif isinstance(result, RollbackSignal):
                lines.append(_line(result.decided_at, "ROLLBACK", f"{result.release}: {result.reason}", "bold red"))
            elif isinstance(result, BreakerSignal):
                words = f"{result.provider} {result.model} {result.state}: {result.reason}"
                lines.append(_line(result.at, "breaker", words, "yellow"))
            elif isinstance(result, Evidence):
                self._weigh(result)
        return lines

    def _alert(self, alert: Alert) -> Text:
        if alert.state == "firing":
            self._open[alert.id] = alert
            return _line(alert.ts, "ALERT", f"{alert.rule}: {alert.summary}", "bold red")
        self._open.pop(alert.id, None)
        return _line(alert.ts, "resolved", f"{alert.rule} {alert.release} {alert.component}".rstrip(), "green")

    def _weigh(self, evidence: Evidence) -> None:
        score = evidence.log_e if evidence.log_e is not None else evidence.log_p
        name = f"{evidence.detector} {evidence.component}".strip()
        if score is not None and evidence.threshold and evidence.release == "v1":
            self._pressure[name] = max(0.0, score / evidence.threshold)

    def _picture(self, update: Update, width: int, height: int) -> RenderableType:
        """What fits, what happened first: where lines are few, the evidence with the least pressure is left out."""
        scenario = self._scenario
        done = (update.at - scenario.start) / (scenario.end - scenario.start)
        rate = update.sent / max(update.wall_s, 1e-9)
        speed = (update.at - scenario.start) / 1e6 / max(update.wall_s, 1e-9)
        head = Text.assemble(
            (_at(update.at), "bold"),
            f"  {update.phase.title}\n",
            f"{update.sent:,} events, {rate:,.0f} a second, {speed:,.0f}x real time\n",
            (_timeline(scenario, done, max(1, min(TIMELINE, width - 4))), "cyan"),
            no_wrap=True,
            overflow="ellipsis",
        )
        series = Table.grid(padding=(0, 2))
        for name, values, shown in self._series.rows():
            series.add_row(name, sparkline(values[-max(1, width - SERIES_COLUMNS) :]), shown)
        is_small = height <= FIXED_LINES + 2
        lines = max(1, min(LINES, height - (HEAD_LINES if is_small else FIXED_LINES)))
        news = Text("\n", no_wrap=True, overflow="ellipsis").join(
            list(self._log)[-lines:] or [Text("no alerts yet", "dim")]
        )
        panels = [
            Panel(head, title="driftline demo"),
            Panel(news, title=f"open alerts: {len(self._open)}", height=lines + 2),
        ]
        if not is_small:
            panels.append(Panel(series, title=f"last {min(MINUTES, width - SERIES_COLUMNS)} minutes"))
        left = height - FIXED_LINES - lines - 2
        if left >= LEAST_LINES and self._pressure:
            panels.append(Panel(self._evidence(left), title="evidence / threshold (release v1)"))
        return Group(*panels)

    def _evidence(self, lines: int) -> RenderableType:
        """The most pressing, by name."""
        table = Table.grid(padding=(0, 2))
        pressing = sorted(self._pressure, key=lambda name: (-self._pressure[name], name))[:lines]
        for name in sorted(pressing):
            value = self._pressure[name]
            bar = Text("█" * round(BAR * min(1.0, value)), "red" if value >= 1 else "green")
            table.add_row(Text(for_log(name)), bar, f"{value:.2f}")
        return table


class _Minute(NamedTuple):
    requests: int
    errors: int
    cost_usd: float
    p99_ms: float
    score_sum: float
    score_count: int


class Series:
    """The windows of all releases and models, added up by minute."""

    def __init__(self) -> None:
        self._windows: dict[int, dict[str, WindowStats]] = {}

    def add(self, results: Iterable[Result]) -> None:
        for result in results:
            if isinstance(result, WindowStats):
                self._windows.setdefault(result.start, {})[result.id] = result  # the last is the newest revision
        for start in sorted(self._windows)[:-MINUTES]:
            del self._windows[start]

    def rows(self) -> list[tuple[str, list[float], str]]:
        """(name, values by minute, the last one in words)."""
        minutes = [_add_up(list(windows.values())) for _, windows in sorted(self._windows.items())]
        scored = [m.score_sum / m.score_count for m in minutes if m.score_count]
        columns = [
            ("requests a minute", [float(m.requests) for m in minutes], "{:,.0f}"),
            ("errors", [m.errors / m.requests for m in minutes if m.requests], "{:.1%}"),
            ("p99 latency", [m.p99_ms for m in minutes], "{:,.0f} ms"),
            ("cost a minute", [m.cost_usd for m in minutes], "${:.4f}"),
            ("mean score", scored, "{:.3f}"),
        ]
        return [(name, values, form.format(values[-1])) for name, values, form in columns if values]


def _add_up(windows: Sequence[WindowStats]) -> _Minute:
    scores = [score for window in windows for score in window.scores.values()]
    return _Minute(
        requests=sum(window.requests for window in windows),
        errors=sum(window.errors for window in windows),
        cost_usd=sum(window.cost_usd or 0.0 for window in windows),
        p99_ms=max((window.latency_ms.p99 for window in windows if window.latency_ms), default=0.0),
        score_sum=sum(score.mean * score.count for score in scores),
        score_count=sum(score.count for score in scores),
    )


def sparkline(values: Sequence[float]) -> str:
    """From zero to the largest value."""
    top = max(values, default=0.0) or 1.0
    return "".join(BARS[min(len(BARS) - 1, int(value / top * len(BARS)))] for value in values)


def _timeline(scenario: Scenario, done: float, width: int) -> str:
    """One letter for each stretch of the day: quiet as dots, incidents by their initial; what is past in capitals."""
    cells = []
    for i in range(width):
        phase = scenario.phase(scenario.start + round((i + 0.5) / width * (scenario.end - scenario.start)))
        cell = "." if phase.name in ("warm_up", "quiet", "recovery") else phase.name[0]
        cells.append(("-" if cell == "." else cell.upper()) if i < done * width else cell)
    return "".join(cells)


def _line(ts: int, kind: str, words: str, style: str) -> Text:
    return Text.assemble((_at(ts), "dim"), " ", (f"{kind:9}", style), for_log(words))


def _at(ts: int) -> str:
    return utc(ts).strftime("%H:%M:%S")


def _clock(rfc3339: str) -> str:
    return rfc3339[11:19]

import numpy as np

from driftline.detectors.config import BudgetConfig, DetectorsConfig
from driftline.detectors.state import pack, unpack
from driftline.schemas.events import MICROSECONDS, Tick, Trace
from driftline.schemas.results import Alert, Evidence
from driftline.schemas.topics import Topics
from driftline.streams.monitor.columns import NO_TRACES
from driftline.streams.monitor.config import MonitorConfig, SilenceConfig
from driftline.streams.monitor.fold import MonitorFold
from driftline.streams.monitor.incidents import Incidents
from driftline.streams.monitor.names import TraceSeries
from driftline.streams.monitor.silence import Silences, active_apps
from driftline.streams.pricing import Pricer
from tests.streams.monitor.log import START, Log, run_log

TICK = 60  # seconds
HOUR, DAY = 3600, 86_400
Results = list[Evidence | Alert]


class Life:
    """An app's life in ticks of a minute; START is a midnight."""

    def __init__(self, silences: Silences | None = None) -> None:
        self.notices = Incidents(BudgetConfig())
        self.silences = silences or Silences(SilenceConfig(), TICK, self.notices)
        self.at = 0

    def live(self, until: int, serving: dict[str, int] | None, release: str = "v1") -> list[tuple[str, int, str]]:
        """Requests per tick of each app that serves. The transitions: state, second, severity."""
        active = {app: (n, release) for app, n in (serving or {}).items()}
        seen: list[tuple[str, int, str]] = []
        while self.at < until:
            self.at += TICK
            for result in self.silences.step(active, START + self.at * MICROSECONDS, self.at):
                if isinstance(result, Alert):
                    seen.append((result.state, (result.ts - START) // MICROSECONDS, result.severity))
        return seen

    def office_hours(self, days: range, serving: dict[str, int], jitter: int = 0) -> list[tuple[str, int, str]]:
        """From 8 to 18 o'clock."""
        seen: list[tuple[str, int, str]] = []
        for day in days:
            seen += self.live(day * DAY + 8 * HOUR + jitter, None)
            seen += self.live(day * DAY + 18 * HOUR - jitter, serving)
            seen += self.live((day + 1) * DAY, None)
        return seen


def test_an_app_that_never_rests_is_stale_after_a_minute_and_recovers() -> None:
    life = Life()
    assert life.live(DAY + HOUR, {"bot": 5000}) == []
    begin = DAY + HOUR
    assert life.live(begin + 2 * HOUR, None) == [("firing", begin + 60, "error")]
    assert life.live(begin + 3 * HOUR, {"bot": 5000}) == [("resolved", begin + 2 * HOUR + TICK, "error")]


def test_slow_apps_are_given_time_in_proportion() -> None:
    """A request every 1 to 10 min, so stale after 100."""
    life, rng = Life(), np.random.default_rng(1)
    while life.at < 6 * DAY:
        assert life.live(life.at + int(rng.integers(0, 10)) * TICK, None) == []
        life.live(life.at + TICK, {"bot": 1})
    begin = life.at
    [(state, at, _)] = life.live(begin + 3 * HOUR, None)
    assert state == "firing"
    assert 90 * 60 <= at - begin <= 130 * 60


def test_nothing_is_said_in_the_first_day_nor_of_apps_with_few_requests() -> None:
    life = Life()
    assert life.live(20 * HOUR, {"bot": 50}) == []
    assert life.live(40 * HOUR, None) == []
    life = Life()
    assert life.live(3 * DAY, None) == []
    for _ in range(500):
        assert life.live(life.at + 10 * 60 - TICK, None) == []
        assert life.live(life.at + TICK, {"rare": 1}) == []
    assert life.live(life.at + DAY, None) == []


def test_nights_weekends_and_unpunctual_mornings_are_no_silence() -> None:
    life = Life()
    for week in range(3):
        jitter = 20 * 60 * (week % 2)
        assert life.office_hours(range(7 * week, 7 * week + 5), {"bot": 5000}, jitter) == []
    life.live(21 * DAY + 8 * HOUR, None)
    life.live(21 * DAY + 11 * HOUR, {"bot": 5000})
    noon = life.at
    assert life.live(21 * DAY + 12 * HOUR, None) == [("firing", noon + 1800, "warning")]


def test_releases_replace_each_other_without_a_word() -> None:
    life = Life()
    assert life.live(2 * DAY, {"bot": 50}, "v1") == []
    assert life.live(3 * DAY, {"bot": 50}, "v2") == []


def test_a_retired_app_is_given_up_and_begins_anew() -> None:
    life = Life()
    life.live(2 * DAY, {"bot": 50})
    begin = life.at
    changes = life.live(begin + 8 * DAY, None)
    assert [(state, at) for state, at, _ in changes] == [("firing", begin + 660), ("resolved", begin + 7 * DAY + TICK)]
    assert life.live(begin + 8 * DAY + 2 * HOUR, {"bot": 50}) == []
    assert life.live(begin + 10 * DAY, None) == []
    assert life.live(begin + 10 * DAY + HOUR, {"other": 50, "bot": 1}) == []


def test_the_alert_says_since_when_and_what_it_means() -> None:
    life = Life()
    life.live(2 * DAY, {"bot": 50, "other": 50}, "v7")
    results: Results = []
    for _ in range(20):
        life.at += TICK
        results += life.silences.step({"other": (50, "v7")}, START + life.at * MICROSECONDS, 5)
    evidence, alert = results
    assert isinstance(evidence, Evidence)
    assert isinstance(alert, Alert)
    assert (evidence.state, evidence.detector, evidence.guarantee) == ("stale", "stale", "none")
    assert alert.since == evidence.since == START + 2 * DAY * MICROSECONDS
    assert alert.summary.startswith("bot: no requests since 2026-")
    assert "Release v7 served last" in alert.description
    assert "outside the false-alarm budget" in alert.false_alarms


def test_snapshots_continue_to_the_bit() -> None:
    straight, resumed = Life(), Life()
    rng = np.random.default_rng(2)
    for turn in range(40):
        active = {app: int(rng.integers(1, 60)) for app in ("a", "b", "c") if rng.random() < 0.8 and turn < 30}
        until = (turn + 1) * HOUR
        saved = unpack(pack({"silences": resumed.silences.snapshot(), "notices": resumed.notices.snapshot()}))
        resumed.notices = Incidents(BudgetConfig(), saved["notices"])
        resumed.silences = Silences(SilenceConfig(), TICK, resumed.notices, saved["silences"])
        assert straight.live(until, active) == resumed.live(until, active)
        assert pack(straight.silences.snapshot()) == pack(resumed.silences.snapshot())


def test_active_apps_are_counted_with_the_release_that_serves_most() -> None:
    names = [TraceSeries("a", "v1", "", "", ""), TraceSeries("a", "v2", "", "", ""), TraceSeries("b", "v1", "", "", "")]
    traces = NO_TRACES._replace(series=np.array([0, 1, 1, 2], np.int64))
    assert active_apps(traces, names) == {"a": (3, "v2"), "b": (1, "v1")}
    assert active_apps(NO_TRACES, names) == {}


async def test_in_the_fold_releases_come_and_go_but_only_silence_is_stale(topics: Topics) -> None:
    step, stop, back = 300, 26 * HOUR, 28 * HOUR
    log = Log()
    for at in range(0, back + HOUR, step):
        release = "v1" if at < 25 * HOUR else "v3"
        served = [release, release, release, "v2" if HOUR <= at < 2 * HOUR else release]
        if at < stop or at >= back:
            log.append(
                [
                    Trace(app="bot", ts=START + at * MICROSECONDS + i, trace_id=f"{at}-{i}", release=name)
                    for i, name in enumerate(served)
                ]
            )
        log.append([Tick(ts=START + (at + step + 5) * MICROSECONDS)])
    detectors = DetectorsConfig(budget=BudgetConfig(tick_s=step))
    fold = MonitorFold(MonitorConfig(), detectors, topics, Pricer(), None)
    half = len(log.records) - 20
    results = await run_log(fold, log.records[:half])
    fold = MonitorFold(MonitorConfig(), detectors, topics, Pricer(), fold.snapshot())
    results += await run_log(fold, log.records[half:])
    alerts = [r for r in results if isinstance(r, Alert) and r.rule == "stale"]
    assert [(a.state, a.release) for a in alerts] == [("firing", "v3"), ("resolved", "v3")]
    assert alerts[0].since == START + stop * MICROSECONDS
    assert alerts[1].ts == START + (back + step) * MICROSECONDS

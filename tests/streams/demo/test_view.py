import io

import msgspec
import pytest
from rich.cells import cell_len
from rich.console import Console

from driftline.schemas.results import Alert, BreakerSignal, Evidence, Quantiles, RollbackSignal, ScoreStats, WindowStats
from driftline.streams.demo.runner import Update
from driftline.streams.demo.scenario import MINUTE, Scenario
from driftline.streams.demo.view import DemoView, Series, sparkline
from tests.hostile import TEXTS, obeyed
from tests.hostile_events import TS, filled

SCENARIO = Scenario()


def window(start: int, requests: int, model: str = "m", revision: int = 1) -> WindowStats:
    return WindowStats(
        id=f"{start}-{model}", app="a", release="v1", model=model, start=start, size_s=60, revision=revision,
        requests=requests, errors=1, errors_by_type={}, latency_ms=Quantiles(requests, 1.0, 10.0, 20.0, 30.0),
        ttft_ms=None, input_tokens=1, output_tokens=1, cache_read_input_tokens=0, cost_usd=0.5, unpriced=0,
        scores={"relevance": ScoreStats(requests, 0.7)}, late=0,
    )  # fmt: skip


def alert(state: str) -> Alert:
    return Alert(
        id="a", dedup_key="k", app="support-bot", release="v1", rule="cost_p99", component="", state=state,  # type: ignore[arg-type]
        severity="error", episode=1, ts=SCENARIO.start, since=1, fired_at=1, resolved_at=None, revision=1,
        summary="costs [more] than before", description="", action="", value=None, baseline=None, effect=None,
        effect_low=None, effect_high=None, n_events=1, false_alarms="", contributors=[], labels={}, evidence_id="e",
    )  # fmt: skip


def evidence(detector: str, log_e: float) -> Evidence:
    return Evidence(
        id=detector, app="a", release="v1", detector=detector, component="", ts=SCENARIO.start, revision=1,
        state="ok", log_e=log_e, log_p=None, threshold=2.0, value=None, baseline=None, effect=None,
        effect_low=None, effect_high=None, n_events=1, n_units=1, n_not_scored=0, guarantee="stated", baseline_id="",
        since=None,
    )  # fmt: skip


def update(*results: WindowStats | Alert | Evidence) -> Update:
    phase = SCENARIO.phases[0]
    at = SCENARIO.start + MINUTE
    return Update(at=at, phase=phase, sent=300, requests=300, wall_s=1.0, releases=[], results=list(results))


def test_sparkline() -> None:
    assert sparkline([0, 1, 2, 4]) == "▁▃▅█"
    assert sparkline([0, 0]) == "▁▁"
    assert sparkline([]) == ""


def test_windows_of_one_minute_are_added_up_and_corrected() -> None:
    series = Series()
    at = SCENARIO.start
    series.add([window(at, 10), window(at, 30, "n"), window(at, 20, revision=2)])
    rows = {name: (values, shown) for name, values, shown in series.rows()}
    assert rows["requests a minute"] == ([50.0], "50")
    assert rows["errors"] == ([0.04], "4.0%")
    assert rows["cost a minute"] == ([1.0], "$1.0000")
    assert rows["mean score"][1] == "0.700"


def test_plain_lines_without_a_terminal() -> None:
    out = io.StringIO()
    console = Console(file=out, width=40)
    with DemoView(console, console) as view:
        view.update(update(alert("firing")))
        view.update(update(alert("resolved")))
    assert out.getvalue().splitlines() == [
        "08:00:00 phase    warm-up: learning what is normal",
        "08:00:00 ALERT    cost_p99: costs [more] than before",
        "08:00:00 resolved cost_p99 v1",
    ]


def test_a_live_picture_on_a_terminal() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=120)
    with DemoView(console, console) as view:
        view.update(update(window(SCENARIO.start, 100), alert("firing")))
    picture = out.getvalue()
    assert "open alerts: 1" in picture
    assert "requests a minute" in picture
    assert "costs [more] than before" in picture


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_what_strangers_wrote_is_text(text: str) -> None:
    kinds = (WindowStats, Evidence, Alert, RollbackSignal, BreakerSignal)
    results = [filled(kind, text, start=TS, ts=TS, decided_at=TS, at=TS) for kind in kinds]
    out = io.StringIO()
    console = Console(file=out, width=80)
    with DemoView(console, console) as view:
        view.update(update(*results))
        Console(file=out, width=80).print(view._picture(update(), 80, 54))
    assert obeyed(out.getvalue(), keep="\n") == ""
    assert "[INST]" in out.getvalue() or "[INST]" not in text


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (70, 18), (200, 80), (40, 10)])
def test_alerts_are_seen_on_any_terminal_and_nothing_wraps(width: int, height: int) -> None:
    console = Console(file=io.StringIO(), width=width, height=height)
    view = DemoView(console, console)
    long = "cost per request rose from 0.0004 to 0.0041 USD, ten times the usual, since 12:41, in 312 sessions of v1"
    results: list[WindowStats | Alert | Evidence] = [window(SCENARIO.start + i * MINUTE, 100 + i) for i in range(90)]
    results += [msgspec.structs.replace(alert("firing"), id=str(i), summary=f"{i} {long}") for i in range(12)]
    results += [evidence(f"detector_{i}", i / 10) for i in range(24)]
    view.update(update(*results))
    out = io.StringIO()
    Console(file=out, width=width, height=height).print(view._picture(update(), width, height))
    lines = out.getvalue().splitlines()
    assert len(lines) < height
    assert all(cell_len(line) <= width for line in lines)
    assert any("ALERT    cost_p99: 11 cost" in line for line in lines)
    assert any("mean score" in line and "0.700" in line for line in lines) == (height >= 18)
    assert any("detector_23" in line for line in lines) == (height >= 40)

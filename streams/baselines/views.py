"""How baselines look in a terminal."""

from collections.abc import Sequence
from typing import Any

from rich.console import Group as Stack
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from driftline.detectors.state import unpack
from driftline.schemas.baselines import Baseline
from driftline.schemas.text import counted, for_log, for_terminal
from driftline.streams.baselines import names
from driftline.streams.baselines.fit import Attempts
from driftline.streams.operate.times import show_time

STATES = {"active": Text("in force", "green"), "refused": Text("refused", "bold red")}


def numbers(baseline: Baseline) -> str:
    return ", ".join(f"{name} {value}" for name, value in _numbers(baseline, 4).items())


def _numbers(baseline: Baseline, digits: int) -> dict[str, str]:
    return {
        name: f"{value:.{digits}g}{names.unit(baseline.detector, baseline.component, name)}"
        for name, value in names.values(baseline.detector, baseline.summary).items()
    }


def _name(baseline: Baseline) -> str:
    return " ".join(filter(None, names.shown(baseline.detector, baseline.component)))


def attempts(found: Attempts, said: Sequence[Baseline], published: bool) -> RenderableType:
    answers = {names.shown(b.detector, b.component): b for b in said}
    fitted, lacking = (
        Table(title="fitted", title_justify="left"),
        Table(title="insufficient_reference", title_justify="left"),
    )
    for table, columns in (
        (fitted, ("id", "detector", "units", "numbers", "monitor")),
        (lacking, ("detector", "have", "need", "what is missing")),
    ):
        for name in columns:
            right = name in ("units", "have", "need")
            table.add_column(name, justify="right" if right else "left", no_wrap=name == "id", overflow="fold")
    for a in found.attempts:
        what = f"{a.detector} {a.component}".strip()
        note = for_terminal("; ".join(filter(None, [a.note, a.finds])))
        if a.baseline is None:
            lacking.add_row(for_terminal(what), f"{a.have:,}", "" if a.need is None else f"{a.need:,}", note)
            continue
        answer = answers.get((a.detector, a.component))
        monitor = Text("" if not published else "no answer yet") if answer is None else STATES[answer.state]
        reason = "" if answer is None or not answer.note else f": {answer.note}"
        shown = for_terminal("\n".join(filter(None, [numbers(a.baseline), a.finds])))
        fitted.add_row(
            a.baseline.id[:12],
            for_terminal(what),
            f"{a.have:,}",
            shown,
            monitor + for_terminal(reason),
        )
    said_of_all = "published" if published and found.baselines else "nothing published"
    tables = [table for table in (fitted, lacking) if table.row_count]
    return Stack(
        *tables, *map(for_terminal, found.notes), f"{counted(len(found.baselines), 'baseline')} fitted, {said_of_all}"
    )


def listed(baselines: Sequence[Baseline]) -> RenderableType:
    table = Table()
    for name in ("id", "app", "detector", "state", "source", "since"):
        table.add_column(name, no_wrap=name not in ("app", "detector"), overflow="fold")
    table.add_column("units", justify="right")
    for b in baselines:
        since = show_time(b.at)[:16]
        table.add_row(
            b.id[:12], for_terminal(b.app), for_terminal(_name(b)), STATES[b.state], b.source, since, f"{b.n:,}"
        )
    reasons = [Text(f"{b.id[:12]} was refused: {for_log(b.note)}", "red") for b in baselines if b.state == "refused"]
    return Stack(table, *reasons, counted(len(baselines), "baseline"))


def fields(baseline: Baseline) -> dict[str, Any]:
    """As JSON: with the payload's fields instead of its bytes."""
    shown = {name: getattr(baseline, name) for name in baseline.__struct_fields__ if name != "payload"}
    shown["detector"], shown["component"] = names.shown(baseline.detector, baseline.component)
    shown["summary"] = names.values(baseline.detector, baseline.summary)
    return {**shown, "payload": {name: _contents(value) for name, value in unpack(baseline.payload).items()}}


def _contents(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value


def each(baselines: Sequence[Baseline]) -> RenderableType:
    return Stack(*(_one(baseline) for baseline in baselines))


def _one(baseline: Baseline) -> RenderableType:
    grid = Table.grid(padding=(0, 2))
    for name, value in (
        ("id", baseline.id),
        ("app", baseline.app),
        ("detector", _name(baseline)),
        ("state", f"{baseline.state}, {baseline.source}" + (f": {baseline.note}" if baseline.note else "")),
        ("in force since", show_time(baseline.at)),
        ("fitted at", show_time(baseline.fitted_at)),
        ("traffic", f"{show_time(baseline.from_ts)} to {show_time(baseline.to_ts)}"),
        ("releases", ", ".join(baseline.releases)),
        ("models", ", ".join(baseline.models)),
        ("prompt versions", ", ".join(baseline.prompt_versions)),
        ("embedding model", baseline.embed_model),
        ("judges", ", ".join(baseline.judges)),
        ("units", f"{baseline.n:,}"),
        ("guarantee", baseline.guarantee),
        *_numbers(baseline, 6).items(),
        ("payload", _shape(baseline)),
    ):
        if value:
            grid.add_row(for_terminal(name, style="bold"), for_terminal(value))
    return grid


def _shape(baseline: Baseline) -> str:
    arrays = [f"{name}{list(v.shape)}" for name, v in unpack(baseline.payload).items() if hasattr(v, "shape")]
    return f"{len(baseline.payload):,} bytes" + (f": {', '.join(arrays)}" if arrays else "")

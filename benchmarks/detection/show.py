"""The report as tables on a terminal."""

from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.detection.verdicts import calibrated

WIDE = 160  # columns, where no terminal says
LEFT = ("stream", "tool", "detector", "setting", "ours", "peer")


def show(report: dict[str, Any]) -> None:
    console = Console(stderr=True)
    if not console.is_terminal:
        console.width = WIDE
    console.print(_nulls(report["rows"]))
    console.print(_drifts(report["rows"]))
    console.print(_rivals(report["against_best_peer"]))
    for name in ("stated_goals", "speed", "tail"):
        console.print(name.replace("_", " "), report[name])


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, justify="left" if column in LEFT else "right")
    return table


def _nulls(rows: list[dict[str, Any]]) -> Table:
    table = _table(
        "Nulls: alarms seen over alarms stated", "stream", "tool", "detector", "setting", "ratio", "alarms", "per 30 d"
    )
    for row in (row for row in rows if row["null"]):
        ratio = "–"
        if "calibration_ratio" in row:
            ratio = f"{row['calibration_ratio']:.2f} {calibrated(row) if row['tool'] == 'driftline' else ''}"
        table.add_row(
            f"{row['stream']} ({row['signal']})",
            row["tool"],
            row["detector"],
            row["setting"],
            row.get("note", ratio),
            str(row.get("alarms", "–")),
            _number(row.get("false_alarms_per_30d")),
        )
    return table


def _drifts(rows: list[dict[str, Any]]) -> Table:
    table = _table("Drifts", "stream", "tool", "detector", "setting", "found", "mean", "p95", "false per 30 d")
    for row in (row for row in rows if not row["null"]):
        table.add_row(
            row["stream"],
            row["tool"],
            row["detector"],
            row["setting"],
            row.get("note") or f"{row['detected_share']:.0%}",
            _number(row.get("delay_mean_events")),
            _number(row.get("delay_p95_events")),
            _number(row.get("false_alarms_per_30d")),
        )
    return table


def _rivals(rivals: list[dict[str, Any]]) -> Table:
    table = _table(
        "One false alarm in 10,000 events: delay against the best peer",
        "stream",
        "ours",
        "events",
        "peer",
        "events ",
        "ratio",
    )
    for row in rivals:
        table.add_row(
            row["stream"],
            f"{row['ours']} ({row['our_share']:.0%})",
            _number(row["our_delay"]),
            f"{row['peer']} ({row['peer_share']:.0%})" if "peer" in row else "none at so few false alarms",
            _number(row.get("peer_delay")),
            f"{row['ratio']:.2f}{' we lose' if row['we_lose'] else ''}" if "peer" in row else "–",
        )
    return table


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}" if abs(value) >= 10 or value == 0 else f"{value:.2g}"

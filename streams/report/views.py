"""How a report is announced in a terminal."""

from rich.console import Group as Stack
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from driftline.streams.operate.times import show_time
from driftline.streams.report.build import Report


def written(report: Report, baseline_from: int, baseline_to: int) -> RenderableType:
    table = Table("column", "method")
    table.add_column("value", justify="right")
    table.add_column("Evidently says")
    for drift in report.columns:
        says = "[yellow]drifted[/]" if drift.drifted else "[green]same[/]"
        table.add_row(Text(drift.column), drift.method, f"{drift.value:.3g}", says)
    lines = [
        f"{report.current_rows:,} requests, against {report.reference_rows:,} of {show_time(baseline_from)} to "
        f"{show_time(baseline_to)}"
    ]
    if report.left_out:
        lines.append(f"Left out, without a value in one of the periods: {', '.join(report.left_out)}")
    return Stack(table, *map(Text, lines), Text(f"Written to {report.file}", "bold"))

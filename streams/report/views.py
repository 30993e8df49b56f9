"""How a report is announced in a terminal."""

from collections.abc import Sequence

from rich.console import Group as Stack
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from driftline.schemas.text import for_log, for_terminal
from driftline.streams.operate.times import show_time
from driftline.streams.report.build import Report
from driftline.streams.report.texts import TextEffects


def written(report: Report, texts: Sequence[TextEffects], baseline_from: int, baseline_to: int) -> RenderableType:
    table = Table("column", "method")
    table.add_column("value", justify="right")
    table.add_column("Evidently says")
    for drift in report.columns:
        says = Text("drifted", "yellow") if drift.drifted else Text("same", "green")
        table.add_row(for_terminal(drift.column), for_terminal(drift.method), f"{drift.value:.3g}", says)
    lines = [
        f"{report.current_rows:,} requests, against {report.reference_rows:,} of {show_time(baseline_from)} to "
        f"{show_time(baseline_to)}"
    ]
    if report.left_out:
        lines.append(f"Left out, without a value in one of the periods: {for_log(', '.join(report.left_out), 2_000)}")
    tables = [table, _texts(texts)] if texts else [table]
    return Stack(*tables, *map(Text, lines), for_terminal(f"Written to {report.file}", style="bold"))


def _texts(texts: Sequence[TextEffects]) -> Table:
    table = Table("texts", "MMD² (95 %)", "p", "AUC", "cosine of means", "sliced W1", "Fréchet²")
    for text in texts:
        if (e := text.effects) is None:
            table.add_row(text.component, for_terminal(text.note, style="dim"))
            continue
        p = "< 0.002" if e.p < 0.002 else f"{e.p:.3f}"
        frechet = "" if e.frechet is None else f"{e.frechet:.3g}"
        mmd2 = f"{e.mmd2:.2g} ({e.mmd2_low:.2g}, {e.mmd2_high:.2g})"
        table.add_row(text.component, mmd2, p, f"{e.auc:.2f}", f"{e.cosine:.3f}", f"{e.sliced_w1:.2g}", frechet)
    return table

"""The command of this folder."""

from pathlib import Path

import click
import msgspec

from driftline.schemas.clock import SystemClock
from driftline.streams.commands.common import answer, json_flag
from driftline.streams.operate.commands import (
    Time,
    check_order,
    settings_of,
    since_option,
    until_option,
)
from driftline.streams.terminal import errors, run


@click.command("report")
@click.option("--app", required=True, help="Of this app.")
@since_option
@until_option
@click.option("--baseline-from", type=Time(), help="Compare with this traffic; without it, with the baseline's.")
@click.option("--baseline-to", type=Time(), help="Its end.")
@click.option(
    "-o", "--output", "file", type=click.Path(dir_okay=False, writable=True, path_type=Path), default="report.html",
    show_default=True, help="The HTML file.",
)  # fmt: skip
@click.option("--rows", "limit", type=click.IntRange(min=100), default=20_000, show_default=True,
              help="At most so many requests of each period, the same at every call.")  # fmt: skip
@click.option("--texts", is_flag=True,
              help="Prompts and responses, too, by their embeddings of the last day, which are in Kafka.")  # fmt: skip
@json_flag
@click.pass_context
def report_command(
    ctx: click.Context,
    app: str,
    since: int | None,
    until: int | None,
    baseline_from: int | None,
    baseline_to: int | None,
    file: Path,
    limit: int,
    texts: bool,
    as_json: bool,
) -> None:
    """Compare two periods in an HTML report by Evidently.

    Latency, tokens, cost, lengths, outcomes, models and scores, each with its distribution in both periods. It needs
    the extra report: pip install '.[report]'. A report looks once and states no false-alarm rate: alarms are the
    monitor's.
    """
    from driftline.streams.local_query import reachable_clickhouse
    from driftline.streams.report import views
    from driftline.streams.report.build import write_report
    from driftline.streams.report.periods import baseline_period, requests_of
    from driftline.streams.report.texts import TextEffects, compare_texts, texts_of

    settings = settings_of(ctx)
    if since is None:
        raise click.UsageError("Say from when: --from.")
    if (baseline_from is None) != (baseline_to is None):
        raise click.UsageError("--baseline-from and --baseline-to go together.")
    until = SystemClock().now() if until is None else until
    check_order(since, until)
    check_order(baseline_from, baseline_to)
    with (
        reachable_clickhouse(settings.clickhouse, settings.stack.state_dir) as clickhouse,
        errors.status("Reading requests") as status,
    ):
        if baseline_from is None or baseline_to is None:
            baseline_from, baseline_to = baseline_period(clickhouse, app)
        reference = requests_of(clickhouse, app, baseline_from, baseline_to, limit)
        current = requests_of(clickhouse, app, since, until, limit)
        status.update("Evidently compares")
        done = write_report(current, reference, file)
        moved: list[TextEffects] = []
        if texts:
            status.update("Reading embeddings")
            periods = ((since, until), (baseline_from, baseline_to))
            moved = compare_texts(*(run(texts_of(settings, app, *period)) for period in periods))
    period = {"from": since, "to": until, "baseline_from": baseline_from, "baseline_to": baseline_to}
    made = {**period, **msgspec.to_builtins(done), "texts": msgspec.to_builtins(moved)}
    answer(made, views.written(done, moved, baseline_from, baseline_to), as_json)

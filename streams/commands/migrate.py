"""`driftline migrate`: ClickHouse's tables as this version needs them."""

from collections.abc import Sequence

import click

from driftline.schemas.text import for_terminal
from driftline.streams.operate.commands import settings_of
from driftline.streams.terminal import console


@click.command("migrate")
@click.option(
    "--check", "only_check", is_flag=True, help="Change nothing: list what is to do or was altered; 1 if any."
)
@click.option(
    "--repair",
    "put_back",
    is_flag=True,
    help="Put back tables, columns and views that somebody dropped, empty, and views that were altered.",
)
@click.pass_context
def migrate_command(ctx: click.Context, only_check: bool, put_back: bool) -> None:
    """Bring the ClickHouse tables up to date, and compare them with what the migrations made.

    Exits with 78 where somebody else has altered what decides over rows, naming table, column and a way back.
    """
    from driftline.sinks.clickhouse.migrate import check, migrate, repair

    if only_check and put_back:
        raise click.UsageError("--check changes nothing and --repair does: choose one.")
    config = settings_of(ctx).clickhouse
    if only_check:
        found = check(config)
        lines = [f"not applied: {name}" for name in found.pending] + [str(each) for each in found.differences]
        _show(lines, "as the migrations made them")
        ctx.exit(1 if lines else 0)
    repaired = [f"repaired: {statement.partition('(')[0].strip()}" for statement in repair(config)] if put_back else []
    applied = [f"applied {name}" for name in migrate(config)]
    _show([*repaired, *applied], "up to date")


def _show(lines: Sequence[str], nothing: str) -> None:
    console.print(for_terminal("\n".join(lines) or nothing), soft_wrap=True)

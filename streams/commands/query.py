"""`driftline query`: one statement, for people as a table, for programs in any format of ClickHouse."""

import os
import sys
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO

import click
from rich.console import Group as Stack
from rich.console import RenderableType
from rich.text import Text

from driftline.sinks.clickhouse.config import ClickHouseConfig
from driftline.streams.listing import Column, Listing
from driftline.streams.operate.commands import settings_of
from driftline.streams.output import write
from driftline.streams.settings import Settings
from driftline.streams.terminal import console

FORMATS = {  # ours -> ClickHouse's
    "json": "JSONEachRow",
    "csv": "CSVWithNames",
    "tsv": "TabSeparatedWithNames",
    "markdown": "Markdown",
    "parquet": "Parquet",
    "arrow": "Arrow",
}
ENDINGS = {
    ".json": "json", ".jsonl": "json", ".ndjson": "json", ".csv": "csv", ".tsv": "tsv", ".md": "markdown",
    ".parquet": "parquet", ".arrow": "arrow", ".feather": "arrow",
}  # fmt: skip
ROWS = 1_000  # of a table on a terminal: nobody reads more


@click.command("query")
@click.argument("sql", required=False)
@click.option("-f", "--file", "file", type=click.File(encoding="utf-8"), help="Read the statement from here; - is the standard input.")  # fmt: skip  # noqa: E501
@click.option("--format", "output", type=click.Choice(["table", *FORMATS]),
              help="Without it a table, or what the ending of --output says. json: an object a line.")  # fmt: skip
@click.option("-o", "--output", "to", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path),
              help="Write here: .parquet, .csv, .json, .arrow, .tsv, .md say the format.")  # fmt: skip
@click.option("--limit", type=click.IntRange(min=1), default=ROWS, show_default=True, help="Rows of a table.")
@click.option("--demo", "of_demo", is_flag=True, help="Ask the data that the last demo left.")
@click.pass_context
def query_command(
    ctx: click.Context,
    sql: str | None,
    file: IO[str] | None,
    output: str | None,
    to: Path | None,
    limit: int,
    of_demo: bool,
) -> None:
    """Run one statement on ClickHouse, which only reads.

    It asks the server of the settings, or the local stack's data while nothing runs. FORMAT in the statement is any
    format of ClickHouse. Without SQL the statement comes from the standard input. Files hold what is stored, as it is:
    a spreadsheet takes a text such as =1+1 in CSV for a formula.

    \b
    driftline query "SELECT app, count() FROM traces GROUP BY app"
    driftline query -o traces.parquet "SELECT * FROM traces"
    """
    from driftline.sinks.clickhouse.query import BINARY, parse, read_bytes, read_rows

    statement = parse(_statement(sql, file))
    if not statement.sql:
        raise click.UsageError("There is no statement: give it as SQL, with --file, or on the standard input.")
    if statement.format and output:
        raise click.UsageError("The statement names its FORMAT: leave out --format.")
    chosen = output or _by_ending(to, statement.format)
    settings = settings_of(ctx)
    if chosen == "table" and statement.format is None:
        with reach(settings, of_demo) as clickhouse:
            found = read_rows(clickhouse, statement.sql, limit)
        note = f"the first {limit:,} rows: --limit shows more, -o FILE has all" if found.more else ""
        _show(_table(found.columns, found.rows, note))
        return
    name = statement.format or FORMATS[chosen]
    if to is None and name in BINARY and sys.stdout.isatty():
        raise click.UsageError(f"{name} is not for terminals: write it to a file, by -o FILE or > FILE.")
    array = {"output_format_json_array_of_rows": 1} if to and to.suffix == ".json" and chosen == "json" else None
    with (
        reach(settings, of_demo) as clickhouse,
        read_bytes(clickhouse, statement.sql, None if statement.format else name, array) as pieces,
    ):
        write(pieces, to)


def reach(settings: Settings, of_demo: bool = False) -> AbstractContextManager[ClickHouseConfig]:
    """The ClickHouse of the settings, of the local stack's data, or of what the last demo left."""
    from driftline.streams.demo.command import FOLDER
    from driftline.streams.local_query import local_clickhouse, reachable_clickhouse

    folder = settings.stack.state_dir
    if of_demo:
        return local_clickhouse(settings.clickhouse, folder / FOLDER)
    return reachable_clickhouse(settings.clickhouse, folder)


def _statement(sql: str | None, file: IO[str] | None) -> str:
    if sql is not None and file is not None:
        raise click.UsageError("Give the statement as SQL or with --file, not both.")
    if file is not None:
        return file.read()
    if sql is not None and sql != "-":
        return sql
    if sys.stdin.isatty():
        raise click.UsageError("There is no statement: give it as SQL, with --file, or on the standard input.")
    return click.get_text_stream("stdin", encoding="utf-8").read()


def _by_ending(to: Path | None, own_format: str | None) -> str:
    if to is None or own_format is not None:
        return "table"
    if to.suffix.lower() not in ENDINGS:
        raise click.UsageError(f"{to.name} says no format: end it in {', '.join(ENDINGS)}, or give --format.")
    return ENDINGS[to.suffix.lower()]


def _table(columns: Iterable[tuple[str, bool]], rows: Iterable[Iterable[object]], note: str) -> RenderableType:
    table = Listing((Column(name, numeric) for name, numeric in columns), rows)
    return Stack(table, Text(note, "dim")) if note else table


def _show(table: RenderableType) -> None:
    if console.is_terminal and sys.stdin.isatty() and len(console.render_lines(table)) > console.height - 2:
        os.environ.setdefault("LESS", "-RSFX")  # colours, long lines to the side, and no pager for what fits
        with console.pager(styles=True):
            console.print(table)
    else:
        console.print(table)

"""What these commands share: options, one way to ask ClickHouse, one way to answer."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from rich.console import RenderableType

from driftline.sinks.clickhouse.config import ClickHouseConfig
from driftline.streams.output import json_text, write
from driftline.streams.terminal import console

json_flag = click.option("--json", "as_json", is_flag=True, help="As JSON, for programs.")
output_option = click.option(
    "-o",
    "--output",
    "to",
    metavar="FILE",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write it here too, as JSON.",
)
demo_flag = click.option("--demo", "of_demo", is_flag=True, help="Of the data that the last demo left.")


def ask(clickhouse: ClickHouseConfig, sql: str, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows as ClickHouse's JSON has them.

    :raises RetryableError: ClickHouse does not answer, or refuses; in its own words.
    """
    from driftline.sinks.clickhouse.query import read_json

    return read_json(clickhouse, sql, parameters)


def answer(value: object, shown: RenderableType, as_json: bool, to: Path | None = None) -> None:
    """For people, or as JSON alone; and as JSON into a file."""
    give(value, as_json, to)
    if not as_json:
        console.print(shown)


def give(value: object, as_json: bool, to: Path | None = None) -> None:
    """To programs."""
    if to is not None:
        write([f"{json_text(value)}\n".encode()], to)
    if as_json:
        click.echo(json_text(value))

"""`driftline check-config`: what a start would find, and what the settings say."""

import json
from collections.abc import Iterator, Sequence

import click
from pydantic import BaseModel
from rich.console import Group as Stack
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from driftline.schemas.text import for_terminal
from driftline.streams.redact import hide
from driftline.streams.settings import Settings, read_settings
from driftline.streams.supervisor import EXIT_CONFIG
from driftline.streams.terminal import console


@click.command("check-config")
@click.option("--json", "as_json", is_flag=True, help="All settings, errors and hints as JSON.")
@click.pass_context
def check_config_command(ctx: click.Context, as_json: bool) -> None:
    """Check the settings as a start would, and show what differs from the defaults (secrets hidden).

    Files, folders, addresses and models that they name are looked for. Exits with 78 where something is wrong.
    """
    from driftline.streams.check import errors, hints

    settings, problems = read_settings(ctx.obj)
    advice: list[str] = []
    if settings is not None:
        problems, advice = errors(settings), hints(settings)
    if as_json:
        everything = None if settings is None else settings.model_dump(mode="json")
        document = {"errors": [*map(hide, problems)], "hints": advice, "settings": everything}
        click.echo(json.dumps(document, indent=2))
    else:
        console.print(_shown(settings, problems, advice), soft_wrap=True)
    ctx.exit(EXIT_CONFIG if problems else 0)


def _shown(settings: Settings | None, problems: Sequence[str], advice: Sequence[str]) -> RenderableType:
    parts: list[RenderableType] = []
    if settings is not None:
        parts.append(_differing(settings))
    for label, style, lines in (("wrong", "bold red", problems), ("hint", "yellow", advice)):
        parts += [Text.assemble((f"{label}: ", style), for_terminal(hide(line))) for line in lines]
    if not problems:
        parts.append(Text("The settings are right.", "bold green"))
    return Stack(*parts)


def _differing(settings: Settings) -> RenderableType:
    table = Table("section", "key", "value", "default")
    for section in Settings.model_fields:
        default = getattr(Settings.model_construct(), section)
        rows = list(_differences("", getattr(settings, section), default))
        for number, (key, value, usual) in enumerate(rows):
            table.add_row("" if number else section, for_terminal(key), for_terminal(hide(value)), for_terminal(usual))
        if not rows:
            table.add_row(section, Text("as by default", "dim"), "", "")
    return table


def _differences(prefix: str, value: BaseModel, default: BaseModel | None) -> Iterator[tuple[str, str, str]]:
    for name in type(value).model_fields:
        here, usual = getattr(value, name), None if default is None else getattr(default, name)
        if here == usual:
            continue
        if isinstance(here, BaseModel):
            yield from _differences(f"{prefix}{name}.", here, usual if isinstance(usual, BaseModel) else None)
        elif isinstance(here, tuple) and here and isinstance(here[0], BaseModel):
            for number, entry in enumerate(here):
                yield from _differences(f"{prefix}{name}.{number}.", entry, None)
        else:
            yield f"{prefix}{name}", _words(here), "" if default is None else _words(usual)


def _words(value: object) -> str:
    if value is None:
        return "not set"
    return str(value).lower() if isinstance(value, bool) else str(value)

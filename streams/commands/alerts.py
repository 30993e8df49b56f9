"""`driftline alerts`: what fired, and all that is known of one episode."""

from typing import Any

import click
from rich.console import Group as Stack
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from driftline.schemas.clock import SystemClock
from driftline.schemas.errors import PermanentError
from driftline.schemas.text import counted, for_log, for_terminal
from driftline.streams.commands.common import answer, ask, demo_flag, json_flag
from driftline.streams.commands.query import reach
from driftline.streams.listing import Column, Listing
from driftline.streams.operate.commands import app_option, check_order, settings_of, since_option, until_option
from driftline.streams.terminal import CommandGroup

COLUMNS = (
    *(
        Column("id", least=12),
        Column("fired (UTC)"),
        Column("state"),
        Column("severity"),
        Column("app"),
        Column("release"),
        Column("rule"),
    ),
    Column("summary", least=30),
)
SHOWN = 12  # characters of an id that tell episodes apart

EPISODES = """
SELECT
    a.id AS id, any(a.app) AS app, any(a.release) AS release, any(a.rule) AS rule, any(a.component) AS component,
    argMax(a.state, a.ts) AS state, any(a.severity) AS severity,
    toString(any(a.since)) AS since, toString(any(a.fired_at)) AS fired_at, toString(max(a.resolved_at)) AS resolved_at,
    argMin(a.summary, a.ts) AS summary
FROM alerts AS a
WHERE ({app:String} = '' OR a.app = {app:String})
    AND a.fired_at >= fromUnixTimestamp64Micro({since:Int64}) AND a.fired_at < fromUnixTimestamp64Micro({until:Int64})
GROUP BY a.id
HAVING {all:Bool} OR state = 'firing'
ORDER BY fired_at DESC, id
LIMIT {limit:UInt32}
"""
ONE = "SELECT * EXCEPT (ingested_at) FROM alerts WHERE startsWith(id, {id:String}) ORDER BY ts LIMIT 1000"


@click.group("alerts", cls=CommandGroup)
def alerts_group() -> None:
    """What fired: list episodes, look at one."""


@alerts_group.command("ls")
@app_option
@since_option
@until_option
@click.option("--open", "only_open", is_flag=True, help="Only those that are firing.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="At most so many, the newest.")
@demo_flag
@json_flag
@click.pass_context
def alerts_ls(
    ctx: click.Context,
    app: str | None,
    since: int | None,
    until: int | None,
    only_open: bool,
    limit: int,
    of_demo: bool,
    as_json: bool,
) -> None:
    """List episodes, the newest first."""
    check_order(since, until)
    settings = settings_of(ctx)
    wanted = {
        "app": app or "",
        "since": since or 0,
        "until": SystemClock().now() if until is None else until,
        "all": not only_open,
        "limit": limit,
    }
    with reach(settings, of_demo) as clickhouse:
        found = ask(clickhouse, EPISODES, wanted)
    answer(found, _episodes(found), as_json)


@alerts_group.command("show")
@click.argument("id_", metavar="ID")
@demo_flag
@json_flag
@click.pass_context
def alerts_show(ctx: click.Context, id_: str, of_demo: bool, as_json: bool) -> None:
    """Show one episode with its evidence and what to do. The beginning of an ID is enough."""
    settings = settings_of(ctx)
    with reach(settings, of_demo) as clickhouse:
        found = ask(clickhouse, ONE, {"id": id_})
    ids = sorted({row["id"] for row in found})
    if len(ids) != 1:
        some = ", ".join(ids[:5])
        raise PermanentError(
            f"{counted(len(ids), 'alert')} begin with {for_log(id_)}: {some}"
            if ids
            else f"no alert has the id {for_log(id_)}: `driftline alerts ls` shows them"
        )
    answer(found, _one(found), as_json)


def _episodes(found: list[dict[str, Any]]) -> RenderableType:
    rows = [
        (
            row["id"][:SHOWN], row["fired_at"][:19], _state(row), row["severity"], row["app"], row["release"],
            f"{row['rule']} {row['component']}".strip(), row["summary"],
        )
        for row in found
    ]  # fmt: skip
    return Stack(Listing(COLUMNS, rows), counted(len(found), "episode")) if found else Text("No alert.")


def _state(row: dict[str, Any]) -> Text:
    return Text(row["state"], "bold red" if row["state"] == "firing" else "green")


def _one(transitions: list[dict[str, Any]]) -> RenderableType:
    newest, first = transitions[-1], transitions[0]
    grid = Table.grid(padding=(0, 2))
    facts = {
        "id": newest["id"],
        "app": newest["app"],
        "release": newest["release"],
        "rule": f"{newest['rule']} {newest['component']}".strip(),
        "state": f"{newest['state']}, {newest['severity']}",
        "since": newest["since"],
        "fired": newest["fired_at"],
        "resolved": newest["resolved_at"],
        "summary": first["summary"],
        "description": first["description"],
        "what to do": first["action"],
        "value": first["value"],
        "baseline": first["baseline"],
        "effect": _effect(first),
        "events": first["n_events"],
        "false alarms": first["false_alarms"],
        "contributors": "\n".join(first["contributors"]),
        "labels": ", ".join(f"{name}={value}" for name, value in first["labels"].items()),
    }
    for name, value in facts.items():
        if value not in (None, ""):
            grid.add_row(Text(name, "bold"), for_terminal(value))
    return grid


def _effect(row: dict[str, Any]) -> str:
    if row["effect"] is None:
        return ""
    ends = (row["effect_low"], row["effect_high"])
    between = "" if None in ends else f" ({ends[0]:+.1%} to {ends[1]:+.1%})"
    return f"{row['effect']:+.1%}{between}"

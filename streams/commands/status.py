"""`driftline status`: what runs, where, how far behind it is, and what is wrong."""

import asyncio
import re
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import aiohttp
import click
import msgspec
from rich.console import Group as Stack
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from driftline.schemas.errors import ConfigError
from driftline.schemas.text import for_log, for_terminal
from driftline.streams.commands.common import answer, json_flag
from driftline.streams.operate.commands import settings_of
from driftline.streams.running import find

ANSWERS_S = 3.0  # a role's event loop that does not answer within that is not well
READ = 2**20  # bytes of an answer
_LAG = re.compile(rb"^driftline_\w*lag_records\{[^}]*\} (\S+)$", re.MULTILINE)

State: TypeAlias = Literal["ready", "starting", "unhealthy", "silent"]


class RoleStatus(msgspec.Struct, frozen=True):
    role: str
    url: str
    state: State
    lag_records: int | None  # of all its partitions; None: it does not say
    problems: list[str]
    notes: list[str] = []  # good to know, and nothing wrong


@click.command("status")
@click.option("--role", "roles", metavar="ROLE=URL", multiple=True,
              help="A role's address; without it those of the running local stack.")  # fmt: skip
@json_flag
@click.pass_context
def status_command(ctx: click.Context, roles: tuple[str, ...], as_json: bool) -> None:
    """Show what runs: roles, their health and lag, and the addresses of a running local stack.

    Roles of a production are named: --role monitor=http://host:9464, or DRIFTLINE_HEALTH__PORT's address alone.
    Exits with 1 where something is wrong or silent.
    """
    settings = settings_of(ctx)
    stack = find(settings.stack.state_dir)
    urls = dict(_role(text) for text in roles)
    addresses = {}
    if not urls and stack is not None:
        urls = dict(stack.health)
        addresses = {"Kafka": stack.brokers, "ClickHouse": stack.clickhouse.rpartition("@")[2]}
    if not urls:
        raise ConfigError(
            f"no stack runs in {settings.stack.state_dir}: start one with `driftline up`, or name the roles, as "
            "--role monitor=http://host:9464"
        )
    found = asyncio.run(_ask_all(urls))
    answer({"addresses": addresses, "roles": found}, _shown(found, addresses), as_json)
    ctx.exit(0 if all(role.state == "ready" for role in found) else 1)


def _role(text: str) -> tuple[str, str]:
    name, _, url = text.rpartition("=")
    if not url.startswith(("http://", "https://")):
        raise click.BadParameter(f"{for_log(text)}: write NAME=http://host:port", param_hint="--role")
    return name or url, url.rstrip("/")


async def _ask_all(urls: Mapping[str, str]) -> list[RoleStatus]:
    timeout = aiohttp.ClientTimeout(total=ANSWERS_S)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        return list(await asyncio.gather(*(_ask(session, role, url) for role, url in urls.items())))


async def _ask(session: aiohttp.ClientSession, role: str, url: str) -> RoleStatus:
    try:
        async with session.get(f"{url}/healthz") as response:
            report = msgspec.json.decode(await response.content.read(READ), type=dict[str, Any])
        async with session.get(f"{url}/metrics") as response:
            lags = _LAG.findall(await response.read())
    except (aiohttp.ClientError, OSError, TimeoutError, msgspec.MsgspecError) as error:
        reason = "no answer" if isinstance(error, TimeoutError) else str(error)
        return RoleStatus(role, url, "silent", None, [f"{reason}: see that the role runs, and its log"])
    problems = [f"{p.get('what')}; {p.get('do')} (since {p.get('since')})" for p in report.get("problems", [])]
    notes = [f"{note.get('what')}; {note.get('do')}" for note in report.get("notes", [])]
    state: State = "unhealthy" if problems else "ready" if report.get("ready") else "starting"
    lag = sum(int(float(value)) for value in lags) if lags else None
    return RoleStatus(str(report.get("role", role)), url, state, lag, problems, notes)


def _shown(roles: list[RoleStatus], addresses: Mapping[str, str]) -> RenderableType:
    table = Table("role", "state")
    table.add_column("lag (records)", justify="right")
    table.add_column("address")
    styles = {"ready": "green", "starting": "yellow", "unhealthy": "bold red", "silent": "bold red"}
    for role in roles:
        lag = "" if role.lag_records is None else f"{role.lag_records:,}"
        table.add_row(for_terminal(role.role), Text(role.state, styles[role.state]), lag, for_terminal(role.url))
    wrong = [
        Text.assemble((f"{for_log(role.role)}: ", "bold red"), for_log(problem, 2_000))
        for role in roles
        for problem in role.problems
    ]
    known = [
        Text.assemble((f"{for_log(role.role)}: ", "bold yellow"), for_log(note, 2_000))
        for role in roles
        for note in role.notes
    ]
    where = [Text(f"{name} {for_log(address)}") for name, address in addresses.items()]
    return Stack(table, *wrong, *known, *where)

"""`driftline status`: what runs, where, how far behind it is, and what is wrong."""

import asyncio
import re
from collections.abc import Mapping
from typing import Literal, TypeAlias

import aiohttp
import click
import msgspec
from rich.console import Group as Stack
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from driftline.schemas.errors import ConfigError, RetryableError
from driftline.schemas.events import MICROSECONDS
from driftline.schemas.text import for_log, for_terminal
from driftline.sinks.notify.http import no_connection
from driftline.sinks.notify.text import lasting
from driftline.streams.commands.common import answer, json_flag
from driftline.streams.operate.commands import settings_of
from driftline.streams.running import find, is_changing
from driftline.streams.terminal import run

ANSWERS_S = 3.0  # a role's event loop that does not answer within that is not well
READ = 2**24  # bytes of an answer
MOST_LAG = 2.0**63  # records or seconds: Kafka counts no further
LATE_S = 60.0  # behind by more is worth a word
_LAG = {
    unit: re.compile(rb"^driftline_lag_%s\{.*\} (\d\S*)$" % unit.encode(), re.MULTILINE)
    for unit in ("records", "seconds")
}

State: TypeAlias = Literal["ready", "starting", "unhealthy", "silent"]


class RoleStatus(msgspec.Struct, frozen=True):
    role: str
    url: str
    state: State
    lag_records: int | None  # of all its partitions; None: it does not say
    lag_seconds: float | None  # of the partition that is furthest behind
    problems: list[str]
    notes: list[str] = []  # good to know, and nothing wrong


class _Note(msgspec.Struct):
    what: str
    do: str


class _Problem(_Note):
    since: str


class _Report(msgspec.Struct):
    """What /healthz answers."""

    role: str
    ready: bool
    problems: list[_Problem]
    notes: list[_Note] = []


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
    folder = settings_of(ctx).stack.state_dir
    stack = find(folder)
    urls = dict(_role(text) for text in roles)
    addresses = {}
    if not urls and stack is not None:
        urls = dict(stack.health)
        addresses = {"Kafka": stack.brokers, "ClickHouse": stack.clickhouse.rpartition("@")[2]}
    if not urls and is_changing(folder):
        raise RetryableError(f"a stack is starting in {folder}, or stopping: ask again when it is done")
    if not urls:
        raise ConfigError(
            f"no stack runs in {folder}: start one with `driftline up`, or name the roles, as "
            "--role monitor=http://host:9464"
        )
    found = run(_ask_all(urls))
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
            report = msgspec.json.decode(await _whole(response), type=_Report)
        async with session.get(f"{url}/metrics") as response:
            page = await _whole(response)
        records, seconds = _numbers(page, "records"), _numbers(page, "seconds")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        reason = f"what answers there is no role of Driftline ({error})"
        return RoleStatus(role, url, "silent", None, None, [f"{reason}: see that its address is right"])
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
        return RoleStatus(role, url, "silent", None, None, [f"{_reason(error)}: see that the role runs, and its log"])
    problems = [f"{p.what}; {p.do} (since {p.since})" for p in report.problems]
    notes = [f"{note.what}; {note.do}" for note in report.notes]
    state: State = "unhealthy" if problems else "ready" if report.ready else "starting"
    lag = int(sum(records)) if records else None
    return RoleStatus(report.role, url, state, lag, max(seconds, default=None), problems, notes)


def _numbers(page: bytes, unit: str) -> list[float]:
    """Those that a lag can be: what answers may be no role, and say anything."""
    found = []
    for text in _LAG[unit].findall(page):
        try:
            value = float(text)
        except ValueError:
            continue
        if value < MOST_LAG:
            found.append(value)
    return found


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer"
    return no_connection(error) if isinstance(error, aiohttp.ClientConnectorError) else str(error)


async def _whole(response: aiohttp.ClientResponse) -> bytes:
    data = bytearray()
    async for chunk in response.content.iter_any():
        data += chunk
        if len(data) > READ:
            raise ValueError(f"an answer of more than {READ:,} bytes")
    return bytes(data)


def _shown(roles: list[RoleStatus], addresses: Mapping[str, str]) -> RenderableType:
    table = Table("role", "state")
    table.add_column("behind (records)", justify="right")
    table.add_column("by", justify="right")
    table.add_column("address", overflow="fold")
    styles = {"ready": "green", "starting": "yellow", "unhealthy": "bold red", "silent": "bold red"}
    for role in roles:
        records = "" if role.lag_records is None else f"{role.lag_records:,}"
        by = lasting(round(role.lag_seconds * MICROSECONDS)) if role.lag_seconds else ""
        table.add_row(
            for_terminal(role.role), Text(role.state, styles[role.state]), records, by, for_terminal(role.url)
        )
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
    return Stack(table, *wrong, *known, _verdict(roles), *where)


def _verdict(roles: list[RoleStatus]) -> Text:
    """What people want to know first."""
    if troubled := [role.role for role in roles if role.state in ("unhealthy", "silent")]:
        return Text(f"Something is wrong: {for_log(', '.join(troubled))}.", "bold red")
    if starting := [role.role for role in roles if role.state == "starting"]:
        return Text(
            f"Starting: {for_log(', '.join(starting))}. A role takes its partitions, and reads its state.", "yellow"
        )
    if behind := [role.role for role in roles if (role.lag_seconds or 0) > LATE_S]:
        return Text(
            f"All roles work; behind, and catching up unless that grows: {for_log(', '.join(behind))}.", "yellow"
        )
    return Text("All roles work.", "bold green")

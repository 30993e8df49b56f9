"""The `driftline` command."""

import asyncio
from pathlib import Path

import click
import msgspec
from rich.table import Table
from rich.text import Text

from driftline.schemas.text import for_terminal
from driftline.streams.baselines.commands import baseline_group
from driftline.streams.commands.alerts import alerts_group
from driftline.streams.commands.apps import apps_command
from driftline.streams.commands.check_config import check_config_command
from driftline.streams.commands.common import give, json_flag, output_option
from driftline.streams.commands.migrate import migrate_command
from driftline.streams.commands.query import query_command
from driftline.streams.commands.state import state_group
from driftline.streams.commands.status import status_command
from driftline.streams.commands.tail import tail_command
from driftline.streams.logs import set_up
from driftline.streams.operate.commands import (
    dlq_group,
    reconcile_command,
    replay_command,
    settings_of,
)
from driftline.streams.report.commands import report_command
from driftline.streams.roles import ROLES, run_role
from driftline.streams.settings import Settings, load_settings
from driftline.streams.terminal import Cli, console, errors, run


@click.group(cls=Cli, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="DRIFTLINE_CONFIG",
    help="TOML settings; DRIFTLINE_<SECTION>__<KEY> variables go over it.",
)
@click.version_option(package_name="driftline", message="driftline %(version)s")
@click.option("-v", "--verbose", is_flag=True, help="Log at DEBUG.")
@click.pass_context
def main(ctx: click.Context, config: Path | None, verbose: bool) -> None:
    """Streaming telemetry for LLM applications: drift, quality, cost and rollback signals over Kafka.

    \b
    Exit codes: 0 done; 1 it did not work, or what was compared differs;
    2 wrong command line; 70 a bug of ours; 78 wrong settings;
    130 broken off by Ctrl-C (up and worker, which it stops: 0);
    141 the output's reader went away.
    """
    set_up(verbose=verbose, libraries=ctx.invoked_subcommand in ("worker", "up", "demo"))
    ctx.obj = config


def _settings(ctx: click.Context) -> Settings:
    return load_settings(ctx.obj)


@main.command()
@click.option("--role", type=click.Choice(list(ROLES)), required=True)
@click.pass_context
def worker(ctx: click.Context, role: str) -> None:
    """Run one role of the pipeline in this process, until SIGTERM or Ctrl-C."""
    run_role(role, settings_of(ctx))


@main.command()
@click.pass_context
def up(ctx: click.Context) -> None:
    """Start the local stack (Kafka, ClickHouse, all roles) and keep it up for your own events, until Ctrl-C."""
    from driftline.streams.local_stack import LocalStack
    from driftline.streams.start_view import StartView
    from driftline.streams.supervisor import run as run_stack

    settings = _settings(ctx)
    starting = StartView()
    stack = LocalStack(settings, list(ROLES), config_file=ctx.obj, on_progress=starting.update)

    async def wait() -> None:
        starting.stop()
        where = f" Kafka {stack.kafka.brokers}, ClickHouse {stack.clickhouse_url}"
        console.print(Text.assemble(("Driftline is up.", "bold green"), where))
        if stack.password_file is not None:
            console.print(f"ClickHouse's user is default, its password is in {stack.password_file}.")
        console.print(f"Health and metrics: {', '.join(f'{role} {url}' for role, url in stack.addresses.items())}")
        console.print(f"Logs are in {settings.stack.state_dir / 'logs'}. `driftline status` says whether all works.")
        console.print("Ctrl-C stops everything.")
        await asyncio.Event().wait()

    with starting:
        asyncio.run(run_stack(stack.stack, wait))


@main.command()
@click.option("--picture", type=click.Path(path_type=Path, dir_okay=False), help="Save the final picture here, as SVG.")
@click.option("--seed", default=7, show_default=True, help="Another seed is another day.")
@click.option("--speed", type=click.FloatRange(min=0, min_open=True), help="At most so many event seconds a second.")
@click.option(
    "--brokers", help="HOST:PORT of a Kafka to use instead of the embedded one; topics get a prefix of their own."
)
@click.option("--attach", is_flag=True, help="Start nothing: use the Kafka, ClickHouse and roles of the settings.")
@json_flag
@output_option
@click.pass_context
def demo(
    ctx: click.Context,
    picture: Path | None,
    seed: int,
    speed: float | None,
    brokers: str | None,
    attach: bool,
    as_json: bool,
    to: Path | None,
) -> None:
    """Five and a half hours of a support bot in two minutes: drift, a bad canary, an outage, a cost spike."""
    from driftline.streams.demo.command import run_command

    summary = run_command(
        _settings(ctx),
        errors if as_json else console,
        seed=seed,
        speed=speed,
        brokers=brokers,
        attach=attach,
        config_file=ctx.obj,
        picture=picture,
    )
    give(summary, as_json, to)
    ctx.exit(summary.exit_code)


@main.command()
@click.argument("name", required=False)
def schema(name: str | None) -> None:
    """Print JSON Schema of what goes through the topics: all types, or one by NAME (Trace, Score, Alert, …)."""
    from driftline.schemas import events, results

    types = {t.__name__: t for t in (*events.EVENT_TYPES, *results.RESULT_TYPES)}
    if name is None:
        schemas, components = msgspec.json.schema_components(types.values())
        document: object = {"$defs": components, "oneOf": schemas}
    elif name in types:
        document = msgspec.json.schema(types[name])
    else:
        raise click.BadParameter(f"there are {', '.join(types)}", param_hint="NAME")
    click.echo(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())


@main.group()
def topics() -> None:
    """Kafka topics."""


@topics.command("apply")
@click.pass_context
def topics_apply(ctx: click.Context) -> None:
    """Create the topics that are missing, add partitions where there are too few, and report what else differs.

    Never deletes. Adding partitions is explained in infra/growing.md.
    """
    from driftline.streams.runtime.admin import apply_topics

    settings = settings_of(ctx)
    table = Table("topic", "state", "notes")
    outcomes = run(apply_topics(settings.kafka, settings.topics))
    for outcome in outcomes:
        table.add_row(outcome.name, outcome.state, for_terminal("; ".join(outcome.notes)))
    console.print(table)
    if any(outcome.state == "grown" for outcome in outcomes):
        console.print("Partitions were added: start all roles again with these settings.")


for command in (
    status_command,
    tail_command,
    apps_command,
    alerts_group,
    query_command,
    check_config_command,
    migrate_command,
    reconcile_command,
    dlq_group,
    replay_command,
    state_group,
    baseline_group,
    report_command,
):
    main.add_command(command)

if __name__ == "__main__":
    main()

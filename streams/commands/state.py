"""`driftline state reset`: let a role build its state anew from the log."""

import click

from driftline.schemas.clock import SystemClock
from driftline.schemas.errors import PermanentError
from driftline.schemas.text import counted
from driftline.streams.operate.commands import settings_of
from driftline.streams.terminal import CommandGroup, console, run


@click.group("state", cls=CommandGroup)
def state_group() -> None:
    """What roles remember."""


@state_group.command("reset")
@click.option("--role", type=click.Choice(["embed", "judge", "monitor"]), required=True)
@click.option(
    "--at-end",
    is_flag=True,
    help="Begin with what comes next instead of the oldest record: after a broker's clock was ahead.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_context
def state_reset(ctx: click.Context, role: str, at_end: bool, yes: bool) -> None:
    """Let a role forget all, and build it anew from the log at its next start: after a setting that shapes it changed.

    The role must be stopped. What retention has deleted from the log does not come back: baselines are learned anew.
    """
    from driftline.streams.operate import orphans
    from driftline.streams.operate.reset import begin_at_end, forget, stored

    settings = settings_of(ctx)
    found = run(stored(settings.kafka, settings.topics, role))
    if not found and not at_end:
        console.print(f"{role} has no state: nothing to forget.")
        return
    where = counted(len({tp.partition for tp in found}), "partition")
    if not yes and not click.confirm(f"Forget what {role} knows in {where}, baselines and open alerts included?"):
        raise PermanentError("nothing was forgotten")
    if at_end:
        run(begin_at_end(settings.kafka, settings.topics, role))
        console.print(f"{role} begins at its next start with what comes from now on.")
        if role == "monitor":
            reason = "the state that watched it was reset, so nobody knows whether it is over"
            ended = run(orphans.resolve(settings.kafka, settings.clickhouse, SystemClock().now(), reason))
            console.print(f"Alerts that were open are resolved: {len(ended)}.")
        return
    run(forget(settings.kafka, found))
    console.print(f"{role} begins anew at its next start, with the oldest record of the log.")

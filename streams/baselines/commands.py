"""The commands of this folder: options, tables and exit codes; what they do is in the other modules."""

from pathlib import Path

import click
import msgspec

from driftline.schemas.clock import SystemClock
from driftline.schemas.events import MICROSECONDS
from driftline.streams.commands.common import answer, json_flag, output_option
from driftline.streams.operate.commands import (
    check_order,
    progress_bar,
    settings_of,
    since_option,
    until_option,
)
from driftline.streams.operate.times import show_time
from driftline.streams.terminal import CommandGroup, run


class Duration(click.ParamType):
    name = "duration"

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from driftline.streams.operate.times import parse_time

        if isinstance(value, int):
            return value
        try:
            return -parse_time(f"-{value}", 0)
        except ValueError:
            self.fail(f"{value!r} is no duration: write 90s, 15m, 2h, 1d12h", param, ctx)


@click.group("baseline", cls=CommandGroup)
def baseline_group() -> None:
    """What detectors hold apps against: fit it from stored traffic, list it, look at it."""


@baseline_group.command("fit")
@click.option("--app", required=True, help="Of this app.")
@since_option
@until_option
@click.option("--last-healthy", type=Duration(), help="Instead of --from and --to: the last so long without an alert.")
@click.option("--detector", "detectors", multiple=True, help="Of this detector alone; may be repeated.")
@click.option("--release", "releases", multiple=True, help="Of this release alone; may be repeated.")
@click.option("--dry-run", is_flag=True, help="Fit and show; publish nothing.")
@click.option("--wait", "wait_s", type=click.FloatRange(min=0), default=10.0, show_default=True,
              help="Seconds to wait for the monitor's answer.")  # fmt: skip
@json_flag
@output_option
@click.pass_context
def baseline_fit(
    ctx: click.Context,
    app: str,
    since: int | None,
    until: int | None,
    last_healthy: int | None,
    detectors: tuple[str, ...],
    releases: tuple[str, ...],
    dry_run: bool,
    wait_s: float,
    as_json: bool,
    to: Path | None,
) -> None:
    """Fit baselines from stored traffic and put them in force.

    The monitor takes them at one place of the log: all streams of the app start afresh against them. Exits with 1 where
    nothing could be fitted, or not what --detector names, or where the monitor refuses.
    """
    from driftline.streams.baselines import healthy, views
    from driftline.streams.baselines.collect import Range
    from driftline.streams.baselines.fit import answers, fit, publish
    from driftline.streams.baselines.names import NAMES

    settings = settings_of(ctx)
    if (since is None) == (last_healthy is None) or (until is not None and last_healthy is not None):
        raise click.UsageError("Say which traffic: --from (and --to), or --last-healthy.")
    if unknown := set(detectors) - set(NAMES):
        known = ", ".join(NAMES)
        raise click.BadParameter(
            f"there is no {', '.join(sorted(unknown))}; there are {known}", param_hint="--detector"
        )
    now = SystemClock().now()
    if last_healthy is not None:
        since, until = healthy.last_healthy(settings.clickhouse, app, last_healthy)
    assert since is not None
    until = now if until is None else until
    check_order(since, until)
    traffic = Range(app, since, until, frozenset(releases))
    with progress_bar() as bar:
        task = bar.add_task("", total=(until - since) // MICROSECONDS)

        def tell(what: str, at: int) -> None:
            bar.update(task, description=f"{what}: {show_time(at)[:16]}", completed=(at - since) // MICROSECONDS)

        found = run(fit(settings, traffic, detectors, now, tell))
        said = []
        if not dry_run and found.baselines:
            run(publish(settings, found.baselines, until))
            bar.update(task, description="Waiting for the monitor", completed=0, total=None)
            said = run(answers(settings, found.baselines, wait_s))
    lacking = any(attempt.baseline is None for attempt in found.attempts) if detectors else not found.baselines
    refused = any(baseline.state == "refused" for baseline in said)
    value = {
        "from": since,
        "to": until,
        "attempts": [
            {**msgspec.structs.asdict(a), "baseline": None if a.baseline is None else views.fields(a.baseline)}
            for a in found.attempts
        ],
        "notes": found.notes,
        "published": not dry_run and bool(found.baselines),
        "monitor": [{name: views.fields(b)[name] for name in ("detector", "component", "state", "note")} for b in said],
    }
    answer(value, views.attempts(found, said, not dry_run), as_json, to)
    ctx.exit(1 if lacking or refused else 0)


@baseline_group.command("list")
@click.option("--app", help="Of this app alone.")
@click.option("--detector", help="Of this detector alone.")
@click.option("--all", "every", is_flag=True, help="Also those that others have replaced.")
@json_flag
@output_option
@click.pass_context
def baseline_list(
    ctx: click.Context, app: str | None, detector: str | None, every: bool, as_json: bool, to: Path | None
) -> None:
    """List the baselines in force, and what was refused since."""
    from driftline.streams.baselines import views
    from driftline.streams.baselines.fit import all_baselines, in_force
    from driftline.streams.baselines.names import shown as named
    from driftline.streams.local_query import reachable_clickhouse

    settings = settings_of(ctx)
    with reachable_clickhouse(settings.clickhouse, settings.stack.state_dir) as clickhouse:
        found = [b for b in all_baselines(clickhouse, app) if detector in (None, named(b.detector, b.component)[0])]
    shown = found if every else in_force(found)
    answer([views.fields(baseline) for baseline in shown], views.listed(shown), as_json, to)


@baseline_group.command("show")
@click.argument("id_", metavar="ID")
@json_flag
@output_option
@click.pass_context
def baseline_show(ctx: click.Context, id_: str, as_json: bool, to: Path | None) -> None:
    """Show one baseline. The beginning of an ID is enough."""
    from driftline.streams.baselines import views
    from driftline.streams.baselines.fit import with_id, with_versions
    from driftline.streams.local_query import reachable_clickhouse

    settings = settings_of(ctx)
    with reachable_clickhouse(settings.clickhouse, settings.stack.state_dir) as clickhouse:
        found = [with_versions(clickhouse, baseline) for baseline in with_id(clickhouse, id_)]
    answer([views.fields(baseline) for baseline in found], views.each(found), as_json, to)

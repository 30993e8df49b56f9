"""The commands of this folder: options, tables and exit codes; what they do is in the other modules."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal

import click
import msgspec
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from driftline.schemas.clock import SystemClock
from driftline.schemas.events import MICROSECONDS
from driftline.streams.commands.common import answer, json_flag, output_option
from driftline.streams.operate import views
from driftline.streams.operate.letters import Filter, Letter, judge, read_letters, select, send_again, what_is_wrong
from driftline.streams.operate.times import parse_time, show_time
from driftline.streams.output import write
from driftline.streams.redact import remember
from driftline.streams.running import with_running_stack
from driftline.streams.settings import Settings, load_settings
from driftline.streams.terminal import CommandGroup, console, errors, run


class Time(click.ParamType):
    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            return parse_time(value, SystemClock().now())
        except ValueError as error:
            self.fail(str(error), param, ctx)


since_option = click.option("--from", "since", type=Time(), help="Event time, as 2026-11-21T10:00 (UTC) or -2h.")
until_option = click.option("--to", "until", type=Time(), help="Event time, as 2026-11-21T10:00 (UTC) or now.")
app_option = click.option("--app", help="One app alone.")


def settings_of(ctx: click.Context) -> Settings:
    """Of the file and the environment; what they leave out is where the running local stack is."""
    config: Path | None = ctx.obj
    settings = with_running_stack(load_settings(config))
    remember(settings)
    return settings


def check_order(since: int | None, until: int | None) -> None:
    if since is not None and until is not None and since >= until:
        raise click.BadParameter("it is not after --from", param_hint="--to")


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """On standard error, gone when done: results alone are left to see."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=errors, transient=True) as bar:
        yield bar


@click.command("reconcile")
@app_option
@since_option
@until_option
@click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    help="Seconds to wait for what is on its way.",
)
@json_flag
@output_option
@click.pass_context
def reconcile_command(
    ctx: click.Context,
    app: str | None,
    since: int | None,
    until: int | None,
    wait_s: float,
    as_json: bool,
    to: Path | None,
) -> None:
    """Prove that all is there: the log against tables, dead letters and windows.

    Exits with 1 where they differ, or nothing could be compared. What is still on its way is not compared, and said so.
    """
    from driftline.streams.operate.reconcile import Stage, reconcile
    from driftline.streams.operate.tally import Selection

    check_order(since, until)
    settings = settings_of(ctx)
    windows = settings.monitor.windows
    selection = Selection(windows.size_s, app, since, until, open_s=windows.grace_s + windows.lateness_s)
    with progress_bar() as bar:
        task = bar.add_task("")

        def tell(stage: Stage, done: int, of: int) -> None:
            bar.update(task, description=views.STAGES[stage], completed=done, total=of or None)

        balance = run(reconcile(settings, selection, wait_s=wait_s, tell=tell))
    answer({"equal": balance.equal, **msgspec.to_builtins(balance)}, views.balance(balance), as_json, to)
    ctx.exit(0 if balance.equal else 1)


@click.group("dlq", cls=CommandGroup)
def dlq_group() -> None:
    """What could not be taken, with the reason: list, look at, send again. Asks Kafka alone."""


def _letters(settings: Settings) -> dict[str, Letter]:
    return run(read_letters(settings.kafka, settings.topics))


reason_option = click.option("--reason", metavar="TEXT", help="Those with this in their reason.")
topic_option = click.option("--topic", help="Those that were on this topic.")


@dlq_group.command("ls")
@click.option("--since", type=Time(), help="Written then or later: 2026-11-21T10:00 (UTC) or -2h.")
@reason_option
@topic_option
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="At most so many, the newest.")
@json_flag
@output_option
@click.pass_context
def dlq_ls(
    ctx: click.Context,
    since: int | None,
    reason: str | None,
    topic: str | None,
    limit: int,
    as_json: bool,
    to: Path | None,
) -> None:
    """List dead letters, the newest first."""
    found = select(_letters(settings_of(ctx)).values(), Filter(reason=reason, topic=topic, since=since))
    newest = found[:limit]
    answer([views.letter_fields(letter) for letter in newest], views.letters(newest, len(found)), as_json, to)


@dlq_group.command("show")
@click.argument("id_", metavar="ID")
@click.option("--raw", "as_raw", is_flag=True, help="Only its bytes, as they were: to edit them and send them again.")
@click.pass_context
def dlq_show(ctx: click.Context, id_: str, as_raw: bool) -> None:
    """Show one dead letter, and where it is wrong. The beginning of an ID is enough."""
    settings = settings_of(ctx)
    [letter] = select(_letters(settings).values(), Filter(ids=[id_]))
    if as_raw:
        write([letter.letter.raw])
        return
    wrong = what_is_wrong(letter.letter.raw, letter.letter.topic, settings.topics)
    console.print(views.letter(letter, wrong), soft_wrap=True)


@dlq_group.command("requeue")
@click.argument("ids", metavar="[ID]...", nargs=-1)
@click.option("--all", "every", is_flag=True, help="All that were not sent again yet.")
@reason_option
@click.option(
    "--edit",
    "edited",
    metavar="FILE",
    type=click.File("rb"),
    help="Send what stands in this file instead, for one ID: `dlq show ID --raw` writes what was sent.",
)
@click.option("--again", is_flag=True, help="Also those that were sent again before.")
@click.option("--force", is_flag=True, help="Also what still cannot be taken: it comes back as a new dead letter.")
@json_flag
@output_option
@click.pass_context
def dlq_requeue(
    ctx: click.Context,
    ids: tuple[str, ...],
    every: bool,
    reason: str | None,
    edited: IO[bytes] | None,
    again: bool,
    force: bool,
    as_json: bool,
    to: Path | None,
) -> None:
    """Send dead letters again, to the topic and partition they came from.

    Exits with 1 where one is still wrong and was not sent.
    """
    if sum((bool(ids), every, reason is not None)) != 1:
        raise click.UsageError("Say which: one or more IDs, or --all, or --reason TEXT.")
    if edited is not None and len(ids) != 1:
        raise click.UsageError("--edit replaces one dead letter: give its ID.")
    settings = settings_of(ctx)
    chosen = select(_letters(settings).values(), Filter(ids=ids, reason=reason))
    replacement = None if edited is None else edited.read()
    raws = [letter.letter.raw if replacement is None else replacement for letter in chosen]
    outcomes = [
        judge(letter, raw, settings.topics, again=again, force=force) for letter, raw in zip(chosen, raws, strict=True)
    ]
    to_send = [(letter, raw) for letter, raw, outcome in zip(chosen, raws, outcomes, strict=True) if outcome == "sent"]
    with progress_bar() as bar:
        task = bar.add_task("Sending again", total=len(to_send))
        if to_send:
            run(
                send_again(
                    settings.kafka,
                    settings.topics,
                    to_send,
                    SystemClock(),
                    lambda: bar.advance(task),
                )
            )
    results = list(zip(chosen, outcomes, strict=True))
    fields = [{"id": letter.id, "outcome": outcome} for letter, outcome in results]
    answer(fields, views.requeued(results), as_json, to)
    ctx.exit(1 if {"still wrong", "unknown topic"} & set(outcomes) else 0)


@click.command("replay")
@since_option
@until_option
@click.option(
    "--source",
    type=click.Choice(["kafka", "clickhouse"]),
    default="kafka",
    show_default=True,
    help="kafka: the log with its ticks; clickhouse: what is stored, when the log is gone.",
)
@click.option("--into", metavar="DATABASE", help="A new one; without it <database>_replay is replaced.")
@app_option
@json_flag
@output_option
@click.pass_context
def replay_command(
    ctx: click.Context,
    since: int | None,
    until: int | None,
    source: Literal["kafka", "clickhouse"],
    into: str | None,
    app: str | None,
    as_json: bool,
    to: Path | None,
) -> None:
    """Compute windows, alerts and verdicts anew, into another database, and compare.

    Exits with 1 where something differs that must be equal.
    """
    from driftline.streams.operate.replay import Span, replay

    check_order(since, until)
    settings = settings_of(ctx)
    with progress_bar() as bar:
        task = bar.add_task("", total=None)
        began: int | None = None

        def tell(what: str, at: int | None) -> None:
            nonlocal began
            if at is None:
                bar.update(task, description=what)
                return
            began = at if began is None else began
            end = max(at, SystemClock().now() if until is None else until)
            bar.update(
                task,
                description=f"{what}: {show_time(at)[:16]}",
                completed=(at - began) // MICROSECONDS,
                total=(end - began) // MICROSECONDS,
            )

        done = run(replay(settings, Span(since, until, app), source, into, tell))
    shown = views.replayed(done.comparisons, done.notes, done.database)
    answer({"equal": not done.failed, **msgspec.to_builtins(done)}, shown, as_json, to)
    ctx.exit(1 if done.failed else 0)

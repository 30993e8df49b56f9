"""Where commands print, and how they fail: one line that says what to do, and an exit code.

| code | means |
| --- | --- |
| 0 | done |
| 1 | it did not work, or what was compared differs |
| 2 | the command line is wrong |
| 70 | a bug of ours; the traceback is in a file |
| 78 | the settings are wrong, or what they name is not there |
| 130 | broken off by Ctrl-C; `up` and `worker`, which it stops, end with 0 |
| 141 | whoever read the output went away |
"""

import asyncio
import errno
import os
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Coroutine
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.text import Text

from driftline.schemas.errors import ConfigError, DriftlineError
from driftline.schemas.text import for_log, for_terminal
from driftline.streams.redact import hide
from driftline.streams.supervisor import EXIT_CONFIG, StackFailed

EXIT_BUG = 70  # EX_SOFTWARE of sysexits.h
EXIT_INTERRUPTED = 128 + signal.SIGINT
EXIT_PIPE = 128 + signal.SIGPIPE
_LONGEST = len("\\U0010ffff")  # of what is shown for one character
LEAVE_S = 1.0  # after Ctrl-C, for what ends by itself
MESSAGE = 2_000  # characters of an error: ClickHouse repeats the query in it


class _Console(Console):
    """A plain string is text of whoever wrote it: no markup, no emoji codes, nothing that a terminal obeys. What shall
    have a style is a `Text`."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, markup=False, emoji=False)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(for_terminal(text, _LONGEST * len(text)).plain, **options)

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


T = TypeVar("T")

console = _Console()
errors = _Console(stderr=True)  # also of what moves, as logs are: only one console can keep both apart


def run(work: Coroutine[Any, Any, T]) -> T:
    """As `asyncio.run`, but that after Ctrl-C nobody waits for a thread which waits for a server."""
    leaving = threading.Timer(LEAVE_S, _leave)
    leaving.daemon = True
    try:
        with asyncio.Runner() as runner:
            try:
                return runner.run(work)
            except KeyboardInterrupt:
                leaving.start()
                raise
    finally:
        leaving.cancel()


def _leave() -> None:
    errors.show_cursor()
    os._exit(EXIT_INTERRUPTED)


class CommandGroup(click.Group):
    """Help names each command with its whole first sentence."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        lines = [(name, command.get_short_help_str(limit=1_000)) for name, command in commands if command is not None]
        with formatter.section("Commands"):
            formatter.write_dl(lines)


class Cli(CommandGroup):
    """Failures are one line and an exit code, not a traceback."""

    group_class = CommandGroup

    def invoke(self, ctx: click.Context) -> object:
        try:
            found = super().invoke(ctx)
            sys.stdout.flush()
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 (whatever it is: people get a line)
            # What a role says is its log: what ended it belongs there, but for what its message says by itself.
            is_role = ctx.invoked_subcommand == "worker" and not isinstance(error, DriftlineError)
            ctx.exit(fail(error, verbose=is_role or bool(ctx.params.get("verbose"))))
        return found

    def main(self, *args: Any, **extra: Any) -> Any:
        if not extra.get("standalone_mode", True):
            return super().main(*args, **extra)
        try:
            sys.exit(super().main(*args, **{**extra, "standalone_mode": False}) or 0)
        except click.ClickException as error:
            _show_usage(error)
            sys.exit(error.exit_code)
        except click.Abort:
            sys.exit(EXIT_INTERRUPTED)
        except SystemExit as error:  # click ends so where a reader has gone
            sys.exit(EXIT_PIPE if isinstance(sys.stdout, click.utils.PacifyFlushWrapper) else error.code)
        except Exception as error:  # noqa: BLE001 (of reading the command line and of help)
            sys.exit(fail(error))


def fail(error: BaseException, *, verbose: bool = False) -> int:
    """Say what went wrong; returns the exit code."""
    if isinstance(error, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    if isinstance(error, BrokenPipeError) and not error.filename:
        # Python flushes standard output once more at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), _fileno(sys.stdout))
        return EXIT_PIPE
    known = explain(error)
    if verbose:
        _print(Text(_traceback(error)))
    if known is not None:
        message, code = known
        _say(message)
        if isinstance(error, StackFailed):
            for line in str(error).splitlines()[1:]:
                _print(Text(for_log(hide(line), MESSAGE)))
        return code
    what = for_log(hide(f"{type(error).__name__}: {error}"), MESSAGE)
    where = "above" if verbose else _keep(_traceback(error))
    _say(f"{what}. This is a bug in Driftline; the traceback is {where}")
    return EXIT_BUG


def explain(error: BaseException) -> tuple[str, int] | None:
    """What to say of an error that a user or their surroundings can cause, and the exit code; None: it is a bug."""
    if isinstance(error, DriftlineError):
        text = str(error).partition("\n")[0] if isinstance(error, StackFailed) else str(error)
        return text, EXIT_CONFIG if isinstance(error, ConfigError) else 1
    if isinstance(error, BaseExceptionGroup):
        known = [explain(part) for part in error.exceptions]
        return None if None in known else known[0]
    library = type(error).__module__.partition(".")[0]
    if library == "aiokafka":
        return f"Kafka: {error!r}: see that the broker runs, and that [kafka] of the settings is right", 1
    if library == "clickhouse_connect":
        from driftline.sinks.clickhouse.errors import classify

        return str(classify(error)) if isinstance(error, Exception) else str(error), 1
    if library == "aiohttp":
        return f"{type(error).__name__}: {error}", 1
    if isinstance(error, TimeoutError):
        return f"no answer in time{f': {error}' if str(error) else ''}: is what is asked up, and not too busy?", 1
    if isinstance(error, OSError):
        return _explain_os(error), 1
    if isinstance(error, MemoryError):
        return "out of memory: ask for less, by --from, --to, --limit or --app", 1
    return None


def _explain_os(error: OSError) -> str:
    what = error.strerror or str(error) or type(error).__name__
    where = f"{error.filename}: " if error.filename is not None else ""
    advice = {errno.ENOSPC: ": make room on the disk", errno.EACCES: ": see who may read and write there"}
    return f"{where}{what}{advice.get(error.errno or 0, '')}"


def _show_usage(error: click.ClickException) -> None:
    """As click does, but with what was typed made harmless."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.format_message(), err=True)
        return
    if isinstance(error, click.UsageError) and error.ctx is not None:
        click.echo(error.ctx.get_usage(), err=True)
        click.echo(f"Try '{error.ctx.command_path} --help'.", err=True)
    click.echo(f"Error: {for_terminal(hide(error.format_message())).plain}", err=True)


def _say(message: str) -> None:
    _print(Text.assemble(("driftline:", "bold red"), " ", for_log(hide(message), MESSAGE)))


def _print(text: Text) -> None:
    errors.print(text, soft_wrap=True, highlight=False)


def _traceback(error: BaseException) -> str:
    return for_terminal(hide("".join(traceback.format_exception(error))), 200_000).plain


def _keep(text: str) -> str:
    try:
        descriptor, name = tempfile.mkstemp(prefix="driftline-traceback-", suffix=".txt")
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError:
        return "shown with `driftline -v`"
    return f"in {name}"


def _fileno(stream: Any) -> int:
    try:
        number: int = stream.fileno()
    except (OSError, ValueError, AttributeError):
        return os.open(os.devnull, os.O_WRONLY)
    return number

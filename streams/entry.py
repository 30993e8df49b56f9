"""Where `driftline` begins: Ctrl-C ends it without a traceback while it still imports the rest."""

import signal
import sys


def main() -> None:
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # a background job ignores it, and shall
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        from driftline.streams.cli import main as command
    except ModuleNotFoundError as error:
        if (error.name or "driftline").startswith("driftline"):
            raise
        sys.exit(f"driftline: {error.name} is missing. Commands and roles need: pip install 'driftline[server]'")

    signal.signal(signal.SIGINT, before)
    command()


if __name__ == "__main__":
    main()

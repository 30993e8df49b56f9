"""Where `driftline` begins: Ctrl-C ends it without a traceback while it still imports the rest."""

import signal


def main() -> None:
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # a background job ignores it, and shall
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from driftline.streams.cli import main as command

    signal.signal(signal.SIGINT, before)
    command()


if __name__ == "__main__":
    main()

"""`python -m driftline.sinks.clickhouse.embedded --path DIR --port P`: an embedded ClickHouse until SIGTERM or Ctrl-C.

It says one line on stdout when it is ready, {"url": …, "version": …}, and one on stderr when it cannot start. User
default has the password that it keeps in DIR/password, or that of the variable CLICKHOUSE_PASSWORD; empty asks nobody.
"""

import asyncio
import errno
import fcntl
import json
import logging
import os
import signal
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import IO

import click
from aiohttp import web

from driftline.schemas.files import make_private
from driftline.schemas.hosts import is_loopback

STOP_S = 0.5  # running queries get this long to end; no acknowledged insert depends on it
CANNOT_START = 2
LOCK = "driftline.lock"
CONNECTIONS = 256  # at once; more are told so and closed
BACKLOG = 32  # that are taken in one go, and may be above
IDLE_S = 30.0  # a connection without a request may stay, and one with a part of its head
MAX_LINE = 2**20  # bytes of the request's URL, as ClickHouse's own http_max_uri_size
MAX_HEADER = 2**15  # bytes of one header; aiohttp takes 128 of them


class CannotStart(Exception):
    pass


@click.command(help=(__doc__ or "").partition("\n")[0])
@click.option("--path", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder of the data.")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Other than this machine's own: only trusted networks, it speaks no TLS.",
)
@click.option("--port", default=8123, show_default=True, help="0: any free one, told on stdout.")
@click.option("--supervised", is_flag=True, help="Stop at the end of stdin: with the process that started this.")
def main(path: Path, host: str, port: int, supervised: bool) -> None:
    os.umask(0o077)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    if supervised:
        threading.Thread(target=_exit_at_end_of_stdin, daemon=True).start()
    try:
        lock = _lock(path)
        asyncio.run(_serve(path.absolute(), host, port))
        lock.close()
    except CannotStart as error:
        click.echo(str(error), err=True)
        sys.exit(CANNOT_START)
    sys.stdout.flush()
    os._exit(0)  # queries that still run keep their threads alive


def _exit_at_end_of_stdin() -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    os._exit(0)


def _lock(path: Path) -> IO[str]:
    """Held until the process ends, however it does."""
    try:
        make_private(path, lambda names: LOCK in names)
        lock = (path / LOCK).open("a+")
    except OSError as error:
        raise CannotStart(f"Cannot use {path} for data: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.seek(0)
        holder = lock.read().strip() or "unknown"
        raise CannotStart(
            f"{path} is in use by another embedded ClickHouse (pid {holder}): stop it, or use its port"
        ) from error
    lock.truncate(0)
    lock.write(f"{os.getpid()}\n")
    lock.flush()
    return lock


async def _serve(path: Path, host: str, port: int) -> None:
    os.environ["TZ"] = "UTC"  # times of day mean UTC to every client, whatever the laptop's zone
    time.tzset()
    from driftline.sinks.clickhouse.embedded import access
    from driftline.sinks.clickhouse.embedded.engine import Engine  # loads the engine, in the right zone
    from driftline.sinks.clickhouse.embedded.server import Server

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        engine = Engine(path, time.monotonic)
    except RuntimeError as error:
        raise CannotStart(f"The engine cannot open {path}: {' '.join(str(error).split())}") from error
    try:
        password = access.password(path, os.environ.pop(access.VARIABLE, None))
    except OSError as error:
        raise CannotStart(f"Cannot keep the password in {path}: {error.strerror}") from error
    server = Server(engine, password, local_only=is_loopback(host))
    runner = web.AppRunner(
        server.application(),
        auto_decompress=False,  # bodies are decoded in the worker threads
        handler_cancellation=True,  # nobody waits for the answer any more
        max_line_size=MAX_LINE,
        max_field_size=MAX_HEADER,
        keepalive_timeout=IDLE_S,
        lingering_time=STOP_S,  # for the rest of a body that was refused
        shutdown_timeout=STOP_S,
        access_log=None,
    )
    await runner.setup()
    assert runner.server is not None
    try:
        listening = await loop.create_server(partial(_accept, runner.server), host, port, backlog=BACKLOG)
    except OSError as error:
        in_use = (
            "the port is in use: stop what listens there, or choose another (stack.clickhouse_port; 0: any free one)"
        )
        why = in_use if error.errno == errno.EADDRINUSE else error.strerror
        raise CannotStart(f"Cannot listen on {host}:{port}: {why}") from error
    bound = listening.sockets[0].getsockname()[1]
    name = f"[{host}]" if ":" in host else host
    sys.stdout.write(json.dumps({"url": f"http://{name}:{bound}", "version": engine.version}) + "\n")
    sys.stdout.flush()
    await stop.wait()
    listening.close()
    await runner.cleanup()


def _accept(server: web.Server) -> asyncio.Protocol:
    return server() if len(server.connections) < CONNECTIONS else _Full()


class _Full(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(
            b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 26\r\n\r\n"
            b"Too many open connections\n"
        )
        transport.close()


if __name__ == "__main__":
    main()

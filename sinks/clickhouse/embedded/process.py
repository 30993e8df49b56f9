"""The embedded ClickHouse as a child process."""

import contextlib
import json
import logging
import os
import select
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import IO, Self
from urllib.parse import quote

from driftline.schemas.errors import DriftlineError
from driftline.sinks.clickhouse.embedded import access

logger = logging.getLogger(__name__)

STOP_TIMEOUT_S = 5.0  # it stops in under a second; what does not is killed, which loses nothing acknowledged


class EmbeddedServerError(DriftlineError):
    """The embedded ClickHouse cannot start; the message is one line that says why and what to do."""


class EmbeddedServer:
    """An embedded ClickHouse on 127.0.0.1 with its data under `path`. Also a context manager. `port` 0 takes a free
    one, known after `start`, which returns when the server answers. It ends with the process that started it.

    `password` is that of user `default`: None is a random one, made once and kept in the folder, and "" asks nobody.
    """

    def __init__(self, path: Path, port: int = 8123, *, password: str | None = None) -> None:
        self.path = path
        self.port = port
        self._password = password
        self._secret = password or ""
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def password_file(self) -> Path | None:
        """Where the password stands; None where it is the user's own, or nobody is asked."""
        return self.path / access.FILE if self._password is None else None

    @property
    def dsn(self) -> str:
        """A secret: it holds the password, which is known once the server has started."""
        login = f"{access.USER}:{quote(self._secret, safe='')}@" if self._secret else ""
        return f"http://{login}127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, timeout_s: float = 30.0) -> None:
        if self.running:
            return
        self.stop()
        try:
            self._launch()
            self._await_ready(timeout_s)
        except BaseException:
            self.stop()
            raise
        logger.debug("The embedded ClickHouse listens on %s (pid %s).", self.url, self.pid)

    def stop(self) -> None:
        """Safe without a start, and when called twice."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
        if self._errors is not None:
            self._errors.close()
            self._errors = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _launch(self) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the child)
        try:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "driftline.sinks.clickhouse.embedded", "--supervised"),
                    f"--path={self.path}",
                    f"--port={self.port}",
                ],
                stdin=subprocess.PIPE,  # its end is the child's sign to stop
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env=self._environment(),
                start_new_session=True,  # Ctrl-C in the terminal must stop roles first, and their database after them
            )
        except OSError as error:
            raise EmbeddedServerError(f"The embedded ClickHouse did not start: {error.strerror}") from error

    def _environment(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if name != access.VARIABLE}
        own = {} if self._password is None else {access.VARIABLE: self._password}
        # Large pages: 8 % less time for inserts.
        # UTC, whatever the laptop's zone: days and hours of a query are those of servers and of everything shown.
        return {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1", **inherited, **own, "TZ": "UTC"}

    def _await_ready(self, timeout_s: float) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], timeout_s)
        said = self._process.stdout.readline() if readable else b""
        try:
            self.port = int(json.loads(said)["url"].rpartition(":")[2])
        except (ValueError, KeyError, TypeError) as error:
            raise EmbeddedServerError(f"The embedded ClickHouse did not start: {self._last_words(readable)}") from error
        if self.password_file is not None:
            self._secret = self.password_file.read_text(encoding="ascii").strip()

    def _last_words(self, ended: object) -> str:
        assert self._process is not None
        assert self._errors is not None
        if not ended:
            return "it said nothing within the time"
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_TIMEOUT_S)
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"it ended with exit code {self._process.returncode}"

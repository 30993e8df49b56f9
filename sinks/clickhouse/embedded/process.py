"""The embedded ClickHouse as a child process."""

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

from driftline.schemas.errors import DriftlineError

logger = logging.getLogger(__name__)

STOP_TIMEOUT_S = 5.0  # it stops in under a second; what does not is killed, which loses nothing acknowledged


class EmbeddedServerError(DriftlineError):
    """The embedded ClickHouse cannot start; the message is one line that says why and what to do."""


class EmbeddedServer:
    """An embedded ClickHouse on 127.0.0.1 with its data under `path`. Also a context manager. `port` 0 takes a free
    one, known after `start`, which returns when the server answers. It ends with the process that started it."""

    def __init__(self, path: Path, port: int = 8123) -> None:
        self.path = path
        self.port = port
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None

    @property
    def dsn(self) -> str:
        return f"http://127.0.0.1:{self.port}"

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
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the child)
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "driftline.sinks.clickhouse.embedded", "--supervised"),
                f"--path={self.path}",
                f"--port={self.port}",
            ],
            stdin=subprocess.PIPE,  # its end is the child's sign to stop
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1", **os.environ},  # large pages: 8 % less time for inserts
            start_new_session=True,  # Ctrl-C in the terminal must stop the roles first, and their database after them
        )
        ready = self._first_line(timeout_s)
        if not ready:
            said = self._last_words()
            self.stop()
            raise EmbeddedServerError(f"The embedded ClickHouse did not start: {said}")
        self.port = int(json.loads(ready)["url"].rpartition(":")[2])
        logger.debug("The embedded ClickHouse listens on %s (pid %d).", self.dsn, self._process.pid)

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

    def _first_line(self, timeout_s: float) -> bytes:
        assert self._process is not None
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], timeout_s)
        return self._process.stdout.readline() if readable else b""

    def _last_words(self) -> str:
        assert self._errors is not None
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing within the time"

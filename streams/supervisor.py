"""Runs the parts of the local stack as child processes: services first, then roles; roles are kept running, and
whatever happens, nothing stays behind.

Every role is a session of its own, so that Ctrl-C in the terminal reaches the supervisor alone, which then stops the
roles before the services they need. On Linux the kernel ends a role with its supervisor, even with one that is killed.
"""

import asyncio
import fcntl
import logging
import os
import shutil
import signal
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import IO, Protocol, TypeAlias

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_fixed

from driftline.schemas.clock import Clock, SystemClock
from driftline.schemas.errors import ConfigError, DriftlineError
from driftline.schemas.files import make_private
from driftline.streams.patience import Measure, Patience, Work, work_of
from driftline.streams.ready import READY_FILE, address_file

logger = logging.getLogger(__name__)

EXIT_CONFIG = 78  # EX_CONFIG of sysexits.h: a role that ends with it would end the same way again
OURS = ("lock", "logs", "clickhouse", "demo", "stack.json*", "control.key*", "*.ready", "*.health", "*.log", "*.log.1")
TAIL_LINES = 20  # of a failed part's log: a traceback's end, still on one screen
LOG_BYTES = 10_000_000  # a log that is larger when its role first starts is moved aside
POLL_S = 0.05  # between looks for a role's ready file
WATCH_S = 0.5  # between looks at the services: people notice a dead one later than that

# Runs in the role's process before its program: asks Linux for SIGKILL at the end of the supervisor's main thread.
# Not a preexec_fn, which is unsafe in a process that has threads.
_LAUNCH = """
import ctypes, os, signal, sys
if sys.platform.startswith("linux"):
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() == int(sys.argv[1]):
    os.execvp(sys.argv[2], sys.argv[2:])
"""


class StackFailed(DriftlineError):
    """A part of the stack cannot be kept running; the message ends with what it said last."""


class Service(Protocol):
    """What roles need before they start. Its methods block, and are called from one thread."""

    @property
    def pid(self) -> int | None: ...
    @property
    def running(self) -> bool: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...


@dataclass(frozen=True)
class ServiceSpec:
    name: str
    service: Service
    durable: bool  # keeps its data when it ends: it is started again, where for another the whole stack must stop


@dataclass(frozen=True)
class RoleSpec:
    """A program that calls `driftline.streams.ready.mark_ready` when it is at work, and ends at SIGTERM."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)  # beside the supervisor's own


OnProgress: TypeAlias = Callable[[Mapping[str, float]], None]
"""Gets what is starting now, and for how many seconds; empty when all is ready."""


@dataclass(frozen=True)
class Limits:
    ready_s: float = 120.0  # in which a role that is not ready could have worked and did not, see patience.py
    look_s: float = 1.0  # between looks at what parts do that are not ready yet
    stop_s: float = 3.0  # a role writes its state and leaves its groups in about one
    service_stop_s: float = 1.0  # the broker has nothing to save, and ClickHouse has saved what it acknowledged
    first_wait_s: float = 0.5  # before a restart; doubles with each crash
    max_wait_s: float = 10.0
    crashes: int = 5  # in a row: what a passing failure of a neighbour causes is over by then
    healthy_s: float = 60.0  # a role that was up this long has not crashed in a row


@dataclass
class _Role:
    spec: RoleSpec
    log: Path
    ready_file: Path
    process: asyncio.subprocess.Process | None = None
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    restarts: int = 0

    @property
    def pid(self) -> int | None:
        """None when it is not running."""
        return None if self.process is None or self.process.returncode is not None else self.process.pid

    def forget(self) -> None:
        """What the process told."""
        self.ready_file.unlink(missing_ok=True)
        address_file(self.ready_file).unlink(missing_ok=True)

    def signal(self, number: signal.Signals) -> None:
        """To the whole session, children of the role included, even when the role itself is gone."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)


class Stack:
    """Services, then `prepare`, then roles; to be started once. `folder` holds logs and a lock: one stack per folder.

    `roles` and `prepare` are called when the services run, since only then are all ports known."""

    def __init__(
        self,
        folder: Path,
        services: Sequence[ServiceSpec],
        prepare: Callable[[], Awaitable[None]],
        roles: Callable[[], Sequence[RoleSpec]],
        *,
        limits: Limits | None = None,
        clock: Clock | None = None,
        on_progress: OnProgress | None = None,
        on_locked: Callable[[], None] | None = None,
        on_ready: Callable[[], None] | None = None,
        on_back: Callable[[], None] | None = None,
        on_stop: Callable[[], None] | None = None,
        measure: Measure = work_of,
    ) -> None:
        """`on_progress` is called every second while it starts; `on_locked` once the folder is
        its own, `on_ready` when all is ready, `on_back` when a role that has started again is, which may have another
        address and process then, and `on_stop` when the stop begins."""
        self._folder = folder
        self._services = services
        self._prepare = prepare
        self._specs = roles
        self._limits = limits or Limits()
        self._clock = clock or SystemClock()
        self._on_progress = on_progress
        self._on_locked = on_locked
        self._on_ready = on_ready
        self._on_back = on_back
        self._on_stop = on_stop
        self._measure = measure
        self._roles: dict[str, _Role] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._started: list[ServiceSpec] = []
        self._lock: IO[str] | None = None
        self._is_ready = False
        # One thread as long as the stack lives: Linux ends a child with the thread that started it.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="services")

    @property
    def roles(self) -> dict[str, int | None]:
        """The process id of each role; None of one that is not running now."""
        return {name: role.pid for name, role in self._roles.items()}

    @property
    def restarts(self) -> dict[str, int]:
        return {name: role.restarts for name, role in self._roles.items()}

    @property
    def addresses(self) -> dict[str, str]:
        """The base URL at which each role tells of its health, of those that have said so."""
        files = {name: address_file(role.ready_file) for name, role in self._roles.items()}
        return {name: file.read_text(encoding="ascii").strip() for name, file in files.items() if file.exists()}

    def log(self, role: str) -> Path:
        return self._folder / "logs" / f"{role}.log"

    async def start(self) -> None:
        """Returns when every role is ready. On any failure everything is stopped again.

        Raises ConfigError for a folder in use or a program that is not there, StackFailed for a role that does not
        get ready, and whatever the services and `prepare` raise."""
        try:
            self._take_folder()
            if self._on_locked:
                self._on_locked()
            _own(self._folder / "logs")  # after on_locked, which may empty the folder
            for spec in self._services:
                self._started.append(spec)
                with self._telling(spec.name):
                    await self._in_thread(spec.service.start)
            with self._telling("topics and tables"):
                await self._prepare()
            for role_spec in self._specs():
                self._roles[role_spec.name] = self._open(role_spec)
            self._tasks = [asyncio.create_task(self._keep(role)) for role in self._roles.values()]
            self._tasks.append(asyncio.create_task(self._watch_services()))
            await self.during(self._all_ready())
            self._is_ready = True
            if self._on_ready:
                self._on_ready()
        except BaseException:
            await self.stop()
            raise

    async def during(self, work: Awaitable[object]) -> None:
        """Until the work is done. Raises StackFailed when a part cannot be kept running."""
        working = asyncio.ensure_future(work)
        try:
            done, _ = await asyncio.wait({working, *self._tasks}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)

    async def stop(self) -> None:
        """Roles, then the services in reverse. Safe without a start, and when called twice."""
        tasks, self._tasks = self._tasks, []
        if self._on_stop and self._lock is not None:
            self._on_stop()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        roles, self._roles = list(self._roles.values()), {}
        await self._stop_roles(roles)
        while self._started:
            await self._stop_service(self._started.pop().service)
        self._thread.shutdown()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _take_folder(self) -> None:
        _own(self._folder)
        try:
            lock = (self._folder / "lock").open("a+", encoding="ascii")
        except OSError as error:
            raise ConfigError(f"{self._folder} cannot hold the stack's state: {error.strerror}") from error
        try:
            self._lock_at_once(lock)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            lock.close()
            raise ConfigError(
                f"{self._folder} is in use by another stack (pid {holder}): stop it, or choose another state_dir"
            ) from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        self._lock = lock

    @staticmethod
    def _lock_at_once(lock: IO[str]) -> None:
        """But for a command that looks for the length of a system call whether a stack runs, see running.py."""
        for attempt in Retrying(
            retry=retry_if_exception_type(BlockingIOError),
            stop=stop_after_attempt(3),
            wait=wait_fixed(POLL_S),
            reraise=True,
        ):
            with attempt:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _open(self, spec: RoleSpec) -> _Role:
        if shutil.which(spec.argv[0]) is None:
            raise ConfigError(f"Role {spec.name} cannot start: there is no program {spec.argv[0]}")
        log = self.log(spec.name)
        if log.exists() and log.stat().st_size > LOG_BYTES:
            log.replace(log.with_suffix(".log.1"))
        return _Role(spec, log, self._folder / f"{spec.name}.ready")

    async def _all_ready(self) -> None:
        roles = self._roles.values()
        began = now = self._clock.monotonic()
        patience = {role.spec.name: Patience(self._limits.ready_s, now, self._work(role)) for role in roles}
        while late := [role for role in roles if not role.ready.is_set()]:
            self._tell({role.spec.name: now - began for role in late})
            with suppress(TimeoutError):
                async with asyncio.timeout(self._limits.look_s):
                    for role in late:
                        await role.ready.wait()
            now = self._clock.monotonic()
            for role in late:
                if not role.ready.is_set() and patience[role.spec.name].is_out(now, self._work(role)):
                    raise StackFailed(
                        f"Role {role.spec.name} was not ready after {now - began:.0f} s.{_last_words(role)}"
                    )
        self._tell({})

    def work(self) -> Work:
        """Of all parts."""
        services = [spec.service.pid for spec in self._services]
        return self._measure([pid for pid in (*self.roles.values(), *services) if pid is not None])

    def _work(self, role: _Role) -> Work:
        return self._measure([role.pid] if role.pid else [])

    def _tell(self, starting: Mapping[str, float]) -> None:
        if self._on_progress:
            self._on_progress(starting)

    @contextmanager
    def _telling(self, name: str) -> Iterator[None]:
        """While it lasts, the name and for how many seconds."""
        began = self._clock.monotonic()

        async def tell() -> None:
            while True:
                await asyncio.sleep(self._limits.look_s)
                self._tell({name: self._clock.monotonic() - began})

        self._tell({name: 0.0})
        telling = asyncio.create_task(tell())
        try:
            yield
        finally:
            telling.cancel()

    async def _keep(self, role: _Role) -> None:
        """Run the role, again and again. Raises StackFailed when that does not help."""
        crashes = 0
        while True:
            started = self._clock.monotonic()
            code = await self._run_once(role)
            role.signal(signal.SIGKILL)  # what it left behind
            if code == EXIT_CONFIG:
                raise StackFailed(f"Role {role.spec.name} refuses its settings.{_last_words(role)}")
            crashes = 1 if self._clock.monotonic() - started >= self._limits.healthy_s else crashes + 1
            if crashes > self._limits.crashes:
                raise StackFailed(f"Role {role.spec.name} {_how(code)}, {crashes} times in a row.{_last_words(role)}")
            wait = min(self._limits.max_wait_s, self._limits.first_wait_s * 2 ** (crashes - 1))
            logger.warning("Role %s %s; it starts again in %.1f s. See %s", role.spec.name, _how(code), wait, role.log)
            await asyncio.sleep(wait)
            role.restarts += 1

    async def _run_once(self, role: _Role) -> int:
        role.forget()
        with role.log.open("ab") as log:
            role.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", "-c", _LAUNCH, str(os.getpid()), *role.spec.argv),
                env={**os.environ, **role.spec.env, READY_FILE: str(role.ready_file.absolute())},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                umask=0o077,
            )
        watching = asyncio.create_task(self._when_ready(role))
        try:
            return await role.process.wait()
        finally:
            watching.cancel()
            role.ready.clear()

    async def _when_ready(self, role: _Role) -> None:
        while not role.ready_file.exists():  # noqa: ASYNC110 (a file has no event)
            await asyncio.sleep(POLL_S)
        role.ready.set()
        logger.debug("Role %s is ready.", role.spec.name)
        if self._is_ready and self._on_back:
            self._on_back()

    async def _watch_services(self) -> None:
        while True:
            await asyncio.sleep(WATCH_S)
            for spec in self._services:
                if spec.service.running:
                    continue
                if not spec.durable:
                    raise StackFailed(f"The {spec.name} has ended, and what it held in memory is gone: start again.")
                logger.warning("The %s has ended; it starts again.", spec.name)
                await self._in_thread(spec.service.start)

    async def _stop_roles(self, roles: Sequence[_Role]) -> None:
        for role in roles:
            role.signal(signal.SIGTERM)
        waits = [asyncio.create_task(role.process.wait()) for role in roles if role.process is not None]
        if waits:
            await asyncio.wait(waits, timeout=self._limits.stop_s)
        for role in roles:
            if role.pid is not None:
                logger.warning("Role %s did not stop within %g s and is killed.", role.spec.name, self._limits.stop_s)
            role.signal(signal.SIGKILL)
            role.forget()
        await asyncio.gather(*waits)

    async def _stop_service(self, service: Service) -> None:
        pid = service.pid
        stopping = asyncio.ensure_future(self._in_thread(service.stop))
        done, _ = await asyncio.wait({stopping}, timeout=self._limits.service_stop_s)
        if not done and pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await stopping

    async def _in_thread(self, call: Callable[[], None]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, call)


async def run(stack: Stack, work: Callable[[], Awaitable[None]]) -> None:
    """Start the stack, do the work, stop the stack. Ends early at SIGTERM or Ctrl-C, also while it starts, and with
    StackFailed when a part cannot be kept running. When it returns or raises, everything is gone."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        loop.add_signal_handler(number, stop.set)

    async def main() -> None:
        await stack.start()
        await stack.during(work())

    task = asyncio.create_task(main())
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        task.cancel()
        outcome = (await asyncio.gather(task, return_exceptions=True))[0]
        await stack.stop()
        for number in numbers:
            loop.remove_signal_handler(number)
    if isinstance(outcome, BaseException) and not isinstance(outcome, asyncio.CancelledError):
        raise outcome


def _own(folder: Path) -> None:
    try:
        make_private(folder, _is_ours)
    except OSError as error:
        raise ConfigError(f"{folder} cannot hold the stack's state: {error.strerror}") from error


def _is_ours(names: set[str]) -> bool:
    """Whether nothing else stands in the folder than what a stack keeps there."""
    return all(any(fnmatch(name, pattern) for pattern in OURS) for name in names)


def _how(code: int) -> str:
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"


def _last_words(role: _Role) -> str:
    """The end of its log, a line each, under its name."""
    with role.log.open("rb") as log:
        lines = deque((line.decode(errors="replace").rstrip() for line in log), maxlen=TAIL_LINES)
    return "".join(f"\n{role.spec.name} | {line}" for line in lines) or " It said nothing."

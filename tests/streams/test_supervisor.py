"""The supervisor, over small programs that behave as well and as badly as roles can."""

import asyncio
import contextlib
import itertools
import os
import signal
import sys
import textwrap
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from driftline.schemas.errors import ConfigError
from driftline.streams.patience import Work
from driftline.streams.supervisor import EXIT_CONFIG, Limits, RoleSpec, ServiceSpec, Stack, StackFailed, run
from tests.brokers import eventually

QUICK = Limits(ready_s=20, stop_s=5, service_stop_s=0.5, first_wait_s=0.01, max_wait_s=0.02, crashes=3, healthy_s=60)

READY = """
import os, signal, sys, time
from pathlib import Path
def ready():
    Path(os.environ["DRIFTLINE_READY_FILE"]).write_text(str(os.getpid()))
"""
WELL_BEHAVED = READY + "ready()\nsignal.pause()\n"


def role(name: str, program: str) -> RoleSpec:
    return RoleSpec(name, (sys.executable, "-c", READY + textwrap.dedent(program)))


def good(name: str = "good") -> RoleSpec:
    return RoleSpec(name, (sys.executable, "-c", WELL_BEHAVED))


async def nothing() -> None:
    pass


def stack_of(
    folder: Path,
    *roles: RoleSpec,
    limits: Limits = QUICK,
    prepare: Callable[[], Awaitable[None]] = nothing,
    **options: Any,
) -> Stack:
    return Stack(folder, [], prepare, lambda: roles, limits=limits, **options)


def idle(_: Iterable[int]) -> Work:
    """Nobody works, and the machine has time."""
    return Work(cpu_s=0.0, read_bytes=0, spare_s=time.monotonic() * 2)


def gone(pid: int | None) -> bool:
    """Ended: not there, or only waiting for its parent to notice."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


async def all_gone(*pids: int | None) -> None:
    async def they_are() -> bool:
        return all(map(gone, pids))

    await eventually(they_are, f"the end of {pids}")


class Trace:
    """Services that write down what happens to them, and when."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def service(self, name: str, *, durable: bool = False, fails: bool = False) -> ServiceSpec:
        return ServiceSpec(name, TracedService(self, name, fails), durable)


class TracedService:
    pid = None

    def __init__(self, trace: Trace, name: str, fails: bool) -> None:
        self._trace, self._name, self._fails = trace, name, fails
        self.running = False

    def start(self) -> None:
        self._trace.said.append(f"{self._name} starts")
        if self._fails:
            raise ConfigError(f"{self._name}: port 9092 is in use")
        self.running = True

    def stop(self) -> None:
        self._trace.said.append(f"{self._name} stops")
        self.running = False


async def test_roles_run_until_they_are_stopped(tmp_path: Path) -> None:
    stack = stack_of(tmp_path, good("one"), good("two"))
    await stack.start()
    pids = stack.roles
    assert list(pids) == ["one", "two"]
    assert not any(map(gone, pids.values()))
    assert len({os.getsid(pid or 0) for pid in pids.values()} | {os.getsid(0)}) == 3
    await stack.stop()
    await all_gone(*pids.values())
    await stack.stop()


async def test_services_first_then_what_prepares_then_roles_and_back_in_reverse(tmp_path: Path) -> None:
    trace = Trace()

    async def prepare() -> None:
        trace.said.append("prepared")

    def roles() -> list[RoleSpec]:
        trace.said.append("roles")
        return [
            role(
                "last",
                "signal.signal(15, lambda *_: (print('stopped', flush=True), sys.exit()))\nready()\nsignal.pause()",
            )
        ]

    stack = Stack(tmp_path, [trace.service("broker"), trace.service("database")], prepare, roles, limits=QUICK)
    await stack.start()
    await stack.stop()
    assert trace.said == ["broker starts", "database starts", "prepared", "roles", "database stops", "broker stops"]
    assert stack.log("last").read_text() == "stopped\n"


async def test_a_service_that_cannot_start_stops_those_before_it(tmp_path: Path) -> None:
    trace = Trace()
    services = [trace.service("broker"), trace.service("database", fails=True)]
    with pytest.raises(ConfigError, match="port 9092 is in use"):
        await Stack(tmp_path, services, nothing, list, limits=QUICK).start()
    assert trace.said[-2:] == ["database stops", "broker stops"]


async def test_a_crashed_role_starts_again_and_the_others_go_on(tmp_path: Path) -> None:
    stack = stack_of(tmp_path, good("one"), good("two"))
    await stack.start()
    before = stack.roles
    os.kill(before["one"] or 0, signal.SIGKILL)

    async def is_back() -> bool:
        return stack.roles["one"] not in (None, before["one"])

    await eventually(is_back, "the role's return")
    assert stack.restarts == {"one": 1, "two": 0}
    assert stack.roles["two"] == before["two"]
    await stack.stop()


async def test_where_a_role_is_found_is_told_again_when_it_is_back(tmp_path: Path) -> None:
    """On any free port it has another address then."""
    program = """
        Path(os.environ["DRIFTLINE_READY_FILE"]).with_suffix(".health").write_text(f"http://127.0.0.1:{os.getpid()}")
        ready()
        signal.pause()
    """
    told: list[dict[str, str]] = []
    stack: Stack = stack_of(
        tmp_path,
        role("one", program),
        on_ready=lambda: told.append(stack.addresses),
        on_back=lambda: told.append(stack.addresses),
    )
    await stack.start()
    assert [set(addresses) for addresses in told] == [{"one"}]
    os.kill(stack.roles["one"] or 0, signal.SIGKILL)

    async def is_told() -> bool:
        return len(told) == 2

    await eventually(is_told, "the new address")
    assert told[1] == {"one": f"http://127.0.0.1:{stack.roles['one']}"} != told[0]
    await stack.stop()


async def test_a_role_that_always_crashes_ends_the_stack_with_its_last_words(tmp_path: Path) -> None:
    stack = stack_of(tmp_path, good(), role("bad", "ready()\nprint('a\\nb', flush=True)\nsys.exit('no such model')"))

    async def forever() -> None:
        await asyncio.Event().wait()

    with pytest.raises(StackFailed, match="Role bad ended with exit code 1, 4 times in a row") as caught:
        await run(stack, forever)
    assert str(caught.value).endswith("\nbad | a\nbad | b\nbad | no such model")
    assert stack.roles == {}


async def test_a_role_that_refuses_its_settings_is_not_tried_again(tmp_path: Path) -> None:
    bad = role("bad", f"print('no key', flush=True)\nsys.exit({EXIT_CONFIG})")
    with pytest.raises(StackFailed, match=r"Role bad refuses its settings\.\nbad \| no key"):
        await stack_of(tmp_path, good(), bad).start()
    assert (tmp_path / "logs" / "bad.log").read_text() == "no key\n"


async def test_a_role_that_does_not_get_ready_ends_the_start(tmp_path: Path) -> None:
    stack = stack_of(
        tmp_path, role("slow", "signal.pause()"), good(), limits=Limits(ready_s=0.3, look_s=0.05), measure=idle
    )
    with pytest.raises(StackFailed, match=r"Role slow was not ready after \d s\. It said nothing\."):
        await stack.start()


async def test_a_role_that_is_at_work_is_waited_for_and_told_of(tmp_path: Path) -> None:
    slow = role(
        "slow", f"while not os.path.exists({str(tmp_path / 'go')!r}): time.sleep(0.01)\nready()\nsignal.pause()"
    )
    looks, told = itertools.count(1), list[Mapping[str, float]]()

    def busy(_: Iterable[int]) -> Work:
        return Work(cpu_s=1000.0 * next(looks), read_bytes=0, spare_s=1e6 * next(looks))

    def tell(starting: Mapping[str, float]) -> None:
        told.append(dict(starting))
        if told[-1].get("slow", 0) > 0:  # the second look, and the limit is long over
            (tmp_path / "go").touch()

    stack = stack_of(tmp_path, slow, good(), limits=Limits(ready_s=0.001, look_s=0.05), measure=busy, on_progress=tell)
    await stack.start()
    assert told[0].keys() == {"topics and tables"}
    assert any("slow" in starting for starting in told)
    assert told[-1] == {}
    await stack.stop()


async def test_a_program_that_is_not_there_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Role odd cannot start: there is no program /nowhere/odd"):
        await stack_of(tmp_path, RoleSpec("odd", ("/nowhere/odd",))).start()


async def test_a_folder_serves_one_stack_at_a_time(tmp_path: Path) -> None:
    first = stack_of(tmp_path, good())
    await first.start()
    with pytest.raises(ConfigError, match=f"in use by another stack \\(pid {os.getpid()}\\)"):
        await stack_of(tmp_path, good()).start()
    assert not any(map(gone, first.roles.values()))
    await first.stop()
    second = stack_of(tmp_path, good())
    await second.start()
    await second.stop()


async def test_a_folder_may_be_emptied_when_it_is_locked(tmp_path: Path) -> None:
    def empty() -> None:
        for path in tmp_path.iterdir():
            if path.is_dir():
                path.rmdir()

    stack = stack_of(tmp_path, good(), on_locked=empty)
    await stack.start()
    await stack.stop()


async def test_a_folder_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot hold the stack's state"):
        await stack_of(tmp_path / "file", good()).start()


async def test_what_a_stack_keeps_is_for_its_owner_s_eyes(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    (folder / "logs").mkdir(parents=True)
    (folder / "lock").touch()
    for path in (folder, folder / "logs"):
        path.chmod(0o755)
    stack = stack_of(folder, role("writer", f"Path({str(folder / 'left')!r}).touch()\nready()\nsignal.pause()"))
    await stack.start()
    await stack.stop()
    assert {path.name: path.stat().st_mode & 0o077 for path in (folder, folder / "logs", folder / "left")} == {
        "state": 0, "logs": 0, "left": 0
    }  # fmt: skip


async def test_a_folder_that_others_write_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    os.chmod(tmp_path, 0o777)
    with pytest.raises(ConfigError, match="others can write to it"):
        await stack_of(tmp_path, good()).start()


async def test_a_role_that_ignores_sigterm_and_its_children_are_killed(tmp_path: Path) -> None:
    stubborn = role(
        "stubborn",
        """
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = os.fork()
        if child:
            print(child, flush=True)
            ready()
        while True:
            time.sleep(60)
        """,
    )
    stack = stack_of(tmp_path, stubborn, limits=Limits(stop_s=0.2))
    await stack.start()
    pids = [stack.roles["stubborn"], int(stack.log("stubborn").read_text())]
    await stack.stop()
    await all_gone(*pids)


async def test_a_service_that_does_not_stop_is_killed(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", "import signal; signal.pause()")
    ended = threading.Event()

    class Hanging:
        pid = process.pid
        running = True

        def start(self) -> None:
            pass

        def stop(self) -> None:
            ended.wait(20)

    stack = Stack(tmp_path, [ServiceSpec("broker", Hanging(), durable=False)], nothing, list, limits=QUICK)
    await stack.start()
    stopping = asyncio.create_task(stack.stop())
    assert await process.wait() == -signal.SIGKILL
    ended.set()
    await stopping


async def test_a_durable_service_starts_again(tmp_path: Path) -> None:
    trace = Trace()
    spec = trace.service("database", durable=True)
    stack = Stack(tmp_path, [spec], nothing, list, limits=QUICK)
    await stack.start()
    assert isinstance(spec.service, TracedService)
    spec.service.running = False

    async def again() -> bool:
        return trace.said == ["database starts"] * 2

    await eventually(again, "its second start")
    await stack.stop()


async def test_the_end_of_a_service_that_forgets_is_the_end_of_the_stack(tmp_path: Path) -> None:
    spec = Trace().service("The broker")
    stack = Stack(tmp_path, [spec], nothing, lambda: [good()], limits=QUICK)

    async def work() -> None:
        assert isinstance(spec.service, TracedService)
        spec.service.running = False
        await asyncio.Event().wait()

    with pytest.raises(StackFailed, match="The broker has ended, and what it held in memory is gone"):
        await run(stack, work)


async def test_the_stack_ends_with_the_work(tmp_path: Path) -> None:
    stack = stack_of(tmp_path, good())
    pids: list[int | None] = []

    async def work() -> None:
        pids.extend(stack.roles.values())

    await run(stack, work)
    await all_gone(*pids)


async def test_what_the_work_raises_is_raised(tmp_path: Path) -> None:
    async def work() -> None:
        raise ConfigError("no such scenario")

    with pytest.raises(ConfigError, match="no such scenario"):
        await run(stack_of(tmp_path, good()), work)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_the_stack(tmp_path: Path, number: signal.Signals) -> None:
    stack = stack_of(tmp_path, good())
    pids: list[int | None] = []

    async def work() -> None:
        pids.extend(stack.roles.values())
        os.kill(os.getpid(), number)
        await asyncio.Event().wait()

    await run(stack, work)
    await all_gone(*pids)


async def test_a_signal_ends_a_stack_that_still_starts(tmp_path: Path) -> None:
    async def prepare() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.Event().wait()

    async def work() -> None:
        pytest.fail("it never got ready")

    await run(stack_of(tmp_path, good(), prepare=prepare), work)


SUPERVISOR = """
import asyncio, sys
from pathlib import Path
from driftline.streams.supervisor import RoleSpec, Stack, run

folder = Path(sys.argv[1])
roles = [RoleSpec(name, (sys.executable, "-c", sys.argv[2])) for name in ("one", "two")]

async def prepare():
    pass

async def work():
    print(*stack.roles.values(), flush=True)
    await asyncio.Event().wait()

stack = Stack(folder, [], prepare, lambda: roles)
asyncio.run(run(stack, work))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux ends a child with its parent")
async def test_nothing_outlives_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    supervisor = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", SUPERVISOR, str(tmp_path), WELL_BEHAVED), stdout=asyncio.subprocess.PIPE
    )
    try:
        assert supervisor.stdout is not None
        pids = [int(pid) for pid in (await supervisor.stdout.readline()).split()]
        assert len(pids) == 2
    finally:
        with contextlib.suppress(ProcessLookupError):
            supervisor.kill()
        await supervisor.wait()
    await all_gone(*pids)
    again = stack_of(tmp_path, good())  # the lock went with it
    await again.start()
    await again.stop()


async def test_a_large_log_is_moved_aside(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "good.log"
    log.parent.mkdir()
    log.write_bytes(b"x" * 10_000_001)
    stack = stack_of(tmp_path, good())
    await stack.start()
    await stack.stop()
    assert log.stat().st_size == 0
    assert (tmp_path / "logs" / "good.log.1").stat().st_size == 10_000_001

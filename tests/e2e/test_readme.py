"""What README shows is what works: its snippets run as they stand there, against `driftline up` as it starts by
default. Only the ports are others."""

import asyncio
import json
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
from aiokafka import AIOKafkaProducer

from driftline.streams.cli import main
from tests.brokers import eventually, find_free_port
from tests.e2e.stack import default_environment, start_stack

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
DRIFTLINE = [sys.executable, "-m", "driftline.streams.cli"]
STORED = "SELECT trace_id, release, user_id, output_text, input_tokens FROM traces WHERE app = 'support-bot'"


def snippets(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def commands(starting_with: str) -> list[str]:
    """Lines of the shell snippets, without comments and what stands in brackets there."""
    lines = [line.split("  #")[0].strip() for snippet in snippets("sh") for line in snippet.splitlines()]
    return [line for line in lines if line.startswith(starting_with)]


@dataclass
class Stack:
    environment: dict[str, str]
    port: int
    folder: Path

    def run(self, command: str) -> str:
        argv = shlex.split(command)
        assert argv[0] == "driftline"
        done = subprocess.run(
            [*DRIFTLINE, *argv[1:]], cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def rows(self) -> dict[str, dict[str, object]]:
        said = self.run(f'driftline query --format json "{STORED}"')
        return {row["trace_id"]: row for row in map(json.loads, said.splitlines())}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("readme")
    port = find_free_port()
    environment = default_environment() | {
        "DRIFTLINE_STACK__KAFKA_PORT": str(port),
        "DRIFTLINE_STACK__CLICKHOUSE_PORT": str(find_free_port()),
        "DRIFTLINE_HEALTH__PORT": "0",
    }
    process = start_stack(environment, folder / "up.log", folder)
    yield Stack(environment, port, folder)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 0
    assert "killed" not in (folder / "up.log").read_text()


def run_python(program: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=default_environment(), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


async def test_each_python_snippet_delivers_without_a_setting_or_a_word(stack: Stack) -> None:
    assert snippets("python")
    for snippet in snippets("python"):
        known = set(stack.rows())
        program = snippet.replace("localhost:9092", f"localhost:{stack.port}")
        assert run_python(program) == (0, "", ""), snippet

        async def stored(known: set[str] = known) -> list[object]:
            return [row for trace_id, row in stack.rows().items() if trace_id not in known]

        assert await eventually(stored, "the snippet's event in ClickHouse", timeout_s=60)


async def test_each_json_snippet_is_an_event_that_is_stored(stack: Stack) -> None:
    assert snippets("json")
    async with AIOKafkaProducer(bootstrap_servers=f"localhost:{stack.port}") as producer:
        for snippet in snippets("json"):
            await producer.send_and_wait("driftline.events", snippet.encode(), key=b"support-bot")
            trace_id = json.loads(snippet)["trace_id"]

            async def stored(trace_id: str = trace_id) -> bool:
                return trace_id in stack.rows()

            assert await eventually(stored, "the payload in ClickHouse", timeout_s=60)


def test_the_queries_and_commands_shown_run_on_the_stack_with_no_setting(stack: Stack) -> None:
    shown = [*commands("driftline query"), *commands("driftline dlq ls"), *commands("driftline reconcile")]
    assert len(shown) >= 3
    for command in shown:
        assert stack.run(command)


def test_other_tools_connect_as_shown(stack: Stack) -> None:
    shown = [*commands("curl -u"), *commands("python -c")]
    assert len(shown) == 2
    port = stack.environment["DRIFTLINE_STACK__CLICKHOUSE_PORT"]
    for command in shown:
        command = command.replace(":8123", f":{port}").replace("get_client(", f"get_client(port={port}, ")
        command = command.replace("python -c", f"{sys.executable} -c")
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=stack.folder,
            env=stack.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout.strip().isdigit(), f"{command}\n{done.stderr}"


async def test_a_user_who_looks_around_sees_the_roles_the_app_and_what_comes_in(stack: Stack) -> None:
    for command in ("alerts ls", "dlq ls", "check-config", "--version"):
        assert stack.run(f"driftline {command}")
    roles = json.loads(stack.run("driftline status --json"))["roles"]
    assert [(role["role"], role["state"]) for role in roles] == [
        (name, "ready") for name in ("embed", "judge", "monitor", "archive", "notify")
    ]
    event = {"type": "trace", "app": "looked-at", "ts": time.time_ns() // 1000, "trace_id": "seen"}
    async with AIOKafkaProducer(bootstrap_servers=f"localhost:{stack.port}") as producer:
        tail = await asyncio.create_subprocess_exec(
            *DRIFTLINE, "tail", "--app", "looked-at", "--json",
            cwd=stack.folder, env=stack.environment, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert tail.stdout
        line = asyncio.ensure_future(tail.stdout.readline())

        async def shown() -> bool:
            await producer.send_and_wait("driftline.events", json.dumps(event).encode(), key=b"looked-at")
            return line.done()

        await eventually(shown, "a line of tail", timeout_s=60)
    assert json.loads(await line)["trace_id"] == "seen"
    tail.send_signal(signal.SIGINT)
    assert await tail.wait() == 130

    async def listed() -> bool:
        return "looked-at" in stack.run("driftline apps")

    await eventually(listed, "the app in `apps`", timeout_s=60)


@pytest.mark.parametrize("command", commands("driftline"))
def test_each_command_shown_exists(command: str) -> None:
    words = shlex.split(command)[1:]
    found: click.Command = main
    options = {option for p in main.params for option in p.opts}
    for word in words:
        if isinstance(found, click.Group) and word in found.commands:
            found = found.commands[word]
            options |= {option for p in found.params for option in p.opts}
    assert not isinstance(found, click.Group), command
    assert {word for word in words if word.startswith("--")} <= options, command

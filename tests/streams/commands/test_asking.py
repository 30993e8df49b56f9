import asyncio
import json
from collections.abc import Iterator

import clickhouse_connect
import pytest
from click.testing import CliRunner

from driftline.schemas.codec import encode_event
from driftline.schemas.events import Trace
from driftline.schemas.topics import Topics
from driftline.sinks.clickhouse.config import ClickHouseConfig
from driftline.streams.cli import main
from driftline.streams.commands.tail import items, line
from driftline.streams.health import Health, HealthConfig, Note, serve
from tests.hostile import TEXTS, obeyed

STORED = [text[:2_000] for name, text in TEXTS.items() if name != "surrogates"]


@pytest.fixture(scope="module")
def told(clickhouse: ClickHouseConfig) -> Iterator[None]:
    """An alert and a trace whose every text is hostile."""
    dsn = clickhouse.dsn.get_secret_value()
    with clickhouse_connect.get_client(dsn=dsn, database=clickhouse.database) as client:
        for number, text in enumerate(STORED):
            names = ["id", "app", "release", "rule", "component", "state", "severity", "summary", "action", "fired_at"]
            row = [f"a{number:03}", text, text, text, text, "firing", "error", text, text, 1_800_000_000]
            client.insert("alerts_raw", [row], column_names=names)
            names = ["app", "ts", "trace_id", "release", "response_model"]
            client.insert("traces_raw", [[text, 1_800_000_000, "t", text, text]], column_names=names)
    yield
    with clickhouse_connect.get_client(dsn=dsn, database=clickhouse.database) as client:
        client.command("TRUNCATE TABLE alerts_raw")
        client.command("TRUNCATE TABLE traces_raw")


@pytest.mark.usefixtures("told")
@pytest.mark.parametrize(
    "command", [["alerts", "ls"], ["alerts", "ls", "--open"], ["alerts", "show", "a000"], ["apps"]]
)
def test_text_of_others_is_shown_as_text(cli: CliRunner, command: list[str]) -> None:
    until = [] if "show" in command else ["--to", "2100-01-01"]
    result = cli.invoke(main, [*command, *until], env={"COLUMNS": "400"})
    assert (result.exit_code, result.stderr) == (0, "")
    assert obeyed(result.stdout, keep="\n") == ""
    assert "[INST]" in result.stdout
    found = json.loads(cli.invoke(main, [*command, *until, "--json"]).stdout)
    assert {row["app"] for row in found} <= set(STORED)


@pytest.mark.usefixtures("told")
def test_alerts_have_a_state_and_a_severity(cli: CliRunner) -> None:
    shown = cli.invoke(main, ["alerts", "ls", "--to", "2100-01-01"], env={"COLUMNS": "80"}).stdout
    lines = [line.split() for line in shown.splitlines()]
    assert ["state", "firing"] in lines
    assert ["severity", "error"] in lines


def test_an_alert_that_is_not_there(cli: CliRunner) -> None:
    result = cli.invoke(main, ["alerts", "show", "nope"])
    assert result.exit_code == 1
    assert "driftline alerts ls" in result.stderr


def test_nothing_runs(cli: CliRunner) -> None:
    result = cli.invoke(main, ["status"])
    assert result.exit_code == 78
    assert "driftline up" in result.stderr
    silent = cli.invoke(main, ["status", "--role", "monitor=http://127.0.0.1:1", "--json"])
    assert silent.exit_code == 1
    [role] = json.loads(silent.stdout)["roles"]
    assert role["state"] == "silent"
    assert role["problems"] == [
        "no connection to 127.0.0.1:1 (Connection refused): see that the role runs, and its log"
    ]


async def test_what_is_good_to_know_is_shown_and_nothing_is_wrong(cli: CliRunner) -> None:
    health = Health("monitor", notes=lambda: [Note("keys cost", "key so")])
    health.ready = True
    async with serve(health, HealthConfig(port=0)) as url:
        ask = ["status", "--role", f"monitor={url}"]
        shown = await asyncio.to_thread(cli.invoke, main, ask)
        found = await asyncio.to_thread(cli.invoke, main, [*ask, "--json"])
    assert (shown.exit_code, found.exit_code) == (0, 0)
    assert "monitor: keys cost; key so" in shown.stdout
    assert json.loads(found.stdout)["roles"][0]["notes"] == ["keys cost; key so"]


@pytest.mark.parametrize("text", STORED)
def test_a_line_of_the_tail_is_a_line(text: str) -> None:
    topics = Topics()
    trace = Trace(app="bot", ts=1_800_000_000_000_000, trace_id="t", input_text=text, release="v1")
    [item] = items(topics.events, encode_event(trace), topics)
    shown = line(item).plain
    assert item["input_text"] == text
    assert len(shown.splitlines()) == 1
    assert obeyed(shown) == ""
    [reject] = items(topics.events, b"\x1b[31m", topics)
    assert reject["type"] == "reject"


def test_version_and_help(cli: CliRunner) -> None:
    assert cli.invoke(main, ["--version"]).stdout.startswith("driftline ")
    assert "..." not in cli.invoke(main, ["--help"]).stdout.partition("Commands:")[2]

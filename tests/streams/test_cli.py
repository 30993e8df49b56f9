import json
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from aiokafka import TopicPartition
from click.testing import CliRunner
from rich.console import Console

from driftline.streams.cli import main
from driftline.streams.demo.summary import Summary
from driftline.streams.supervisor import EXIT_CONFIG
from tests.streams.demo.test_summary import good_day, summarize

EXAMPLE = Path(__file__).parents[2] / "infra" / "driftline.example.toml"


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.chdir(tmp_path)
    return CliRunner()


def test_check_config_shows_settings_without_secrets(cli: CliRunner) -> None:
    result = cli.invoke(main, ["--config", str(EXAMPLE), "check-config", "--json"])
    assert result.exit_code == 0
    assert json.loads(result.stdout)["settings"]["kafka"]["partitions"] == 12
    assert "0123456789abcdef" not in result.output


def test_wrong_settings_stop_with_one_line_and_their_own_exit_code(cli: CliRunner, tmp_path: Path) -> None:
    file = tmp_path / "driftline.toml"
    file.write_text("[kafka]\nbroker = 'x'\n")
    result = cli.invoke(main, ["--config", str(file), "worker", "--role", "monitor"])
    assert result.exit_code == EXIT_CONFIG
    assert result.stderr.startswith("driftline: ")
    assert "kafka.broker" in result.stderr
    assert result.stderr.count("\n") == 1


def test_schema_prints_json_schema(cli: CliRunner) -> None:
    everything = json.loads(cli.invoke(main, ["schema"]).stdout)
    assert {"Trace", "Score", "Release", "Alert", "RollbackSignal"} <= everything["$defs"].keys()
    trace = json.loads(cli.invoke(main, ["schema", "Trace"]).stdout)
    assert "trace_id" in trace["$defs"]["Trace"]["required"]
    assert cli.invoke(main, ["schema", "Nonsense"]).exit_code == 2


def test_a_query_with_nothing_to_ask_says_so(cli: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRIFTLINE_CLICKHOUSE__DSN", "http://127.0.0.1:1")
    result = cli.invoke(main, ["query", "SELECT 1"])
    assert result.exit_code == EXIT_CONFIG
    assert "no ClickHouse answers us at" in result.stderr
    assert cli.invoke(main, ["query", "--demo", "SELECT 1"]).exit_code == EXIT_CONFIG


def test_a_query_serves_local_data_for_the_moment(
    cli: CliRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRIFTLINE_CLICKHOUSE__DSN", "http://127.0.0.1:1")
    monkeypatch.setenv("DRIFTLINE_CLICKHOUSE__DATABASE", "default")
    (tmp_path / ".driftline" / "clickhouse").mkdir(parents=True)
    result = cli.invoke(main, ["query", "--format", "csv", "SELECT 1 AS one"])
    assert result.stdout == '"one"\n1\n'


def test_a_broker_that_is_not_there_is_one_line(cli: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRIFTLINE_KAFKA__BROKERS", "127.0.0.1:1")
    result = cli.invoke(main, ["topics", "apply"])
    assert result.exit_code == 1
    assert "127.0.0.1:1" in result.stderr
    assert "Traceback" not in result.output


def test_help_is_whole_on_any_screen(cli: CliRunner) -> None:
    def groups(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
        if isinstance(command, click.Group):
            yield path
            for name, inner in command.commands.items():
                yield from groups(inner, (*path, name))

    for path in groups(main):
        for width in (40, 80):
            text = cli.invoke(main, [*path, "--help"], terminal_width=width).stdout
            assert "..." not in text.partition("Commands:")[2], path
            assert width == 40 or max(map(len, text.splitlines())) <= 80


def test_a_bare_command_prints_its_help_and_is_no_error(cli: CliRunner) -> None:
    for path in ([], ["dlq"], ["baseline"]):
        bare, asked = cli.invoke(main, path), cli.invoke(main, [*path, "--help"])
        assert (bare.exit_code, bare.stdout) == (2, "")
        assert bare.stderr == asked.stdout
    assert "Error: No such command" in cli.invoke(main, ["nothing"]).stderr


def test_the_demos_json_is_alone_on_the_standard_output(cli: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = summarize(good_day())

    def played(_: object, shown: Console, **options: object) -> Summary:
        shown.print("the account")
        return summary

    monkeypatch.setattr("driftline.streams.demo.command.run_command", played)
    alone = cli.invoke(main, ["demo", "--json"])
    assert (json.loads(alone.stdout)["lost"], alone.stderr) == (0, "the account\n")
    both = cli.invoke(main, ["demo", "-o", "out.json"])
    assert (both.stdout, json.loads(Path("out.json").read_bytes())) == ("the account\n", json.loads(alone.stdout))


def test_a_reset_that_is_not_wanted_says_so_and_how_many_partitions_it_is(
    cli: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def stored(*_: object) -> list[TopicPartition]:
        return [TopicPartition(f"driftline.state.{fold}", 0) for fold in ("monitor", "drift")]

    monkeypatch.setattr("driftline.streams.operate.reset.stored", stored)
    result = cli.invoke(main, ["state", "reset", "--role", "monitor"], input="n\n")
    assert "knows in 1 partition, baselines" in result.stdout
    assert (result.exit_code, result.stderr) == (1, "driftline: nothing was forgotten\n")
    assert cli.invoke(main, ["state", "reset", "--role", "monitor"], input="").exit_code == 130


def leaves(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from leaves(inner, (*path, name))
    else:
        yield " ".join(path), command


JSON = {name: command for name, command in leaves(main) if any("--json" in p.opts for p in command.params)}


@pytest.mark.parametrize("name", JSON)
def test_json_is_a_flag_that_takes_no_argument_away(name: str) -> None:
    arguments = [p for p in JSON[name].params if isinstance(p, click.Argument)]
    context = JSON[name].make_context(name, ["--json", *("x" for _ in arguments)], resilient_parsing=True)
    assert context.params["as_json"] is True
    assert [context.params[p.name or ""] for p in arguments] == [("x",) if p.nargs == -1 else "x" for p in arguments]


def test_what_is_walked_has_arguments() -> None:
    assert {"alerts show", "baseline show", "dlq requeue", "reconcile", "demo"} <= JSON.keys()

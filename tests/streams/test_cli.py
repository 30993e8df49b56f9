import json
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from driftline.streams.cli import main
from driftline.streams.supervisor import EXIT_CONFIG

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

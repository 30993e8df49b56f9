import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from driftline.streams.cli import main
from tests.hostile import obeyed

EXAMPLE = Path(__file__).parents[3] / "infra" / "driftline.example.toml"


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    for name in os.environ:
        if name.startswith("DRIFTLINE_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return CliRunner(env={"COLUMNS": "300"})


def of(check: CliRunner, text: str, *arguments: str) -> Result:
    Path("driftline.toml").write_text(text)
    return check.invoke(main, ["--config", "driftline.toml", "check-config", *arguments])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[kafka]\nbrokers = 'localhost'", "kafka.brokers: expected host:port, with commas between several, got 'loc"),
        ("[kafka]\nbrokers = 'kafka://a:9092'", "kafka.brokers: expected host:port"),
        ("[kafka]\nbrokers = 'a:9092,b'", "got 'b'"),
        ("[kafka]\nbroker = 'a:1'", "kafka.broker: there is no such key; did you mean brokers?"),
        ("[kafak]\nbrokers = 'a:1'", "kafak: there is no such key; did you mean kafka?"),
        ("[kafka]\npartitions = 0", "kafka.partitions: expected at least 1, got 0"),
        ("[kafka]\npartitions = 'four'", "kafka.partitions: expected a whole number, got 'four'"),
        ("[kafka]\ncompression = 'zip'", "kafka.compression: expected 'none', 'gzip'"),
        ("[kafka]\nprefix = 'a b'", "kafka.prefix: expected a text of the form"),
        ("[kafka]\nbrokers = 9092", "kafka.brokers: expected a text, in quotes, got 9092"),
        ("kafka = 1", "kafka: expected a section with keys"),
        ("[kafka]\nsecurity_protocol = 'SSL'\nssl_cafile = 'none.pem'", "kafka.ssl_cafile none.pem: No such file"),
        ("[kafka]\nsecurity_protocol = 'SSL'\nssl_cafile = 'driftline.toml'", "no valid certificates"),
        ("[kafka]\ncontrol_key_file = 'none'", "kafka.control_key_file none: No such file"),
        ("[clickhouse]\ndsn = 'localhost:8123'", "clickhouse.dsn: expected http[s]://[user[:password]@]host[:port]"),
        ("[notify.slack]\nwebhook_url = 'hooks.slack.com/x'", "notify.slack.webhook_url is not an http or https URL"),
        ("[notify.pagerduty]\nrouting_key = 'short'", "routing_key: expected at least 32 characters, it has 5"),
        ("[[notify.webhooks]]\nname = 'a'\nurl = 'nothing'", "notify.webhooks.a.url is not"),
        ("[[notify.webhooks]]\nname = 'a'", "notify.webhooks.0.url: is missing"),
        ("[stack]\nstate_dir = 'driftline.toml/x'", "stack.state_dir: "),
        ("[embed]\nmodel = './none'", "embed.model: there is no folder ./none"),
        ("[embed]\nmodel = '.'", "holds no model"),
        ("[health]\nhost = 'no such host'", "health.host: 'no such host' is no address"),
        ("[kafka", "not valid TOML"),
    ],
)
def test_what_a_start_would_stop_at(check: CliRunner, text: str, says: str) -> None:
    result = of(check, text)
    assert result.exit_code == 78
    assert says in result.stdout
    assert "wrong: " in result.stdout
    assert "pydantic" not in result.output
    assert "right" not in result.stdout


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("DRIFTLINE_KAFKA_BROKERS", "sets nothing; did you mean DRIFTLINE_KAFKA__BROKERS?"),
        ("DRIFTLINE_CLICKHOUSE_DSN", "did you mean DRIFTLINE_CLICKHOUSE__DSN?"),
        ("DRIFTLINE_NOTIFY_SLACK_WEBHOOK_URL", "did you mean DRIFTLINE_NOTIFY__SLACK__WEBHOOK_URL?"),
        ("DRIFTLINE_KAFKA_BROKER", "did you mean DRIFTLINE_KAFKA__BROKERS?"),
        ("DRIFTLINE_KAFAK__BROKERS", "did you mean DRIFTLINE_KAFKA__BROKERS?"),
        ("DRIFTLINE_NONSENSE__KEY", "there is no section 'nonsense'; there are"),
        ("DRIFTLINE_MONITOR_WHATEVER", "with two underscores"),
        ("DRIFTLINE_KAFKA__BROKER", "DRIFTLINE_KAFKA__BROKER: there is no such key; did you mean brokers?"),
        ("DRIFTLINE_KAFKA__PARTITIONS", "DRIFTLINE_KAFKA__PARTITIONS: expected a whole number, got 'x'"),
        ("DRIFTLINE_NOTIFY", "DRIFTLINE_NOTIFY: expected JSON; single keys are DRIFTLINE_NOTIFY__<KEY>"),
    ],
)
def test_variables_that_set_nothing(check: CliRunner, monkeypatch: pytest.MonkeyPatch, name: str, says: str) -> None:
    monkeypatch.setenv(name, "x")
    for command in (["check-config"], ["worker", "--role", "notify"]):
        result = check.invoke(main, command)
        assert result.exit_code == 78
        assert says in result.output
        assert len(result.stderr.splitlines()) == (command[0] == "worker")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DRIFTLINE_SERVICE_HOST", "10.0.0.1"),
        ("DRIFTLINE_KAFKA_SERVICE_PORT", "9092"),
        ("DRIFTLINE_KAFKA_PORT_9092_TCP_ADDR", "10.0.0.1"),
        ("DRIFTLINE_HEALTH_PORT", "tcp://10.0.0.1:9464"),
        ("DRIFTLINE_CONFIG", "x.toml"),
    ],
)
def test_variables_of_others_are_left_alone(
    check: CliRunner, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    Path("x.toml").write_text("")
    monkeypatch.setenv(name, value)
    assert check.invoke(main, ["check-config"]).exit_code == 0


def test_what_differs_from_the_defaults_is_shown_without_secrets(check: CliRunner) -> None:
    result = check.invoke(main, ["--config", str(EXAMPLE), "check-config"])
    assert result.exit_code == 0
    for words in ("kafka-1:9092", "partitions", "12", "as by default", "hint: kafka.control_key: not set", "right."):
        assert words in result.stdout
    assert "0123456789abcdef" not in result.output
    assert "T000" not in result.output


def test_all_of_it_as_json(check: CliRunner) -> None:
    found = json.loads(of(check, "[kafka]\nbrokers = 'k:1'\n", "--json").stdout)
    assert found["errors"] == []
    assert found["settings"]["kafka"]["brokers"] == "k:1"
    assert any("control_key" in hint for hint in found["hints"])
    broken = of(check, "[kafka]\nbrokers = 1\n", "--json")
    assert broken.exit_code == 78
    assert json.loads(broken.stdout)["settings"] is None


def test_a_folder_that_cannot_be_written(check: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: not mode & os.W_OK)
    assert "stack.state_dir: .driftline cannot be written by this user" in of(check, "").stdout


def test_a_local_stack_needs_no_hints_of_production(check: CliRunner) -> None:
    assert "control_key" not in check.invoke(main, ["check-config"]).stdout


@pytest.mark.parametrize("text", ['"\\u001b[31m[/]\\n"', '"[bold]x"'])
def test_values_are_text(check: CliRunner, text: str) -> None:
    result = of(check, f"[embed]\ntext_prefix = {text}\n[kafka]\nsasl_username = {text}\n")
    assert result.exit_code == 0
    assert obeyed(result.stdout, keep="\n") == ""
    wrong = of(check, f"[kafka]\nbrokers = {text}\n")
    assert wrong.exit_code == 78
    assert obeyed(wrong.stdout, keep="\n") == ""


def test_a_password_is_in_no_error(check: CliRunner) -> None:
    result = of(check, "[clickhouse]\ndsn = 'http://me:pa55w0rd/#@host:8123'\n[kafka]\nsasl_pasword = 'pa55w0rd'\n")
    assert "%2F" in result.stdout
    assert "did you mean sasl_password" in result.stdout
    assert "pa55w0rd" not in result.output

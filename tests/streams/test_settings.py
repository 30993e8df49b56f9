from pathlib import Path

import pytest

from driftline.schemas.errors import ConfigError
from driftline.streams.redact import hide
from driftline.streams.settings import Settings, load_settings

EXAMPLE = Path(__file__).parents[2] / "infra" / "driftline.example.toml"


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.startswith("DRIFTLINE_"):
            monkeypatch.delenv(name)


def test_the_shipped_example_is_valid() -> None:
    settings = load_settings(EXAMPLE)
    assert settings.kafka.partitions == 12
    assert settings.notify.pagerduty is not None
    assert settings.health.host == "0.0.0.0"
    assert settings.archive.poison_limit == 1_000


def test_the_shipped_rules_are_valid_and_off_by_default() -> None:
    monitor = load_settings(EXAMPLE.with_name("rules.example.toml")).monitor
    assert [rule.name for rule in monitor.rules] == [
        *("errors", "breaker", "latency", "quality", "cost-per-request", "alive")
    ]
    assert [slo.name for slo in monitor.slo] == ["availability", "fast"]
    assert monitor.cost_budget[0].levels == (0.8, 1.0)
    assert monitor.cost_spike is not None
    default = load_settings().monitor
    assert (default.rules, default.slo, default.cost_budget, default.cost_spike) == ((), (), (), None)


def test_without_a_file_everything_has_a_default() -> None:
    assert load_settings() == Settings()


def test_the_environment_goes_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "driftline.toml"
    file.write_text('[kafka]\nbrokers = "file:1"\npartitions = 3\n')
    monkeypatch.setenv("DRIFTLINE_KAFKA__BROKERS", "environment:2")
    kafka = load_settings(file).kafka
    assert (kafka.brokers, kafka.partitions) == ("environment:2", 3)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[kafka]\nbroker = 'x'\n", "kafka.broker"),
        ("[kafak]\n", "kafak"),
        ("[kafka]\npartitions = 0\n", "kafka.partitions"),
        ("[kafka]\nsecurity_protocol = 'SASL_SSL'\n", "sasl_username"),
        ("[health]\nport = 70000\n", "health.port"),
        ("[archive]\npoison_limit = -1\n", "archive.poison_limit"),
        ("[kafka\n", "not valid TOML"),
        ("[[monitor.rules]]\nname = 'r'\nmetric = 'error_rate'\nabov = 1\n", "monitor.rules.0.abov"),
        ("[[monitor.rules]]\nname = 'r'\nmetric = 'requests'\n", "monitor.rules.0: rule r: give one of"),
        ("[[monitor.slo]]\nname = 'a'\nobjective = 1.0\n", "monitor.slo.0.objective"),
        ("[[monitor.cost_budget]]\nname = 'a'\nmonthly_usd = 0\n", "monitor.cost_budget.0.monthly_usd"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "driftline.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"driftline\.toml") as raised:
        load_settings(file)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_settings(tmp_path / "none.toml")


@pytest.mark.parametrize("name", ["DRIFTLINE_KAFAK__BROKERS", "DRIFTLINE_KAFKA__BROKER"])
def test_an_unknown_variable_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "x")
    with pytest.raises(ConfigError, match=r"(?i)kafak|broker"):
        load_settings()


def test_secrets_do_not_show(tmp_path: Path) -> None:
    file = tmp_path / "driftline.toml"
    file.write_text('[notify.slack]\nwebhook_url = 5\nwebhook = "https://hooks.slack.com/services/T0K3N"\n')
    with pytest.raises(ConfigError) as raised:
        load_settings(file)
    assert "T0K3N" not in str(raised.value) + str(raised.value.__cause__)
    assert "hooks.slack.com" not in load_settings(EXAMPLE).model_dump_json()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("clickhouse_password = 'short'", "8 to 200 printable ASCII characters"),
        ("clickhouse_password = 'with a blank'", "without spaces"),
        ("clickhouse_password = 'pässwörter'", "ASCII"),
        ("clickhouse_password = ''", "8 to 200"),
        ("clickhouse_password = 'hunter2hunter2'\nclickhouse_open = true", "contradict each other"),
    ],
)
def test_the_local_password_is_one_that_can_be_sent(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "driftline.toml"
    file.write_text(f"[stack]\n{text}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=words) as raised:
        load_settings(file)
    assert "hunter2" not in str(raised.value)
    assert "pässwörter" not in str(raised.value)


def test_the_local_password_may_be_one_s_own(tmp_path: Path) -> None:
    file = tmp_path / "driftline.toml"
    file.write_text("[stack]\nclickhouse_password = 'hunter2/:@hunter2'\n")
    assert "hunter2" not in repr(load_settings(file))
    assert hide("at hunter2/:@hunter2") == "at ***"

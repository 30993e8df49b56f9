import pytest
from pydantic import SecretStr

from driftline.sinks.clickhouse.config import ClickHouseConfig
from driftline.streams.redact import forms, hide, remember


@pytest.mark.parametrize(
    ("secret", "said"),
    [
        ("hunter22", "password hunter22 refused"),
        ("http://u:p%2Fq%23r@host:8123", "cannot log in with p/q#r at http://u:p%2Fq%23r@host:8123"),
        ("http://u:pa55/w0rd#x@host:8123", "Port could not be cast to integer value as 'pa55'"),
        ("https://hooks.slack.com/services/T000/B000/XXXX", "POST /services/T000/B000/XXXX: 404"),
    ],
)
def test_no_form_of_a_secret_is_shown(secret: str, said: str) -> None:
    for form in sorted(forms(secret), key=len, reverse=True):
        said = said.replace(form, "***")
    assert "***" in said
    assert not any(part in said for part in ("hunter22", "p/q#r", "p%2Fq", "pa55", "T000/B000"))


def test_plain_words_of_urls_stay() -> None:
    assert "driftline" not in forms("https://deploys.example.com/driftline")
    assert not forms("http://127.0.0.1:8123")


def test_settings_are_remembered() -> None:
    remember(ClickHouseConfig(dsn=SecretStr("http://user:s3cr3t-of-test@db:8123")))
    assert hide("user:s3cr3t-of-test@db") == "user:***@db"

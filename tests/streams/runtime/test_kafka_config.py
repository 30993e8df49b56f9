from inspect import signature
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from pydantic import SecretStr, ValidationError

from driftline.schemas.errors import ConfigError
from driftline.streams.runtime.config import KafkaConfig


def test_aiokafka_knows_every_option() -> None:
    consumer, producer, admin = map(signature, (AIOKafkaConsumer, AIOKafkaProducer, AIOKafkaAdminClient))
    for config in (KafkaConfig(), KafkaConfig().for_embedded(), secured()):
        consumer.bind(group_id="g", **config.reader_options(), **config.group_options())
        producer.bind(**config.client_options(), **config.producer_options())
        admin.bind(**config.client_options())


def secured() -> KafkaConfig:
    return KafkaConfig(security_protocol="SASL_SSL", sasl_username="ada", sasl_password=SecretStr("hush"))


def test_a_secured_cluster_gets_its_password_and_nobody_else_does() -> None:
    config = secured()
    assert config.client_options()["sasl_plain_password"] == "hush"
    assert "hush" not in repr(config)
    assert "hush" not in config.model_dump_json()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"security_protocol": "SASL_SSL"}, "needs sasl_username and sasl_password"),
        ({"session_timeout_s": 5, "heartbeat_interval_s": 3}, "at most half of session_timeout_s"),
        ({"broker": "x"}, "Extra inputs are not permitted"),
        ({"prefix": "a b"}, "String should match pattern"),
    ],
)
def test_what_cannot_work_is_refused_with_a_reason(wrong: dict[str, object], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        KafkaConfig.model_validate(wrong)


def test_writes_are_acknowledged_by_all_replicas_and_idempotent_where_the_broker_can() -> None:
    options = KafkaConfig().producer_options()
    assert (options["acks"], options["enable_idempotence"]) == ("all", True)
    assert KafkaConfig().for_embedded().producer_options()["enable_idempotence"] is False


def test_a_missing_certificate_is_found_before_connecting(tmp_path: Path) -> None:
    config = KafkaConfig(security_protocol="SSL", ssl_cafile=tmp_path / "none.pem")
    with pytest.raises(ConfigError, match=r"kafka\.ssl_cafile .*none\.pem"):
        config.client_options()

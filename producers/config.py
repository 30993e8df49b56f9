"""What an application may set, in code or through `DRIFTLINE_*` environment variables."""

import os
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationError

from driftline.schemas.config import Config
from driftline.schemas.errors import ConfigError
from driftline.schemas.topics import LARGE

MIB = 1024 * 1024
BROKERS = r"^[^\s,]+:\d+(,[^\s,]+:\d+)*$"
ENVIRONMENT_PREFIX = "DRIFTLINE_"


class ProducerConfig(Config):
    app: Annotated[str, Field(min_length=1, max_length=200)]
    brokers: Annotated[str, Field(pattern=BROKERS)] = "localhost:9092"  # comma separated; Kafka's own default port
    topic_prefix: str = "driftline"  # as the installation's
    release: Annotated[str, Field(max_length=200)] = ""  # of every event that names none
    environment: Annotated[str, Field(max_length=200)] = ""
    enabled: bool = True  # false: events are counted as dropped and no broker is contacted, for an app's own tests

    max_batch_events: Annotated[int, Field(ge=1)] = 500  # in one record; beyond some hundreds decoding gains nothing
    max_batch_bytes: Annotated[int, Field(ge=1)] = MIB // 2  # of one record, under Kafka's default limit of 1 MiB
    linger_ms: Annotated[int, Field(ge=0)] = 100  # a batch waits this long for company; windows are of seconds
    max_pending_events: Annotated[int, Field(ge=1)] = 100_000  # not yet acknowledged: minutes of a busy app
    max_pending_bytes: Annotated[int, Field(ge=1, le=2**40)] = (
        64 * MIB
    )  # what an app can spare during an outage of the broker
    max_text_chars: Annotated[int, Field(ge=1)] = 1_000_000  # two texts of it, in UTF-8, fit into one record
    max_event_bytes: Annotated[int, Field(ge=1)] = LARGE - MIB  # the topic's limit less the record's own overhead

    compression: Literal["zstd", "gzip", "lz4", "snappy"] | None = "zstd"  # texts shrink to a third for little CPU
    idempotent: bool = True  # where the broker can; one that cannot is noticed, and repeats are left to events' ids
    request_timeout_ms: Annotated[int, Field(ge=1)] = 10_000  # after it a batch is sent again by a fresh connection
    metadata_max_age_ms: Annotated[int, Field(ge=1)] = 3_000  # with Kafka's 300 s a restarted broker stays unseen
    close_timeout_s: Annotated[float, Field(ge=0)] = 5.0  # how long an app's exit may wait for the last events

    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    ssl_ca_file: str | None = None  # None: the system's certificates
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "PLAIN"
    sasl_username: str | None = None
    sasl_password: SecretStr | None = None

    @classmethod
    def load(cls, **settings: Any) -> "ProducerConfig":
        """The given settings, then `DRIFTLINE_<SETTING>` from the environment, then the defaults.

        Raises ConfigError, which names the setting."""
        for name in cls.model_fields:
            value = os.environ.get(ENVIRONMENT_PREFIX + name.upper())
            if value is not None:
                settings.setdefault(name, value)
        try:
            return cls(**settings)
        except ValidationError as error:
            where = error.errors()[0]
            name = ".".join(map(str, where["loc"]))
            hint = f"{name} or {ENVIRONMENT_PREFIX}{name.upper()}"
            raise ConfigError(f"producer setting {hint}: {where['msg']}") from error

"""All settings: one TOML file, then `DRIFTLINE_<SECTION>__<KEY>` environment variables over it.

Unknown keys are refused, by name. Each section's type, with its defaults and their reasons, stands beside the
component it configures.
"""

import os
import re
import tomllib
from pathlib import Path
from typing import Any, Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from driftline.detectors.config import DetectorsConfig
from driftline.schemas.config import Config
from driftline.schemas.errors import ConfigError
from driftline.schemas.text import for_log
from driftline.schemas.topics import Topics
from driftline.sinks.clickhouse.config import ClickHouseConfig
from driftline.sinks.notify.config import NotifyConfig
from driftline.streams.embed.config import EmbedConfig
from driftline.streams.health import HealthConfig
from driftline.streams.judge import JudgeConfig
from driftline.streams.monitor.config import MonitorConfig
from driftline.streams.plain_words import no_json, unknown_variables, wrong_values
from driftline.streams.poison import ArchiveConfig
from driftline.streams.redact import remember
from driftline.streams.runtime.config import KafkaConfig

PREFIX = "DRIFTLINE_"
PASSWORD = re.compile(r"[!-~]{8,200}")


class StackConfig(Config):
    """The local stack of `driftline up` and `driftline demo`."""

    state_dir: Path = Path(".driftline")
    kafka_port: int = Field(9092, ge=0, le=65535)  # Kafka's own; 0: any free port
    clickhouse_port: int = Field(8123, ge=0, le=65535)  # ClickHouse's own HTTP port; 0: any free port
    # Of user default. Without it a random one, kept in STATE_DIR/clickhouse/password.
    clickhouse_password: SecretStr | None = None
    clickhouse_open: bool = False  # no password: whatever runs on this machine reads and writes

    @field_validator("clickhouse_password")
    @classmethod
    def _can_be_sent(cls, password: SecretStr | None) -> SecretStr | None:
        """As a header, in a URL and through an environment; told without the value."""
        if password is not None and not PASSWORD.fullmatch(password.get_secret_value()):
            raise ValueError("expected 8 to 200 printable ASCII characters without spaces")
        return password

    @model_validator(mode="after")
    def _is_open_or_closed(self) -> Self:
        if self.clickhouse_open and self.clickhouse_password is not None:
            raise ValueError("clickhouse_open and clickhouse_password contradict each other: leave one out")
        return self


class TickConfig(Config):
    """The clock of the log: the monitor writes the wall clock into every partition of the events topic."""

    enabled: bool = True  # off where somebody else writes ticks: simulations and replays in event time
    interval_s: float = Field(1.0, gt=0, le=3600)


class Settings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        validate_default=True,
        hide_input_in_errors=True,  # what stands under a mistyped key may be a secret
    )

    kafka: KafkaConfig = KafkaConfig()
    clickhouse: ClickHouseConfig = ClickHouseConfig()
    monitor: MonitorConfig = MonitorConfig()
    detectors: DetectorsConfig = DetectorsConfig()
    embed: EmbedConfig = EmbedConfig()
    judge: JudgeConfig = JudgeConfig()
    archive: ArchiveConfig = ArchiveConfig()
    notify: NotifyConfig = NotifyConfig()
    health: HealthConfig = HealthConfig()
    ticks: TickConfig = TickConfig()
    stack: StackConfig = StackConfig()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return env_settings, init_settings

    @property
    def topics(self) -> Topics:
        return self.kafka.topics


def load_settings(path: Path | None = None) -> Settings:
    """Read the file (if any) and the environment. Raises `ConfigError` with all problems in one line, by key."""
    settings, problems = read_settings(path)
    if settings is None:
        raise ConfigError("; ".join(problems) if path is None else f"{path}: {'; '.join(problems)}")
    return settings


def read_settings(path: Path | None = None) -> tuple[Settings | None, list[str]]:
    """The settings, or what is wrong with them, a line each; no line holds a secret."""
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8-sig"))  # some editors begin with a mark
        except OSError as error:
            return None, [f"cannot be read: {error.strerror}"]
        except UnicodeDecodeError:
            return None, ["not valid TOML: it is not UTF-8 text"]
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            quotes = "; a text is in quotes" if str(error).startswith("Invalid value") else ""
            return None, [f"not valid TOML: {for_log(error)}{quotes}"]
    problems = list(unknown_variables(os.environ, PREFIX, Settings))
    try:
        settings = Settings(**values)
    except ValidationError as error:
        return None, [*problems, *wrong_values(error, Settings, PREFIX, os.environ)]
    except SettingsError:
        return None, [*problems, *no_json(os.environ, PREFIX, Settings)]
    if problems:
        return None, problems
    remember(settings)
    return settings, []

"""All settings: one TOML file, then `DRIFTLINE_<SECTION>__<KEY>` environment variables over it.

Unknown keys are refused, by name. Each section's type, with its defaults and their reasons, stands beside the
component it configures.
"""

import os
import tomllib
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from driftline.detectors.config import DetectorsConfig
from driftline.schemas.config import Config
from driftline.schemas.errors import ConfigError
from driftline.schemas.topics import Topics
from driftline.sinks.clickhouse.config import ClickHouseConfig
from driftline.sinks.notify.config import NotifyConfig
from driftline.streams.embed.config import EmbedConfig
from driftline.streams.health import HealthConfig
from driftline.streams.judge import JudgeConfig
from driftline.streams.monitor.config import MonitorConfig
from driftline.streams.poison import ArchiveConfig
from driftline.streams.redact import remember
from driftline.streams.runtime.config import KafkaConfig

PREFIX = "DRIFTLINE_"


class StackConfig(Config):
    """The local stack of `driftline up` and `driftline demo`."""

    state_dir: Path = Path(".driftline")
    kafka_port: int = Field(9092, ge=0, le=65535)  # Kafka's own; 0: any free port
    clickhouse_port: int = Field(8123, ge=0, le=65535)  # ClickHouse's own HTTP port; 0: any free port


class TickConfig(Config):
    """The clock of the log: the monitor writes the wall clock into every partition of the events topic."""

    enabled: bool = True  # off where somebody else writes ticks: simulations and replays in event time
    interval_s: float = Field(1.0, gt=0)


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
    """Read the file (if any) and the environment. Raises `ConfigError` with one line per problem, naming the key."""
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{path}: not valid TOML: {error}") from error
    _refuse_unknown_environment()
    try:
        settings = Settings(**values)
    except ValidationError as error:
        where = f"{path} or environment" if path else "environment"
        problems = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_input=False)]
        raise ConfigError(f"{where}: " + "; ".join(problems)) from error
    remember(settings)
    return settings


def _refuse_unknown_environment() -> None:
    for name in os.environ:
        if name.upper().startswith(PREFIX) and "__" in name:
            section = name[len(PREFIX) :].split("__")[0].lower()
            if section not in Settings.model_fields:
                known = ", ".join(Settings.model_fields)
                raise ConfigError(f"environment variable {name}: no section {section!r}; there are {known}")

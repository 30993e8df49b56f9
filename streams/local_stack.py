"""What `driftline up` and `driftline demo` run: embedded Kafka, embedded ClickHouse, and the roles, on this machine."""

import asyncio
import logging
import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pydantic import SecretStr

from driftline.schemas.clock import SystemClock
from driftline.schemas.topics import Topics
from driftline.sinks.clickhouse.config import ClickHouseConfig
from driftline.sinks.clickhouse.embedded import EmbeddedServer
from driftline.sinks.clickhouse.migrate import migrate
from driftline.streams.embedded_kafka import EmbeddedKafka
from driftline.streams.operate import orphans
from driftline.streams.redact import remember
from driftline.streams.running import KEY, RunningStack, announce, control_key, publish, withdraw
from driftline.streams.runtime.admin import apply_topics
from driftline.streams.runtime.config import IDLE_FETCH_MS, KafkaConfig
from driftline.streams.settings import PREFIX, Settings, StackConfig
from driftline.streams.supervisor import OnProgress, RoleSpec, ServiceSpec, Stack

logger = logging.getLogger(__name__)

PARTITIONS = 1  # unless the settings say otherwise: each costs ticks and state, and there is one worker of each role


class LocalStack:
    """A `stack` to run, and where its Kafka and ClickHouse are; the latter once it has started."""

    def __init__(
        self,
        settings: Settings,
        roles: Sequence[str],
        *,
        brokers: str | None = None,
        config_file: Path | None = None,
        env: Mapping[str, str] | None = None,
        fetch_max_wait_ms: int = IDLE_FETCH_MS,
        on_progress: OnProgress | None = None,
        before_start: Callable[[], None] | None = None,
    ) -> None:
        """`brokers`: a Kafka that runs already, in place of the embedded one. `env`: settings of the roles over those
        of the file, as DRIFTLINE_<SECTION>__<KEY>. `before_start` is called when the folder is this stack's alone."""
        folder = settings.stack.state_dir
        self._settings = settings
        self._config_file = config_file
        self._env = dict(env or {})
        self._broker = None if brokers else EmbeddedKafka(settings.stack.kafka_port or _free_port())
        self._server = EmbeddedServer(
            folder / "clickhouse", settings.stack.clickhouse_port, password=_password(settings.stack)
        )
        chosen = settings.kafka.model_fields_set & {"partitions", "homes"}
        partitions = settings.kafka.partitions if chosen else PARTITIONS
        self._own_key = self._broker is not None and settings.kafka.has_no_key
        self.kafka: KafkaConfig = (
            settings.kafka.for_embedded(fetch_max_wait_ms).model_copy(
                update={
                    "brokers": self._broker.brokers,
                    "partitions": partitions,
                    **({"control_key_file": (folder / KEY).absolute()} if self._own_key else {}),
                }
            )
            if self._broker
            else settings.kafka.model_copy(update={"brokers": brokers})
        )
        self.stack = Stack(
            folder,
            [
                *([ServiceSpec("embedded Kafka", self._broker, durable=False)] if self._broker else []),
                ServiceSpec("embedded ClickHouse", self._server, durable=True),
            ],
            self._prepare,
            lambda: [self._role(name, number) for number, name in enumerate(roles)],
            on_progress=on_progress,
            on_locked=before_start,
            on_ready=self._tell_where,
            on_back=self._publish_again,
            on_stop=lambda: withdraw(folder),
        )

    @property
    def topics(self) -> Topics:
        return self.kafka.topics

    @property
    def clickhouse_url(self) -> str:
        """For people: without the password."""
        return self._server.url

    @property
    def password_file(self) -> Path | None:
        """Where ClickHouse's password stands; None where it is of the settings, or there is none."""
        return self._server.password_file

    @property
    def clickhouse(self) -> ClickHouseConfig:
        return self._settings.clickhouse.model_copy(update={"dsn": SecretStr(self._server.dsn)})

    @property
    def service_pids(self) -> tuple[int | None, int | None]:
        """Of Kafka and of ClickHouse; None of one that does not run."""
        return self._broker.pid if self._broker else None, self._server.pid

    async def _prepare(self) -> None:
        remember(self.clickhouse)
        if self._own_key:
            control_key(self._settings.stack.state_dir)
        await apply_topics(self.kafka, self.topics)
        await asyncio.to_thread(migrate, self.clickhouse)
        if self._broker:  # whose log, and all that the roles knew of it, went with the last one
            reason = "the stack was started anew with an empty log, so nobody knows whether it is over"
            await orphans.resolve(self.kafka, self.clickhouse, SystemClock().now(), reason)

    def _publish(self) -> None:
        services = dict(zip(("kafka", "clickhouse"), self.service_pids, strict=True))
        pids = {"up": os.getpid(), **services, **self.stack.roles}
        publish(
            self._settings.stack.state_dir,
            RunningStack(
                brokers=self.kafka.brokers,
                partitions=self.kafka.partitions,
                homes=self.kafka.home_partitions,
                control_key_file=self.kafka.control_key_file,
                embedded=self._broker is not None,
                clickhouse=self._server.dsn,
                health=self.addresses,
                pids={name: pid for name, pid in pids.items() if pid is not None},
            ),
        )

    def _publish_again(self) -> None:
        try:
            self._publish()
        except OSError as error:  # a full disk, which is told elsewhere
            logger.warning("Commands find roles where they were before: %s", error.strerror)

    def _tell_where(self) -> None:
        self._publish()
        if "state_dir" not in self._settings.stack.model_fields_set:
            announce(self._settings.stack.state_dir)

    @property
    def addresses(self) -> dict[str, str]:
        """The base URL of each role's /healthz, /readyz and /metrics, by role; empty before the start."""
        return self.stack.addresses

    def _role(self, name: str, number: int) -> RoleSpec:
        port = self._settings.health.port
        config = () if self._config_file is None else ("--config", str(self._config_file))
        return RoleSpec(
            name,
            (sys.executable, "-m", "driftline.streams.cli", *config, "worker", "--role", name),
            {
                **_environment(self.kafka),
                f"{PREFIX}CLICKHOUSE__DSN": self._server.dsn,
                f"{PREFIX}HEALTH__PORT": str(port + number if port else 0),
                **self._env,
            },
        )


def _password(stack: StackConfig) -> str | None:
    """As the embedded server takes it."""
    if stack.clickhouse_open:
        return ""
    return None if stack.clickhouse_password is None else stack.clickhouse_password.get_secret_value()


def _environment(kafka: KafkaConfig) -> dict[str, str]:
    """The whole section, but for secrets: those the roles find where we found them."""
    secrets = {"sasl_password", "ssl_keypassword", "control_key"}
    values = kafka.model_dump(mode="json", exclude_none=True, exclude=secrets)
    return {f"{PREFIX}KAFKA__{key.upper()}": str(value) for key, value in values.items()}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port

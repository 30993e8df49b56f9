"""How to reach Kafka, and how often to write state."""

from pathlib import Path
from typing import Any, Literal, Self

from aiokafka.errors import KafkaConnectionError
from aiokafka.helpers import create_ssl_context
from pydantic import Field, SecretStr, field_validator, model_validator

from driftline.schemas.batches import READING
from driftline.schemas.config import Config
from driftline.schemas.errors import ConfigError
from driftline.schemas.topics import LARGE, Topics

SHORTEST_KEY = 16  # characters of a control key: nobody guesses 64 random bits


IDLE_FETCH_MS = (
    500  # for a stack that mostly waits: a record takes a tenth of a second more, and idling next to nothing
)


class KafkaConfig(Config):
    """One Kafka cluster as every role, the SDK's producer and the administration see it. The `*_options` methods
    return keyword arguments for aiokafka's classes."""

    brokers: str = "127.0.0.1:9092"  # host:port, comma-separated; the embedded broker's own default
    prefix: str = Field(
        default="driftline", pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}$"
    )  # of all topics and consumer groups
    partitions: int = Field(default=4, ge=1, le=10_000)  # of every topic: the most workers a role can use
    # Apps are at home in the first so many partitions; unset: in all. It stays as it was when partitions are added.
    homes: int | None = Field(default=None, ge=1)
    # Signs what Driftline itself writes into the events topic: the same for all roles and commands. At most one of the
    # two; without, it is derived from the prefix, which keeps accidents out, not attackers.
    control_key: SecretStr | None = None
    control_key_file: Path | None = None
    replication: int = Field(default=1, ge=1, le=100)  # of new topics: 3 in production, 1 works on a single broker
    idempotent: bool = True  # exactly one copy per send on retries; the embedded broker has no idempotent producer

    session_timeout_s: float = Field(
        default=10.0, ge=1, le=1800
    )  # a dead worker's partitions are taken over after this long
    heartbeat_interval_s: float = Field(default=3.0, gt=0)  # a third of the session, as Kafka advises
    # A fetch without data waits this long; and as long as this until a partition left out of a fetch is in one again.
    fetch_max_wait_ms: int = Field(default=100, ge=1, le=60_000)
    request_timeout_s: float = Field(
        default=30.0, gt=0, le=3600
    )  # a write without an ack after this long ends the process
    compression: Literal["none", "gzip", "lz4", "snappy", "zstd"] = (
        "zstd"  # a third of the CPU of aiokafka's lz4, and smaller
    )

    checkpoint_s: float = Field(default=2.0, gt=0, le=3600)  # a crash repeats at most about this much work
    checkpoint_records: int = Field(default=50_000, ge=1)  # bounds the repeated work under load

    # Records of a partition that a role may put aside within an hour, because each ends it; there is an alert for each.
    # Wild input has a few; more means that Driftline itself is at fault, and then standing still loses nothing.
    quarantine_limit: int = Field(default=100, ge=0)

    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = (
        "SCRAM-SHA-512"  # the strongest with a password
    )
    sasl_username: str | None = None
    sasl_password: SecretStr | None = None
    ssl_cafile: Path | None = None  # None: the system's certificate authorities
    ssl_certfile: Path | None = None  # a client certificate, for mutual TLS
    ssl_keyfile: Path | None = None
    ssl_keypassword: SecretStr | None = None

    @field_validator("brokers")
    @classmethod
    def _are_addresses(cls, brokers: str) -> str:
        for address in brokers.split(","):
            host, _, port = address.strip().rpartition(":")
            if "://" in address or not host or not port.isdecimal() or not 0 < int(port) <= 65535:
                raise ValueError(f"expected host:port, with commas between several, got {address.strip()!r}")
        return brokers

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.heartbeat_interval_s * 2 > self.session_timeout_s:
            raise ValueError("heartbeat_interval_s must be at most half of session_timeout_s")
        if self.home_partitions > self.partitions:
            raise ValueError(f"homes is {self.homes}, and there are {self.partitions} partitions: it is at most that")
        if self.control_key is not None and self.control_key_file is not None:
            raise ValueError("control_key and control_key_file are both set: leave one out")
        if self.control_key is not None and len(self.control_key.get_secret_value()) < SHORTEST_KEY:
            raise ValueError(f"control_key is shorter than {SHORTEST_KEY} characters: `openssl rand -hex 32` makes one")
        if self.security_protocol.startswith("SASL") and not (self.sasl_username and self.sasl_password):
            raise ValueError(f"security_protocol {self.security_protocol} needs sasl_username and sasl_password")
        return self

    @property
    def topics(self) -> Topics:
        """:raises ConfigError: the key of control records cannot be read."""
        return Topics(self.prefix, self.control_secret(), self.home_partitions)

    @property
    def home_partitions(self) -> int:
        """Apps are at home in the first so many partitions of the events topic."""
        return self.homes or self.partitions

    @property
    def has_no_key(self) -> bool:
        """Control records are signed with a key that everybody can derive."""
        return self.control_key is None and self.control_key_file is None

    def control_secret(self) -> bytes | None:
        """What signs control records; None: derived from the prefix.

        :raises ConfigError: the file cannot be read, or is no key.
        """
        if self.control_key is not None:
            return self.control_key.get_secret_value().encode()
        if self.control_key_file is None:
            return None
        try:
            key = self.control_key_file.read_bytes().strip()
        except OSError as error:
            raise ConfigError(f"kafka.control_key_file {self.control_key_file}: {error.strerror}") from error
        if len(key) < SHORTEST_KEY:
            raise ConfigError(f"kafka.control_key_file {self.control_key_file}: shorter than {SHORTEST_KEY} bytes")
        return key

    def for_embedded(self, fetch_max_wait_ms: int = 20) -> Self:
        """The same for the embedded broker: it has no idempotent producer, its group joins take half the session
        timeout, or twice that on a restart, and it looks for new records only once in half the fetch wait: at 20 ms a
        record arrives after 4 ms, and an idle consumer costs 4 % of a core; see `IDLE_FETCH_MS`."""
        return self.model_copy(
            update={
                "idempotent": False,
                "replication": 1,
                "session_timeout_s": 2.0,
                "heartbeat_interval_s": 0.6,
                "fetch_max_wait_ms": fetch_max_wait_ms,
            }
        )

    def no_answer(self, error: BaseException) -> str:
        """What to say where no broker can be talked to, which has many causes and, from aiokafka, one error."""
        cause = "" if isinstance(error, KafkaConnectionError) else f" ({type(error).__name__}: {error})"
        login = ", with this user and password" if self.security_protocol.startswith("SASL") else ""
        return (
            f"Kafka at {self.brokers} does not answer{cause}: see that it runs, that kafka.brokers says where, and "
            f"that it takes {self.security_protocol} there{login} (kafka.security_protocol)"
        )

    def client_options(self) -> dict[str, Any]:
        """For every aiokafka client: producers, the admin client, and (in `reader_options`) consumers."""
        return {
            "bootstrap_servers": self.brokers,
            "request_timeout_ms": round(self.request_timeout_s * 1000),
            # At aiokafka's default of 300 s a consumer can idle for minutes after a broker restart: while the broker
            # loads, the group leader sees no partitions and hands out nothing until it looks again.
            "metadata_max_age_ms": 3000,
            **self._security_options(),
        }

    def _security_options(self) -> dict[str, Any]:
        options: dict[str, Any] = {"security_protocol": self.security_protocol}
        if self.security_protocol.startswith("SASL"):
            assert self.sasl_password is not None
            options["sasl_mechanism"] = self.sasl_mechanism
            options["sasl_plain_username"] = self.sasl_username
            options["sasl_plain_password"] = self.sasl_password.get_secret_value()
        if self.security_protocol.endswith("SSL"):
            options["ssl_context"] = self._ssl_context()
        return options

    def _ssl_context(self) -> Any:
        """:raises ConfigError: a file cannot be read, or holds no certificate or key."""
        files = {name: getattr(self, name) for name in ("ssl_cafile", "ssl_certfile", "ssl_keyfile")}
        for name, path in files.items():
            try:
                if path is not None:
                    path.open("rb").close()
            except OSError as error:
                raise ConfigError(f"kafka.{name} {path}: {error.strerror}") from error
        password = self.ssl_keypassword
        try:
            return create_ssl_context(
                **{name.removeprefix("ssl_"): None if path is None else str(path) for name, path in files.items()},
                password=None if password is None else password.get_secret_value(),
            )
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            named = ", ".join(f"kafka.{name}" for name, path in files.items() if path is not None)
            raise ConfigError(f"{named}: no valid certificates or key in PEM: {error}") from error

    def reader_options(self, fetch_max_wait_ms: int | None = None, *, committed: bool = True) -> dict[str, Any]:
        """For every consumer, `client_options` among them. Batches are bounded, what a producer's transaction took back
        never happened, nothing is committed before the work is done, and what is gone is an error instead of a jump.
        `committed` False: for who reads no record and asks where a log ends, open transactions included."""
        return {
            **self.client_options(),
            **READING,
            **({} if committed else {"isolation_level": "read_uncommitted"}),
            "auto_offset_reset": "none",
            "fetch_max_wait_ms": fetch_max_wait_ms or self.fetch_max_wait_ms,
        }

    def group_options(self) -> dict[str, Any]:
        """For consumers that are members of a group, beside `reader_options`."""
        return {
            "session_timeout_ms": round(self.session_timeout_s * 1000),
            "heartbeat_interval_ms": round(self.heartbeat_interval_s * 1000),
        }

    def producer_options(self, linger_ms: int = 5) -> dict[str, Any]:
        """For producers: every send is acknowledged by all in-sync replicas. `linger_ms` trades latency for larger
        batches; 0 where the caller batches by itself."""
        return {
            "acks": "all",
            "enable_idempotence": self.idempotent,
            "linger_ms": linger_ms,
            "compression_type": None if self.compression == "none" else self.compression,
            "max_batch_size": 256
            * 1024,  # an array of 100 events is about 100 kB; aiokafka's 16 kB would send each alone
            "max_request_size": LARGE,
        }

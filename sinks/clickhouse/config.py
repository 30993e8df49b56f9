"""Where ClickHouse is, how batches close, and how long rows are kept."""

from typing import Annotated, Literal, TypeAlias
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator

from driftline.schemas.config import Config

Days: TypeAlias = Annotated[
    int,
    Field(ge=1, le=18_250, description="50 years: ClickHouse's times end in 2106, and rows that end later end at once"),
]


class RetentionConfig(Config):
    """Days from a row's arrival; a replay of old events keeps them as long as new ones."""

    events_days: Days = 90  # traces and scores: the bulk, and they hold what users wrote
    results_days: Days = 400  # windows and evidence: a year on year comparison
    decisions_days: Days = 1100  # of releases, alerts, rollbacks, breakers, baselines: audits ask
    dead_letters_days: Days = 30  # long enough to repair and send again


class ClickHouseConfig(Config):
    """`dsn` is ClickHouse's HTTP interface: http[s]://[user[:password]@]host[:port]."""

    dsn: SecretStr = SecretStr("http://127.0.0.1:8123")  # the embedded server's own default
    database: str = Field(default="driftline", pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")
    batch_rows: int = Field(default=100_000, ge=1)  # ClickHouse likes inserts of 10,000 to 100,000 rows
    batch_bytes: int = Field(default=128 * 2**20, ge=1, le=2**40)  # of records: bounds memory when texts are long
    batch_age_s: float = Field(1.0, gt=0)  # the longest that a row waits; ClickHouse advises one insert a second
    connect_timeout_s: float = Field(default=5.0, gt=0)
    timeout_s: float = Field(default=60.0, gt=0)  # of one insert or query; after it the insert is tried again
    retry_max_s: float = Field(default=15.0, gt=0)  # the longest pause between tries: recovery is noticed this soon
    compression: Literal["none", "lz4", "zstd"] = "none"  # of inserts; lz4 pays over a network
    retention: RetentionConfig = RetentionConfig()

    @field_validator("dsn")
    @classmethod
    def _is_an_address(cls, dsn: SecretStr) -> SecretStr:
        """Told without the value, which may hold a password."""
        expected = "expected http[s]://[user[:password]@]host[:port]"
        try:
            url = urlsplit(dsn.get_secret_value())
            complete = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
        except ValueError:
            complete = False
            url = None
        rest = dsn.get_secret_value().partition("://")[2]
        if "@" in rest and (url is None or "@" not in url.netloc):
            raise ValueError(f"{expected}; in a user or password write / as %2F, # as %23, ? as %3F and @ as %40")
        if not complete:
            raise ValueError(expected)
        return dsn

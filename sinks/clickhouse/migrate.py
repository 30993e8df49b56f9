"""Bring ClickHouse's tables up to date: numbered SQL files, each applied once, in order, and never changed afterwards.

Safe to run at every start and from several processes at once: every statement can be repeated, and with nothing to do
it only reads.
"""

import logging
import re
from collections.abc import Mapping
from hashlib import sha256
from importlib import resources
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

from clickhouse_connect.driver.binding import format_str
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError

from driftline.schemas.errors import ConfigError
from driftline.sinks.clickhouse import tables
from driftline.sinks.clickhouse.client import session
from driftline.sinks.clickhouse.config import ClickHouseConfig, RetentionConfig
from driftline.sinks.clickhouse.errors import classify, is_missing

logger = logging.getLogger(__name__)

_FILE = re.compile(r"(\d{4})_\w+\.sql")
_JOURNAL = """
CREATE TABLE IF NOT EXISTS schema_migrations
(
    `number` UInt32,
    `name` String COMMENT 'The file',
    `checksum` String COMMENT 'SHA-256 of the file when it was applied',
    `applied_at` DateTime64(3, 'UTC') DEFAULT now64(3)
)
ENGINE = ReplacingMergeTree
ORDER BY number
COMMENT 'Which migrations this database has'
"""


class Migration(NamedTuple):
    number: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        return sha256(self.sql.encode()).hexdigest()

    @property
    def statements(self) -> list[str]:
        """Statements end with a semicolon at the end of a line."""
        return [part for part in re.split(r";[ \t]*(?:\n|$)", self.sql) if part.strip()]


def shipped() -> list[Migration]:
    files = (f for f in resources.files("driftline.sinks.clickhouse").joinpath("migrations").iterdir() if f.is_file())
    found = [(match, f.read_text()) for f in files if (match := _FILE.fullmatch(f.name))]
    return sorted(Migration(int(match[1]), match[0], sql) for match, sql in found)


def migrate(config: ClickHouseConfig) -> list[str]:
    """Returns the names of the migrations it applied.

    :raises ConfigError: the database's applied migrations are not ours, or its tables not what these made.
    :raises RetryableError: ClickHouse does not answer, or refuses; in its own words.
    """
    applied = apply(config)
    if differing := check(config).differences:
        raise ConfigError(
            f"ClickHouse's tables in {config.database} are not what the migrations made: {tables.tell(differing)}"
        )
    with session(config) as client:
        if applied:
            _describe_views(client)
        _apply_retention(client, config.retention)
    return applied


def apply(config: ClickHouseConfig) -> list[str]:
    """Migrations that the database does not have yet, and nothing else; returns their names. Raises as `migrate`."""
    with session(config, "default") as client:
        if client.command("EXISTS DATABASE " + config.database) != 1:
            client.command(f"CREATE DATABASE IF NOT EXISTS {config.database}")
    with session(config) as client:
        if client.command("EXISTS TABLE schema_migrations") != 1:
            client.command(_JOURNAL)
        todo = pending(shipped(), _journal(client))
        for migration in todo:
            _apply(client, migration, config.database)
    return [migration.name for migration in todo]


class Check(NamedTuple):
    pending: list[str]  # migrations
    differences: list[tables.Difference]


def check(config: ClickHouseConfig) -> Check:
    """Whether the database is what the migrations make. Changes nothing.

    :raises ConfigError: the database's applied migrations are not ours.
    :raises RetryableError: ClickHouse does not answer, or has no such database.
    """
    with session(config) as client:
        found = tables.read_tables(client)
        journal = _journal(client) if "schema_migrations" in found else {}
        todo = [migration.name for migration in pending(shipped(), journal)]
        return Check(todo, tables.differences(found, ahead=is_ahead(journal)))


def repair(config: ClickHouseConfig) -> list[str]:
    """Put back tables, columns and views that are missing, empty, and views that differ. Returns its statements.

    :raises RetryableError: ClickHouse does not answer, or refuses; in its own words.
    """
    with session(config) as client:
        statements = list(tables.repairs(tables.read_tables(client)))
        for statement in statements:
            client.command(statement)
        if statements:
            _describe_views(client)
    return statements


def is_ahead(journal: Mapping[int, object]) -> bool:
    """Whether a newer version has migrated the database."""
    return max(journal, default=0) > max(migration.number for migration in shipped())


def _apply(client: Client, migration: Migration, database: str) -> None:
    try:
        for statement in migration.statements:
            client.command(statement)
    except ClickHouseError as error:
        if not is_missing(error):
            raise
        raise ConfigError(
            f"Migration {migration.name} cannot be applied to {database}, which is not what the ones before it made: "
            f"{classify(error)}. `{tables.REPAIR}` puts back what is missing"
        ) from error
    client.insert(
        "schema_migrations",
        [[migration.number, migration.name, migration.checksum]],
        column_names=["number", "name", "checksum"],
    )
    logger.info("Applied migration %s to %s.", migration.name, database)


def pending(migrations: list[Migration], applied: dict[int, tuple[str, str]]) -> list[Migration]:
    """Those not applied yet. `applied`: number -> (name, checksum). A database ahead of this code is fine: during a
    rolling upgrade old processes run beside new ones, and migrations only add."""
    for migration in migrations:
        name, checksum = applied.get(migration.number, (migration.name, migration.checksum))
        if checksum != migration.checksum:
            raise ConfigError(
                f"Migration {name} was applied to this database with other contents than {migration.name} has here: "
                "an applied migration never changes; restore the file and put the change into a new one"
            )
    ahead = [name for number, (name, _) in sorted(applied.items()) if number not in {m.number for m in migrations}]
    if ahead:
        logger.warning("The database is ahead of this version of Driftline by %s.", ", ".join(ahead))
    return [migration for migration in migrations if migration.number not in applied]


def _journal(client: Client) -> dict[int, tuple[str, str]]:
    rows = client.query("SELECT number, name, checksum FROM schema_migrations FINAL").result_rows
    return {number: (name, checksum) for number, name, checksum in rows}


def _describe_views(client: Client) -> None:
    """A view does not inherit what its table says of the columns."""
    columns = client.query(
        "SELECT table, name, comment FROM system.columns "
        "WHERE database = currentDatabase() AND endsWith(table, '_raw') ORDER BY table"
    ).result_rows
    for table, rows in groupby(columns, key=itemgetter(0)):
        comments = ", ".join(f"COMMENT COLUMN `{name}` {format_str(comment)}" for _, name, comment in rows)
        client.command(f"ALTER TABLE {table.removesuffix('_raw')} {comments}")


def _apply_retention(client: Client, retention: RetentionConfig) -> None:
    days = {
        **dict.fromkeys(("traces", "scores"), retention.events_days),
        **dict.fromkeys(("windows", "left_out", "evidence"), retention.results_days),
        **dict.fromkeys(("releases", "alerts", "rollbacks", "breakers", "baselines"), retention.decisions_days),
        "dead_letters": retention.dead_letters_days,
    }
    rows = client.query("SELECT name, engine_full FROM system.tables WHERE database = currentDatabase()").result_rows
    engines = {str(name): str(engine) for name, engine in rows}
    for table, n in days.items():
        # As ClickHouse writes it back, so that what is in place already is recognised.
        ttl = f"TTL toDateTime(ingested_at) + toIntervalDay({n})"
        if f"{ttl} " not in engines[f"{table}_raw"] + " ":
            # Old parts take the new time as they merge: rewriting them at once would stall a large installation.
            client.command(f"ALTER TABLE {table}_raw MODIFY {ttl} SETTINGS materialize_ttl_after_modify = 0")
            logger.debug("Rows of %s are kept for %d days.", table, n)

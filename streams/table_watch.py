"""Whether ClickHouse's tables still are what the migrations made, looked at while the archive runs: what somebody
alters may take every insert and change what comes back."""

import asyncio
import logging

from driftline.schemas.errors import ConfigError, RetryableError
from driftline.schemas.text import for_log
from driftline.schemas.threads import abandonable
from driftline.sinks.clickhouse.config import ClickHouseConfig
from driftline.sinks.clickhouse.migrate import check
from driftline.sinks.clickhouse.tables import tell
from driftline.streams.health import Health

logger = logging.getLogger(__name__)

LOOK_S = 30.0
LINE = 2_000  # characters: a few differences, each with its way back
TABLES = "tables"  # of Health


async def watch_tables(config: ClickHouseConfig, health: Health) -> None:
    """Until cancelled."""
    told = ""
    while True:
        await asyncio.sleep(LOOK_S)
        try:
            altered = tell((await abandonable(check, config)).differences)
        except ConfigError as error:
            altered = str(error)
        except RetryableError:
            continue  # inserts tell of a ClickHouse that is away
        if not altered:
            health.right(TABLES)
            told = ""
            continue
        what = f"ClickHouse's tables in {config.database} are not what the migrations made: {altered}"
        health.wrong(
            TABLES,
            what,
            "undo the change as it says: until then rows are missing or read otherwise, and no archive starts",
        )
        if what != told:
            logger.error("%s.", for_log(what, LINE))
            told = what

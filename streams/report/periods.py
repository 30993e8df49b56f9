"""Which traffic a report compares with."""

from driftline.schemas.errors import PermanentError
from driftline.sinks.clickhouse.baselines import stored_baselines
from driftline.sinks.clickhouse.client import session
from driftline.sinks.clickhouse.config import ClickHouseConfig
from driftline.sinks.clickhouse.requests import sampled_requests
from driftline.streams.baselines.fit import in_force
from driftline.streams.report.build import Row, wide


def baseline_period(config: ClickHouseConfig, app: str) -> tuple[int, int]:
    """[from, to) of the baseline in force that was made of most units.

    :raises PermanentError: the app has none.
    :raises RetryableError: ClickHouse does not answer.
    """
    with session(config) as client:
        active = [b for b in in_force(stored_baselines(client, app)) if b.state == "active"]
    if not active:
        raise PermanentError(f"{app} has no baseline yet: give the period with --baseline-from and --baseline-to")
    largest = max(active, key=lambda b: (b.n, b.at))
    return largest.from_ts, largest.to_ts


def requests_of(config: ClickHouseConfig, app: str, since: int, until: int, limit: int) -> list[Row]:
    """:raises RetryableError: ClickHouse does not answer."""
    with session(config) as client:
        return [wide(row) for row in sampled_requests(client, app, since, until, limit)]

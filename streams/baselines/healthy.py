"""The last time at which nothing was wrong with an app."""

from collections.abc import Sequence
from typing import NamedTuple

from driftline.schemas.errors import PermanentError
from driftline.sinks.clickhouse.client import session
from driftline.sinks.clickhouse.config import ClickHouseConfig
from driftline.sinks.notify.text import lasting
from driftline.streams.operate.times import show_time


class Span(NamedTuple):
    """[since, until) in event time, microseconds."""

    since: int
    until: int


def last_healthy(config: ClickHouseConfig, app: str, length: int) -> Span:
    """The newest period of that length (microseconds) in which no alert of the app was open.

    :raises PermanentError: there is none.
    :raises RetryableError: ClickHouse does not answer.
    """
    with session(config) as client:
        found = client.query(
            "SELECT count(), toUnixTimestamp64Micro(min(ts)), toUnixTimestamp64Micro(max(ts)) + 1 FROM traces_raw "
            "WHERE app = {app:String}",
            parameters={"app": app},
        ).result_rows[0]
        incidents = client.query(
            "SELECT toUnixTimestamp64Micro(min(since)) AS began, toUnixTimestamp64Micro(max(resolved_at)) AS ended "
            "FROM alerts WHERE app = {app:String} AND severity != 'info' GROUP BY id",
            parameters={"app": app},
        ).result_rows
    if not found[0]:
        raise PermanentError(f"there are no traces of {app}: is that the name of an app?")
    data = Span(found[1], found[2])
    return newest_free(
        data, length, [Span(began, data.until if ended is None else ended) for began, ended in incidents]
    )


def newest_free(data: Span, length: int, incidents: Sequence[Span]) -> Span:
    """The newest span of that length within the data that no incident touches.

    :raises PermanentError: there is none.
    """
    end = data.until
    for incident in sorted(incidents, key=lambda span: span.until, reverse=True):
        if incident.until <= end - length:
            break
        end = min(end, incident.since)
    if end - length < data.since:
        raise PermanentError(
            f"there is no period of {lasting(length)} without an open alert since {show_time(data.since)[:19]}, when "
            "traffic began: take a shorter one, or choose it by --from and --to; `driftline alerts ls` shows alerts"
        )
    return Span(end - length, end)

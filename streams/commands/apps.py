"""`driftline apps`: which apps send, how much, and which are in trouble."""

from typing import Any

import click
from rich.console import RenderableType
from rich.text import Text

from driftline.schemas.clock import SystemClock
from driftline.streams.commands.common import answer, ask, demo_flag, json_flag
from driftline.streams.commands.query import reach
from driftline.streams.listing import Column, Listing
from driftline.streams.operate.commands import check_order, settings_of, since_option, until_option

COLUMNS = (
    *(Column("app"), Column("requests", numeric=True), Column("errors", numeric=True), Column("USD", numeric=True)),
    *(Column("releases", least=6), Column("models", least=8), Column("last (UTC)", least=8), Column("alerts", least=6)),
)
LISTED = 20  # releases and models of an app: the most frequent

SQL = """
SELECT
    app,
    count() AS requests,
    countIf(status = 'error') AS errors,
    sum(cost_usd) AS cost_usd,
    topK({listed:UInt8})(release) AS releases,
    topK({listed:UInt8})(if(response_model = '', request_model, response_model)) AS models,
    toString(max(ts)) AS last
FROM traces
WHERE ts >= fromUnixTimestamp64Micro({since:Int64}) AND ts < fromUnixTimestamp64Micro({until:Int64})
GROUP BY app
ORDER BY requests DESC, app
LIMIT {limit:UInt32}
"""
OPEN = "SELECT app, uniqExact(id) AS open FROM alerts GROUP BY app, id HAVING argMax(state, ts) = 'firing'"


@click.command("apps")
@since_option
@until_option
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="At most so many, the busiest.")  # fmt: skip  # noqa: E501
@demo_flag
@json_flag
@click.pass_context
def apps_command(
    ctx: click.Context, since: int | None, until: int | None, limit: int, of_demo: bool, as_json: bool
) -> None:
    """List the apps that sent requests (in all that is stored, unless --from says since when)."""
    check_order(since, until)
    settings = settings_of(ctx)
    span = {"since": since or 0, "until": SystemClock().now() if until is None else until}
    with reach(settings, of_demo) as clickhouse:
        apps = ask(clickhouse, SQL, {**span, "limit": limit, "listed": LISTED})
        firing = ask(clickhouse, OPEN, {})
    counts: dict[str, int] = {}
    for row in firing:
        counts[row["app"]] = counts.get(row["app"], 0) + row["open"]
    found = [{**app, "open_alerts": counts.get(app["app"], 0)} for app in apps]
    answer(found, _shown(found), as_json)


def _shown(apps: list[dict[str, Any]]) -> RenderableType:
    rows = [
        (
            app["app"],
            f"{app['requests']:,}",
            f"{app['errors'] / app['requests']:.2%}",
            None if app["cost_usd"] is None else f"{app['cost_usd']:,.4f}",
            ", ".join(filter(None, app["releases"])),
            ", ".join(filter(None, app["models"])),
            app["last"][:19],
            Text(str(app["open_alerts"]), "bold red") if app["open_alerts"] else None,
        )
        for app in apps
    ]
    return Listing(COLUMNS, rows) if apps else Text("No app has sent a request: README shows how to emit events.")

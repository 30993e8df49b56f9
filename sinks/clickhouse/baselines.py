"""The baselines that ClickHouse keeps."""

import msgspec

from driftline.schemas.baselines import Baseline
from driftline.schemas.events import EARLIEST_TS, LATEST_TS
from driftline.sinks.clickhouse.client import Client

_TIMES = ("at", "from_ts", "to_ts", "fitted_at")
_COLUMNS = ", ".join(
    f"toUnixTimestamp64Micro(stored.{name}) AS {name}" if name in _TIMES else f"stored.{name} AS {name}"
    for name in Baseline.__struct_fields__
)
_decoder = msgspec.json.Decoder(Baseline)


def stored_baselines(
    client: Client, app: str | None = None, id_: str = "", since: int = EARLIEST_TS, until: int = LATEST_TS
) -> list[Baseline]:
    """Of one app or of all, in order of time: those whose id begins with `id_`, and that came into force, or were
    refused, in [since, until), microseconds."""
    lines = client.raw_query(
        f"SELECT 'baseline' AS type, {_COLUMNS} FROM baselines AS stored "
        "WHERE ({app:String} = '' OR stored.app = {app:String}) AND startsWith(stored.id, {id:String}) "
        f"AND stored.at >= fromUnixTimestamp64Micro({since}) AND stored.at < fromUnixTimestamp64Micro({until}) "
        "ORDER BY stored.at, stored.detector, stored.component, stored.id",
        parameters={"app": app or "", "id": id_},
        fmt="JSONEachRow",
        settings={"output_format_json_quote_64bit_integers": 0},
    ).splitlines()
    return [_decoder.decode(line) for line in lines]

"""Requests of an app as a wide table: one row each, its scores beside it."""

from collections.abc import Iterator
from typing import Any

import msgspec

from driftline.sinks.clickhouse.client import Client

_COLUMNS = """
    latency_ms, ttft_ms, input_tokens, output_tokens, reasoning_output_tokens, cost_usd,
    if(empty(input_text), NULL, lengthUTF8(input_text)) AS prompt_chars,
    if(empty(output_text), NULL, lengthUTF8(output_text)) AS answer_chars,
    arrayStringConcat(finish_reasons, ', ') AS finish_reason,
    if(status = 'ok', 'ok', if(empty(error_type), 'error', error_type)) AS outcome,
    if(empty(response_model), request_model, response_model) AS model,
    provider, release, prompt_version
"""


def sampled_requests(client: Client, app: str, since: int, until: int, limit: int) -> Iterator[dict[str, Any]]:
    """At most `limit` of those in [since, until) (microseconds), the same at every call. `scores`: means by name."""
    within = (
        f"app = {{app:String}} AND ts >= fromUnixTimestamp64Micro({since}) AND ts < fromUnixTimestamp64Micro({until})"
    )
    lines = client.raw_query(
        f"WITH sample AS (SELECT trace_id, span_id, {_COLUMNS} FROM traces WHERE {within} "
        f"ORDER BY cityHash64(trace_id, span_id) LIMIT {limit}) "
        "SELECT sample.* EXCEPT (trace_id, span_id), scored.scores AS scores FROM sample LEFT JOIN ("
        "SELECT trace_id, span_id, mapFromArrays(groupArray(name), groupArray(mean)) AS scores FROM ("
        f"SELECT trace_id, span_id, name, avg(value) AS mean FROM scores WHERE {within} "
        "GROUP BY trace_id, span_id, name) GROUP BY trace_id, span_id) AS scored USING (trace_id, span_id)",
        parameters={"app": app},
        fmt="JSONEachRow",
        settings={"output_format_json_quote_64bit_integers": 0},
    ).splitlines()
    return map(msgspec.json.decode, lines)

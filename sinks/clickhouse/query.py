"""One query, for people and for scripts: `driftline query "SELECT …"`."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, NamedTuple

from driftline.sinks.clickhouse.client import session
from driftline.sinks.clickhouse.config import ClickHouseConfig

CHUNK = 2**20  # bytes
BINARY = {"Parquet", "Arrow", "ArrowStream", "ORC", "Avro", "Native", "RowBinary", "MsgPack", "BSONEachRow", "Npy"}

_READ_ONLY = {
    "readonly": 2,  # nothing is changed by a mistyped query; settings may be
    "cancel_http_readonly_queries_on_client_close": 1,  # as by Ctrl-C
}
_NUMBERS = ("Int", "UInt", "Float", "Decimal")
_TOKEN = re.compile(
    r"""(?P<blank>\s+|--[^\n]*|\#[!\ ][^\n]*|/\*.*?\*/)
    |(?:'(?:[^'\\]|\\.|'')*' | `(?:[^`\\]|\\.|``)*` | "(?:[^"\\]|\\.|"")*")
    |(?P<word>[A-Za-z_]\w*) | \d\w* | .""",
    re.DOTALL | re.VERBOSE,
)


class Column(NamedTuple):
    name: str
    numeric: bool


class Rows(NamedTuple):
    columns: list[Column]
    rows: list[Sequence[Any]]
    more: bool  # there are more than were asked for


class Statement(NamedTuple):
    sql: str  # without a semicolon at its end
    format: str | None  # that it names itself


def parse(sql: str) -> Statement:
    """What the statement says of its own output: `… FORMAT Name`, at its end or before SETTINGS."""
    tokens = [token for token in _TOKEN.finditer(sql) if not token["blank"]]
    while tokens and tokens[-1][0] == ";":
        tokens.pop()
    text = sql[: tokens[-1].end()] if tokens else ""
    depth, found = 0, None
    for token, following in pairwise(tokens):
        depth += (token[0] in "([") - (token[0] in ")]")
        if depth == 0 and (token["word"] or "").upper() == "FORMAT" and following["word"]:
            after = tokens[tokens.index(following) + 1 :]
            if not after or (after[0]["word"] or "").upper() in ("SETTINGS", "INTO"):
                found = following["word"]
    return Statement(text, found)


def read_rows(config: ClickHouseConfig, sql: str, limit: int) -> Rows:
    """The first rows. Raises RetryableError or PermanentError with ClickHouse's own words."""
    options = {**_READ_ONLY, "limit": limit + 1}  # however many there are: ClickHouse stops there
    with session(config) as client, client.query_row_block_stream(sql, settings=options) as stream:
        source = stream.source
        names = zip(source.column_names, source.column_types, strict=True)
        columns = [Column(str(name), (kind.base_type or "").startswith(_NUMBERS)) for name, kind in names]
        rows: list[Sequence[Any]] = []
        for block in stream:
            rows += block
            if len(rows) > limit:
                break
    return Rows(columns, rows[:limit], len(rows) > limit)


@contextmanager
def read_bytes(
    config: ClickHouseConfig, sql: str, output: str | None, settings: dict[str, Any] | None = None
) -> Iterator[Iterator[bytes]]:
    """The result as ClickHouse writes it, in pieces. `output`: one of its formats; None where the statement names it.
    Raises RetryableError or PermanentError with ClickHouse's own words, before the first piece."""
    with session(config) as client:
        # The server holds the answer back until it is whole: an error must not look like the end of the data.
        options = {**_READ_ONLY, "wait_end_of_query": 1, **(settings or {})}
        with client.raw_stream(sql, fmt=output, settings=options) as stream:
            yield iter(lambda: stream.read(CHUNK), b"")


def read_json(config: ClickHouseConfig, sql: str, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows by name, as JSON has them. Raises RetryableError or PermanentError with ClickHouse's own words."""
    with session(config) as client:
        options = {**_READ_ONLY, "output_format_json_quote_64bit_integers": 0}
        lines = client.raw_query(sql, parameters=dict(parameters), fmt="JSONEachRow", settings=options).splitlines()
    return [json.loads(line) for line in lines]


def count_rows(config: ClickHouseConfig, table: str) -> int:
    """Rows of one of our views, each once."""
    with session(config) as client:
        return int(str(client.command(f"SELECT count() FROM `{table}`")))

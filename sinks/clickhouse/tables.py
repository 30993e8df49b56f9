"""What the migrations made, against what the database has: somebody else may have altered it since. Pure, but for
`read_tables`.

`tables.json` holds what all migrations together make. Compared is what decides over the rows that come back: columns
with types and defaults, engine and keys of tables, and what views select. Operators may add columns, indices,
projections and constraints, and change codecs, comments, settings, the TTL of columns, and LowCardinality.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import resources

import msgspec
from clickhouse_connect.driver.binding import format_str
from clickhouse_connect.driver.client import Client

REPAIR = "driftline migrate --repair"
SHOWN = 5  # differences in one message

_ENGINE = re.compile(r"(?:Replicated|Shared)?(ReplacingMergeTree)(?:\(([^()]*)\))?(?= |$)")
_INDEX = re.compile(r"\bINDEX \w+ [^,]+? GRANULARITY \d+")
_SPACE = re.compile(r"[\s`]+")
_LOW_CARDINALITY = re.compile(r"LowCardinality\((\w+(?:\(\d+\))?)\)")


class Column(msgspec.Struct, frozen=True, omit_defaults=True):
    name: str
    type: str
    default: str = ""  # with its kind: DEFAULT 'ok'
    codec: str = ""
    comment: str = ""

    @property
    def definition(self) -> str:
        comment = f"COMMENT {format_str(self.comment)}" if self.comment else ""
        return " ".join(part for part in (f"`{self.name}`", self.type, self.default, comment, self.codec) if part)


class Table(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A table, or a view where `select` says what it shows."""

    name: str
    columns: tuple[Column, ...] = ()  # in tables.json a view has none: they are those of its table
    engine: str  # without what makes it replicated
    sorted_by: str = ""
    partition_by: str = ""
    select: str = ""
    indices: tuple[str, ...] = ()
    comment: str = ""


class Difference(msgspec.Struct, frozen=True):
    table: str
    column: str  # empty: the table or view itself
    what: str
    do: str  # a way back

    def __str__(self) -> str:
        return f"{self.what}: {self.do}"


@cache
def made() -> dict[str, Table]:
    """By name, as all migrations together make them."""
    raw = resources.files("driftline.sinks.clickhouse").joinpath("tables.json").read_bytes()
    return {table.name: table for table in msgspec.json.decode(raw, type=list[Table])}


def read_tables(client: Client) -> dict[str, Table]:
    """By name, as the connection's database has them. Raises the driver's errors."""
    within = "WHERE database = currentDatabase()"
    columns: dict[str, list[Column]] = {}
    for table, name, type_, kind, default, codec, comment in client.query(
        "SELECT table, name, type, default_kind, default_expression, compression_codec, comment "
        f"FROM system.columns {within} ORDER BY table, position"
    ).result_rows:
        column = Column(name, type_, f"{kind} {default}".strip(), codec, comment)
        columns.setdefault(table, []).append(column)
    database = str(client.command("SELECT currentDatabase()"))
    rows = client.query(
        "SELECT name, engine, engine_full, sorting_key, partition_key, as_select, create_table_query, comment "
        f"FROM system.tables {within} ORDER BY name"
    ).result_rows
    return {
        name: Table(
            name=name,
            columns=tuple(columns.get(name, ())),
            engine=plain_engine(engine, full),
            sorted_by=sorting,
            partition_by=partition,
            select=_unqualified(select, database),
            indices=tuple(_INDEX.findall(query)),
            comment=comment,
        )
        for name, engine, full, sorting, partition, select, query, comment in rows
    }


def differences(found: Mapping[str, Table], *, ahead: bool = False) -> list[Difference]:
    """What `found` lacks or has otherwise than the migrations made it. `ahead`: a newer version has migrated it, and
    may have made views and keys anew."""
    return [difference for table in made().values() for difference in _compare(table, found.get(table.name), ahead)]


def tell(differing: Sequence[Difference]) -> str:
    """In one line."""
    more = len(differing) - SHOWN
    shown = "; ".join(map(str, differing[:SHOWN]))
    return f"{shown}; and {more} more differences (`driftline migrate --check` lists them)" if more > 0 else shown


def repairs(found: Mapping[str, Table]) -> Iterator[str]:
    """Statements that put back what is missing, and views that differ. Nothing that is there is dropped or converted;
    a column that may have been renamed is left to who did it."""
    for table in sorted(made().values(), key=lambda table: bool(table.select)):  # views need their tables
        now = found.get(table.name)
        if now is None:
            yield create(table)
        elif table.select:
            if now.engine == "View" and any(_compare(table, now, ahead=False)):
                yield create(table)
        else:
            have = {column.name for column in now.columns}
            for before, column in zip((None, *table.columns), table.columns, strict=False):
                if column.name not in have and not _renamed(table, now, column):
                    place = f" AFTER `{before.name}`" if before is not None and before.name in have else ""
                    yield f"ALTER TABLE {table.name} ADD COLUMN IF NOT EXISTS {column.definition}{place}"
                    have.add(column.name)


def create(table: Table) -> str:
    comment = f" COMMENT {format_str(table.comment)}" if table.comment else ""
    if table.select:
        return f"CREATE OR REPLACE VIEW {table.name} AS {table.select}{comment}"
    columns = ", ".join((*(column.definition for column in table.columns), *table.indices))
    partition = f" PARTITION BY {table.partition_by}" if table.partition_by else ""
    return (
        f"CREATE TABLE IF NOT EXISTS {table.name} ({columns}) ENGINE = {table.engine}{partition} "
        f"ORDER BY ({table.sorted_by}){comment}"
    )


def _compare(table: Table, now: Table | None, ahead: bool) -> Iterator[Difference]:
    name = table.name
    if now is None:
        kind, anew = ("view", "anew") if table.select else ("table", "anew, empty")
        yield Difference(name, "", f"the {kind} {name} is missing", f"`{REPAIR}` makes it {anew}")
        return
    have = {column.name: column for column in now.columns}
    if table.select:
        if now.engine != "View":
            do = f"`RENAME TABLE {name} TO {name}_before`, then `{REPAIR}` makes the view"
            yield Difference(name, "", f"{name} is no view", do)
        elif not ahead:
            missing = [column.name for column in made()[f"{name}_raw"].columns if column.name not in have]
            if missing or _plain(now.select) != _plain(table.select):
                what = f"lacks {', '.join(missing)}" if missing else "selects otherwise"
                yield Difference(
                    name, missing[0] if missing else "", f"the view {name} {what}", f"`{REPAIR}` makes it anew"
                )
        return
    for column in table.columns:
        if column.name not in have:
            yield _missing(table, now, column)
        else:
            yield from _changed(name, column, have[column.name])
    if not ahead:
        yield from _keys(table, now)


def _missing(table: Table, now: Table, column: Column) -> Difference:
    do = f"`{REPAIR}` adds it, empty"
    if renamed := _renamed(table, now, column):
        alter = f"ALTER TABLE {table.name}"
        define = " ".join(part for part in (column.name, column.type, column.default) if part)
        do = f"`{alter} RENAME COLUMN {renamed} TO {column.name}` if it was renamed, else `{alter} ADD COLUMN {define}`"
    return Difference(table.name, column.name, f"{table.name} lacks the column {column.name}", do)


def _renamed(table: Table, now: Table, column: Column) -> str:
    """What may be the column under another name; empty: nothing."""
    ours = {column.name for column in table.columns}
    strange = (c for c in now.columns if c.name not in ours and _type(c) == _type(column))
    return next((c.name for c in strange), "")


def _changed(name: str, column: Column, now: Column) -> Iterator[Difference]:
    place = f"{name}.{column.name}"
    if _type(now) != _type(column):
        yield Difference(
            *(name, column.name, f"{place} is {now.type}, not {column.type}"),
            f"`ALTER TABLE {name} MODIFY COLUMN {column.name} {column.type}`",
        )
    if _plain(now.default) != _plain(column.default):
        alter = f"ALTER TABLE {name} MODIFY COLUMN {column.name} "
        kind = now.default.partition(" ")[0]
        yield Difference(
            *(name, column.name, f"{place} has {now.default or 'no default'}, not {column.default or 'none'}"),
            f"`{alter}{f'{column.type} {column.default}' if column.default else f'REMOVE {kind}'}`",
        )


def _keys(table: Table, now: Table) -> Iterator[Difference]:
    for what, was, is_ in (
        ("engine", table.engine, now.engine),
        ("ORDER BY", table.sorted_by, now.sorted_by),
        ("PARTITION BY", table.partition_by, now.partition_by),
    ):
        if _plain(was) != _plain(is_):
            columns = ", ".join(column.name for column in table.columns)
            yield Difference(
                *(table.name, "", f"{what} of {table.name} is {is_ or 'nothing'}, not {was or 'nothing'}"),
                f"`RENAME TABLE {table.name} TO {table.name}_before`, `{REPAIR}`, and "
                f"`INSERT INTO {table.name} ({columns}) SELECT {columns} FROM {table.name}_before`",
            )
            return


def _type(column: Column) -> str:
    return _LOW_CARDINALITY.sub(r"\1", _plain(column.type))


def _plain(text: str) -> str:
    """Versions of ClickHouse space and quote differently."""
    return _SPACE.sub("", text)


def plain_engine(engine: str, full: str) -> str:
    found = _ENGINE.match(full)
    if found is None:
        return engine
    given = [argument for argument in (found[2] or "").split(", ") if argument and not argument.startswith("'")]
    return f"{found[1]}({', '.join(given)})" if given else found[1]


def _unqualified(select: str, database: str) -> str:
    return re.sub(rf"(?<![\w`.])`?{re.escape(database)}`?\.(?=\w|`)", "", select)

"""The chDB engine: one data folder, a connection per request, so that settings, the current database and temporary
tables are a request's own, or its session's.

A connection costs 0.3 ms. Everything here blocks and is called from worker threads; the engine lets go of the GIL.
"""

import contextlib
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import chdb

from driftline.sinks.clickhouse.embedded import guard, limits
from driftline.sinks.clickhouse.embedded.errors import Code, EngineError
from driftline.sinks.clickhouse.embedded.spool import Spool
from driftline.sinks.clickhouse.embedded.statement import Insert, Statement, Unsupported

_chdb: Any = chdb._chdb  # an extension module without types

_CODE = re.compile(r"Code: (\d+)\. DB::Exception: ")
_CHANGING = (_chdb.query_class.MUTATING, _chdb.query_class.MUTATING_GLOBAL)


SESSIONS = 500  # at once: each holds a connection, and its temporary tables

_READ_ONLY = EngineError(
    Code.READONLY, "Cannot execute query in readonly mode (as by GET, or readonly=…): use POST to change data"
)


class ExternalTable(NamedTuple):
    """Data sent along with a query, visible to it as a table."""

    name: str
    structure: str
    format: str
    data: bytes


@dataclass(frozen=True)
class Call:
    statement: Statement
    id: str  # of letters, digits and _.:+- only; no other running call has it
    spool: Spool | None = None  # the data of an INSERT, instead of what stands in the statement
    format: str = "TabSeparated"  # of the answer, where the statement names none
    database: str = ""
    settings: dict[str, str] = field(default_factory=dict)
    parameters: dict[str, str] = field(default_factory=dict)  # of {name:Type} in the statement
    external: tuple[ExternalTable, ...] = ()
    read_only: bool = False
    session: str = ""
    session_timeout_s: float = 60.0
    session_must_exist: bool = False


class Answer(NamedTuple):
    body: bytes
    format: str
    summary: dict[str, str]


class _Session:
    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.busy = True
        self.expires = 0.0


class Engine:
    """`monotonic` is the clock of the sessions' timeouts."""

    def __init__(self, path: Path, monotonic: Callable[[], float]) -> None:
        _chdb.set_signal_handlers_enabled(0)  # SIGTERM is the server's
        self._path = str(path)
        self._monotonic = monotonic
        self._sessions: dict[str, _Session] = {}
        self._lock = threading.Lock()
        self._keeper, self._known = _open(self._path)  # holds the folder open between requests
        row = self._keeper.query("SELECT version(), serverTimezone()", "TSV").bytes().decode().split()
        self.version, self.timezone = row

    def execute(self, call: Call) -> Answer:
        """Raises EngineError."""
        with self._connection(call) as connection:
            try:
                self._check(connection, call.statement, call.read_only)
                with _settings(connection, call):
                    return self._run(connection, call.statement, call)
            except Unsupported as error:
                raise EngineError(Code.NOT_IMPLEMENTED, str(error)) from error
            except RuntimeError as error:  # the only type chDB raises
                raise _translate(error) from error

    def kill(self, id_: str) -> None:
        """Ask the call to end, if it runs now."""
        connection = _chdb.connect(self._path)
        try:
            connection.query(f"KILL QUERY WHERE startsWith(query, {_literal(_mark(id_).decode())}) ASYNC")
        finally:
            connection.close()

    def _check(self, connection: Any, statement: Statement, read_only: bool) -> None:
        if isinstance(statement, Insert):
            changes, count = True, 1
        elif read_only or b";" in statement.sql:
            kind = connection.classify_query(statement.sql)
            changes, count = kind["query_class"] in _CHANGING, kind["statement_count"]
        else:
            return
        if count > 1:
            raise EngineError(Code.SYNTAX_ERROR, "Syntax error (Multi-statements are not allowed): send one at a time")
        if read_only and changes:
            raise _READ_ONLY

    def _run(self, connection: Any, statement: Statement, call: Call) -> Answer:
        for table in call.external:
            name = _identifier(table.name)
            create = f"CREATE TEMPORARY TABLE {name} ({table.structure})".encode()
            guard.check(_canonical(connection, create), self._known)
            connection.query(create)
            self._insert(connection, call, Insert(f"INSERT INTO {name}".encode(), b"", table.format, table.data))
        try:
            if isinstance(statement, Insert):
                result = self._insert(connection, call, statement, call.spool)
                return Answer(b"", call.format, _summary(result))
            sql = statement.sql
            if sql.strip():
                canonical = _canonical(connection, sql)
                guard.check(canonical, self._known)
                if call.read_only and not guard.only_reads(canonical):
                    raise _READ_ONLY
                sql = guard.by_our_ids(canonical, sql)
            result = connection.query(_mark(call.id) + sql, call.format, params=call.parameters)
            return Answer(result.bytes(), statement.format or call.format, _summary(result))
        finally:
            for table in call.external:
                connection.query(f"DROP TABLE IF EXISTS {_identifier(table.name)}")

    def _insert(self, connection: Any, call: Call, insert: Insert, spool: Spool | None = None) -> Any:
        """By way of a file in memory. The engine also takes data in pieces (send_insert), but loses errors of the last
        step, such as too many parts, and reports success."""
        if spool is None:
            with Spool() as spool:
                spool.write(insert.data)
                return self._insert(connection, call, insert, spool)
        sql = b"%b FROM INFILE '%b' %b FORMAT %b" % (
            insert.into,
            spool.path.encode(),
            insert.settings,
            insert.format.encode(errors="surrogateescape"),
        )
        guard.check_insert(_canonical(connection, sql), spool.path, self._known)
        return connection.query(_mark(call.id) + sql, params=call.parameters)

    @contextlib.contextmanager
    def _connection(self, call: Call) -> Iterator[Any]:
        if not call.session:
            connection = _chdb.connect(self._path)
            try:
                yield connection
            finally:
                connection.close()
            return
        session = self._take(call)
        try:
            yield session.connection
        finally:
            session.expires = self._monotonic() + call.session_timeout_s
            session.busy = False

    def _take(self, call: Call) -> _Session:
        with self._lock:
            now = self._monotonic()
            for key in [key for key, s in self._sessions.items() if not s.busy and s.expires < now]:
                self._sessions.pop(key).connection.close()
            session = self._sessions.get(call.session)
            if session is None:
                if call.session_must_exist:
                    raise EngineError(Code.SESSION_NOT_FOUND, f"Session {call.session} not found")
                if len(self._sessions) >= SESSIONS:
                    raise EngineError(Code.TOO_MANY_SIMULTANEOUS_QUERIES, f"{SESSIONS} sessions are open: wait")
                session = self._sessions[call.session] = _Session(_chdb.connect(self._path))
            elif session.busy:
                raise EngineError(Code.SESSION_IS_LOCKED, f"Session {call.session} is locked by a concurrent client")
            session.busy = True
            return session


@contextlib.contextmanager
def _settings(connection: Any, call: Call) -> Iterator[None]:
    """The request's settings and database, for this request alone."""
    before: list[str] = []
    if call.session and call.settings:
        names = ", ".join(map(_literal, call.settings))
        for name, value, changed in _rows(
            connection, f"SELECT name, value, changed FROM system.settings WHERE name IN ({names})"
        ):
            before.append(f"SET {name} = {_literal(value)}" if changed == "1" else f"SET {name} = DEFAULT")
    if call.session and call.database:
        before.append(f"USE {_identifier(_rows(connection, 'SELECT currentDatabase()')[0][0])}")
    try:
        if call.database:
            connection.query(f"USE {_identifier(call.database)}")
        if call.read_only and not call.session:
            connection.query("SET readonly = 2")
        for name, value in call.settings.items():
            connection.query(f"SET {_identifier(name)} = {_literal(value)}")
        yield
    finally:
        for sql in before:
            connection.query(sql)


def _open(path: str) -> tuple[Any, guard.Known]:
    """The connection that holds the folder, and the names of all functions. The engine is asked what it has before it
    opens any data."""
    asking = _chdb.connect(":memory:")
    try:
        settings = [(row[0], row[1]) for row in _rows(asking, "SELECT name, type FROM system.settings")]
        known = guard.Known(_lower(asking, "system.functions"), _lower(asking, "system.table_functions"))
    finally:
        asking.close()
    config = limits.configuration(settings)
    try:
        return _chdb.connect(f"{path}?config-file={config}"), known
    finally:
        shutil.rmtree(config.parent)


def _lower(connection: Any, table: str) -> frozenset[str]:
    return frozenset(row[0].lower() for row in _rows(connection, f"SELECT name FROM {table}"))


def _mark(id_: str) -> bytes:
    """A comment that begins the text of a running call: the engine gives each an id of its own."""
    return b"/* %b */ " % id_.encode()


def _canonical(connection: Any, sql: bytes) -> str:
    """As ClickHouse's parser understands it; its own error for what it does not understand, or for several."""
    literal = b"'" + sql.replace(b"\\", b"\\\\").replace(b"'", b"\\'") + b"'"
    answer: bytes = connection.query(b"SELECT formatQuerySingleLine(" + literal + b")", "TSVRaw").bytes()
    return answer.decode(errors="surrogateescape").strip()


def _summary(result: Any) -> dict[str, str]:
    numbers = {
        "read_rows": result.storage_rows_read(),
        "read_bytes": result.storage_bytes_read(),
        "written_rows": result.rows_written(),
        "written_bytes": result.bytes_written(),
        "total_rows_to_read": 0,
        "result_rows": result.rows_written() or result.rows_read(),
        "result_bytes": result.size(),
        "elapsed_ns": round(result.elapsed() * 1e9),
    }
    return {name: str(number) for name, number in numbers.items()}


def _rows(connection: Any, sql: str) -> list[list[str]]:
    """Values as text, one list per row; only for names and settings, which hold no tabs."""
    lines = connection.query(sql, "TSVRaw").bytes().decode().splitlines()
    return [line.split("\t") for line in lines]


def _translate(error: RuntimeError) -> EngineError:
    message = str(error)
    found = _CODE.search(message)
    if found is None:
        return EngineError(Code.UNKNOWN_EXCEPTION, message)
    return EngineError(int(found[1]), message[found.end() :])


def _literal(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _identifier(name: str) -> str:
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"

"""Which statements are run, by what ClickHouse's own formatter makes of them. What needs a right (sources, engines,
settings) the engine refuses by itself, see limits.py; here is what it has no right for. Pure.

In canonical text keywords are upper case, comments are gone, and every text and odd name is quoted in one way.
"""

import re
from collections.abc import Collection, Iterator
from typing import NamedTuple

from driftline.sinks.clickhouse.embedded import limits
from driftline.sinks.clickhouse.embedded.statement import Unsupported

READING = frozenset({"SELECT", "WITH", "EXPLAIN", "SHOW", "DESCRIBE", "EXISTS", "CHECK", "USE", "SET"})
STATEMENTS = READING | frozenset(
    {
        *(
            "INSERT",
            "CREATE",
            "ALTER",
            "DROP",
            "TRUNCATE",
            "OPTIMIZE",
            "RENAME",
            "EXCHANGE",
            "DELETE",
            "UPDATE",
            "KILL",
        ),
    }
)
# The engine's own rights leave out what has no source outside: QueryRunner runs what it is given, Buffer and Merge
# reach the files that the database `default` overlays.
ENGINES = (*limits.ENGINES, *limits.DATABASES)
# None that takes a structure as text: its DEFAULT and ALIAS are expressions that nobody sees here.
TABLE_FUNCTIONS = frozenset(
    {
        *("numbers", "numbers_mt", "zeros", "zeros_mt", "primes", "generateseries", "generate_series", "merge"),
        *("view", "viewexplain", "viewifpermitted", "mergetreeindex", "mergetreeprojection"),
    }
)
# `format` is an ordinary function too, and begins with a pattern then, which no format's name is.
_PATTERN = re.compile(r"'(?:[^'\\{]|\\.)*+\{", re.DOTALL)
# Ordinary functions that read files or call others; there is no right for them.
_REACHING = re.compile(
    r"file|catboostevaluate|reversednsquery|hascolumnintable|getclienthttpheader|ai[a-z]+|dictget\w*|python\w*", re.I
)


class Known(NamedTuple):
    """What the engine has, in lower case."""

    functions: Collection[str]
    table_functions: Collection[str]


# Texts and names are told apart in one pass: each may hold the other's quotes. Possessive, and from a word's beginning
# only, so that a long statement takes no longer than its length.
_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*+'|`(?:[^`\\]|\\.)*+`", re.DOTALL)
_CALL = re.compile(r"'(?:[^'\\]|\\.)*+'|`((?:[^`\\]|\\.)*+)`(\s*+\()?|\b([A-Za-z_]\w*+)\s*+(\()?", re.DOTALL)
_BY_ID = re.compile(r"\bquery_id = ('(?:[^'\\]|\\.)*+')")
_FILE = re.compile(r"\b(?:INTO OUTFILE|FROM INFILE)\b")
_ENGINE = re.compile(r"\bENGINE = (\w*)")
_DISK = re.compile(r"\b(?:disk|storage_policy)\b\s*=", re.IGNORECASE)


def check(canonical: str, known: Known) -> None:
    """:raises Unsupported: the statement is none of those that the embedded server runs."""
    statement = _first(canonical)
    if statement not in STATEMENTS:
        raise Unsupported(f"{statement} is not run here: the embedded ClickHouse knows {', '.join(sorted(STATEMENTS))}")
    for name, arguments in _names(canonical):
        if name in TABLE_FUNCTIONS or (name == "format" and _PATTERN.match(canonical, arguments)):
            continue
        reaching = _REACHING.fullmatch(name)
        if (name in known.table_functions or reaching) if arguments else (reaching and name in known.functions):
            raise Unsupported(
                f"{name} is not run here: it may reach out of the embedded ClickHouse's own data. A column of that "
                f"name is asked for by its table's, as t.{name}"
            )
    words = _QUOTED.sub("''", canonical)
    if found := _FILE.search(words):
        raise Unsupported(
            f"{found[0]}: files are out of reach; send an INSERT's data as the body, and take an answer from the body"
        )
    if "PARALLEL WITH" in words:
        raise Unsupported("PARALLEL WITH is not run here: send one statement at a time")
    for engine in _ENGINE.findall(words) if statement == "CREATE" else ():
        if engine not in ENGINES:
            raise Unsupported(f"engine {engine or 'in quotes'} is not run here: there are {', '.join(ENGINES)}")
    if statement in ("CREATE", "ALTER") and _DISK.search(words):
        raise Unsupported("disk and storage_policy are not set here: tables live in the embedded ClickHouse's folder")


def _names(canonical: str) -> Iterator[tuple[str, int]]:
    """In lower case, and where the arguments of a function begin; 0 for what is not called, which may be a function
    all the same: arrayMap(f, …), APPLY f. A name behind a dot is none."""
    for match in _CALL.finditer(canonical):
        name = match[1] or match[3]
        called = match[2] or match[4]
        if name and (called or canonical[match.start() - 1 : match.start()] != "."):
            yield name.lower(), match.end() if called else 0


def check_insert(canonical: str, path: str, known: Known) -> None:
    """Of an INSERT whose data the server has put into a file of its own.

    :raises Unsupported: it reads anything else.
    """
    ours = f" FROM INFILE '{path}'"
    if canonical.count(ours) != 1:
        raise Unsupported("an INSERT … FORMAT takes its data from the request's body and from nowhere else")
    check(canonical.replace(ours, ""), known)


def by_our_ids(canonical: str, sql: bytes) -> bytes:
    """The statement to run. KILL QUERY finds a query by the id that its client knows, too: the comment before it."""
    if not canonical.startswith("KILL QUERY"):
        return sql
    either = r"(query_id = \1 OR startsWith(query, concat('/* ', \1, ' */')))"
    return _BY_ID.sub(either, canonical).encode(errors="surrogateescape")


def only_reads(canonical: str) -> bool:
    return _first(canonical) in READING


def _first(canonical: str) -> str:
    return canonical.lstrip("(").partition(" ")[0]

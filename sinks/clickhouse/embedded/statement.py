"""What an HTTP request's text means: an INSERT with its data behind it, or a query. Pure.

ClickHouse takes the `query` parameter and the body as one text, so an INSERT's data may follow the statement, or be the
body while the statement stands in the URL. The engine wants statement and data apart.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

_TOKEN = re.compile(
    # What is not closed goes on to the end, and nothing is tried twice: a text takes no longer than its length.
    rb"""(?P<blank>\s++|--[^\n]*+|\#[!\ ][^\n]*+|/\*.*?(?:\*/|\Z))
    |'(?:[^'\\]|\\.|'')*+(?:'|\Z) | `(?:[^`\\]|\\.|``)*+(?:`|\Z) | "(?:[^"\\]|\\.|"")*+(?:"|\Z)
    |\$(?P<tag>\w*+)\$.*?(?:\$(?P=tag)\$|\Z)
    |(?P<word>[A-Za-z_]\w*+) | \d\w*+ | .""",
    re.DOTALL | re.VERBOSE,
)
VALUES = "Values"
MOST = 256 * 2**10  # bytes of a statement, ClickHouse's own max_query_size
_DATA_BEGINS = re.compile(rb"[ \t\f]*\r?\n?")
_MAY_NAME_OUTPUT = re.compile(rb"\b(?:format|outfile)\b", re.IGNORECASE)


_OPENING, _CLOSING = (b"(", b"[", b"{"), (b")", b"]", b"}")
_NAME_FOLLOWS = frozenset({b"INTO", b"TABLE", b"FUNCTION", b"."})
_LITERAL = re.compile(
    rb"""[\s(),;:+\-\[\]{}.'] | '.*' | \d\w* | NULL|TRUE|FALSE|INF|NAN|DEFAULT | \s+ | --.* | \#.* | /\*.*""",
    re.DOTALL | re.VERBOSE | re.IGNORECASE,
)


class Unsupported(Exception):
    """What the embedded server does not do; the message says what to do instead."""


class Query(NamedTuple):
    sql: bytes
    format: str | None = None  # of the answer, where the statement names one


class Insert(NamedTuple):
    """An INSERT … FORMAT: {into} [SETTINGS …] FORMAT {format}, and the data behind it."""

    into: bytes
    settings: bytes
    format: str
    data: bytes


Statement: TypeAlias = Query | Insert


class _Token(NamedTuple):
    text: bytes  # words in upper case
    start: int
    end: int


def parse(query: bytes, body: bytes) -> Statement:
    """Raises Unsupported for what would read or write files of the server's machine on behalf of a client, and for a
    statement that is too long."""
    statement = _parse(query or body)
    if query and body:
        if isinstance(statement, Insert):
            statement = statement._replace(data=statement.data + body if statement.data else body)
        else:
            statement = _parse(query + b"\n" + body)
    return _computed(statement) if isinstance(statement, Insert) and statement.format == VALUES else statement


def _parse(text: bytes) -> Statement:
    """Only the beginning can be a statement; what follows is data, and is not looked at."""
    head = text[:MOST]
    tokens = _top_level(head)
    first = next(tokens, None)
    statement: Statement
    if first is not None and first.text == b"INSERT":
        statement = _parse_insert(text, head, tokens)
    else:
        statement = _parse_query(head)
    if isinstance(statement, Query) and len(text) > MOST:
        raise Unsupported(f"a statement has at most {MOST} bytes: send data as an INSERT's, or as an external table")
    return statement


def _parse_insert(text: bytes, head: bytes, tokens: Iterator[_Token]) -> Statement:
    settings: int | None = None
    before = b"INTO"
    for token in tokens:
        word, before = token.text if before not in _NAME_FOLLOWS else b"", token.text
        if word == b"INFILE":
            raise Unsupported("INSERT … FROM INFILE reads files of the client: send the data in the request's body")
        if word in (b"SELECT", b"WITH"):
            return Query(text)
        if word == b"SETTINGS":
            settings = token.start
        if word in (b"FORMAT", b"VALUES"):
            name = next(tokens, None) if word == b"FORMAT" else token
            if name is None:
                break
            begins = _DATA_BEGINS.match(text, name.end)
            assert begins is not None  # it matches the empty text
            into = token.start if settings is None else settings
            format_ = VALUES if name.text == b"VALUES" else _name(head, name)
            return Insert(text[:into], text[into : token.start], format_, text[begins.end() :])
    return Query(text)


def _computed(insert: Insert) -> Statement:
    """VALUES that are no literals are expressions, which are checked as every statement is; the engine takes none in
    data."""
    data = insert.data.rstrip(b"; \t\r\n")
    if len(data) > MOST or all(_LITERAL.fullmatch(match.group()) for match in _TOKEN.finditer(data)):
        return insert._replace(data=data)
    rows = b" UNION ALL ".join(b"SELECT " + row for row in _rows(data))
    return Query(b"%b %b %b" % (insert.into, insert.settings, rows))


def _rows(data: bytes) -> Iterator[bytes]:
    """What stands in the outermost parentheses."""
    depth = begins = 0
    for match in _TOKEN.finditer(data):
        if match.group() in _OPENING:
            if depth == 0:
                begins = match.end()
            depth += 1
        elif match.group() in _CLOSING:
            depth -= 1
            if depth == 0:
                yield data[begins : match.start()]


def _parse_query(text: bytes) -> Query:
    if not _MAY_NAME_OUTPUT.search(text):
        return Query(text)
    named = None
    previous = b""
    for token in _top_level(text):
        if previous == b"INTO" and token.text == b"OUTFILE":
            raise Unsupported("SELECT … INTO OUTFILE writes files of the client: take the answer's body")
        if previous == b"FORMAT":
            named = _name(text, token)
        previous = token.text
    return Query(text, named)


def _name(text: bytes, token: _Token) -> str:
    return text[token.start : token.end].decode(errors="replace")


def _top_level(text: bytes) -> Iterator[_Token]:
    """The tokens outside of parentheses, without blanks and comments."""
    depth = 0
    for match in _TOKEN.finditer(text):
        if match.lastgroup == "blank":
            continue
        token = match.group()
        if token in _OPENING:
            depth += 1
        elif token in _CLOSING:
            depth -= 1
        elif depth == 0:
            yield _Token(token.upper() if match.lastgroup == "word" else token, *match.span())

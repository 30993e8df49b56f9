"""What an HTTP request's text means: an INSERT with its data behind it, or a query. Pure.

ClickHouse takes the `query` parameter and the body as one text, so an INSERT's data may follow the statement, or be the
body while the statement stands in the URL. The engine wants statement and data apart.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

_TOKEN = re.compile(
    rb"""(?P<blank>\s+|--[^\n]*|\#[!\ ][^\n]*|/\*.*?\*/)
    |'(?:[^'\\]|\\.|'')*' | `(?:[^`\\]|\\.|``)*` | "(?:[^"\\]|\\.|"")*" | \$(?P<tag>\w*)\$.*?\$(?P=tag)\$
    |(?P<word>[A-Za-z_]\w*) | \d\w* | .""",
    re.DOTALL | re.VERBOSE,
)
_DATA_BEGINS = re.compile(rb"[ \t\f]*\r?\n?")
_MAY_NAME_OUTPUT = re.compile(rb"\b(?:format|outfile)\b", re.IGNORECASE)


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
    """Raises Unsupported for what would read or write files of the server's machine on behalf of a client."""
    if not query or not body:
        return _parse(query or body)
    statement = _parse(query)
    if isinstance(statement, Insert):
        return statement._replace(data=statement.data + body if statement.data else body)
    return _parse(query + b"\n" + body)


def _parse(text: bytes) -> Statement:
    tokens = _top_level(text)
    first = next(tokens, None)
    if first is not None and first.text == b"INSERT":
        return _parse_insert(text, tokens)
    return _parse_query(text)


def _parse_insert(text: bytes, tokens: Iterator[_Token]) -> Statement:
    settings: int | None = None
    for token in tokens:
        if token.text == b"INFILE":
            raise Unsupported("INSERT … FROM INFILE reads files of the client: send the data in the request's body")
        if token.text in (b"VALUES", b"SELECT", b"WITH"):
            return Query(text)
        if token.text == b"SETTINGS":
            settings = token.start
        if token.text == b"FORMAT":
            name = next(tokens, None)
            if name is None:
                break
            begins = _DATA_BEGINS.match(text, name.end)
            assert begins is not None  # it matches the empty text
            if name.text == b"VALUES":
                return Query(text)
            into = token.start if settings is None else settings
            return Insert(text[:into], text[into : token.start], _name(text, name), text[begins.end() :])
    return Query(text)


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
        if token in (b"(", b"["):
            depth += 1
        elif token in (b")", b"]"):
            depth -= 1
        elif depth == 0:
            yield _Token(token.upper() if match.lastgroup == "word" else token, *match.span())

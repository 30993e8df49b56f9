"""Text of others (users, models, clients, servers), made safe for where people read it: one function per medium.

What a medium would obey instead of show (line breaks in a log, ANSI on a terminal, tags in HTML) becomes visible as
an escape, `\\x1b` or `\\u202e`; nothing is left out without a mark. Work is bounded by the limit, not by the text.
Data for machines (JSON, CSV, Parquet) is not text in this sense and goes out unchanged.
"""

import html
import json
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.text import Text

LINE = 500  # characters of one foreign value in a log line or message: enough to recognise it
BLOCK = 4_000  # of one foreign value on a terminal or page: about a screen

_JOINERS = "\u200c\u200d"  # Persian, Hindi and family emoji are spelled with them
_BREAKS = "\t\n\v\f\r\x1c\x1d\x1e\x1f\x85\u2028\u2029"
_NOT_IN_SCRIPT = re.compile("[<>&\u2028\u2029\ud800-\udfff]")


def shorten(text: str, limit: int) -> str:
    """At most `limit` characters; where something was left out, the end says how long the whole was."""
    return text if len(text) <= limit else _marked(text, len(text), limit)


def counted(number: int, name: str) -> str:
    """`1 alert`, `1,200 alerts`."""
    return f"{number:,} {name}{'' if number == 1 else 's'}"


def for_log(text: object, limit: int = LINE) -> str:
    """One line of at most `limit` characters, without anything that a terminal obeys or an encoder refuses."""
    return _shown(str(text), limit)


def for_terminal(text: object, limit: int = BLOCK, style: str = "") -> "Text":
    """For rich: no markup, no emoji codes, no ANSI; line breaks and tabs stay. `style` is ours.

    Text in a table or a block of its own: within a sentence a line break could forge the next one, use `for_log`.
    """
    from rich.text import Text

    return Text(_shown(str(text), limit, "\n\t"), style)


def for_html(text: object, limit: int = BLOCK) -> str:
    """For HTML's text and quoted attributes."""
    return html.escape(_shown(str(text), limit, "\n\t"))


def json_for_script(document: str) -> str:
    """The same JSON, for within <script>: no character of it ends the element, begins a comment, or is no UTF-8."""
    return _NOT_IN_SCRIPT.sub(lambda found: f"\\u{ord(found[0]):04x}", document)


def json_for_terminal(document: str) -> str:
    """The same JSON, in which what a terminal would obey is an escape."""
    if document.isascii() and "\x7f" not in document:
        return document
    return "".join(char if char.isprintable() or char == "\n" else json.dumps(char)[1:-1] for char in document)


def _shown(text: str, limit: int, keep: str = "") -> str:
    shown = _visible(text[: max(0, limit)], keep)
    return shown if len(text) <= limit and len(shown) <= limit else _marked(shown, len(text), limit)


def _marked(text: str, whole: int, limit: int) -> str:
    mark = f"… [{whole:,} characters]"
    return text[: limit - len(mark)] + mark if len(mark) < limit else "…"[: max(0, limit)]


def _visible(text: str, keep: str) -> str:
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in keep else _escape(char) for char in text)


def _escape(char: str) -> str:
    harmless = char in _JOINERS or (char.isspace() and char not in _BREAKS)  # typography has many spaces
    return char if harmless else char.encode("unicode_escape").decode("ascii")

"""Secrets of the settings, kept out of everything that is printed or logged."""

import re
from collections.abc import Iterator
from urllib.parse import quote, unquote

from pydantic import BaseModel, SecretStr

HIDDEN = "***"
SHORTEST = 3  # characters: less hides no secret, and every other word
PIECE = 4  # of a password
PATH = 16  # of a URL that is a secret, such as Slack's; a shorter one may be a plain word

_known: set[str] = set()


def remember(settings: BaseModel) -> None:
    """From now on `hide` knows the secrets of these settings. For the process: a log line has no owner."""
    _known.update(secret for value in _secrets(settings) for secret in forms(value))


def hide(text: str) -> str:
    """The text without any secret that is known, in every form in which an error could show it."""
    for secret in sorted(_known, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return text


def forms(value: str) -> set[str]:
    """What is secret of a value: of a URL its password, or else its path; of anything else all of it."""
    _, is_url, rest = value.partition("://")
    login, has_login, _ = rest.rpartition("@")
    if not is_url:
        parts = {value}
    elif has_login:
        password = login.partition(":")[2]
        # Whoever parses the URL takes an unescaped / # or ? for its end, and quotes the pieces.
        parts = {password, *(piece for piece in re.split("[/#?]", password) if len(piece) >= PIECE)}
    else:
        path = rest.partition("/")[2]
        parts = {rest if path else "", path if len(path) >= PATH else ""}
    return {form for part in parts for form in (part, unquote(part), quote(part, safe="")) if len(form) >= SHORTEST}


def _secrets(value: object) -> Iterator[str]:
    match value:
        case SecretStr():
            yield value.get_secret_value()
        case BaseModel():
            for name in type(value).model_fields:
                yield from _secrets(getattr(value, name))
        case dict():
            for part in value.values():
                yield from _secrets(part)
        case tuple() | list():
            for part in value:
                yield from _secrets(part)

"""Who may ask: nothing that a web page made a browser send, and nobody without the password.

The password stands in a file of the data folder for its owner alone, made at the first start, or is the user's own.
"""

import base64
import binascii
import hmac
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from multidict import MultiMapping

from driftline.schemas.files import write_private
from driftline.schemas.hosts import names_loopback

FILE = "password"  # in the data folder
USER = "default"
VARIABLE = "CLICKHOUSE_PASSWORD"  # a password of the user's own; empty: none is asked. As ClickHouse's image has it

_OWN_PAGES = frozenset({"none", "same-origin"})  # of Sec-Fetch-Site: typed into the address bar, or our own answer's
_USER, _KEY, _BASIC = "X-ClickHouse-User", "X-ClickHouse-Key", "Authorization"


class Refused(Exception):
    """The message is for the client."""


class Login(NamedTuple):
    user: str
    password: str


NOBODY = Login(USER, "")


class Password(NamedTuple):
    """`value` "" asks nobody. `hint` tells who failed where it stands."""

    value: str
    hint: str

    def check(self, login: Login) -> None:
        """:raises Refused: it is another."""
        if not self.value:
            return
        # Both are compared, in a time that tells nothing of where they differ.
        same = hmac.compare_digest(_bytes(login.password), _bytes(self.value))
        if not (hmac.compare_digest(_bytes(login.user), _bytes(USER)) and same):
            what = "the password is wrong, or the user is not " + USER if login.password else "a password is needed"
            raise Refused(f"Authentication failed: {what}. {self.hint}")


def password(folder: Path, own: str | None) -> Password:
    """`own`: the user's, or "" for none. Otherwise the folder's, made where there is none. Raises OSError."""
    if own is not None:
        return Password(own, f"It is what started the server with {VARIABLE} or stack.clickhouse_password.")
    file = folder / FILE
    if not (file.exists() and file.read_text(encoding="ascii").strip()):
        write_private(file, f"{secrets.token_hex(24)}\n".encode())
    file.chmod(0o600)
    return Password(file.read_text(encoding="ascii").strip(), f"User {USER}; the password is in {file}.")


def presented(headers: MultiMapping[str], parameters: Mapping[str, str]) -> Login | None:
    """What the request brings, in one of ClickHouse's ways; None where it brings nothing.

    :raises Refused: it brings several, or one that is none.
    """
    ways = [
        any(name in headers for name in (_USER, _KEY)),
        _BASIC in headers,
        any(name in parameters for name in ("user", "password")),
    ]
    if sum(ways) > 1 or any(len(headers.getall(name, [])) > 1 for name in (_USER, _KEY, _BASIC)):
        raise Refused(
            "Authentication failed: user and password come once, in X-ClickHouse-User and X-ClickHouse-Key, or in "
            "Authorization, or as parameters"
        )
    if ways[0]:
        return Login(headers.get(_USER) or USER, headers.get(_KEY, ""))
    if ways[1]:
        return _basic(headers[_BASIC])
    return of_fields(parameters) if ways[2] else None


def of_fields(fields: Mapping[str, str]) -> Login:
    return Login(fields.get("user") or USER, fields.get("password", ""))


def check_sender(headers: MultiMapping[str], *, local_only: bool) -> None:
    """`local_only`: the server listens on this machine alone, so it has no name but this machine's.

    :raises Refused: a web page sent this, by its own address or by a name that points here.
    """
    if local_only and not names_loopback(headers.getall("Host", [])):
        raise Refused("Refused: this server is asked by the name localhost or 127.0.0.1 only")
    if any(site not in _OWN_PAGES for site in headers.getall("Sec-Fetch-Site", [])):
        raise Refused("Refused: pages of other sites may not ask")
    ours = [f"http://{host}" for host in headers.getall("Host", [])]
    if any(origin not in ours for origin in headers.getall("Origin", [])):
        raise Refused("Refused: pages of other sites, other ports of this machine among them, may not ask")


def _basic(header: str) -> Login:
    scheme, _, value = header.partition(" ")
    try:
        text = base64.b64decode(value.strip(), validate=True).decode(errors="surrogateescape")
    except (binascii.Error, ValueError):
        text = ""
    user, colon, secret = text.partition(":")
    if scheme.lower() != "basic" or not colon:
        raise Refused("Authentication failed: Authorization is Basic, with base64 of user:password")
    return Login(user or USER, secret)


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogateescape")

"""Names of this machine, as an HTTP request gives them. Pure."""

import ipaddress
from collections.abc import Sequence
from urllib.parse import urlsplit


def is_loopback(host: str) -> bool:
    """Whether a name or address, with or without a port, is this machine's own name for itself."""
    try:
        name = host if host.count(":") > 1 and "[" not in host else urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def names_loopback(hosts: Sequence[str]) -> bool:
    """Whether a request's Host headers are one, and it does. A name that somebody's DNS makes point here does not:
    that is how a web page asks for what is meant for this machine alone."""
    return len(hosts) == 1 and is_loopback(hosts[0])

import pytest

from driftline.schemas.hosts import is_loopback, names_loopback


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8123", "127.0.0.1", "127.8.0.1:80", "::1", "[::1]", "[::1]:8123"]
)
def test_this_machine(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["", "0.0.0.0", "::", "example.org", "localhost.evil.org", "[::1", "127.0.0.1.nip.io:80"]
)
def test_any_other(host: str) -> None:
    assert not is_loopback(host)


def test_a_request_names_it_once() -> None:
    assert names_loopback(["localhost:8123"])
    assert not names_loopback([])
    assert not names_loopback(["localhost", "localhost"])

"""Who may ask the embedded ClickHouse: nobody without the password, and no web page of others."""

import asyncio
import base64
import stat
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import aiohttp
import clickhouse_connect
import pytest
from clickhouse_connect.driver.exceptions import DatabaseError
from multidict import CIMultiDict
from pydantic import SecretStr

from driftline.sinks.clickhouse.client import is_reachable
from driftline.sinks.clickhouse.config import ClickHouseConfig
from driftline.sinks.clickhouse.embedded import EmbeddedServer, access
from driftline.sinks.clickhouse.embedded.access import Login, Password, Refused, check_sender, presented


class Asked(NamedTuple):
    status: int
    code: str | None
    text: str


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as http:
        yield http


@pytest.fixture(scope="module")
def secret(embedded: EmbeddedServer) -> str:
    assert embedded.password_file is not None
    return embedded.password_file.read_text().strip()


async def ask(
    http: aiohttp.ClientSession,
    server: EmbeddedServer,
    headers: dict[str, str] | None = None,
    method: str = "POST",
    data: object = b"SELECT 1",
    **params: str,
) -> Asked:
    async with http.request(method, f"{server.url}/", params=params, headers=headers, data=data) as answer:
        return Asked(answer.status, answer.headers.get("X-ClickHouse-Exception-Code"), (await answer.text()).strip())


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


async def test_nobody_asks_without_the_password(
    http: aiohttp.ClientSession, embedded: EmbeddedServer, secret: str
) -> None:
    for headers in (
        {},
        {"X-ClickHouse-User": "default"},
        {"X-ClickHouse-Key": "wrong"},
        {"X-ClickHouse-Key": secret[:-1]},
        {"X-ClickHouse-Key": secret + "x"},
        {"X-ClickHouse-User": "admin", "X-ClickHouse-Key": secret},
        {"Authorization": basic("default", "")},
        {"Authorization": basic("admin", secret)},
        {"Authorization": "Basic ????"},
        {"Authorization": f"Bearer {secret}"},
        {"Authorization": basic("default", secret), "X-ClickHouse-Key": secret},
    ):
        found = await ask(http, embedded, headers)
        assert (found.status, found.code) == (401, "516"), headers
        assert secret not in found.text
    assert str(embedded.password_file) in (await ask(http, embedded)).text
    wrong: list[dict[str, str]] = [
        *({"password": "wrong"}, {"user": "default"}, {"password": ""}, {"user": "x", "password": secret})
    ]
    for params in wrong:
        assert (await ask(http, embedded, None, **params)).code == "516", params
    assert (await ask(http, embedded, {"X-ClickHouse-Key": secret}, password=secret)).code == "516"
    for method, query in (("GET", "SELECT 1"), ("POST", "INSERT INTO t FORMAT CSV")):
        assert (await ask(http, embedded, method=method, query=query)).code == "516"


async def test_the_password_comes_in_any_of_clickhouse_s_ways(
    http: aiohttp.ClientSession, embedded: EmbeddedServer, secret: str
) -> None:
    for headers in (
        {"X-ClickHouse-Key": secret},
        {"X-ClickHouse-User": "default", "X-ClickHouse-Key": secret},
        {"Authorization": basic("default", secret)},
        {"Authorization": basic("", secret)},
        {"authorization": basic("default", secret).replace("Basic", "basic")},
    ):
        assert (await ask(http, embedded, headers)).text == "1", headers
    assert (await ask(http, embedded, password=secret)).text == "1"
    assert (await ask(http, embedded, user="default", password=secret)).text == "1"


async def test_a_form_s_fields_hold_the_password_before_its_files(
    http: aiohttp.ClientSession, embedded: EmbeddedServer, secret: str
) -> None:
    for password, files_first, code in ((secret, False, None), ("wrong", False, "516"), (secret, True, "516")):
        form = aiohttp.FormData()
        fields = [("query", "SELECT sum(n) FROM e"), ("e_structure", "n UInt8"), ("user", "default")]
        parts = [*fields, ("password", password)]
        for name, value in () if files_first else parts:
            form.add_field(name, value, content_type="text/plain")
        form.add_field("e", b"1\n2\n", filename="e.tsv", content_type="text/plain")
        for name, value in parts if files_first else ():
            form.add_field(name, value, content_type="text/plain")
        found = await ask(http, embedded, data=form)
        assert found.code == code
        assert code or found.text == "3"


async def test_ping_is_open(http: aiohttp.ClientSession, embedded: EmbeddedServer) -> None:
    for path in ("/ping", "/replicas_status", "/"):
        async with http.get(f"{embedded.url}{path}") as answer:
            assert (answer.status, await answer.text()) == (200, "Ok.\n")


def test_the_password_is_for_the_owner_s_eyes_and_stays(embedded: EmbeddedServer, tmp_path: Path) -> None:
    first = access.password(tmp_path, None)
    file = tmp_path / access.FILE
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.chmod(0o644)
    assert access.password(tmp_path, None) == first
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(first.value) >= 32
    assert first.value not in first.hint
    secret = access.password(embedded.path, None).value.encode()
    for name in ("cmdline", "environ"):
        assert secret not in Path(f"/proc/{embedded.pid}/{name}").read_bytes()


def test_an_empty_file_is_no_password(tmp_path: Path) -> None:
    (tmp_path / access.FILE).write_text("\n")
    assert len(access.password(tmp_path, None).value) >= 32


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(tmp_path_factory.mktemp("own"), port=0, password="/:@%#?x1") as server:
        yield server


def test_a_password_of_one_s_own(own: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert own.password_file is None
    with clickhouse_connect.get_client(dsn=own.dsn) as client:
        assert client.command("SELECT 1") == 1
    with pytest.raises(DatabaseError, match=r"stack\.clickhouse_password") as raised:
        clickhouse_connect.get_client(dsn=own.url)
    assert raised.value.code == 516
    assert "/:@%#?x1" not in str(raised.value)
    assert b"/:@%#?x1" not in Path(f"/proc/{own.pid}/cmdline").read_bytes()


async def test_no_password_is_for_who_asks_for_it(http: aiohttp.ClientSession, tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path, port=0, password="") as server:
        assert server.dsn == server.url
        assert (await ask(http, server)).text == "1"
        assert (await ask(http, server, {"X-ClickHouse-Key": "any"})).text == "1"
        assert (await ask(http, server, {"Origin": "http://localhost:3000"})).status == 403


def test_a_password_of_the_environment_is_not_taken_by_accident(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(access.VARIABLE, "")
    with EmbeddedServer(tmp_path, port=0) as server, pytest.raises(DatabaseError):
        clickhouse_connect.get_client(dsn=server.url)


def test_a_refusal_is_the_answer_of_a_server_that_was_named(embedded: EmbeddedServer) -> None:
    """On the default address it is somebody else's stack, and the folder's own data is asked."""
    named = ClickHouseConfig(dsn=SecretStr(embedded.url))
    by_default = ClickHouseConfig.model_construct(_fields_set=set(), **dict(named))
    assert is_reachable(named)
    assert not is_reachable(by_default)


def test_curl_as_readme_shows_it(embedded: EmbeddedServer) -> None:
    try:
        done = subprocess.run(
            ["curl", "-sS", "-u", f"default:{embedded.password_file.read_text().strip()}", embedded.url, "-d", "SELECT 1"],  # type: ignore[union-attr]  # noqa: E501
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    except FileNotFoundError:
        pytest.skip("there is no curl")
    assert done.stdout == "1\n"


@pytest.mark.parametrize(
    ("headers", "taken"),
    [
        ([("Host", "localhost:8123")], True),
        ([("Host", "127.0.0.1")], True),
        ([("Host", "[::1]:8123")], True),
        ([], False),
        ([("Host", "rebound.example:8123")], False),
        ([("Host", "localhost.evil.example")], False),
        ([("Host", "127.0.0.1@evil.example")], False),
        ([("Host", "evil.example#@localhost")], False),
        ([("Host", "0.0.0.0:8123")], False),
        ([("Host", "127.0.0.1.nip.io")], False),
        ([("Host", "[::1")], False),
        ([("Host", "localhost"), ("Host", "evil.example")], False),
        ([("Host", "localhost:8123"), ("Origin", "http://localhost:8123")], True),
        ([("Host", "localhost:8123"), ("Origin", "http://localhost:3000")], False),
        ([("Host", "localhost:8123"), ("Origin", "https://localhost:8123")], False),
        ([("Host", "localhost:8123"), ("Origin", "http://127.0.0.1:8123")], False),
        ([("Host", "localhost:8123"), ("Origin", "null")], False),
        ([("Host", "localhost:8123"), ("Origin", "")], False),
        ([("Host", "localhost:1"), ("Origin", "http://localhost:1"), ("Origin", "https://evil.example")], False),
        ([("Host", "localhost"), ("Sec-Fetch-Site", "none")], True),
        ([("Host", "localhost"), ("Sec-Fetch-Site", "same-origin")], True),
        ([("Host", "localhost"), ("Sec-Fetch-Site", "same-site")], False),
        ([("Host", "localhost"), ("Sec-Fetch-Site", "cross-site")], False),
        ([("Host", "localhost"), ("Sec-Fetch-Site", "none"), ("sec-fetch-site", "cross-site")], False),
    ],
)
def test_pages_of_others_are_refused(headers: list[tuple[str, str]], taken: bool) -> None:
    try:
        check_sender(CIMultiDict(headers), local_only=True)
    except Refused:
        assert not taken
    else:
        assert taken


def test_a_server_for_others_has_any_name_and_still_no_pages() -> None:
    check_sender(CIMultiDict([("Host", "clickhouse:8123")]), local_only=False)
    with pytest.raises(Refused):
        check_sender(CIMultiDict([("Host", "clickhouse:8123"), ("Sec-Fetch-Site", "cross-site")]), local_only=False)


def test_credentials_come_once() -> None:
    twice = CIMultiDict([("Authorization", basic("default", "a")), ("Authorization", basic("default", "b"))])
    with pytest.raises(Refused, match="once"):
        presented(twice, {})
    assert presented(CIMultiDict(), {}) is None
    assert presented(CIMultiDict({"Authorization": basic("default", "a:b")}), {}) == Login("default", "a:b")


def test_any_bytes_are_compared() -> None:
    for text in ("\udcff", "é", "", "x" * 10_000):
        with pytest.raises(Refused):
            Password("secret", "").check(Login("default", text))


async def test_the_browser_s_refusals_over_a_socket(embedded: EmbeddedServer) -> None:
    port = urlsplit(embedded.url).port
    for head in (b"GET / HTTP/1.1\r\n\r\n", b"GET /?query=SELECT+1 HTTP/1.1\r\nHost: rebound.example\r\n\r\n",
                 b"GET /ping HTTP/1.1\r\nHost: localhost\r\nHost: rebound.example\r\n\r\n"):  # fmt: skip
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head)
        status = await reader.readline()
        assert status.split()[1] in (b"400", b"403"), (head, status)
        writer.close()
        await writer.wait_closed()

"""Every key of the settings with every kind of wrong value, from a file and from the environment: it is refused under
its name, in one line of plain words, and `check-config` and a start agree."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_origin

import msgspec
import pytest
from annotated_types import Le
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, SecretStr

from driftline.schemas.clock import SystemClock
from driftline.schemas.codec import encode_events
from driftline.schemas.config import LARGEST
from driftline.schemas.errors import ConfigError
from driftline.schemas.events import MICROSECONDS, Event, Release, Score, Tick, Trace
from driftline.sinks.notify.build import open_notifiers
from driftline.streams import check, roles
from driftline.streams.monitor.fold import MonitorFold
from driftline.streams.pricing import Pricer
from driftline.streams.settings import PREFIX, Settings, load_settings, read_settings
from tests.hostile import obeyed
from tests.streams.embed.fakes import T0, FakeRecord

SECRET = "s3cr3t-v4lue"
JUNK: dict[str, Any] = {
    "text": "nonsense",
    "empty": "",
    "unit": "5 s",
    "list": [1],
    "section": {"nonsense": 1},
    "yes": True,
    "huge": 10**30,
    "below": -1,
    "nan": float("nan"),
    "infinite": float("inf"),
    "markup": "\x1b[31m[/INST]\n",
}
NEVER_A_NUMBER = ("text", "empty", "unit", "list", "section", "nan", "infinite", "markup")


class Key(NamedTuple):
    path: tuple[str, ...]
    kind: Any

    @property
    def name(self) -> str:
        return ".".join(self.path)

    @property
    def variable(self) -> str:
        return PREFIX + "__".join(self.path).upper()


def models(kind: Any) -> Iterator[type[BaseModel]]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        yield kind
    for part in get_args(kind):
        yield from models(part)


def keys(model: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[Key]:
    """All but those within lists, whose entries have names of their own."""
    for name, field in model.model_fields.items():
        inner = [] if "tuple" in str(field.annotation) else list(models(field.annotation))
        for part in inner:
            yield from keys(part, (*path, name))
        if not inner:
            yield Key((*path, name), field.annotation)


KEYS = list(keys(Settings))
NUMBERS = [key for key in KEYS if {int, float} & {key.kind, *get_args(key.kind)} and get_origin(key.kind) is not tuple]


def _key(name: str) -> Key:
    return next(key for key in KEYS if key.name == name)


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(PREFIX):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def file_of(*values: tuple[Key, Any]) -> Path:
    document: dict[str, Any] = {}
    for key, value in values:
        *sections, name = key.path
        section = document
        for part in sections:
            section = section.setdefault(part, {})
        section[name] = value
    file = Path("driftline.toml")
    file.write_bytes(b"".join(_toml(document, ())))
    return file


def _toml(section: dict[str, Any], path: tuple[str, ...]) -> Iterator[bytes]:
    if path:
        yield f"[{'.'.join(path)}]\n".encode()
    for name, value in section.items():
        if not isinstance(value, dict) or value == JUNK["section"]:
            yield f"{name} = {_value(value)}\n".encode()
    for name, value in section.items():
        if isinstance(value, dict) and value != JUNK["section"]:
            yield from _toml(value, (*path, name))


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{nonsense = 1}"
    return str(value) if isinstance(value, float | int) and value is not True else msgspec.json.encode(value).decode()


def told(problems: list[str]) -> None:
    assert problems
    for line in problems:
        assert obeyed(line) == ""
        assert "pydantic" not in line
        assert "nput should" not in line
        assert len(line) < 600


def test_all_keys_are_walked() -> None:
    assert len(KEYS) > 150
    assert len(NUMBERS) > 100


@pytest.mark.parametrize("junk", JUNK)
def test_what_is_wrong_in_a_file_is_named(junk: str) -> None:
    for key in KEYS:
        found, problems = read_settings(file_of((key, JUNK[junk])))
        if found is None:
            told(problems)
            assert any(line.startswith((key.name, key.path[0])) for line in problems), (key.name, problems)
        else:
            assert key not in NUMBERS or junk not in NEVER_A_NUMBER, key.name


@pytest.mark.parametrize("junk", ["text", "empty", "nan", "below", "markup"])
def test_what_is_wrong_in_the_environment_is_named(junk: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in KEYS:
        with monkeypatch.context() as environment:
            environment.setenv(key.variable, str(JUNK[junk]))
            found, problems = read_settings()
        if found is None:
            told(problems)
            wanted = (key.variable, PREFIX + key.path[0].upper(), key.path[0])
            assert any(line.startswith(wanted) for line in problems), (key.variable, problems)
        else:
            assert key not in NUMBERS or junk not in NEVER_A_NUMBER, key.name


def test_a_secret_is_in_no_message(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in KEYS:
        if SecretStr not in (key.kind, *get_args(key.kind)):
            continue
        for junk in ([SECRET], {SECRET: SECRET}):
            monkeypatch.setenv(key.variable, str(junk))
            assert SECRET not in str(read_settings())
            monkeypatch.delenv(key.variable)


@pytest.mark.parametrize("name", [key.name for key in KEYS[::7]])
def test_a_mistyped_key_is_known(name: str) -> None:
    key = _key(name)
    wrong = Key((*key.path[:-1], key.path[-1] + "x"), key.kind)
    _, problems = read_settings(file_of((wrong, 1)))
    told(problems)
    assert any(f"did you mean {key.path[-1]}?" in line for line in problems), problems


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\xef\xbb\xbf[kafka]\r\npartitions = 3\r\n", ""),
        (b"[kafka]\npartitions = 3\n", ""),
        ("[kafka]\nprefix = 'caf\xe9'\n".encode("latin-1"), "not UTF-8"),
        ("[kafka]\npartitions = 3\n".encode("utf-16"), "not UTF-8"),
        (b"[kafka]\npartitions = 3\n[kafka]\n", "not valid TOML"),
        (b"[kafka]\npartitions = 3\npartitions = 4\n", "not valid TOML"),
        (b"[kafka]\nbrokers = localhost:9092\n", "a text is in quotes"),
        (b"[kafka\n", "not valid TOML"),
        (b"a = " + b"[" * 5_000, "not valid TOML"),
        (b"\x00", "not valid TOML"),
    ],
)
def test_files_of_any_editor(data: bytes, says: str) -> None:
    file = Path("driftline.toml")
    file.write_bytes(data)
    found, problems = read_settings(file)
    if says:
        assert found is None
        told(problems)
        assert says in problems[0]
    else:
        assert found is not None
        assert found.kafka.partitions == 3


def greatest(key: Key) -> float:
    *sections, name = key.path
    model: Any = Settings
    for section in sections:
        model = next(models(model.model_fields[section].annotation))
    return next((float(str(bound.le)) for bound in model.model_fields[name].metadata if isinstance(bound, Le)), LARGEST)


@pytest.mark.parametrize("number", [1e12, 1e17, 1e300])
def test_every_number_is_bounded(number: float) -> None:
    for key in NUMBERS:
        if key.name != "clickhouse.batch_bytes" or number > 1e12:
            found, problems = read_settings(
                file_of((key, number if float in (key.kind, *get_args(key.kind)) else int(number)))
            )
            assert found is None, key.name
            assert any(line.startswith((key.name, key.path[0])) for line in problems), (key.name, problems)


@pytest.mark.parametrize("prefix", [".", "..", ".x"])
def test_a_prefix_is_a_name(prefix: str) -> None:
    assert read_settings(file_of((_key("kafka.prefix"), prefix)))[0] is None


COUNTED = [("detectors", part) for part in ("budget", "units", "error_rate", "quality", "breaker")]


async def test_a_monitor_works_with_the_greatest_number_of_every_kind() -> None:
    kinds: list[Event] = [
        Trace(app="a", ts=T0 + 1, trace_id="t", provider="p", request_model="m", latency_ms=1, conversation_id="c"),
        Score(app="a", ts=T0 + 1, id="s", trace_id="t", name="n", value=0.5),
        Release(app="a", ts=T0 + 1, id="r", kind="canary_start", release="v2", stable="v1", share=0.5),
    ]
    records = [FakeRecord(n, encode_events([*kinds, Tick(ts=T0 + n * 200 * MICROSECONDS)])) for n in range(1, 4)]
    for key in NUMBERS:
        if key.path[0] == "monitor" or key.path[:2] in COUNTED:
            most = greatest(key)
            found, _ = read_settings(file_of((key, most if float in (key.kind, *get_args(key.kind)) else int(most))))
            if found is not None:
                fold = MonitorFold(found.monitor, found.detectors, found.topics, Pricer(), None)
                await fold.absorb(records[:2])
                again = MonitorFold(found.monitor, found.detectors, found.topics, Pricer(), fold.snapshot())
                await again.absorb(records[2:])


def test_a_retention_that_would_delete_everything_is_refused_with_the_reason() -> None:
    _, problems = read_settings(file_of((_key("clickhouse.retention.events_days"), 36_500)))
    assert problems == [
        "clickhouse.retention.events_days: expected at most 18250 (50 years: ClickHouse's times end in 2106, and rows "
        "that end later end at once), got 36500"
    ]


def test_a_folder_is_no_file() -> None:
    Path("folder.toml").mkdir()
    assert read_settings(Path("folder.toml"))[1] == ["cannot be read: Is a directory"]


def starts(file: Path, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether all roles come as far as to ask Kafka."""

    def faust(name: str, kafka: Any, topics: Any, sources: Any, **_: Any) -> None:
        kafka.client_options()
        for source in sources:
            source.factory(0, None)

    monkeypatch.setattr("driftline.streams.runtime.worker.run_faust_role", faust)

    def plain(name: str, loaded: Settings, _: object) -> None:
        loaded.kafka.client_options()
        if name == "notify":
            asyncio.run(notifiers(loaded))

    monkeypatch.setattr(roles, "_run_until_stopped", plain)
    try:
        loaded = load_settings(file)
        for name in ("monitor", "judge", "archive", "notify"):
            roles.ROLES[name](loaded)
    except ConfigError:
        return False
    return True


async def notifiers(loaded: Settings) -> None:
    async with open_notifiers(loaded.notify, SystemClock()):
        pass


ELSEWHERE = ("embed", "health", "stack")  # what a machine has, or has not
VALUES = st.sampled_from(
    [*JUNK.values(), 1, 2, 0.5, "driftline", "a:1", "http://h:1", "none.pem", "SSL", "hooks.slack.com"]
)
NAMED = (
    "url",
    "webhook_url",
    "control_key_file",
    "ssl_cafile",
    "security_protocol",
    "brokers",
    "dsn",
    "prefix",
    "rules",
)
STARTING = [key for key in KEYS if key.path[0] not in ELSEWHERE]
SOME = st.sampled_from(STARTING) | st.sampled_from([key for key in STARTING if key.path[-1] in NAMED])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(values=[(_key("notify.dry_run"), True), (_key("notify.slack.webhook_url"), "hooks.slack.com")])
@example(values=[(_key("kafka.security_protocol"), "SSL"), (_key("kafka.ssl_cafile"), "none.pem")])
@example(values=[(_key("kafka.control_key_file"), "none")])
@example(values=[])
@given(st.lists(st.tuples(SOME, VALUES), max_size=3, unique_by=lambda pair: pair[0].path))
def test_check_config_and_a_start_agree(monkeypatch: pytest.MonkeyPatch, values: list[tuple[Key, Any]]) -> None:
    file = file_of(*values)
    found, _ = read_settings(file)
    fine = found is not None and not check.errors(found)
    with monkeypatch.context() as patched:
        assert starts(file, patched) == fine

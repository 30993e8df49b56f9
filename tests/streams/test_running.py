import fcntl
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from driftline.schemas.errors import ConfigError
from driftline.streams.running import (
    LOCK,
    RunningStack,
    announce,
    control_key,
    find,
    publish,
    with_running_stack,
    withdraw,
)
from driftline.streams.settings import Settings, load_settings

STACK = RunningStack(
    brokers="127.0.0.1:19092",
    partitions=1,
    homes=1,
    embedded=True,
    clickhouse="http://driftline:secret@127.0.0.1:18123",
    health={"monitor": "http://127.0.0.1:19464"},
    pids={"up": 1},
)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Path]:
    with (tmp_path / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        publish(tmp_path, STACK)
        yield tmp_path


def settings(folder: Path, **sections: object) -> Settings:
    return Settings.model_validate({"stack": {"state_dir": folder}, **sections})


def test_commands_find_a_running_stack_wherever_its_ports_are(running: Path) -> None:
    found = with_running_stack(settings(running))
    assert found.kafka.brokers == "127.0.0.1:19092"
    assert not found.kafka.idempotent
    assert found.clickhouse.dsn.get_secret_value() == STACK.clickhouse


def test_commands_sign_and_read_with_the_key_of_the_stack(running: Path) -> None:
    key = control_key(running)
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert control_key(running).read_bytes() == key.read_bytes()
    publish(running, msgspec.structs.replace(STACK, control_key_file=key))
    found = with_running_stack(settings(running))
    assert found.kafka.control_secret() == key.read_bytes().strip()
    own = settings(running, kafka={"control_key": "0123456789abcdef"})
    assert with_running_stack(own).kafka.control_secret() == b"0123456789abcdef"


def test_what_settings_say_stays(running: Path) -> None:
    own = settings(running, kafka={"brokers": "kafka:9092"}, clickhouse={"dsn": "http://clickhouse:8123"})
    assert with_running_stack(own) == own


def test_other_settings_of_a_section_do_not_hide_the_stack(running: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRIFTLINE_STACK__STATE_DIR", str(running))
    monkeypatch.setenv("DRIFTLINE_KAFKA__PARTITIONS", "2")
    found = with_running_stack(load_settings())
    assert (found.kafka.brokers, found.kafka.partitions) == (STACK.brokers, STACK.partitions)


def test_a_stack_that_was_killed_is_none(running: Path) -> None:
    (running / LOCK).unlink()
    (running / LOCK).touch()  # nobody holds it
    assert find(running) is None
    assert with_running_stack(settings(running)) == settings(running)


def test_a_stack_that_has_stopped_is_none(running: Path) -> None:
    withdraw(running)
    withdraw(running)
    assert find(running) is None


def test_no_folder_is_no_stack(tmp_path: Path) -> None:
    assert find(tmp_path / "nowhere") is None


def test_the_file_is_for_its_owner_alone(running: Path) -> None:
    publish(running, STACK)
    assert stat.S_IMODE((running / "stack.json").stat().st_mode) == 0o600


def test_a_file_that_cannot_be_read_is_one_clear_line(running: Path) -> None:
    (running / "stack.json").write_text("{")
    with pytest.raises(ConfigError, match="stop the stack and start it again"):
        find(running)


def test_a_stack_of_the_default_folder_is_found_from_elsewhere(
    running: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(elsewhere)
    monkeypatch.setenv("XDG_STATE_HOME", str(elsewhere / "new" / "state"))
    assert with_running_stack(Settings()) == Settings()
    announce(running)
    found = with_running_stack(Settings())
    assert found.stack.state_dir == running
    assert found.kafka.brokers == STACK.brokers
    assert with_running_stack(settings(elsewhere)) == settings(elsewhere), "a folder that was chosen is no other"
    withdraw(running)
    assert with_running_stack(Settings()).kafka == Settings().kafka


def test_a_stack_that_cannot_be_announced_runs_all_the_same(
    running: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    announce(running)

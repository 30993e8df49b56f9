"""Where the parts of a running local stack are: one file in its folder, written by `driftline up` and `driftline demo`
and read by every command whose settings do not say otherwise. Where the folder is the default one, which depends on
where a command is run, the user's own state folder says which it was."""

import fcntl
import logging
import os
import secrets
from pathlib import Path

import msgspec
from pydantic import SecretStr

from driftline.schemas.errors import ConfigError
from driftline.schemas.files import write_private
from driftline.streams.redact import remember
from driftline.streams.settings import Settings

logger = logging.getLogger(__name__)

FILE = "stack.json"
LOCK = "lock"
KEY = "control.key"  # signs the stack's control records
LATEST = Path("driftline", "stack")  # in the user's state folder: the folder of the stack that was started last


class RunningStack(msgspec.Struct, frozen=True, kw_only=True):
    brokers: str
    partitions: int
    homes: int
    control_key_file: Path | None = None
    embedded: bool  # the brokers are the embedded one, which lacks some of Kafka
    clickhouse: str  # DSN; may hold a secret, so the file is for its owner alone
    health: dict[str, str]  # base URL by role
    pids: dict[str, int]  # by part


def publish(folder: Path, stack: RunningStack) -> None:
    """For the owner's eyes alone, and whole at any moment."""
    write_private(folder / FILE, msgspec.json.format(msgspec.json.encode(stack, enc_hook=str), indent=2) + b"\n")


def announce(folder: Path) -> None:
    """To commands that are run elsewhere: this is where the stack runs."""
    latest = _users_folder() / LATEST
    try:
        latest.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_private(latest, os.fsencode(folder.absolute()))
    except OSError as error:
        logger.info("Commands find this stack in its folder only: %s cannot be written: %s", latest, error.strerror)


def control_key(folder: Path) -> Path:
    """The stack's own key, made at its first start; for the owner's eyes alone."""
    file = folder / KEY
    if not file.exists():
        write_private(file, f"{secrets.token_hex(32)}\n".encode())
    return file


def withdraw(folder: Path) -> None:
    (folder / FILE).unlink(missing_ok=True)


def find(folder: Path) -> RunningStack | None:
    """The stack that runs in the folder; None where there is none, or one that was killed and left its file.

    Raises ConfigError for a file that cannot be read."""
    file = folder / FILE
    if not file.exists() or not _is_locked(folder / LOCK):
        return None
    try:
        return msgspec.json.decode(file.read_bytes(), type=RunningStack, dec_hook=lambda type_, value: type_(value))
    except FileNotFoundError:  # it has stopped in between
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise ConfigError(f"{file} cannot be read: {error}; stop the stack and start it again") from error


def is_changing(folder: Path) -> bool:
    """A stack is starting there, or stopping: it has the folder, and does not say where it is."""
    return _is_locked(folder / LOCK) and not (folder / FILE).exists()


def with_running_stack(settings: Settings) -> Settings:
    """The same settings, with the folder and the addresses of the stack that runs in place of defaults; what file or
    environment say stays."""
    changes: dict[str, object] = {}
    folder = settings.stack.state_dir
    if "state_dir" not in settings.stack.model_fields_set and not _is_locked(folder / LOCK):
        folder = _latest() or folder
        changes["stack"] = settings.stack.model_copy(update={"state_dir": folder})
    stack = find(folder)
    if stack is None:
        return settings
    if "brokers" not in settings.kafka.model_fields_set:
        kafka = settings.kafka.for_embedded() if stack.embedded else settings.kafka
        theirs = ("brokers", "partitions", "homes", "control_key_file")
        changes["kafka"] = kafka.model_copy(update={name: getattr(stack, name) for name in theirs})
    if "dsn" not in settings.clickhouse.model_fields_set:
        changes["clickhouse"] = settings.clickhouse.model_copy(update={"dsn": SecretStr(stack.clickhouse)})
    found = settings.model_copy(update=changes)
    remember(found)
    return found


def _latest() -> Path | None:
    """The folder that was announced last."""
    try:
        return Path(os.fsdecode((_users_folder() / LATEST).read_bytes()))
    except OSError:  # nobody has, or not for us
        return None


def _users_folder() -> Path:
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")


def _is_locked(lock: Path) -> bool:
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False

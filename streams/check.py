"""What a start would find wrong with the settings' surroundings: files, folders, models, names. Nothing is changed."""

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from yarl import URL

from driftline.schemas.errors import ConfigError
from driftline.sinks.notify.build import wrong
from driftline.streams.embed.config import BUNDLED
from driftline.streams.settings import Settings

LOCAL = ("127.0.0.1", "localhost", "[::1]")
HUB_S = 5.0  # for the model hub's answer
_SLACK = ("hooks.slack.com", "hooks.slack-gov.com")


def errors(settings: Settings) -> list[str]:
    """What a start would stop at, a line each."""
    return [*_kafka(settings), *wrong(settings.notify), *_embed(settings), *_health(settings), *_folder(settings)]


def hints(settings: Settings) -> list[str]:
    """What a start would take, and a production should not."""
    return list(_hints(settings))


def is_local(settings: Settings) -> bool:
    return all(address.strip().rpartition(":")[0] in LOCAL for address in settings.kafka.brokers.split(","))


def _kafka(settings: Settings) -> Iterator[str]:
    for look in (settings.kafka.client_options, settings.kafka.control_secret):
        try:
            look()
        except ConfigError as error:
            yield str(error)


def _embed(settings: Settings) -> Iterator[str]:
    model = settings.embed.model
    if model != BUNDLED:
        yield from _model(model)
    if settings.embed.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            yield "embed.device: it is cuda, and there is no CUDA device; expected auto or cpu"


def _model(model: str) -> Iterator[str]:
    folder = Path(model).expanduser()
    if folder.is_dir():
        if not (folder / "modules.json").exists() and not (folder / "config.json").exists():
            yield f"embed.model: the folder {model} holds no model: expected modules.json or config.json in it"
        return
    if model.startswith((".", "/", "~")) or model.count("/") > 1 or folder.exists():
        yield f"embed.model: there is no folder {model}"
        return
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    name = model if "/" in model else f"sentence-transformers/{model}"  # as sentence-transformers looks for it
    expected = f"expected {BUNDLED}, which is bundled, or a folder, or a name on the Hugging Face Hub"
    try:
        if isinstance(try_to_load_from_cache(name, "config.json"), str):
            return
        HfApi().model_info(name, timeout=HUB_S)
    except (HfHubHTTPError, HFValidationError):
        yield f"embed.model: nobody knows a model {model!r}; {expected}"
    except (OSError, ConnectionError, RuntimeError) as error:
        reason = type(error).__name__
        yield f"embed.model: {model!r} is not on this machine, and the Hub does not answer ({reason}); {expected}"


def _health(settings: Settings) -> Iterator[str]:
    host = settings.health.host
    try:
        socket.getaddrinfo(host or None, settings.health.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        yield f"health.host: {host!r} is no address of this machine; expected 127.0.0.1, or 0.0.0.0 for all"


def _folder(settings: Settings) -> Iterator[str]:
    """Of the local stack: it is made when missing."""
    folder = settings.stack.state_dir
    try:
        existing = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
        if not stat.S_ISDIR(existing.stat().st_mode):
            yield f"stack.state_dir: {existing} is no folder"
        elif not os.access(existing, os.W_OK | os.X_OK) or _is_read_only(existing):
            yield f"stack.state_dir: {folder} cannot be written by this user"
    except OSError as error:
        yield f"stack.state_dir: {folder}: {error.strerror}"


def _is_read_only(folder: Path) -> bool:
    return bool(os.statvfs(folder).f_flag & os.ST_RDONLY)


def _hints(settings: Settings) -> Iterator[str]:
    kafka = settings.kafka
    if not is_local(settings):
        if kafka.control_key is None and kafka.control_key_file is None:
            yield (
                "kafka.control_key: not set, so whoever may write to the events topic can forge ticks and baselines; "
                "`openssl rand -hex 32` makes one, the same for all roles"
            )
        if kafka.replication < 3 and kafka.brokers.count(",") >= 2:
            yield f"kafka.replication: {kafka.replication} with several brokers: new topics go down with one of them"
        if kafka.security_protocol in ("PLAINTEXT", "SASL_PLAINTEXT"):
            yield f"kafka.security_protocol: {kafka.security_protocol} sends prompts and responses in the clear"
    notify = settings.notify
    if notify.dry_run:
        yield "notify.dry_run: alerts are only logged"
    elif notify.pagerduty is None and notify.slack is None and not notify.webhooks:
        yield "notify: nobody is told but the log; set notify.pagerduty, notify.slack or [[notify.webhooks]]"
    if notify.slack is not None and not _is_slack(notify.slack.webhook_url.get_secret_value()):
        yield "notify.slack.webhook_url: not one of Slack's own (https://hooks.slack.com/…): alerts go where it says"


def _is_slack(url: str) -> bool:
    try:
        return URL(url).host in _SLACK
    except ValueError:
        return False

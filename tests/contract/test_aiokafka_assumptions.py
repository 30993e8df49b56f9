"""Every known pitfall of aiokafka 0.14, and how it does not reach us: A1 to A9, by number.

| no. | pitfall | here |
| --- | --- | --- |
| A1 | defaults that lose: acks of one broker, no idempotence, automatic commits, offset reset to the end | test_defaults_that_lose_are_overridden, test_every_consumer_has_the_options_of_readers_and_changes_none |
| A2 | an idempotent producer can be stuck on a wrong sequence number | test_a_wrong_sequence_number_is_an_error_that_we_hear_of: a role whose send fails ends and starts anew; tests/storms kill the broker under load |
| A3 | a consumer goes silent | as F10 of test_faust_unused: the stall watch |
| A4 | long work between polls leaves the group | test_long_work_does_not_cost_the_membership |
| A5 | no cooperative assignor | test_there_is_no_cooperative_assignor: when there is one, rebalances could stop the world less |
| A6 | `stop()` can hang | test_every_stop_is_bounded; tests/storms stop roles while the broker is frozen |
| A7 | OpenTelemetry's instrumentation leaks with automatic commits | test_nothing_instruments_clients |
| A8 | transactions fail on coordinator changes | test_no_transactions |
| A9 | `api_version` went and came back, linger changed | test_the_version_is_bounded, test_nobody_passes_api_version |
"""  # noqa: E501 (a table has long lines)

import ast
import inspect
import pkgutil
from collections.abc import Iterator
from importlib.metadata import requires, version
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.coordinator import assignors
from aiokafka.errors import KafkaError, KafkaTimeoutError, NotLeaderForPartitionError, OutOfOrderSequenceNumber

import driftline.producers
import driftline.streams
from driftline.producers.config import ProducerConfig
from driftline.producers.kafka import reader_options
from driftline.schemas.batches import bounded_batches
from driftline.streams import archive, notify
from driftline.streams.runtime import worker
from driftline.streams.runtime.config import KafkaConfig

FOLDERS = [Path(next(iter(package.__path__))) for package in (driftline.streams, driftline.producers)]
FOLDERS.append(Path(__file__).parents[2] / "benchmarks")
READER = {"value_deserializer", "isolation_level", "enable_auto_commit", "auto_offset_reset", "bootstrap_servers"}


def calls(*names: str) -> Iterator[tuple[str, ast.Call]]:
    for folder in FOLDERS:
        for path in sorted(folder.rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in names:
                    yield f"{folder.name}/{path.relative_to(folder)}:{node.lineno}", node


def default(of: type, name: str) -> Any:
    return inspect.signature(of).parameters[name].default


def test_defaults_that_lose_are_overridden() -> None:
    hurtful = {"enable_auto_commit": True, "auto_offset_reset": "latest", "metadata_max_age_ms": 300_000}
    assert {name: default(AIOKafkaConsumer, name) for name in hurtful} == hurtful
    assert default(AIOKafkaProducer, "enable_idempotence") is False
    assert default(AIOKafkaProducer, "linger_ms") == 0

    config = KafkaConfig()
    reader, producer = config.reader_options(), config.producer_options()
    assert (reader["enable_auto_commit"], reader["auto_offset_reset"]) == (False, "none")
    assert (producer["acks"], producer["enable_idempotence"]) == ("all", True)
    assert config.client_options()["metadata_max_age_ms"] <= 3_000


def test_every_consumer_has_the_options_of_readers_and_changes_none() -> None:
    found = list(calls("AIOKafkaConsumer"))
    assert len(found) >= 8
    for where, call in found:
        spread = [keyword.value for keyword in call.keywords if keyword.arg is None]
        names = [ast.unparse(value.func).split(".")[-1] for value in spread if isinstance(value, ast.Call)]
        assert "reader_options" in names, where
        assert len(names) == len(spread), f"{where} spreads more than options"
        may_change = {"auto_offset_reset"} if where.startswith("producers/") else set()  # it commits nothing
        given = {keyword.arg for keyword in call.keywords if keyword.arg is not None}
        assert not given & READER - may_change, where


def test_nobody_makes_a_consumer_under_another_name() -> None:
    for folder in FOLDERS:
        for path in sorted(folder.rglob("*.py")):
            tree = ast.parse(path.read_text())
            called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
            for node in ast.walk(tree):
                if isinstance(node, ast.alias) and node.name.endswith("AIOKafkaConsumer"):
                    assert node.asname is None, path
                if isinstance(node, ast.Assign) and id(node.value) not in called:
                    assert not ast.unparse(node.value).endswith("AIOKafkaConsumer"), path


def test_readers_bound_their_batches_and_never_see_what_a_transaction_took_back() -> None:
    for options in (KafkaConfig().reader_options(), reader_options(ProducerConfig(app="a"))):
        assert options["value_deserializer"] is bounded_batches
        assert options["isolation_level"] == "read_committed"
        assert options["enable_auto_commit"] is False


def test_a_wrong_sequence_number_is_an_error_that_we_hear_of() -> None:
    assert issubclass(OutOfOrderSequenceNumber, KafkaError)
    send = inspect.getsource(worker.FaustRole._send)
    assert "except (TimeoutError, KafkaError)" in send
    assert "raise RetryableError" in send


def test_a_producer_that_lost_count_is_not_asked_again() -> None:
    """It does not recover by itself: whoever sends again for ever must not have an idempotent one."""
    assert not archive._will_pass(OutOfOrderSequenceNumber())
    assert archive._will_pass(KafkaTimeoutError())
    assert archive._will_pass(NotLeaderForPartitionError())
    assert '"enable_idempotence": False' in inspect.getsource(archive._archive)


def test_long_work_does_not_cost_the_membership() -> None:
    """A Faust role absorbs at most a mebibyte of records between polls; the others may wait for days."""
    assert default(AIOKafkaConsumer, "max_poll_interval_ms") == 300_000
    assert default(AIOKafkaConsumer, "max_partition_fetch_bytes") == 2**20
    assert archive.FOREVER_MS >= 7 * 24 * 3_600_000
    assert notify.IDLE_MS >= 24 * 3_600_000
    for module, limit in ((archive, "FOREVER_MS"), (notify, "IDLE_MS")):
        assert f"max_poll_interval_ms={limit}" in inspect.getsource(module)


def test_there_is_no_cooperative_assignor() -> None:
    found = {module.name for module in pkgutil.walk_packages(assignors.__path__)}
    assert found == {"abstract", "range", "roundrobin", "sticky"}


def test_every_stop_is_bounded() -> None:
    assert worker.STOP_TIMEOUT_S <= 5
    assert "asyncio.timeout(STOP_TIMEOUT_S)" in inspect.getsource(worker.FaustRole._end)
    assert archive.STOP_S <= 3


def test_nothing_instruments_clients() -> None:
    for folder in FOLDERS:
        for path in folder.rglob("*.py"):
            assert "opentelemetry.instrumentation" not in path.read_text(), path


def test_no_transactions() -> None:
    for where, call in calls("AIOKafkaProducer", "AIOKafkaConsumer"):
        options = {keyword.arg for keyword in call.keywords}
        assert "transactional_id" not in options, where
    assert not list(calls("begin_transaction", "commit_transaction", "send_offsets_to_transaction"))


def test_the_version_is_bounded() -> None:
    assert version("aiokafka").split(".")[:2] == ["0", "14"]
    assert any(
        one.replace(" ", "") in ("aiokafka<0.15,>=0.14", "aiokafka>=0.14,<0.15") for one in requires("driftline") or []
    )


@pytest.mark.parametrize("client", [AIOKafkaConsumer, AIOKafkaProducer])
def test_nobody_passes_api_version(client: type) -> None:
    assert default(client, "api_version") is None
    assert not [where for where, call in calls(client.__name__) if "api_version" in ast.unparse(call)]

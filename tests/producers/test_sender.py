import logging
import subprocess
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import pytest
from aiokafka.errors import (
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    OutOfOrderSequenceNumber,
    TopicAuthorizationFailedError,
)

from driftline.producers import Tracer
from driftline.schemas.events import Trace
from tests.producers.conftest import FakeCluster

NOON = 1_793_620_800_000_000


def trace(i: int) -> Trace:
    return Trace(app=f"app-{i % 2}", ts=NOON, trace_id=str(i))


def ids(cluster: FakeCluster) -> list[str]:
    return [event.trace_id for event in cluster.events() if isinstance(event, Trace)]


def tracer(**settings: Any) -> Tracer:
    return Tracer("app", **{"linger_ms": 1, "max_batch_events": 2, **settings})


def test_events_are_batched_by_app(cluster: FakeCluster) -> None:
    t = tracer(max_batch_events=100, linger_ms=60_000)
    t.emit_many(trace(i) for i in range(10))
    assert t.flush()  # does not wait for company
    assert sorted(key for key, _ in cluster.records) == [b"app-0", b"app-1"]
    assert sorted(ids(cluster), key=int) == [str(i) for i in range(10)]
    assert t.close()


def test_a_full_batch_does_not_linger(cluster: FakeCluster, until: Callable[..., None]) -> None:
    t = tracer(linger_ms=60_000)
    t.emit(trace(0))
    t.emit(trace(2))
    until(lambda: t.stats().sent == 2)
    assert t.close()


def test_a_flush_of_nothing_does_not_end_the_sender(cluster: FakeCluster, until: Callable[..., None]) -> None:
    t = tracer()
    buffer = t._sender._buffer
    t.emit(trace(0))
    assert t.flush(20)
    until(lambda: buffer._wake_at == 1)  # the sender is asleep
    assert t.flush(20)
    until(lambda: not buffer._hurry)  # the sender has looked,
    until(lambda: buffer._wake_at == 1)  # and sleeps again
    t.emit(trace(1))
    assert t.flush(20)
    assert t.stats().sent == 2
    assert t.close()


def test_linger_ends(cluster: FakeCluster, until: Callable[..., None]) -> None:
    t = tracer(max_batch_events=1000)
    t.emit(trace(0))
    until(lambda: t.stats().sent == 1)
    t.emit(trace(0))
    until(lambda: t.stats().sent == 2)
    assert t.close()


@pytest.mark.parametrize(
    "error", [KafkaTimeoutError(), OutOfOrderSequenceNumber(), TopicAuthorizationFailedError("t"), AssertionError("?")]
)
@pytest.mark.parametrize("where", ["fail", "fail_ack"])
def test_what_failed_is_sent_again_by_a_new_producer(
    error: Exception, where: str, cluster: FakeCluster, caplog: pytest.LogCaptureFixture
) -> None:
    failures = iter([None, error, None, None, error])
    setattr(cluster, where, lambda value: next(failures, None))
    t = tracer()
    with caplog.at_level(logging.INFO, "driftline.producers"):
        t.emit_many(trace(2 * i) for i in range(8))
        assert t.flush(20)
    assert sorted(ids(cluster), key=int) == [str(2 * i) for i in range(8)]
    assert cluster.producers >= 2
    assert t.stats().sent == 8
    assert t.stats().dropped == {}
    assert sum(record.levelno == logging.WARNING for record in caplog.records) <= 2
    assert t.close()


def test_no_broker_at_first(cluster: FakeCluster) -> None:
    cluster.refuse_connections = 3
    t = tracer()
    t.emit_many(trace(i) for i in range(6))
    assert t.flush(20)
    assert len(ids(cluster)) == 6
    assert t.close()


def test_the_brokers_own_limit_costs_one_event(cluster: FakeCluster) -> None:
    cluster.fail_ack = lambda value: MessageSizeTooLargeError("too large") if b'"2"' in value else None
    t = tracer(max_batch_events=1)
    t.emit_many(trace(i) for i in range(6))
    assert t.flush(20)
    assert "2" not in ids(cluster)
    assert len(ids(cluster)) == 5
    assert t.stats().dropped == {"too_large": 1}
    assert t.close()


def test_memory_is_bounded_while_the_broker_is_away(cluster: FakeCluster) -> None:
    cluster.open.clear()
    t = tracer(max_pending_events=10)
    t.emit_many(trace(i) for i in range(100))
    assert t.stats().pending == 10
    assert t.stats().dropped == {"full": 90}
    assert not t.flush(0.01)
    cluster.open.set()
    assert t.flush(20)
    assert sorted(ids(cluster), key=int) == [str(i) for i in range(10)]
    assert t.close()


def test_close_gives_up_in_time_and_counts(cluster: FakeCluster) -> None:
    cluster.open.clear()
    t = tracer()
    t.emit_many(trace(i) for i in range(5))
    assert not t.close(0.01)
    t.emit(trace(6))
    stats = t.stats()
    assert stats.dropped == {"undelivered": 5, "closed": 1}
    assert stats.emitted == 6
    assert stats.pending == 0


def run(script: str, *args: str) -> str:
    """In a process of its own, for what pytest's process must not go through."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script), *args],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout


FORK = """
import os, sys
from driftline.producers import Tracer

tracer = Tracer("fork", brokers=sys.argv[1], topic_prefix="fork")
with tracer.trace("parent-before"):
    pass
assert tracer.flush(20)
with tracer.trace("parent-pending"):
    pass
pids = []
producer = tracer._sender._producer
for i in range(2):
    pid = os.fork()
    if pid == 0:
        assert tracer.stats().emitted == 0
        with tracer.trace(f"child-{i}"):
            pass
        assert tracer.close(20)
        assert tracer.stats().sent == 1
        os._exit(0) if i else sys.exit(0)  # with finalizers and without
    pids.append(pid)
assert all(os.waitpid(pid, 0)[1] == 0 for pid in pids)
with tracer.trace("parent-after"):
    pass
assert tracer.flush(20)
assert tracer._sender._producer is producer  # the children did not break the parent's connection
assert tracer.close(20)
assert tracer.stats().sent == 3
"""

EXIT = """
import sys
from driftline.producers import Tracer

tracer = Tracer("exit", brokers=sys.argv[1].replace("127.0.0.1", "localhost"), topic_prefix="exit")
with tracer.trace("last-words"):
    pass
"""


def models(consumed: list[Trace]) -> list[str]:
    return sorted(trace.request_model for trace in consumed)


async def test_a_fork_sends_its_own_and_only_its_own(tansu: str, read_traces: Any) -> None:
    run(FORK, tansu)
    consumed = await read_traces(tansu, "fork.events", 5)
    assert models(consumed) == ["child-0", "child-1", "parent-after", "parent-before", "parent-pending"]


async def test_events_are_flushed_at_exit(tansu: str, read_traces: Any) -> None:
    run(EXIT, tansu)
    assert models(await read_traces(tansu, "exit.events", 1)) == ["last-words"]

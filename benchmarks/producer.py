"""What a traced call costs the application, in microseconds of its own thread, against the same loop without tracing;
and how fast ready events go out. With a broker given, events are really sent; without one, the embedded broker is used.

    python benchmarks/producer.py [--brokers host:port] [--calls 50000]
"""

import argparse
import json
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from driftline.producers import Tracer
from driftline.schemas.events import Trace
from driftline.streams.embedded_kafka import EmbeddedKafka

QUESTION = "My laptop does not start any more since the last update, what can I do about it? " * 4
ANSWER = "Hold the power button for ten seconds, then start it again and choose the last kernel. " * 5
REPEATS = 5


def bare(calls: int) -> int:
    total = 0
    for _ in range(calls):
        total += len(QUESTION) + len(ANSWER)
    return total


def traced(tracer: Tracer, calls: int) -> int:
    total = 0
    for _ in range(calls):
        with tracer.trace(
            "gpt-4o-mini", provider="openai", conversation_id="c-1", user_id="u-1", input_text=QUESTION
        ) as call:
            total += len(QUESTION) + len(ANSWER)
            call.first_token()
            call.output_text = ANSWER
            call.usage(input_tokens=80, output_tokens=100)
    return total


def microseconds(function: Callable[[], Any], calls: int, between: Callable[[], Any]) -> list[float]:
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        function()
        times.append((time.perf_counter() - started) / calls * 1e6)
        between()
    return times


def import_seconds(statement: str) -> float:
    def once() -> float:
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", statement], check=True)
        return time.perf_counter() - started

    return min(once() for _ in range(5))


def measure(brokers: str, idempotent: bool, calls: int) -> dict[str, Any]:
    settings: dict[str, Any] = {"max_pending_events": 10_000_000, "max_pending_bytes": 2**31}
    tracer = Tracer("bench", brokers=brokers, idempotent=idempotent, topic_prefix="bench", **settings)
    traced(tracer, 1000)
    assert tracer.flush(60)
    loop = microseconds(lambda: bare(calls), calls, lambda: None)
    sending = microseconds(lambda: traced(tracer, calls), calls, lambda: tracer.flush(60))

    # An outage: the buffer is full, and every call is counted and refused.
    down = Tracer("bench", brokers="127.0.0.1:1", max_pending_events=1)
    refused = microseconds(lambda: traced(down, calls), calls, lambda: None)
    down.close(0)

    disabled = Tracer("bench", enabled=False)
    off = microseconds(lambda: traced(disabled, calls), calls, lambda: None)

    event = Trace(app="bench", ts=1_793_620_800_000_000, trace_id="t" * 32, input_text=QUESTION, output_text=ANSWER)
    started = time.perf_counter()
    tracer.emit_many(event for _ in range(calls))
    flushed = tracer.flush(60)
    throughput = calls / (time.perf_counter() - started)
    stats = tracer.stats()
    tracer.close()

    base = statistics.median(loop)
    return {
        "calls": calls,
        "event_bytes": len(QUESTION) + len(ANSWER),
        "overhead_us": {
            "sending": round(statistics.median(sending) - base, 2),
            "sending_best": round(min(sending) - base, 2),
            "broker_down_buffer_full": round(statistics.median(refused) - base, 2),
            "disabled": round(statistics.median(off) - base, 2),
        },
        "acknowledged_events_per_second": round(throughput) if flushed else None,
        "dropped": dict(stats.dropped),
        "import_seconds": round(import_seconds("import driftline.producers") - import_seconds("pass"), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--brokers", help="an Apache Kafka to use instead of the embedded broker")
    parser.add_argument("--calls", type=int, default=50_000)
    arguments = parser.parse_args()
    if arguments.brokers:
        result = measure(arguments.brokers, True, arguments.calls)
    else:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        with EmbeddedKafka(port) as broker:
            result = measure(broker.brokers, False, arguments.calls)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()

"""`driftline tail`: events and results as they come. Joins no group and commits nothing."""

import json
import sys
from collections.abc import AsyncGenerator, Collection, Iterator
from contextlib import aclosing
from typing import Any

import click
import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from rich.text import Text

from driftline.schemas.clock import utc
from driftline.schemas.codec import DecodeError, decode, decode_logged
from driftline.schemas.errors import RetryableError
from driftline.schemas.results import result_types
from driftline.schemas.text import for_log
from driftline.schemas.topics import Topics
from driftline.streams.operate.commands import settings_of
from driftline.streams.runtime.admin import require_topics
from driftline.streams.settings import Settings
from driftline.streams.terminal import console, run

EVENTS = ("trace", "score", "release", "tick", "baseline_set", "reject")
RESULTS = {
    "window": "windows", "left_out": "windows", "evidence": "evidence", "alert": "alerts", "rollback": "rollbacks",
    "breaker": "breakers", "baseline": "baselines", "dead_letter": "dlq",
}  # fmt: skip
USUAL = ("trace", "score", "release", "reject", "alert", "rollback", "breaker", "dead_letter")
WAIT_MS = 500
VALUE = 60  # characters of a value in a line
_STYLES = {"alert": "bold red", "rollback": "bold red", "breaker": "yellow", "reject": "red", "dead_letter": "red"}
_TIMES = ("ts", "at", "decided_at", "start")
_FIRST = (
    "release", "rule", "state", "detector", "name", "value", "status", "error_type", "response_model", "request_model",
    "latency_ms", "summary", "reason", "input_text", "output_text", "trace_id",
)  # fmt: skip


@click.command("tail")
@click.option("--app", help="One app alone.")
@click.option("--type", "types", multiple=True, type=click.Choice([*EVENTS, *RESULTS]),
              help=f"May be repeated; without it {', '.join(USUAL)}.")  # fmt: skip
@click.option("-n", "--number", type=click.IntRange(min=1), help="Stop after so many.")
@click.option("--json", "as_json", is_flag=True, help="An object a line, whole.")
@click.pass_context
def tail_command(
    ctx: click.Context, app: str | None, types: tuple[str, ...], number: int | None, as_json: bool
) -> None:
    """Follow events and results as they come, until Ctrl-C."""
    run(_follow(settings_of(ctx), app, set(types or USUAL), number, as_json))


async def _follow(settings: Settings, app: str | None, types: Collection[str], most: int | None, as_json: bool) -> None:
    shown = 0
    async with aclosing(_records(settings, _topics_of(types, settings.topics))) as records:
        async for topic, value in records:
            for item in items(topic, value, settings.topics):
                if item["type"] not in types or (app is not None and item.get("app") != app):
                    continue
                if as_json:
                    click.echo(json.dumps(item))
                else:
                    console.print(line(item), soft_wrap=True, highlight=False)
                shown += 1
                if shown == most:
                    return
            sys.stdout.flush()


def _topics_of(types: Collection[str], topics: Topics) -> list[str]:
    names = {getattr(topics, RESULTS[kind]) for kind in types if kind in RESULTS}
    return sorted(names | ({topics.events} if set(types) & set(EVENTS) else set()))


async def _records(settings: Settings, topics: list[str]) -> AsyncGenerator[tuple[str, bytes | None], None]:
    """From now on. Raises ConfigError for a topic that is missing, RetryableError when Kafka does not answer."""
    await require_topics(settings.kafka, topics)
    consumer = AIOKafkaConsumer(**settings.kafka.reader_options())
    try:
        await consumer.start()
        partitions = [TopicPartition(topic, n) for topic in topics for n in range(settings.kafka.partitions)]
        consumer.assign(partitions)
        await consumer.seek_to_end()
        while True:
            for records in (await consumer.getmany(timeout_ms=WAIT_MS)).values():
                for record in records:
                    yield record.topic, record.value
    except KafkaError as error:
        raise RetryableError(settings.kafka.no_answer(error)) from error
    finally:
        await consumer.stop()


def items(topic: str, value: bytes | None, topics: Topics) -> Iterator[dict[str, Any]]:
    """What a record holds, as JSON has it; what cannot be read as a `reject` with the reason."""
    if topic == topics.events:
        found = decode_logged(value)
        yield from map(_plain, found.events)
        for reject in found.rejects:
            yield {"type": "reject", "reason": reject.reason}
        return
    try:
        result = decode(value, result_types(topics)[topic])
    except DecodeError as error:
        yield {"type": "reject", "reason": str(error)}
    else:
        plain = _plain(result)
        yield plain if "type" in plain else {"type": "dead_letter", **plain}


def line(item: dict[str, Any]) -> Text:
    """One line: when, what, of which app, and what people look for first."""
    at = next((item[name] for name in _TIMES if isinstance(item.get(name), int)), None)
    parts = [f"{name}={for_log(item[name], VALUE)}" for name in _FIRST if item.get(name) not in (None, "")]
    return Text.assemble(
        ("" if at is None else f"{utc(at):%H:%M:%S} ", "dim"),
        (f"{item['type']:8} ", _STYLES.get(item["type"], "cyan")),
        (f"{for_log(item.get('app') or '', VALUE)} ", "bold"),
        " ".join(parts),
    )


def _plain(value: Any) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(value)
    return found

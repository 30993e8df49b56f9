"""`driftline demo`: the stack around the demo, and its picture."""

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from driftline.schemas.clock import SystemClock
from driftline.sinks.clickhouse.config import ClickHouseConfig
from driftline.sinks.clickhouse.query import count_rows
from driftline.streams.demo.runner import run_demo
from driftline.streams.demo.summary import Summary
from driftline.streams.demo.view import DemoView
from driftline.streams.local_stack import LocalStack
from driftline.streams.patience import Work, nobody
from driftline.streams.roles import ROLES
from driftline.streams.running import LOCK
from driftline.streams.runtime.admin import delete_topics, wait_for_broker
from driftline.streams.runtime.config import KafkaConfig
from driftline.streams.settings import Settings
from driftline.streams.start_view import StartView
from driftline.streams.supervisor import OnProgress, run
from driftline.streams.terminal import errors

FOLDER = "demo"  # under the state folder: each run begins with nothing, the last one's data stays to be queried
BROKER_ANSWERS_S = 10.0
FETCH_MS = 20  # each of 330 slices waits for four hops: latency is what a demo's time is made of

# The scenario brings its own time, wants every request embedded, and must not page anybody.
OVERRIDES = {
    "DRIFTLINE_TICKS__ENABLED": "false",
    "DRIFTLINE_NOTIFY__DRY_RUN": "true",
    "DRIFTLINE_DETECTORS__BUDGET__TICK_S": "5",  # 25 requests a step; a step a second is for busier apps
    "DRIFTLINE_DETECTORS__EMBEDDING_DRIFT__CHAINS": "250",  # a second for a baseline's thresholds, at some precision
    "DRIFTLINE_EMBED__THREADS": "2",  # at first every text is new and everybody waits for its embedding
    "DRIFTLINE_EMBED__SAMPLE__RATE": "1.0",
    "DRIFTLINE_EMBED__SAMPLE__BUDGET": "100000",
}


def run_command(
    settings: Settings,
    console: Console,
    *,
    seed: int,
    speed: float | None,
    brokers: str | None,
    attach: bool,
    config_file: Path | None,
    picture: Path | None,
) -> Summary:
    """Start what is needed, play the scenario, stop everything. `brokers`: an own Kafka in place of the embedded one.
    `attach`: start nothing, the pipeline of the settings is running, with `ticks.enabled = false`."""
    summaries: list[Summary] = []

    async def play(kafka: KafkaConfig, clickhouse: ClickHouseConfig, measure: Callable[[], Work] = nobody) -> None:
        await wait_for_broker(kafka, BROKER_ANSWERS_S)

        async def count(table: str) -> int:
            return await asyncio.to_thread(count_rows, clickhouse, table)

        with DemoView(console, errors) as view:
            summaries.append(
                await run_demo(kafka, count, seed=seed, speed=speed, on_update=view.update, measure=measure)
            )
        view.show(summaries[0])
        if picture is not None:
            view.save_picture(picture, summaries[0])

    if attach:
        asyncio.run(play(settings.kafka, settings.clickhouse))
    else:
        with StartView() as starting:
            stack = _stack(settings, brokers, config_file, starting.update)

            async def work() -> None:
                starting.stop()
                await play(stack.kafka, stack.clickhouse, stack.stack.work)

            asyncio.run(run(stack.stack, work))
        if brokers:
            asyncio.run(delete_topics(stack.kafka, stack.topics))
    if not summaries:
        raise KeyboardInterrupt  # or SIGTERM: stopped before its end
    return summaries[0]


def _stack(settings: Settings, brokers: str | None, config_file: Path | None, on_progress: OnProgress) -> LocalStack:
    folder = settings.stack.state_dir / FOLDER
    local = settings.stack.model_copy(update={"state_dir": folder, "kafka_port": 0, "clickhouse_port": 0})
    health = settings.health.model_copy(update={"port": 0})  # beside a stack that runs
    kafka = settings.kafka.model_copy(update={"partitions": 1, "homes": None})  # one app is one partition
    if brokers:  # it may hold anything, an earlier demo too
        kafka = kafka.model_copy(update={"prefix": f"{kafka.prefix}-demo-{SystemClock().now()}"})
    return LocalStack(
        settings.model_copy(update={"stack": local, "kafka": kafka, "health": health}),
        list(ROLES),
        brokers=brokers,
        config_file=config_file,
        env=OVERRIDES,
        fetch_max_wait_ms=FETCH_MS,
        on_progress=on_progress,
        before_start=lambda: _empty(folder),
    )


def _empty(folder: Path) -> None:
    """What an earlier demo left, but for the lock, which is held."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()

"""Both sources give what the first run gave, to the last digit; and where they do not, it is seen."""

import asyncio

import pytest

from driftline.schemas.errors import ConfigError
from driftline.schemas.events import MICROSECONDS
from driftline.streams.operate.replay import Replayed, Source, Span, prepare, replay
from tests.streams.operate.conftest import START, Pipeline, score, trace

SOURCES: tuple[Source, ...] = ("kafka", "clickhouse")


async def replayed(pipeline: Pipeline, source: Source, span: Span | None = None) -> Replayed:
    return await replay(pipeline.settings, span or Span(), source, None, lambda what, at: None)


def tables(found: Replayed) -> dict[str, tuple[int, int, int]]:
    return {c.name: (c.first, c.replay, c.equal) for c in found.comparisons}


async def incident(pipeline: Pipeline, *, minutes: int = 4, late: bool = False) -> None:
    """An app whose provider fails in the end; a tick every second, with nothing before it left to come."""
    n = 0
    for second in range(minutes * 60):
        events = []
        for i in range(8):
            n += 1
            failed = second > minutes * 45
            events.append(
                trace(
                    n,
                    second + i / 10,
                    conversation_id=f"c{n}",
                    provider="openai",
                    request_model="gpt-4o",
                    input_tokens=100 + n % 50,
                    output_tokens=n % 30,
                    status="error" if failed else "ok",
                    error_type="500" if failed else "",
                )
            )
        more = [score(n, second, model="gpt-4o")] if second % 3 == 0 else []
        too_late = (
            [trace(100_000 + second, second - 2_000, request_model="gpt-4o")] if late and second % 100 == 99 else []
        )
        await pipeline.send([*events, *more, *too_late])
        await pipeline.tick(second + 1)
    await pipeline.tick(minutes * 60 + 66)
    await pipeline.monitor()
    await pipeline.stored("windows", minutes)


async def test_the_log_gives_everything_again_to_the_last_digit(pipeline: Pipeline) -> None:
    await incident(pipeline, late=True)
    found = await replayed(pipeline, "kafka")
    assert not found.failed
    counts = tables(found)
    assert all(first == second == equal for first, second, equal in counts.values())
    assert counts["windows"][0] == 4
    assert counts["left_out"][0] == 2
    assert counts["evidence"][0] > 4
    assert counts["alerts"][0]
    assert counts["breakers"][0]


async def test_clickhouse_gives_windows_and_alerts_again(pipeline: Pipeline) -> None:
    await incident(pipeline)
    found = await replayed(pipeline, "clickhouse")
    assert not found.failed, found.comparisons
    counts = tables(found)
    assert counts["windows"] == (4, 4, 4)
    assert counts["alerts"][0]
    assert all(counts[name][0] == counts[name][2] for name in ("alerts", "breakers", "rollbacks"))


async def test_what_differs_is_seen(pipeline: Pipeline) -> None:
    await incident(pipeline, minutes=3)
    begin = f"toUnixTimestamp64Micro(start) = {START}"
    for sql in (
        f"ALTER TABLE windows_raw DELETE WHERE {begin} SETTINGS mutations_sync = 1",
        "ALTER TABLE windows_raw UPDATE errors = errors + 1 WHERE "
        f"toUnixTimestamp64Micro(start) = {START + 60 * MICROSECONDS} SETTINGS mutations_sync = 1",
    ):
        await asyncio.to_thread(pipeline.command, sql)
    for source in SOURCES:
        found = await replayed(pipeline, source, Span(app="bot"))
        assert found.failed
        windows = found.comparisons[0]
        if source == "kafka":
            assert (windows.equal, len(windows.only_replay)) == (1, 1)
        assert dict(windows.columns) == {"errors": 1}


@pytest.mark.slow
async def test_a_later_start_gives_the_same_windows_and_says_what_it_cannot(pipeline: Pipeline) -> None:
    await incident(pipeline, minutes=4, late=True)
    for source in SOURCES:
        span = Span(START + 60 * MICROSECONDS, START + 180 * MICROSECONDS)
        found = await replayed(pipeline, source, span)
        assert not found.failed
        assert tables(found)["windows"] == (2, 2, 2)


async def test_somebody_elses_database_is_left_alone(pipeline: Pipeline) -> None:
    config = pipeline.settings.clickhouse
    with pytest.raises(ConfigError, match="exists"):
        prepare(config, config.database)
    assert pipeline.command("EXISTS TABLE traces") == "1"

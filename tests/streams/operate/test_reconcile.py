"""Whether `reconcile` sees what is lost, on the embedded Kafka and ClickHouse with the real archive."""

import asyncio
import io

from rich.console import Console

from driftline.schemas.events import Release
from driftline.streams.operate import views
from driftline.streams.operate.balance import Balance, Difference
from driftline.streams.operate.reconcile import reconcile
from driftline.streams.operate.tally import Selection
from tests.streams.operate.conftest import START, Pipeline, score, trace


async def reconciled(pipeline: Pipeline, wait_s: float = 30, app: str | None = None) -> Balance:
    await pipeline.flush()
    windows = pipeline.settings.monitor.windows
    selection = Selection(windows.size_s, app, open_s=windows.grace_s + windows.lateness_s)
    return await reconcile(pipeline.settings, selection, wait_s=wait_s, tell=lambda stage, done, of: None)


async def messy_traffic(pipeline: Pipeline) -> None:
    """Of two apps: duplicates, garbage, an event for a window closed, one too late, one ahead of time."""
    await pipeline.tick(0)
    for second in range(0, 180, 6):
        for app in ("bot", "other"):
            n = second * 10
            events = [trace(n + i, second + i, app) for i in range(3)]
            await pipeline.send([*events, events[0], score(n, second, app)], app)
        await pipeline.tick(second + 6)
    await pipeline.send([Release(app="bot", ts=START, id="r", kind="deploy", release="v2")])
    await pipeline.send_raw(b"{oops")
    await pipeline.send_raw(b'[{"type":"trace","app":"bot","ts":3,"trace_id":"x"}]')
    await pipeline.send([trace(5_000, 10), trace(5_001, -5_000), trace(5_002, 50_000)])
    await pipeline.tick(250)


async def test_nothing_is_missing(pipeline: Pipeline) -> None:
    await messy_traffic(pipeline)
    await pipeline.monitor()
    found = await reconciled(pipeline)
    assert found.equal, found.differences
    assert found.events == 30 * 2 * 5 + 1 + 3
    assert found.distinct == 30 * 2 * 4 + 1 + 3
    assert found.dead_letters == 2
    assert found.in_windows == found.distinct - 2  # the release, and the event that is ahead: its window is open
    assert [flight.groups_to_close for flight in found.in_flight] == [1]
    one = await reconciled(pipeline, app="other")
    assert one.equal
    assert (one.distinct, one.dead_letters) == (120, 0)


async def test_what_is_lost_is_found(pipeline: Pipeline) -> None:
    await messy_traffic(pipeline)
    await pipeline.monitor()
    assert (await reconciled(pipeline)).equal
    for sql in (
        "ALTER TABLE traces_raw DELETE WHERE trace_id = 'bot-60'",
        "ALTER TABLE scores_raw DELETE WHERE id = 's1200' AND app = 'other'",
        f"ALTER TABLE windows_raw DELETE WHERE app = 'bot' AND toUnixTimestamp64Micro(start) = {START + 60_000_000}",
        "ALTER TABLE left_out_raw DELETE WHERE reason = 'too_late'",
        "ALTER TABLE dead_letters_raw DELETE WHERE index = -1",
    ):
        await asyncio.to_thread(pipeline.command, f"{sql} SETTINGS mutations_sync = 1")
    found = await reconciled(pipeline)
    letter = found.differences.pop()
    assert letter.place is not None
    assert letter.place.element == -1
    assert {(d.kind, d.app, d.start): (d.topic, d.table, d.windows) for d in found.differences} == {
        ("trace", "bot", START): (31, 30, 31),
        ("score", "other", START + 120_000_000): (10, 9, 10),
        ("trace", "bot", START + 60_000_000): (30, 30, 0),
        ("score", "bot", START + 60_000_000): (10, 10, 0),
        ("trace", "bot", START - 5_040_000_000): (1, 1, 0),
    }


async def test_windows_that_the_monitor_has_not_closed_are_in_flight(pipeline: Pipeline) -> None:
    await pipeline.tick(0)
    await pipeline.send([trace(1, 1)])
    await pipeline.tick(90)
    found = await reconciled(pipeline, wait_s=2)  # nobody runs the monitor
    assert found.equal
    assert (found.distinct, found.windows) == (1, 0)
    assert found.in_flight[0].groups_to_close == 1
    await pipeline.monitor()
    found = await reconciled(pipeline)
    assert found.windows == 1
    assert not found.in_flight


async def test_an_event_that_clickhouse_refused_is_dead_lettered_and_not_missing(pipeline: Pipeline) -> None:
    await asyncio.to_thread(pipeline.command, "ALTER TABLE traces_raw ADD CONSTRAINT c CHECK trace_id != 'bot-2'")
    await pipeline.tick(0)
    await pipeline.send([trace(n, n) for n in range(4)])
    await pipeline.tick(90)
    await pipeline.monitor()
    found = await reconciled(pipeline)
    await asyncio.to_thread(pipeline.command, "ALTER TABLE traces_raw DROP CONSTRAINT c")
    assert found.equal, found.differences
    assert (found.distinct, found.in_windows) == (3, 4)
    await asyncio.to_thread(pipeline.command, "TRUNCATE TABLE dead_letters_raw")
    assert (await reconciled(pipeline)).differences == [Difference("trace", "bot", START, None, 4, 3, 4)]


async def test_rows_of_an_earlier_log_are_not_compared(pipeline: Pipeline) -> None:
    await asyncio.to_thread(
        pipeline.command,
        "INSERT INTO traces_raw (app, ts, trace_id, revision, ingested_at) "
        "VALUES ('bot', '2026-01-01', 'x', 7, now() - 3600)",
    )
    await pipeline.send([trace(1, 1)])
    found = await reconciled(pipeline, wait_s=10)
    assert found.equal
    assert (found.uncovered, found.distinct) == (1, 1)


async def test_what_somebody_altered_is_named_and_not_equal(pipeline: Pipeline) -> None:
    await pipeline.send([trace(1, 1)])
    await pipeline.stored("traces", 1)
    for harm, undo in (
        ("ALTER TABLE traces_raw DROP COLUMN user_id", "ALTER TABLE traces_raw ADD COLUMN user_id String"),
        ("RENAME TABLE scores TO away", "RENAME TABLE away TO scores"),
    ):
        await asyncio.to_thread(pipeline.command, harm)
        found = await reconciled(pipeline, wait_s=0)
        assert not found.equal
        [altered] = found.altered
        assert altered.table in harm
        assert "`driftline migrate --repair`" in altered.do
        console = Console(width=200, record=True, file=io.StringIO())
        console.print(views.balance(found))
        assert altered.what in console.export_text()
        await asyncio.to_thread(pipeline.command, undo)
    assert (await reconciled(pipeline, wait_s=10)).distinct == 1


async def test_a_table_emptied_is_different(pipeline: Pipeline) -> None:
    await pipeline.tick(0)
    await pipeline.send([trace(n, n) for n in range(4)])
    await pipeline.tick(90)
    await pipeline.monitor()
    assert (await reconciled(pipeline)).distinct == 4
    await asyncio.to_thread(pipeline.command, "TRUNCATE TABLE traces_raw")
    assert (await reconciled(pipeline)).differences == [Difference("trace", "bot", START, None, 4, 0, 4)]


async def test_rows_that_retention_removed_are_not_compared(pipeline: Pipeline) -> None:
    """Of the tables' own TTL: one that is not ours may have removed anything."""
    await pipeline.tick(0)
    await pipeline.send([trace(n, n) for n in range(4)])
    await pipeline.tick(90)
    await pipeline.monitor()
    assert (await reconciled(pipeline)).expired == 0
    await asyncio.to_thread(pipeline.command, "TRUNCATE TABLE traces_raw")
    for ttl in ("toDateTime(ts) + toIntervalDay(1)", "toDateTime(ingested_at) + toIntervalDay(90)"):
        await asyncio.to_thread(pipeline.command, f"ALTER TABLE traces_raw MODIFY TTL {ttl}")
        found = await reconciled(pipeline)
        assert (found.equal, found.expired) == ("(ts)" in ttl,) * 2

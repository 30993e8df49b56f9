"""Sums of what strangers say of costs, tokens and scores: exact, in any order, and no end of the monitor."""

import random
from typing import Any

import pytest

from driftline.detectors.burn import Buckets
from driftline.detectors.config import DetectorsConfig
from driftline.detectors.state import pack, unpack
from driftline.schemas.codec import decode_events, encode_events
from driftline.schemas.events import MICROSECONDS, Event, Score, Tick, Trace
from driftline.schemas.results import Result, WindowStats
from driftline.sinks.clickhouse.rows import encode_rows, result_row
from driftline.streams.monitor.config import MonitorConfig, WindowConfig
from driftline.streams.monitor.fold import MonitorFold
from driftline.streams.monitor.windows import Windows, _Window
from driftline.streams.pricing import MOST_NANOUSD, NANO, Pricer
from tests.streams.monitor.log import START, TOPICS, FakeRecord, results_of

MANY = 20_000  # of the highest cost and score these are more than 64 bits hold, in nano-dollars and millionths


def wild(number: int) -> list[Event]:
    name = f"t{number}"
    return [
        Trace(app="bot", ts=START, trace_id=name, cost_usd=1e6, input_tokens=2**40, output_tokens=2**40),
        Score(app="bot", ts=START, id=name, trace_id=name, name="size", value=1e9),
    ]


async def results(events: list[Event], cut: int) -> list[Result]:
    """From a fold that is restored from its state after each of the first records."""
    budget = {"name": "all", "app": "*", "monthly_usd": 100}
    config, detectors = MonitorConfig.model_validate({"cost_budget": [budget]}), DetectorsConfig()
    fold = MonitorFold(config, detectors, TOPICS, Pricer(), None)
    values = [encode_events(events[i : i + cut]) for i in range(0, len(events), cut)]
    ticks = [encode_events([Tick(ts=START + second * MICROSECONDS)]) for second in range(1, 130)]
    found: list[Result] = []
    for offset, value in enumerate([*values, *ticks]):
        found += results_of(await fold.absorb([FakeRecord(offset, value)]))
        if offset < 8 or 68 < offset < 80:
            fold = MonitorFold(config, detectors, TOPICS, Pricer(), fold.snapshot())
    return found


async def test_sums_beyond_64_bits_are_exact_in_any_order() -> None:
    events = [event for number in range(MANY) for event in wild(number)]
    found = await results(events, 8_000)
    [window] = [result for result in found if isinstance(result, WindowStats)]
    assert window.cost_usd == MANY * 1e6
    assert window.scores["size"].mean == 1e9
    assert window.input_tokens == MANY * 2**40
    assert b"null" not in encode_rows([result_row(window, 1)[1]]).replace(b'"latency_ms":null,"ttft_ms":null', b"")
    random.Random(1).shuffle(events)
    again = await results(events, 8_000)
    assert [r for r in again if isinstance(r, WindowStats)] == [window]


@pytest.mark.parametrize("cost", ["1e300", "-0.01", "1e999", "NaN", "-Infinity", "1000000.1", '"1"'])
def test_a_cost_that_none_has_is_refused(cost: str) -> None:
    decoded = decode_events(b'{"type":"trace","app":"a","ts":%d,"trace_id":"t","cost_usd":%b}' % (START, cost.encode()))
    assert (len(decoded.events), len(decoded.rejects)) == (0, 1)


def test_token_counts_that_cost_more_than_an_app_may_report_are_unpriced() -> None:
    def cost(tokens: int) -> Any:
        call = Trace(app="a", ts=START, trace_id="t", provider="openai", request_model="gpt-4o", output_tokens=0)
        call.input_tokens = tokens
        return Pricer().cost_nanousd(call)

    per_token = cost(1_000_000) // 1_000_000
    most = MOST_NANOUSD // per_token
    assert cost(most) == MOST_NANOUSD == 10**6 * NANO
    assert cost(most + 1) is None


def test_buckets_hold_no_more_than_64_bits_and_end_nothing() -> None:
    buckets, length = Buckets(10, 1), 10
    for bucket in range(100):
        buckets.add(bucket, (2**80,))
        buckets.add(bucket, (1,))
        buckets = Buckets(length, 1, unpack(pack(buckets.snapshot())))
    assert buckets.sums(99, [1, 10]) == [[buckets.most], [10 * buckets.most]]
    for bucket in range(100, 110):
        buckets.add(bucket, (bucket,))
    assert buckets.sums(109, [1, 10]) == [[109], [sum(range(100, 110))]]


def test_more_tokens_than_tables_hold_are_told_as_the_most_they_hold() -> None:
    """Nine million calls of the most tokens that a call may have."""
    most = 2**63 - 1
    counts = dict.fromkeys(_Window.COUNTS, most + 1)
    windows = Windows(WindowConfig(), {"windows": [[["bot", "v1", "m", START], {"counts": counts}]]})
    [window] = windows.close(START + 100 * MICROSECONDS, 0)
    assert (window.input_tokens, window.output_tokens, window.cache_read_input_tokens) == (most, most, most)

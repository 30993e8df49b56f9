"""Closed windows as rules see them, without the events behind them."""

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from driftline.detectors.config import BudgetConfig
from driftline.detectors.ddsketch import DDSketch
from driftline.detectors.state import pack, unpack
from driftline.schemas.events import MICROSECONDS
from driftline.streams.monitor.config import MonitorConfig
from driftline.streams.monitor.rules.board import Board
from driftline.streams.monitor.rules.part import Context
from driftline.streams.monitor.windows import NANO, SCORE_UNIT, Closed

START = 1_793_606_400 * MICROSECONDS  # a whole hour
MINUTE = 60 * MICROSECONDS


def window(
    minute: int,
    requests: int = 100,
    errors: int = 0,
    *,
    app: str = "bot",
    release: str = "v1",
    model: str = "m",
    latency: Sequence[float] = (),
    scores: Mapping[str, Sequence[float]] | None = None,
    usd: float | None = 0.0,
    tokens: int = 0,
    corrected: bool = False,
) -> Closed:
    """usd: None where no request could be priced."""
    sketch = DDSketch()
    sketch.add(list(latency))
    nanousd = round((usd or 0) * NANO)
    return Closed(
        app=app,
        release=release,
        model=model,
        start=START + minute * MINUTE,
        corrected=corrected,
        counts={
            "requests": requests,
            "errors": errors,
            "input_tokens": tokens,
            "output_tokens": 0,
            "nanousd": nanousd,
            "priced": 0 if usd is None else requests,
        },
        new_nanousd=nanousd,
        latency=sketch,
        ttft=DDSketch(),
        scores={name: (len(v), round(sum(v) * SCORE_UNIT)) for name, v in (scores or {}).items()},
    )


def end(minute: int) -> int:
    return START + (minute + 1) * MINUTE


CONTEXT = Context(is_stable=lambda app, release: release != "canary", contributors=lambda *_: [])


def board(state: Any = None, **config: Any) -> Board:
    return Board(MonitorConfig(**config), BudgetConfig(), CONTEXT, state)


def assert_order_and_restarts_do_not_matter(
    config: Mapping[str, Any],
    windows: Callable[[int], list[Closed]],
    minutes: int,
    rng: random.Random,
    cuts: Collection[int],
) -> None:
    """windows: of a minute. cuts: the minutes after which one of two boards starts again from its state."""
    plain, shuffled = board(**config), board(**config)
    for minute in range(minutes):
        mine = windows(minute)
        once = plain.close(sorted(mine, key=lambda w: w[:3]), end(minute), minute)
        rng.shuffle(mine)
        assert shuffled.close(mine, end(minute), minute) == once
        if minute in cuts:
            shuffled = board(unpack(pack(shuffled.snapshot())), **config)
    assert pack(plain.snapshot()) == pack(shuffled.snapshot())

"""Closed windows as rules see them, without the events behind them."""

from collections.abc import Mapping, Sequence

from driftline.detectors.ddsketch import DDSketch
from driftline.schemas.events import MICROSECONDS
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

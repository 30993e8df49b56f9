"""An alert's `since` is when the events were, not when their sessions closed."""

import random

from driftline.detectors.config import DetectorsConfig, PitConfig, QualityConfig
from driftline.schemas.events import MICROSECONDS, Score
from driftline.schemas.results import Alert
from driftline.schemas.topics import Topics
from driftline.streams.monitor.config import MonitorConfig
from driftline.streams.monitor.fold import MonitorFold
from driftline.streams.pricing import Pricer
from tests.streams.monitor.log import START, Log, run_log

CONFIG = DetectorsConfig(quality=QualityConfig(min_units=500), quality_pit=PitConfig(min_units=500))
WORSE = 100


async def test_quality_is_worse_since_its_scores_are(topics: Topics) -> None:
    """Sessions close a minute after their first score."""
    rng = random.Random(1)
    scores = [
        Score(
            app="bot",
            ts=START + round((second + i / 20) * MICROSECONDS),
            id=f"{second}/{i}",
            trace_id="t",
            name="relevance",
            value=rng.betavariate(8, 2) * (0.5 if second >= WORSE else 1),
            conversation_id=f"{second}/{i}",
            release="v1",
        )
        for second in range(WORSE + 60)
        for i in range(20)
    ]
    log = Log()
    log.extend(scores, START + (WORSE + 130) * MICROSECONDS)
    fold = MonitorFold(MonitorConfig(), CONFIG, topics, Pricer(), None)
    firing = [r for r in await run_log(fold, log.records) if isinstance(r, Alert) and r.state == "firing"]
    assert firing
    for alert in firing:
        assert WORSE - 1 <= (alert.since - START) / MICROSECONDS <= WORSE + 2
        assert (alert.fired_at - START) / MICROSECONDS > WORSE + 60

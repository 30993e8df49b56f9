"""The verdict on real answers with a judge's scores is known: a bad model goes, the same model stays."""

from collections.abc import Sequence

import pytest

from driftline.detectors.config import DetectorsConfig
from driftline.schemas.events import MICROSECONDS, Event
from driftline.schemas.results import RollbackSignal
from driftline.schemas.topics import Topics
from driftline.streams.monitor.config import MonitorConfig
from driftline.streams.monitor.fold import MonitorFold
from driftline.streams.pricing import Pricer
from tests.real_answers import needs_answers, single_pass
from tests.streams.monitor.log import START, Log, run_log

pytestmark = needs_answers

SHARES = [0.5, pytest.param(0.1, marks=pytest.mark.slow)]  # tests/detectors/test_canary.py has both in every run


async def rollbacks(events: Sequence[Event], topics: Topics) -> list[RollbackSignal]:
    log = Log()
    log.extend(events, until=events[-1].ts + 120 * MICROSECONDS)
    fold = MonitorFold(MonitorConfig(), DetectorsConfig(), topics, Pricer(), None)
    return [result for result in await run_log(fold, log.records) if isinstance(result, RollbackSignal)]


@pytest.mark.parametrize("share", SHARES)
async def test_a_worse_model_is_rolled_back(share: float, topics: Topics) -> None:
    [signal] = await rollbacks(
        single_pass("bot", START, "gpt-3.5-turbo-1106", "falcon-7b-instruct", share, "falcon"), topics
    )
    assert (signal.release, signal.stable, signal.deployment_id) == ("v2", "v1", "d")
    assert signal.log_e_total >= signal.threshold
    assert signal.effects["quality"] < 0


@pytest.mark.parametrize("salt", ["a", *(pytest.param(salt, marks=pytest.mark.slow) for salt in "bc")])
@pytest.mark.parametrize("share", SHARES)
async def test_the_same_model_is_not(salt: str, share: float, topics: Topics) -> None:
    assert (
        await rollbacks(single_pass("bot", START, "vicuna-13b-v1.5", "vicuna-13b-v1.5-togetherai", share, salt), topics)
        == []
    )

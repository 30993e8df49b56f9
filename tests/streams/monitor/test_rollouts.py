from typing import Any

import msgspec
import pytest

from driftline.schemas.events import Release
from driftline.streams.monitor.rollouts import Promotions, Unproven, left_traffic

SECOND = 1_000_000
START = 1_793_606_400 * SECOND


def release(kind: str, outcome: str = "", of: str = "v2", at: int = 0) -> Release:
    fields = {"app": "bot", "ts": START + at * SECOND, "id": "r", "kind": kind, "release": of, "outcome": outcome}
    return msgspec.convert({"type": "release", **fields}, Release)


@pytest.mark.parametrize(
    ("events", "stable"),
    [
        ([], True),
        ([release("deploy")], True),
        ([release("canary_start")], False),
        ([release("canary_start"), release("canary_step")], False),
        ([release("canary_start"), release("canary_stop", "promoted")], True),
        ([release("canary_start"), release("canary_stop", "rolled_back")], False),
        ([release("canary_start"), release("canary_stop", "aborted"), release("deploy")], True),
        ([release("canary_start", of="v3")], True),
    ],
)
def test_canaries_are_unproven_until_they_are_promoted_or_deployed(events: list[Release], stable: bool) -> None:
    unproven = Unproven()
    for event in events:
        unproven.take(event)
        unproven = Unproven([(app, name) for app, name in unproven.snapshot()])
    assert (("bot", "v2") not in unproven) == stable
    assert ("other", "v2") not in unproven


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (release("deploy"), ""),
        (release("canary_start"), ""),
        (release("canary_stop", "promoted"), ""),
        (release("canary_stop", "rolled_back"), "v2 was taken out of traffic (rolled_back)"),
        (release("canary_stop"), "v2 was taken out of traffic (stopped)"),
    ],
)
def test_what_left_traffic_is_said(event: Release, said: str) -> None:
    assert left_traffic(event) == said


class Relearned:
    """In place of a watch."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, list[str]]] = []

    def relearn(self, app: str, release: str, keep: list[str]) -> None:
        self.calls.append((app, release, keep))


def test_baselines_are_learned_anew_in_time_and_when_nothing_is_wrong() -> None:
    it = Promotions(10)
    watch: Any = Relearned()
    it.take(release("canary_stop", "rolled_back"))
    it.take(release("canary_stop", "promoted", at=5))
    it.fitted("bot", "language", "prompt")
    it.fitted("bot", "quality", "judge")
    it.fitted("other", "language", "response")
    it = Promotions(10, [(app, promotion) for app, promotion in it.snapshot()])
    it.relearn(START + 15 * SECOND - 1, {"language": watch}, lambda app: False)
    it.relearn(START + 15 * SECOND, {"language": watch}, lambda app: True)
    assert not watch.calls
    it.relearn(START + 15 * SECOND, {"language": watch}, lambda app: False)
    assert watch.calls == [("bot", "v2", ["prompt"])]
    it.relearn(START + 99 * SECOND, {"language": watch}, lambda app: False)
    assert len(watch.calls) == 1
    assert it.snapshot() == []

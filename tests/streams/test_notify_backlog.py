"""What of a backlog still matters."""

from aiokafka import TopicPartition

from driftline.sinks.notify.base import Notice, notice_id
from driftline.streams.notify import Pending, outdated
from tests.sinks.notify.samples import TS, alert, breaker, resolved, rollback

HOUR = 3_600_000_000
TP = TopicPartition("alerts", 0)


def told(*backlog: Notice, first_start: bool = False, age: int = HOUR, fresh: int = 0) -> list[str]:
    """Ids of what is told of a backlog whose last `fresh` records have just been written."""
    pending = [
        Pending(notice, TP, offset, TS if offset >= len(backlog) - fresh else TS - age, first_start)
        for offset, notice in enumerate(backlog)
    ]
    skipped = outdated(pending, TS)
    return [notice_id(pending.notice) for index, pending in enumerate(pending) if index not in skipped]


def test_whatever_is_new_is_told() -> None:
    backlog: list[Notice] = [alert(), resolved(), rollback(), breaker(), breaker(id="b2", state="closed")]
    expected = [notice_id(notice) for notice in backlog]
    assert told(*backlog, age=0) == expected
    assert told(*backlog, age=0, first_start=True) == expected


def test_nobody_is_paged_for_what_ended_long_ago() -> None:
    assert told(alert(), resolved()) == []
    assert told(alert(), resolved(), first_start=True) == []


def test_an_old_episode_that_is_open_is_told_once() -> None:
    assert told(alert(), resolved(), alert(id="a2"), first_start=True) == ["a2/firing"]


def test_the_end_is_told_to_those_who_heard_of_the_beginning() -> None:
    assert told(resolved()) == ["a1/resolved"]
    assert told(resolved(), first_start=True) == []


def test_an_end_that_is_new_is_told_though_the_beginning_was_too_old_to_tell() -> None:
    assert told(alert(), resolved(), fresh=1) == ["a1/resolved"]


def test_a_rollback_is_old_news_to_a_new_receiver_alone() -> None:
    assert told(rollback()) == ["r1"]
    assert told(rollback(), first_start=True) == []


def test_a_second_rollback_of_a_deployment_is_the_same_decision() -> None:
    assert told(rollback(), rollback(id="r2"), rollback(id="r3", deployment_id="d2")) == ["r2", "r3"]


def test_of_a_breaker_only_the_last_state_matters() -> None:
    opened, closed, reopened = breaker(), breaker(id="b2", state="closed"), breaker(id="b3")
    assert told(opened, closed, reopened, first_start=True) == ["b3"]
    assert told(opened, closed) == ["b2"]  # whether the receiver heard of an earlier opening cannot be known
    assert told(opened, closed, first_start=True) == []
    assert told(opened, closed, breaker(id="b4", provider="anthropic")) == ["b2", "b4"]

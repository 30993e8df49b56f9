import os

import pytest

from driftline.streams.patience import LONGEST_S, Patience, Work, work_of


def seconds_until_out(limit_s: float, *, cpu: float = 0.0, reads: int = 0, spare: float = 2.0) -> float | None:
    """With so much done each second."""
    patience = Patience(limit_s, 0.0, Work(0.0, 0, 0.0))
    for second in range(1, 10_000):
        if patience.is_out(float(second), Work(cpu * second, reads * second, spare * second)):
            return second
    return None


def test_who_does_nothing_on_an_idle_machine_is_given_the_limit() -> None:
    assert seconds_until_out(120) == 120


def test_polling_for_something_that_does_not_come_is_no_work() -> None:
    assert seconds_until_out(120, cpu=0.04) == 120


@pytest.mark.parametrize("share", [0.2, 1.0, 2.0])
def test_who_computes_is_waited_for(share: float) -> None:
    assert seconds_until_out(120, cpu=share) == LONGEST_S


def test_who_reads_from_a_slow_disk_is_waited_for() -> None:
    assert seconds_until_out(120, reads=4096) == LONGEST_S


def test_who_gets_no_cpu_is_waited_for() -> None:
    assert seconds_until_out(120, cpu=0.014, spare=0.0) == LONGEST_S


def test_work_in_between_does_not_start_the_limit_anew() -> None:
    patience = Patience(3, 0.0, Work(0.0, 0, 0.0))
    assert not patience.is_out(2.0, Work(0.0, 0, 4.0))
    assert not patience.is_out(10.0, Work(8.0, 0, 8.0))
    assert patience.is_out(11.0, Work(8.0, 0, 10.0))


def test_the_counters_are_those_of_the_processes() -> None:
    before = work_of([os.getpid()])
    sum(i for i in range(3_000_000))
    after = work_of([os.getpid(), 2**22 + 1])
    assert after.cpu_s > before.cpu_s > 0
    assert after.spare_s >= before.spare_s > 0

import pytest

from driftline.schemas.errors import PermanentError
from driftline.streams.baselines.healthy import Span, newest_free

DATA = Span(0, 100 * 10**6)


def seconds(since: float, until: float) -> Span:
    return Span(round(since * 10**6), round(until * 10**6))


@pytest.mark.parametrize(
    ("incidents", "expected"),
    [
        ([], seconds(90, 100)),
        ([seconds(95, 100)], seconds(85, 95)),
        ([seconds(20, 30)], seconds(90, 100)),
        ([seconds(85, 88), seconds(92, 96)], seconds(75, 85)),
        ([seconds(50, 99), seconds(60, 70), seconds(45, 55)], seconds(35, 45)),
    ],
)
def test_the_newest_span_without_an_incident(incidents: list[Span], expected: Span) -> None:
    assert newest_free(DATA, 10 * 10**6, incidents) == expected


def test_none_is_said() -> None:
    with pytest.raises(PermanentError, match=r"no period of 10 s .* choose it by --from and --to"):
        newest_free(DATA, 10 * 10**6, [seconds(5, 95)])


def test_periods_are_said_as_people_say_them() -> None:
    with pytest.raises(PermanentError, match="no period of 1 d without"):
        newest_free(DATA, 86_400 * 10**6, [])

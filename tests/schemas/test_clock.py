import pytest

from driftline.schemas.clock import utc


@pytest.mark.parametrize(
    ("us", "shown"),
    [
        (0, "1970-01-01T00:00:00+00:00"),
        (-(2**63), "0001-01-01T00:00:00+00:00"),
        (2**63 - 1, "9999-12-31T23:59:59.999999+00:00"),
    ],
)
def test_any_number_is_a_moment_to_show(us: int, shown: str) -> None:
    assert utc(us).isoformat() == shown

import pytest

from driftline.streams.monitor.amounts import usd


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "$0"), (5.1e-05, "$0.000051"), (3.7e-09, "$0.0000000037"), (0.25, "$0.25"), (0.1234, "$0.123"),
     (1, "$1.00"), (1234.5, "$1,234.50"), (1e15, "$1,000,000,000,000,000.00")],
)  # fmt: skip
def test_dollars_have_no_exponent(value: float, text: str) -> None:
    assert usd(value) == text

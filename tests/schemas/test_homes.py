"""An app's home is where every murmur2 client puts records keyed by it."""

from aiokafka.partitioner import DefaultPartitioner
from hypothesis import given
from hypothesis import strategies as st

from driftline.schemas.homes import home, murmur2


@given(st.text(max_size=300), st.integers(1, 64))
def test_the_home_is_where_aiokafka_puts_the_key(app: str, homes: int) -> None:
    numbers = list(range(homes))
    assert home(app, homes) == DefaultPartitioner()(app.encode(), numbers, numbers)


def test_it_is_kafkas_own_hash() -> None:
    """Golden values of org.apache.kafka.common.utils.UtilsTest."""
    assert murmur2(b"21") == -973932308 & 0xFFFF_FFFF
    assert murmur2(b"foobar") == -790332482 & 0xFFFF_FFFF
    assert murmur2(b"a-little-bit-long-string") == -985981536 & 0xFFFF_FFFF
    assert murmur2(b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8") == -58897971 & 0xFFFF_FFFF
    assert murmur2(b"abc") == 479470107

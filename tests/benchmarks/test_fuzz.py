"""A little of `python -m benchmarks.fuzz`: whatever comes, nothing raises, and a restart changes nothing."""

import random
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.fuzz import data, edges, targets
from benchmarks.fuzz.__main__ import EDGES, TARGETS
from benchmarks.fuzz.data import Choices


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("seed", range(3))
def test_no_input_ends_a_role(target: str, seed: int) -> None:
    run: Callable[[bytes], None] = getattr(edges if target in EDGES else targets, target)
    run(random.Random(seed).randbytes(1_000))


@given(st.binary(max_size=300))
def test_every_event_that_is_made_up_is_of_its_type(raw: bytes) -> None:
    event = data.event(Choices(raw), data.START, 1)
    assert msgspec.json.decode(msgspec.json.encode(event), type=type(event)) == event

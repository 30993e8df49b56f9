import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from driftline.detectors.state import pack, unpack

DTYPES = [np.float64, np.float32, np.int64, np.int32, np.uint8, np.bool_]


@given(st.sampled_from(DTYPES).flatmap(lambda dtype: arrays(dtype, array_shapes(min_side=0))))
def test_arrays_come_back_to_the_bit(array: np.ndarray[Any, Any]) -> None:
    back = unpack(pack({"a": {"b": [array]}}))["a"]["b"][0]
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()
    assert back.flags.writeable


def test_plain_values() -> None:
    state = {
        "i": -(2**63),
        "large": [{"n": 2**64}, -(2**63) - 1, 10**50],
        "f": math.inf,
        "s": "x",
        "b": b"\0",
        "none": None,
        "list": [1, 2.5],
        "t": True,
        "m": {3: "y"},
    }
    assert unpack(pack(state)) == state
    assert math.isnan(unpack(pack({"nan": math.nan}))["nan"])
    assert unpack(pack({"scalar": np.int64(3), "float": np.float64(0.1)})) == {"scalar": 3, "float": 0.1}


def test_foreign_byte_order() -> None:
    assert unpack(pack({"a": np.arange(3, dtype=">i4")}))["a"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("value", [object(), np.array(["a"]), np.array([object()]), 1j])
def test_refuses_what_has_no_place(value: Any) -> None:
    with pytest.raises(TypeError, match="no place"):
        pack({"a": value})


def test_refuses_what_is_not_a_snapshot() -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # messages are msgspec's
        unpack(b"\xc1 nonsense")


def test_an_integer_of_more_digits_than_any_sum_has_is_refused() -> None:
    """Python needs seconds for a million of them, and refuses above 4,300 with an error of its own."""
    assert unpack(pack({"n": 10**99})) == {"n": 10**99}
    with pytest.raises(ValueError, match="unknown extension 2"):
        unpack(pack({"n": 10**100}))

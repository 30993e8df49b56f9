import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from driftline.detectors.digests import MISSING, NONE, Digests, DigestTable, digests, firsts
from driftline.detectors.state import pack, unpack

# Keys of a narrow range, at the end of the table too: they all want the same slots.
CROWDED = st.lists(st.one_of(st.integers(0, 40), st.integers(2**64 - 40, 2**64 - 1)), max_size=60)


def array(keys: list[int]) -> Digests:
    return np.array(keys, np.uint64)


def test_digests_are_stable_and_none_is_no_name() -> None:
    assert digests(["a", "", "é"]).tolist() == [16629034431890738719, NONE, 17839895020865391795]


@given(CROWDED)
def test_firsts(keys: list[int]) -> None:
    assert firsts(array(keys)).tolist() == [key not in keys[:i] for i, key in enumerate(keys)]


class Model(RuleBasedStateMachine):
    """The table answers as a dict does."""

    def __init__(self) -> None:
        super().__init__()
        self.table = DigestTable()
        self.model: dict[int, int] = {}

    @rule(keys=CROWDED, value=st.integers(-5, 50))
    def put(self, keys: list[int], value: int) -> None:
        distinct = sorted({max(key, 1) for key in keys})
        values = np.arange(len(distinct)) + value
        self.table.put(array(distinct), values)
        self.model |= zip(distinct, values.tolist(), strict=True)

    @rule(n=st.integers(0, 3000))
    def grow(self, n: int) -> None:
        keys = np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        self.table.put(keys, np.full(n, 7))
        self.model |= dict.fromkeys(keys.tolist(), 7)

    @rule(least=st.integers(-5, 60))
    def drop_below(self, least: int) -> None:
        self.table.drop_below(least)
        self.model = {key: value for key, value in self.model.items() if value >= least}

    @rule(limit=st.integers(1, 60), least=st.integers(-5, 20))
    def trim(self, limit: int, least: int) -> None:
        if len(self.model) <= limit:
            assert self.table.trim(limit, least) == 0
            return
        self.model = {key: value for key, value in self.model.items() if value >= least}
        forgotten = 0
        if len(self.model) > limit:
            before = len(self.model)
            cut = sorted(self.model.values())[before - limit // 2 - 1]
            self.model = {key: value for key, value in self.model.items() if value > cut}
            forgotten = before - len(self.model)
        assert self.table.trim(limit, least) == forgotten

    @rule(least=st.integers(-5, 20))
    def restore(self, least: int) -> None:
        self.table = DigestTable(unpack(pack(self.table.snapshot(least))))
        self.model = {key: value for key, value in self.model.items() if value >= least}

    @invariant()
    def same(self) -> None:
        keys = [*self.model, 1, 2, 2**63, 2**64 - 1]
        assert self.table.get(array(keys)).tolist() == [self.model.get(key, MISSING) for key in keys]
        assert len(self.table) == len(self.model)


TestModel = Model.TestCase


@pytest.mark.parametrize("n", [0, 1, 5000])
def test_snapshots_depend_on_the_content_alone(n: int) -> None:
    keys = np.random.default_rng(0).integers(1, 2**64, n, dtype=np.uint64)
    forth, back = DigestTable(), DigestTable()
    forth.put(keys, np.arange(n))
    for part in np.array_split(np.arange(n)[::-1], 7):
        back.put(keys[part], part)
    assert pack(forth.snapshot()) == pack(back.snapshot()) == pack(DigestTable(forth.snapshot()).snapshot())

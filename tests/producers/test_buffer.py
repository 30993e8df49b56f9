from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from driftline.producers.buffer import Batch, Buffer, _Item, make_batches

apps = st.sampled_from(["a", "b", "c"])
sizes = st.integers(1, 60)


@given(st.lists(st.tuples(apps, sizes)), st.integers(1, 5), st.integers(1, 100))
def test_batches_keep_bounds_order_and_every_event(
    specs: list[tuple[str, int]], max_events: int, max_bytes: int
) -> None:
    items = [_Item(app, b"%d" % i + b" " * size) for i, (app, size) in enumerate(specs)]
    batches = make_batches(items, max_events, max_bytes)
    for batch in batches:
        assert batch.value[:1] + batch.value[-1:] == b"[]"
        assert 1 <= batch.events <= max_events
        assert batch.events == 1 or len(batch.value) <= max_bytes
        assert batch.charge == len(batch.value) - 1 - batch.events
    for app in "abc":
        sent = b",".join(batch.value[1:-1] for batch in batches if batch.app == app)
        assert sent == b",".join(item.encoded for item in items if item.app == app)


class BufferMachine(RuleBasedStateMachine):
    """Whatever happens in whatever order: bounds hold, and every event is accounted for."""

    def __init__(self) -> None:
        super().__init__()
        self.buffer = Buffer(max_batch_events=3, max_batch_bytes=50, max_pending_events=10, max_pending_bytes=200)
        self.taken: list[Batch] = []
        self.put_count = 0
        self.armed_full: bool | None = None

    @rule(app=apps, size=sizes)
    def put(self, app: str, size: int) -> None:
        self.put_count += 1
        before = self.buffer.stats()
        wake = self.buffer.put(app, b"x" * size)
        if wake:
            assert self.armed_full is not None
            assert self.buffer.arm(full=self.armed_full)  # a wake-up is never for nothing
            self.armed_full = None
        elif self.armed_full is False:
            assert self.buffer.stats().pending == before.pending  # and never forgotten

    def arm(self, full: bool) -> None:
        self.armed_full = None if self.buffer.arm(full=full) else full

    @rule(full=st.booleans())
    def sender_looks(self, full: bool) -> None:
        self.arm(full)

    @rule()
    def take(self) -> None:
        self.taken.extend(self.buffer.take())

    @precondition(lambda self: self.taken)
    @rule(lost=st.booleans())
    def settle(self, lost: bool) -> None:
        self.buffer.settle(self.taken.pop(0), "too_large" if lost else None)

    @rule()
    def hurry(self) -> None:
        self.buffer.hurry()
        self.arm(full=True)  # a flush always wakes the sender

    @rule()
    def close(self) -> None:
        self.buffer.close()
        assert self.buffer.arm(full=True)
        self.armed_full = None

    @invariant()
    def accounted_for(self) -> None:
        stats = self.buffer.stats()
        assert stats.emitted == self.put_count
        assert stats.emitted == stats.sent + sum(stats.dropped.values()) + stats.pending
        assert 0 <= stats.pending <= 10
        assert 0 <= self.buffer._pending_bytes <= 200
        assert stats.pending or self.buffer._pending_bytes == 0


TestBuffer = BufferMachine.TestCase


def test_newest_is_refused_when_full() -> None:
    buffer = Buffer(max_batch_events=10, max_batch_bytes=100, max_pending_events=2, max_pending_bytes=100)
    for event in (b"1", b"2", b"3"):
        buffer.put("a", event)
    assert [batch.value for batch in buffer.take()] == [b"[1,2]"]
    assert buffer.stats().dropped == {"full": 1}


def test_abandon_counts_what_was_on_its_way() -> None:
    buffer = Buffer(max_batch_events=1, max_batch_bytes=100, max_pending_events=10, max_pending_bytes=100)
    buffer.put("a", b"1")
    buffer.take()
    buffer.put("a", b"2")
    assert buffer.abandon() == 2
    assert buffer.stats().dropped == {"undelivered": 2}
    assert buffer.stats().pending == 0

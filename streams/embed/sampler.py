"""Which traces to embed: a deterministic sample within a budget, each trace once. Pure: state in, decision out."""

from hashlib import blake2b

import msgspec

from driftline.schemas.events import MICROSECONDS, Trace
from driftline.schemas.ids import joined, unit_interval
from driftline.streams.embed.config import SampleConfig

HORIZON_S = 600  # a trace sent again within ten minutes of ticks is recognised: producers retry for two
MAX_KEYS = 50_000  # per generation: 0.8 MB of state at most, however fast traces arrive
MAX_COUNTS = 10_000  # apps x windows with a budget under way: a bound on what wild timestamps can cost
DIGEST = 8  # bytes of a remembered key: one false match in 10^14 pairs


class SamplerState(msgspec.Struct, array_like=True):
    counts: list[tuple[str, int, int]] = []  # app, window, traces taken; oldest entry first
    current: bytes = b""  # digests of the traces taken, in two generations
    previous: bytes = b""
    since: int | None = None  # the watermark at which the current generation began
    oldest: int = 0  # window of event time: what is older comes too late


class Sampler:
    """Takes a trace if its conversation is in the sample (whole conversations, for they are the detectors' unit),
    its copy was not taken before, and its app's budget for the window of event time is not spent."""

    def __init__(self, config: SampleConfig, state: SamplerState | None = None) -> None:
        state = state or SamplerState()
        self._rate = config.rate
        self._budget = config.budget
        self._window_us = config.window_s * MICROSECONDS
        self._counts = {(app, window): taken for app, window, taken in state.counts}
        self._current = _split(state.current)
        self._previous = _split(state.previous)
        self._since = state.since
        self._oldest = state.oldest

    def take(self, trace: Trace) -> bool:
        if self._rate < 1 and unit_interval("embed", trace.conversation_id or trace.trace_id) >= self._rate:
            return False
        budget = (trace.app, trace.ts // self._window_us)
        taken = self._counts.get(budget, 0)
        if taken >= self._budget or budget[1] < self._oldest:
            return False
        digest = blake2b(joined(trace.app, *trace.key).encode(), digest_size=DIGEST).digest()
        if digest in self._current or digest in self._previous:
            return False
        self._current[digest] = None
        self._counts[budget] = taken + 1
        if len(self._current) >= MAX_KEYS:
            self._turn(self._since)
        if len(self._counts) > MAX_COUNTS:
            del self._counts[next(iter(self._counts))]
        return True

    def advance(self, watermark: int) -> None:
        """Forget what lies more than the horizon behind the watermark; traces from there are not taken any more."""
        horizon_us = HORIZON_S * MICROSECONDS
        if self._since is None:
            self._since = watermark
        elif watermark - self._since >= horizon_us:
            self._turn(watermark)
        oldest = (watermark - horizon_us) // self._window_us
        if oldest > self._oldest:
            self._oldest = oldest
            self._counts = {key: taken for key, taken in self._counts.items() if key[1] >= oldest}

    def state(self) -> SamplerState:
        return SamplerState(
            counts=[(app, window, taken) for (app, window), taken in self._counts.items()],
            current=b"".join(self._current),
            previous=b"".join(self._previous),
            since=self._since,
            oldest=self._oldest,
        )

    def _turn(self, since: int | None) -> None:
        self._previous, self._current, self._since = self._current, {}, since


def _split(digests: bytes) -> dict[bytes, None]:
    """A dict, not a set: it keeps the order, so equal histories give equal snapshots."""
    return dict.fromkeys(digests[i : i + DIGEST] for i in range(0, len(digests), DIGEST))

"""A partition's state fits its record, whoever writes whatever: what there is no room for is left out, and said."""

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

from driftline.detectors.canary import ArmBatch, Canary
from driftline.detectors.config import CanaryConfig, DetectorsConfig, UnitsConfig
from driftline.detectors.state import pack, unpack
from driftline.schemas import codec
from driftline.schemas.events import MICROSECONDS, Release, Tick, Trace
from driftline.schemas.results import Embedding, EmbeddingEvent
from driftline.streams.fold import Output
from driftline.streams.monitor import contributors, fold
from driftline.streams.monitor.columns import NO_TRACES, Traces, rows
from driftline.streams.monitor.config import LimitsConfig, MonitorConfig, WindowConfig
from driftline.streams.monitor.contributors import Contributors
from driftline.streams.monitor.drift import DriftFold
from driftline.streams.monitor.fold import MonitorFold
from driftline.streams.monitor.names import TraceSeries
from driftline.streams.pricing import Pricer
from tests.streams.monitor.log import START, TOPICS, FakeRecord, Log, traffic

MOST = 2**20
CONFIG = MonitorConfig(limits=LimitsConfig(state_bytes=MOST), windows=WindowConfig(grace_s=0))
SIZE = 1.05 * MOST  # sizes are estimates, and what is small is not counted


def texts(apps: int, seconds: int, d: int = 96) -> Iterator[list[EmbeddingEvent]]:
    rng = np.random.default_rng(3)
    for second in range(seconds):
        yield [
            Embedding(
                app=f"app-{app}",
                ts=START + second * MICROSECONDS,
                trace_id=f"{second} {app} {i}",
                span_id="",
                conversation_id=f"{second // 4} {app} {i}",
                user_id="u",
                environment="",
                release="v1",
                canary_share=None,
                model="m",
                embed_model="e",
                prompt=rng.standard_normal(d).astype("<f2").tobytes(),
                response=None,
                excerpt="hello",
            )
            for app in range(min(apps, 1 + second // 5))
            for i in range(4)
        ]
        yield [Tick(ts=START + (second + 1) * MICROSECONDS)]


@pytest.mark.parametrize("restarts", [False, True])
async def test_what_learns_stops_where_the_state_is_full_and_the_first_go_on(restarts: bool) -> None:
    drift = DriftFold(CONFIG, DetectorsConfig(), TOPICS, None)
    outputs: list[Output] = []
    for offset, events in enumerate(texts(apps=12, seconds=80)):
        outputs += await drift.absorb([FakeRecord(offset, codec.pack(events))])
        if offset % 16 == 1:
            assert len(drift.snapshot()) < SIZE
        if restarts and offset % 10 == 0:
            drift = DriftFold(CONFIG, DetectorsConfig(), TOPICS, drift.snapshot())
    state = unpack(drift.snapshot())
    learning = [[k for k, _ in state["watches"][name]["references"]] for name in ("embedding_drift", "language")]
    assert ["app-0", "prompt"] in learning[0]
    assert 2 <= len(learning[0]) < 12
    assert drift.counters["state_full"] > 0
    assert drift.counters["streams_over_limit"] == 0  # what is to be done is told in one place: there is no room
    EXPECTED.setdefault("drift", (drift.snapshot(), outputs))
    assert (drift.snapshot(), outputs) == EXPECTED["drift"]


EXPECTED: dict[str, object] = {}  # what the first of the two gave


async def test_a_stranger_who_is_an_hour_ahead_takes_no_room_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("driftline.streams.monitor.columns._MOST_FAR", 20_000)
    monkeypatch.setattr(fold, "MOST_WAITING", 50)

    def ahead(n: int, second: int) -> list[Trace | Release]:
        app, ts = "stranger", START + (1_000 + second) * MICROSECONDS
        traces = [Trace(app=app, ts=ts + i, trace_id=f"{second} {i}", user_id="u" * 200) for i in range(n)]
        return [*traces, *(Release(app=app, ts=ts, id=f"{second} {i}", kind="deploy", release="v") for i in range(n))]

    good = list(traffic(1, 0, 30, 20))

    def records(strangers: int) -> list[FakeRecord]:
        log = Log()
        for second in range(30):
            now = START + second * MICROSECONDS
            strange = ahead(strangers, second) if second else []
            log.append([*strange, *(t for t in good if now <= t.ts < now + MICROSECONDS)])
            log.append([Tick(ts=now + MICROSECONDS)])
        return log.records

    alone, among, batched = (MonitorFold(CONFIG, DetectorsConfig(), TOPICS, Pricer(), None) for _ in range(3))
    await alone.absorb(records(0))
    for record in records(200):
        await among.absorb([record])
    await batched.absorb(records(200))
    assert batched.snapshot() == among.snapshot()
    assert among.counters["pending_overflow"] > 2 * 29 * 200 - 500
    state = unpack(among.snapshot())
    assert len(state["traces"]["columns"]["ts"]) < 100
    assert len(state["releases"]) == 50
    learned = [
        {tuple(k): v["n"] for k, v in unpack(monitor.snapshot())["analysis"]["watches"]["error_rate"]["references"]}
        for monitor in (alone, among)
    ]
    assert learned[0] == learned[1]


def arms(n: int, first: int, share: float = 0.5) -> ArmBatch:
    return ArmBatch(
        unit=[f"user-{first + i}" * 20 for i in range(n)],
        canary=np.arange(n) % 2 == 0,
        share=np.linspace(share, share + 0.2, n),
        values={"error": np.arange(n) % 3 == 0, "latency": np.full(n, 5.0)},
    )


def test_a_canary_keeps_nothing_of_shares_and_a_bounded_number_of_units() -> None:
    config = CanaryConfig(units=UnitsConfig(max_sessions=500))
    canary = Canary(config, 0)
    for i in range(40):
        canary.update(arms(100, 100 * i), (i + 1) * MICROSECONDS)
        if i % 7 == 0:
            canary = Canary.restored(config, unpack(pack(canary.snapshot())))
    assert len(pack(canary.snapshot())) < 100_000
    assert canary.sessions_forgotten > 0
    size = canary.nbytes
    assert size == pytest.approx(len(pack(canary.snapshot())), rel=0.35)
    canary.forget_half()
    assert canary.nbytes < size


def test_contributors_of_the_app_that_has_the_most_are_shortened_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contributors, "_MOST_BYTES", 20_000)
    names = [TraceSeries(app, "v1", "p", "m", "m") for app in ("good", "stranger")]
    known = Contributors()
    for minute in range(20):
        at = START + minute * 60 * MICROSECONDS
        columns = [_traces(at, [0] * 5, [f"me-{i}" for i in range(5)])]
        columns.append(_traces(at, [1] * 100, [f"{minute} {i}" + "x" * 190 for i in range(100)]))
        for part in columns:
            known.add(part, names)
        known = Contributors(unpack(pack(known.snapshot())))
        assert known.nbytes <= 20_000
    assert len(known.top("cost_p99", "good", "v1", START, 10)) == 5
    per_app = Counter(key[0] for key in known._totals)
    assert per_app["stranger"] <= per_app["good"]


def _traces(at: int, series: list[int], users: list[str]) -> Traces:
    n = len(users)
    one = {name: np.zeros(n, column.dtype) for name, column in NO_TRACES._asdict().items()}
    texts_ = {name: np.full(n, "", np.object_) for name in ("error_type", "finish_reason")}
    own = {
        "ts": np.full(n, at),
        "series": np.array(series),
        "user": np.array(users, np.object_),
        "nanousd": np.ones(n, np.int64),
    }
    return rows(Traces(**{**one, **texts_, **own}), slice(None))

"""`driftline baseline fit`: baselines of stored traffic, published to the log that the monitor reads."""

import asyncio
from collections.abc import Collection, Sequence
from typing import Literal, TypeAlias

import msgspec
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from driftline.detectors.base import Insufficient
from driftline.detectors.detectable import detectable_rate
from driftline.detectors.registry import FACTORIES
from driftline.schemas.baselines import Baseline
from driftline.schemas.codec import encode_event
from driftline.schemas.errors import PermanentError, RetryableError
from driftline.schemas.events import BaselineSet
from driftline.schemas.homes import home
from driftline.schemas.ids import stable_id
from driftline.sinks.clickhouse.baselines import stored_baselines
from driftline.sinks.clickhouse.client import session
from driftline.sinks.clickhouse.config import ClickHouseConfig
from driftline.streams.baselines.collect import Collected, Range, Tell, from_log, from_tables
from driftline.streams.baselines.names import names_of, shown, within
from driftline.streams.monitor.baselines import LEARNED_ONLY, Versions, record
from driftline.streams.monitor.watch import Fit
from driftline.streams.settings import Settings

POLL_S = 0.3
HORIZON = 1_000  # units within which a change is to be found

Outcome: TypeAlias = Literal["fitted", "insufficient_reference"]


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one component of the app under one detector, as alerts name them."""

    detector: str
    component: str
    outcome: Outcome
    have: int  # units
    need: int | None  # at least; None: not known, or enough
    note: str = ""
    finds: str = ""  # how large a change is found
    baseline: Baseline | None = None


class Attempts(msgspec.Struct, frozen=True):
    attempts: list[Attempt]
    notes: list[str]

    @property
    def baselines(self) -> list[Baseline]:
        return [attempt.baseline for attempt in self.attempts if attempt.baseline is not None]


async def fit(settings: Settings, traffic: Range, detectors: Collection[str], now: int, tell: Tell) -> Attempts:
    """Baselines of every component that the range has units of; `detectors`: only of these, by the names of their
    alerts; empty: of all.

    :raises RetryableError: Kafka or ClickHouse does not answer.
    """
    workers = set(map(within, detectors))
    wanted = [name for name in FACTORIES if not workers or name in workers]
    stored = await from_tables(settings, traffic, wanted, tell)
    logged = await from_log(settings, traffic, wanted, tell)
    versions = await asyncio.to_thread(stored_versions, settings.clickhouse, traffic)
    attempts = [
        _attempt(settings, name, fit, versions._replace(embed_model=part.embed_model), now)
        for part in (stored, logged)
        for name, fit in part.fits
    ]
    attempts += _without_units(wanted, (stored, logged))
    asked = [attempt for attempt in attempts if not detectors or attempt.detector in detectors]
    return Attempts(asked, [logged.note] if logged.note else [])


def _attempt(settings: Settings, detector: str, fit: Fit, versions: Versions, now: int) -> Attempt:
    name, component = shown(detector, fit.component)
    if isinstance(fit.baseline, Insufficient):
        lack = fit.baseline
        limit = getattr(getattr(settings.detectors, detector), "p0", None)
        return Attempt(
            detector=name,
            component=component,
            outcome="insufficient_reference",
            have=lack.have,
            need=lack.need,
            note=lack.note,
            finds=_finds(settings, limit),
        )
    baseline = record(detector, fit, settings.detectors, versions, made=now)
    return Attempt(
        detector=name,
        component=component,
        outcome="fitted",
        have=baseline.n,
        need=None,
        finds=_finds(settings, baseline.summary.get("p0")),
        baseline=baseline,
    )


def _finds(settings: Settings, limit: float | None) -> str:
    """Of rates above a limit; what other detectors find is among their numbers."""
    if limit is None:
        return ""
    rate = detectable_rate(limit, HORIZON, settings.detectors.budget)
    return "" if rate is None else f"finds a rate of {rate:.1%} within {HORIZON:,} units"


def _without_units(wanted: Sequence[str], parts: Sequence[Collected]) -> list[Attempt]:
    found = {name for part in parts for name, _ in part.fits}
    return [
        Attempt(
            detector=name, component="", outcome="insufficient_reference", have=0, need=None,
            note=LEARNED_ONLY.get(detector, "no units in this range"),
        )
        for detector in wanted
        if detector not in found
        for name in names_of(detector)
    ]  # fmt: skip


def stored_versions(config: ClickHouseConfig, traffic: Range) -> Versions:
    """What the range's traffic came from, as ClickHouse knows it."""
    where = (
        f"app = {{app:String}} AND ts >= fromUnixTimestamp64Micro({traffic.since}) "
        f"AND ts < fromUnixTimestamp64Micro({traffic.until}) AND (empty({{releases:Array(String)}}) "
        "OR has({releases:Array(String)}, release))"
    )
    parameters = {"app": traffic.app, "releases": sorted(traffic.releases)}
    with session(config) as client:
        models, prompts = client.query(
            "SELECT arraySort(groupUniqArrayIf(response_model, response_model != '')), "
            f"arraySort(groupUniqArrayIf(prompt_version, prompt_version != '')) FROM traces WHERE {where}",
            parameters=parameters,
        ).result_rows[0]
        judges = client.query(
            "SELECT arraySort(groupUniqArray(trim(BOTH ' ' FROM concat(judge_model, ' ', rubric_version)))) "
            f"FROM scores WHERE judge_model != '' AND {where}",
            parameters=parameters,
        ).result_rows[0][0]
    return Versions(models, prompts, "", judges)


async def publish(settings: Settings, baselines: Sequence[Baseline], at: int) -> None:
    """To the events topic: from `at` (microseconds of event time) on, the monitor holds the app against each.

    :raises RetryableError: Kafka does not answer, or refuses.
    """
    kafka, topics = settings.kafka, settings.topics
    options = {**kafka.producer_options(linger_ms=0), "enable_idempotence": False}  # a repeat has the same id
    producer = AIOKafkaProducer(**kafka.client_options(), **options)
    try:
        await producer.start()
        for baseline in baselines:
            event = BaselineSet(
                app=baseline.app,
                ts=at,
                id=stable_id("baseline_set", baseline.id, baseline.fitted_at),
                baseline=baseline,
            )
            partition = home(baseline.app, kafka.home_partitions)
            value = encode_event(topics.controls.signed(event, partition))
            await producer.send_and_wait(topics.events, value, key=baseline.app.encode(), partition=partition)
    except KafkaError as error:
        raise RetryableError(f"Kafka at {kafka.brokers} did not take a baseline: {error!r}") from error
    finally:
        await producer.stop()


async def answers(settings: Settings, baselines: Sequence[Baseline], wait_s: float) -> list[Baseline]:
    """What the monitor says of them, as far as it has said it within that time."""
    if not baselines:
        return []
    asked = {(b.detector, b.component, b.fitted_at) for b in baselines}
    app = baselines[0].app
    now = asyncio.get_running_loop().time
    deadline = now() + wait_s
    while True:
        said = [
            b
            for b in await asyncio.to_thread(all_baselines, settings.clickhouse, app)
            if (b.detector, b.component, b.fitted_at) in asked
        ]
        if len(said) >= len(asked) or now() >= deadline:
            return said
        await asyncio.sleep(POLL_S)


def all_baselines(config: ClickHouseConfig, app: str | None = None, id_: str = "") -> list[Baseline]:
    """:raises RetryableError: ClickHouse does not answer."""
    with session(config) as client:
        return stored_baselines(client, app, id_)


def with_id(config: ClickHouseConfig, id_: str) -> list[Baseline]:
    """Components whose units were equal share an id, so there may be several.

    :raises PermanentError: no id begins so, or several do.
    """
    found = all_baselines(config, id_=id_)
    names = {baseline.id for baseline in found}
    if len(names) != 1:
        raise PermanentError(
            f"{len(names)} baselines begin with {id_}: {', '.join(sorted(names)[:5])}"
            if names
            else f"no baseline has the id {id_}: `driftline baseline list` shows them"
        )
    return found


def with_versions(config: ClickHouseConfig, baseline: Baseline) -> Baseline:
    """A learned one knows its releases only: what else its traffic came from, ClickHouse may still know."""
    if baseline.source == "fitted":
        return baseline
    traffic = Range(baseline.app, baseline.from_ts, baseline.to_ts, frozenset(baseline.releases))
    known = stored_versions(config, traffic)
    return msgspec.structs.replace(
        baseline, models=list(known.models), prompt_versions=list(known.prompt_versions), judges=list(known.judges)
    )


def in_force(baselines: Sequence[Baseline]) -> list[Baseline]:
    """Of each app, detector and component the newest, in this order; and what was refused after it."""
    found: dict[tuple[str, str, str], list[Baseline]] = {}
    for baseline in sorted(baselines, key=lambda b: (b.at, b.revision)):
        group = (baseline.app, baseline.detector, baseline.component)
        if baseline.state == "active":
            found[group] = []
        found.setdefault(group, []).append(baseline)
    return [baseline for _, group in sorted(found.items()) for baseline in group]

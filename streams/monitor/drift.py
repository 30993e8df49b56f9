"""The embeddings half of the monitor: whether prompts and responses still come from where the reference came from,
which languages they are in, and what prompts are about.

A fold of its own over the embeddings topic, since two topics have no common order.
"""

import asyncio
from collections.abc import Mapping, Sequence
from itertools import compress
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from driftline.detectors.config import DetectorsConfig
from driftline.detectors.digests import digests
from driftline.detectors.features import make_features
from driftline.detectors.registry import make
from driftline.detectors.state import pack, size_of
from driftline.detectors.tscan import EmbeddingDrift
from driftline.detectors.units import FirstSixteen
from driftline.detectors.vector_means import VectorMeans
from driftline.detectors.witness import EmbeddingWitness
from driftline.schemas.codec import embeddings_in
from driftline.schemas.events import MICROSECONDS, BaselineSet, Release, Tick
from driftline.schemas.ids import joined
from driftline.schemas.results import Embedding, Result
from driftline.schemas.topics import Topics
from driftline.streams.fold import Fold, FoldFactory, Output, Record
from driftline.streams.log_time import LogTime
from driftline.streams.monitor import languages, query_types
from driftline.streams.monitor.baselines import NEW_BASELINE, Baselines
from driftline.streams.monitor.config import MonitorConfig
from driftline.streams.monitor.dedup import RecentKeys
from driftline.streams.monitor.drift_texts import RecentTexts, Waiting, quoted, vectors
from driftline.streams.monitor.drift_topics import DriftTopics
from driftline.streams.monitor.fold import LEAST_KEYS, Publisher, load_state
from driftline.streams.monitor.incidents import Incidents
from driftline.streams.monitor.places import Places
from driftline.streams.monitor.rollouts import Promotions, Unproven, left_traffic, not_before
from driftline.streams.monitor.watch import Stream, Streams, Transition, Units, Watch

VERSION = 5  # of the snapshot's layout
RULE = "embedding_drift"
WITNESS = "embedding_witness"
PAIR = (RULE, WITNESS)  # two ways to see one thing: a stream has one alert, by whichever is first
DETECTORS = (*PAIR, query_types.RULE, languages.RULE)
COMPONENTS = ("prompt", "response")


class DriftFold:
    def __init__(
        self,
        config: MonitorConfig,
        detectors: DetectorsConfig,
        topics: Topics,
        snapshot: bytes | None,
        watch: type[Watch] = Watch,
    ) -> None:
        state = load_state(snapshot, "drift fold", VERSION)
        self._config = config
        self._detectors = detectors
        self._publish = Publisher(topics)
        self._grace = config.windows.grace_s * MICROSECONDS
        self._tick_us = round(detectors.budget.tick_s * MICROSECONDS)
        self._remainder_ticks = detectors.budget.ticks(config.windows.lateness_s)
        self._time = LogTime(config.windows.ahead_s, state.get("watermark"), state.get("heard", 0))
        self._ahead_of_time: int = state.get("ahead_of_time", 0)
        self._next_tick: int | None = state.get("next_tick")
        self._reported: int = state.get("reported", 0)
        self._undecodable: int = state.get("undecodable", 0)
        self._malformed: int = state.get("malformed", 0)
        self._vector_bytes: int = state.get("vector_bytes", 0)  # of this embedding model; 0: not known yet
        self._seen = RecentKeys(config.dedup, config.windows, state.get("seen"))
        self._pending = Waiting(state.get("pending"))
        self._recent = RecentTexts(state.get("recent"))
        self._streams = Streams(state.get("streams"))
        self._kind = watch
        self._watches = self._new_watches(state.get("watches", {}))
        self._places.others = state.get("others", 0)
        self._means = self._new_means(state.get("means", {}))
        self._topics = DriftTopics(state.get("topics"))
        known = state.get("languages", {})
        self._languages = {component: languages.FirstKnown(known.get(component)) for component in COMPONENTS}
        self._unproven = Unproven(state.get("unproven", ()), config.limits)
        self._promotions = Promotions(config.relearn_after_s, state.get("relearn", ()))
        self._sessions = FirstSixteen(detectors.units)
        if "sessions" in state:
            self._sessions.restore(state["sessions"])
        self._incidents = Incidents(detectors.budget, state.get("incidents"))
        self._embed_model: str = state.get("embed_model", "")
        self._coming: list[Release] = msgspec.convert(state.get("coming", []), list[Release])
        self._waiting: list[BaselineSet] = msgspec.convert(state.get("waiting", []), list[BaselineSet])
        self._baselines = Baselines(detectors, state.get("baselines_refused", 0))

    @property
    def watermark(self) -> int | None:
        return self._time.tick

    @property
    def counters(self) -> Mapping[str, int]:
        """What was not counted, or not as long as it should have been."""
        return {
            "undecodable": self._undecodable,
            "malformed": self._malformed,
            "ahead_of_time": self._ahead_of_time,
            "repeated": self._seen.repeated,
            "dedup_overflow": self._seen.overflow,
            "baselines_refused": self._baselines.refused,
            "streams_over_limit": sum(watch.over_limit for watch in self._watches.values()),
            "state_full": sum(watch.no_room for watch in self._watches.values()),
            "pending_overflow": self._pending.overflow,
            "sessions_forgotten": self._sessions.overflow,
            "sessions_cut_short": sum(means.cut_short for means in self._means.values()),
        }

    @property
    def watches(self) -> Mapping[str, Watch]:
        """By detector."""
        return self._watches

    @property
    def embed_model(self) -> str:
        """Of the latest embeddings; empty before the first."""
        return self._embed_model

    def snapshot(self) -> bytes:
        return pack(
            {
                "version": VERSION,
                "watermark": self._time.tick,
                "heard": self._time.heard,
                "ahead_of_time": self._ahead_of_time,
                "next_tick": self._next_tick,
                "reported": self._reported,
                "undecodable": self._undecodable,
                "malformed": self._malformed,
                "vector_bytes": self._vector_bytes,
                "seen": self._seen.snapshot(),
                "pending": self._pending.snapshot(),
                "recent": self._recent.snapshot(),
                "streams": self._streams.snapshot(),
                "watches": {name: watch.snapshot() for name, watch in self._watches.items()},
                "others": self._places.others,
                "topics": self._topics.snapshot(),
                "means": {component: means.snapshot() for component, means in self._means.items()},
                "languages": {component: first.snapshot() for component, first in self._languages.items()},
                "unproven": self._unproven.snapshot(),
                "relearn": self._promotions.snapshot(),
                "sessions": self._sessions.snapshot(),
                "incidents": self._incidents.snapshot(),
                "embed_model": self._embed_model,
                "coming": msgspec.to_builtins(self._coming),
                "waiting": msgspec.to_builtins(self._waiting),
                "baselines_refused": self._baselines.refused,
            }
        )

    async def absorb(self, records: Sequence[Record]) -> list[Output]:
        """On another thread: making a baseline takes seconds, in which heartbeats go on."""
        return await asyncio.to_thread(self._absorb, records)

    def _absorb(self, records: Sequence[Record]) -> list[Output]:
        outputs: list[Output] = []
        batch: list[Embedding] = []
        for record in records:
            if self._time.hears(record):
                self._time.hear(record)
            items, rejects = embeddings_in(record.value)
            self._undecodable += len(rejects)
            for item in items:
                if isinstance(item, BaselineSet):
                    self._take_baseline(item)
                elif isinstance(item, Release):
                    self._take_release(item)
                elif not isinstance(item, Tick):
                    batch.append(item)
                elif self._time.tick is None or item.ts > self._time.tick:
                    self._take(batch)
                    batch = []
                    first, self._time.tick = self._time.tick is None, item.ts
                    if first:
                        self._take_out_ahead()
                    self._seen.tick(item.ts)
                    outputs += [self._publish(result) for result in self._tick(item.ts, record.offset)]
        self._take(batch)
        return outputs

    def _take(self, embeddings: Sequence[Embedding]) -> None:
        if not embeddings:
            return
        key = digests(joined(e.app, *e.key) for e in embeddings)
        ts = np.array([e.ts for e in embeddings], np.int64)
        for embedding in compress(embeddings, self._seen.new(key, ts).tolist()):
            self._pending.add(embedding, self._time.tick)

    def _take_out_ahead(self) -> None:
        """Embed passes all on until something says what time it is."""
        latest = self._time.latest
        assert latest is not None  # there is a tick
        before = len(self._coming) + len(self._waiting)
        self._coming = [event for event in self._coming if event.ts <= latest]
        self._waiting = [event for event in self._waiting if event.ts <= latest]
        self._ahead_of_time += before - len(self._coming) - len(self._waiting) + self._pending.take_out(latest)

    def _take_baseline(self, event: BaselineSet) -> None:
        """The other detectors' are the other fold's."""
        if event.baseline.detector in DETECTORS:
            key = digests([joined(f"B{event.app}", event.id)])
            if self._seen.new(key, np.array([event.ts])).all() and self._pending.takes(len(self._waiting)):
                self._waiting.append(event)

    def _take_release(self, event: Release) -> None:
        key = digests([joined(f"R{event.app}", event.id)])
        if self._seen.new(key, np.array([event.ts])).all() and self._pending.takes(len(self._coming)):
            self._coming.append(event)

    def _install(self, until: int, revision: int) -> list[Result]:
        """The fitted baselines whose time has come."""
        results: list[Result] = []
        assert self._next_tick is not None
        for event in sorted((e for e in self._waiting if e.ts < until), key=lambda e: (e.ts, e.key)):
            at = max(event.ts, self._next_tick * self._tick_us)
            installed = self._baselines.install(event, self._watches, at, revision, self._embed_model, self._d)
            assert installed is not None
            if installed.baseline.state == "active":
                self._promotions.fitted(event.app, event.baseline.detector, event.baseline.component)
                self._embed_model = self._embed_model or event.baseline.embed_model
            rule = _rule(event.baseline.detector)
            alone = [stream for stream in installed.alarmed if rule != RULE or not self._in_alarm(stream)]
            results += self._incidents.abandon(rule, alone, at, revision, NEW_BASELINE)
            results.append(installed.baseline)
        self._waiting = [e for e in self._waiting if e.ts >= until]
        return results

    @property
    def _d(self) -> int:
        """Dimensions of the vectors; 0: not known yet."""
        return self._vector_bytes // 2

    def _release(self, event: Release, revision: int) -> list[Result]:
        self._unproven.take(event)
        self._promotions.take(event)
        reason = left_traffic(event)
        if not reason:
            for watch in self._watches.values():
                watch.welcome(event.app, event.release)
            return []
        until = event.ts // self._tick_us + self._remainder_ticks
        alarmed: dict[tuple[str, Stream], None] = {}  # once, of whichever of the pair
        for name, watch in self._watches.items():
            alarmed |= dict.fromkeys((_rule(name), s) for s in watch.forget(event.app, event.release, until))
        results: list[Result] = []
        for rule, stream in alarmed:
            results += self._incidents.abandon(rule, [stream], event.ts, revision, reason)
        return results

    def _tick(self, ts: int, revision: int) -> list[Result]:
        until = (ts - self._grace) // self._tick_us * self._tick_us
        ready = self._pending.take(until, ts)
        end = until // self._tick_us
        if self._next_tick is None:
            self._next_tick = ready[0].ts // self._tick_us if ready else end
        results: list[Result] = []
        for event in sorted((e for e in self._coming if e.ts < until), key=lambda e: (e.ts, e.key)):
            results += self._release(not_before(event, self._next_tick * self._tick_us), revision)
        self._coming = [e for e in self._coming if e.ts >= until]
        results += self._install(until, revision)
        relearned = {name: watch for name, watch in self._watches.items() if name != query_types.RULE}
        self._promotions.relearn(until, relearned, self._incidents.is_open)
        start = 0
        for i, embedding in enumerate(ready):
            tick = self._tick_of(embedding)
            if i + 1 == len(ready) or self._tick_of(ready[i + 1]) != tick:
                results += self._step(ready[start : i + 1], tick, revision)
                start = i + 1
        if end > self._next_tick:
            for name, watch in self._watches.items():
                results += self._report(name, watch.advance(end - 1), revision)
            self._next_tick = end
        self._keep_to_size()
        results += self._learned(revision)
        if until - self._reported >= self._config.evidence_s * MICROSECONDS:
            self._reported = until
            for name, watch in self._watches.items():
                results += self._incidents.readings(_rule(name), watch.readings(), until, revision, detector=name)
        self._streams.tick(until, self._held)
        return results

    def _held(self) -> set[int]:
        """The streams whose numbers are in use."""
        watched = (watch.held() for watch in self._watches.values())
        open_ = (means.held() for means in self._means.values())
        return self._sessions.held().union(*watched, *open_)

    def _keep_to_size(self) -> None:
        """What is learned gives way first, then what is remembered."""
        waiting = size_of([msgspec.to_builtins(each) for each in (*self._coming, *self._waiting)])
        means = sum(means.nbytes for means in self._means.values())
        self._places.others = (
            self._pending.nbytes + self._recent.nbytes + waiting + means + self._sessions.nbytes + self._seen.nbytes
        )
        self._places.shed()
        if (left := self._places.bytes_left) < 0:
            self._seen.keep(max(LEAST_KEYS, (self._seen.nbytes + left) // 8))

    def _learned(self, revision: int) -> list[Result]:
        return [
            self._baselines.learned(name, fit, revision, self._embed_model)
            for name, watch in self._watches.items()
            for fit in watch.fits()
        ]

    def _tick_of(self, embedding: Embedding) -> int:
        """Its own, or the first open one for an embedding that came too late."""
        assert self._next_tick is not None
        return max(embedding.ts // self._tick_us, self._next_tick)

    def _step(self, embeddings: list[Embedding], tick: int, revision: int) -> list[Result]:
        results: list[Result] = []
        if embeddings[-1].embed_model != self._embed_model:
            results += self._change_model(embeddings[-1].embed_model, tick, revision)
        embeddings = self._well_formed([e for e in embeddings if e.embed_model == self._embed_model])
        self._recent.extend(embeddings)
        releases = np.array([self._streams.number(e.app, e.release) for e in embeddings], np.int64)
        sessions = digests(e.conversation_id for e in embeddings)
        taken = self._sessions.take(releases, sessions, (tick + 1) * self._tick_us)
        for component in COMPONENTS:
            chosen = [i for i, e in enumerate(embeddings) if taken.mask[i] and getattr(e, component) is not None]
            mine = [embeddings[i] for i in chosen]
            stream = np.array([self._streams.number(e.app, e.release, component) for e in mine], dtype=np.int64)
            learn = np.array([self._is_stable(e) for e in mine], np.bool_)
            value, session = vectors(mine, component), taken.session[chosen]
            transitions = self._watches[RULE].step(Units(stream, value, session, learn), tick)
            results += self._name_topics(stream, tick, revision)
            results += self._report(RULE, transitions, revision)
            closed = self._means[component].step(stream, session, value, learn, self._sessions.open_from, tick)
            units = Units(closed.stream, closed.value, closed.session, closed.learn, closed.began)
            results += self._report(WITNESS, self._watches[WITNESS].step(units, tick), revision)
            if component == query_types.COMPONENT:
                units = self._query_types(stream, units)
                results += self._report(query_types.RULE, self._watches[query_types.RULE].step(units, tick), revision)
            told = [languages.language(e, component) for e in mine]
            watch, open_from = self._watches[languages.RULE], self._sessions.open_from
            units = self._languages[component].units(watch.detector, told, stream, session, learn, open_from)
            results += self._report(languages.RULE, watch.step(units, tick), revision)
        references = self._watches[RULE].references()
        for reference in references:
            reference.close(self._sessions.open_from)
            reference.share(len(references))
        self._watches[RULE].weigh()
        return results

    def _is_stable(self, embedding: Embedding) -> bool:
        """Whether it may serve as a reference: no canary is running beside it, nor was sent back."""
        return embedding.canary_share is None and (embedding.app, embedding.release) not in self._unproven

    def _well_formed(self, embeddings: list[Embedding]) -> list[Embedding]:
        """Those whose vectors are numbers, as many as those of the others."""
        every = [vector for e in embeddings for vector in (e.prompt, e.response) if vector is not None]
        if every and not self._vector_bytes:
            self._vector_bytes = len(every[0])
        size = self._vector_bytes
        if all(len(vector) == size for vector in every) and np.isfinite(np.frombuffer(b"".join(every), "<f2")).all():
            return embeddings
        fitting = [e for e in embeddings if all(_is_vector(v, size) for v in (e.prompt, e.response) if v is not None)]
        self._malformed += len(embeddings) - len(fitting)
        return fitting

    def _change_model(self, embed_model: str, tick: int, revision: int) -> list[Result]:
        """Vectors of different models have nothing in common: all but languages is learned anew."""
        results = self._learned(revision)
        if self._embed_model:
            reason = f"the embedding model changed from {self._embed_model} to {embed_model}"
            for rule, stream in self._incidents.open_alerts():
                if rule == languages.RULE:
                    continue
                results += self._incidents.abandon(rule, [stream], tick * self._tick_us, revision, reason)
            self._watches = self._new_watches({languages.RULE: self._watches[languages.RULE].snapshot()})
            self._means = self._new_means({})
            self._topics = DriftTopics()
            self._recent.clear()
        self._embed_model = embed_model
        self._vector_bytes = 0
        return results

    def _new_watches(self, states: Mapping[str, Any]) -> dict[str, Watch]:
        places = self._places = Places(self._detectors.budget, self._config.limits.state_bytes)
        return {
            name: self._kind(make(name, self._detectors), self._streams, places, states.get(name)) for name in DETECTORS
        }

    def _new_means(self, states: Mapping[str, Any]) -> dict[str, VectorMeans]:
        limit = self._detectors.embedding_witness.max_open
        return {component: VectorMeans(limit, states.get(component)) for component in COMPONENTS}

    def _in_alarm(self, stream: Stream, but: str = "") -> bool:
        """By one of the pair."""
        return any(self._watches[name].in_alarm(stream) for name in PAIR if name != but)

    def _report(self, detector: str, transitions: Sequence[Transition], revision: int) -> list[Result]:
        """An alert begins with the first detector's alarm and ends with the last one's."""
        results: list[Result] = []
        for transition in transitions:
            if detector in PAIR and self._in_alarm(transition.stream, but=detector):
                results.append(self._incidents.evidence(detector, transition, revision))
                continue
            top: list[str] = []
            if transition.kind == "fired" and detector in PAIR:
                top = self._contributors(detector, transition)
                transition = self._with_topics(transition)
            elif transition.kind == "fired":
                top = self._examples(detector, transition)
            results += self._incidents.apply(_rule(detector), transition, revision, top, detector=detector)
        return results

    def _name_topics(self, numbers: NDArray[np.int64], tick: int, revision: int) -> list[Result]:
        """Of the baselines that have come into force for these streams. Query types are then others, too."""
        results: list[Result] = []
        for number in np.unique(numbers).tolist():
            app, component = group = self._streams.names[number].group
            baseline = self._watches[RULE].baseline(app, component)
            if baseline is None or self._topics.keeps(group, baseline):
                continue
            texts = self._recent.of(app, component)
            self._topics.name(group, baseline, vectors(texts, component), [e.excerpt for e in texts])
            if component == query_types.COMPONENT:
                alarmed = self._watches[query_types.RULE].renew(app, component)
                at, reason = tick * self._tick_us, query_types.NEW_TOPICS
                results += self._incidents.abandon(query_types.RULE, alarmed, at, revision, reason)
        return results

    def _query_types(self, seen: NDArray[np.int64], means: Units) -> Units:
        """Of the sessions that closed. `seen`: streams that had texts in this tick."""
        watch = self._watches[query_types.RULE]
        value = np.full(len(means.stream), np.nan)
        known = np.zeros(len(means.stream), np.bool_)
        for number in np.unique(np.concatenate([seen, means.stream])).tolist():
            stream = self._streams.names[number]
            baseline = self._watches[RULE].baseline(*stream.group)
            if baseline is None or not len(baseline.centers):
                watch.lacks(stream, query_types.lack(baseline))
                continue
            mine = means.stream == number
            told = query_types.labels(self._topics, stream.app, baseline, means.value[mine])
            value[mine] = query_types.units(watch.detector, told)
            known |= mine
        began = None if means.began is None else means.began[known]
        return Units(means.stream[known], value[known], means.session[known], means.learn[known], began)

    def _with_topics(self, transition: Transition) -> Transition:
        """What an alert says about topics, if the reference has any."""
        (app, release, component), m = transition.stream, transition.measurement
        baseline = self._watches[RULE].baseline(app, component)
        if baseline is None:
            return transition
        since = self._incidents.since(transition)
        texts = self._recent.of(app, component, release, since)
        told = self._topics.changes((app, component), baseline, vectors(texts, component))
        note = " ".join(filter(None, [told, m.note]))
        return transition._replace(measurement=msgspec.structs.replace(m, note=note))

    def _contributors(self, name: str, transition: Transition) -> list[str]:
        """The recent texts that pull most into the direction of the drift."""
        stream, watch = transition.stream, self._watches[name]
        assert isinstance(watch.detector, EmbeddingDrift | EmbeddingWitness)
        recent = self._recent.of(stream.app, stream.component, stream.release)
        if not recent:
            return []
        pull = watch.detector.witness_scores(watch.slot(stream), vectors(recent, stream.component))
        order = np.argsort(-pull, kind="stable").tolist()
        return quoted((recent[i].excerpt for i in order), self._config.top_contributors)

    def _examples(self, detector: str, transition: Transition) -> list[str]:
        """The latest prompts in the category that moved, or whose responses are in it."""
        (app, release, component), part = transition.stream, transition.measurement.part
        recent = self._recent.of(app, component, release, self._incidents.since(transition))[::-1]
        if detector == query_types.RULE:
            baseline = self._watches[RULE].baseline(app, component)
            assert baseline is not None  # it makes the types
            told = query_types.labels(self._topics, app, baseline, vectors(recent, component))
        else:
            told = [languages.language(e, component) for e in recent]
        moved = {part, *part.split(", ")}  # new categories are told together
        mine = (e.excerpt for e, category in zip(recent, told, strict=True) if category in moved)
        return quoted(mine, self._config.top_contributors)


def _rule(detector: str) -> str:
    """Under which its alerts are told."""
    return RULE if detector in PAIR else detector


def drift_fold_factory(config: MonitorConfig, detectors: DetectorsConfig, topics: Topics) -> FoldFactory:
    """:raises ConfigError: the device that detectors ask for is not there."""
    make_features(detectors.embedding_drift)

    def make_fold(partition: int, snapshot: bytes | None) -> Fold:
        return DriftFold(config, detectors, topics, snapshot)

    return make_fold


def _is_vector(raw: bytes, size: int) -> bool:
    return len(raw) == size and bool(np.isfinite(np.frombuffer(raw, "<f2")).all())

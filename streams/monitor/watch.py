"""One detector over all streams of a partition: from units of evidence to alarms and recoveries.

A stream is (app, release, component). Streams of one (app, component) share a baseline: it is learned from the stable
release's first healthy units, and every release is held against it.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from driftline.detectors.base import Detector, Floats, Insufficient, Measurement, State, TickBatch
from driftline.detectors.baselines import dump
from driftline.detectors.state import size_of
from driftline.schemas.events import MICROSECONDS
from driftline.streams.monitor.places import Places
from driftline.streams.monitor.seasons import Seasons

_MOST_REFERENCES = 4_000  # of a detector: four times what a partition's places hold by default, so that few ever wait
_DAY_US = 86_400 * MICROSECONDS
_MOST_LEFT = 2_000  # releases that have just left traffic: three stopped canaries a second for ten minutes
_MOST_RELEASES = 100  # named as where a reference came from


class Stream(NamedTuple):
    app: str
    release: str
    component: str  # what of the release: a score's name, "prompt", "response"; "" for the release itself

    @property
    def group(self) -> tuple[str, str]:
        return self.app, self.component


def _numbers(state: NDArray[np.int64] | None) -> list[int]:
    return [] if state is None else state.tolist()


class Streams:
    """Every stream's number, in order of appearance. Numbers of streams that were not asked for in a whole day are
    given to others."""

    def __init__(self, state: State | None = None) -> None:
        state = state or {}
        self.names: list[Stream] = [Stream(*stream) for stream in state.get("streams", [])]
        self._free: list[int] = list(state.get("free", []))  # the last one is next
        self._used: set[int] = set(_numbers(state.get("used")))  # in this day
        self._used_before: set[int] = set(_numbers(state.get("used_before")))
        self._day: int = state.get("day", 0)
        free = set(self._free)
        self._numbers: dict[Stream, int] = {s: i for i, s in enumerate(self.names) if i not in free}

    def number(self, app: str, release: str, component: str = "") -> int:
        stream = Stream(app, release, component)
        number = self._numbers.get(stream)
        if number is None:
            number = self._numbers[stream] = self._free.pop() if self._free else len(self.names)
            self.names[number : number + 1] = [stream]
        self._used.add(number)
        return number

    def tick(self, now: int, held: Callable[[], set[int]]) -> None:
        """held: the streams that have something to them although they are silent: all that keeps numbers says which."""
        day = now // _DAY_US
        if day == self._day:
            return
        self._day = day
        freed = set(self._numbers.values()) - self._used - self._used_before - held()
        self._free += sorted(freed, reverse=True)
        for number in freed:
            del self._numbers[self.names[number]]
            self.names[number] = Stream("", "", "")
        self._used, self._used_before = set(), self._used

    def snapshot(self) -> State:
        return {
            "streams": [list(stream) for stream in self.names],
            "free": self._free,
            "used": np.array(sorted(self._used), np.int64),
            "used_before": np.array(sorted(self._used_before), np.int64),
            "day": self._day,
        }


@dataclass(frozen=True)
class Units:
    """The units of evidence of one tick, in canonical order."""

    stream: NDArray[np.int64]  # [n] numbers
    value: Floats  # [n] or [n, d]
    session: NDArray[np.int64]  # [n]
    learn: NDArray[np.bool_]  # [n] whether it may enter a reference: it was not served by a canary
    began: NDArray[np.int64] | None = None  # [n] the tick of its first event; None: the one that closes it


class Transition(NamedTuple):
    kind: Literal["fired", "recovered"]
    stream: Stream
    tick: int
    measurement: Measurement
    baseline_id: str


class Reading(NamedTuple):
    """Where one stream stands. Without a slot it is still learning, and `note` says what is missing."""

    stream: Stream
    alarm: bool
    measurement: Measurement | None
    baseline_id: str
    note: str


class Fit(NamedTuple):
    """A baseline made of a reference, or what the reference lacks."""

    app: str
    component: str
    baseline: Any  # the detector's, or Insufficient
    releases: list[str]  # whose units they were
    first_tick: int
    last_tick: int


class Watch:
    """All streams of one detector. They need a place each; when all are taken, a new stream gets that of the one that
    has been silent for the longest, if that is long enough, and is not watched otherwise. What learns is limited in the
    same way."""

    def __init__(
        self, detector: Detector[Any, Any], streams: Streams, places: Places, state: State | None = None
    ) -> None:
        state = state or {}
        self.detector = detector
        self._streams = streams
        self._places = places
        self._opened: list[int] = list(state.get("opened", []))  # slot -> stream
        self._slot_of = np.full(max(64, len(streams.names)), -1, dtype=np.intp)  # stream -> slot
        self._baselines: dict[tuple[str, str], int] = {tuple(k): slot for k, slot in state.get("baselines", [])}
        self._references: dict[tuple[str, str], Any] = {
            tuple(k): self.detector.reference(reference) for k, reference in state.get("references", [])
        }
        self._sources: dict[tuple[str, str], _Source] = {
            tuple(k): _Source(*source) for k, source in state.get("sources", [])
        }
        self._insufficient: dict[tuple[str, str], Insufficient] = {
            tuple(k): Insufficient(**reason) for k, reason in state.get("insufficient", [])
        }
        self._given: dict[tuple[str, str], Any] = {
            tuple(k): msgspec.convert(fields, self.detector.baseline_type, dec_hook=lambda _, array: array)
            for k, fields in state.get("given", [])
        }
        self._relearning: dict[tuple[str, str], str] = {tuple(k): release for k, release in state.get("relearning", [])}
        self._renewed: set[tuple[str, str]] = {tuple(k) for k in state.get("renewed", [])}
        self._left: dict[tuple[str, str], int] = {tuple(k): until for k, until in state.get("left", [])}
        self._full_until = 0  # the tick before which no reference gives its place away, as far as is known
        self._reference_bytes = {group: reference.nbytes for group, reference in self._references.items()}
        self._learning_bytes = sum(self._reference_bytes.values())
        self._held: int | None = None  # bytes of slots and baselines; None: to be computed anew
        self._baseline_bytes: dict[str, int] = {}  # by id
        self._fits: list[Fit] = []
        self._alarms: set[int] = set(state.get("alarms", []))
        self._touched: set[int] = set(state.get("touched", []))
        self._last_tick: int = state.get("last_tick", -1)
        self.over_limit: int = state.get("over_limit", 0)
        self.no_room: int = state.get("no_room", 0)  # while the state was as good as full
        self._seen = np.array(state.get("seen", []), np.int64)  # slot -> tick of its last units
        places.used += len(self._opened)
        for slot, number in enumerate(self._opened):
            self._slot_of[number] = slot
        self._seasons = Seasons(detector)
        if "detector" in state:
            self.detector.restore(state["detector"])
            self._seasons.restore(state["seasons"], {k: detector.baseline(slot) for k, slot in self._baselines.items()})
        places.join(self)

    @property
    def nbytes(self) -> int:
        """Of the snapshot, about; a function of the state alone."""
        if self._held is None:
            in_force = [self.detector.baseline(slot) for slot in range(len(self._opened))]
            known = {baseline.id: baseline for baseline in (*in_force, *self._given.values())}
            self._baseline_bytes = {id_: self._size_of(baseline) for id_, baseline in known.items()}
            slots = sum(map(self.detector.slot_bytes, in_force))
            self._held = slots + sum(self._baseline_bytes.values())
        held: int = self._held + self._learning_bytes + self._seasons.nbytes
        return held

    def _size_of(self, baseline: Any) -> int:
        known = self._baseline_bytes.get(baseline.id)
        return size_of(msgspec.structs.asdict(baseline)) if known is None else known

    def latest(self) -> tuple[int, tuple[str, str]] | None:
        """The reference that began last, and when."""
        return max(((self._sources[group].first, group) for group in self._references), default=None)

    def give_up(self, group: tuple[str, str]) -> None:
        """A reference that there is no room for."""
        self._unlearn(group)
        self._refuse()

    def _refuse(self) -> None:
        """There is no place, or no room in the state."""
        if self._places.bytes_left < self._places.margin:
            self.no_room += 1
        else:
            self.over_limit += 1

    def snapshot(self) -> State:
        return {
            "opened": self._opened,
            "left": [[list(k), until] for k, until in self._left.items()],
            "baselines": [[list(k), slot] for k, slot in self._baselines.items()],
            "references": [[list(k), reference.snapshot()] for k, reference in self._references.items()],
            "sources": [[list(k), [s.first, s.last, s.releases]] for k, s in self._sources.items()],
            "given": [[list(k), msgspec.structs.asdict(baseline)] for k, baseline in self._given.items()],
            "relearning": [[list(k), release] for k, release in self._relearning.items()],
            "renewed": sorted(map(list, self._renewed)),
            "insufficient": [
                [list(k), {"note": reason.note, "have": reason.have, "need": reason.need}]
                for k, reason in self._insufficient.items()
            ],
            "alarms": sorted(self._alarms),
            "touched": sorted(self._touched),
            "seen": self._seen.copy(),
            "last_tick": self._last_tick,
            "over_limit": self.over_limit,
            "no_room": self.no_room,
            "detector": self.detector.snapshot(),
            "seasons": self._seasons.snapshot(),
        }

    def step(self, units: Units, tick: int) -> list[Transition]:
        """Score the units of one tick; those of streams without a baseline are learned from instead."""
        if not len(units.stream):
            return []
        self._touched.update(units.stream.tolist())
        slots = self._slots(units.stream, tick)
        self._seen[slots[slots >= 0]] = tick
        if self._renewed:
            slots = np.where(self._is_renewed(units.stream), -1, slots)
        learning = (slots < 0) & units.learn
        if self._relearning:
            learning |= self._relearns(units.stream) & units.learn
        if learning.any():
            self._learn(units.stream[learning], units.value[learning], units.session[learning], tick)
        scored = slots >= 0
        if self._left:
            scored &= self._serves(units.stream, tick)
        self._learn_hours(units, scored & units.learn, tick)
        began = None if units.began is None else units.began[scored]
        return self._detect(TickBatch(slots[scored], units.value[scored], units.session[scored], began), tick)

    def advance(self, tick: int) -> list[Transition]:
        """Nothing more came up to `tick`."""
        return self._detect(_EMPTY, tick) if tick > self._last_tick else []

    def _detect(self, batch: TickBatch, tick: int) -> list[Transition]:
        self._last_tick = tick
        changes = self.detector.update(batch, tick)
        if not changes.fired and not changes.recovered:
            return []
        return [self._transition("recovered", slot, tick) for slot in changes.recovered] + [
            self._transition("fired", slot, tick) for slot in changes.fired
        ]

    def _transition(self, kind: Literal["fired", "recovered"], slot: int, tick: int) -> Transition:
        number = self._opened[slot]
        self._touched.add(number)
        (self._alarms.add if kind == "fired" else self._alarms.discard)(number)
        return Transition(
            kind, self._streams.names[number], tick, self.detector.measure(slot), self.detector.baseline(slot).id
        )

    def _slots(self, numbers: NDArray[np.int64], tick: int) -> NDArray[np.intp]:
        """Slots of streams, opened where there is a baseline; -1 while there is none."""
        highest = int(numbers.max())
        if highest >= len(self._slot_of):
            self._slot_of = np.append(self._slot_of, np.full(highest + 64 - len(self._slot_of), -1, dtype=np.intp))
        slots = self._slot_of[numbers]
        if (slots < 0).any():
            for number in np.unique(numbers[slots < 0]).tolist():
                group = self._streams.names[number].group
                source = self._baselines.get(group)
                if source is not None:
                    self._open(number, self.detector.baseline(source), tick)
                elif group in self._given:
                    self._open_first(number, self._given[group], tick)
            slots = self._slot_of[numbers]
        return slots

    def _open(self, number: int, baseline: Any, tick: int) -> None:
        if not self._places.full and self._places.bytes_left >= self._cost(baseline):
            self._held = None
            self._places.used += 1
            self._slot_of[number] = self.detector.open(baseline)
            self._opened.append(number)
            self._seen = np.append(self._seen, tick)
        elif (slot := self._idle_slot(self._streams.names[number].group, tick)) is not None:
            self._held = None
            self._slot_of[self._opened[slot]] = -1
            self._slot_of[number] = self.detector.open(baseline, slot)
            self._opened[slot], self._seen[slot] = number, tick
        else:
            self._refuse()

    def _cost(self, baseline: Any) -> int:
        """Bytes of one more stream that is held against it."""
        known = baseline.id in self._baseline_bytes
        return self.detector.slot_bytes(baseline) + (0 if known else self._size_of(baseline))

    def _idle_slot(self, group: tuple[str, str], tick: int) -> int | None:
        """For a stream of that group: that of the one that has been silent for the longest, if that is long enough."""
        seen = self._seen
        idle = self._places.idle(seen, tick)
        if not idle.any():
            return None
        idle[self._slot_of[sorted(self._alarms)]] = False
        gone = idle & self._places.gone(seen, tick)
        idle[list(self._baselines.values())] = False  # others take their baseline from it
        if idle.any():
            return int(np.where(idle, seen, np.iinfo(np.int64).max).argmin())
        return self._slot_of_gone(group, gone) if gone.any() else None

    def _slot_of_gone(self, but: tuple[str, str], gone: NDArray[np.bool_]) -> int | None:
        """That of a baseline whose only stream is gone. The baseline goes, too."""
        streams = Counter(self._streams.names[number].group for number in self._opened)
        candidates = [
            (int(self._seen[slot]), slot, group)
            for group, slot in self._baselines.items()
            if gone[slot] and streams[group] == 1 and group != but
        ]
        if not candidates:
            return None
        _, slot, group = min(candidates)
        del self._baselines[group]
        self._unlearn(group)
        self._relearning.pop(group, None)
        self._renewed.discard(group)
        self._seasons.end(group)
        return slot

    def _open_first(self, number: int, baseline: Any, tick: int) -> None:
        """A group's first stream: the others take their baseline from it."""
        self._open(number, baseline, tick)
        if (slot := int(self._slot_of[number])) >= 0:
            group = self._streams.names[number].group
            self._baselines[group] = slot
            self._given.pop(group, None)
            self._held = None

    def _learn(self, numbers: NDArray[np.int64], value: Floats, session: NDArray[np.int64], tick: int) -> None:
        for number in np.unique(numbers).tolist():
            stream = self._streams.names[number]
            if stream.group in self._baselines and stream.group not in self._relearning.keys() | self._renewed:
                continue  # over the limit of streams
            reference = self._references.get(stream.group)
            if reference is None:
                if not self._may_learn(tick):
                    self._refuse()
                    continue
                reference = self._references[stream.group] = self.detector.reference()
                self._sources[stream.group] = _Source(tick, tick, [])
            mine = numbers == number
            reference.add(value[mine], session[mine])
            self._weigh(stream.group, reference.nbytes)
            self._sources[stream.group].note(stream.release, tick)
            self._settle(number, reference)

    def _weigh(self, group: tuple[str, str], nbytes: int) -> None:
        self._learning_bytes += nbytes - self._reference_bytes.get(group, 0)
        self._reference_bytes[group] = nbytes

    def _has_room(self) -> bool:
        """For one more reference, as large as the others."""
        if len(self._references) >= _MOST_REFERENCES:
            return False
        return self._places.bytes_left > max(self._reference_bytes.values(), default=0)

    def _may_learn(self, tick: int) -> bool:
        """Whether there is room for one more reference; made by forgetting an idle one, if there is none."""
        if self._has_room():
            return True
        if tick < self._full_until or not self._references:
            return False
        group = min(self._references, key=lambda group: (self._sources[group].last, group))
        self._full_until = self._places.idle_from(self._sources[group].last)
        if tick < self._full_until:
            return False
        self._unlearn(group)
        return self._has_room()

    def _learn_hours(self, units: Units, chosen: NDArray[np.bool_], tick: int) -> None:
        """From what is scored."""
        if not self._seasons:
            return
        sick = {self._streams.names[number].group for number in self._alarms}
        for number in np.unique(units.stream[chosen]).tolist():
            stream = self._streams.names[number]
            if self._seasons.takes(stream.group, incident=stream.group in sick):
                mine = chosen & (units.stream == number)
                self._seasons.learn(stream.group, [stream.release], units.value[mine], units.session[mine], tick)
        for group in self._seasons.due():
            if group not in sick:
                refit = self._seasons.refit(group, self.baseline(*group))
                if self._places.bytes_left < self._size_of(refit.baseline):
                    self._seasons.end(group)
                    self._refuse()
                    continue
                self._replace(group, refit.baseline)
                self._fits.append(Fit(*group, refit.baseline, refit.releases, refit.first_tick, refit.last_tick))

    def _settle(self, number: int, reference: Any) -> None:
        """Put a baseline in force as soon as the reference is enough for one."""
        group = self._streams.names[number].group
        reason = self._insufficient.get(group)
        if reason is not None and reference.n < max(reason.need, reason.have * 1.1):
            return
        fit = self._fit(group, reference)
        if isinstance(fit.baseline, Insufficient):
            self._insufficient[group] = fit.baseline
            return
        if group in self._baselines:
            fit = self._with_hours_of_before(group, fit)
            self.install(*group, fit.baseline)
        else:
            self._open_first(number, fit.baseline, fit.last_tick)
            self._unlearn(group)
        if group in self._baselines:
            self._fits.append(fit)
            if self._places.bytes_left > 0:
                self._seasons.begin(group, fit.baseline, fit.releases, fit.first_tick, fit.last_tick)

    def _with_hours_of_before(self, group: tuple[str, str], fit: Fit) -> Fit:
        """Users keep their habits when a release replaces another; what is measured otherwise is another thing."""
        if group in self._renewed:
            return fit
        before = self.detector.baseline(self._baselines[group])
        return fit._replace(baseline=self.detector.carried(fit.baseline, before))

    def _fit(self, group: tuple[str, str], reference: Any) -> Fit:
        source = self._sources[group]
        return Fit(*group, self.detector.fit(reference), sorted(source.releases), source.first, source.last)

    def _unlearn(self, group: tuple[str, str]) -> None:
        self._references.pop(group, None)
        self._learning_bytes -= self._reference_bytes.pop(group, 0)
        self._sources.pop(group, None)
        self._insufficient.pop(group, None)

    def fits(self) -> list[Fit]:
        """The baselines that came into force since the last call, as references became large enough."""
        fits, self._fits = self._fits, []
        return fits

    def install(self, app: str, component: str, baseline: Any) -> list[Stream]:
        """Hold an app's component against this baseline from now on: all its streams start afresh. Returns those in
        alarm."""
        group = (app, component)
        self._unlearn(group)
        self._relearning.pop(group, None)
        self._renewed.discard(group)
        self._seasons.end(group)
        slots = self._replace(group, baseline)
        if slots:
            self._baselines[group] = slots[0]
        else:
            self._given[group] = baseline
        alarmed = [self._opened[slot] for slot in slots if self._opened[slot] in self._alarms]
        self._alarms.difference_update(alarmed)
        return [self._streams.names[number] for number in alarmed]

    def contradicts(self, baseline: Any) -> bool:
        """Whether another baseline is in force under its id, which names it in states and laws."""
        held = [*(self.detector.baseline(slot) for slot in range(len(self._opened))), *self._given.values()]
        return any(other.id == baseline.id and dump(other) != dump(baseline) for other in held)

    def _replace(self, group: tuple[str, str], baseline: Any) -> list[int]:
        """The group's slots, which start afresh."""
        self._held = None
        slots = [slot for slot, number in enumerate(self._opened) if self._streams.names[number].group == group]
        for slot in slots:
            self.detector.open(baseline, slot)
        return slots

    def relearn(self, app: str, release: str, keep: Sequence[str]) -> None:
        """Learn the app's baselines anew from this release, except of the components to keep; until they are made, the
        old ones stay in force."""
        for group in self._baselines:
            if group[0] == app and group[1] not in keep:
                self._unlearn(group)
                self._relearning[group] = release

    def renew(self, app: str, component: str) -> list[Stream]:
        """An app's component is measured otherwise from now on: its baseline is learned anew from all stable releases,
        and nothing is scored until then. Returns the streams in alarm."""
        group = (app, component)
        self._unlearn(group)
        self._relearning.pop(group, None)
        self._given.pop(group, None)
        self._held = None
        self._seasons.end(group)
        if group not in self._baselines:
            return []
        self._renewed.add(group)
        return self._start_afresh(lambda stream: stream.group == group)

    def _is_renewed(self, numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
        return np.array([self._streams.names[number].group in self._renewed for number in numbers.tolist()], np.bool_)

    def lacks(self, stream: Stream, note: str) -> None:
        """A stream's units can't be measured yet, and so not be learned from."""
        self._touched.add(self._streams.number(*stream))
        if stream.group not in self._references and len(self._insufficient) < 2 * _MOST_REFERENCES:
            self._insufficient[stream.group] = Insufficient(note, 0, 0)

    def _relearns(self, numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whose units enter a new reference beside their baseline. An incident makes it begin again after its end."""
        sick = {self._streams.names[number].group for number in self._alarms} & self._relearning.keys()
        for group in sick:
            self._unlearn(group)
        streams = [self._streams.names[number] for number in numbers.tolist()]
        return np.array([s.group not in sick and self._relearning.get(s.group) == s.release for s in streams], np.bool_)

    def _serves(self, numbers: NDArray[np.int64], tick: int) -> NDArray[np.bool_]:
        """[n] whether the release of each unit is in traffic, and not a late remainder."""
        self._left = {key: until for key, until in self._left.items() if tick < until}
        gone = [n for n in np.unique(numbers).tolist() if self._streams.names[n][:2] in self._left]
        return ~np.isin(numbers, gone)

    def forget(self, app: str, release: str, until: int) -> list[Stream]:
        """A release has left traffic: its streams start afresh should it come back. Sessions that are still open and
        scores that are still to come are not held against it up to the tick `until`. Returns the streams in alarm."""
        self._left.pop((app, release), None)
        for gone in [key for key, until_ in self._left.items() if until_ <= self._last_tick]:
            del self._left[gone]
        if len(self._left) >= _MOST_LEFT:
            del self._left[next(iter(self._left))]
        self._left[app, release] = until
        return self._start_afresh(lambda stream: stream[:2] == (app, release))

    def _start_afresh(self, is_one: Callable[[Stream], bool]) -> list[Stream]:
        """Returns those of them that were in alarm."""
        alarmed = []
        for slot, number in enumerate(self._opened):
            stream = self._streams.names[number]
            if is_one(stream):
                self.detector.reset(slot)
                if number in self._alarms:
                    self._alarms.discard(number)
                    alarmed.append(stream)
        return alarmed

    def welcome(self, app: str, release: str) -> None:
        """A release has come, or come back."""
        self._left.pop((app, release), None)

    def dismiss(self, stream: Stream) -> None:
        """Forget an alarm: the stream begins to gather evidence anew."""
        self.detector.reset(self.slot(stream))
        self._alarms.discard(self._streams.number(*stream))

    def readings(self) -> list[Reading]:
        """Where the streams stand that had units since the last call, and all that are in alarm."""
        numbers, self._touched = sorted(self._touched | self._alarms), set()
        return [self._reading(number) for number in numbers]

    def _reading(self, number: int) -> Reading:
        stream = self._streams.names[number]
        slot = int(self._slot_of[number]) if number < len(self._slot_of) else -1
        if slot < 0 or stream.group in self._renewed:
            reason = self._insufficient.get(stream.group)
            reference = self._references.get(stream.group)
            have = f" ({reference.n:,} of {reason.need:,})" if reason and reference else ""
            return Reading(stream, False, None, "", f"{reason.note}{have}" if reason else "no baseline yet")
        measurement = self.detector.measure(slot)
        return Reading(stream, number in self._alarms, measurement, self.detector.baseline(slot).id, measurement.note)

    def baseline(self, app: str, component: str = "") -> Any | None:
        if (app, component) in self._renewed:
            return None
        slot = self._baselines.get((app, component))
        return self._given.get((app, component)) if slot is None else self.detector.baseline(slot)

    def slot(self, stream: Stream) -> int:
        """The slot of a stream that has one."""
        return int(self._slot_of[self._streams.number(*stream)])

    def in_alarm(self, stream: Stream) -> bool:
        return self._streams.number(*stream) in self._alarms

    def held(self) -> set[int]:
        """The numbers of streams that have a slot, or are to be told of."""
        return {*self._opened, *self._alarms, *self._touched}

    def references(self) -> Sequence[Any]:
        """The references that are still learning. Call `weigh` if their sizes change."""
        return list(self._references.values())

    def weigh(self) -> None:
        for group, reference in self._references.items():
            self._weigh(group, reference.nbytes)


@dataclass
class _Source:
    """Where the units of a reference came from: ticks and releases."""

    first: int
    last: int
    releases: list[str]

    def note(self, release: str, tick: int) -> None:
        self.last = tick
        if release not in self.releases and len(self.releases) < _MOST_RELEASES:
            self.releases.append(release)


class Collector(Watch):
    """Only learns: its references take every unit, and are fitted when asked for."""

    def _settle(self, number: int, reference: Any) -> None:
        pass

    def _detect(self, batch: TickBatch, tick: int) -> list[Transition]:
        return []

    def fit_all(self) -> list[Fit]:
        """What the references make, or lack, as they stand."""
        return [self._fit(group, reference) for group, reference in self._references.items()]

    def hold(self, fit: Fit) -> None:
        """Learn the hours of what was fitted before, from the same traffic."""
        self.install(fit.app, fit.component, fit.baseline)
        self._seasons.begin((fit.app, fit.component), fit.baseline, fit.releases, fit.first_tick, fit.last_tick)


_EMPTY = TickBatch(np.empty(0, np.intp), np.empty(0, np.float64), np.empty(0, np.int64))

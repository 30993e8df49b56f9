"""One detector over all streams of a partition: from units of evidence to alarms and recoveries.

A stream is (app, release, component). Streams of one (app, component) share a baseline: it is learned from the stable
release's first healthy units, and every release is held against it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from driftline.detectors.base import Detector, Floats, Insufficient, Measurement, State, TickBatch


class Stream(NamedTuple):
    app: str
    release: str
    component: str  # what of the release: a score's name, "prompt", "response"; "" for the release itself

    @property
    def group(self) -> tuple[str, str]:
        return self.app, self.component


class Streams:
    """Every stream's number, in order of appearance."""

    def __init__(self, state: State | None = None) -> None:
        self._numbers: dict[Stream, int] = {Stream(*s): i for i, s in enumerate((state or {}).get("streams", []))}
        self.names: list[Stream] = list(self._numbers)

    def number(self, app: str, release: str, component: str = "") -> int:
        stream = Stream(app, release, component)
        number = self._numbers.get(stream)
        if number is None:
            number = self._numbers[stream] = len(self.names)
            self.names.append(stream)
        return number

    def snapshot(self) -> State:
        return {"streams": [list(stream) for stream in self.names]}


@dataclass(frozen=True)
class Units:
    """The units of evidence of one tick, in canonical order."""

    stream: NDArray[np.int64]  # [n] numbers
    value: Floats  # [n] or [n, d]
    session: NDArray[np.int64]  # [n]
    learn: NDArray[np.bool_]  # [n] whether it may enter a reference: it was not served by a canary


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


class Watch:
    """All streams of one detector. `limit` bounds their number: the false-alarm budget is divided by it."""

    def __init__(self, detector: Detector[Any, Any], streams: Streams, limit: int, state: State | None = None) -> None:
        state = state or {}
        self.detector = detector
        self._streams = streams
        self._limit = limit
        self._opened: list[int] = list(state.get("opened", []))  # slot -> stream
        self._slot_of = np.full(max(64, len(streams.names)), -1, dtype=np.intp)  # stream -> slot
        self._baselines: dict[tuple[str, str], int] = {tuple(k): slot for k, slot in state.get("baselines", [])}
        self._references: dict[tuple[str, str], Any] = {
            tuple(k): self.detector.reference(reference) for k, reference in state.get("references", [])
        }
        self._insufficient: dict[tuple[str, str], Insufficient] = {
            tuple(k): Insufficient(**reason) for k, reason in state.get("insufficient", [])
        }
        self._alarms: set[int] = set(state.get("alarms", []))
        self._touched: set[int] = set(state.get("touched", []))
        self._last_tick: int = state.get("last_tick", -1)
        self.over_limit: int = state.get("over_limit", 0)
        for slot, number in enumerate(self._opened):
            self._slot_of[number] = slot
        if "detector" in state:
            self.detector.restore(state["detector"])

    def snapshot(self) -> State:
        return {
            "opened": self._opened,
            "baselines": [[list(k), slot] for k, slot in self._baselines.items()],
            "references": [[list(k), reference.snapshot()] for k, reference in self._references.items()],
            "insufficient": [
                [list(k), {"note": reason.note, "have": reason.have, "need": reason.need}]
                for k, reason in self._insufficient.items()
            ],
            "alarms": sorted(self._alarms),
            "touched": sorted(self._touched),
            "last_tick": self._last_tick,
            "over_limit": self.over_limit,
            "detector": self.detector.snapshot(),
        }

    def step(self, units: Units, tick: int) -> list[Transition]:
        """Score the units of one tick; those of streams without a baseline are learned from instead."""
        if not len(units.stream):
            return []
        self._touched.update(units.stream.tolist())
        slots = self._slots(units.stream)
        learning = (slots < 0) & units.learn
        if learning.any():
            self._learn(units.stream[learning], units.value[learning], units.session[learning])
        scored = slots >= 0
        return self._detect(TickBatch(slots[scored], units.value[scored], units.session[scored]), tick)

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

    def _slots(self, numbers: NDArray[np.int64]) -> NDArray[np.intp]:
        """Slots of streams, opened where there is a baseline; -1 while there is none."""
        highest = int(numbers.max())
        if highest >= len(self._slot_of):
            self._slot_of = np.append(self._slot_of, np.full(highest + 64 - len(self._slot_of), -1, dtype=np.intp))
        slots = self._slot_of[numbers]
        if (slots < 0).any():
            for number in np.unique(numbers[slots < 0]).tolist():
                source = self._baselines.get(self._streams.names[number].group)
                if source is not None:
                    self._open(number, self.detector.baseline(source))
            slots = self._slot_of[numbers]
        return slots

    def _open(self, number: int, baseline: Any) -> None:
        if len(self._opened) >= self._limit:
            self.over_limit += 1
            return
        self._slot_of[number] = self.detector.open(baseline)
        self._opened.append(number)

    def _learn(self, numbers: NDArray[np.int64], value: Floats, session: NDArray[np.int64]) -> None:
        for number in np.unique(numbers).tolist():
            group = self._streams.names[number].group
            if group in self._baselines:
                continue  # over the limit of streams
            reference = self._references.get(group)
            if reference is None:
                reference = self._references[group] = self.detector.reference()
            mine = numbers == number
            reference.add(value[mine], session[mine])
            reason = self._insufficient.get(group)
            if reason is not None and reference.n < max(reason.need, reason.have * 1.1):
                continue
            baseline = self.detector.fit(reference)
            if isinstance(baseline, Insufficient):
                self._insufficient[group] = baseline
                continue
            self._open(number, baseline)
            if (slot := int(self._slot_of[number])) >= 0:
                self._baselines[group] = slot
            del self._references[group]
            self._insufficient.pop(group, None)

    def forget(self, app: str, release: str) -> list[Stream]:
        """A release has left traffic: its streams start afresh should it come back. Returns those in alarm."""
        alarmed = []
        for slot, number in enumerate(self._opened):
            stream = self._streams.names[number]
            if stream.app == app and stream.release == release:
                self.detector.reset(slot)
                if number in self._alarms:
                    self._alarms.discard(number)
                    alarmed.append(stream)
        return alarmed

    def readings(self) -> list[Reading]:
        """Where the streams stand that had units since the last call, and all that are in alarm."""
        numbers, self._touched = sorted(self._touched | self._alarms), set()
        return [self._reading(number) for number in numbers]

    def _reading(self, number: int) -> Reading:
        stream = self._streams.names[number]
        slot = int(self._slot_of[number]) if number < len(self._slot_of) else -1
        if slot < 0:
            reason = self._insufficient.get(stream.group)
            return Reading(stream, False, None, "", reason.note if reason else "no baseline yet")
        measurement = self.detector.measure(slot)
        return Reading(stream, number in self._alarms, measurement, self.detector.baseline(slot).id, measurement.note)

    def baseline(self, app: str, component: str = "") -> Any | None:
        slot = self._baselines.get((app, component))
        return None if slot is None else self.detector.baseline(slot)

    def slot(self, stream: Stream) -> int:
        """The slot of a stream that has one."""
        return int(self._slot_of[self._streams.number(*stream)])

    def references(self) -> Sequence[Any]:
        """The references that are still learning."""
        return list(self._references.values())


_EMPTY = TickBatch(np.empty(0, np.intp), np.empty(0, np.float64), np.empty(0, np.int64))

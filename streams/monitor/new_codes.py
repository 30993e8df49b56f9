"""The first sighting of an error code: said at once, in any request, as information. Whether it is a change of rates is
for `error_type` to say, which counts sessions."""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from driftline.detectors.base import Measurement, State
from driftline.detectors.units import NEVER
from driftline.schemas.events import MICROSECONDS
from driftline.schemas.results import Alert, Evidence
from driftline.streams.monitor.alerts import Wording, clock_time, where
from driftline.streams.monitor.columns import Traces
from driftline.streams.monitor.config import NewCodesConfig
from driftline.streams.monitor.incidents import Incidents
from driftline.streams.monitor.mix import UNNAMED
from driftline.streams.monitor.names import TraceSeries
from driftline.streams.monitor.watch import Stream

RULE = "new_code"
_SWEEP_US = 3600 * MICROSECONDS
_NOTHING = Measurement(threshold=0, guarantee="none")

Known = Callable[[str, str], bool | None]  # app, code -> whether its reference has it; None: there is no reference yet


class NewCodes:
    def __init__(self, config: NewCodesConfig, notices: Incidents, state: State | None = None) -> None:
        state = state or {}
        self._keep = round(config.dedup_s * MICROSECONDS)
        self._open_us = round(config.open_s * MICROSECONDS)
        self._most = config.most
        self._notices = notices
        self._seen: dict[tuple[str, str], int] = {(app, code): at for app, code, at in state.get("seen", [])}
        self._codes: Counter[str] = Counter(app for app, _ in self._seen)
        self._open: dict[Stream, int] = {Stream(*stream): at for stream, at in state.get("open", [])}
        self._swept: int = state.get("swept", 0)  # hours

    def snapshot(self) -> State:
        return {
            "seen": [[app, code, at] for (app, code), at in self._seen.items()],
            "open": [[list(stream), at] for stream, at in self._open.items()],
            "swept": self._swept,
        }

    @property
    def due(self) -> int:
        """When the first alert ends."""
        return next(iter(self._open.values())) + self._open_us if self._open else NEVER

    def step(
        self, traces: Traces, names: Sequence[TraceSeries], known: Known, now: int, revision: int
    ) -> list[Evidence | Alert]:
        """The traces of the tick that ends at `now`."""
        results: list[Evidence | Alert] = []
        failed = np.flatnonzero(traces.failed)
        pairs = zip(traces.series[failed].tolist(), traces.error_type[failed].tolist(), strict=True)
        for (number, code), count in Counter(pairs).items():
            name, code = names[number], code or UNNAMED
            if self._is_first(name.app, code, now) and known(name.app, code) is False:
                results += self._say(Stream(name.app, name.release, code), name, count, now, revision)
        for stream, at in list(self._open.items()):
            if now - at < self._open_us:
                break
            del self._open[stream]
            results += self._notices.resolve(RULE, stream, now, revision, _NOTHING, "", "it was said")
        if now // _SWEEP_US != self._swept:
            self._sweep(now // _SWEEP_US)
        return results

    def _is_first(self, app: str, code: str, now: int) -> bool:
        """Whether an app's code has not come for a day; never so if the app has too many for that to be news."""
        last = self._seen.get((app, code))
        if last is None and self._codes[app] >= self._most:
            return False
        self._codes[app] += last is None
        self._seen[app, code] = now
        return last is None or now - last >= self._keep

    def _say(self, stream: Stream, name: TraceSeries, count: int, now: int, revision: int) -> list[Evidence | Alert]:
        if stream in self._open:
            return []
        self._open[stream] = now
        code = stream.component
        wording = Wording(
            severity="info",
            summary=f"{where(stream)}: new error code “{code}”, first seen at {clock_time(now)}",
            description=f"{count} requests to {name.provider or 'an unknown provider'} {name.model} failed with it. "
            "The reference has no such error. If its rate counts, an alert on that follows.",
            action=f"Read driftline.traces where error_type = '{code}'. This alert ends by itself.",
            false_alarms="outside the false-alarm budget: it says that a code was seen, not that a rate has changed",
        )
        measurement = Measurement(threshold=0, n_events=count, guarantee="none")
        return self._notices.fire(
            RULE, stream, now, now, revision, measurement, "", wording, [], episode=now // MICROSECONDS
        )

    def _sweep(self, hour: int) -> None:
        self._swept = hour
        self._seen = {key: at for key, at in self._seen.items() if hour * _SWEEP_US - at < self._keep}
        self._codes = Counter(app for app, _ in self._seen)

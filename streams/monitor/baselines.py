"""Baselines between the monitor and others: those it learns are published, those fitted by hand are put in force."""

import math
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import NamedTuple

import msgspec

from driftline.detectors.base import Baseline as Fitted
from driftline.detectors.baselines import dump, fingerprint, load, summary
from driftline.detectors.config import DetectorsConfig
from driftline.detectors.registry import FACTORIES
from driftline.detectors.soundness import dimension
from driftline.schemas.baselines import Baseline
from driftline.schemas.events import EARLIEST_TS, LATEST_TS, MICROSECONDS, BaselineSet
from driftline.schemas.ids import stable_id
from driftline.schemas.text import for_log
from driftline.streams.monitor.watch import Fit, Stream, Watch

MOST_NAMES, MOST_NAME = 1_000, 200  # of releases, models, prompt versions and judges; characters
MOST_NUMBERS = 100  # of a summary
MOST_UNITS = 2**63 - 1
NEW_BASELINE = "it is held against a new baseline"  # why incidents end
LEARNED_ONLY = {  # detectors whose baselines can't be fitted by hand, and why
    "query_type": "query types are topics of embedding_drift's baseline, and learned when that changes: fit that one",
}


class Versions(NamedTuple):
    """What else the traffic of a baseline is known to have come from."""

    models: Sequence[str] = ()
    prompt_versions: Sequence[str] = ()
    embed_model: str = ""
    judges: Sequence[str] = ()


class Installed(NamedTuple):
    baseline: Baseline  # to publish
    alarmed: list[Stream]  # whose incidents end by it


class Baselines:
    """`refused`: how many fitted baselines were, so far."""

    def __init__(self, config: DetectorsConfig, refused: int = 0) -> None:
        self._config = config
        self.refused = refused

    def learned(self, detector: str, fit: Fit, revision: int, embed_model: str = "") -> Baseline:
        tick_us = round(self._config.budget.tick_s * MICROSECONDS)
        end = (fit.last_tick + 1) * tick_us
        return record(detector, fit, self._config, Versions(embed_model=embed_model), made=end, revision=revision)

    def install(
        self,
        event: BaselineSet,
        watches: Mapping[str, Watch],
        at: int,
        revision: int,
        embed_model: str = "",
        d: int = 0,
    ) -> Installed | None:
        """Put a fitted baseline in force, or refuse it. None: it is for the other fold. `d`: dimensions of the vectors
        in use; 0: they are not known."""
        given = event.baseline
        if given.detector not in watches and given.detector in FACTORIES:
            return None
        published = msgspec.structs.replace(_told(given), app=event.app, source="fitted", at=at, revision=revision)
        try:
            baseline = self._check(event, embed_model, d)
            if watches[given.detector].contradicts(baseline):
                raise ValueError(f"another baseline is in force as {given.id}")
        except ValueError as error:
            self.refused += 1
            refused = stable_id("refused", event.id)
            return Installed(msgspec.structs.replace(published, id=refused, state="refused", note=str(error)), [])
        alarmed = watches[given.detector].install(given.app, given.component, baseline)
        own = {"n": baseline.n, "guarantee": baseline.guarantee, "summary": summary(baseline)}
        return Installed(msgspec.structs.replace(published, state="active", **own), alarmed)

    def _check(self, event: BaselineSet, embed_model: str, d: int) -> Fitted:
        """What is quickly seen first: a trial takes a part of a second.

        :raises ValueError: it says why the baseline can't be used."""
        given = event.baseline
        if given.app != event.app:
            raise ValueError(f"it was fitted for the app {given.app}")
        if given.detector in LEARNED_ONLY:
            raise ValueError(LEARNED_ONLY[given.detector])
        if given.detector in FACTORIES and given.config != fingerprint(given.detector, self._config):
            raise ValueError(f"it was fitted under other settings of {given.detector} than the monitor's: fit it again")
        if embed_model and given.embed_model != embed_model:
            raise ValueError(f"it was fitted for the embedding model {given.embed_model}, and {embed_model} is in use")

        def accept(baseline: Fitted) -> None:
            if given.id != baseline.id:
                raise ValueError(f"its payload is that of baseline {for_log(baseline.id)}")
            if d and (its := dimension(baseline)) and its != d:
                raise ValueError(f"it is of vectors of {its} dimensions, and those in use have {d}")

        return load(given.detector, self._config, given.payload, accept)


def _told(given: Baseline) -> Baseline:
    """What it says of itself, as far as tables take it."""
    names = {
        name: [text[:MOST_NAME] for text in getattr(given, name)[:MOST_NAMES]]
        for name in ("releases", "models", "prompt_versions", "judges")
    }
    times = {name: min(max(getattr(given, name), EARLIEST_TS), LATEST_TS) for name in ("from_ts", "to_ts", "fitted_at")}
    finite = ((name[:MOST_NAME], number) for name, number in given.summary.items() if math.isfinite(number))
    numbers = dict(islice(finite, MOST_NUMBERS))
    return msgspec.structs.replace(given, n=min(max(given.n, 0), MOST_UNITS), summary=numbers, **names, **times)


def record(
    detector: str, fit: Fit, config: DetectorsConfig, versions: Versions, *, made: int, revision: int = -1
) -> Baseline:
    """A baseline as it is published. `made`: when, in microseconds; without a revision it was fitted by hand."""
    tick_us = round(config.budget.tick_s * MICROSECONDS)
    return Baseline(
        id=fit.baseline.id,
        app=fit.app,
        detector=detector,
        component=fit.component,
        state="active",
        source="fitted" if revision < 0 else "learned",
        at=made,
        revision=revision,
        releases=fit.releases,
        models=list(versions.models),
        prompt_versions=list(versions.prompt_versions),
        embed_model=versions.embed_model,
        judges=list(versions.judges),
        from_ts=fit.first_tick * tick_us,
        to_ts=(fit.last_tick + 1) * tick_us,
        fitted_at=made,
        n=fit.baseline.n,
        guarantee=fit.baseline.guarantee,
        summary=summary(fit.baseline),
        config=fingerprint(detector, config),
        payload=dump(fit.baseline),
    )

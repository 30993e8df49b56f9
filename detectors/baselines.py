"""Baselines as records: of any detector to bytes and back, their numbers for people, and the settings they hang on."""

import math
from collections.abc import Callable
from typing import Any

import msgspec

from driftline.detectors.base import Baseline
from driftline.detectors.config import DetectorsConfig
from driftline.detectors.registry import make
from driftline.detectors.soundness import check
from driftline.detectors.state import pack, unpack
from driftline.schemas.ids import stable_id
from driftline.schemas.text import for_log

_NO_NUMBERS = {"id", "n", "guarantee"}


def fingerprint(detector: str, config: DetectorsConfig) -> str:
    """A hash of all settings that a detector's baselines and units hang on: under others a baseline says something
    else. Its section of the settings bears the detector's name; a detector without one hangs on them all."""
    section = getattr(config, detector, config)
    return stable_id(detector, *(part.model_dump_json() for part in (section, config.budget, config.units)))


def dump(baseline: Baseline) -> bytes:
    """TypeError for a baseline with fields that have no place in a snapshot."""
    return pack(msgspec.structs.asdict(baseline))  # type: ignore[arg-type]  # baselines are structs


def load(
    detector: str,
    config: DetectorsConfig,
    payload: bytes,
    accept: Callable[[Baseline], None] = lambda _: None,
) -> Baseline:
    """The inverse of `dump`. It is one that the detector can work with: see `detectors.soundness`.

    `accept` sees it before it is tried, which takes longer, and raises ValueError if it will not have it.
    :raises ValueError: an unknown detector, or a payload that is no baseline of it; the message says why.
    """
    trial = make(detector, config)
    try:
        baseline: Baseline = msgspec.convert(unpack(payload), trial.baseline_type, dec_hook=lambda _, array: array)
    except Exception as error:  # whatever others have written
        raise ValueError(f"the payload is no baseline of {detector}: {for_log(repr(error))}") from error
    accept(baseline)
    try:
        check(trial, baseline, config.budget)
    except Exception as error:  # whatever the numbers of others make of the maths
        raise ValueError(f"the payload is no baseline of {detector}: {for_log(repr(error))}") from error
    return baseline


def summary(baseline: Baseline) -> dict[str, float]:
    """Its numbers, each under the name of its field."""
    fields: dict[str, Any] = msgspec.structs.asdict(baseline)  # type: ignore[arg-type]  # baselines are structs
    return {
        name: float(value)
        for name, value in fields.items()
        if name not in _NO_NUMBERS
        and isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
    }

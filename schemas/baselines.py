"""What is normal for an app, as a record: learned by the monitor, or fitted by hand from stored traffic."""

from typing import Literal, TypeAlias

import msgspec

from driftline.schemas.columns import Count, Revision, Time

Guarantee: TypeAlias = Literal["stated", "approximate", "none"]


class Baseline(msgspec.Struct, tag="baseline", tag_field="type", kw_only=True, gc=False):
    """What one detector holds one component of an app against. Times are microseconds since the Unix epoch, UTC."""

    id: str  # a hash of the detector's settings and of the units; `Evidence.baseline_id`
    app: str
    detector: str
    component: str  # what of the app: a score's name, "prompt" or "response", "" where there is one only
    state: Literal["active", "refused"]  # refused: `note` says why, and what was in force stays
    source: Literal["learned", "fitted"]  # from the stream, or by `driftline baseline fit`
    at: Time  # when it came into force, or was refused
    revision: Revision
    releases: list[str]  # whose traffic it was made of; this and the following as far as they are known
    models: list[str]
    prompt_versions: list[str]
    embed_model: str
    judges: list[str]  # judge model and rubric version
    from_ts: Time  # of the traffic
    to_ts: Time
    fitted_at: Time
    n: Count  # units of evidence
    guarantee: Guarantee
    summary: dict[str, float]  # its numbers, for people
    config: str  # a hash of the settings that it depends on: under others it is refused
    payload: bytes  # all of it, for detectors (base64 in JSON)
    note: str = ""

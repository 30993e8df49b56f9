import msgspec

from driftline.schemas.baselines import Baseline
from driftline.streams.baselines.fit import in_force
from tests.sinks.clickhouse.samples import FULL

[SAMPLE] = [result for result in FULL if isinstance(result, Baseline)]


def baseline(id_: str, at: int, **fields: object) -> Baseline:
    return msgspec.structs.replace(SAMPLE, id=id_, at=at, **{"state": "active", **fields})


def test_the_newest_of_each_and_what_was_refused_after_it() -> None:
    stored = [
        baseline("replaced", 1),
        baseline("refused before", 2, state="refused"),
        baseline("newest", 3),
        baseline("refused after", 4, state="refused"),
        baseline("other component", 1, component="other"),
        baseline("nothing else", 1, detector="pit", state="refused"),
    ]
    names = ["nothing else", "newest", "refused after", "other component"]
    assert [b.id for b in in_force(list(reversed(stored)))] == names

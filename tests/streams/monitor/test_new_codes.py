import numpy as np

from driftline.detectors.config import BudgetConfig
from driftline.detectors.state import pack, unpack
from driftline.schemas.events import MICROSECONDS
from driftline.schemas.results import Alert
from driftline.streams.monitor.columns import NO_TRACES
from driftline.streams.monitor.config import NewCodesConfig
from driftline.streams.monitor.incidents import Incidents
from driftline.streams.monitor.names import TraceSeries
from driftline.streams.monitor.new_codes import NewCodes
from tests.streams.monitor.log import START

NAMES = [TraceSeries("bot", "v1", "openai", "gpt", "gpt"), TraceSeries("other", "v1", "openai", "gpt", "gpt")]
HOUR, DAY = 3600, 86_400


class Log:
    def __init__(self, **settings: int) -> None:
        self.config = NewCodesConfig.model_validate(settings)
        self.notices = Incidents(BudgetConfig())
        self.codes = NewCodes(self.config, self.notices)
        self.reference: set[str] | None = {"503"}

    def at(self, second: float, *codes: str, app: int = 0) -> list[tuple[str, str]]:
        """Requests that failed with these codes, and a fine one. The transitions: state and code."""
        traces = NO_TRACES._replace(
            series=np.full(len(codes) + 1, app),
            failed=np.array([True] * len(codes) + [False]),
            error_type=np.array([*codes, ""], np.object_),
        )
        now = START + round(second * MICROSECONDS)
        results = self.codes.step(traces, NAMES, self._known, now, 1)
        return [(r.state, r.component) for r in results if isinstance(r, Alert)]

    def _known(self, app: str, code: str) -> bool | None:
        return None if self.reference is None else code in self.reference

    def restart(self) -> None:
        saved = unpack(pack({"codes": self.codes.snapshot(), "notices": self.notices.snapshot()}))
        self.notices = Incidents(BudgetConfig(), saved["notices"])
        self.codes = NewCodes(self.config, self.notices, saved["codes"])


def test_a_code_is_said_once_a_day_and_app() -> None:
    log = Log()
    assert log.at(0, "503") == []
    assert log.at(1, "quota", "quota", "503") == [("firing", "quota")]
    log.restart()
    assert log.at(2, "quota") == []
    assert log.at(3, "quota", app=1) == [("firing", "quota")]
    assert log.at(601) == [("resolved", "quota")]
    assert log.at(603) == [("resolved", "quota")]
    assert log.at(DAY, "quota") == []
    assert log.at(2 * DAY - 1, "quota") == []
    assert log.at(3 * DAY, "quota") == [("firing", "quota")]


def test_what_failed_while_the_reference_was_learned_is_no_news() -> None:
    log = Log()
    log.reference = None
    assert log.at(0, "quota") == []
    log.reference = {"503"}
    assert log.at(HOUR, "quota", "") == [("firing", "error")]


def test_codes_with_ids_in_them_are_no_news_for_long() -> None:
    log = Log(most=5)
    said = [log.at(second, f"request {second} failed") for second in range(100)]
    assert sum(map(len, said)) == 5
    assert len(pack(log.codes.snapshot())) < 1000
    log.at(2 * DAY)
    assert log.at(2 * DAY + 1, "quota") == [("firing", "quota")]

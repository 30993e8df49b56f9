import logging
import time
from pathlib import Path

import pytest
from aiokafka.consumer import group_coordinator

from driftline.streams.logs import Repeats, SafeFormatter, without
from tests.hostile import TEXTS, obeyed


def record(name: str, message: str, *args: object) -> logging.LogRecord:
    return logging.LogRecord(name, logging.ERROR, __file__, 1, message, args, None)


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_record_is_one_line_whatever_it_says(text: str) -> None:
    line = SafeFormatter("%(name)s %(message)s").format(record("driftline", "refused: %s", text))
    assert len(line.splitlines()) == 1
    assert obeyed(line) == ""
    assert len(line) < 9_000


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Kolkata"])
def test_the_hour_that_local_time_has_twice_is_two_hours(zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        entry = record("driftline", "x")
        for created, shown in (
            (1_793_511_000, "2026-11-01T05:30:00.250Z"),
            (1_793_514_600, "2026-11-01T06:30:00.250Z"),
        ):
            entry.created, entry.msecs = created + 0.25, 250
            assert SafeFormatter("%(asctime)s").format(entry) == shown
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_traceback_keeps_its_lines_and_nothing_else() -> None:
    try:
        raise ValueError("\x1b[2J")
    except ValueError as error:
        entry = record("driftline", "it failed")
        entry.exc_info = (type(error), error, error.__traceback__)
    text = SafeFormatter("%(message)s").format(entry)
    assert text.startswith("it failed\nTraceback")
    assert obeyed(text, keep="\n") == ""


@pytest.mark.parametrize(
    "message", ["Group Coordinator Request failed: %s", "Marking the coordinator dead (node %s)for group %s."]
)
def test_what_is_usual_at_a_first_start_is_news_only_if_it_lasts(message: str) -> None:
    """As a new broker says it of a group while it makes the topic of offsets."""
    assert message in Path(group_coordinator.__file__).read_text()
    values = ["1"] * message.count("%s")
    now = [0.0]
    repeats = Repeats(lambda: now[0])
    for now[0] in (0.0, 0.2, 3.0):
        assert not repeats.filter(record("aiokafka.consumer.group_coordinator", message, *values))
    now[0] = 10.0
    lasting = record("aiokafka.consumer.group_coordinator", message, *values)
    assert repeats.filter(lasting)
    assert lasting.getMessage().endswith("[3 more like this]")


def test_libraries_repeat_themselves_at_growing_intervals() -> None:
    now = [0.0]
    repeats = Repeats(lambda: now[0])
    heard = []
    for second in range(100):
        now[0] = float(second)
        for _ in range(5):
            entry = record("aiokafka.conn", "Unable to connect to %s", second)
            if repeats.filter(entry):
                heard.append((second, entry.getMessage()))
    assert [at for at, _ in heard] == [0, 10, 30, 70]
    assert heard[1][1] == "Unable to connect to 10 [49 more like this]"
    assert all(repeats.filter(record("driftline.streams", "same")) for _ in range(10))


def test_a_library_is_silent_while_we_speak_for_it() -> None:
    with without("aiokafka"):
        assert not Repeats().filter(record("aiokafka.conn", "x"))
    assert Repeats().filter(record("aiokafka.conn", "x"))

import json
from typing import Any

import pytest

from driftline.schemas.clock import ManualClock
from driftline.schemas.codec import encode
from driftline.schemas.errors import PermanentError
from driftline.schemas.events import EARLIEST_TS
from driftline.schemas.ids import stable_id
from driftline.schemas.results import DeadLetter
from driftline.schemas.topics import Topics
from driftline.streams.operate.letters import (
    REQUEUED,
    Filter,
    Letter,
    gather,
    judge,
    pretty,
    read_letters,
    select,
    send_again,
    what_is_wrong,
)
from tests.brokers import Kafka, on_each_broker
from tests.streams.operate.records import record

TOPICS = Topics()
GOOD = b'{"type":"trace","app":"bot","ts":1793606400000000,"trace_id":"t"}'
OLD = b'{"type":"trace","app":"bot","ts":3,"trace_id":"t"}'


def letter(number: int, raw: bytes = OLD, *, reason: str = "ts is too old", topic: str = TOPICS.events) -> DeadLetter:
    return DeadLetter(
        id=stable_id(number), topic=topic, partition=0, offset=number, index=-1, reason=reason, raw=raw, key=b"bot"
    )


def found(number: int, at: int = 0, requeued_at: int | None = None, raw: bytes = OLD, **fields: str) -> Letter:
    return Letter(letter(number, raw, **fields), at, requeued_at)


def test_a_letter_is_known_by_its_id_and_its_copy_says_that_it_was_sent_again() -> None:
    first, second = encode(letter(1)), encode(letter(2))
    letters = gather(
        [
            record(0, first, at=EARLIEST_TS + 5_000),
            record(1, second, at=-1_000),
            record(2, first, at=EARLIEST_TS + 9_000, headers=[(REQUEUED, b"9000")]),
            record(3, first, at=EARLIEST_TS + 9_500),  # the archive's own repeat after a crash
            record(4, b"not a dead letter"),
        ]
    )
    assert letters[stable_id(1)] == Letter(letter(1), EARLIEST_TS + 5_000, 9_000)
    assert letters[stable_id(2)] == Letter(letter(2), EARLIEST_TS, None)  # its record does not say


def test_letters_are_found_by_what_is_known_of_them() -> None:
    letters = [found(1, at=10), found(2, at=30, reason="Not JSON"), found(3, at=20, topic=TOPICS.alerts)]

    def numbers(wanted: Filter) -> list[int]:
        return [item.letter.offset for item in select(letters, wanted)]

    assert numbers(Filter()) == [2, 3, 1]
    assert numbers(Filter(reason="not json")) == [2]
    assert numbers(Filter(topic=TOPICS.events)) == [2, 1]
    assert numbers(Filter(since=20)) == [2, 3]
    assert numbers(Filter(ids=[stable_id(1)[:8], stable_id(1)])) == [1, 1]
    with pytest.raises(PermanentError, match="no dead letter"):
        numbers(Filter(ids=["xyz"]))
    with pytest.raises(PermanentError, match="3 dead letters"):
        numbers(Filter(ids=[""]))


def test_what_is_wrong_today_is_asked_of_the_topic_it_came_from() -> None:
    assert not what_is_wrong(GOOD, TOPICS.events, TOPICS)
    assert "1970" in what_is_wrong(OLD, TOPICS.events, TOPICS)
    assert "Alert" in what_is_wrong(GOOD, TOPICS.alerts, TOPICS)


def test_only_what_is_new_and_right_may_go() -> None:
    def outcome(item: Letter, *, again: bool = False, force: bool = False) -> str:
        return judge(item, item.letter.raw, TOPICS, again=again, force=force)

    assert outcome(found(1, raw=GOOD)) == "sent"
    assert outcome(found(1)) == "still wrong"
    assert outcome(found(1), force=True) == "sent"
    assert outcome(found(1, requeued_at=7, raw=GOOD), force=True) == "sent before"
    assert outcome(found(1, requeued_at=7, raw=GOOD), again=True) == "sent"
    assert outcome(found(1, topic="somebody.elses"), force=True) == "unknown topic"


@pytest.mark.parametrize(
    ("raw", "reason", "line"),
    [
        (b'{"a":1,"ts":3}', "Expected `int` >= 1577836800000000 - at `$.ts`: ts=3 is 1970", '  "ts": 3  ← here'),
        (b'{"a":{"b":[1,2]}}', "Expected `str`, got `int` - at `$.a.b[1]`", "      2  ← here"),
        (b'{"value":NaN}', "$.value is NaN or infinite: leave out", '  "value": NaN  ← here'),
        (b'{"a":1}', "Object missing required field `app`", None),
        (b'{"a": 1, oops', "not JSON", "         ^"),
    ],
)
def test_the_fault_is_pointed_at(raw: bytes, reason: str, line: str | None) -> None:
    assert [text for text, is_fault in pretty(raw, reason) if is_fault] == ([] if line is None else [line])


def test_json_is_shown_indented_and_other_bytes_as_far_as_they_are_text() -> None:
    document: dict[str, Any] = {"a": [], "b": {"c": [1, {"d": "é"}]}, "e": None}
    shown = "\n".join(text for text, _ in pretty(json.dumps(document).encode(), ""))
    assert shown == json.dumps(document, indent=2, ensure_ascii=False).replace(",\n", "\n")
    assert list(pretty(b"\xff garbage", "")) == [("\\xff garbage", False)]


@on_each_broker
async def test_what_is_sent_again_goes_where_it_was_and_is_marked(kafka: Kafka) -> None:
    topics = kafka.topics
    for number in (1, 2):
        lost = letter(number, GOOD, topic=topics.events)
        await kafka.send(topics.dlq, encode(lost), key=b"bot", partition=1)
    letters = await read_letters(kafka.config, topics)
    chosen = letters[stable_id(1)]
    done: list[str] = []
    await send_again(kafka.config, topics, [(chosen, GOOD)], ManualClock(77), lambda: done.append(chosen.id))
    [sent] = await kafka.read(topics.events)
    assert (sent.value, sent.key, sent.partition) == (GOOD, b"bot", 0)
    again = await read_letters(kafka.config, topics)
    assert {item.letter.offset: item.requeued_at for item in again.values()} == {1: 77, 2: None}
    assert done == [chosen.id]


@pytest.mark.parametrize("raw", [b"[" * 900 + b"]" * 900, b"[" * 100_000, b'"%b"' % (b"x" * 10_000_000), b"9" * 9_999])
def test_any_bytes_can_be_shown_and_long_ones_are_cut(raw: bytes) -> None:
    assert sum(len(line) for line, _ in pretty(raw, "$[0]")) < 100_000

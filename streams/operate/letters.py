"""Dead letters as they are on their Kafka topic: list, explain, send again. ClickHouse, which may be what is down, is
not asked.

A letter that was sent again is written to the topic a second time, with a header that says when. It has the same id, so
for everything that reads the topic it is a repeat; here it tells that there is nothing left to do.
"""

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from aiokafka import AIOKafkaProducer, ConsumerRecord
from aiokafka.errors import KafkaError

from driftline.schemas.clock import Clock
from driftline.schemas.codec import DecodeError, decode, decode_events, embeddings_in, encode, is_deep
from driftline.schemas.errors import PermanentError, RetryableError
from driftline.schemas.events import EARLIEST_TS
from driftline.schemas.results import DeadLetter, result_types
from driftline.schemas.topics import LARGE, Topics
from driftline.streams.fold import sent_at
from driftline.streams.operate.log import Log
from driftline.streams.runtime.config import KafkaConfig

SHOWN = 64 * 1024  # bytes of a letter: more is no reading
SHOWN_DEPTH = 50  # brackets in each other that are still indented
REQUEUED = "driftline-requeued"  # the header; its value is the time, in microseconds

Outcome: TypeAlias = Literal["sent", "sent before", "still wrong", "unknown topic", "gone"]


@dataclass(frozen=True)
class Letter:
    letter: DeadLetter
    at: int  # when it was written, microseconds; the earliest time there is where its record does not say
    requeued_at: int | None = None

    @property
    def id(self) -> str:
        return self.letter.id


def gather(records: Iterable[ConsumerRecord], found: dict[str, Letter] | None = None) -> dict[str, Letter]:
    """Letters by id, from records of the topic in the order of each partition; into `found` if given."""
    found = {} if found is None else found
    for record in records:
        try:
            letter = decode(record.value, DeadLetter)
        except DecodeError:
            continue  # somebody else's record: the archive has dead-lettered it
        times = [int(value) for name, value in record.headers if name == REQUEUED]
        known = found.get(letter.id)
        at = sent_at(record.timestamp) or EARLIEST_TS if known is None else known.at
        before = None if known is None else known.requeued_at
        found[letter.id] = Letter(letter, at, max(times, default=before))
    return found


@dataclass(frozen=True)
class Filter:
    """Which letters are meant; the default is all."""

    ids: Sequence[str] = ()  # or how they begin
    reason: str | None = None  # is part of the reason, upper or lower case
    topic: str | None = None
    since: int | None = None  # when it was written, microseconds


def select(letters: Collection[Letter], wanted: Filter) -> list[Letter]:
    """The newest first.

    :raises PermanentError: there is no letter with an id that is asked for, or several begin like it.
    """
    if wanted.ids:
        letters = [_by_id(letters, beginning) for beginning in dict.fromkeys(wanted.ids)]
    chosen = [
        letter
        for letter in letters
        if (wanted.reason is None or wanted.reason.lower() in letter.letter.reason.lower())
        and (wanted.topic is None or wanted.topic == letter.letter.topic)
        and (wanted.since is None or letter.at >= wanted.since)
    ]
    return sorted(chosen, key=lambda letter: (-letter.at, letter.id))


def _by_id(letters: Collection[Letter], beginning: str) -> Letter:
    found = [letter for letter in letters if letter.id.startswith(beginning)]
    if len(found) != 1:
        have = ", ".join(letter.id for letter in found[:5])
        raise PermanentError(
            f"no dead letter has the id {beginning}: `driftline dlq ls` shows them"
            if not found
            else f"{len(found)} dead letters begin with {beginning}: {have}"
        )
    return found[0]


def what_is_wrong(raw: bytes, topic: str, topics: Topics) -> str:
    """Why it could not be taken today; empty: it could."""
    if topic == topics.events:
        return "; ".join(reject.reason for reject in decode_events(raw).rejects)
    if topic == topics.embeddings:
        return "; ".join(reject.reason for reject in embeddings_in(raw).rejects)
    if topic not in (types := result_types(topics)):
        return f"it is from a topic that is not ours: {topic}"
    try:
        decode(raw, types[topic])
    except DecodeError as error:
        return str(error)
    return ""


def judge(letter: Letter, raw: bytes, topics: Topics, *, again: bool, force: bool) -> Outcome:
    """What becomes of a letter that is asked for; "sent": it may go."""
    topic = letter.letter.topic
    if letter.letter.until:
        return "gone"
    if topic not in (topics.events, topics.embeddings, *result_types(topics)):
        return "unknown topic"
    if letter.requeued_at is not None and not again:
        return "sent before"
    if not force and what_is_wrong(raw, topic, topics):
        return "still wrong"
    return "sent"


async def read_letters(kafka: KafkaConfig, topics: Topics) -> dict[str, Letter]:
    """:raises RetryableError: Kafka does not answer."""
    found: dict[str, Letter] = {}
    async with Log(kafka) as log:
        partitions = await log.partitions(topics.dlq)
        async for _, records in log.read(await log.beginnings(partitions)):
            gather(records, found)
    return found


async def send_again(
    kafka: KafkaConfig, topics: Topics, letters: Iterable[tuple[Letter, bytes]], clock: Clock, sent: Callable[[], None]
) -> None:
    """To the topic and partition they came from, under the same key; each is acknowledged before it is marked as sent.
    A crash between the two sends it again the next time: consumers drop repeats.

    :raises RetryableError: Kafka does not answer, or refuses a record.
    """
    options = {
        **kafka.producer_options(linger_ms=0),
        "max_request_size": 2 * LARGE,
        "enable_idempotence": False,  # repeats are dropped anyway, and the embedded broker does not have it
    }
    producer = AIOKafkaProducer(**kafka.client_options(), **options)
    try:
        await producer.start()
        for letter, raw in letters:
            was = letter.letter
            await producer.send_and_wait(was.topic, raw, key=was.key, partition=was.partition)
            header = (REQUEUED, b"%d" % clock.now())
            await producer.send_and_wait(
                topics.dlq, encode(was), key=was.key, partition=was.partition, headers=[header]
            )
            sent()
    except KafkaError as error:
        raise RetryableError(f"Kafka at {kafka.brokers} did not take a dead letter: {error!r}") from error
    finally:
        await producer.stop()


def pretty(raw: bytes, reason: str) -> Iterator[tuple[str, bool]]:
    """Lines to show, and whether the reason points at this one: JSON is indented, other bytes are text as far as they
    are, with a caret below the place."""
    if len(raw) > SHOWN or is_deep(raw, 0, SHOWN_DEPTH):
        yield from _text_of(raw)
        return
    try:
        document = json.loads(raw)
    except json.JSONDecodeError as error:
        yield from _around(error.doc, error.pos)
        return
    except (ValueError, RecursionError):
        yield from _text_of(raw)
        return
    found = _PATH.search(reason)
    yield from _lines(document, "$", found[1] if found else "", "", "")


def _text_of(raw: bytes) -> Iterator[tuple[str, bool]]:
    for line in raw[:SHOWN].decode(errors="backslashreplace").splitlines():
        yield line, False
    if len(raw) > SHOWN:
        yield f"… {len(raw) - SHOWN:,} more bytes: `driftline dlq show --raw` has them", False


_PATH = re.compile(r"(\$(?:\.\w+|\[\d+\]|\[\.\.\.\])*)")  # as msgspec writes them; $.a[...] is any value of a map
_WIDTH = 60  # characters before and after a fault


def _around(text: str, at: int) -> Iterator[tuple[str, bool]]:
    begin = max(0, at - _WIDTH)
    before = text[begin:at].encode("unicode_escape").decode()
    after = text[at : at + _WIDTH].encode("unicode_escape").decode()
    left, right = "…" * (begin > 0), "…" * (at + _WIDTH < len(text))
    yield f"{left}{before}{after}{right}", False
    yield " " * len(left + before) + "^", True


def _lines(value: Any, path: str, fault: str, indent: str, label: str) -> Iterator[tuple[str, bool]]:
    here = path == fault or (fault.endswith("[...]") and path == fault.removesuffix("[...]"))
    mark = "  ← here" if here else ""
    if not isinstance(value, dict | list) or not value:
        yield f"{indent}{label}{json.dumps(value, ensure_ascii=False)}{mark}", here
        return
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    yield f"{indent}{label}{opening}{mark}", here
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for name, item in items:
        inner = f"{path}.{name}" if isinstance(value, dict) else f"{path}[{name}]"
        tag = f"{json.dumps(name, ensure_ascii=False)}: " if isinstance(value, dict) else ""
        yield from _lines(item, inner, fault, indent + "  ", tag)
    yield f"{indent}{closing}", False

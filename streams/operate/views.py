"""How results look in a terminal."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Group as Stack
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from driftline.schemas.text import counted, for_log, for_terminal
from driftline.streams.listing import Column, Listing
from driftline.streams.operate.balance import Balance, Difference
from driftline.streams.operate.comparison import SHAPES, Comparison
from driftline.streams.operate.letters import SHOWN, Letter, Outcome, pretty
from driftline.streams.operate.times import show_time

MOST = 50  # lines of a table
ALTERED = 2_000  # characters of what somebody altered, with the way back

LETTERS = (
    *(Column("id", least=12), Column("written"), Column("app"), Column("where"), Column("reason", least=20)),
    Column("sent again"),
)

KINDS = (
    Column("kind"),
    *(Column(name, numeric=True) for name in ("first run", "replay", "equal", "differing")),
    *(Column(name, numeric=True) for name in ("only first", "only replay")),
    Column("verdict", least=20),
)

STAGES = {
    "reading": "Reading the events topic (records)",
    "waiting": "Waiting for the archive and the monitor (seconds)",
    "asking": "Asking ClickHouse",
    "comparing": "Comparing",
}


def balance(found: Balance) -> RenderableType:
    return Stack(*_balance(found))


def _balance(found: Balance) -> Iterator[RenderableType]:
    for altered in found.altered:
        yield Text.assemble(("Altered: ", "bold red"), for_log(altered, ALTERED))
    if found.altered:
        yield _said(
            "Different", "ClickHouse's tables are not what the migrations made; nothing else was compared", "bold red"
        )
        return
    if found.differences:
        yield _differences(found.differences)
        more = len(found.differences) - MOST
        rest = f", {more:,} of them not shown" if more > 0 else ""
        yield Text.assemble((counted(len(found.differences), "difference"), "bold red"), rest)
    for partition in found.in_flight:
        parts = [
            (partition.records_to_archive, "records not archived"),
            (partition.groups_to_store, "windows of events still arriving in the tables"),
            (partition.groups_to_close, "windows not closed by a tick, or not stored yet"),
        ]
        texts = [f"{n:,} {what}" for n, what in parts if n] + ["dead letters"] * partition.dead_letters
        yield _said("In flight, not compared", f"partition {partition.partition}: {', '.join(texts)}")
    if found.uncovered:
        yield _said(
            "Not compared", f"{found.uncovered:,} windows of which ClickHouse has events that the topic no longer has"
        )
    if found.expired:
        yield _said(
            "Not compared",
            f"{found.expired:,} windows or dead letters so old that ClickHouse's own retention may have removed "
            "rows of them (clickhouse.retention)",
        )
    if found.others:
        yield _said(
            "Under (other)",
            f"{found.others:,} events are in windows of no app's name: there are more apps than monitor.limits.apps",
        )
    if found.moved:
        yield _said(
            "Sent again with another time",
            f"{found.moved:,} events; each is a row, and counts in a window, per minute of these times",
        )
    if found.repeats_left_out:
        yield _said(
            "Repeats left out",
            f"{found.repeats_left_out:,} came so late that the monitor "
            "said of them, as of new events, that no window counts them",
        )
    if found.aside:
        yield _said(
            "Put aside",
            f"{found.aside:,} events are in no window: their records ended the monitor "
            "(`driftline dlq ls --reason quarantined`)",
        )
    if found.incomplete:
        yield _said(
            "Incomplete",
            f"{found.incomplete:,} events are in no window: the monitor began without a state, "
            "in the middle of the log, and publishes no window that began before it",
        )
    if found.held:
        yield _said(
            "Held back",
            f"{found.held:,} records lie behind a transaction that is open, and cannot be read before it ends "
            "(`kafka-transactions.sh find-hanging`)",
            "bold red",
        )
    for lost in found.lost[:MOST]:
        yield _said(
            "Lost",
            f"retention deleted {lost.until - lost.first:,} records of "
            f"{lost.topic}[{lost.partition}], offsets {lost.first} to {lost.until - 1}, "
            f"before {lost.role} had read them",
            "bold red",
        )
    yield _said(
        "Equal" if found.equal else "Compared" if found.compared else "Nothing compared",
        f"{found.events:,} events read; {found.distinct:,} distinct in tables, {found.in_windows:,} in "
        f"{found.windows:,} windows, {found.dead_letters:,} dead letters",
        "bold green" if found.equal else "" if found.compared else "bold red",
    )


def _said(label: str, words: str, style: str = "yellow") -> Text:
    return Text.assemble((f"{label}: ", style), for_log(words, 2_000))


def _differences(differences: list[Difference]) -> Table:
    table = Table("kind", "app", "window or place")
    for name in ("topic", "table", "windows"):
        table.add_column(name, justify="right")
    for d in differences[:MOST]:
        where = show_time(d.start) if d.start is not None else ""
        if d.place is not None:
            where = f"partition {d.place.partition} offset {d.place.offset}"
            where += f" element {d.place.element}" if d.place.element >= 0 else ""
        table.add_row(
            d.kind, for_terminal(d.app), where, *("" if n is None else f"{n:,}" for n in (d.topic, d.table, d.windows))
        )
    return table


def replayed(comparisons: Sequence[Comparison], notes: Sequence[str], database: str) -> RenderableType:
    rows = []
    for c in comparisons:
        numbers = (c.first, c.replay, c.equal, len(c.differing), len(c.only_first), len(c.only_replay))
        verdict = (
            Text("equal", "green")
            if c.is_equal
            else Text("not equal", "bold red")
            if c.failed
            else for_terminal(c.why, style="yellow")
        )
        rows.append((c.name, *(f"{n:,}" for n in numbers), verdict))
    details = Table("kind", "app", "time", "what", "first run", "replay")
    failed = [(c.name, line) for c in comparisons if c.failed for line in _what_differs(c)]
    for name, line in failed[:MOST]:
        details.add_row(name, *map(for_terminal, line))
    parts: list[RenderableType] = [details] if failed else []
    if len(failed) > MOST:
        parts.append(f"{len(failed) - MOST:,} more lines not shown")
    where = for_terminal(f"The replay's results are in {database}.")
    return Stack(*parts, Listing(KINDS, rows), *map(for_terminal, notes), where)


def _what_differs(c: Comparison) -> Iterator[tuple[str, str, str, str, str]]:
    for row in c.differing:
        for column, (was, now) in row.columns.items():
            yield row.app, row.time, column, str(was), str(now)
    for rows, what in ((c.only_first, "only in the first run"), (c.only_replay, "only in the replay")):
        for found in rows:
            yield str(found["app"]), str(found[SHAPES[c.table].time]), what, "", ""


def letter_fields(found: Letter) -> dict[str, Any]:
    """As JSON. The raw bytes are text, as far as they are text: `dlq show --raw` has them as they were."""
    was = found.letter
    return {
        "id": was.id,
        "at": found.at,
        "topic": was.topic,
        "partition": was.partition,
        "offset": was.offset,
        "index": was.index,
        "key": None if was.key is None else _text(was.key),
        "reason": was.reason,
        "role": was.role,
        "until": was.until,
        "raw": _text(was.raw),
        "requeued_at": found.requeued_at,
    }


def letters(found: Sequence[Letter], of: int) -> RenderableType:
    rows = [
        (
            item.id[:12],
            show_time(item.at)[:19],
            _text(item.letter.key or b""),
            _where(item),
            item.letter.reason,
            None if item.requeued_at is None else show_time(item.requeued_at)[:19],
        )
        for item in found
    ]
    return Stack(Listing(LETTERS, rows), f"{len(found):,} of {counted(of, 'dead letter')}")


def letter(found: Letter, wrong: str) -> RenderableType:
    """`wrong`: what is wrong with it today; empty: nothing."""
    was = found.letter
    fields = Table.grid(padding=(0, 2))
    for name, value in (
        ("id", was.id),
        ("was", _where(found)),
        ("key", _text(was.key or b"")),
        ("written", show_time(found.at)),
        ("reason", was.reason),
        ("today", wrong or "nothing is wrong with it any more: `driftline dlq requeue` sends it again"),
        ("sent again", "" if found.requeued_at is None else show_time(found.requeued_at)),
    ):
        if value:
            fields.add_row(Text(name, "bold"), for_terminal(value))
    body = Text("\n")
    for line, is_fault in pretty(was.raw, was.reason):
        body.append_text(for_terminal(line, SHOWN, "bold red" if is_fault else "")).append("\n")
    return Stack(fields, body)


def requeued(results: Sequence[tuple[Letter, Outcome]]) -> RenderableType:
    reasons: dict[Outcome, str] = {
        "sent before": "sent again before: not sent (--again sends them)",
        "still wrong": "still cannot be taken: not sent (repair them with --edit, or --force)",
        "gone": "deleted by retention before they were read: there is nothing to send",
        "unknown topic": "from a topic that is not ours: not sent",
    }
    counts = Counter(outcome for _, outcome in results)
    left = [(item, outcome) for item, outcome in results if outcome in ("still wrong", "unknown topic")]
    table = Table("id", "where", "reason")
    for item, _ in left[:MOST]:
        table.add_row(for_terminal(item.id[:12]), for_terminal(_where(item)), for_terminal(item.letter.reason))
    lines = [f"{counts[outcome]:,} {text}" for outcome, text in reasons.items() if counts[outcome]]
    return Stack(*([table] if left else []), Text(f"{counts['sent']:,} sent again", "bold green"), *lines)


def _where(found: Letter) -> str:
    was = found.letter
    return f"{was.topic}[{was.partition}]@{was.offset}" + (f" #{was.index}" if was.index >= 0 else "")


def _text(raw: bytes) -> str:
    return raw.decode(errors="backslashreplace")

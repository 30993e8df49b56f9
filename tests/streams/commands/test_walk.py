"""Every command, on what strangers wrote into every field they can set: whatever it was, it is shown as text."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest
import pytest_asyncio
from click.testing import CliRunner, Result

from driftline.detectors.state import pack
from driftline.schemas.codec import encode
from driftline.schemas.events import Release, Score, Trace
from driftline.schemas.results import (
    Alert,
    Baseline,
    BreakerSignal,
    DeadLetter,
    Evidence,
    LeftOut,
    RollbackSignal,
    WindowStats,
)
from driftline.streams.cli import main
from tests.brokers import Broker
from tests.hostile import TEXTS, obeyed
from tests.hostile_events import TS, filled
from tests.streams.baselines.test_in_force import SAMPLE
from tests.streams.operate.conftest import START, Pipeline, pipeline_on
from tests.streams.operate.test_commands import environment

pytestmark = pytest.mark.asyncio(loop_scope="module")

SENT = {name: text for name, text in TEXTS.items() if name != "surrogates"}  # what JSON can hold as it is
WIDE = {"COLUMNS": "500"}
FROM = ["--from", "2026-11-02T08:00", "--to", "2026-11-02T08:02"]
BEFORE = ["--baseline-from", FROM[1], "--baseline-to", FROM[3]]
EVER = ["--from", "2020-01-01", "--to", "2100-01-01"]
ENOUGH = 40  # requests, for a report
UNKNOWN = f"{TEXTS['llama']} {TEXTS['ansi']} {TEXTS['c1']}"

# Each command of the tree: what to call it with, and what it exits with. {…} is of what was sent.
CASES: dict[str, list[tuple[list[str], set[int]]]] = {
    "alerts ls": [(EVER, {0}), ([*EVER, "--json"], {0}), (["--app", UNKNOWN], {0})],
    "alerts show": [(["{alert}"], {0}), (["{alert}", "--json"], {0}), ([UNKNOWN], {1}), ([""], {1})],
    "apps": [([], {0}), (["--json"], {0})],
    "baseline fit": [
        (["--app", "{app}", *FROM, "--wait", "0"], {0, 1}),
        (["--app", UNKNOWN, *FROM, "--json"], {1}),
    ],
    "baseline list": [(["--all"], {0}), (["--json"], {0}), (["--app", UNKNOWN], {0})],
    "baseline show": [(["{baseline}"], {0}), (["--json", "{baseline}"], {0}), ([UNKNOWN], {1})],
    "check-config": [([], {0}), (["--json"], {0})],
    "dlq ls": [(["--limit", "1000"], {0}), (["--json"], {0}), (["--reason", UNKNOWN], {0})],
    "dlq requeue": [
        ([UNKNOWN], {1}),
        (["--all"], {1}),
        (["--force", "{letter}"], {0}),
        (["--force", "--again", "--json", "{letter}"], {0}),
    ],
    "dlq show": [(["{letter}"], {0}), (["000-letter1"], {0}), ([UNKNOWN], {1})],
    "migrate": [([], {0})],
    "query": [
        (["SELECT * FROM traces ORDER BY trace_id"], {0}),
        (["SELECT * FROM scores"], {0}),
        (["SELECT * FROM windows"], {0}),
        (["SELECT * FROM alerts"], {0}),
        (["SELECT * FROM dead_letters"], {0}),
        ([f"SELECT 1 AS `{UNKNOWN}`"], {0}),
        ([UNKNOWN], {1}),
        (["-f", UNKNOWN], {2}),
    ],
    "reconcile": [
        (["--wait", "5"], {0, 1}),
        (["--json", "--wait", "0"], {0, 1}),
        (["--app", UNKNOWN, "--wait", "0"], {0, 1}),
    ],
    "replay": [([], {0, 1}), (["--json"], {0, 1}), (["--source", "clickhouse", "--app", "{app}", *FROM], {0, 1})],
    "report": [
        (["--app", "{app}", *FROM, *BEFORE], {0}),
        (["--app", "{app}", *FROM], {1}),
        (["--app", UNKNOWN, *FROM], {1}),
    ],
    "schema": [([UNKNOWN], {2})],
    "state reset": [(["--role", UNKNOWN], {2}), (["--role", "judge", "--yes"], {0})],
    "status": [(["--role", UNKNOWN], {2}), (["--role", f"{UNKNOWN}=http://127.0.0.1:1"], {1})],
    "tail": [(["--app", UNKNOWN, "--type", UNKNOWN], {2})],
    "topics apply": [([], {0})],
    "demo": [(["--speed", UNKNOWN], {2})],
    "up": [([UNKNOWN], {2})],
    "worker": [(["--role", UNKNOWN], {2})],
}  # fmt: skip


def leaves(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[str]:
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from leaves(inner, (*path, name))
    else:
        yield " ".join(path)


def results(text: str, number: int, events_topic: str) -> Iterator[Any]:
    """One of each that an archive stores."""
    kinds = (WindowStats, LeftOut, Evidence, Alert, RollbackSignal, BreakerSignal)
    times = dict.fromkeys(("ts", "since", "fired_at", "resolved_at", "start", "tick", "decided_at", "at"), TS)
    for kind in kinds:
        yield filled(kind, text, id=f"{number:03}-{kind.__name__}", size_s=60, app=text[:200], **times)
    names = dict.fromkeys(("component", "note", "config", "embed_model"), text)
    lists = {name: [text] for name in ("releases", "models", "prompt_versions", "judges")}
    given = {"app": text[:200], "id": f"{number:03}-baseline", "state": "active", "at": TS, "payload": pack({"n": 1})}
    yield msgspec.structs.replace(SAMPLE, **names, **lists, **given)
    for at in range(2):
        yield DeadLetter(
            id=f"{number:03}-letter{at}", topic=(events_topic, text[:200])[at], partition=0, offset=number, index=at,
            reason=text, raw=text[:5_000].encode(), key=text[:200].encode(), role=text, until=number + 5 if at else 0,
        )  # fmt: skip


async def send_enough_for_a_report(pipeline: Pipeline) -> None:
    """Requests of one app, with every text in every field."""
    texts = [SENT[name] for name in sorted(SENT)]
    for number in range(ENOUGH):
        event = filled(Trace, texts[number % len(texts)], app=TEXTS["llama"], trace_id=f"r{number}", ts=START + number)
        await pipeline.send_raw(json.dumps(msgspec.to_builtins(event)).encode(), TEXTS["llama"])


async def send_everything(pipeline: Pipeline) -> None:
    topics = pipeline.kafka.topics
    homes: dict[type, str] = {
        Alert: topics.alerts, Baseline: topics.baselines, BreakerSignal: topics.breakers, DeadLetter: topics.dlq,
        Evidence: topics.evidence, LeftOut: topics.windows, RollbackSignal: topics.rollbacks,
        WindowStats: topics.windows,
    }  # fmt: skip
    await pipeline.tick(0)
    for number, (name, text) in enumerate(TEXTS.items()):
        ids = {"id": f"{number}", "trace_id": f"{number}", "ts": START}
        events = [filled(kind, text, **{k: v for k, v in ids.items() if k in kind.__struct_fields__})
                  for kind in (Trace, Score, Release)]  # fmt: skip
        document = json.dumps([msgspec.to_builtins(event) for event in events])
        await pipeline.send_raw(document.encode(), text[:200].encode(errors="replace").decode())
        if name in SENT:
            for result in results(text, number, topics.events):
                await pipeline.kafka.send(homes[type(result)], encode(result), key=text[:200].encode())
    await pipeline.send_raw(b"\x1b[31m no JSON \x9b", "bot")
    await pipeline.tick(90)
    await pipeline.monitor()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def told(embedded_kafka: Broker, operate_tables: Any) -> AsyncIterator[Pipeline]:
    async with pipeline_on(embedded_kafka, operate_tables) as pipeline:
        await send_enough_for_a_report(pipeline)
        await send_everything(pipeline)
        await pipeline.stored("traces", ENOUGH + len(SENT))
        await pipeline.stored("alerts", len(SENT))
        await pipeline.stored("baselines", len(SENT))
        await pipeline.stored("dead_letters", len(SENT))
        yield pipeline


# What has other output on a terminal.
ON_A_TERMINAL = [
    "dlq show 002-letter0 --raw",
    "dlq ls --json",
    "query --format csv SELECT * FROM traces",
    "query --format json SELECT * FROM traces",
    "query --format markdown SELECT * FROM alerts",
    "query SELECT * FROM scores FORMAT Vertical",
    "query SELECT name FROM scores WHERE position(name, '[2J') > 0 LIMIT 1",
]


async def call(pipeline: Pipeline, *arguments: str) -> Result:
    env = environment(pipeline.settings) | WIDE
    return await asyncio.to_thread(CliRunner().invoke, main, list(arguments), env=env)


async def test_no_command_is_left_out() -> None:
    assert CASES.keys() == set(leaves(main))


@pytest.mark.parametrize("command", CASES)
async def test_what_strangers_wrote_is_text(
    told: Pipeline, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    named = {"{app}": TEXTS["llama"], "{alert}": "000-Alert", "{letter}": "000-letter0", "{baseline}": "000-b"}
    for arguments, codes in CASES[command]:
        given = [named.get(argument, argument) for argument in arguments]
        result = await call(told, *command.split(), *given)
        assert result.exit_code in codes, (given, result.output[-2_000:])
        assert obeyed(result.output, keep="\n") == "", given
        assert "Traceback" not in result.output
        if "--json" in given and result.exit_code in (0, 1) and result.stdout:
            json.loads(result.stdout)


@pytest.mark.parametrize("command", ON_A_TERMINAL)
async def test_a_terminal_gets_nothing_to_obey(told: Pipeline, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words, sql, rest = command.partition("SELECT")
    monkeypatch.setattr("click.testing._NamedTextIOWrapper.isatty", lambda self: True)
    result = await call(told, *words.split(), *([sql + rest] if sql else []))
    assert result.exit_code == 0, result.output[-2_000:]
    assert "[2J" in result.stdout
    assert obeyed(result.output, keep="\n") == ""


@pytest.mark.parametrize("arguments", [[], ["--json"]])
async def test_the_tail_is_text(told: Pipeline, arguments: list[str]) -> None:
    tail = asyncio.create_task(call(told, "tail", "-n", "600", *arguments))
    while not tail.done():
        await send_everything(told)
        await asyncio.sleep(0.5)
    result = await tail
    assert result.exit_code == 0, result.output
    assert len(result.stdout.splitlines()) == 600
    assert obeyed(result.output, keep="\n") == ""
    assert "[system]" in result.stdout

"""Two periods of stored traffic become one HTML file that opens without a network."""

import json
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import pytest

from driftline.schemas.codec import encode
from driftline.schemas.errors import ConfigError, PermanentError
from driftline.streams.report.build import common_columns, safe_page, shown, wide, write_report
from driftline.streams.report.periods import baseline_period
from tests.hostile import TEXTS, obeyed
from tests.streams.baselines.test_baseline_commands import moment
from tests.streams.baselines.test_collect import embeddings, send
from tests.streams.baselines.test_in_force import SAMPLE
from tests.streams.operate.conftest import START, Pipeline, score, trace
from tests.streams.operate.test_commands import run

evidently = pytest.mark.skipif(find_spec("evidently") is None, reason="needs pip install 'driftline[report]'")


def rows(n: int, **fields: Any) -> list[dict[str, Any]]:
    return [
        {"latency_ms": 100.0 + i % 17, "outcome": "ok" if i % 9 else "error", "model": "m", "ttft_ms": None, **fields}
        for i in range(n)
    ]


def test_scores_get_columns_of_their_own() -> None:
    assert wide({"latency_ms": 1.0, "scores": {"helpful": 0.5}}) == {"latency_ms": 1.0, "score: helpful": 0.5}


def test_only_what_both_periods_have_is_compared() -> None:
    columns = common_columns(
        [{"latency_ms": 1.0, "ttft_ms": None, "model": "", "score: a": 1.0, "score: b": 1.0, "outcome": "ok"}],
        [{"latency_ms": 2.0, "ttft_ms": 3.0, "model": "m", "score: a": 0.0, "outcome": "ok"}],
    )
    assert (columns.numbers, columns.categories) == (["latency_ms", "score: a"], ["outcome"])
    assert columns.left_out == ["model", "score: b", "ttft_ms"]


def test_too_few_requests_are_said(tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match="7 requests in the baseline period"):
        write_report(rows(40), rows(7), tmp_path / "r.html")


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "evidently", None)
    with pytest.raises(ConfigError, match=r"pip install '\.\[report\]'"):
        write_report(rows(40), rows(40), tmp_path / "r.html")


class Page(HTMLParser):
    """What a browser would fetch, and the tags that were opened."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.tags: set[str] = set()
        self.opened: list[str] = []
        self.scripts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.opened.append(tag)
        known = dict(attrs)
        if tag in ("script", "img", "link", "iframe"):
            self.fetched += [link for name in ("src", "href") if (link := known.get(name))]

    def handle_data(self, data: str) -> None:
        if self.opened and self.opened[-1] == "script":
            self.scripts.append(data)


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_no_chart_is_given_markup(text: str) -> None:
    name = shown(text)
    assert not set("<>&") & set(name)
    assert obeyed(name) == ""
    assert len(name) <= 210
    assert shown(f"{text}<") != shown(f"{text}>") != shown(text)


def test_an_unknown_form_of_page_is_not_written() -> None:
    with pytest.raises(RuntimeError, match="another form"):
        safe_page("<html></html>")


def test_no_text_ends_the_data_of_a_page() -> None:
    data = json.dumps({TEXTS["html"]: TEXTS["separators"]})
    page = f'<meta charset="UTF-8"><script>\n    var a = {data};\n</script>\n<script>ours</script>'
    found = Page()
    found.feed(safe_page(page))
    assert found.opened == ["meta", "meta", "script", "script"]
    assert json.loads(found.scripts[0].partition(" = ")[2].strip().rstrip(";")) == {TEXTS["html"]: TEXTS["separators"]}


@evidently
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_what_clients_wrote_runs_nothing_in_a_browser(tmp_path: Path) -> None:
    texts = [text[:5_000] for name, text in TEXTS.items() if name != "surrogates"]

    def some(n: int) -> list[dict[str, Any]]:
        return [
            row
            | {"model": texts[i % len(texts)], "finish_reason": texts[-i % len(texts)], f"score: {TEXTS['html']}": 0.5}
            for i, row in enumerate(rows(n))
        ]

    file = tmp_path / "r.html"
    done = write_report(some(60), some(80), file)
    assert {f"score: {TEXTS['html']}", "model", "finish_reason"} <= {drift.column for drift in done.columns}
    page = Page()
    page.feed(file.read_text())
    assert page.opened.count("script") == 4
    assert not {"img", "iframe"} & page.tags
    data = next(script for script in page.scripts if "additional_graphs" in script)
    assert not set("<>&") & set(data)
    assert "[INST]" in data
    assert "default-src 'none'" in file.read_text()[:2_000]
    _open_in_a_browser(file, "latency_ms")


@evidently
@pytest.mark.filterwarnings("ignore")
async def test_a_report_of_stored_traffic(pipeline: Pipeline, tmp_path: Path) -> None:
    """One test for all, for Evidently takes its time."""
    for second in range(40):
        slow = second >= 20
        events = [
            trace(
                second * 10 + i, second + i / 10, conversation_id=f"c{second}-{i}", response_model="gpt-4o",
                output_text="answer" * (1 + slow), finish_reasons=["stop" if i % 3 else "length"],
                output_tokens=100 * (1 + slow) + i,
            )
            for i in range(5)
        ]  # fmt: skip
        await pipeline.send([*events, *(score(second * 10 + i, second + i / 10) for i in range(5))])
    await pipeline.flush()
    await send(pipeline, embeddings(range(40), 5))
    await pipeline.stored("traces", 200)
    await pipeline.stored("scores", 200)
    file = tmp_path / "out.html"
    periods = ("--from", moment(20), "--to", moment(40), "--baseline-from", moment(0), "--baseline-to", moment(20))
    result = await run(pipeline, "report", "--app", "bot", *periods, "--texts", "-o", str(file), "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["current_rows"], found["reference_rows"]) == (100, 100)
    said = {column["column"]: column["drifted"] for column in found["columns"]}
    assert said["output_tokens"]
    assert not said["latency_ms"]
    prompts, responses = found["texts"]
    assert prompts["effects"]["p"] > 0.01
    assert "fewer than 10 sessions" in responses["note"]
    assert {"score: quality", "answer_chars", "finish_reason", "outcome", "model"} <= said.keys()
    page = Page()
    page.feed(file.read_text())
    assert {"html", "script"} <= page.tags
    assert not [link for link in page.fetched if link.startswith(("http:", "https:", "//"))]
    _open_in_a_browser(file, "output_tokens")
    result = await run(pipeline, "report", "--app", "bot", "--from", moment(20), "-o", str(file))
    assert result.exit_code == 1
    assert "no baseline yet" in result.stderr


def _open_in_a_browser(file: Path, column: str) -> None:
    """Where there is one."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        return
    done = subprocess.run(
        [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0",
         "--virtual-time-budget=10000", "--dump-dom", file.as_uri()],
        capture_output=True, check=True, text=True, timeout=120,
    )  # fmt: skip
    assert column in done.stdout
    assert "taken</title>" not in done.stdout
    assert ":CONSOLE" not in done.stderr or "Uncaught" not in done.stderr


async def test_it_compares_with_the_traffic_of_the_largest_baseline_in_force(pipeline: Pipeline) -> None:
    topic = pipeline.kafka.topics.baselines
    for number, (n, state) in enumerate(((100, "active"), (500, "active"), (900, "refused"))):
        stored = msgspec.structs.replace(
            SAMPLE, id=f"b{number}", component=f"c{number}", n=n, state=state, from_ts=START + n, to_ts=START + n + 1
        )
        await pipeline.kafka.send(topic, encode(stored))
    await pipeline.stored("baselines", 3)
    assert baseline_period(pipeline.settings.clickhouse, "bot") == (START + 500, START + 501)


async def test_misuse_is_told(pipeline: Pipeline) -> None:
    for arguments in ([], ["--from", "-1h", "--baseline-from", "-2h"], ["--from", "now", "--to", "-1h"]):
        assert (await run(pipeline, "report", "--app", "bot", *arguments)).exit_code == 2

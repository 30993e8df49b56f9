"""Requests of two periods into Evidently's report. Evidently is an extra, and its report is a snapshot: it has no
false-alarm rate, and says nothing of when. Alarms are the detectors'."""

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from driftline.schemas.errors import ConfigError, PermanentError
from driftline.schemas.ids import stable_id
from driftline.schemas.text import for_log, json_for_script
from driftline.streams.output import write

Row: TypeAlias = Mapping[str, Any]

NUMBERS = (
    "latency_ms",
    "ttft_ms",
    "input_tokens",
    "output_tokens",
    "reasoning_output_tokens",
    "cost_usd",
    "prompt_chars",
    "answer_chars",
)
CATEGORIES = ("finish_reason", "outcome", "model", "provider", "release", "prompt_version")
SCORE = "score: "
NAME = 200  # characters of a name or category in a chart
MIN_ROWS = 30  # fewer make no distribution to compare


_MARKUP = str.maketrans("<>&", "‹›＆")
_DATA_BEGINS = "<script>\n    var "
_DATA_ENDS = ";\n</script>\n"
_HEAD = '<meta charset="UTF-8">'
_NO_NETWORK = (
    "\n<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; script-src 'unsafe-inline' "
    "'unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:; font-src data:\">"
)


@dataclass(frozen=True)
class Columns:
    """What both periods have values of."""

    numbers: list[str]
    categories: list[str]
    left_out: list[str]  # has no value in one of them


class Drift(msgspec.Struct, frozen=True):
    """Evidently's word on one column."""

    column: str
    method: str
    value: float  # a distance, or a p-value: `method` says which
    drifted: bool


class Report(msgspec.Struct, frozen=True):
    file: str
    current_rows: int
    reference_rows: int
    left_out: list[str]
    columns: list[Drift]


def wide(row: Row) -> dict[str, Any]:
    """Each score in a column of its own."""
    flat = {name: value for name, value in row.items() if name != "scores"}
    return flat | {f"{SCORE}{name}": value for name, value in row["scores"].items()}


def common_columns(current: Sequence[Row], reference: Sequence[Row]) -> Columns:
    known = [_filled(rows) for rows in (current, reference)]
    both, any_ = known[0] & known[1], known[0] | known[1]
    scores = sorted(name for name in both if name.startswith(SCORE))
    return Columns(
        [name for name in NUMBERS if name in both] + scores,
        [name for name in CATEGORIES if name in both],
        sorted(any_ - both),
    )


def _filled(rows: Iterable[Row]) -> set[str]:
    return {name for row in rows for name, value in row.items() if value is not None and value != ""}


def write_report(current: Sequence[Row], reference: Sequence[Row], file: Path) -> Report:
    """`current`, `reference`: rows of `wide`.

    :raises ConfigError: the extra is not installed.
    :raises PermanentError: there are too few rows to compare.
    """
    for name, rows in (("current", current), ("baseline", reference)):
        if len(rows) < MIN_ROWS:
            raise PermanentError(f"{len(rows)} requests in the {name} period: at least {MIN_ROWS} are needed")
    columns = common_columns(current, reference)
    named = {shown(name): name for name in (*columns.numbers, *columns.categories)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries of Evidently; the user can do nothing about them
        evidently, presets, pandas = _import()
        definition = evidently.DataDefinition(
            numerical_columns=list(map(shown, columns.numbers)),
            categorical_columns=list(map(shown, columns.categories)),
        )
        data = [
            evidently.Dataset.from_pandas(_frame(pandas, rows, columns), data_definition=definition)
            for rows in (current, reference)
        ]
        report = evidently.Report([presets.DataDriftPreset(), presets.DataSummaryPreset()])
        done = report.run(*data)
        write([safe_page(done.get_html_str(as_iframe=False)).encode()], file)
        drifts = [drift for metric in done.dict()["metrics"] if (drift := _drift(metric, named)) is not None]
    return Report(str(file), len(current), len(reference), columns.left_out, drifts)


def _frame(pandas: Any, rows: Sequence[Row], columns: Columns) -> Any:
    numbers = {shown(name): [row.get(name) for row in rows] for name in columns.numbers}
    categories = {shown(name): [shown(str(row.get(name) or "(none)")) for row in rows] for name in columns.categories}
    frame = pandas.DataFrame(numbers | categories)
    return frame.astype(dict.fromkeys(numbers, "float64"))


@lru_cache(100_000)
def shown(name: str) -> str:
    """A name or category that no part of Evidently's page takes for markup, which its charts do. What had to be changed
    keeps its difference from others by a digest."""
    safe = for_log(name, NAME).translate(_MARKUP)
    return safe if safe == name else f"{safe} #{stable_id(ascii(name))[:6]}"


def safe_page(page: str) -> str:
    """Evidently writes its data as JSON into a <script> as it is. Here no text of it ends that element, and the page
    may load and send nothing."""
    before, begin, rest = page.partition(_DATA_BEGINS)
    data, end, after = rest.partition(_DATA_ENDS)  # line breaks in strings are escaped in JSON: no text can forge it
    if not (begin and end):
        raise RuntimeError("Evidently's page has another form than this version of Driftline knows")
    return before.replace(_HEAD, _HEAD + _NO_NETWORK, 1) + begin + json_for_script(data) + end + after


def _drift(metric: Mapping[str, Any], named: Mapping[str, str]) -> Drift | None:
    settings = metric["config"]
    if not settings["type"].endswith("ValueDrift"):
        return None
    value, method, threshold = float(metric["value"]), str(settings["method"]), settings["threshold"]
    drifted = value < threshold if "p_value" in method else value >= threshold
    return Drift(named[settings["column"]], method, value, drifted)


def _import() -> tuple[Any, Any, Any]:
    os.environ["DO_NOT_TRACK"] = "1"  # Evidently's telemetry
    try:
        import evidently
        import pandas
        from evidently import presets
    except ImportError as error:
        raise ConfigError(
            f"the report needs Evidently, with pandas below 3: pip install '.[report]' in Driftline's folder ({error})"
        ) from error
    return evidently, presets, pandas

import csv
import io
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from driftline.streams.cli import main
from driftline.streams.terminal import console
from tests.hostile import TEXTS, obeyed

# What a database can hold: UTF-8.
STORED = {name: text for name, text in TEXTS.items() if name != "surrogates"}


def literal(text: str) -> str:
    return "'" + "".join(f"\\x{byte:02x}" for byte in text.encode()) + "'"


@pytest.mark.parametrize("text", STORED.values(), ids=STORED)
def test_a_table_shows_what_users_wrote(cli: CliRunner, text: str) -> None:
    result = cli.invoke(main, ["query"], input=f"SELECT {literal(text[:20_000])} AS said")
    assert (result.exit_code, result.stderr) == (0, "")
    assert obeyed(result.stdout, keep="\n") == ""
    for word in ("[INST]", "[/INST]", "[system]", ":skull:"):
        assert word in result.stdout or word not in text


@pytest.mark.parametrize("text", STORED.values(), ids=STORED)
def test_csv_and_json_give_data_as_it_is(cli: CliRunner, text: str) -> None:
    text = text[:20_000]
    sql = f"SELECT {literal(text)} AS said"
    lines = cli.invoke(main, ["query", "--format", "csv"], input=sql).stdout_bytes.decode()
    assert list(csv.reader(io.StringIO(lines, newline="")))[1] == [text]
    assert json.loads(cli.invoke(main, ["query", "--format", "json"], input=sql).stdout_bytes) == {"said": text}


def test_names_of_columns_are_text_too(cli: CliRunner) -> None:
    result = cli.invoke(main, ["query", "SELECT 1 AS `[bold]x\x1b[31m`"])
    assert r"[bold]x\x1b[31m" in result.stdout


@pytest.mark.parametrize("name", ["out.parquet", "out.csv", "out.json", "out.arrow", "out.tsv", "out.md"])
def test_a_file_says_its_format_by_its_ending(cli: CliRunner, tmp_path: Path, name: str) -> None:
    assert cli.invoke(main, ["query", "-o", name, "SELECT 1 AS one, 'a' AS b"]).exit_code == 0
    data = (tmp_path / name).read_bytes()
    starts = {
        "out.parquet": b"PAR1",
        "out.csv": b'"one","b"',
        "out.json": b"[",
        "out.arrow": b"ARROW1",
        "out.tsv": b"one\tb",
        "out.md": b"| one | b |",
    }
    assert data.startswith(starts[name])
    if name == "out.json":
        assert json.loads(data) == [{"one": 1, "b": "a"}]
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_a_statement_names_any_format(cli: CliRunner, tmp_path: Path) -> None:
    assert json.loads(cli.invoke(main, ["query", "SELECT 1 AS one FORMAT JSON;"]).stdout)["data"] == [{"one": 1}]
    assert cli.invoke(main, ["query", "-o", "x", "SELECT 1 FORMAT Parquet"]).exit_code == 0
    assert (tmp_path / "x").read_bytes().startswith(b"PAR1")


def test_a_statement_comes_from_a_file_or_the_standard_input(cli: CliRunner, tmp_path: Path) -> None:
    (tmp_path / "q.sql").write_text("SELECT 40 + 2 -- so\n;")
    assert "42" in cli.invoke(main, ["query", "-f", "q.sql"]).stdout
    assert "43" in cli.invoke(main, ["query"], input="SELECT 43").stdout
    assert "44" in cli.invoke(main, ["query", "-"], input="SELECT 44").stdout


def test_a_table_says_that_there_is_more(cli: CliRunner) -> None:
    result = cli.invoke(main, ["query", "--limit", "3", "SELECT number FROM numbers(10)"])
    assert "the first 3 rows" in result.stdout


def test_a_table_asks_for_no_more_than_it_shows(cli: CliRunner) -> None:
    result = cli.invoke(
        main, ["query", "--limit", "3", "SELECT number, throwIf(number > 200000) FROM numbers(5000000)"]
    )
    assert result.exit_code == 0, result.stderr
    assert "the first 3 rows" in result.stdout


@pytest.mark.parametrize(
    ("sql", "rows"),
    [
        ("SELECT count() FROM (SELECT number FROM numbers(1000))", ["1000"]),
        ("SELECT count() FROM (SELECT number FROM numbers(1000) UNION ALL SELECT 1)", ["1001"]),
        ("SELECT 7 IN (SELECT number FROM numbers(1000))", ["1"]),
        (
            "WITH a AS (SELECT number FROM numbers(1000)) SELECT sum(a.number) FROM a JOIN a AS b USING number",
            ["499500"],
        ),
        ("SELECT number FROM numbers(2) UNION ALL SELECT number + 5 FROM numbers(2)", ["0", "1", "5", "6"]),
        ("SELECT number FROM numbers(1000) ORDER BY number DESC LIMIT 2", ["999", "998"]),
        ("SELECT count() FROM system.columns WHERE table = 'traces' HAVING count() > 30", None),
        ("SHOW TABLES", None),
        ("DESCRIBE traces", None),
        ("EXPLAIN SELECT 1", None),
    ],
)
def test_the_limit_of_a_table_changes_no_answer(
    cli: CliRunner, sql: str, rows: list[str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "_width", 500)  # whatever it was when the module was loaded
    result = cli.invoke(main, ["query", "--limit", "4", sql])
    assert result.exit_code == 0, result.stderr
    shown = [line.split("│")[1].strip() for line in result.stdout.splitlines() if line.startswith("│")]
    assert shown
    assert rows is None or sorted(shown) == sorted(rows)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["SELECT nope"], 1, "UNKNOWN_IDENTIFIER"),
        (["SELEKT 1"], 1, "Syntax error"),
        (["DROP TABLE traces_raw"], 1, "readonly"),
        (["SELECT 1; SELECT 2"], 1, "Multi-statements are not allowed"),
        (["  ; "], 2, "There is no statement"),
        (["-o", "x.unknown", "SELECT 1"], 2, "says no format"),
        (["-o", "/nowhere/x.csv", "SELECT 1"], 1, "No such file or directory"),
        (["--format", "csv", "SELECT 1 FORMAT CSV"], 2, "names its FORMAT"),
        (["--demo", "SELECT 1"], 78, "there is no data"),
        (["SELECT '\x1b[31m[/INST]', nope"], 1, r"\x1b[31m[/INST]"),
    ],
)
def test_what_is_wrong_is_said(cli: CliRunner, tmp_path: Path, arguments: list[str], code: int, says: str) -> None:
    result = cli.invoke(main, ["query", *arguments])
    assert result.exit_code == code
    assert says in result.stderr
    assert len(result.stderr.splitlines()) == (3 if code == 2 else 1)
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == []

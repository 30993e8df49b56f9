import io

import pytest
from rich.cells import cell_len
from rich.console import Console

from driftline.streams.listing import Column, Listing
from tests.hostile import TEXTS, obeyed

ROW = {
    "app": "support-bot",
    "release": "v1",
    "requests": "1,234",
    "summary": "cost per request rose from 0.0004 to 0.0041 USD, ten times the usual, in 312 sessions",
    "empty": None,
    "wide": "東京都の天気はどうですか",
}


def shown(listing: Listing, width: int) -> str:
    out = io.StringIO()
    Console(file=out, width=width).print(listing)
    assert all(cell_len(line) <= width for line in out.getvalue().splitlines())
    return out.getvalue()


def listing(times: int = 1) -> Listing:
    columns = [Column(f"{name}{i}", numeric=name == "requests") for i in range(times) for name in ROW]
    return Listing(columns, [list(ROW.values()) * times] * 2)


@pytest.mark.parametrize("width", [40, 80, 120])
@pytest.mark.parametrize("times", [1, 2, 6])
def test_everything_is_readable_on_any_screen(width: int, times: int) -> None:
    text = shown(listing(times), width)
    words = "".join(text.split())
    for value in ("support-bot", "1,234", "0.0041"):
        assert value in text or value in words
    assert ("┏" in text) == (times == 1 and width > 40)


def test_blocks_leave_out_what_is_empty() -> None:
    text = shown(listing(3), 80)
    assert "empty" not in text
    assert text.count("summary0") == 2


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("width", [40, 200])
def test_text_of_others_is_text(text: str, width: int) -> None:
    found = shown(Listing([Column("a"), Column(text), Column("c"), Column("d")], [[text, text, 1, text]]), width)
    assert obeyed(found, keep="\n") == ""

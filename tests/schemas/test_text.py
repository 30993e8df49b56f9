import html
import json
from html.parser import HTMLParser
from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from driftline.schemas.text import for_html, for_log, for_terminal, json_for_script, shorten
from tests.hostile import SCRIPT, TEXTS, obeyed

hostile = pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
anything = st.one_of(st.text(), st.text(st.characters(categories=["Cs", "Cc", "Cf", "Zl", "Zp", "Lu"])))


def rendered(text: str) -> str:
    out = StringIO()
    Console(file=out, width=80, force_terminal=True, color_system=None).print(for_terminal(text), soft_wrap=True)
    return out.getvalue()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Grüße, 世界 👩‍👩‍👧 می‌خواهم 1 000", "Grüße, 世界 👩‍👩‍👧 می‌خواهم 1 000"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\x1b[31m\x9b\x00", r"\x1b[31m\x9b\x00"),
        ("\u202e\u2066\u2028\ufeff", r"\u202e\u2066\u2028\ufeff"),
        ("\ud83d", r"\ud83d"),
        ("%s {} [x]", "%s {} [x]"),
        ("", ""),
    ],
)
def test_what_a_log_would_obey_becomes_visible(text: str, shown: str) -> None:
    assert for_log(text) == shown


def test_what_is_too_long_ends_in_a_mark() -> None:
    assert shorten("a" * 100, 20) == "aa… [100 characters]"
    assert for_log("\n" * 100, 24) == r"\n\n\n… [100 characters]"
    assert [shorten("abc", n) for n in (3, 2, 1, 0, -1)] == ["abc", "…", "…", "", ""]


def test_errors_may_be_given_as_they_are() -> None:
    assert for_log(ValueError("a\nb")) == r"a\nb"


@hostile
def test_a_log_line_is_one_line_of_bounded_length(text: str) -> None:
    line = for_log(text, 200)
    assert len(line) <= 200
    assert len(line.splitlines()) == 1
    assert obeyed(line) == ""
    line.encode()


@hostile
def test_a_terminal_shows_text_and_obeys_nothing(text: str) -> None:
    shown = rendered(text)
    assert obeyed(shown, keep="\n\t") == ""
    assert len(shown) < 5_000
    assert "[INST]" in shown or "[INST]" not in text
    assert "[/]" in shown or "[/]" not in text
    assert ":skull:" in shown or ":skull:" not in text


@hostile
def test_html_shows_text(text: str) -> None:
    found: list[str] = []
    parser = HTMLParser()
    parser.handle_data = found.append  # type: ignore[method-assign, assignment]
    parser.handle_starttag = lambda tag, attrs: pytest.fail(f"<{tag}>")  # type: ignore[method-assign]
    parser.feed(for_html(text))
    parser.close()
    assert "".join(found) == html.unescape(for_html(text))


@hostile
def test_json_within_a_script_means_the_same_and_ends_nothing(text: str) -> None:
    document = json_for_script(json.dumps({text: text}, ensure_ascii=False))
    assert json.loads(document) == {text: text}
    assert not set("<>&\u2028\u2029") & set(document)
    document.encode()
    assert SCRIPT not in document


@given(anything, st.integers(-1, 60))
def test_any_text_any_limit(text: str, limit: int) -> None:
    for shown in (for_log(text, limit), for_terminal(text, limit).plain, shorten(text, limit)):
        assert len(shown) <= max(0, limit)
    assert obeyed(for_log(text, limit)) == ""

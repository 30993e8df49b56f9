from io import StringIO

from rich.console import Console

from driftline.streams.start_view import StartView


def shown(*looks: dict[str, float], terminal: bool = False) -> str:
    out = StringIO()
    with StartView(Console(file=out, force_terminal=terminal, width=60)) as view:
        for look in looks:
            view.update(look)
    return out.getvalue()


def test_plain_lines_say_what_starts_and_repeat_only_what_takes_long() -> None:
    looks = [{"kafka": 0.0}, {"kafka": 1.0}, *({"embed": float(s), "monitor": float(s)} for s in range(10))]
    looks += [{"embed": float(s)} for s in range(10, 31)] + [{}]
    assert shown(*looks).splitlines() == [
        "Starting kafka",
        "Starting embed, monitor",
        "Starting embed: 15 s",
        "Starting embed: 30 s",
    ]


def test_a_terminal_shows_the_seconds_and_is_left_clean() -> None:
    said = shown({"embed": 12.0}, terminal=True)
    assert "Starting" in said
    assert said.endswith("\x1b[?25h") or "\x1b[2K" in said

import io

import pytest
from rich.console import Console

from driftline.streams.operate import views
from driftline.streams.operate.comparison import Comparison


@pytest.mark.parametrize("width", [60, 80, 120])
def test_kinds_of_a_replay_can_be_told_apart_on_any_screen(width: int) -> None:
    names = ["rollbacks", "evidence", "evidence of embeddings"]
    found = [Comparison(name, "evidence", True, "", 1_000, 1_000, 1_000, [], [], []) for name in names]
    out = io.StringIO()
    Console(file=out, width=width).print(views.replayed(found, [], "driftline_replay"))
    words = out.getvalue().replace("│", " ").split()
    assert [word for word in words if word in ("rollbacks", "evidence")] == ["rollbacks", "evidence", "evidence"]
    assert "…" not in out.getvalue()
    assert words.count("1,000") == 9

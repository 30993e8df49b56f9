"""Text of others in our log lines goes through `for_log`, also where an application's own logging writes them."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import driftline.producers
import driftline.sinks
import driftline.streams

FOREIGN = {"error", "reason", "why", "problem", "raw", "value", "signal", "notice", "what"}
LEVELS = {"debug", "info", "warning", "error", "exception", "critical", "log"}
OURS = {  # names of these that hold words of ours
    ("cli", "what"), ("worker", "what"), ("writer", "what"), ("lost", "what"),
    ("log", "notice"), ("notify", "notice"), ("fit", "what"),
}  # fmt: skip
FILES = sorted(
    path for package in (driftline.producers, driftline.sinks, driftline.streams)
    for path in Path(package.__path__[0]).rglob("*.py")
)  # fmt: skip


def logged(tree: ast.AST) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in LEVELS
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id == "logger"
        ):
            yield node


def names(node: ast.AST) -> Iterator[str]:
    """Whose text stands in the line: `len(error)` and `type(error).__name__` have none of it."""
    if isinstance(node, ast.Call):
        if getattr(node.func, "id", "") in ("for_log", "len", "type", "hide"):
            return
        children: list[ast.AST] = list(node.args)
    elif isinstance(node, ast.Attribute):
        if node.attr in FOREIGN:
            yield node.attr
        return
    elif isinstance(node, ast.Name):
        if node.id in FOREIGN:
            yield node.id
        return
    else:
        children = list(ast.iter_child_nodes(node))
    for child in children:
        yield from names(child)


def unguarded(source: str, module: str) -> list[str]:
    found = []
    for call in logged(ast.parse(source)):
        form = next((a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str)), "")
        for name in {name for argument in call.args for name in names(argument)}:
            if "%r" not in form and (module, name) not in OURS:
                found.append(f"{module}:{call.lineno} {name}")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_text_of_others_goes_through_for_log(path: Path) -> None:
    assert unguarded(path.read_text(), path.stem) == []


def test_what_does_not_is_found() -> None:
    assert unguarded('logger.warning("refused: %s", error)', "m") == ["m:1 error"]
    assert unguarded('logger.log(3, "%d: %s", *(n, first.reason))', "m") == ["m:1 reason"]
    assert unguarded('logger.warning("refused: %s", for_log(error)); logger.info("%r", error)', "m") == []

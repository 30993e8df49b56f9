"""Rows on any screen: a table where its columns can be read, else each row as a block of names and values."""

from collections.abc import Iterable
from typing import NamedTuple

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, JustifyMethod, RenderResult
from rich.table import Table
from rich.text import Text

from driftline.schemas.text import for_terminal

READABLE = 10  # characters of a cell's line: less makes towers of letters
FRAME = 3  # of each column, and one more


class Column(NamedTuple):
    name: str
    numeric: bool = False
    least: int = READABLE  # characters that a longer text needs to be read


class Listing:
    """To print. A cell is what `for_terminal` takes, or a `Text` of ours; None is empty."""

    def __init__(self, columns: Iterable[Column], rows: Iterable[Iterable[object]]) -> None:
        self._columns = list(columns)
        self._rows = [[_text(cell) for cell in row] for row in rows]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self._least() <= options.max_width:
            yield self._table()
        else:
            yield from self._blocks(options.max_width)

    def _least(self) -> int:
        """The width below which it is no table to read."""
        cells = [[for_terminal(column.name), *(row[i] for row in self._rows)] for i, column in enumerate(self._columns)]
        return 1 + sum(
            FRAME + max(_needs(cell, column) for cell in texts)
            for column, texts in zip(self._columns, cells, strict=True)
        )

    def _table(self) -> Table:
        table = Table()
        for column in self._columns:
            name = for_terminal(column.name)
            least = min(column.least, cell_len(name.plain))
            justify: JustifyMethod = "right" if column.numeric else "left"
            table.add_column(name, justify=justify, overflow="fold", min_width=least)
        for row in self._rows:
            table.add_row(*row)
        return table

    def _blocks(self, width: int) -> RenderResult:
        for row in self._rows:
            block = Table.grid(padding=(0, 2))
            block.add_column(overflow="fold", max_width=max(READABLE, width // 3))
            block.add_column(overflow="fold")
            for column, cell in zip(self._columns, row, strict=True):
                if cell.plain:
                    block.add_row(for_terminal(column.name, style="bold"), cell)
            yield Text("─" * min(width, 40), "dim")
            yield block


def _needs(text: Text, column: Column) -> int:
    longest = max(map(cell_len, text.plain.splitlines()), default=0)
    return longest if column.numeric else min(longest, column.least)


def _text(cell: object) -> Text:
    if cell is None:
        return Text()
    return cell if isinstance(cell, Text) else for_terminal(cell)

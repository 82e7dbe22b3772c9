"""Output to people: one console for all of it, whatever characters and however many columns its place can hold."""

import os
import sys
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table

from hadrl_lightning.characters import plain, use_plain_characters

UNLIMITED = 10_000
"""Columns of an output that is no terminal, where nothing has to be broken."""


class _PlainConsole(Console):
    """Puts the plain characters in before it measures columns."""

    def render_str(self, text: str, **options: Any) -> Any:
        """Render a cell, a title or a line."""
        return super().render_str(plain(text, self.encoding), **options)


def make_console(file: Any = None, width: int | None = None) -> Console:
    """The console for everything that is shown.

    A character that the encoding lacks is written in plain ones. Where the output is no terminal, lines have no limit
    but the one in the environment variable COLUMNS.

    Args:
        file: where it writes; stdout if None.
        width: columns, where they are not those of the terminal.
    """
    use_plain_characters(sys.stdout if file is None else file)
    console = _PlainConsole(file=file, width=width, markup=False, emoji=False)
    if width is None and not console.is_terminal and not os.environ.get("COLUMNS", "").isdecimal():
        console.width = UNLIMITED
    return console


def show(*tables: Table | str, file: Any = None) -> None:
    """Print tables and lines; what is in a table is never cut.

    The headers of a table that is too wide are broken between words; is it still too wide, its columns are shown in
    several tables, each beginning with the first column.

    Args:
        tables: their titles are shown above them.
        file: where it writes; stdout if None.
    """
    console = make_console(file)
    for table in tables:
        if isinstance(table, str):
            console.print(table, soft_wrap=True, highlight=False)
            continue
        if table.title is not None:
            console.print(table.title, soft_wrap=console.width == UNLIMITED, highlight=False)
        for part in _parts(table, console):
            needed = max(
                console.width, _width(part, console)
            )  # a single column: the terminal breaks its lines
            make_console(file, needed).print(part)


def _parts(table: Table, console: Console) -> Iterator[Table]:
    first, *rest = range(len(table.columns))
    whole = _only(table, [first, *rest], breaking=False)
    if _width(whole, console) <= console.width:
        yield whole
        return
    while rest:
        number = len(rest)
        while number > 1 and _width(_only(table, [first, *rest[:number]]), console) > console.width:
            number -= 1
        part = _only(table, [first, *rest[:number]], breaking=False)
        fits = _width(part, console) <= console.width
        yield part if fits else _only(table, [first, *rest[:number]])
        rest = rest[number:]


def _only(table: Table, columns: list[int], breaking: bool = True) -> Table:
    """The same table with some of its columns, their headers broken to the width of what is below them, no title."""
    part = Table(
        box=table.box,
        padding=table.padding,
        show_edge=table.show_edge,
    )
    chosen = [table.columns[index] for index in columns]
    for column in chosen:
        cells = [str(cell) for cell in column.cells]
        width = max(map(len, cells), default=0)
        header = _broken(str(column.header), width) if breaking else column.header
        part.add_column(header, justify=column.justify, no_wrap=True, style=column.style)
    for row, line in zip(table.rows, zip(*(column.cells for column in chosen), strict=True), strict=True):
        part.add_row(*line, style=row.style, end_section=row.end_section)
    return part


def _broken(text: str, width: int) -> str:
    """The text in lines of at most so many characters, or of more where that would take more than two lines."""
    lines: list[str] = []
    for word in text.split():
        if lines and len(lines[-1]) + 1 + len(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return "\n".join(lines) if len(lines) <= 2 else _broken(text, width + 1)


def _width(table: Table, console: Console) -> int:
    """Columns that a table takes where nothing of it is broken, the title aside."""
    options = console.options.update(max_width=UNLIMITED)
    return console.measure(table, options=options).maximum

"""What became of a cell: computing it without falling over it, and storing what came out."""

import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from hadrl_lightning.benchmark.cells import Cell, CellResult, read_result, write_result
from hadrl_lightning.process import single_thread

MAX_RETRIES = 2
"""How often a cell is tried again whose worker died. One that raises an exception would raise it again."""

Compute = Callable[[Cell], CellResult]


class Attempt(NamedTuple):
    """What computing a cell led to."""

    result: CellResult | None
    """None if it failed."""
    failure: str = ""
    """The traceback, or how its worker ended."""


Attempts = Iterator[tuple[Cell, Attempt]]
"""What an engine yields: every cell once, in the order in which they are done."""


class Outcome(NamedTuple):
    """What became of a cell."""

    cell: Cell
    result: CellResult | None
    """None if it failed."""
    error: str = ""
    """The last line of what went wrong; the rest is in the file `.failed.txt` beside the cell's."""
    reused: bool = False
    """It was computed earlier."""


def attempt(cell: Cell, compute: Compute) -> Attempt:
    """Compute a cell. An exception is a failure of this cell only."""
    try:
        return Attempt(compute(cell))
    except Exception:
        return Attempt(None, traceback.format_exc())


def attempt_in_worker(cell: Cell, compute: Compute) -> Attempt:
    """The same with one thread of torch: cells run side by side."""
    single_thread()
    return attempt(cell, compute)


def stored(cell: Cell, folder: Path, archived: Mapping[str, CellResult]) -> Outcome | None:
    """The outcome of a cell that was computed earlier, by its file or by the archive; None if there is none."""
    result = read_result(cell, folder) or archived.get(cell.key)
    return None if result is None else Outcome(cell, result, reused=True)


def store(cell: Cell, tried: Attempt, folder: Path) -> Outcome:
    """Write the result, or what went wrong, in place of what is there."""
    file = cell.file(folder)
    failed = file.with_suffix(".failed.txt")
    if tried.result is not None:
        write_result(cell, tried.result, folder)
        failed.unlink(missing_ok=True)
        return Outcome(cell, tried.result)
    file.unlink(missing_ok=True)
    failed.parent.mkdir(parents=True, exist_ok=True)
    failed.write_text(tried.failure.rstrip() + "\n", encoding="utf-8")
    return Outcome(cell, None, error=tried.failure.strip().splitlines()[-1])

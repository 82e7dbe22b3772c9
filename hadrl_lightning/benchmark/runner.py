"""Compute cells, here or in worker processes; what is computed already is not computed again."""

import multiprocessing
import os
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Thread
from typing import NamedTuple

from .cells import Cell, CellResult, read_result, write_result
from .compute import compute
from .training import single_thread

CheckedIn = Callable[["Outcome"], None]


class Outcome(NamedTuple):
    """What became of a cell."""

    cell: Cell
    result: CellResult | None
    """None if it failed."""
    error: str = ""
    """The last line of what went wrong; the rest is in the file `.failed.txt` beside the cell's."""
    reused: bool = False
    """It was computed earlier."""


def run_cells(
    cells: Sequence[Cell],
    folder: Path,
    workers: int = 1,
    on_done: CheckedIn | None = None,
    refresh: bool = False,
) -> dict[str, Outcome]:
    """The outcome of every cell by its key.

    Results are stored as they come, so an interrupted run goes on where it was. A cell that fails, or whose process
    dies, costs only itself; it is tried again in the next run.

    Args:
        cells: what to compute.
        folder: of the benchmark.
        workers: processes at once, one thread each; 1: in this process.
        on_done: called with every outcome as it comes.
        refresh: compute again what is there.
    """
    done: dict[str, Outcome] = {}

    def finish(outcome: Outcome) -> None:
        done[outcome.cell.key] = outcome
        if on_done is not None:
            on_done(outcome)

    pending = []
    for cell in cells:
        result = None if refresh else read_result(cell, folder)
        if result is None:
            pending.append(cell)
        else:
            finish(Outcome(cell, result, reused=True))
    if workers <= 1:
        for cell in pending:
            _work(cell, folder)
            finish(_outcome(cell, folder, "it left no result"))
    else:
        _in_processes(pending, folder, workers, finish)
    return done


def computed_cells(cells: Sequence[Cell], folder: Path) -> dict[str, Outcome]:
    """The outcome of every cell by its key, as far as it was computed earlier; nothing is computed."""
    found = {cell.key: read_result(cell, folder) for cell in cells}
    return {
        cell.key: Outcome(cell, found[cell.key], "not computed yet", reused=found[cell.key] is not None)
        for cell in cells
    }


def _in_processes(pending: Sequence[Cell], folder: Path, workers: int, finish: CheckedIn) -> None:
    """Hand cells to worker processes one at a time; in place of a worker that dies there is a new one."""
    waiting = list(pending)
    running: dict[Connection, tuple[BaseProcess, Cell]] = {}
    idle: list[tuple[BaseProcess, Connection]] = []
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                process, pipe = idle.pop() if idle else _start(folder)
                running[pipe] = (process, waiting.pop(0))
                with suppress(OSError):  # a worker that is dead already is noticed below
                    pipe.send(running[pipe][1])
            for ready in wait(list(running)):
                assert isinstance(ready, Connection)
                process, cell = running.pop(ready)
                try:
                    ready.recv()
                    idle.append((process, ready))
                except (EOFError, OSError):
                    process.join()
                finish(_outcome(cell, folder, f"its process ended with exit code {process.exitcode}"))
    finally:
        for process, _ in [*running.values(), *idle]:
            process.terminate()
            process.join()


def _start(folder: Path) -> tuple[BaseProcess, Connection]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, folder), daemon=True)
    process.start()
    theirs.close()  # so that the death of the worker is the end of the pipe
    return process, ours


def _serve(pipe: Connection, folder: Path) -> None:
    """Compute the cells that come, one thread, until the pipe is closed or the parent is gone."""
    single_thread()
    Thread(target=_end_with_parent, daemon=True).start()
    with suppress(EOFError, KeyboardInterrupt):
        while True:
            _work(pipe.recv(), folder)
            pipe.send(True)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work(cell: Cell, folder: Path) -> None:
    """Compute a cell and store its result, or what went wrong."""
    cell.file(folder).unlink(missing_ok=True)
    failed = _failure_file(cell, folder)
    failed.unlink(missing_ok=True)
    try:
        write_result(cell, compute(cell), folder)
    except Exception:  # a cell costs only itself
        failed.parent.mkdir(parents=True, exist_ok=True)
        failed.write_text(traceback.format_exc(), encoding="utf-8")


def _outcome(cell: Cell, folder: Path, otherwise: str) -> Outcome:
    result = read_result(cell, folder)
    if result is not None:
        return Outcome(cell, result)
    failed = _failure_file(cell, folder)
    lines = failed.read_text(encoding="utf-8").strip().splitlines() if failed.is_file() else [otherwise]
    return Outcome(cell, None, error=lines[-1])


def _failure_file(cell: Cell, folder: Path) -> Path:
    return cell.file(folder).with_suffix(".failed.txt")

"""Compute cells, here, in worker processes or with Ray; what is computed already is not computed again."""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Literal

from hadrl_lightning.benchmark.archive import Archive
from hadrl_lightning.benchmark.cells import (
    MAX_RETRIES,
    Attempt,
    Attempts,
    Cell,
    Compute,
    Outcome,
    attempt,
    attempt_in_worker,
    store,
    stored,
)
from hadrl_lightning.benchmark.compute import compute as compute_cell
from hadrl_lightning.benchmark.ray_engine import in_ray
from hadrl_lightning.process import start_worker

Engine = Literal["processes", "ray"]
"""What computes: processes of this machine, or Ray, on this machine or a cluster."""


def run_cells(
    cells: Sequence[Cell],
    folder: Path,
    workers: int | None = None,
    on_done: Callable[[Outcome], None] | None = None,
    refresh: bool = False,
    engine: Engine = "processes",
    ray_address: str | None = None,
    compute: Compute | None = None,
) -> dict[str, Outcome]:
    """The outcome of every cell by its key.

    Results are written here as they come, so an interrupted run goes on where it was, with any engine. A cell that
    raises an exception costs only itself; one whose worker dies is tried again, up to `MAX_RETRIES` times. Those that
    failed are tried again in the next run.

    Args:
        cells: what to compute.
        folder: of the benchmark.
        workers: cells at once, one thread each. `processes`: 1 where not given, which is this process itself. `ray`:
            as many as there are CPUs where not given.
        on_done: called with every outcome as it comes.
        refresh: compute again what is there.
        engine: `processes` or `ray`.
        ray_address: of a running Ray cluster, such as `auto`; Ray starts on this machine where not given.
        compute: from a cell to its result; can be pickled if it is to run elsewhere. By default `compute.compute`.

    Raises:
        HadrlError: Ray is not installed, or there is no cluster at that address.
    """
    done: dict[str, Outcome] = {}

    def finish(outcome: Outcome) -> None:
        done[outcome.cell.key] = outcome
        if on_done is not None:
            on_done(outcome)

    pending = []
    archived = Archive(folder).results
    for cell in cells:
        outcome = None if refresh else stored(cell, folder, archived)
        if outcome is None:
            pending.append(cell)
        else:
            finish(outcome)
    for cell in pending:
        if refresh and cell.training_key is not None:
            cell.training_file(folder).unlink(missing_ok=True)
    chosen = compute or partial(compute_cell, folder=folder.resolve())
    for some in _trained_first(pending):
        if engine == "ray":
            attempts = in_ray(some, workers, ray_address, chosen)
        elif (workers or 1) > 1:
            attempts = in_processes(some, workers or 1, chosen)
        else:
            attempts = _here(some, chosen)
        for cell, tried in attempts:
            finish(store(cell, tried, folder))
    return done


def _trained_first(cells: Sequence[Cell]) -> tuple[list[Cell], list[Cell]]:
    """The cells in two parts: of those that share a training all but the first wait until that is done."""
    first: list[Cell] = []
    rest: list[Cell] = []
    trained = set()
    for cell in cells:
        key = cell.training_key
        (rest if key in trained else first).append(cell)
        if key is not None:
            trained.add(key)
    return first, rest


def computed_cells(cells: Sequence[Cell], folder: Path) -> dict[str, Outcome]:
    """The outcome of every cell by its key, as far as it was computed earlier; nothing is computed."""
    archived = Archive(folder).results
    return {
        cell.key: stored(cell, folder, archived) or Outcome(cell, None, "not computed yet") for cell in cells
    }


def _here(cells: Sequence[Cell], compute: Compute) -> Attempts:
    for cell in cells:
        yield cell, attempt(cell, compute)


def in_processes(cells: Sequence[Cell], workers: int, compute: Compute) -> Attempts:
    """Hand cells to worker processes one at a time; in place of a worker that dies there is a new one.

    A cell whose worker died comes again when all others have had their turn, up to `MAX_RETRIES` times.
    """
    waiting = list(cells)
    deaths: Counter[str] = Counter()
    running: dict[Connection, tuple[BaseProcess, Cell]] = {}
    idle: list[tuple[BaseProcess, Connection]] = []
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                process, pipe = (
                    idle.pop() if idle else start_worker(partial(attempt_in_worker, compute=compute))
                )
                running[pipe] = (process, waiting.pop(0))
                with suppress(OSError):  # a worker that is dead already is noticed below
                    pipe.send(running[pipe][1])
            for ready in wait(list(running)):
                assert isinstance(ready, Connection)
                process, cell = running.pop(ready)
                try:
                    tried: Attempt = ready.recv()
                except (EOFError, OSError):
                    process.join()
                    deaths[cell.key] += 1
                    if deaths[cell.key] <= MAX_RETRIES:
                        waiting.append(cell)
                        continue
                    times = f"{deaths[cell.key]} times, at last with exit code {process.exitcode}"
                    yield cell, Attempt(None, f"its process died {times}")
                    continue
                idle.append((process, ready))
                yield cell, tried
    finally:
        for process, _ in [*running.values(), *idle]:
            process.terminate()
            process.join()

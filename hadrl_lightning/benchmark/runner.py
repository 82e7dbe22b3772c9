"""Compute cells, here, in worker processes or with Ray; what is computed already is not computed again.

Ray, on this machine or on a cluster, needs the extra `ray`.
"""

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal

from hadrl_lightning.benchmark.archive import Archive
from hadrl_lightning.benchmark.cells import (
    MAX_RETRIES,
    Attempt,
    Attempts,
    Cell,
    Compute,
    Outcome,
    attempt,
    store,
    stored,
)
from hadrl_lightning.benchmark.compute import compute as compute_cell
from hadrl_lightning.errors import HadrlError, require
from hadrl_lightning.process import start_worker

Engine = Literal["processes", "ray"]
"""What computes: processes of this machine, or Ray, on this machine or a cluster."""

OBJECT_STORE_BYTES = 80 * 1024**2
"""Shared memory of a Ray that is started here; a result takes some kilobytes."""
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # calls nobody
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # the coming default; unset, every worker warns of it
    "RAY_task_oom_retries": str(MAX_RETRIES),  # by default, without end
}
"""Settings that Ray reads where it starts; those of the user win."""


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
                process, pipe = idle.pop() if idle else start_worker(partial(attempt, compute=compute))
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


def set_environment() -> None:
    """Set what Ray reads where it is imported."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def in_ray(cells: Sequence[Cell], workers: int | None, address: str | None, compute: Compute) -> Attempts:
    """Compute cells as tasks of one CPU each; results come back here.

    A cell whose worker or machine dies is tried again elsewhere, up to `MAX_RETRIES` times.

    Args:
        cells: what to compute.
        workers: cells at once; as many as there are CPUs where not given.
        address: of a running cluster whose machines have this package; Ray is started here where not given.
        compute: from a cell to its result.

    Raises:
        HadrlError: Ray is not installed, or there is no cluster at that address.
    """
    set_environment()
    (ray,) = require("engine ray", ["ray"])
    if not cells:
        return
    with _connection(ray, workers, address):
        task = ray.remote(num_cpus=1, max_retries=MAX_RETRIES, retry_exceptions=False)(attempt)
        waiting = list(reversed(cells))
        running: dict[Any, Cell] = {}
        while waiting or running:
            while waiting and len(running) < (workers or len(cells)):
                cell = waiting.pop()
                running[task.remote(cell, compute)] = cell
            (ready,), _ = ray.wait(list(running), num_returns=1)
            yield running.pop(ready), _collected(ray, ready)


def _collected(ray: Any, reference: Any) -> Attempt:
    try:
        tried: Attempt = ray.get(reference)
    except ray.exceptions.RayError as error:
        reason = " ".join(str(error).split())
        return Attempt(None, f"Ray gave it up: {type(error).__name__}: {reason}")
    return tried


@contextmanager
def _connection(ray: Any, workers: int | None, address: str | None) -> Iterator[None]:
    """Use the Ray that this process is connected to, or connect and disconnect."""
    if ray.is_initialized():
        yield
        return
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    try:
        if address is None:
            ray.init(
                address="local",
                num_cpus=workers,
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                **quiet,
            )
        else:
            ray.init(address=address, **quiet)
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        reason = " ".join(str(error).split())
        where = (
            "ray could not start" if address is None else f"ray_address must be of a cluster, got {address!r}"
        )
        raise HadrlError(f"{where}: {reason}") from error
    try:
        yield
    finally:
        ray.shutdown()

"""Compute cells in processes of this machine."""

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from hadrl_lightning.benchmark.cells import Cell
from hadrl_lightning.benchmark.outcomes import MAX_RETRIES, Attempt, Attempts, Compute, attempt_in_worker
from hadrl_lightning.process import start_worker


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

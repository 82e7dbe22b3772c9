"""Compute cells with Ray, on this machine or on a cluster. Needs the extra `ray`."""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from hadrl_lightning.benchmark.cells import MAX_RETRIES, Attempt, Attempts, Cell, Compute, attempt_in_worker
from hadrl_lightning.errors import HadrlError
from hadrl_lightning.extras import require

OBJECT_STORE_BYTES = 80 * 1024**2
"""Shared memory of a Ray that is started here; a result takes some kilobytes."""
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # calls nobody
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # the coming default; unset, every worker warns of it
    "RAY_task_oom_retries": str(MAX_RETRIES),  # by default, without end
}
"""Settings that Ray reads where it starts; those of the user win."""


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
        task = ray.remote(num_cpus=1, max_retries=MAX_RETRIES, retry_exceptions=False)(attempt_in_worker)
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

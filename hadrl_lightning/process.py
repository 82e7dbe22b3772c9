"""Manners of a process that trains: what it says, its threads, its garbage."""

import gc
import logging
import multiprocessing
import os
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from threading import Thread
from typing import Any

import torch
from lightning.pytorch import Trainer

from hadrl_lightning.characters import use_plain_characters
from hadrl_lightning.messages import warnings_in_one_line


def quieten() -> None:
    """Silence what Lightning tells everybody and what it warns of although it is meant."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for text in (
        ".*does not have many workers.*",
        ".*GPU available but not used.*",
        ".*is smaller than the logging interval.*",
        ".*isinstance.treespec, LeafSpec.*",
        ".*add_instantiator.*deprecated.*",
        ".*JsonargparseDeprecationWarning.*",
    ):
        warnings.filterwarnings("ignore", r"\s*" + text)


def quiet_trainer(**settings: Any) -> Trainer:
    """A Trainer for networks that collect as they train: it shows and writes nothing, and validates nothing.

    Args:
        settings: of the Trainer, and in place of these.
    """
    quiet = dict.fromkeys(
        (
            "logger",
            "enable_checkpointing",
            "enable_progress_bar",
            "enable_model_summary",
            "use_distributed_sampler",
        ),
        False,
    )
    return Trainer(**{"limit_val_batches": 0, **quiet, **settings})


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread of torch meanwhile: more help little, and take cores from what runs beside."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def spare_the_collector() -> None:
    """Take all that exists now out of the full passes of Python's collector of cycles.

    They come when a quarter more than what the last one kept has survived: with the libraries' million objects in the
    count that is every few hundred epochs, and what a training drops in the meantime keeps its memory.
    """
    gc.collect()
    gc.freeze()
    gc.collect()  # the count starts anew


def start_worker(answer: Callable[[Any], Any]) -> tuple[BaseProcess, Connection]:
    """A process that answers what is sent through the pipe, until that is closed or this process is gone.

    Args:
        answer: a function of a module; what it is given and gives must pickle.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, answer), daemon=True)
    with _interrupts_held():
        process.start()
    theirs.close()  # so that the death of the worker is the end of the pipe
    return process, ours


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Within, SIGINT has to wait: in a process that is started for good, also while it imports what it needs.

    A terminal sends it to all, and the parent decides what ends.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # when it is started it lets SIGINT through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(pipe: Connection, answer: Callable[[Any], Any]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # where it could not be held
    Thread(target=_end_with_parent, daemon=True).start()
    use_plain_characters()
    with warnings_in_one_line(), suppress(EOFError):
        while True:
            pipe.send(answer(pipe.recv()))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)

"""Manners of a process that trains: what it says, its threads, its garbage."""

import gc
import logging
import warnings

import torch


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


def single_thread() -> None:
    """One thread of torch, where several of these processes run side by side."""
    torch.set_num_threads(1)


def spare_the_collector() -> None:
    """Take all that exists now out of the full passes of Python's collector of cycles.

    They come when a quarter more than what the last one kept has survived: with the libraries' million objects in the
    count that is every few hundred epochs, and what a training drops in the meantime keeps its memory.
    """
    gc.collect()
    gc.freeze()
    gc.collect()  # the count starts anew

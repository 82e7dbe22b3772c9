"""Manners of a process that trains: what it says, its threads, its garbage."""

import gc
import logging
import warnings
from typing import Any

import torch
from lightning.pytorch import Trainer


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

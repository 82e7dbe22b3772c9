"""What of ours a Trainer gets, beside what its settings ask for."""

from collections.abc import Mapping
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, ProgressBar

from hadrl_lightning.cli.loggers import EventsLogger, MetricsLogger
from hadrl_lightning.cli.resuming import Start
from hadrl_lightning.errors import HadrlError


def unwanted_callbacks(settings: Namespace, classes: Mapping[str, type[Callback]]) -> list[str]:
    """Keys of our callbacks to leave out: a Trainer wants no progress bar or checkpoints, or has another bar.

    Args:
        settings: of the Trainer, with what they name built.
        classes: ours, by key.
    """
    unwanted: list[type[Callback]] = []
    bars = [one for one in _list(settings.get("callbacks")) if isinstance(one, ProgressBar)]
    if bars or settings.get("enable_progress_bar") is False:
        unwanted.append(ProgressBar)
    if settings.get("enable_checkpointing") is False:
        unwanted.append(ModelCheckpoint)
    return [key for key, one in classes.items() if issubclass(one, tuple(unwanted))]


def make_loggers(given: Any, command: str, start: Start) -> Any:
    """The loggers of a command: those given; for fit beside TensorBoard events, where none are given, and metrics.csv.

    Args:
        given: the Trainer's setting `logger`; False for none at all.
        command: name of the command. Those other than fit leave their results in a file of their own.
        start: tells where to write.
    """
    if given is False or command != "fit":
        return False if given in (None, True) else given
    metrics = MetricsLogger(start.folder, start.kept, start.earlier_metrics)
    if given in (None, True):
        return [EventsLogger(start.folder), metrics]
    return [*_list(given), metrics]


def check_parts(trainer: Trainer, data: LightningDataModule) -> None:
    """Refuse parts of validation and test that hold no batch, before a training: Lightning would when it is their turn.

    Raises:
        HadrlError: there is such a part.
    """
    for name, loader in (("val", data.val_dataloader), ("test", data.test_dataloader)):
        part = getattr(trainer, f"limit_{name}_batches")
        if not isinstance(part, float) or not 0 < part < 1:
            continue
        batches = len(loader())
        if int(part * batches) < 1:
            key = "overfit_batches" if getattr(trainer, "overfit_batches", 0) else f"limit_{name}_batches"
            text = f"trainer.{key} must leave a batch of {name}, which has {batches}, got {part}"
            raise HadrlError(f"{text}: a whole number counts batches")


def _list(given: Any) -> list[Any]:
    if given is None:
        return []
    return list(given) if isinstance(given, list | tuple) else [given]

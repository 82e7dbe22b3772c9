"""Checkpoint files: written so that an interruption can't damage them, and checked before anything starts."""

import os
import pickle
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from ..errors import HadrlError
from ..files import replacing


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes to a temporary file in the same folder and renames it when it is safely on disk.

    Whatever interrupts a save, the file under its name is the whole new checkpoint or the whole old one.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Save `checkpoint` at `path`, replacing a file that is there."""
        if storage_options is not None:
            raise TypeError(
                "storage_options are for remote storage, which AtomicCheckpointIO doesn't write to"
            )
        with replacing(path) as temporary:
            torch.save(checkpoint, temporary)


def read_checkpoint(path: Path, *, to_resume: bool = False) -> dict[str, Any]:
    """The contents of a checkpoint file, on the CPU.

    Args:
        path: The file.
        to_resume: Whether training shall go on from it, for which weights alone don't suffice.

    Raises:
        HadrlError: it is damaged, or not a checkpoint of Lightning.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (
        OSError,
        RuntimeError,
        EOFError,
        ValueError,
        KeyError,
        pickle.UnpicklingError,
        zipfile.BadZipFile,
    ) as error:
        reason = str(error).strip().partition("\n")[0].partition(". ")[0][:120]
        raise HadrlError(f"ckpt_path must be an undamaged checkpoint, got {path} ({reason})") from error
    needed = {"state_dict", "loops"} | ({"optimizer_states"} if to_resume else set())
    missing = sorted(needed - set(checkpoint)) if isinstance(checkpoint, dict) else sorted(needed)
    if missing:
        raise HadrlError(
            f"ckpt_path must be a checkpoint saved by hadrl fit, got {path} without {missing[0]}"
        )
    return checkpoint


def check_settings(path: Path, checkpoint: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Raise HadrlError if the checkpoint was trained on another scenario or physics than `settings` (of the model)."""
    saved = checkpoint.get("hyper_parameters", {})
    for key in ("scenario", "physics"):
        if key in saved and key in settings and _lists(saved[key]) != _lists(settings[key]):
            difference = _first_difference(key, _lists(saved[key]), _lists(settings[key]))
            raise HadrlError(f"ckpt_path must be a checkpoint of the same {key}, got {path}: {difference}")


def check_weights(path: Path, checkpoint: Mapping[str, Any], model: LightningModule) -> None:
    """Raise HadrlError if the weights in the checkpoint don't fit into `model`."""
    saved = checkpoint["state_dict"]
    for name, parameter in model.named_parameters():
        if name not in saved:
            raise HadrlError(f"ckpt_path must be a checkpoint of this model, got {path} without {name}")
        if saved[name].shape != parameter.shape:
            raise HadrlError(
                f"ckpt_path must be a checkpoint of a model of the same sizes, got {path}: {name} is "
                f"{list(saved[name].shape)} there and {list(parameter.shape)} with these settings"
            )


class Checkpointing(ModelCheckpoint):
    """Keeps last.ckpt, of the end of the last epoch, and best.ckpt, of the best validation, in the run's folder.

    Unlike its base class it writes last.ckpt after epochs without an optimizer step too, and always at the very end.

    Args:
        monitor: The logged metric that decides what is best.
        mode: Whether a small or a large metric is good.
        every_n_epochs: Epochs from one last.ckpt to the next; the very end is always saved.
    """

    def __init__(
        self, monitor: str = "val/latency", mode: Literal["min", "max"] = "min", every_n_epochs: int = 1
    ) -> None:
        """See the class."""
        if every_n_epochs < 1:
            raise ValueError(f"every_n_epochs must be at least 1, got {every_n_epochs}")
        super().__init__(monitor=monitor, mode=mode, save_top_k=1, save_last=True)
        self.period = every_n_epochs
        self.best_score: float | None = None
        self._saved_batches = -1
        self._validated = False

    @property
    def state_key(self) -> str:
        """Key of this callback's state in a checkpoint; independent of its settings."""
        return "Checkpointing"

    def state_dict(self) -> dict[str, Any]:
        """What is best so far."""
        return {"best_score": self.best_score, "best_model_path": self.best_model_path}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.best_score = state_dict["best_score"]
        self.best_model_path = state_dict["best_model_path"]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write where the loggers write."""
        self.dirpath = trainer.log_dir  # the same on all ranks

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that there is a fresh validation; the end of the epoch saves."""
        self._validated = not trainer.sanity_checking

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Save nothing: epochs are the unit."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save what the epoch brought."""
        better = self._is_better(trainer)
        due = (trainer.current_epoch + 1) % self.period == 0
        if better or due:
            self._save(trainer, better)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make sure that last.ckpt is of the very end."""
        if self._saved_batches != _num_batches(trainer):
            self._save(trainer, better=False)

    def _is_better(self, trainer: Trainer) -> bool:
        score = trainer.callback_metrics.get(self.monitor) if self.monitor else None
        if score is None or not self._validated:
            return False
        self._validated = False
        value = float(score)
        better = self.best_score is None or (
            value < self.best_score if self.mode == "min" else value > self.best_score
        )
        if better and value == value:  # not NaN
            self.best_score = value
            return True
        return False

    def _save(self, trainer: Trainer, better: bool) -> None:
        if getattr(trainer, "fast_dev_run", False):
            return
        folder = Path(self.dirpath or ".")
        last, best = folder / "last.ckpt", folder / "best.ckpt"
        if better:
            self.best_model_path = str(best)
        self.last_model_path = str(last)
        trainer.save_checkpoint(last)
        if better and trainer.is_global_zero:
            with replacing(best) as temporary:
                shutil.copyfile(last, temporary)
        self._saved_batches = _num_batches(trainer)


def last_checkpoint(trainer: Trainer) -> str:
    """Path of the last checkpoint that this training wrote or began with; empty if there is none."""
    callback = trainer.checkpoint_callback
    written = callback.last_model_path if isinstance(callback, Checkpointing) else ""
    return os.path.relpath(written) if written else str(trainer.ckpt_path or "")


def _num_batches(trainer: Trainer) -> int:
    return trainer.fit_loop.total_batch_idx


def _lists(value: Any) -> Any:
    """The same plain value with lists for tuples: YAML and checkpoints differ in that."""
    if isinstance(value, Mapping):
        return {key: _lists(item) for key, item in value.items()}
    return [_lists(item) for item in value] if isinstance(value, list | tuple) else value


def _first_difference(key: str, saved: Any, wanted: Any) -> str:
    if isinstance(saved, Mapping) and isinstance(wanted, Mapping):
        for name in [*wanted, *(name for name in saved if name not in wanted)]:
            if saved.get(name) != wanted.get(name):
                return _first_difference(f"{key}.{name}", saved.get(name), wanted.get(name))
    return f"{key} is {saved!r} there and {wanted!r} in the settings"

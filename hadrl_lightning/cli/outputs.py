"""What a command leaves behind, whichever loggers it has: a folder with settings, checkpoints and results.

What validate, test and predict record never goes over what was judged in other settings.
"""

import csv
import json
import warnings
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback

from hadrl_lightning.cli.checkpointing import row_to_come
from hadrl_lightning.cli.loggers import MetricsLogger, Rows
from hadrl_lightning.cli.runs import RunFolder
from hadrl_lightning.errors import HadrlError, HadrlWarning, OutputError
from hadrl_lightning.files import replacing


class RunTrainer(Trainer):
    """A Trainer whose `log_dir` is the folder of the run, not that of its first logger.

    Args:
        arguments: of `Trainer`.
        threads: of PyTorch on the CPU. More than one share out the work on large tensors, for networks of hundreds of
            users; on small ones they wait for each other, above all where other programs compute beside. null: as many
            as PyTorch takes by itself, or OMP_NUM_THREADS says.
        settings: of `Trainer`.

    Raises:
        HadrlError: threads below 1.
    """

    folder: RunFolder | None = None
    """Where the command at hand writes; None where it writes nothing, or as Lightning does."""

    def __init__(self, *arguments: Any, threads: int | None = 1, **settings: Any) -> None:
        if threads is not None:
            if threads < 1:
                raise HadrlError(f"trainer.threads must be at least 1, or null, got {threads}")
            torch.set_num_threads(threads)
        super().__init__(*arguments, **settings)

    @property
    def log_dir(self) -> str | None:
        """The folder, that of rank 0; all ranks have to ask."""
        if self.folder is None:
            return super().log_dir
        return str(self.strategy.broadcast(str(self.folder.path)))


class SaveRun(SaveConfigCallback):
    """Saves the settings of a training as config.yaml in its folder, and in every checkpoint the rows logged so far."""

    metrics: MetricsLogger | None = None
    """Its metrics.csv, if it has one."""

    is_new: bool = True
    """Whether the folder is a new one; what an earlier training saved stays as it is."""

    @property
    def state_key(self) -> str:
        """Key of this callback's state in a checkpoint."""
        return "SaveRun"

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Save config.yaml; other commands than fit leave that of the training alone."""
        if stage == "fit" and self.is_new:
            super().setup(trainer, pl_module, stage)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Store how many rows metrics.csv has, and the one that comes next."""
        if self.metrics is not None:
            rows = Rows(self.metrics.num_rows, row_to_come(trainer))
            checkpoint["callbacks"][self.state_key] = rows._asdict()


class ResultTable(Callback):
    """Writes what `validate` and `test` found as a CSV file of one row into the folder of the run.

    Args:
        other: the settings that are not the agent's own, as cells of the row.
    """

    def __init__(self, other: Mapping[str, str]) -> None:
        self.other = other
        self.written: Path | None = None
        """The file, once it is there."""
        self._before: set[str] = set()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note what was logged before."""
        self._before = set(trainer.callback_metrics)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note what was logged before."""
        self._before = set(trainer.callback_metrics)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write validate-best.csv, … if this is no validation of a training."""
        if trainer.state.fn == "validate":
            self._write(trainer, "validate", "val/")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write test-best.csv, …"""
        self._write(trainer, "test", "test/")

    def _write(self, trainer: Trainer, command: str, prefix: str) -> None:
        folder = trainer.folder if isinstance(trainer, RunTrainer) else None
        if folder is None or not trainer.is_global_zero:
            return
        found = {
            name: value.item()
            for name, value in sorted(trainer.callback_metrics.items())
            if name.startswith(prefix) or name in ("epoch", "step") or name not in self._before
        }
        row = {name: int(found.pop(name)) for name in ("epoch", "step") if name in found} | found
        file = place(folder.path / result_name(command, trainer.ckpt_path), self.other)
        try:
            write_row(file, {**row, **self.other})
            self.written = file
        except OutputError as error:  # no reason to show nothing
            warnings.warn(f"{error}; the results are shown and not kept", HadrlWarning, stacklevel=2)


def result_name(command: str, checkpoint: str | Path | None, ending: str = ".csv") -> str:
    """Name of the file of results of a checkpoint: test-best.csv; test.csv of weights that are in none."""
    return f"{command}-{Path(checkpoint).stem}{ending}" if checkpoint else f"{command}{ending}"


# What was judged -----------------------------------------------------------------------------------------------------

SETTINGS_FILE = "settings.csv"
"""In a folder of predictions that were made in other settings than the agent's own: these, as a table of one row."""


def matters(key: str) -> bool:
    """Whether what an agent is judged by depends on a setting, by its dotted name."""
    return key.startswith(("data.", "model.")) or key == "trainer.precision"


def cells(different: Mapping[str, tuple[Any, Any]]) -> dict[str, str]:
    """Settings that a judgement depends on as cells of a table: the values that they have now."""
    values = {key: now for key, (_, now) in different.items() if matters(key)}
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in values.items()}


def place(first: Path, other: Mapping[str, str]) -> Path:
    """The file, or folder, of what is judged: `first` in the agent's own settings, NAME-1, NAME-2, … in others.

    Args:
        first: where it lies in the agent's own settings.
        other: the settings that are not the agent's own, as `cells` gives them.

    Returns:
        The first of them that is free, or that holds what was judged in the same settings.
    """
    if not other and _recorded(first) in (None, {}):
        return first
    numbered = (first.with_name(f"{first.stem}-{number}{first.suffix}") for number in count(1))
    return next(path for path in numbered if _recorded(path) in (None, dict(other)))


def write_row(file: Path, row: Mapping[str, Any]) -> None:
    """Write a table of one row.

    Raises:
        OutputError: the folder can't be written to, or the disk is full.
    """
    with replacing(file) as temporary, temporary.open("w", newline="", encoding="utf-8") as table:
        writer = csv.DictWriter(table, fieldnames=list(row))
        writer.writeheader()
        writer.writerow(row)


def _recorded(path: Path) -> dict[str, str] | None:
    """The settings that are not the agent's own, of a file or a folder of results; None where there is none."""
    if not path.exists():
        return None
    file = path / SETTINGS_FILE if path.is_dir() else path
    if not file.is_file():
        return {}
    with file.open(newline="", encoding="utf-8", errors="replace") as table:
        row = next(csv.DictReader(table), {})
    return {key: value for key, value in row.items() if matters(key or "")}

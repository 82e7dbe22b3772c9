"""`TrainingProgress`: one bar for the whole training."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from hadrl_lightning.console import make_console


class TrainingProgress(ProgressBar):
    """One Rich bar over all training steps, with hit ratio and latency of what was last collected, and the speed.

    Nothing is printed per step; where the output is no terminal, nothing but the result is.
    """

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._progress: Progress | None = None
        self._task = TaskID(0)

    def disable(self) -> None:
        """Show nothing."""
        self._enabled = False

    def enable(self) -> None:
        """Show the bar again."""
        self._enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the bar where training stands."""
        if not self._enabled or not trainer.is_global_zero or not (console := make_console()).is_terminal:
            return
        self._progress = Progress(
            BarColumn(bar_width=12),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            refresh_per_second=4,
        )
        self._progress.start()
        epochs = trainer.max_epochs if trainer.max_epochs not in (None, -1) else None
        total = None if epochs is None else epochs * int(trainer.num_training_batches)
        self._task = self._progress.add_task(
            "training", total=total, completed=trainer.fit_loop.total_batch_idx + 1, figures=""
        )

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show what the epoch collected; callbacks before this one have collected it."""
        self._refresh(trainer)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Move the bar by a step."""
        if self._progress is not None:
            self._progress.update(self._task, completed=trainer.fit_loop.total_batch_idx + 1)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the figures of the epoch."""
        self._refresh(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the figures of the validation."""
        self._refresh(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the bar."""
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Close the bar before the error is shown."""
        self._close()

    def _close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _refresh(self, trainer: Trainer) -> None:
        if self._progress is None:
            return
        metrics, figures = trainer.callback_metrics, []
        if "collect/latency" in metrics:
            hits, latency = float(metrics["collect/hit_ratio"]), float(metrics["collect/latency"])
            figures.append(f"hits {hits:.3f}, latency {latency:.1f} s")
        elapsed = self._progress.tasks[0].elapsed
        data = getattr(trainer, "datamodule", None)
        slots = getattr(data, "slots", 0) * getattr(data, "num_collectors", 1)
        if elapsed and slots:
            figures.append(f"{slots / elapsed:.0f} slots/s")
        self._progress.update(self._task, figures=", ".join(figures))

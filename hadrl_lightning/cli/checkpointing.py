"""`Checkpointing`: when checkpoints are written, and where in Lightning's loops they stand.

Of the loops they hold what Lightning leaves out, or would resume otherwise.
"""

import shutil
import warnings
from pathlib import Path
from typing import Any, Literal

from lightning.fabric.utilities.apply_func import convert_tensors_to_scalars
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from hadrl_lightning.cli.checkpoints import BEST, LAST
from hadrl_lightning.cli.signals import Stopped
from hadrl_lightning.errors import HadrlWarning, OutputError
from hadrl_lightning.files import replacing
from hadrl_lightning.judge.scores import compared_by, improves
from hadrl_lightning.scenario import Scenario
from hadrl_lightning.typed import typed

Progress = dict[str, Any]


@typed
class Checkpointing(ModelCheckpoint):
    """Keeps last.ckpt, of the end of the last epoch, and best.ckpt, of the best validation, in the run's folder.

    Unlike its base class it writes last.ckpt after epochs without an optimizer step too, always at the very end, and
    when a signal ends the training.

    Args:
        monitor: The logged metric that decides what is best; null: val/latency, or val/cost where the scenario's
            preferences weigh more; where it has ranges their logarithms, so that each network counts alike.
        mode: Whether a small or a large metric is good.
        every_n_epochs: Epochs from one last.ckpt to the next; the very end is always saved.
        every_n_batches: Batches from one last.ckpt to the next within an epoch, so that a crash costs less; none where
            not given.
    """

    def __init__(
        self,
        monitor: str | None = None,
        mode: Literal["min", "max"] = "min",
        every_n_epochs: int = 1,
        every_n_batches: int | None = None,
    ) -> None:
        """See the class."""
        for name, count in (("every_n_epochs", every_n_epochs), ("every_n_batches", every_n_batches)):
            if count is not None and count < 1:
                raise ValueError(f"{name} must be at least 1, got {count}")
        super().__init__(monitor=monitor, mode=mode, save_top_k=1, save_last=True)
        self.period = every_n_epochs
        self.every_n_batches = every_n_batches
        self.best_score: float | None = None
        self._saved_batches = -1
        self._validated = False

    @property
    def state_key(self) -> str:
        """Key of this callback's state in a checkpoint; independent of its settings."""
        return "Checkpointing"

    def state_dict(self) -> dict[str, Any]:
        """What is best so far."""
        return {"best_score": self.best_score}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.best_score = state_dict["best_score"]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write into the folder of the run, by what validations of its scenario are compared by."""
        self.dirpath = trainer.log_dir  # the same on all ranks
        scenario = getattr(getattr(trainer, "datamodule", None), "scenario", None)
        if self.monitor is None:
            self.monitor = f"val/{compared_by(scenario) if isinstance(scenario, Scenario) else 'latency'}"

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on with the best one of the folder; without it, as in a folder that is new, the next one is best."""
        best = Path(self.dirpath or ".") / BEST
        if trainer.strategy.broadcast(best.is_file()):
            self.best_model_path = str(best)
        else:
            self.best_score = None

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Have Lightning resume at the step at which it is saved."""
        make_resumable(trainer, checkpoint["loops"]["fit_loop"])

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that there is a fresh validation; the end of the epoch saves."""
        self._validated = not trainer.sanity_checking

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save every so many batches; the end of the epoch is up to `on_train_epoch_end`."""
        if self.every_n_batches is None or (batch_idx + 1) % self.every_n_batches:
            return
        if batch_idx + 1 < trainer.num_training_batches and not validates_next(trainer):
            self._save(trainer, better=False)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save what the epoch brought."""
        better = self._is_better(trainer)
        due = (trainer.current_epoch + 1) % self.period == 0
        if better or due:
            self._save(trainer, better)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make sure that last.ckpt is of the very end."""
        if self._saved_batches != trainer.fit_loop.total_batch_idx:
            self._save(trainer, better=False)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save where a signal stopped the training: the step at hand is whole. Any other exception leaves the files."""
        fitting = trainer.state.fn == "fit" and not trainer.sanity_checking
        if fitting and isinstance(exception, Stopped | SIGTERMException):
            self._save(trainer, better=False)

    def _is_better(self, trainer: Trainer) -> bool:
        if not self._validated:
            return False
        self._validated = False
        score = trainer.callback_metrics.get(self.monitor or "")
        if score is None:
            allowed = ", ".join(name for name in sorted(trainer.callback_metrics) if name.startswith("val/"))
            text = f"checkpointing.monitor must be one of {allowed}, got {self.monitor}: no best.ckpt is kept"
            warnings.warn(text, HadrlWarning, stacklevel=2)
            return False
        value = float(score)
        better = improves(value, self.best_score, self.mode)
        if better:
            self.best_score = value
        return better

    def _save(self, trainer: Trainer, better: bool) -> None:
        """Write last.ckpt; the best one first: a run killed in between goes on from before both."""
        if getattr(trainer, "fast_dev_run", False):
            return
        folder = Path(self.dirpath or ".")
        last, best = folder / LAST, folder / BEST
        if better:
            self.best_model_path = str(best)
        self.last_model_path = str(last)
        checkpoint = trainer._checkpoint_connector.dump_checkpoint()
        problem = ""
        try:
            trainer.strategy.save_checkpoint(checkpoint, best if better else last)
            if better and trainer.is_global_zero:
                with replacing(last) as temporary:
                    shutil.copyfile(best, temporary)
        except OutputError as error:
            problem = str(error)
        problem = trainer.strategy.broadcast(problem)  # all ranks end then
        if problem:
            raise OutputError(problem)
        self._saved_batches = trainer.fit_loop.total_batch_idx


def make_resumable(trainer: Trainer, fit_loop: dict[str, Any]) -> None:
    """Change the stored state of the fit loop so that Lightning resumes at the step where the training stands.

    While an epoch collects (in `on_train_epoch_start`) it becomes the end of the epoch before, so that the hook is
    called again. While a validation runs it becomes the first batch of it, so that the validation is repeated; after
    the last training batch Lightning would skip it.

    Args:
        trainer: as it stands.
        fit_loop: `checkpoint["loops"]["fit_loop"]`.
    """
    epochs = fit_loop["epoch_progress"]
    if epochs["current"]["ready"] > epochs["current"]["started"]:
        for progress in (epochs["total"], epochs["current"]):
            progress["ready"] = progress["started"]
    elif trainer.validating:
        first: Progress = {"ready": 1, "started": 1, "processed": 0, "completed": 0}
        validation = fit_loop["epoch_loop.val_loop.batch_progress"]
        validation.update(total=dict(first), current=dict(first), is_last_batch=False)


def row_to_come(trainer: Trainer) -> dict[str, float | int] | None:
    """The row of metrics that Lightning logs right after a checkpoint saved in `on_train_batch_end` or
    `on_train_epoch_end`; None if there is none. All ranks have to call.
    """
    loop = trainer.fit_loop
    epochs: Any = loop.epoch_progress.current
    batches: Any = loop.epoch_loop.batch_progress.current
    connector = trainer._logger_connector
    at_epoch_end = epochs.processed > epochs.completed
    at_batch_end = batches.processed > batches.completed and connector.should_update_logs
    if not trainer.training or not (at_epoch_end or at_batch_end):
        return None
    metrics = convert_tensors_to_scalars(connector.metrics["log"])
    if not metrics:
        return None
    step = metrics.pop("step", loop.epoch_loop._batches_that_stepped - int(at_epoch_end))
    return {"epoch": trainer.current_epoch, **metrics, "step": int(step)}


def validates_next(trainer: Trainer) -> bool:
    """Whether a validation follows the training batch at hand, so that a checkpoint would come before it."""
    if trainer.should_stop:
        return True
    every: float | None = trainer.val_check_batch
    epochs = trainer.check_val_every_n_epoch
    if not every or not trainer.enable_validation or trainer.sanity_checking:
        return False
    if epochs is None:  # counted through the epochs
        return (trainer.fit_loop.total_batch_idx + 1) % every == 0
    return (trainer.current_epoch + 1) % epochs == 0 and (trainer.fit_loop.batch_idx + 1) % every == 0

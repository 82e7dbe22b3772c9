"""Where in Lightning's loops a checkpoint stands: what Lightning leaves out, or would resume otherwise."""

from typing import Any

from lightning.fabric.utilities.apply_func import convert_tensors_to_scalars
from lightning.pytorch import Trainer

Progress = dict[str, Any]


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

"""What a Trainer can be asked for in general and HADRL's training, which steps its optimizers itself, can't do."""

from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler, StochasticWeightAveraging

from hadrl_lightning.errors import HadrlError

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
"""In which HADRL trains and plays."""


def check_trainer(trainer: Trainer) -> None:
    """Refuse what a Trainer is set to do and `HADRL` can't, before anything is trained or written.

    Raises:
        HadrlError: it clips gradients, accumulates them, averages weights over the training, or computes with numbers
            other than `PRECISIONS`.
    """
    if trainer.precision not in PRECISIONS:
        *most, last = PRECISIONS
        raise HadrlError(f"trainer.precision must be {', '.join(most)} or {last}, got {trainer.precision}")
    for name in ("gradient_clip_val", "gradient_clip_algorithm"):
        value: Any = getattr(trainer, name)
        if value:
            raise HadrlError(
                f"trainer.{name} must be null, got {getattr(value, 'value', value)}: the world model clips its "
                "gradient to model.world_model.grad_clip_norm or model.set_world_model.grad_clip_norm"
            )
    if trainer.accumulate_grad_batches != 1:
        raise HadrlError(
            f"trainer.accumulate_grad_batches must be 1, got {trainer.accumulate_grad_batches}: "
            "data.batch_size and data.caching_batch_size say how much an update learns from"
        )
    callbacks: list[Any] = getattr(trainer, "callbacks", [])
    for callback in callbacks:
        if isinstance(callback, StochasticWeightAveraging | GradientAccumulationScheduler):
            raise HadrlError(
                f"trainer.callbacks must be without {type(callback).__name__}, "
                "which leaves the steps of the optimizers to Lightning"
            )

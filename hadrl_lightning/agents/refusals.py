"""What training refuses in one line: items that are nothing to learn from, and what a Trainer is set to do in vain.

HADRL's training steps its optimizers itself, so it can't do all that a Trainer can be asked for.
"""

from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler, StochasticWeightAveraging
from torch import Tensor

from hadrl_lightning.data.transitions import CachingTransitions
from hadrl_lightning.errors import HadrlError, NonFiniteError
from hadrl_lightning.simulator.rows import Rows

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
"""In which HADRL trains and plays."""


def check_item(item: Any, *kinds: type) -> None:
    """Refuse an item of another kind.

    Raises:
        HadrlError: it is none of these.
    """
    if not isinstance(item, kinds):
        names = " or ".join(kind.__name__ for kind in kinds)
        raise HadrlError(f"the train dataloader must give {names}, got {type(item).__name__}")


def check_finite(transitions: Rows) -> None:
    """Refuse transitions with a number that is infinite or none.

    Raises:
        NonFiniteError: there is one; the field is named.
    """
    fields: dict[str, Tensor] = {
        name: field for name, field in transitions.tensors() if field.is_floating_point() and field.numel()
    }
    if bool(torch.stack([(field * 0.0).sum() for field in fields.values()]).isfinite().all()):
        return
    for name, field in fields.items():
        bad = field[~field.isfinite()]
        if len(bad):
            raise NonFiniteError(f"{name} of the transitions must be finite, got {float(bad[0])}")


def check_rows(transitions: CachingTransitions) -> None:
    """Refuse transitions `[batch]` of which a tensor has other rows, or actions of other pairs than the caches.

    Raises:
        HadrlError: a field has another shape.
    """
    reward = list(transitions.reward.shape)
    pairs = transitions.cache.shape[-2:].numel()
    for name, value in transitions.tensors():
        found = list(value.shape)
        wanted = [pairs] if name == "action" else found[1:]
        if len(reward) != 1 or found != [*reward, *wanted]:
            text = ", ".join(map(str, ("batch", *wanted)))
            raise HadrlError(
                f"{name} of the transitions must have shape [{text}], got {found}, and reward [batch], got {reward}"
            )


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

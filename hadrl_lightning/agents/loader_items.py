"""What a loader brings to a model that trains: refused in one line where it is nothing to learn from."""

from typing import Any

import torch
from torch import Tensor

from hadrl_lightning.errors import HadrlError, NonFiniteError


def check_item(item: Any, *kinds: type) -> None:
    """Refuse an item of another kind.

    Raises:
        HadrlError: it is none of these.
    """
    if not isinstance(item, kinds):
        names = " or ".join(kind.__name__ for kind in kinds)
        raise HadrlError(f"the train dataloader must give {names}, got {type(item).__name__}")


def check_finite(transitions: Any) -> None:
    """Refuse transitions with a number that is infinite or none.

    Raises:
        NonFiniteError: there is one; the field is named.
    """
    fields: dict[str, Tensor] = {
        name: field for name, field in transitions._asdict().items() if field.numel()
    }
    if bool(torch.stack([(field * 0.0).sum() for field in fields.values()]).isfinite().all()):
        return
    for name, field in fields.items():
        bad = field[~field.isfinite()]
        if len(bad):
            raise NonFiniteError(f"{name} of the transitions must be finite, got {float(bad[0])}")


def check_shapes(transitions: Any, sizes: dict[str, int]) -> None:
    """Refuse transitions `[batch, size]` of other sizes.

    Raises:
        HadrlError: a field has another shape.
    """
    batch = transitions.reward.shape[0] if transitions.reward.ndim == 1 else None
    for name, size in sizes.items():
        found = list(getattr(transitions, name).shape)
        if batch is None or found != [batch, size]:
            raise HadrlError(
                f"{name} of the transitions must have shape [batch, {size}], got {found}, "
                f"and reward [batch], got {list(transitions.reward.shape)}"
            )

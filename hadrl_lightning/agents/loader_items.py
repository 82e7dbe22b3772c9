"""What a loader brings to a model that trains: refused in one line where it is nothing to learn from."""

from typing import Any

import torch
from torch import Tensor

from hadrl_lightning.data.transitions import Transitions
from hadrl_lightning.errors import HadrlError, NonFiniteError
from hadrl_lightning.simulator.rows import Rows


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


def check_rows(transitions: Transitions, action_size: int) -> None:
    """Refuse transitions `[batch]` of which a tensor has other rows, or whose actions are of another size.

    Raises:
        HadrlError: a field has another shape.
    """
    reward = list(transitions.reward.shape)
    for name, value in transitions.tensors():
        found = list(value.shape)
        wanted = [action_size] if name == "action" else found[1:]
        if len(reward) != 1 or found != [*reward, *wanted]:
            text = ", ".join(map(str, ("batch", *wanted)))
            raise HadrlError(
                f"{name} of the transitions must have shape [{text}], got {found}, and reward [batch], got {reward}"
            )

"""What is the case in a slot, whatever is decided."""

from dataclasses import dataclass, field

from jaxtyping import Float, Int
from torch import Tensor


@dataclass(eq=False)
class Slot:
    """What processes bring to a slot of B networks. What is drawn when the slot is served is not there before."""

    requests: Int[Tensor, "batch user"]
    """Service asked by each user, long [B, U]."""
    positions: Float[Tensor, "batch user 2"]
    """(x, y) of the users in metres, [B, U, 2]."""
    fading: Float[Tensor, "batch user"] | None = None
    """Factor on the linear channel gain of each user, [B, U]; drawn when the slot is served."""
    more: dict[str, Tensor] = field(default_factory=dict)
    """What further processes bring, by name, [B, …]."""

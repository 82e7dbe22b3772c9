"""One step of experience at either level, as batches of tensors."""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor


class OffloadingTransitions(NamedTuple):
    """One slot of each row: what the low level saw, did and got. Layouts as in `EdgeNetwork`."""

    observation: Float[Tensor, "*rows observation"]
    """Offloading observation before the slot."""

    action: Float[Tensor, "*rows action"]
    """Raw action in [-1, 1]: targets, bandwidth shares, compute shares of all users."""

    reward: Float[Tensor, "*rows"]
    """Offloading reward of the slot."""

    next_observation: Float[Tensor, "*rows observation"]
    """Offloading observation after the slot."""

    latency: Float[Tensor, "*rows user"]
    """Measured latency of every user in the slot, s."""


class WeightedTransitions(NamedTuple):
    """`OffloadingTransitions`, and how much an ensemble makes of each of them."""

    observation: Float[Tensor, "*rows observation"]
    action: Float[Tensor, "*rows action"]
    reward: Float[Tensor, "*rows"]
    next_observation: Float[Tensor, "*rows observation"]
    latency: Float[Tensor, "*rows user"]

    weight: Float[Tensor, "*rows"]
    """Factor on the loss of each transition, about 1 on average."""


AnyOffloadingTransitions = OffloadingTransitions | WeightedTransitions
"""What a model of the fast level learns from."""


class CachingTransitions(NamedTuple):
    """One caching decision of each row: what the high level saw, did and got. Layouts as in `EdgeNetwork`."""

    observation: Float[Tensor, "*rows observation"]
    """Caching observation before the decision."""

    action: Float[Tensor, "*rows action"]
    """Raw action in [-1, 1], server-major."""

    reward: Float[Tensor, "*rows"]
    """Caching reward of the frame that the decision held for."""

    next_observation: Float[Tensor, "*rows observation"]
    """Caching observation after the frame."""

    cache: Float[Tensor, "*rows action"]
    """The cache that was executed, 1 where the service is held, else 0, server-major."""

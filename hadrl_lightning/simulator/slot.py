"""What is the case in a slot, whatever is decided, and what its users get."""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
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


class Service(NamedTuple):
    """What the users of a slot got."""

    latency: Float[Tensor, "batch user"]
    """Seconds from request to result, [B, U]."""
    hit: Bool[Tensor, "batch user"]
    """The server offloaded to holds the service, [B, U]."""
    on_time: Bool[Tensor, "batch user"]
    """The latency is within the service's deadline, [B, U]."""
    energy: Float[Tensor, "batch user"]
    """Transmit energy in joules (`published`: the number of dBm times s), [B, U]."""
    bandwidth_load: Float[Tensor, "batch server"]
    """Sum of the bandwidth shares of each server: 1 is its capacity, [B, S]."""
    compute_load: Float[Tensor, "batch server"]
    """Sum of the compute shares of each server: 1 is its capacity, [B, S]."""
    spectral_efficiency: Float[Tensor, "batch user"]
    """Of the link to the home server in this slot, fading included, in bit/s/Hz, [B, U]."""

    @property
    def asked(self) -> Bool[Tensor, "batch user"]:
        """Who had a task, [B, U]."""
        return asked(self.latency)

    def delayed(
        self, seconds: Float[Tensor, "batch user"], deadline_s: Float[Tensor, "batch user"]
    ) -> "Service":
        """The same, so many seconds later, held against the users' deadlines, [B, U] each: of who had a task."""
        latency = torch.where(self.asked, self.latency + seconds, self.latency)
        return self._replace(latency=latency, on_time=latency <= deadline_s)


def asked(latency: Float[Tensor, "*rows"]) -> Bool[Tensor, "*rows"]:
    """Who had a task: of the others the latency is 0, which no task's is."""
    return latency != 0  # so that what is not a number is not passed over

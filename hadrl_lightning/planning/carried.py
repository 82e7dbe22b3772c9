"""Looking past the slot: what the work that a plan leaves at servers will cost in the slots to come.

A server that has b seconds of work at the start of a slot, is given the work w_us of the users that go there, and works
off d, ends it with b' = max(b + Σ w_us − d, 0). A second of work more there makes every task that comes until the queue
is empty wait a second longer, so it has a price, and the longer the queue, the longer that takes: the price rises with
b'. With a price of p + q b' what is left at a server costs

    p b' + q b'² / 2.

Work, d, p and q are a model's, learnt. Targets are chosen by sums over the users of each server (`planning.sums`). Near
the targets of a plan this cost is such a sum too: a resource of which a user takes √(c/2) w_us at server s, c being how
its price rises there, and what that is off by where a single user comes or goes.
"""

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hadrl_lightning.planning.model import PAIRS_AT_ONCE, Members
from hadrl_lightning.simulator import Seen
from hadrl_lightning.simulator.decisions import sum_per_server


class CarriedWork(NamedTuple):
    """What some members of a model say of the work that slots carry over, as of one slot of some networks."""

    work: Float[Tensor, "m networks user server"]
    """What each user would bring to each server, in s of its full speed."""
    backlog: Float[Tensor, "networks server"]
    """What is there before, s."""
    done: Float[Tensor, "m networks server"]
    """What each server can work off in the slot, s."""
    price: Float[Tensor, "m networks server"]
    """What a first second that is left costs in the slots to come."""
    rise: Float[Tensor, "m networks server"]
    """How that rises with every second."""

    def cost(self, target: Int[Tensor, "networks user"]) -> Float[Tensor, " networks"]:
        """What is left behind by users at their targets costs, mean over members."""
        return self._cost(self._brought(target)).sum(dim=-1).mean(dim=0)

    def near(self, target: Int[Tensor, "networks user"]) -> "Later":
        """The same as a sum over the users of each server: right for every single move from these targets.

        Of several members it is near that: their products of two users' work are pooled by their root mean square.
        """
        brought = self._brought(target)
        here = target.unsqueeze(-1) == torch.arange(self.work.shape[-1], device=target.device)
        rising = self._rising(brought)[:, :, None]
        before = torch.where(here, brought.unsqueeze(2) - self.work, brought.unsqueeze(2))
        single = self._cost((before + self.work).transpose(2, 3), 1) - self._cost(before.transpose(2, 3), 1)
        pooled = self.work * (2 * before + self.work)
        extra = single.transpose(2, 3) - rising / 2 * pooled
        return Later(extra.mean(dim=0), ((rising / 2).sqrt() * self.work).square().mean(dim=0).sqrt())

    def _rising(self, brought: Float[Tensor, "m networks server"]) -> Float[Tensor, "m networks server"]:
        """How the price of a second rises, over one user's usual work more and less."""
        step = self.work.flatten(2, 3).mean(dim=2).clamp(min=1e-6)[..., None]
        left = self.backlog - self.done + brought
        middle, more, less = (self._cost(brought + change) for change in (0.0, step, -step))
        found = ((more + less - 2 * middle) / step.square()).clamp(min=0.0)
        # The same but for rounding, where the queue doesn't empty or is empty either way.
        return torch.where(left >= step, self.rise, torch.where(left <= -step, 0.0, found))

    def _brought(self, target: Tensor) -> Float[Tensor, "m networks server"]:
        """The work that users bring to their targets."""
        place = target.expand(self.work.shape[:3])
        own = self.work.gather(3, place.unsqueeze(-1)).squeeze(3)
        return sum_per_server(own, place, self.work.shape[-1])

    def _cost(self, brought: Tensor, behind: int = 0) -> Tensor:
        """What is left of it costs, `[m, networks, server]` with `behind` more dimensions."""
        numbers = (self.backlog[None] - self.done, self.price, self.rise)
        start, price, rise = (one.view(*one.shape, *[1] * behind) for one in numbers)
        left = (start + brought).clamp(min=0.0)
        return price * left + rise / 2 * left.square()


class Later(NamedTuple):
    """What the work costs that users leave behind, near a plan."""

    extra: Float[Tensor, "networks user server"]
    """Of each user by itself."""
    root: Float[Tensor, "networks user server"]
    """Of a resource beside those of the slot, as `planning.sums.best_targets` takes them."""


@runtime_checkable
class CarryingModel(Protocol):
    """A model that may know what is carried over."""

    def carried_work(
        self, view: Seen, members: Members, pairs_at_once: int = PAIRS_AT_ONCE
    ) -> CarriedWork | None:
        """Of every network, by some members; None where it knows of nothing that is carried over.

        No more than `pairs_at_once` pairs of a user and a server are described at once.
        """

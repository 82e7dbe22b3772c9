"""What the slots of a frame cost under any caches, by what a model knows of sharing (see `planning.sums`).

The requests of a frame are many, so users are counted, not named. Of the U users of a slot n_k ask for service k on
average, and a part x_ks of them is served at server s. Where users ask independently of each other and go where x
says, the latencies of a slot, with the best weights, add up to

    Σ_k n_k Σ_s x_ks alone_ks + (1 − 1/U) Σ_s Σ_r (Σ_k n_k x_ks root_ksr)²

on average: what users wait for alone, and each pair of users of a server once for either. `root` and `alone` depend on
whether the server holds the service. The best parts x, a convex problem, are found in a few steps, for thousands of
caches in a moment, and with them what any change of a cache is about worth. What counting leaves out, that users go
elsewhere where more than usual ask at once, the last look at a few caches brings back: slots that are drawn, with
users by name.

Demands are the model's; nothing here knows a constant of the network.
"""

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hadrl_lightning.planning.sums import best_targets, targets_cost
from hadrl_lightning.simulator import CachingView

STEPS, MORE_STEPS = 64, 16
"""Steps to the best parts at most, and after a change of a cache: on average within 0.1 % of the least cost in networks
like those shipped and 1 % with 30 servers, at worst 2 % (after a change 5 %), however servers differ and near the cloud
is."""
GAP = 1e-4
"""They end where no parts save more than this share of what users cost: by the gap of duality, at most that far off."""
LEAST_PART = 1e-6
"""What less than this part of a service's users do counts for nothing."""
TINY = 1e-30
MOST_CELLS = 2**22
"""Numbers (caches × resources × services × servers, or slots × users × servers) that are held at once."""


@runtime_checkable
class FrameModel(Protocol):
    """A slot model that tells what tasks cost at servers that hold their service, and at those that don't."""

    @property
    def knows_sharing(self) -> bool:
        """Whether it does."""

    def service_demands(
        self, view: CachingView, log_factor: Float[Tensor, "batch server part"] | None = None
    ) -> Float[Tensor, "member batch held resource_and_base service server"]:
        """Demand of a task of every service at every server on each resource, and last what it waits for alone, in s.

        First of servers that don't hold the service, then of those that do; by all members, wherever they are. Where
        something is believed of servers (`adapt`), latencies are exp(`log_factor`) times as long.
        """


class Parts(NamedTuple):
    """Some caches, and where the users of each service are best served under them."""

    cost: Float[Tensor, " n"]
    """Latency summed over users, s, mean over slots."""
    part: Float[Tensor, "n service server"]
    """What part of the users of each service every server serves."""


class Frames:
    """Slots to come of some networks, by the members of a model that count for each of them.

    Args:
        demand: as `FrameModel.service_demands` gives it, of the members that count.
        asking: users that ask for each service, mean over slots.
        num_users: U of each network.
    """

    def __init__(
        self,
        demand: Float[Tensor, "m batch held resource_and_base service server"],
        asking: Float[Tensor, "batch service"],
        num_users: Float[Tensor, " batch"],
    ) -> None:
        demand = demand.mean(dim=0)
        self.root: Float[Tensor, "batch held resource service server"] = demand[:, :, :-1].sqrt()
        pairs = (1 - 1 / num_users.clamp(min=1)).sqrt()
        self.crowd = self.root * pairs[:, None, None, None, None]
        """The same, so that products of two of them are what a pair of users counts among all that could meet."""
        self.base: Float[Tensor, "batch held service server"] = demand[:, :, -1]
        self.alone: Float[Tensor, "batch held service server"] = demand.sum(dim=2)
        self.asking = asking

    def best_parts(
        self,
        row: Int[Tensor, " n"],
        cache: Bool[Tensor, "n server service"],
        part: Float[Tensor, "n service server"] | None = None,
    ) -> Parts:
        """What some caches cost, each of the network of its row.

        Args:
            row: the network of each cache.
            cache: what every server holds.
            part: where users were before, to begin from; None: where each costs least alone.
        """
        size = max(1, MOST_CELLS // max(1, self.root[0, 0].numel()))
        blocks = [
            self._best_parts(row[some], cache[some], None if part is None else part[some])
            for some in torch.arange(len(row), device=row.device).split(size)
        ]
        return blocks[0] if len(blocks) == 1 else Parts(*(torch.cat(values) for values in zip(*blocks)))

    def _best_parts(self, row: Tensor, cache: Tensor, part: Tensor | None) -> Parts:
        """Steps along which some users of every service go from the dearest server that they use to the cheapest.

        How many of each go follows from the curvature of their own cost; how far all go together from that of the sum.
        """
        root, alone = self._at(self.crowd, row, cache), self._at(self.alone, row, cache)
        asking, steps = self.asking[row].unsqueeze(-1), STEPS if part is None else MORE_STEPS
        if part is None:
            part = torch.zeros_like(alone).scatter_(2, alone.argmin(dim=2, keepdim=True), 1.0)
        else:
            part = part.clone()
        load = self._load(root, asking * part)
        for _ in range(steps):
            price = self._price(root, alone, load)
            least, to = price.min(dim=2, keepdim=True)
            paid = (asking * (part * price).sum(dim=2, keepdim=True)).sum(dim=(1, 2))
            cost = paid - load.square().sum(dim=(1, 2))
            goes = paid - (asking * least).sum(dim=(1, 2)) > GAP * cost
            if not bool(goes.any()):
                break
            most, off = price.masked_fill_(part <= LEAST_PART, -torch.inf).max(dim=2, keepdim=True)
            there, here = (root.gather(3, end[:, None].expand(*root.shape[:3], 1)) for end in (to, off))
            curve = 2 * asking * (there.square() + here.square()).sum(dim=1)
            moved = torch.minimum((most - least) / curve.clamp(min=TINY), part.gather(2, off))
            mass = (asking * moved)[:, None]
            added = torch.zeros_like(load)
            for end, own, sign in ((to, there, 1), (off, here, -1)):
                place = end[:, None, :, 0].expand(*root.shape[:3])
                added.scatter_add_(2, place, (sign * mass * own).squeeze(3))
            slope = (asking * moved * (most - least)).sum(dim=(1, 2))
            step = (slope / (2 * added.square().sum(dim=(1, 2))).clamp(min=TINY)).clamp_(max=1) * goes
            moved = moved * step[:, None, None]
            part.scatter_add_(2, to, moved).scatter_add_(2, off, -moved)
            load.addcmul_(added, step[:, None, None])
        cost = (asking * alone * part).sum(dim=(1, 2)) + load.square().sum(dim=(1, 2))
        return Parts(cost, part)

    def _load(
        self, root: Float[Tensor, "n resource service server"], users: Float[Tensor, "n service server"]
    ) -> Float[Tensor, "n resource server"]:
        """Sum of the roots of all users of every server."""
        return (root * users.unsqueeze(1)).sum(dim=2)

    def _price(
        self,
        root: Float[Tensor, "n resource service server"],
        alone: Float[Tensor, "n service server"],
        load: Float[Tensor, "n resource server"],
    ) -> Float[Tensor, "n service server"]:
        """What one user more of each service costs at every server."""
        price = alone.clone()
        for own, there in zip(root.unbind(1), load.unbind(1)):
            price.addcmul_(own, there.unsqueeze(1), value=2)
        return price

    def worth(
        self,
        row: Int[Tensor, " n"],
        cache: Bool[Tensor, "n server service"],
        part: Float[Tensor, "n service server"],
    ) -> Float[Tensor, "n server service"]:
        """About what each pair of a server and a service is worth, s a slot, at the best parts of some caches.

        Of what is held: what would be lost without it; below 0 where the cloud outdoes a busy server that holds it. Of
        what is not: what it would save. Users of other services stay where they are.
        """
        held, asking = cache.transpose(1, 2), self.asking[row].unsqueeze(-1)
        load = self._load(self._at(self.crowd, row, cache), asking * part)
        roots, alone = self.crowd[row], self.alone[row]
        missing, holding = (self._price(roots[:, one], alone[:, one], load) for one in (0, 1))
        price = torch.where(held, holding, missing)
        square = roots.square().sum(dim=2)
        curve = 2 * asking * square.sum(dim=1)

        usual = torch.where(part > LEAST_PART, price, torch.inf).amin(dim=2, keepdim=True)
        saves = (usual - holding).clamp(min=0)
        moved = (saves / curve.clamp(min=TINY)).clamp(max=1)
        saved = asking * moved * (saves - moved * curve / 2)

        lost = asking * part * (_least_elsewhere(price, missing) - price + part * curve / 2)
        return torch.where(held, lost, saved).transpose(1, 2)

    def on_slots(
        self,
        row: Int[Tensor, " n"],
        cache: Bool[Tensor, "n server service"],
        uniform: Float[Tensor, "slot user"],
    ) -> Float[Tensor, "n slot"]:
        """What some caches cost in slots that are drawn: latency summed over users, s.

        Args:
            row: the network of each cache.
            cache: what every server holds.
            uniform: draws from [0, 1), one a user, by which services are asked for; the same for all caches.
        """
        asked = self.asked(uniform)
        size = max(1, MOST_CELLS // max(1, uniform.numel() * self.root.shape[2] * self.root.shape[4]))
        blocks = [
            self._on_slots(row[some], cache[some], asked[row[some]])
            for some in torch.arange(len(row), device=row.device).split(size)
        ]
        return torch.cat(blocks)

    def _on_slots(
        self, row: Tensor, cache: Tensor, asked: Int[Tensor, "n slot user"]
    ) -> Float[Tensor, "n slot"]:
        own = torch.arange(len(row), device=row.device)[:, None, None]
        root = self._at(self.root, row, cache).transpose(1, 2)[own, asked].flatten(0, 1).transpose(1, 2)
        base = self._at(self.base, row, cache)[own, asked].flatten(0, 1)
        return targets_cost(root, base, best_targets(root, base, None)).view(asked.shape[:2])

    def asked(self, uniform: Float[Tensor, "slot user"]) -> Int[Tensor, "batch slot user"]:
        """The service that each user of every network asks for in slots that are drawn, see `on_slots`."""
        ends = self.asking.cumsum(dim=1)
        ends = ends / ends[:, -1:].clamp(min=TINY)
        asked = torch.searchsorted(ends, uniform.flatten().expand(len(ends), -1).contiguous())
        return asked.clamp_(max=ends.shape[1] - 1).view(len(ends), *uniform.shape)

    def _at(
        self, value: Float[Tensor, "..."], row: Int[Tensor, " n"], cache: Bool[Tensor, "n server service"]
    ) -> Float[Tensor, "..."]:
        """Of what is held where it is, else of what is not."""
        missing, holding = value[row].unbind(dim=1)
        held = cache.transpose(1, 2)
        return torch.where(held.unsqueeze(1) if missing.ndim == 4 else held, holding, missing)


def _least_elsewhere(
    price: Float[Tensor, "n service server"], missing: Float[Tensor, "n service server"]
) -> Float[Tensor, "n service server"]:
    """The least price of another server, or of the same one where it does not hold the service."""
    if price.shape[2] == 1:
        return missing
    least = price.topk(2, dim=2, largest=False)
    own = torch.arange(price.shape[2], device=price.device) == least.indices[..., :1]
    return torch.minimum(torch.where(own, least.values[..., 1:], least.values[..., :1]), missing)

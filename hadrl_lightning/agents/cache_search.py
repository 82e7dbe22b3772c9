"""Feasible caches around a wish, and the search among them: how a structured caching agent decides."""

from collections.abc import Callable
from math import inf
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from hadrl_lightning.distributed import Share
from hadrl_lightning.nn.cache_encoder import CacheInputs
from hadrl_lightning.simulator import packed

SCATTERED_RATES = (0.05, 0.1, 0.2, 0.4)
"""Parts of all (server, service) pairs that a proposal disturbs; proposals take turns."""
SERVER_RATES = (0.2, 0.4, 0.7, 1.0)
"""Parts of the services of one server that a proposal of the other kind disturbs: that server is packed anew."""
MUTATION_SCALE = 2.5
"""Standard deviation of the disturbance of a pair, whose wish lies in [−1, 1]."""
TIE_SCALE = 0.1
"""Standard deviation of what is added to all pairs, so that the order among equal wishes is free."""
VALUE_DECIMALS = 5
"""Values are compared to so many digits, so that the order among equal caches does not hang on rounding."""


class CacheSearch(NamedTuple):
    """A search for the caches that a critic likes best, around what an actor wishes."""

    inputs: CacheInputs
    """What is seen of each row's network."""
    actor: nn.Module | None
    """None: the search starts from no wish at all."""
    critic: nn.Module
    """Values caches `[batch, proposal, server, service]` of the rows."""

    def of_actor(self) -> Bool[Tensor, "batch server service"]:
        """What the actor wishes, made feasible and filled up."""
        return filled(self.inputs, self._wish())

    @torch.no_grad()
    def best(
        self, num_proposals: int, rounds: int, generator: torch.Generator, among: Share | None = None
    ) -> Bool[Tensor, "batch server service"]:
        """The best of some rounds of proposals: around the actor's wish, then each around the best so far.

        Args:
            num_proposals: of a round; 1: the actor decides alone.
            rounds: at least 1.
            generator: of the proposals.
            among: see `propose_caches`.
        """
        if num_proposals == 1:
            return self.of_actor()
        wish = self._wish()
        best = self._kept()  # full, as all that the critic learns from
        for _ in range(rounds):
            proposed = propose_caches(self.inputs, wish, num_proposals, generator, among=among)
            caches = torch.cat((proposed, best.unsqueeze(1)), dim=1)
            best = caches[torch.arange(len(caches), device=caches.device), self.values(caches).argmax(dim=1)]
            wish = as_action(best, self.inputs.dtype)
        return best

    @torch.no_grad()
    def settled(
        self, num_proposals: int, num_starts: int, generator: torch.Generator
    ) -> Bool[Tensor, "batch server service"]:
        """The best of where the changes of the best proposals end (`settle`); the same proposals for all rows.

        Args:
            num_proposals: around the actor's wish.
            num_starts: the best of them that are changed, beside what is held now.
            generator: of the proposals.
        """
        proposed = propose_caches(self.inputs, self._wish(), num_proposals, generator, shared=True)
        starts = self.values(proposed).topk(min(num_starts, num_proposals), dim=1)
        row = torch.arange(len(proposed), device=proposed.device)
        begun = torch.cat((proposed[row[:, None], starts.indices], self._kept().unsqueeze(1)), dim=1)
        ends = settle(
            self.inputs, begun, lambda rows, caches: self._replace(inputs=self.inputs[rows]).values(caches)
        )
        return ends[row, self.values(ends).argmax(dim=1)]

    @torch.no_grad()
    def worth_switching(
        self, best: Bool[Tensor, "batch server service"], margin: float
    ) -> Bool[Tensor, "batch server service"]:
        """These caches where they are worth more than those held now, filled up, by more than a margin."""
        kept = self._kept()
        value = self._valued(torch.stack((best, kept), dim=1))
        stays = (value[:, 0] - value[:, 1] <= margin) & self.inputs.cache.any(dim=(1, 2))
        return torch.where(stays[:, None, None], kept, best)

    def values(
        self, caches: Bool[Tensor, "batch proposal server service"]
    ) -> Float[Tensor, "batch proposal"]:
        """What the critic thinks of some caches of every row, to so many digits as decide; none is worse than −inf."""
        return self._valued(caches).round(decimals=VALUE_DECIMALS).nan_to_num(nan=-inf)

    def _valued(
        self, caches: Bool[Tensor, "batch proposal server service"]
    ) -> Float[Tensor, "batch proposal"]:
        count = caches.shape[1]
        each = self.inputs.map(lambda value: value.unsqueeze(1).expand(-1, count, *value.shape[1:]))
        return self.critic(each, caches).float()

    def _wish(self) -> Float[Tensor, "batch server service"]:
        """The actor's action, or none without an actor."""
        if self.actor is None:
            return self.inputs.demand.new_zeros(self.inputs.cache.shape)
        return self.actor(self.inputs).to(self.inputs.dtype)

    def _kept(self) -> Bool[Tensor, "batch server service"]:
        """What is held now, filled up."""
        return filled(self.inputs, self.inputs.cache.to(self.inputs.dtype))


def propose_caches(
    inputs: CacheInputs,
    wish: Float[Tensor, "batch server service"],
    num_proposals: int,
    generator: torch.Generator,
    shared: bool = False,
    among: Share | None = None,
) -> Bool[Tensor, "batch proposal server service"]:
    """Caches around a wish in [−1, 1]: the first follows it exactly, the others disturb some pairs.

    Every cache is filled in falling order of the wish while services fit.

    Args:
        inputs: what is seen of each row's network; its storage and usable caches count.
        wish: how much each server should hold each service.
        num_proposals: P, at least 1.
        generator: source of the disturbances.
        shared: disturb all rows alike, so that the proposals of a row don't depend on the rows beside it.
        among: these rows among all that draws are made for; None: these are all.
    """
    num_rows = len(wish) if among is None else among.total
    shape = (1 if shared else num_rows, num_proposals, *wish.shape[1:])
    noise = normal(shape, generator, wish) * torch.where(
        _uniform(shape, generator, wish) < _rates(shape, generator, wish), MUTATION_SCALE, TIE_SCALE
    )
    if among is not None and not shared:
        noise = noise[among.items]
    noise[:, 0] = 0
    priority = wish.unsqueeze(1) + noise
    return filled(inputs, priority)


def filled(
    inputs: CacheInputs,
    priority: Float[Tensor, "batch *each server service"],
    wanted: Bool[Tensor, "batch server service"] | None = None,
) -> Bool[Tensor, "batch *each server service"]:
    """Services in falling order of priority while they fit into the caches of each row's network."""
    between = [1] * (priority.ndim - 3)
    storage, usable = (one.view(len(one), *between, -1) for one in (inputs.storage_bits, inputs.usable_bits))
    return packed(storage, usable, priority, wanted)


@torch.no_grad()
def settle(
    inputs: CacheInputs,
    caches: Bool[Tensor, "row start server service"],
    values: Callable[[Tensor, Tensor], Tensor],
) -> Bool[Tensor, "row start server service"]:
    """The best change of one pair after the other, until none is worth more: where a search ends, whatever it drew.

    A change brings a service to a server, or takes one away. What the server then has no room for goes in rising order
    of what it is worth by itself per bit, and what room is left is filled in falling order of that.

    Args:
        inputs: what is seen of each row's network; its storage and usable caches count.
        caches: where to begin.
        values: what caches `[n, proposal, server, service]` are worth to some rows `[n]`, `[n, proposal]`.
    """
    num_rows, num_starts, servers, services = caches.shape
    device = caches.device
    size = inputs.storage_bits.float()[:, None]
    each = torch.eye(services, dtype=torch.bool, device=device)[:, None]
    pairs = torch.eye(servers * services, dtype=torch.bool, device=device).view(-1, servers, services)
    row = torch.arange(num_rows, device=device).repeat_interleave(num_starts)
    cache = caches.flatten(0, 1).clone()
    value = values(row, cache[:, None])[:, 0]
    moving = torch.arange(len(cache), device=device)
    for _ in range(servers * services):
        now, rows = cache[moving], row[moving]
        own = inputs[rows]
        alone = (values(rows, now[:, None] ^ pairs) - value[moving, None]).abs().view_as(now) / size[rows]
        alone = alone / alone.amax(dim=(1, 2), keepdim=True).clamp(min=torch.finfo(alone.dtype).tiny)
        order, forced = torch.where(now, 2 + alone, alone), torch.where(now, -1.0, 4.0)
        priority = torch.where(each, forced[:, None], order[:, None])
        packed_anew = filled(own, priority)
        tried = now[:, None, None].repeat(1, servers, services, 1, 1)
        tried.diagonal(dim1=1, dim2=3).copy_(packed_anew.permute(0, 1, 3, 2))
        tried = tried.flatten(1, 2)
        worth, best = values(rows, tried).max(dim=1)
        better = worth > value[moving]
        moving, worth = moving[better], worth[better]
        if not len(moving):
            break
        cache[moving] = tried[better.nonzero()[:, 0], best[better]]
        value[moving] = worth
    return cache.view_as(caches)


def as_action(cache: Bool[Tensor, "*rows server service"], dtype: torch.dtype) -> Float[Tensor, "..."]:
    """1 where a service is held and −1 elsewhere."""
    return cache.to(dtype) * 2 - 1


def normal(shape: tuple[int, ...], generator: torch.Generator, like: Tensor) -> Tensor:
    """Standard normal draws on the device and with the dtype of another tensor."""
    drawn = torch.randn(shape, generator=generator, device=generator.device)
    return drawn.to(like.device, like.dtype)


def _rates(shape: tuple[int, ...], generator: torch.Generator, like: Tensor) -> Tensor:
    """How likely each pair of each proposal is disturbed: four scattered rates and four of one server, in turn."""
    count = shape[1]
    table = like.new_tensor(SCATTERED_RATES + SERVER_RATES)
    rate = table.repeat(-(-count // len(table)))[:count, None, None]
    scattered = torch.arange(count, device=like.device)[:, None, None] % len(table) < len(SCATTERED_RATES)
    drawn = _uniform((*shape[:3], 1), generator, like)
    return torch.where(scattered | (drawn == drawn.amax(dim=2, keepdim=True)), rate, 0.0)


def _uniform(shape: tuple[int, ...], generator: torch.Generator, like: Tensor) -> Tensor:
    return torch.rand(shape, generator=generator, device=generator.device).to(like.device, like.dtype)

"""Feasible caches around a wish, and the search among them: how a structured caching agent decides."""

from collections.abc import Callable
from math import inf
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from hadrl_lightning.distributed import Share
from hadrl_lightning.nn.cache_encoder import CacheInputs, SetCritic
from hadrl_lightning.simulator import packed_rows

SCATTERED_RATES = (0.05, 0.1, 0.2, 0.4)
"""Parts of all (server, service) pairs that a proposal disturbs; proposals take turns."""
SERVER_RATES = (0.2, 0.4, 0.7, 1.0)
"""Parts of the services of one server that a proposal of the other kind disturbs: that server is packed anew."""
MUTATION_SCALE = 2.5
"""Standard deviation of the disturbance of a pair, whose wish lies in [−1, 1]."""
TIE_SCALE = 0.1
"""Standard deviation of what is added to all pairs, so that the order among equal wishes is free."""
MOST_CELLS = 2**24
"""Entries of caches that are changed at once; where the changes of a single cache have more, caches are spread, not
changed pair by pair."""
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
        if bool(all_fits(self.inputs).all()):
            return best
        row, value = torch.arange(len(best), device=best.device), self._valuing()
        for _ in range(rounds):
            proposed = propose_caches(self.inputs, wish, num_proposals, generator, among=among)
            caches = torch.cat((proposed, best.unsqueeze(1)), dim=1)
            best = caches[row, value(row, caches).argmax(dim=1)]
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
        kept = self._kept()
        if bool(all_fits(self.inputs).all()):
            return kept  # there is no other full cache
        value = self._valuing()
        row = torch.arange(len(kept), device=kept.device)
        proposed = propose_caches(self.inputs, self._wish(), num_proposals, generator, shared=True)
        starts = value(row, proposed).topk(min(num_starts, num_proposals), dim=1)
        begun = torch.cat((proposed[row[:, None], starts.indices], kept.unsqueeze(1)), dim=1)
        if kept[0].numel() ** 2 > MOST_CELLS:
            ends = torch.cat((begun, self._spread(value).unsqueeze(1)), dim=1)
        else:
            ends = settle(self.inputs, begun, value)
        return ends[row, value(row, ends).argmax(dim=1)]

    def _spread(self, value: Callable[[Tensor, Tensor], Tensor]) -> Bool[Tensor, "batch server service"]:
        """One copy of each service, in falling order of what it is worth by itself per bit, where most room is left.

        What room is left in the end is filled by the actor's wish.
        """
        inputs = self.inputs
        row = torch.arange(len(inputs), device=inputs.device)
        cache, room = torch.zeros_like(inputs.cache), inputs.usable_bits.clone()
        single = cache.new_zeros(inputs.num_services + 1, *cache.shape[1:])  # the last one holds nothing
        single[:-1, 0].fill_diagonal_(True)
        worth = value(row, single.expand(len(row), -1, -1, -1))
        worth = (worth[:, :-1] - worth[:, -1:]) / inputs.storage_bits
        for service in worth.argsort(dim=1, descending=True, stable=True).unbind(dim=1):
            most, server = room.max(dim=1)
            size = inputs.storage_bits[row, service]
            fits = size <= most
            cache[row, server, service] = fits
            room[row, server] -= torch.where(fits, size, 0)
        wish = self._wish()
        return filled(inputs, torch.where(cache, 2 + wish, wish))

    @torch.no_grad()
    def worth_switching(
        self, best: Bool[Tensor, "batch server service"], margin: float
    ) -> Bool[Tensor, "batch server service"]:
        """These caches where they are worth more than those held now, filled up, by more than a margin."""
        kept = self._kept()
        value = self._valued(torch.stack((best, kept), dim=1))
        stays = (value[:, 0] - value[:, 1] <= margin) & self.inputs.cache.any(dim=(1, 2))
        return torch.where(stays[:, None, None], kept, best)

    def _valuing(self) -> Callable[[Tensor, Tensor], Tensor]:
        """What some caches `[n, proposal, server, service]` of some rows `[n]` are worth, to so many digits as decide.

        None is worse than −inf. What a service adds by its number of copies is asked of the critic once.
        """
        if not isinstance(self.critic, SetCritic) or self.critic.sees_switching:
            return lambda rows, caches: _decisive(self._replace(inputs=self.inputs[rows])._valued(caches))
        table = self.critic.by_copies(self.inputs).float()

        def value(rows: Tensor, caches: Tensor) -> Tensor:
            own = table[rows].unsqueeze(1).expand(-1, caches.shape[1], -1, -1)
            return _decisive(own.gather(-1, caches.sum(dim=-2).unsqueeze(-1)).sum(dim=(-2, -1)))

        return value

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
    return packed_rows(inputs.storage_bits, inputs.usable_bits, priority, wanted)


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
    row = torch.arange(num_rows, device=caches.device).repeat_interleave(num_starts)
    cache = caches.flatten(0, 1).clone()
    value = values(row, cache[:, None])[:, 0]
    moving = torch.arange(len(cache), device=caches.device)
    at_once = max(1, MOST_CELLS // (servers * services) ** 2)
    for _ in range(servers * services):
        better = []
        for part in moving.split(at_once):
            changed, worth = _best_change(inputs, row[part], cache[part], value[part], values)
            gains = worth > value[part]
            part = part[gains]
            cache[part], value[part] = changed[gains], worth[gains]
            better.append(part)
        moving = torch.cat(better)
        if not len(moving):
            break
    return cache.view_as(caches)


def _best_change(
    inputs: CacheInputs,
    row: Int[Tensor, " n"],
    cache: Bool[Tensor, "n server service"],
    value: Float[Tensor, " n"],
    values: Callable[[Tensor, Tensor], Tensor],
) -> tuple[Bool[Tensor, "n server service"], Float[Tensor, " n"]]:
    """The best change of one pair of every cache, and what the cache is then worth."""
    servers, services = cache.shape[1:]
    size = inputs.storage_bits[row].float()[:, None]
    each = torch.eye(services, dtype=torch.bool, device=cache.device)[:, None]
    pairs = torch.eye(servers * services, dtype=torch.bool, device=cache.device)
    alone = values(row, cache[:, None] ^ pairs.view(-1, servers, services)) - value[:, None]
    alone = alone.abs().view_as(cache) / size
    alone = alone / alone.amax(dim=(1, 2), keepdim=True).clamp(min=torch.finfo(alone.dtype).tiny)
    order, forced = torch.where(cache, 2 + alone, alone), torch.where(cache, -1.0, 4.0)
    packed_anew = filled(inputs[row], torch.where(each, forced[:, None], order[:, None]))
    tried = cache[:, None, None].repeat(1, servers, services, 1, 1)
    tried.diagonal(dim1=1, dim2=3).copy_(packed_anew.permute(0, 1, 3, 2))
    tried = tried.flatten(1, 2)
    worth, best = values(row, tried).max(dim=1)
    return tried[torch.arange(len(row), device=cache.device), best], worth


def all_fits(inputs: CacheInputs) -> Bool[Tensor, " batch"]:
    """Whether every server could hold every service: full caches are then all the same."""
    return inputs.storage_bits.sum(dim=-1) <= inputs.usable_bits.amin(dim=-1)


def _decisive(value: Tensor) -> Tensor:
    """To so many digits as decide; nothing is worse than −inf."""
    return value.round(decimals=VALUE_DECIMALS).nan_to_num(nan=-inf)


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

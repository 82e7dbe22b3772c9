"""Feasible caches around a wish: what a structured caching agent chooses from."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

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

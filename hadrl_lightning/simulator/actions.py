"""From an agent's action in [-1, 1] to a feasible decision (`strict`), or to the published one."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hadrl_lightning.errors import NonFiniteError
from hadrl_lightning.scenario import Physics, Scenario
from hadrl_lightning.simulator.constants import constants


class Allocation(NamedTuple):
    """Where each user's task goes and what it gets there."""

    server: Int[Tensor, "batch user"]
    """Server offloaded to, long [B, U]."""
    bandwidth_share: Float[Tensor, "batch user"]
    """Share of that server's bandwidth, [B, U]."""
    compute_share: Float[Tensor, "batch user"]
    """Share of that server's compute, [B, U]."""


def decode_offloading(
    scenario: Scenario, action: Float[Tensor, "..."], physics: Physics = "strict"
) -> Allocation:
    """Read an offloading action: a block of U target coordinates, one of bandwidth shares, one of compute shares.

    `strict`: the target is one of S equal bins of [-1, 1]; weights w = floor + (1 - floor)(a + 1)/2 are divided by
    their sum over the users of the server, so shares sum to 1 on every server that has users.
    `published`: thresholds of the scenario; shares clip(a, 0, 1) over their sum, rounded to 3 decimals; a share of
    exactly zero becomes the free share, so a server can give away more than it has.

    Args:
        scenario: gives S, U, floor, thresholds and free share.
        action: [B, 3 U]; values outside [-1, 1] count as the bound.
        physics: `strict` or `published`.

    Raises:
        ValueError: the action has another shape.
        NonFiniteError: it has a value that is not finite.
    """
    _check_action("offloading action", action, scenario.offloading_action_size)
    target, bandwidth, compute = action.clamp(-1, 1).chunk(3, dim=1)  # of no users too
    if physics == "published":
        server = _published_server(scenario, target)
        return Allocation(
            server,
            _published_share(scenario, bandwidth, server),
            _published_share(scenario, compute, server),
        )
    server = ((target + 1) * (scenario.num_servers / 2)).long().clamp(max=scenario.num_servers - 1)
    return Allocation(
        server, _strict_share(scenario, bandwidth, server), _strict_share(scenario, compute, server)
    )


def decode_caching(
    scenario: Scenario,
    action: Float[Tensor, "..."],
    previous: Bool[Tensor, "batch server service"],
    physics: Physics = "strict",
) -> Bool[Tensor, "batch server service"]:
    """Read a caching action, server-major: service k is wanted at server s where the value is above 0.

    `strict`: the wanted services are taken in falling order of their value, each if it still fits into the usable
    cache. `published`: the decision is applied as it is, unless the previous cache of *every* server is over the limit.

    Args:
        scenario: gives S, K, storage and usable cache.
        action: [B, S K]; values outside [-1, 1] count as the bound.
        previous: the cache until now, [B, S, K]; only `published` looks at it.
        physics: `strict` or `published`.

    Returns:
        The new cache, bool [B, S, K].

    Raises:
        ValueError: the action has another shape.
        NonFiniteError: it has a value that is not finite.
    """
    _check_action("caching action", action, scenario.caching_action_size)
    value = action.clamp(-1, 1).view(-1, scenario.num_servers, scenario.num_services)
    table = constants(scenario, physics, action.device, action.dtype)
    if physics == "published":
        over = table.bits_of(previous) > table.usable_cache_bits
        return torch.where(over.all(dim=1)[:, None, None], previous, value > 0)
    return fill_caches(scenario, value, value > 0)


def fill_caches(
    scenario: Scenario,
    priority: Float[Tensor, "batch server service"],
    wanted: Bool[Tensor, "batch server service"] | None = None,
) -> Bool[Tensor, "batch server service"]:
    """Take services in falling order of priority while they fit: one that does not fit is passed over.

    Ties go to the service of the lower index.
    """
    table = constants(scenario, "strict", priority.device, torch.float64)  # sums of bits, exact up to 2^53
    order = priority.argsort(dim=-1, descending=True, stable=True)
    size = table.storage_bits[order]
    allowed = torch.ones_like(order, dtype=torch.bool) if wanted is None else wanted.gather(-1, order)
    room = table.usable_cache_bits.expand(order.shape[:-1]).clone()
    taken = torch.zeros_like(allowed)
    for rank in range(scenario.num_services):
        fits = allowed[..., rank] & (size[..., rank] <= room)
        room -= torch.where(fits, size[..., rank], 0)
        taken[..., rank] = fits
    return torch.zeros_like(taken).scatter(-1, order, taken)


def sum_per_server(
    value: Float[Tensor, "batch user"], server: Int[Tensor, "batch user"], num_servers: int
) -> Float[Tensor, "batch server"]:
    """Sum of the users' values on each server, [B, S]."""
    return value.new_zeros(value.shape[0], num_servers).scatter_add_(1, server, value)


def equal_shares(scenario: Scenario, server: Int[Tensor, "batch user"], dtype: torch.dtype) -> Allocation:
    """The allocation in which every user of a server gets the same share, [B, U]."""
    one = torch.ones(server.shape, device=server.device, dtype=dtype)
    share = one / sum_per_server(one, server, scenario.num_servers).gather(1, server)
    return Allocation(server, share, share)


def _strict_share(scenario: Scenario, action: Tensor, server: Tensor) -> Tensor:
    weight = scenario.share_floor + (1 - scenario.share_floor) * (action + 1) / 2
    return weight / sum_per_server(weight, server, scenario.num_servers).gather(1, server)


def _published_server(scenario: Scenario, target: Tensor) -> Tensor:
    thresholds = scenario.offload_thresholds
    if thresholds is None:
        thresholds = tuple(2 * s / scenario.num_servers - 1 for s in range(1, scenario.num_servers))
    if len(thresholds) != scenario.num_servers - 1:
        raise ValueError(
            f"offload_thresholds must have num_servers - 1 = {scenario.num_servers - 1} values, got {len(thresholds)}"
        )
    bounds = torch.tensor(thresholds, device=target.device, dtype=target.dtype)
    return (target.unsqueeze(-1) > bounds).sum(-1)


def _published_share(scenario: Scenario, action: Tensor, server: Tensor) -> Tensor:
    wanted = action.clamp(min=0)
    total = sum_per_server(wanted, server, scenario.num_servers).gather(1, server)
    share = torch.where(total > 0, wanted / total, 0.0)
    share = torch.round(share, decimals=3)
    return torch.where(share == 0, scenario.free_share, share)


def _check_action(name: str, action: Tensor, size: int) -> None:
    if action.dim() != 2 or action.shape[1] != size:
        raise ValueError(f"{name} must have shape [batch, {size}], got {list(action.shape)}")
    if not action.is_floating_point():
        raise ValueError(f"{name} must be of a floating point type, got {action.dtype}")
    if not bool(torch.isfinite(action).all()):
        raise NonFiniteError(
            f"{name} must be finite, got {int((~torch.isfinite(action)).sum())} values that are not"
        )

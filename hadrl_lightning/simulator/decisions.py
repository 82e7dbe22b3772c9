"""Decisions of both levels as they are carried out, and how to make feasible ones."""

from math import log
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hadrl_lightning.scenario import Scenario
from hadrl_lightning.simulator.constants import Constants, constants

LEAST_WEIGHT = 1e-3
"""The least weight beside 1 by which agents that plan share a server. The best weights go with roots of demands: these
differ by as much where demands differ by a million."""
MAX_SHARE = 1 + 1e-3
"""No user can have more than a server has, and no server gives away more; what is beyond 1 is rounding."""


class Allocation(NamedTuple):
    """Where each user's task goes and what it gets there."""

    server: Int[Tensor, "batch user"]
    """Target offloaded to, long [B, U]: a server, or from S on what is behind them."""
    bandwidth_share: Float[Tensor, "batch user"]
    """Share of that server's bandwidth, [B, U]."""
    compute_share: Float[Tensor, "batch user"]
    """Share of that server's compute, [B, U]."""


def fill_caches(
    scenario: Scenario,
    priority: Float[Tensor, "batch server service"],
    wanted: Bool[Tensor, "batch server service"] | None = None,
    table: Constants | None = None,
) -> Bool[Tensor, "batch server service"]:
    """Take services in falling order of priority while they fit: one that does not fit is passed over.

    Ties go to the service of the lower index.

    Args:
        scenario: gives storage and usable caches.
        priority: of every service at every server, [B, S, K].
        wanted: what may be taken; everything where not given.
        table: the constants of each network in double precision, where they are not the scenario's.
    """
    table = table or constants(scenario, priority.device, torch.float64)
    return packed(table.storage_bits, table.usable_cache_bits, priority, wanted)


def packed(
    storage_bits: Float[Tensor, "... service"],
    usable_bits: Float[Tensor, "... server"],
    priority: Float[Tensor, "*rows server service"],
    wanted: Bool[Tensor, "*rows server service"] | None = None,
) -> Bool[Tensor, "*rows server service"]:
    """As `fill_caches`, of services of such sizes into caches of such sizes: of all networks, [K] and [S], or of each,
    [B, K] and [B, S] or as broadcasting has it; in double precision, so that sums of bits are exact up to 2^53.
    """
    order = priority.argsort(dim=-1, descending=True, stable=True)
    size = storage_bits.unsqueeze(-2).expand(order.shape).gather(-1, order)
    allowed = torch.ones_like(order, dtype=torch.bool) if wanted is None else wanted.gather(-1, order)
    room, taken = usable_bits.expand(order.shape[:-1]), []
    for one, may in zip(size.unbind(-1), allowed.unbind(-1), strict=True):
        taken.append(may & (one <= room))
        room = room - one * taken[-1]
    return torch.empty_like(allowed).scatter_(-1, order, torch.stack(taken, dim=-1))


def packed_rows(
    storage_bits: Float[Tensor, "rows service"],
    usable_bits: Float[Tensor, "rows server"],
    priority: Float[Tensor, "rows *each server service"],
    wanted: Bool[Tensor, "rows *each server service"] | None = None,
) -> Bool[Tensor, "rows *each server service"]:
    """As `packed`, of several caches for each row."""
    between = [1] * (priority.ndim - 3)
    storage, usable = (one.view(len(one), *between, one.shape[-1]) for one in (storage_bits, usable_bits))
    return packed(storage, usable, priority, wanted)


def sum_per_server(
    value: Float[Tensor, "*rows user"], server: Int[Tensor, "*#rows user"], num_servers: int
) -> Float[Tensor, "*rows server"]:
    """Sum of the users' values on each server, `[…, S]`."""
    sums = value.new_zeros(*value.shape[:-1], num_servers)
    return sums.scatter_add_(-1, server.expand(value.shape), value)


def weighted_shares(
    server: Int[Tensor, "batch user"], action: Float[Tensor, "batch user"], num_servers: int
) -> Float[Tensor, "batch user"]:
    """Shares in proportion to weights whose logarithms are actions: from `LEAST_WEIGHT` at −1 to 1 at 1, [B, U]."""
    weight = ((action.clamp(-1, 1) - 1) * (-log(LEAST_WEIGHT) / 2)).exp()
    return weight / sum_per_server(weight, server, num_servers).gather(1, server)


def log_weights(
    server: Int[Tensor, "batch user"], share: Float[Tensor, "batch user"], num_servers: int
) -> Float[Tensor, "batch user"]:
    """Actions that `weighted_shares` makes these shares of, 1 for the largest of a server, [B, U]."""
    largest = (
        share.new_zeros(len(share), num_servers).scatter_reduce(1, server, share, "amax").gather(1, server)
    )
    part = share / largest.clamp(min=torch.finfo(share.dtype).tiny)
    return 1 - 2 * part.clamp(LEAST_WEIGHT, 1).log() / log(LEAST_WEIGHT)


def extremes(value: Tensor) -> tuple[int | float, int | float]:
    """Least and largest number, NaN if one is; of none 0. It takes a fraction of the time of asking each number."""
    if not value.numel():
        return 0, 0
    least, largest = torch.aminmax(value)
    return least.item(), largest.item()


def bin_index(value: Float[Tensor, "*shape"], num_bins: int) -> Int[Tensor, "*shape"]:
    """Which of `num_bins` equal bins of [-1, 1] a value is in; beyond the ends, the first or the last."""
    return (value + 1).mul_(num_bins / 2).long().clamp_(0, num_bins - 1)

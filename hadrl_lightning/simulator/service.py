"""What a slot costs: latency, hits, deadlines, energy and load; and what a caching decision costs. Pure functions."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hadrl_lightning.scenario import Physics, Scenario
from hadrl_lightning.simulator.constants import Constants, constants, of_each
from hadrl_lightning.simulator.decisions import Allocation, sum_per_server
from hadrl_lightning.simulator.physics import rules
from hadrl_lightning.simulator.physics.strict import MAX_SHARE
from hadrl_lightning.simulator.radio import spectral_efficiency

MIN_SHARE = 1e-9
"""A share of 0 counts as this much, so that every latency is finite."""


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


def serve(
    scenario: Scenario,
    cache: Bool[Tensor, "..."],
    requests: Int[Tensor, "..."],
    positions: Float[Tensor, "..."],
    fading: Float[Tensor, "..."],
    allocation: Allocation,
    physics: Physics = "strict",
    table: Constants | None = None,
) -> Service:
    """Serve one slot of B networks.

    A hit costs input / rate + cycles / (share * compute). Otherwise the server forwards the task to the cloud:
    input / rate + bits / cloud rate + cycles / cloud compute + cloud delay. Rate is share * bandwidth of the server
    offloaded to * spectral efficiency of the link to the home server (paper, communication and computation models).

    Args:
        scenario: the constants.
        cache: bool [B, S, K].
        requests: service asked by each user, long [B, U].
        positions: (x, y) of the users in metres, [B, U, 2].
        fading: factor on the linear channel gain, [B, U].
        allocation: targets and shares, [B, U] each.
        physics: decides the home servers and the unit of the energy.
        table: what holds in this slot, where it is not the scenario's.

    Raises:
        ValueError: a wrong shape or type, an index out of range, a value that is not finite or negative, a share above
            1, or (`strict`) shares of a server that sum to more than 1.
    """
    _check_inputs(scenario, cache, requests, positions, fading, allocation)
    its = rules(physics)
    table = table or constants(scenario, positions.device, positions.dtype)
    server, bandwidth_share, compute_share = allocation
    bandwidth_load, compute_load = (
        sum_per_server(share, server, scenario.num_servers) for share in (bandwidth_share, compute_share)
    )
    its.check_load("bandwidth_share", bandwidth_load, scenario.num_users)
    its.check_load("compute_share", compute_load, scenario.num_users)
    bits, cycles = of_each(table.input_bits, requests), of_each(table.cycles, requests)
    hit = cache.flatten(1).gather(1, server * scenario.num_services + requests)
    efficiency = spectral_efficiency(scenario, positions, fading, physics, table)
    rate = bandwidth_share.clamp(min=MIN_SHARE) * of_each(table.bandwidth_hz, server) * efficiency
    transmission = bits / rate
    edge = cycles / (compute_share.clamp(min=MIN_SHARE) * of_each(table.compute_hz, server))
    latency = transmission + torch.where(hit, edge, table.cloud_seconds(bits, cycles))
    return Service(
        latency=latency,
        hit=hit,
        on_time=latency <= of_each(table.deadlines_s, requests),
        energy=transmission * its.transmit_power(table),
        bandwidth_load=bandwidth_load,
        compute_load=compute_load,
        spectral_efficiency=efficiency,
    )


def switching_cost(
    scenario: Scenario,
    previous: Bool[Tensor, "batch server service"],
    cache: Bool[Tensor, "batch server service"],
    table: Constants | None = None,
) -> Float[Tensor, " batch"]:
    """Seconds to fetch what was not cached before: the sum of storage / backhaul over new (server, service), [B].

    With `table` the constants are those, where they are not the scenario's.
    """
    table = table or constants(scenario, cache.device, torch.get_default_dtype())
    new = (cache & ~previous).sum(dim=1)
    return table.bits_of(new) / table.backhaul_bit_per_s.flatten()


def _check_inputs(
    scenario: Scenario,
    cache: Tensor,
    requests: Tensor,
    positions: Tensor,
    fading: Tensor,
    allocation: Allocation,
) -> None:
    batch, users = requests.shape[0] if requests.dim() else 0, scenario.num_users
    expected = {
        "cache": (cache, [batch, scenario.num_servers, scenario.num_services]),
        "requests": (requests, [batch, users]),
        "positions": (positions, [batch, users, 2]),
        "fading": (fading, [batch, users]),
        "server": (allocation.server, [batch, users]),
        "bandwidth_share": (allocation.bandwidth_share, [batch, users]),
        "compute_share": (allocation.compute_share, [batch, users]),
    }
    for name, (value, shape) in expected.items():
        if list(value.shape) != shape:
            raise ValueError(f"{name} must have shape {shape}, got {list(value.shape)}")
        kind = {"cache": torch.bool, "requests": torch.long, "server": torch.long}.get(name)
        if value.dtype != kind and not (kind is None and value.is_floating_point()):
            raise ValueError(f"{name} must be of type {kind or 'float'}, got {value.dtype}")
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ValueError(
                f"{name} must be finite, got {int((~torch.isfinite(value)).sum())} values that are not"
            )
    for name, index, size in (
        ("requests", requests, scenario.num_services),
        ("server", allocation.server, scenario.num_servers),
    ):
        if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < size:
            raise ValueError(
                f"{name} must be from 0 to {size - 1}, got {int(index.min())} to {int(index.max())}"
            )
    for name in ("fading", "bandwidth_share", "compute_share"):
        value = expected[name][0]
        if value.numel() and float(value.min()) < 0:
            raise ValueError(f"{name} must not be negative, got {float(value.min()):g}")
        if name != "fading" and value.numel() and float(value.max()) > MAX_SHARE:
            raise ValueError(f"{name} must be at most 1, got {float(value.max()):g}")

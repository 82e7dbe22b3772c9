"""What a slot costs: latency, hits, deadlines, energy and load; and what a caching decision costs. Pure functions."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hadrl_lightning.scenario import Physics, Scenario
from hadrl_lightning.simulator.constants import Constants, constants
from hadrl_lightning.simulator.decisions import MAX_SHARE, Allocation
from hadrl_lightning.simulator.physics import rules
from hadrl_lightning.simulator.radio import link_efficiency
from hadrl_lightning.simulator.slot import Service


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
    """Serve one slot of B networks: check what is given, and leave the rest to the physics (`Rules.serve`).

    Args:
        scenario: the constants.
        cache: bool [B, S, K].
        requests: service asked by each user, long [B, U].
        positions: (x, y) of the users in metres, [B, U, 2].
        fading: factor on the linear channel gain, [B, U].
        allocation: targets and shares, [B, U] each.
        physics: decides the home servers, what there is to offload to, and the unit of the energy.
        table: what holds in this slot, where it is not the scenario's.

    Raises:
        ValueError: a wrong shape or type, an index out of range, a value that is not finite or negative, a share above
            1, or (`strict`) shares of a server that sum to more than 1.
    """
    num_targets = rules(physics).num_targets(scenario.num_servers)
    _check_tensors(scenario, cache, requests, positions, fading, allocation)
    _check_values(scenario.num_services, num_targets, requests, fading, allocation)
    table = table or constants(scenario, positions.device, positions.dtype)
    return rules(physics).serve(table, cache, requests, positions, fading, allocation)


def spectral_efficiency(
    scenario: Scenario,
    positions: Float[Tensor, "batch user 2"],
    fading: Float[Tensor, "batch user"],
    physics: Physics = "strict",
    table: Constants | None = None,
) -> Float[Tensor, "batch user"]:
    """Spectral efficiency log2(1 + gain * power / noise) of each user's link to its home server, in bit/s/Hz.

    Args:
        scenario: gives powers in dBm and the path loss.
        positions: (x, y) of the users in metres, [B, U, 2].
        fading: factor on the linear gain, [B, U].
        physics: decides which server is a user's home.
        table: the constants of each network, where they are not the scenario's.
    """
    table = table or constants(scenario, positions.device, positions.dtype)
    return link_efficiency(table, rules(physics).homes(table), positions, fading)


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


def _check_tensors(
    scenario: Scenario,
    cache: Tensor,
    requests: Tensor,
    positions: Tensor,
    fading: Tensor,
    allocation: Allocation,
) -> None:
    """Refuse wrong shapes and types, and numbers that are infinite or none."""
    batch, users = requests.shape[0] if requests.dim() else 0, scenario.num_users
    for name, value, shape in (
        ("cache", cache, [batch, scenario.num_servers, scenario.num_services]),
        ("requests", requests, [batch, users]),
        ("positions", positions, [batch, users, 2]),
        ("fading", fading, [batch, users]),
        ("server", allocation.server, [batch, users]),
        ("bandwidth_share", allocation.bandwidth_share, [batch, users]),
        ("compute_share", allocation.compute_share, [batch, users]),
    ):
        if list(value.shape) != shape:
            raise ValueError(f"{name} must have shape {shape}, got {list(value.shape)}")
        kind = {"cache": torch.bool, "requests": torch.long, "server": torch.long}.get(name)
        if value.dtype != kind and not (kind is None and value.is_floating_point()):
            raise ValueError(f"{name} must be of type {kind or 'float'}, got {value.dtype}")
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ValueError(
                f"{name} must be finite, got {int((~torch.isfinite(value)).sum())} values that are not"
            )


def _check_values(
    num_services: int, num_targets: int, requests: Tensor, fading: Tensor, allocation: Allocation
) -> None:
    """Refuse services and targets that are not there, and shares and fading out of range."""
    for name, index, size in (
        ("requests", requests, num_services),
        ("server", allocation.server, num_targets),
    ):
        if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < size:
            raise ValueError(
                f"{name} must be from 0 to {size - 1}, got {int(index.min())} to {int(index.max())}"
            )
    for name, value, most in (
        ("fading", fading, torch.inf),
        ("bandwidth_share", allocation.bandwidth_share, MAX_SHARE),
        ("compute_share", allocation.compute_share, MAX_SHARE),
    ):
        if value.numel() and float(value.min()) < 0:
            raise ValueError(f"{name} must not be negative, got {float(value.min()):g}")
        if value.numel() and float(value.max()) > most:
            raise ValueError(f"{name} must be at most 1, got {float(value.max()):g}")

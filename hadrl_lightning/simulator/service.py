"""What a slot costs: latency, hits, deadlines, energy and load; and what a caching decision costs. Pure functions."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hadrl_lightning.scenario import Physics, Scenario
from hadrl_lightning.simulator.constants import Constants, constants
from hadrl_lightning.simulator.decisions import Allocation
from hadrl_lightning.simulator.physics import rules
from hadrl_lightning.simulator.physics.strict import MAX_SHARE
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
    _check_inputs(scenario, num_targets, cache, requests, positions, fading, allocation)
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


def _check_inputs(
    scenario: Scenario,
    num_targets: int,
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
        ("server", allocation.server, num_targets),
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

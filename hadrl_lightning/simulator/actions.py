"""From an agent's action in [-1, 1] to the decision that a physics reads in it."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hadrl_lightning.errors import NonFiniteError
from hadrl_lightning.scenario import Physics, Scenario
from hadrl_lightning.simulator.constants import Constants, constants
from hadrl_lightning.simulator.decisions import Allocation, extremes, sum_per_server
from hadrl_lightning.simulator.physics import rules
from hadrl_lightning.simulator.processes import targets_beyond
from hadrl_lightning.simulator.views import CachingView


def num_targets(scenario: Scenario, physics: Physics = "strict") -> int:
    """What a task can be offloaded to: the servers, and behind them what processes and the physics add."""
    return rules(physics).num_targets(scenario.num_servers) + len(targets_beyond(scenario))


def equal_shares(scenario: Scenario, server: Int[Tensor, "batch user"], dtype: torch.dtype) -> Allocation:
    """The allocation in which every user of a target gets the same share, [B, U]."""
    one = torch.ones(server.shape, device=server.device, dtype=dtype)
    share = one / sum_per_server(one, server, num_targets(scenario)).gather(1, server)
    return Allocation(server, share, share)


def decode_offloading(
    scenario: Scenario, action: Float[Tensor, "..."], physics: Physics = "strict"
) -> Allocation:
    """Read an offloading action: a block of U target coordinates, one of bandwidth shares, one of compute shares.

    How they are read is up to the physics: see `Strict.decode_offloading` and `Published.decode_offloading`.

    Args:
        scenario: gives S, U, and what the physics reads actions by.
        action: [B, 3 U]; values outside [-1, 1] count as the bound.
        physics: `strict`, `published`, or one of your own.

    Raises:
        ValueError: the action has another shape.
        NonFiniteError: it has a value that is not finite.
    """
    _check_action("offloading action", action, scenario.offloading_action_size)
    return rules(physics).decode_offloading(scenario, action.clamp(-1, 1))


def decode_caching(
    scenario: Scenario,
    action: Float[Tensor, "..."],
    previous: Bool[Tensor, "batch server service"],
    physics: Physics = "strict",
    table: Constants | None = None,
) -> Bool[Tensor, "batch server service"]:
    """Read a caching action, server-major: service k is wanted at server s where the value is above 0.

    What is held of it is up to the physics: see `Strict.decode_caching` and `Published.decode_caching`.

    Args:
        scenario: gives S, K, storage and usable cache.
        action: [B, S K]; values outside [-1, 1] count as the bound.
        previous: the cache until now, [B, S, K].
        physics: `strict`, `published`, or one of your own.
        table: the constants of each network in double precision, where they are not the scenario's.

    Returns:
        The new cache, bool [B, S, K].

    Raises:
        ValueError: the action has another shape.
        NonFiniteError: it has a value that is not finite.
    """
    _check_action("caching action", action, scenario.caching_action_size)
    value = action.clamp(-1, 1).view(-1, scenario.num_servers, scenario.num_services)
    table = table or constants(scenario, action.device, torch.float64)
    return rules(physics).decode_caching(table.storage_bits, table.usable_cache_bits, value, previous)


def decode_caching_seen(
    scenario: Scenario, action: Float[Tensor, "..."], view: CachingView, physics: Physics = "strict"
) -> Bool[Tensor, "batch server service"]:
    """As `decode_caching`, by what a view shows of every network: other ones than the scenario's, of any sizes.

    Args:
        scenario: gives what no view shows.
        action: [B, S K].
        view: what is seen before the decision.
        physics: `strict`, `published`, or one of your own.
    """
    _check_action("caching action", action, view.cache.shape[-2:].numel())
    value, laws = action.clamp(-1, 1).view_as(view.cache), rules(physics)
    return laws.decode_caching(
        view.storage_bits.double(), laws.usable_bits(scenario, view), value, view.cache
    )


def _check_action(name: str, action: Tensor, size: int) -> None:
    if action.dim() != 2 or action.shape[1] != size:
        raise ValueError(f"{name} must have shape [batch, {size}], got {list(action.shape)}")
    if not action.is_floating_point():
        raise ValueError(f"{name} must be of a floating point type, got {action.dtype}")
    if not all(map(math.isfinite, extremes(action))):
        raise NonFiniteError(
            f"{name} must be finite, got {int((~torch.isfinite(action)).sum())} values that are not"
        )

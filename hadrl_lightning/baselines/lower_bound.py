"""A certified lower bound on the latency of a slot: the convex relaxation of the assignment.

Let the targets x_us be fractions, x_u in the simplex. The objective of `problem` is then a convex quadratic that equals
the latency wherever x is 0 or 1, so its minimum over the product of simplices is at most the best latency. An iterate
of a solver is not below that minimum; its linearisation is. For every x,

    f(x') >= f(x) + <grad f(x), x' - x>,  so  min f >= -sum_s (radio_s^2 + edge_s^2) + sum_u min_s grad_us,

with radio_s, edge_s the loads of x: the Lagrangian dual of "load = sum of roots" at the multipliers 2 * load (the
certificate of Frank and Wolfe, 1956). That value, never the primal one, is returned. x comes from accelerated projected
gradients (Beck and Teboulle 2009) with restarts (O'Donoghue and Candes 2015), all slots at once.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hadrl_lightning.baselines.problem import OffloadingProblem, offloading_problem
from hadrl_lightning.scenario import Physics, Scenario


class Relaxation(NamedTuple):
    """The relaxed assignment of B slots."""

    targets: Float[Tensor, "batch user server"]
    """Fraction of each user on each server, rows sum to 1."""
    value: Float[Tensor, " batch"]
    """Latency of these fractions in s: at least the relaxed minimum."""
    bound: Float[Tensor, " batch"]
    """Certified lower bound on the latency of every decision in s: at most the relaxed minimum."""


def lower_bound(
    scenario: Scenario,
    cache: Bool[Tensor, "batch server service"],
    requests: Int[Tensor, "batch user"],
    positions: Float[Tensor, "batch user 2"],
    fading: Float[Tensor, "batch user"],
    physics: Physics = "strict",
) -> Float[Tensor, " batch"]:
    """A latency in s, summed over users, below which no decision gets in these slots with these caches, float64 [B].

    With the `expected_fading` it bounds the expected latency of every decision made before the fading is drawn.

    Args:
        scenario: the constants.
        cache: bool [B, S, K].
        requests: service asked by each user, long [B, U].
        positions: (x, y) of the users in metres, [B, U, 2].
        fading: factor on the linear channel gain, [B, U].
        physics: decides only which server is a user's home; shares are taken to sum to 1 on every server.
    """
    return relaxed_assignment(offloading_problem(scenario, cache, requests, positions, fading, physics)).bound


def relaxed_assignment(
    problem: OffloadingProblem, max_iterations: int = 400, tolerance: float = 1e-4
) -> Relaxation:
    """Solve the relaxation until value and bound of every slot are within `tolerance` of each other (relative)."""
    x = torch.full_like(problem.radio_root, 1 / problem.radio_root.shape[2])
    ahead, momentum = x, x.new_ones(x.shape[0], 1, 1)
    curvature = _curvature(problem)
    bound = x.new_full((x.shape[0],), -torch.inf)
    for iteration in range(max_iterations):
        gradient = _gradient(problem, ahead)
        moved = simplex_projection(ahead - gradient / curvature)
        uphill = (curvature * (ahead - moved) * (moved - x)).sum(dim=(1, 2), keepdim=True) > 0
        momentum = torch.where(uphill, 1.0, momentum)
        following = (1 + (1 + 4 * momentum.square()).sqrt()) / 2
        ahead = moved + torch.where(uphill, 0.0, (momentum - 1) / following) * (moved - x)
        x, momentum = moved, following
        if iteration % 10 == 9 or iteration == max_iterations - 1:
            value, dual = _certificate(problem, x)
            bound = torch.maximum(bound, dual)
            if bool((value - bound <= tolerance * value).all()):
                break
    value, dual = _certificate(problem, x)
    return Relaxation(x, value, torch.maximum(bound, dual))


def simplex_projection(point: Float[Tensor, "batch user server"]) -> Float[Tensor, "batch user server"]:
    """The nearest point whose last axis is non-negative and sums to 1 (Held, Wolfe and Crowder 1974)."""
    ordered = point.sort(dim=-1, descending=True).values
    rank = torch.arange(1, point.shape[-1] + 1, device=point.device, dtype=point.dtype)
    threshold = (ordered.cumsum(-1) - 1) / rank
    # threshold[j] belongs to a support of j + 1 entries; the right one is the largest
    return (point - threshold.amax(dim=-1, keepdim=True)).clamp(min=0)


def _gradient(problem: OffloadingProblem, x: Tensor) -> Tensor:
    radio = (x * problem.radio_root).sum(1, keepdim=True)
    edge = (x * problem.edge_root).sum(1, keepdim=True)
    return 2 * (problem.radio_root * radio + problem.edge_root * edge) + problem.cloud_latency


def _curvature(problem: OffloadingProblem) -> Float[Tensor, "batch user 1"]:
    """A diagonal bound on the second derivative, equal for all servers of a user: (sum r x)^2 <= sum r * sum r x^2."""
    per_server = problem.radio_root * problem.radio_root.sum(1, keepdim=True)
    per_server = per_server + problem.edge_root * problem.edge_root.sum(1, keepdim=True)
    return 2 * per_server.amax(dim=2, keepdim=True)


def _certificate(
    problem: OffloadingProblem, x: Tensor
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """Value of x and the bound of the linearisation there."""
    radio = (x * problem.radio_root).sum(1)
    edge = (x * problem.edge_root).sum(1)
    quadratic = radio.square().sum(1) + edge.square().sum(1)
    value = quadratic + (x * problem.cloud_latency).sum(dim=(1, 2))
    return value, _gradient(problem, x).amin(dim=2).sum(1) - quadratic

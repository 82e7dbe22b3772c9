"""A certified lower bound on the latency of a slot: the convex relaxation of the assignment.

Let the targets x_us be fractions, x_u in the simplex. The objective of `problem` is then a convex quadratic that equals
the latency wherever x is 0 or 1, so its minimum over the product of simplices is at most the best latency. An iterate
of a solver is not below that minimum; its linearisation is. For every x,

    f(x') >= f(x) + <grad f(x), x' - x>,  so  min f >= -sum_s (radio_s^2 + edge_s^2) + sum_u min_s grad_us,

with radio_s, edge_s the loads of x: the Lagrangian dual of "load = sum of roots" at the multipliers 2 * load (the
certificate of Frank and Wolfe, 1956). That value, never the primal one, is returned as the bound. x comes from a
primal-dual interior-point method with Mehrotra's predictor and corrector (1992), all slots at once: it needs about ten
steps however ill-conditioned a slot is, where gradients of equal users on unequal servers need hundreds. The Hessian is
of rank 2 S, so a step is a system of that size for each slot.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hadrl_lightning.baselines.problem import OffloadingProblem, offloading_problem
from hadrl_lightning.scenario import Physics, Scenario
from hadrl_lightning.simulator.constants import Constants

LEAST_TOLERANCE = 1e-9
"""What double precision allows."""
SHORT_OF_BOUNDARY = 0.99
"""Part of the way to where a fraction or a slack would be 0 that a step takes at most."""


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
    table: Constants | None = None,
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
        table: the constants of each network in double precision, where they are not the scenario's.
    """
    problem = offloading_problem(scenario, cache, requests, positions, fading, physics, table)
    return relaxed_assignment(problem).bound


def relaxed_assignment(
    problem: OffloadingProblem, max_iterations: int = 50, tolerance: float = 1e-6
) -> Relaxation:
    """Solve the relaxation until value and bound of every slot are within `tolerance` of each other (relative).

    What is found for a slot does not depend on the others. A tolerance below `LEAST_TOLERANCE` counts as that.
    """
    radio, edge, cloud = (field.transpose(1, 2).contiguous() for field in problem)
    x = torch.full_like(radio, 1 / radio.shape[1])
    value, bound, gradient = _certificate(radio, edge, cloud, x)
    z = gradient - gradient.amin(dim=1, keepdim=True)
    z += (((x * z).sum((1, 2)) + 1e-3 * value) / max(radio.shape[2], 1)).view(-1, 1, 1)
    left = torch.arange(len(value), device=x.device)
    for _ in range(max_iterations):
        left = left[value[left] - bound[left] > max(tolerance, LEAST_TOLERANCE) * value[left]]
        if not len(left):
            break
        step = _Step(radio[left], edge[left], x[left], z[left])
        x[left], z[left] = step.taken()
        value[left], dual, _ = _certificate(radio[left], edge[left], cloud[left], x[left])
        bound[left] = torch.maximum(bound[left], dual)
        left = left[step.solvable]
    return Relaxation(x.transpose(1, 2), value, bound)


class _Step:
    """A step of the interior-point method from fractions x > 0 and slacks z > 0, [batch, server, user].

    x is optimal where z = grad f(x) - y for some y_u, z >= 0 and x z = 0. Both keep to the first: Newton's step dx, dz
    towards x z = t is z dx + x dz = t - x z with dz = f'' dx - dy and sum_s dx_su = 0.
    """

    def __init__(self, radio: Tensor, edge: Tensor, x: Tensor, z: Tensor) -> None:
        self._radio, self._edge, self._x, self._z = radio, edge, x, z
        self._d = x / z
        self._total = self._d.sum(1, keepdim=True)
        self._factor, failed = torch.linalg.cholesky_ex(self._system())
        self.solvable = failed == 0
        """Slots whose step double precision can tell; the others stay where they are."""

    def taken(self) -> tuple[Tensor, Tensor]:
        """x and z after the step."""
        x, z = self._x, self._z
        dx, dz = self._direction(-z)
        toward = dz / z  # dx / x = -1 - dz / z
        length = _length(-1 - toward.amax((1, 2), True), toward.amin((1, 2), True))
        both = dx * dz
        gap = (x * z).mean((1, 2), True)
        after = (1 - length) * gap + length.square() * both.mean((1, 2), True)
        dx, dz = self._direction(((after / gap) ** 3 * gap - both) / x - z)
        length = SHORT_OF_BOUNDARY * _length((dx / x).amin((1, 2), True), (dz / z).amin((1, 2), True))
        whole = self.solvable.view(-1, 1, 1)
        return torch.where(whole, x + length * dx, x), torch.where(whole, z + length * dz, z)

    def _system(self) -> Float[Tensor, "batch loads loads"]:
        """I / 2 + A M A': A maps fractions to loads; M = diag(d) - d d' / sum d, user by user, keeps their sums."""
        servers = self._x.shape[1]
        loads = torch.cat([self._radio * self._d, self._edge * self._d], dim=1)
        system = (loads / -self._total) @ loads.transpose(1, 2)
        radio, edge = loads.split(servers, dim=1)
        index = torch.arange(servers)
        cross = (self._radio * edge).sum(2)
        system[:, index, index] += (self._radio * radio).sum(2) + 0.5
        system[:, index + servers, index + servers] += (self._edge * edge).sum(2) + 0.5
        system[:, index, index + servers] += cross
        system[:, index + servers, index] += cross
        return system

    def _direction(self, pull: Tensor) -> tuple[Tensor, Tensor]:
        """dx and dz with dx / d + dz = `pull`."""
        moved = self._d * (pull + self._level(pull))
        loads = torch.cat([(self._radio * moved).sum(2), (self._edge * moved).sum(2)], dim=1)
        twice = torch.cholesky_solve(loads.unsqueeze(2), self._factor)  # the change of the loads
        radio, edge = twice.chunk(2, dim=1)
        curved = self._radio * radio + self._edge * edge
        dz = curved - self._level(pull - curved)
        return self._d * (pull - dz), dz

    def _level(self, pull: Tensor) -> Float[Tensor, "batch 1 user"]:
        """What has to be added to `pull` so that d times it sums to 0."""
        return (self._d * pull).sum(1, keepdim=True) / -self._total


def _length(least_x: Tensor, least_z: Tensor) -> Float[Tensor, "batch 1 1"]:
    """How far a step may go, 1 at most, given the least dx / x and dz / z."""
    return 1 / (-torch.minimum(least_x, least_z)).clamp(min=1)


def _certificate(
    radio: Tensor, edge: Tensor, cloud: Tensor, x: Tensor
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"], Float[Tensor, "batch server user"]]:
    """Value of x, the bound of the linearisation there, and its gradient."""
    radio_load = (x * radio).sum(2, keepdim=True)
    edge_load = (x * edge).sum(2, keepdim=True)
    quadratic = (radio_load.square() + edge_load.square()).sum((1, 2))
    gradient = radio * (2 * radio_load) + edge * (2 * edge_load) + cloud
    value = quadratic + (x * cloud).sum((1, 2))
    return value, gradient.amin(dim=1).sum(1) - quadratic, gradient

"""The offloading decision of a slot as a quadratic assignment problem, with the shares eliminated in closed form.

Given the targets, the latency summed over the users of a server is least when the server's bandwidth is shared in
proportion to the square root of input / spectral efficiency and its compute in proportion to the square root of the
cycles of the hits (Cauchy-Schwarz); it is then (sum of the roots)^2 / capacity. What is left is to choose targets:

    minimise  sum_s (sum_u x_us radio_root_us)^2 + (sum_u x_us edge_root_us)^2 + sum_us x_us cloud_latency_us,

x_us = 1 where user u offloads to server s. Everything here is batched over B slots and in float64.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hadrl_lightning.scenario import Physics, Scenario
from hadrl_lightning.simulator import Allocation, spectral_efficiency
from hadrl_lightning.simulator.constants import Constants, constants, of_each

QUADRATURE_NODES = 32
LARGEST_FADING = 8.0
"""A Rayleigh(1) draw is larger with probability exp(-32)."""


class OffloadingProblem(NamedTuple):
    """B slots in which U users choose among S servers."""

    radio_root: Float[Tensor, "batch user server"]
    """sqrt(input bits / (spectral efficiency * bandwidth of the server)), in sqrt(s)."""
    edge_root: Float[Tensor, "batch user server"]
    """sqrt(cycles / compute of the server) where the server holds the service, else 0, in sqrt(s)."""
    cloud_latency: Float[Tensor, "batch user server"]
    """What a miss costs beyond the uplink where the server does not hold the service, else 0, in s."""

    def rows(self, index: Tensor) -> "OffloadingProblem":
        """The slots of a mask or index."""
        return OffloadingProblem(*(field[index] for field in self))


def offloading_problem(
    scenario: Scenario,
    cache: Bool[Tensor, "batch server service"],
    requests: Int[Tensor, "batch user"],
    positions: Float[Tensor, "batch user 2"],
    fading: Float[Tensor, "batch user"] | None,
    physics: Physics = "strict",
    table: Constants | None = None,
) -> OffloadingProblem:
    """The problem of B slots.

    Args:
        scenario: the constants.
        cache: bool [B, S, K].
        requests: service asked by each user, long [B, U].
        positions: (x, y) of the users in metres, [B, U, 2].
        fading: factor on the linear channel gain, [B, U]; None: the `expected_fading`.
        physics: decides only which server is a user's home.
        table: the constants of each network in double precision, where they are not the scenario's.
    """
    if fading is None:
        fading = expected_fading(scenario, positions, physics, table)
    table = table or constants(scenario, positions.device, torch.float64)
    bits, cycles = of_each(table.input_bits, requests), of_each(table.cycles, requests)
    efficiency = spectral_efficiency(scenario, positions.double(), fading.double(), physics, table)
    held = holders(cache, requests).double()
    cloud = table.cloud_seconds(bits, cycles)
    return OffloadingProblem(
        radio_root=((bits / efficiency).unsqueeze(-1) / table.bandwidth_hz.unsqueeze(-2)).sqrt(),
        edge_root=(cycles.unsqueeze(-1) / table.compute_hz.unsqueeze(-2)).sqrt() * held,
        cloud_latency=cloud.unsqueeze(-1) * (1 - held),
    )


def holders(
    cache: Bool[Tensor, "batch server service"], requests: Int[Tensor, "batch user"]
) -> Bool[Tensor, "batch user server"]:
    """Which servers hold the service that each user asks for, bool [B, U, S]."""
    index = requests.unsqueeze(-1).expand(-1, -1, cache.shape[1])
    return cache.transpose(1, 2).gather(1, index)


def server_loads(
    root: Float[Tensor, "batch user server"], target: Int[Tensor, "batch user"]
) -> Float[Tensor, "batch server"]:
    """Sum over the users of each server of their root at it, [B, S]."""
    own = root.gather(2, target.unsqueeze(-1)).squeeze(-1)
    return root.new_zeros(root.shape[0], root.shape[2]).scatter_add_(1, target, own)


def summed_latency(problem: OffloadingProblem, target: Int[Tensor, "batch user"]) -> Float[Tensor, " batch"]:
    """Least latency summed over users given the targets, in s, [B]."""
    radio, edge = server_loads(problem.radio_root, target), server_loads(problem.edge_root, target)
    cloud = problem.cloud_latency.gather(2, target.unsqueeze(-1)).squeeze(-1)
    return radio.square().sum(1) + edge.square().sum(1) + cloud.sum(1)


def square_root_shares(
    problem: OffloadingProblem, target: Int[Tensor, "batch user"], dtype: torch.dtype
) -> Allocation:
    """The best shares given the targets: each user's root over the sum of its server's roots.

    A server none of whose users hit gives its idle compute out equally, so that shares sum to 1 on every server used.
    """
    index = target.unsqueeze(-1)
    radio = problem.radio_root.gather(2, index).squeeze(-1)
    edge = problem.edge_root.gather(2, index).squeeze(-1)
    edge_load = server_loads(problem.edge_root, target).gather(1, target)
    edge = torch.where(edge_load > 0, edge, 1.0)

    def share(root: Tensor) -> Tensor:
        total = root.new_zeros(index.shape[0], problem.radio_root.shape[2]).scatter_add_(1, target, root)
        return (root / total.gather(1, target)).to(dtype)

    return Allocation(target, share(radio), share(edge))


def expected_fading(
    scenario: Scenario,
    positions: Float[Tensor, "batch user 2"],
    physics: Physics = "strict",
    table: Constants | None = None,
) -> Float[Tensor, "batch user"]:
    """The fading at which a user's uplink latency equals its expectation over the Rayleigh(1) fading, [B, U].

    A decision is made before the fading is drawn, and latency is linear in 1 / spectral efficiency. So the latency
    expected of any decision is its latency at the fading f* with 1 / efficiency(f*) = E[1 / efficiency(f)]: planning
    with f* minimises the expectation exactly. The mean is taken by Gauss-Legendre quadrature. Arguments as of
    `offloading_problem`.
    """
    wide = positions.double()
    inverse = wide.new_zeros(wide.shape[:2])
    for node, weight in _rayleigh_quadrature():
        fading = torch.full_like(inverse, node)
        inverse += weight / spectral_efficiency(scenario, wide, fading, physics, table)
    unfaded = spectral_efficiency(scenario, wide, torch.ones_like(inverse), physics, table)
    snr = torch.expm1(math.log(2) * unfaded)
    return (torch.expm1(math.log(2) / inverse) / snr).to(positions.dtype)


@lru_cache(maxsize=1)
def _rayleigh_quadrature() -> tuple[tuple[float, float], ...]:
    """Nodes and weights of the mean over Rayleigh(1), the weights normalised to sum 1."""
    nodes, weights = np.polynomial.legendre.leggauss(QUADRATURE_NODES)
    nodes = (nodes + 1) * (LARGEST_FADING / 2)
    weights = weights * nodes * np.exp(-(nodes**2) / 2)
    return tuple(zip(nodes.tolist(), (weights / weights.sum()).tolist(), strict=True))

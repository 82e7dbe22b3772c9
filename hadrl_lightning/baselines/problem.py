"""The offloading decision of a slot as a quadratic assignment problem, with the shares eliminated in closed form.

Given the targets, the latency summed over the users of a server is least when the server's bandwidth is shared in
proportion to the square root of input / spectral efficiency and its compute in proportion to the square root of the
cycles of the hits (Cauchy-Schwarz); it is then (sum of the roots)^2 / capacity. What is left is to choose targets:

    minimise  sum_s (sum_u x_us radio_root_us)^2 + (sum_u x_us edge_root_us)^2 + sum_us x_us alone_us,

x_us = 1 where user u offloads to server s. Everything here is batched over B slots and in float64.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from hadrl_lightning.scenario import Physics, Preferences, Scenario
from hadrl_lightning.simulator import Allocation, EdgeNetwork, rules, spectral_efficiency
from hadrl_lightning.simulator.constants import Constants, constants
from hadrl_lightning.simulator.decisions import sum_per_server

QUADRATURE_NODES = 32
LARGEST_FADING = 8.0
"""A Rayleigh(1) draw is larger with probability exp(-32)."""


class OffloadingProblem(NamedTuple):
    """B slots in which U users choose among S servers, and behind them their devices and the cloud where they may.

    What it costs is latency in s, or latency and energy by the preferences of the scenario.

    Where tasks are split (`Constants.offloaded_share` below 1), it leaves out what the devices do meanwhile: a latency
    is then at least what the problem says.
    """

    radio_root: Float[Tensor, "batch user server"]
    """sqrt(input bits / (spectral efficiency * bandwidth of the server)), in sqrt(s)."""
    edge_root: Float[Tensor, "batch user server"]
    """sqrt(cycles / compute of the server) where the server holds the service, else 0, in sqrt(s)."""
    alone: Float[Tensor, "batch user server"]
    """What a user waits for by itself, in s: what a miss costs beyond the uplink where the server does not hold the
    service, the work before it where it does, and the path there."""

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
    bits, cycles = table.bits_asked(requests), table.cycles_asked(requests)
    efficiency = spectral_efficiency(scenario, positions.double(), fading.double(), physics, table)
    held = holders(cache, requests).double()
    on_device = None
    if table.device_hz is not None and table.offloaded_share is not None:
        on_device = cycles / table.device_hz
        bits, cycles = table.offloaded_share * bits, table.offloaded_share * cycles
    alone = table.cloud_seconds(bits, cycles).unsqueeze(-1) * (1 - held)
    if table.waiting_s is not None:
        alone = alone + table.waiting_s.unsqueeze(-2) * held
    if table.path_delay_s is not None and table.path_s_per_bit is not None:
        homes = rules(physics).homes(table).expand_as(requests)[..., None].expand(held.shape)
        delay, each = (path.gather(1, homes) for path in (table.path_delay_s, table.path_s_per_bit))
        alone = alone + delay + bits.unsqueeze(-1) * each
    sent, bandwidth = (bits / efficiency).unsqueeze(-1), table.bandwidth_hz.unsqueeze(-2)
    radio = sent / bandwidth
    edge_root = (cycles.unsqueeze(-1) / table.compute_hz.unsqueeze(-2)).sqrt() * held
    if on_device is not None and table.cloud_bandwidth_hz is not None:
        cell = sent / table.cloud_bandwidth_hz.unsqueeze(-1)
        radio = torch.cat((radio, torch.zeros_like(cell), cell), dim=-1)
        edge_root = pad(edge_root, (0, 2))
        alone = torch.cat(
            (alone, on_device.unsqueeze(-1), table.cloud_seconds(bits, cycles).unsqueeze(-1)), -1
        )
    idle = table.idle(requests)
    if idle is not None:
        alone = alone.masked_fill(idle.unsqueeze(-1), 0.0)
    problem = OffloadingProblem(radio_root=radio.sqrt(), edge_root=edge_root, alone=alone)
    if scenario.preferences.latency_alone:
        return problem
    return _weighed(
        problem,
        scenario.preferences,
        rules(physics).transmit_power(table),
        table,
        table.cycles_asked(requests),
    )


def _weighed(
    problem: OffloadingProblem,
    preferences: Preferences,
    power: Tensor,
    table: Constants,
    cycles: Float[Tensor, "batch user"],
) -> OffloadingProblem:
    """The same with what latency and energy cost by the preferences: sending takes both, a device's cycles too.

    What else may be preferred is no such sum, and left out: a cost is then at least what the problem says.
    """
    sending = preferences.latency_s + preferences.energy_j * power.expand_as(cycles).unsqueeze(-1)
    alone = preferences.latency_s * problem.alone
    if table.device_j_per_cycle is not None and table.offloaded_share is not None:
        joules = (preferences.energy_j * table.device_j_per_cycle * cycles).unsqueeze(-1)
        alone = alone + (1 - table.offloaded_share).unsqueeze(-1) * joules
        alone[..., -2:-1] += table.offloaded_share.unsqueeze(-1) * joules
    return OffloadingProblem(
        radio_root=problem.radio_root * sending.sqrt(),
        edge_root=problem.edge_root * preferences.latency_s**0.5,
        alone=alone,
    )


def holders(
    cache: Bool[Tensor, "batch server service"], requests: Int[Tensor, "batch user"]
) -> Bool[Tensor, "batch user server"]:
    """Which servers hold the service that each user asks for, bool [B, U, S]."""
    index = requests.unsqueeze(-1).expand(-1, -1, cache.shape[1])
    return cache.transpose(1, 2).gather(1, index)


def work_brought(
    table: Constants, cache: Bool[Tensor, "batch server service"], requests: Int[Tensor, "batch user"]
) -> Float[Tensor, "batch user server"]:
    """Cycles that each user's task would leave each server to compute, [B, U, S]: none where it is a miss."""
    cycles = table.cycles_asked(requests).double()
    if table.offloaded_share is not None:
        cycles = table.offloaded_share * cycles
    return cycles.unsqueeze(-1) * holders(cache, requests)


def server_loads(
    root: Float[Tensor, "batch user server"], target: Int[Tensor, "batch user"]
) -> Float[Tensor, "batch server"]:
    """Sum over the users of each server of their root at it, [B, S]."""
    return sum_per_server(root.gather(2, target.unsqueeze(-1)).squeeze(-1), target, root.shape[2])


def summed_latency(problem: OffloadingProblem, target: Int[Tensor, "batch user"]) -> Float[Tensor, " batch"]:
    """Least latency summed over users given the targets, in s, [B]."""
    radio, edge = server_loads(problem.radio_root, target), server_loads(problem.edge_root, target)
    alone = problem.alone.gather(2, target.unsqueeze(-1)).squeeze(-1)
    return radio.square().sum(1) + edge.square().sum(1) + alone.sum(1)


def square_root_shares(
    problem: OffloadingProblem, target: Int[Tensor, "batch user"], dtype: torch.dtype
) -> Allocation:
    """The best shares given the targets: each user's root over the sum of its server's roots.

    A server gives what none of its users has a use for out equally, such as its compute where none of them hits: shares
    sum to 1 on every server used.
    """
    num_servers = problem.alone.shape[2]

    def share(roots: Tensor) -> Tensor:
        root = roots.gather(2, target.unsqueeze(-1)).squeeze(-1)
        root = torch.where(sum_per_server(root, target, num_servers).gather(1, target) > 0, root, 1.0)
        return (root / sum_per_server(root, target, num_servers).gather(1, target)).to(dtype)

    return Allocation(target, share(problem.radio_root), share(problem.edge_root))


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


def shown_links(network: EdgeNetwork) -> tuple[Constants, Float[Tensor, "batch user"]]:
    """The constants of the coming slot as far as views show them, and the fading to plan with.

    Where phones report their links, these are what they report, else of the mean gain with Rayleigh fading.
    """
    table = network.shown
    if table.reported_efficiency is None:
        return table, expected_fading(network.scenario, network.positions, network.physics, table)
    power = table.power_over_noise_db.double()
    snr_db = 10 * torch.expm1(math.log(2) * table.reported_efficiency.double()).log10()
    loss_db = (power.unsqueeze(-1) if power.ndim else power) - snr_db
    return table._replace(link_loss_db=loss_db), network.positions.new_ones(network.requests.shape)


@lru_cache(maxsize=1)
def _rayleigh_quadrature() -> tuple[tuple[float, float], ...]:
    """Nodes and weights of the mean over Rayleigh(1), the weights normalised to sum 1."""
    nodes, weights = np.polynomial.legendre.leggauss(QUADRATURE_NODES)
    nodes = (nodes + 1) * (LARGEST_FADING / 2)
    weights = weights * nodes * np.exp(-(nodes**2) / 2)
    return tuple(zip(nodes.tolist(), (weights / weights.sum()).tolist(), strict=True))

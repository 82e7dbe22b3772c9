"""Offloading policies to compare with: each is called with the network in every slot.

What they know: `random` and `home_equal` nothing; `all_cloud` and `least_loaded_equal` which servers hold the services
asked for; `least_loaded_sqrt`, `genetic` and `best_known` also the physics (equations, constants, positions), but not
the fading to come; `hindsight` looks even at that.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from hadrl_lightning.baselines.best_known import best_known_policy, hindsight_policy
from hadrl_lightning.baselines.genetic import GeneticSearch
from hadrl_lightning.baselines.problem import expected_fading, holders, offloading_problem, square_root_shares
from hadrl_lightning.play import OffloadingPolicy, home_equal
from hadrl_lightning.scenario import Scenario
from hadrl_lightning.simulator import Allocation, EdgeNetwork, decode_offloading, equal_shares


def random_offloading(generator: torch.Generator) -> OffloadingPolicy:
    """Uniform actions in [-1, 1], decoded as a learner's are (`generator` on the CPU)."""

    def policy(network: EdgeNetwork) -> Allocation:
        shape = (network.num_envs, network.scenario.offloading_action_size)
        action = torch.rand(shape, generator=generator).to(network.device, network.dtype)
        return decode_offloading(network.scenario, 2 * action - 1, network.physics)

    return policy


def all_cloud(network: EdgeNetwork) -> Allocation:
    """Every user to a server that lacks its service, so that the cloud computes: home if it does, else the next one.

    "Next" is by index, cyclically. Where every server holds the service no target leads to the cloud, and the user
    stays at home. Equal shares.
    """
    first, servers = network.homes, network.scenario.num_servers
    lacking = ~holders(network.cache, network.requests)
    ring = (first.unsqueeze(-1) + torch.arange(servers, device=network.device)) % servers
    first = lacking.gather(2, ring).to(torch.int8).argmax(dim=2, keepdim=True)
    return equal_shares(network.scenario, ring.gather(2, first).squeeze(-1), network.dtype)


def least_loaded_equal(network: EdgeNetwork) -> Allocation:
    """One user after another to the server with the fewest users among those that hold its service, equal shares.

    Where none holds it, among all. Users count in proportion to 1 / compute of the server; ties go to the lower index.
    Work that waits at a server, as views show it, counts as so many users as it takes the time of on average.
    """
    return equal_shares(network.scenario, least_loaded_targets(network), network.dtype)


def least_loaded_sqrt(network: EdgeNetwork) -> Allocation:
    """The targets of `least_loaded_equal` with the shares that are best for them in expectation over the fading."""
    problem = offloading_problem(
        network.scenario,
        network.cache,
        network.requests,
        network.positions,
        expected_fading(network.scenario, network.positions, network.physics, network.present),
        network.physics,
        network.present,
    )
    return square_root_shares(problem, least_loaded_targets(network), network.dtype)


def least_loaded_targets(network: EdgeNetwork) -> Int[Tensor, "batch user"]:
    """Targets of `least_loaded_equal`, long [B, U]."""
    table = network.shown
    compute_hz = network.exact.compute_hz
    mean_hz = compute_hz.mean(dim=-1, keepdim=True)
    weight = mean_hz / compute_hz
    load = weight.new_zeros(network.num_envs, network.scenario.num_servers)
    if table.waiting_s is not None:
        usual = (network.exact.popularity * table.cycles).sum(dim=-1, keepdim=True) / mean_hz
        load += table.waiting_s / usual
    idle = table.idle(network.requests)
    counts = torch.ones_like(network.requests) if idle is None else (~idle).long()
    target = torch.zeros_like(network.requests)
    allowed = _holders_or_all(network)
    for user in range(network.scenario.num_users):
        choice = load.masked_fill(~allowed[:, user], torch.inf).argmin(dim=1, keepdim=True)
        load.scatter_add_(1, choice, counts[:, user, None] * weight.expand_as(load).gather(1, choice))
        target[:, user] = choice.squeeze(1)
    return target


OffloadingFactory = Callable[[Scenario, torch.Generator], OffloadingPolicy]
"""Makes a policy for a scenario; the generator, on the CPU, is for those that draw."""

OFFLOADING_POLICIES: dict[str, OffloadingFactory] = {
    "all_cloud": lambda scenario, generator: all_cloud,
    "random": lambda scenario, generator: random_offloading(generator),
    "home_equal": lambda scenario, generator: home_equal,
    "least_loaded_equal": lambda scenario, generator: least_loaded_equal,
    "least_loaded_sqrt": lambda scenario, generator: least_loaded_sqrt,
    "genetic": lambda scenario, generator: GeneticSearch(generator),
    "best_known": lambda scenario, generator: best_known_policy,
    "hindsight": lambda scenario, generator: hindsight_policy,
}
"""Offloading policies by name."""


def _holders_or_all(network: EdgeNetwork) -> Bool[Tensor, "batch user server"]:
    held = holders(network.cache, network.requests)
    return held | ~held.any(dim=2, keepdim=True)

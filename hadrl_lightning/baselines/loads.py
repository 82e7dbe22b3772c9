"""Offloading policies that know where users are at home and what waits at servers, and no more than views show.

All but `least_loaded_equal` give the shares that are best for their targets in expectation, by square roots of what
tasks ask for: as far as views tell the truth, equal ones are never better. Users without a task weigh nothing.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from hadrl_lightning.baselines.best_known import greedy_targets
from hadrl_lightning.baselines.problem import (
    OffloadingProblem,
    holders,
    offloading_problem,
    shown_links,
    square_root_shares,
)
from hadrl_lightning.play import OffloadingPolicy
from hadrl_lightning.simulator import Allocation, EdgeNetwork, equal_shares

LATENCY_WEIGHT_S = 1.0
"""V of the drift-plus-penalty method (Neely 2010, Stochastic Network Optimization, chapter 4), s: a second of latency
weighs as much as a second of work that joins a backlog of this length. Latency comes within O(1/V) of the least, while
backlogs grow with O(V)."""


def home_sqrt(network: EdgeNetwork) -> Allocation:
    """Every user to its home server, which is the nearest: that of the only link that views show."""
    return _best_shares(network, network.homes)


def local_only(network: EdgeNetwork) -> Allocation:
    """Every task on its user's own device; where devices don't compute, at the home server."""
    if network.shown.device_hz is None:
        return home_sqrt(network)
    return _best_shares(network, torch.full_like(network.requests, network.scenario.num_servers))


def least_loaded_equal(network: EdgeNetwork) -> Allocation:
    """One user after another to the server with the fewest users among those that hold its service, equal shares.

    Where none holds it, among all. Users count in proportion to 1 / compute of the server; ties go to the lower index.
    Work that waits at a server, as views show it, counts as so many users as it takes the time of on average.
    """
    return equal_shares(network.scenario, least_loaded_targets(network), network.dtype)


def least_loaded_sqrt(network: EdgeNetwork) -> Allocation:
    """The targets of `least_loaded_equal` with the shares that are best for them, as far as views show."""
    return _best_shares(network, least_loaded_targets(network))


def least_loaded_targets(network: EdgeNetwork) -> Int[Tensor, "batch user"]:
    """Targets of `least_loaded_equal`, long [B, U]."""
    table = network.shown
    compute_hz = network.exact.compute_hz
    mean_hz = compute_hz.mean(dim=-1, keepdim=True)
    weight = mean_hz / compute_hz
    load = weight.new_zeros(network.num_envs, network.scenario.num_servers)
    if table.waiting_s is not None:
        usual = table.usual_cycles.unsqueeze(-1).to(network.device) / mean_hz
        load += table.waiting_s / usual
    idle = table.idle(network.requests)
    counts = torch.ones_like(network.requests) if idle is None else (~idle).long()
    added = counts.unsqueeze(-1) * weight.unsqueeze(-2)
    return _to_the_least(load, added, holders_or_all(network))


def shortest_queue(network: EdgeNetwork) -> Allocation:
    """One user after another to the server that is through its work first, among those that hold its service.

    Where none holds it, among all. The work of a server is what waits there and that of the users before in the slot,
    in s of its compute; ties go to the lower index.
    """
    return _best_shares(network, _to_the_least(*_work(network), holders_or_all(network)))


def two_choices(generator: torch.Generator) -> OffloadingPolicy:
    """As `shortest_queue`, each user among two servers drawn at random (Mitzenmacher 2001, the power of two choices).

    They are of those that hold its service, or of all where none does (`generator` on the CPU).
    """

    def policy(network: EdgeNetwork) -> Allocation:
        among = holders_or_all(network)
        draws = torch.rand(among.shape, generator=generator).to(network.device)
        two = draws.masked_fill(~among, -1.0).topk(min(2, among.shape[2]), dim=2).indices
        drawn = torch.zeros_like(among).scatter(2, two, True)
        return _best_shares(network, _to_the_least(*_work(network), among & drawn))

    return policy


def drift_plus_penalty(network: EdgeNetwork) -> Allocation:
    """One user after another to where V · latency + backlog · work is least (Neely 2010), V = `LATENCY_WEIGHT_S`.

    The latency, in s, is what the user adds to that of all users before it, those who weigh most first; the backlog and
    the work that the user adds to it are in s of the server's compute. Devices and the cloud have no backlog.
    """
    problem, waiting = shown_problem(network), network.shown.waiting_s
    if waiting is None:
        return square_root_shares(problem, greedy_targets(problem), network.dtype)
    backlog = pad(waiting, (0, problem.alone.shape[2] - waiting.shape[1]))
    drift = backlog.unsqueeze(-2) * problem.edge_root.square()
    weighed = problem._replace(alone=problem.alone + drift / LATENCY_WEIGHT_S)
    return square_root_shares(problem, greedy_targets(weighed), network.dtype)


def shown_problem(network: EdgeNetwork) -> OffloadingProblem:
    """The slot to come as views show it."""
    table, fading = shown_links(network)
    slot = (network.scenario, network.cache, network.requests, network.positions, fading, network.physics)
    return offloading_problem(*slot, table)


def holders_or_all(network: EdgeNetwork) -> Bool[Tensor, "batch user server"]:
    """The servers that hold what each user asks for; all of them where none does."""
    held = holders(network.cache, network.requests)
    return held | ~held.any(dim=2, keepdim=True)


def _work(network: EdgeNetwork) -> tuple[Float[Tensor, "batch server"], Float[Tensor, "batch user server"]]:
    """What waits at every server and what every user would add there, in s of the server's compute."""
    table = network.shown
    cycles = table.cycles_asked(network.requests)
    if table.offloaded_share is not None:
        cycles = cycles * table.offloaded_share
    work = cycles.unsqueeze(-1) / network.exact.compute_hz.unsqueeze(-2)
    nothing = work.new_zeros(len(work), work.shape[2])
    return nothing if table.waiting_s is None else table.waiting_s.clone(), work


def _to_the_least(
    load: Float[Tensor, "batch server"],
    added: Float[Tensor, "batch user server"],
    among: Bool[Tensor, "batch user server"],
) -> Int[Tensor, "batch user"]:
    """One user after another to the server of least load among some, where it then adds to it, long [B, U]."""
    targets = [torch.zeros(len(among), 0, dtype=torch.long, device=among.device)]
    for user in range(added.shape[1]):
        choice = load.masked_fill(~among[:, user], torch.inf).argmin(dim=1, keepdim=True)
        load = load.scatter_add(1, choice, added[:, user].gather(1, choice))
        targets.append(choice)
    return torch.cat(targets, dim=1)


def _best_shares(network: EdgeNetwork, target: Int[Tensor, "batch user"]) -> Allocation:
    return square_root_shares(shown_problem(network), target, network.dtype)

"""The best known offloading decision: closed-form shares, local search over the targets.

The yardstick of every table. It knows what no learner is told: the equations of latency, every constant, the channel.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hadrl_lightning.baselines.lower_bound import relaxed_assignment
from hadrl_lightning.baselines.problem import (
    OffloadingProblem,
    expected_fading,
    offloading_problem,
    server_loads,
    square_root_shares,
    summed_latency,
)
from hadrl_lightning.scenario import Physics, Scenario
from hadrl_lightning.simulator import Allocation, EdgeNetwork, Service, equal_shares, serve
from hadrl_lightning.simulator.constants import Constants

PAIRS_AT_ONCE = 4_000_000
"""Pairs of users whose exchange is weighed at once, over all slots: 32 MB a tensor."""
MIN_GAIN = 1e-9
"""A change of targets must save this share of the latency: no endless search among equals."""


def best_known(
    scenario: Scenario,
    cache: Bool[Tensor, "batch server service"],
    requests: Int[Tensor, "batch user"],
    positions: Float[Tensor, "batch user 2"],
    fading: Float[Tensor, "batch user"],
    physics: Physics = "strict",
) -> Service:
    """Serve B slots by the best decision known for this very fading.

    No policy can know the fading when it decides: `best_known_policy` plans with the expectation and is the fair
    yardstick, this is the one in hindsight.

    Args:
        scenario: the constants.
        cache: bool [B, S, K].
        requests: service asked by each user, long [B, U].
        positions: (x, y) of the users in metres, [B, U, 2].
        fading: factor on the linear channel gain, [B, U].
        physics: decides home servers and unit of the energy; the shares sum to 1 on every server under both.
    """
    allocation = best_known_allocation(scenario, cache, requests, positions, fading, physics)
    return serve(scenario, cache, requests, positions, fading, allocation, physics)


def best_known_allocation(
    scenario: Scenario,
    cache: Bool[Tensor, "batch server service"],
    requests: Int[Tensor, "batch user"],
    positions: Float[Tensor, "batch user 2"],
    fading: Float[Tensor, "batch user"] | None = None,
    physics: Physics = "strict",
    table: Constants | None = None,
) -> Allocation:
    """The best decision known for B slots; without `fading`, the best in expectation over it.

    Arguments as in `best_known`, and `table` as in `offloading_problem`.
    """
    if not requests.numel():
        return equal_shares(scenario, requests, positions.dtype)
    if fading is None:
        fading = expected_fading(scenario, positions, physics, table)
    problem = offloading_problem(scenario, cache, requests, positions, fading, physics, table)
    return square_root_shares(problem, best_targets(problem), positions.dtype)


def best_known_policy(network: EdgeNetwork) -> Allocation:
    """The best decision in expectation over the fading to come: what a decision-maker who knows all else can do."""
    return best_known_allocation(
        network.scenario,
        network.cache,
        network.requests,
        network.positions,
        physics=network.physics,
        table=network.exact,
    )


def hindsight_policy(network: EdgeNetwork) -> Allocation:
    """`best_known` for the fading that the network is about to draw: a policy that looks into the future."""
    return best_known_allocation(
        network.scenario,
        network.cache,
        network.requests,
        network.positions,
        coming_fading(network),
        network.physics,
        network.exact,
    )


def coming_fading(network: EdgeNetwork) -> Float[Tensor, "batch user"]:
    """The fading that the next `step` will draw, [B, U]; nothing is drawn that counts."""
    fading = network.unfolding.foreseen().fading
    assert fading is not None
    return fading


def best_targets(problem: OffloadingProblem) -> Int[Tensor, "batch user"]:
    """Targets of least latency found by local search from two starts, long [B, U]."""
    relaxed = relaxed_assignment(problem).targets.argmax(dim=2)
    found = [local_search(problem, start) for start in (relaxed, greedy_targets(problem))]
    latency = torch.stack([summed_latency(problem, target) for target in found])
    best = latency.argmin(dim=0)
    return torch.where((best == 0).unsqueeze(1), found[0], found[1])


def greedy_targets(problem: OffloadingProblem) -> Int[Tensor, "batch user"]:
    """Users in falling order of what they weigh, each to the server where it adds least, long [B, U]."""
    radio_root, edge_root, cloud = problem
    order = (radio_root.mean(2).square() + edge_root.amax(2).square()).argsort(dim=1, descending=True)
    radio = radio_root.new_zeros(radio_root.shape[0], radio_root.shape[2])
    edge, target = torch.zeros_like(radio), torch.zeros_like(order)
    rows = torch.arange(order.shape[0], device=order.device)
    for user in order.unbind(dim=1):
        r, e, c = radio_root[rows, user], edge_root[rows, user], cloud[rows, user]
        choice = (r * (2 * radio + r) + e * (2 * edge + e) + c).argmin(dim=1)
        target[rows, user] = choice
        radio[rows, choice] += r[rows, choice]
        edge[rows, choice] += e[rows, choice]
    return target


def local_search(
    problem: OffloadingProblem, target: Int[Tensor, "batch user"], max_steps: int = 1000
) -> Int[Tensor, "batch user"]:
    """Take the best move of one user, or where none helps the best swap of two, until neither helps; long [B, U]."""
    target = target.clone()
    active = torch.arange(target.shape[0], device=target.device)
    for _ in range(max_steps):
        here, now = problem.rows(active), target[active]
        least = summed_latency(here, now) * -MIN_GAIN
        gain, moved = _best_move(here, now)
        stuck = (gain >= least).nonzero().squeeze(1)
        for part in stuck.split(max(PAIRS_AT_ONCE // target.shape[1] ** 2, 1)):
            gain[part], moved[part] = _best_swap(here.rows(part), now[part])
        improved = gain < least
        active = active[improved]
        if active.numel() == 0:
            break
        target[active] = moved[improved]
    return target


def _best_move(problem: OffloadingProblem, target: Tensor) -> tuple[Tensor, Tensor]:
    """Change of latency by the best move of one user, [B], and the targets after it, [B, U]."""
    index = target.unsqueeze(-1)
    added = problem.cloud_latency.clone()
    kept = problem.cloud_latency.gather(2, index)
    for root in (problem.radio_root, problem.edge_root):
        load = server_loads(root, target).unsqueeze(1)
        added += root * (2 * load + root)
        own = root.gather(2, index)
        kept = kept + own * (2 * load.expand_as(root).gather(2, index) - own)
    change = (added - kept).scatter(2, index, torch.inf)
    gain, flat = change.flatten(1).min(dim=1)
    user, server = flat // change.shape[2], flat % change.shape[2]
    return gain, target.scatter(1, user.unsqueeze(1), server.unsqueeze(1))


def _best_swap(problem: OffloadingProblem, target: Tensor) -> tuple[Tensor, Tensor]:
    """Change of latency by the best exchange of two users' servers, [B], and the targets after it, [B, U].

    half[u, v] is the change on u's server when v takes u's place there; a swap changes both servers.
    """
    half = _in_place_of(problem.cloud_latency, target)
    for root in (problem.radio_root, problem.edge_root):
        change = _in_place_of(root, target)
        load = server_loads(root, target).gather(1, target).unsqueeze(2)
        half = half + change * (2 * load + change)
    same = target.unsqueeze(1) == target.unsqueeze(2)
    gain, flat = (half + half.transpose(1, 2)).masked_fill(same, torch.inf).flatten(1).min(dim=1)
    pair = torch.stack([flat // target.shape[1], flat % target.shape[1]], dim=1)
    return gain, target.scatter(1, pair, target.gather(1, pair).flip(1))


def _in_place_of(value: Tensor, target: Tensor) -> Tensor:
    """[b, u, v]: value of user v at the server of user u, less that of user u there."""
    index = target.unsqueeze(1).expand(-1, target.shape[1], -1)
    at_server = value.gather(2, index).transpose(1, 2)
    return at_server - value.gather(2, target.unsqueeze(-1))

"""The best known offloading decision: closed-form shares, local search over the targets.

The yardstick of every table. It knows what no learner is told: the equations of latency, every constant, the channel.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hadrl_lightning.baselines.lower_bound import Relaxation, relaxed_assignment
from hadrl_lightning.baselines.problem import (
    OffloadingProblem,
    offloading_problem,
    square_root_shares,
    summed_latency,
)
from hadrl_lightning.planning.named_slots import users_are_few
from hadrl_lightning.scenario import Physics, Scenario
from hadrl_lightning.simulator import Allocation, EdgeNetwork, Service, equal_shares, serve
from hadrl_lightning.simulator.constants import Constants

PAIRS_AT_ONCE = 4_000_000
"""Pairs of users whose exchange is weighed at once, over all slots: 32 MB a tensor."""
MOST_PAIRS = 65_536
"""Users times servers up to which the local search has further starts."""
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
    problem = offloading_problem(scenario, cache, requests, positions, fading, physics, table)
    return square_root_shares(problem, best_targets(problem), positions.dtype)


class Bracket(NamedTuple):
    """The best decision known for B slots, and how much better another could be."""

    allocation: Allocation
    latency_s: Float[Tensor, " batch"]
    """What it costs, summed over users."""
    bound_s: Float[Tensor, " batch"]
    """What no decision gets below: certified (`lower_bound`)."""

    @property
    def gap(self) -> Float[Tensor, " batch"]:
        """By which share of the bound another decision could be better at most; 0 of no users."""
        return torch.where(self.bound_s > 0, self.latency_s / self.bound_s - 1, 0.0)


def best_known_and_bound(
    scenario: Scenario,
    cache: Bool[Tensor, "batch server service"],
    requests: Int[Tensor, "batch user"],
    positions: Float[Tensor, "batch user 2"],
    fading: Float[Tensor, "batch user"] | None = None,
    physics: Physics = "strict",
    table: Constants | None = None,
) -> Bracket:
    """`best_known_allocation` and `lower_bound` of the same slots at once, with arguments as of the former."""
    problem = offloading_problem(scenario, cache, requests, positions, fading, physics, table)
    if not requests.numel():
        none = problem.alone.sum((1, 2))
        return Bracket(equal_shares(scenario, requests, positions.dtype), none, none)
    relaxation = relaxed_assignment(problem)
    target = best_targets(problem, relaxation)
    allocation = square_root_shares(problem, target, positions.dtype)
    return Bracket(allocation, summed_latency(problem, target), relaxation.bound)


def best_known_policy(network: EdgeNetwork) -> Allocation:
    """The best decision in expectation over the fading to come: what a decision-maker who knows all else can do."""
    return best_known_allocation(
        network.scenario,
        network.cache,
        network.requests,
        network.positions,
        physics=network.physics,
        table=network.present,
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
        network.present,
    )


def coming_fading(network: EdgeNetwork) -> Float[Tensor, "batch user"]:
    """The fading that the next `step` will draw, [B, U]; nothing is drawn that counts."""
    fading = network.unfolding.foreseen().fading
    assert fading is not None
    return fading


def best_targets(
    problem: OffloadingProblem, relaxation: Relaxation | None = None
) -> Int[Tensor, "batch user"]:
    """Targets of least latency found by local search, long [B, U].

    It starts from users inserted one after the other, and up to `MOST_PAIRS` also from the relaxed assignment, which
    among equal servers says little about more. Where users are so few that a relaxed assignment says little too, it
    also starts from each where it costs least alone.

    Args:
        problem: of the slots.
        relaxation: of the problem, where it is known already.
    """
    inserted = local_search(problem, greedy_targets(problem))
    if problem.alone[0].numel() > MOST_PAIRS:
        return inserted
    rounded = (relaxation or relaxed_assignment(problem)).targets.argmax(dim=2)
    best = local_search(problem, rounded)
    others = [inserted]
    if users_are_few(*problem.alone.shape[1:]):
        alone = problem.radio_root.square() + problem.edge_root.square() + problem.alone
        others.append(local_search(problem, alone.argmin(dim=2)))
    for other in others:
        better = summed_latency(problem, other) < summed_latency(problem, best)
        best = torch.where(better.unsqueeze(1), other, best)
    return best


def greedy_targets(problem: OffloadingProblem) -> Int[Tensor, "batch user"]:
    """Users in falling order of what they weigh, each to the server where it adds least, long [B, U]."""
    radio_root, edge_root, cloud = problem
    weight = radio_root.mean(2).square() + edge_root.amax(2).square()
    order = weight.argsort(dim=1, descending=True, stable=True)  # ties are broken alike on every device
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
    """Move single users, or where that does not help swap two of them, until neither helps; long [B, U].

    In a step all moves (or swaps) are weighed at once, and those are made that save most at both of their servers: what
    they save adds up, because a change of targets changes the loads of two servers alone.
    """
    target = target.clone()
    active, here = torch.arange(target.shape[0], device=target.device), problem
    for _ in range(max_steps):
        now = target[active]
        changed = _Changes.of(here, now)
        least = summed_latency(here, now) * -MIN_GAIN
        after, improved = changed.moved(least)
        stuck = (~improved).nonzero().squeeze(1)
        for part in stuck.split(max(PAIRS_AT_ONCE // target.shape[1] ** 2, 1)) if len(stuck) else ():
            after[part], improved[part] = changed.rows(part).swapped(least[part])
        target[active] = after
        if not bool(improved.all()):
            active, here = active[improved], here.rows(improved)
        if active.numel() == 0:
            break
    return target


class _Changes(NamedTuple):
    """What changes of targets cost, from the loads that the targets bring about."""

    target: Int[Tensor, "batch user"]
    roots: tuple[Float[Tensor, "batch server user"], Float[Tensor, "batch server user"]]
    """Radio and edge."""
    added: Float[Tensor, "batch server user"]
    """What a user would cost at a server besides all who are there."""
    kept: Float[Tensor, "batch user"]
    """What is saved where a user leaves its server."""

    @staticmethod
    def of(problem: OffloadingProblem, target: Tensor) -> "_Changes":
        """Of the present targets."""
        index = target.unsqueeze(1)
        radio, edge = (root.transpose(1, 2).contiguous() for root in (problem.radio_root, problem.edge_root))
        added = problem.alone.transpose(1, 2).clone(memory_format=torch.contiguous_format)
        kept = added.gather(1, index)
        for root in (radio, edge):
            own = root.gather(1, index)
            load = root.new_zeros(root.shape[:2]).scatter_add_(1, target, own.squeeze(1))
            added.add_(root * (root + 2 * load.unsqueeze(2)))
            kept = kept + own * (2 * load.gather(1, target).unsqueeze(1) - own)
        return _Changes(target, (radio, edge), added, kept.squeeze(1))

    def rows(self, index: Tensor) -> "_Changes":
        """Of some of the slots."""
        radio, edge = self.roots
        return _Changes(self.target[index], (radio[index], edge[index]), self.added[index], self.kept[index])

    def moved(self, least: Tensor) -> tuple[Tensor, Tensor]:
        """Targets after moves that save more than `least`, [B, U], and whether there are any, [B]."""
        added = self.added.scatter(1, self.target.unsqueeze(1), torch.inf)
        cost, there = added.min(dim=1)
        made = self._best(cost - self.kept, there, least)
        return torch.where(made, there, self.target), made.any(dim=1)

    def swapped(self, least: Tensor) -> tuple[Tensor, Tensor]:
        """Targets after swaps that save more than `least`, [B, U], and whether there are any, [B].

        half[u, v] is the change on u's server when v takes u's place there; a swap changes both servers.
        """
        target = self.target
        (batch, users), servers = target.shape, self.added.shape[1]
        place = (target + torch.arange(batch, device=target.device).unsqueeze(1) * servers).flatten()

        def at_places(value: Tensor) -> Tensor:
            return value.flatten(0, 1).index_select(0, place).view(batch, users, users)

        half = at_places(self.added).sub_(self.kept.unsqueeze(2))
        for root in self.roots:
            own = root.gather(1, target.unsqueeze(1)).transpose(1, 2)
            half.addcmul_(at_places(root), own, value=-2)
        both = half + half.transpose(1, 2)
        # Of the users of one server, and then of two: what the best swap between them changes.
        one = self._amin(both, self.added)
        pairs = self._amin(one.transpose(1, 2), one[:, :, :1].expand(-1, -1, servers))
        row, server, there = _matched(pairs, least)
        user, other = (target[row] == place.unsqueeze(1) for place in (server, there))
        second = one[row, server].masked_fill(~other, torch.inf).argmin(dim=1)
        first = both[row, second].masked_fill(~user, torch.inf).argmin(dim=1)
        after, improved = target.clone(), torch.zeros_like(least, dtype=torch.bool)
        after[row, first], after[row, second], improved[row] = there, server, True
        return after, improved

    def _amin(self, value: Tensor, like: Tensor) -> Tensor:
        """Least value among the users of each server, along the second dimension."""
        index = self.target.unsqueeze(2).expand_as(value)
        return torch.full_like(like, torch.inf).scatter_reduce_(1, index, value, "amin")

    def _best(self, change: Tensor, there: Tensor, least: Tensor) -> Bool[Tensor, "batch user"]:
        """Changes that save more than `least` and more than any other that touches one of their two servers."""
        rank = change.argsort(dim=1, stable=True).argsort(dim=1)
        first = torch.full_like(self.added[:, :, 0], rank.shape[1], dtype=rank.dtype)
        for server in (self.target, there):
            first.scatter_reduce_(1, server, rank, "amin")
        best = (first.gather(1, self.target) == rank) & (first.gather(1, there) == rank)
        return best & (change < least.unsqueeze(1))


def _matched(pairs: Float[Tensor, "batch server server"], least: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs of servers of which each is in one alone, the best first: slot, one server, the other.

    Args:
        pairs: what the best swap between two servers changes, symmetric.
        least: what it must be below, [B].
    """
    left, server = pairs.clone(), torch.arange(pairs.shape[1], device=pairs.device)
    left.diagonal(dim1=1, dim2=2).fill_(torch.inf)
    found = []
    while True:
        change, other = left.min(dim=2)
        mutual = (other.gather(1, other) == server) & (change < least.unsqueeze(1))
        row, one = (mutual & (server < other)).nonzero().unbind(dim=1)
        found.append(torch.stack([row, one, other[row, one]]))
        if not len(row):
            break
        left.masked_fill_(mutual.unsqueeze(1) | mutual.unsqueeze(2), torch.inf)
    row, one, there = torch.cat(found, dim=1)
    return row, one, there

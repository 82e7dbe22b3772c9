"""What a policy is held against: the best known decisions under its own caches, and the least latency known at all;
and how soon after a change of the world a policy is back at the former.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hadrl_lightning.baselines import (
    CACHING_POLICIES,
    best_known_and_bound,
    best_known_policy,
    carried_bound,
    carried_over,
    empty_slot,
    optimal_coverage,
)
from hadrl_lightning.data import EpisodeStream
from hadrl_lightning.errors import MissingExtra
from hadrl_lightning.play import CachingPolicy, Episode, Policies, run_episode, task_cost
from hadrl_lightning.scenario import Preferences, Scenario
from hadrl_lightning.scenario.preferences import USUAL
from hadrl_lightning.simulator import Allocation, EdgeNetwork, Use, make_generator
from hadrl_lightning.simulator.processes import Device, Queues, demand_is_known

LEAST_KNOWN = "latency_optimal+best_known"
"""The yardstick of all tables: best known decisions under the caches of least expected latency."""
RECOVERED_AT = 1.1
"""A policy has got over a change where a slot costs at most so many times what the best known decisions make of it."""
BEFORE, AFTER = 10, 20
"""Slots before and after a change that a series around it has."""


def least_known_policies(scenario: Scenario) -> Policies:
    """The policies of the least latency known."""
    return CACHING_POLICIES["latency_optimal"](
        scenario, make_generator(0, Use.CACHE_SEARCH)
    ), best_known_policy


def replayed(episode: Episode) -> CachingPolicy:
    """The caches of an episode that was played, again."""
    return lambda network: episode.cache[network.decision].to(network.device)


def own_best_known(stream: EpisodeStream, index: int, episode: Episode) -> Episode:
    """Batch `index` of a stream, had the best known decisions been made under the caches that were played."""
    return run_episode(stream.networks(index), replayed(episode), best_known_policy)


class Recovery(NamedTuple):
    """How soon a policy gets over changes of the world, [B] each; not a number where nothing changed."""

    recovery_slots: Float[Tensor, " batch"]
    """Slots after a change until one costs at most `RECOVERED_AT` times what the best known decisions under the same
    caches make of it, mean over changes: 0 where that holds in the slot of the change. The next change and the end of
    the episode end the count, which then is less than it takes."""
    recovered: Float[Tensor, " batch"]
    """Share of the changes whose count was not ended so."""


def recovery(
    changed: Bool[Tensor, "slot batch"], cost: Float[Tensor, "slot batch"], best: Float[Tensor, "slot batch"]
) -> Recovery:
    """By where the world changed, what slots cost, and what the best known decisions make of them."""
    back = cost <= RECOVERED_AT * best
    waits = torch.zeros_like(cost[0])
    recovers = torch.zeros_like(back[0])
    counted, got_over = [], []
    for slot in reversed(range(len(cost))):
        ends = slot + 1 == len(cost)
        cut = torch.ones_like(back[0]) if ends else changed[slot + 1]
        waits = torch.where(back[slot], 0.0, torch.where(cut, 1.0, waits + 1))
        recovers = back[slot] | (recovers & ~cut)
        counted.append(waits * changed[slot])
        got_over.append(recovers & changed[slot])
    number = changed.sum(dim=0)
    return Recovery(*(torch.stack(one).sum(dim=0) / number for one in (counted, got_over)))


def slot_costs(episode: Episode, preferences: Preferences = USUAL) -> Float[Tensor, "slot batch"]:
    """What the tasks of each slot cost by the preferences, summed over users: by default their latency, s."""
    return task_cost(preferences, episode).sum(dim=-1)


class AroundChanges(NamedTuple):
    """What slots cost around changes, from `BEFORE` slots before to `AFTER` slots after; not a number beyond episodes.

    Ratios of means over all changes of all episodes, so that slots in which a server is out don't rule by their ratio.
    """

    own_ratio: list[float]
    """÷ what the best known decisions under the same caches make of the same slots."""
    level_ratio: list[float]
    """÷ the mean of the slots before the change."""
    changes: list[float]
    """How many changes have that slot, in all episodes."""


def around_changes(
    played: Sequence[Episode], best: Sequence[Episode], preferences: Preferences = USUAL
) -> AroundChanges | None:
    """Of the batches of episodes of a policy and of the best known decisions; None where nothing changed."""
    changed = torch.cat([one.changed for one in played], dim=1)
    if not changed.any():
        return None
    cost, least = (torch.cat([slot_costs(one, preferences) for one in of], dim=1) for of in (played, best))
    number, own, below = (_around(changed, of) for of in (torch.ones_like(cost), cost, least))
    level = own[:BEFORE].sum() / number[:BEFORE].sum()
    return AroundChanges((own / below).tolist(), (own / number / level).tolist(), number.tolist())


def _around(changed: Bool[Tensor, "slot batch"], of: Float[Tensor, "slot batch"]) -> Float[Tensor, " offset"]:
    """Sum over all changes, of every slot from `BEFORE` before to `AFTER` after them."""
    slots = torch.arange(len(of)).unsqueeze(1)
    sums = []
    for offset in range(-BEFORE, AFTER + 1):
        there = changed & (slots + offset >= 0) & (slots + offset < len(of))
        sums.append(of.double().roll(-offset, dims=0)[there].sum())
    return torch.stack(sums)


@lru_cache(maxsize=32)
def optimal_hit_ratio(*scenarios: Scenario) -> float | None:
    """The hit ratio expected of the best caches, mean over networks with these scenarios.

    None where requests are not drawn by the scenario's popularity: no caches are the best ones all the time.

    Raises:
        MissingExtra: SciPy is missing (extra `baselines`).
    """
    if not all(demand_is_known(one) for one in set(scenarios)):
        return None
    found = {one: optimal_coverage(one).hit_ratio for one in set(scenarios)}
    return sum(found[one] for one in scenarios) / len(scenarios)


def optimal_hit_ratio_if_known(*scenarios: Scenario) -> float | None:
    """`optimal_hit_ratio`, or None without SciPy too."""
    try:
        return optimal_hit_ratio(*scenarios)
    except MissingExtra:
        return None


def bounds(stream: EpisodeStream, caching: CachingPolicy) -> list[float]:
    """Certified lower bound on the expected latency of every episode in s under the caches of a policy.

    The fading to come is not known to any decision, so the bound takes its expectation. Where something carries over
    from slot to slot it is one of whole episodes, for the very fading that they have (`baselines.carried`).

    Raises:
        HadrlError: a process of one's own carries something over, of which nothing is known here.
    """
    latency = []
    for network in stream:
        processes = network.unfolding.processes
        if any(one.carries_work for one in processes.values()):
            latency.append(_carried_bound(network, caching))
            continue
        note = _BoundNote()
        run_episode(network, caching, note)
        latency.append(torch.stack(note.bounds).mean(dim=0))
    return torch.cat(latency).tolist()


def _carried_bound(network: EdgeNetwork, caching: CachingPolicy) -> Float[Tensor, " batch"]:
    processes, preferences = network.unfolding.processes, network.scenario.preferences
    queues, slots = carried_over(processes), []

    def note(network: EdgeNetwork) -> Allocation:
        slots.append(empty_slot(network))
        return best_known_policy(network)

    upper = slot_costs(run_episode(network, caching, note), preferences).sum(dim=0).double()
    dropped_s = min(
        one.dropped_s for one in processes.values() if isinstance(one, Device | Queues) and one.carries_work
    )
    return carried_bound(slots, queues, preferences, dropped_s, upper) / len(slots)


class _BoundNote:
    """Plays the best known decisions and notes the lower bound of every slot it meets."""

    def __init__(self) -> None:
        self.bounds: list[torch.Tensor] = []

    def __call__(self, network: EdgeNetwork) -> Allocation:
        slot = (network.scenario, network.cache, network.requests, network.positions)
        found = best_known_and_bound(*slot, physics=network.physics, table=network.present)
        self.bounds.append(found.bound_s)
        return found.allocation

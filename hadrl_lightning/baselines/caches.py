"""The caches of least expected latency: all choices compared where they are few, else a local search."""

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from hadrl_lightning.baselines.cache_choices import FINALISTS, Choices, Met
from hadrl_lightning.baselines.cache_slots import DrawnSlots, MeanSlot
from hadrl_lightning.baselines.covering import with_copies
from hadrl_lightning.scenario import Scenario
from hadrl_lightning.simulator import Use, make_generator

MAX_COMPARED = 10_000
"""Choices of caches up to which all are compared on drawn slots."""
MAX_RANKED = 100_000
"""Choices up to which all are ranked by the mean slot."""
MAX_STARTS = 24
EFFORT = 20_000_000
"""Choices times services times servers that the local search may evaluate, and slots times users times servers of the
drawn slots times 16: some seconds of one core."""
LEAST_FINALISTS = 16
"""In scenarios so large that the effort does not suffice for all that were kept."""
NEAREST, MAX_STEPS = 50, 20
"""Neighbours compared on drawn slots, and steps from the best of the finalists."""
SEED = 0
"""Seed of the search in `least_latency`."""


class BestCaches(NamedTuple):
    """Caches of least expected latency."""

    cache: Bool[Tensor, "server service"]
    """bool [S, K]"""
    latency_s: float
    """Latency summed over users in s, mean over the slots compared on, decided by the best known."""
    standard_error_s: float
    """Of that mean, as an estimate of the expected latency."""
    exact: bool
    """All choices of maximal contents were compared; else this is the best end of a local search."""
    compared: int
    """How many choices of caches were compared, the same one met again included."""
    starts: int
    """From how many caches the local search started; 0 if `exact`."""

    @property
    def label(self) -> str:
        """What a table calls these caches."""
        return "latency-optimal (exact)" if self.exact else "least latency found (local search)"


@lru_cache(maxsize=64)
def least_latency(scenario: Scenario) -> BestCaches:
    """`best_caches` by a search that is the same each time; found once in a process."""
    return best_caches(scenario, make_generator(SEED, Use.CACHE_SEARCH))


def best_caches(
    scenario: Scenario,
    generator: torch.Generator,
    num_slots: int = 1024,
    max_compared: int = MAX_COMPARED,
    max_ranked: int = MAX_RANKED,
) -> BestCaches:
    """Caches under which the latency expected of the best offloading decisions is least.

    Requests and positions of the slots to come do not depend on what is cached, so one choice of caches is best for
    all frames. Choices are compared on the same drawn slots by the relaxed latency (within 0.1 % of the best known):
    all on a few slots, on more and more of them those that can still be the best (`DrawnSlots.best`).

    Where servers have at most `max_compared` choices of maximal contents (nothing more fits; servers of equal
    capacities can change places), all are compared. A cache that holds less can only be better where the cloud outdoes
    a busy server: the best one is also compared with itself less any one service, and if that helps, the choice is not
    called exact. Of more choices, the best by the mean slot (`MeanSlot`) are compared: out of all of them, if there are
    at most `max_ranked`; else out of those that a local search meets. It starts from caches of great coverage, then
    from random ones and from changes of the best, and goes to the best neighbour until none is better: other contents
    of one server, two servers' services exchanged, a service less. From the best on drawn slots it goes on in the same
    way, by drawn slots. What still fits is added, unless it does harm. The effort depends on the scenario's size alone,
    not on the machine.

    Args:
        scenario: the constants.
        generator: draws requests, positions and starts, on the CPU.
        num_slots: slots to compare on at most; large scenarios get fewer.
        max_compared: number of choices up to which all are compared.
        max_ranked: number of choices up to which all are ranked.
    """
    scenario.require_one_network()
    slots = DrawnSlots(scenario, num_slots, generator, EFFORT // 16)
    choices = Choices(scenario, generator)
    starts, exact = 0, choices.number <= max_compared
    if exact:
        found = slots.best(choices.all())
        best = slots.best(torch.cat([found.unsqueeze(0), choices.dropped(found)]))
        exact = not slots.better(best, found)
        best = found if exact else best
    else:
        if choices.number <= max_ranked:
            met = choices.all()
            finalists = met[slots.mean_slot.latency(met).argsort()[:FINALISTS]]
        else:
            finalists, starts = _met_by_local_search(choices, slots.mean_slot)
        best = slots.best(finalists[: max(EFFORT // (64 * slots.cells), LEAST_FINALISTS)])
    if not exact:
        best = _filled_up(scenario, slots, _improved_on_slots(choices, slots, best))
    latency = slots.decided(best)
    error = float(latency.std()) / math.sqrt(len(latency)) if len(latency) > 1 else math.inf
    return BestCaches(best, float(latency.mean()), error, exact, slots.compared, starts)


def _met_by_local_search(choices: Choices, mean_slot: MeanSlot) -> tuple[Tensor, int]:
    """The best different choices that descents from many starts meet, best first, and the number of starts."""
    met = Met(choices)
    for number, start in enumerate(choices.starts(met), 1):
        _descend(choices, mean_slot, start, met)
        if number == MAX_STARTS or mean_slot.effort > EFFORT:
            break
    return met.choices, number


def _descend(choices: Choices, mean_slot: MeanSlot, cache: Tensor, met: Met) -> None:
    """Go to the best neighbour by the mean slot until none is better, and take note of what is met."""
    least, failures = math.inf, 0
    while failures < choices.patience and mean_slot.effort < 2 * EFFORT:
        neighbours = torch.cat([cache.unsqueeze(0), choices.neighbours(cache)])
        latency = mean_slot.latency(neighbours)
        met.add(neighbours, latency)
        index = int(latency.argmin())
        failures = 0 if float(latency[index]) < least * (1 - 1e-9) else failures + 1
        cache, least = neighbours[index], min(least, float(latency[index]))


def _improved_on_slots(choices: Choices, slots: DrawnSlots, cache: Tensor) -> Tensor:
    """Go to the best neighbour by drawn slots, of those that the mean slot finds best, until none is better."""
    for _ in range(MAX_STEPS):
        neighbours = choices.neighbours(cache)
        nearest = neighbours[slots.mean_slot.latency(neighbours).argsort()[:NEAREST]]
        found = slots.best(torch.cat([cache.unsqueeze(0), nearest]))
        if not slots.better(found, cache):
            break
        cache = found
    return cache


def _filled_up(scenario: Scenario, slots: DrawnSlots, cache: Tensor) -> Tensor:
    """The caches with what else fits, unless the cloud outdoes busy servers that hold it."""
    fuller = with_copies(scenario, cache)
    return cache if torch.equal(fuller, cache) or slots.better(cache, fuller) else fuller

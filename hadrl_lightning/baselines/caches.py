"""The caches of least expected latency: all choices compared where they are few, else a local search."""

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from hadrl_lightning.baselines.cache_choices import Choices, Met
from hadrl_lightning.baselines.cache_slots import DrawnSlots
from hadrl_lightning.baselines.covering import with_copies
from hadrl_lightning.planning.cache_descent import Descent
from hadrl_lightning.scenario import Scenario
from hadrl_lightning.simulator import Use, make_generator

MAX_COMPARED = 10_000
"""Choices of caches up to which all are compared on drawn slots."""
STAGES = (4, 32, 128, 512)
"""Drawn slots that the local search goes by, one number after the other, with fewer caches each time."""
STARTS = 96
"""Of descents at a stage, at most."""
AT_ONCE = 4
"""The best ends that are changed and go downhill again, together."""
FROM_AFAR = 4
"""A descent from a start counts as so many, for all its steps."""
DESCENDING = 720_000
"""Caches times slots times users times servers that go downhill at a stage: some seconds of one core in all."""
RANKED = 8
"""Of a stage's ends so many times those that go on are compared by the slots of the next stage."""
EFFORT = 1_250_000
"""Drawn slots times users times servers."""
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
) -> BestCaches:
    """Caches under which the latency expected of the best offloading decisions is least.

    Requests and positions of the slots to come do not depend on what is cached, so one choice of caches is best for
    all frames. Choices are compared on the same drawn slots by the latency of the best known decisions, or, with many
    users a server, of relaxed ones (within 0.1 % of that): all on a few slots, on more and more of them those that can
    still be the best (`DrawnSlots.best`).

    Where servers have at most `max_compared` choices of maximal contents (nothing more fits; servers of equal
    capacities can change places), all are compared. A cache that holds less can only be better where the cloud outdoes
    a busy server: the best one is also compared with itself less any one service, and if that helps, the choice is not
    called exact. More choices are searched. From where a search among crowds leads from caches of great coverage and
    random ones, and where that is not to many, from these themselves, descents (`Descent`) go by what each change is
    about worth on a few of the drawn slots (`NamedSlots`); then from changes of their ends, and on more slots, and so
    forth (`STAGES`). Of the last ends the best on drawn slots is taken. What still fits is added, unless it does harm,
    and what does harm is taken away.
    The effort depends on the scenario's size alone, not on the machine.

    Args:
        scenario: the constants.
        generator: draws requests, positions and starts, on the CPU.
        num_slots: slots to compare on at most; large scenarios get fewer, those with fewer users than services more.
        max_compared: number of choices up to which all are compared.
    """
    scenario.require_one_network()
    more = _more_slots(scenario)
    slots = DrawnSlots(scenario, num_slots * more, generator, EFFORT)
    choices = Choices(scenario, generator)
    starts, exact = 0, choices.number <= max_compared
    found: list[Tensor] = []
    if exact:
        best = slots.best(choices.all())
        less = slots.best(torch.cat([best.unsqueeze(0), choices.dropped(best)]))
        exact = not slots.better(less, best)
        found = [less.unsqueeze(0)]
    if not exact:
        ends, starts = _met_by_local_search(choices, slots)
        best = _filled_up(scenario, slots, slots.best(torch.cat([*found, ends])))
        best = _emptied(choices, slots, best)
    latency = slots.decided(best)
    error = float(latency.std()) / math.sqrt(len(latency)) if len(latency) > 1 else math.inf
    return BestCaches(best, float(latency.mean()), error, exact, slots.compared, starts)


def _more_slots(scenario: Scenario) -> int:
    """How many times as many slots are drawn where users are fewer than services: rare ones are met there too."""
    return max(1, math.ceil(scenario.num_services / max(1, scenario.num_users)))


def _met_by_local_search(choices: Choices, slots: DrawnSlots) -> tuple[Tensor, int]:
    """The different ends of the descents on most slots, best first, and the number of the first starts."""
    cells, more = slots.cells, _more_slots(choices.scenario)
    first, *stages = sorted({min(count * more, slots.count) for count in STAGES})
    starts = max(min(DESCENDING // (FROM_AFAR * first * cells), STARTS), 1)
    search = slots.descent(first)
    begun = torch.cat([search.greedy(), choices.starts()])  # of which only the first may hold less than fits
    smoothed = _descended(choices, slots.crowd_descent(), begun, starts).choices[: starts // 2]
    met = _descended(choices, search, torch.cat([smoothed, begun]), starts)
    for count in stages:
        most = min(DESCENDING // (count * cells), STARTS)
        if not most:
            break
        search, ranked = slots.descent(count), met.choices[: RANKED * most]
        order = search.cost(*_rows(ranked)).argsort(stable=True)
        met = _descended(choices, search, ranked[order], most)
    return met.choices, starts


def _descended(choices: Choices, search: Descent, begun: Tensor, most: int) -> Met:
    """The ends of so many descents: half of them from the first of these caches, the others from changes of ends."""
    met = Met(choices)
    begun = begun[: math.ceil(most / 2)]
    while most > 0:
        met.add(*search.settled(*_rows(begun[:most])))
        most -= len(begun[:most])
        begun = choices.changed(met.choices[:AT_ONCE])
    return met


def _rows(cache: Tensor) -> tuple[Tensor, Tensor]:
    """Caches of the one network there is, as `Descent` takes them."""
    return torch.zeros(len(cache), dtype=torch.long), cache


def _filled_up(scenario: Scenario, slots: DrawnSlots, cache: Tensor) -> Tensor:
    """The caches with what else fits, unless the cloud outdoes busy servers that hold it."""
    fuller = with_copies(scenario, cache)
    return cache if torch.equal(fuller, cache) or slots.better(cache, fuller) else fuller


def _emptied(choices: Choices, slots: DrawnSlots, cache: Tensor) -> Tensor:
    """The caches less what the cloud outdoes, as long as it helps to hold less."""
    while cache.any():
        less = slots.best(choices.dropped(cache))
        if not slots.better(less, cache):
            break
        cache = less
    return cache

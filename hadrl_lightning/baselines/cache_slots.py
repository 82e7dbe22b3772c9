"""Drawn slots on which choices of caches are compared."""

from itertools import pairwise

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hadrl_lightning.baselines.best_known import best_targets
from hadrl_lightning.baselines.lower_bound import relaxed_assignment
from hadrl_lightning.baselines.problem import (
    OffloadingProblem,
    expected_fading,
    holders,
    offloading_problem,
    summed_latency,
)
from hadrl_lightning.scenario import Scenario
from hadrl_lightning.simulator import EdgeNetwork, spectral_efficiency
from hadrl_lightning.simulator.constants import constants

KEPT = {8: 1000, 32: 200, 128: 50, 512: 12}
"""After so many slots, how many choices are compared further at most."""
OUT_OF_REACH = 4.0
"""In standard errors of the difference to the best."""
INDIFFERENT = 1e-4
"""A share of the latency that is not worth a longer comparison; relaxed latencies are within a hundredth of it."""
CELLS_AT_ONCE = 100_000
"""Choices times slots times users times servers that are solved together: as many as a cache of the CPU holds."""
LEAST_SLOTS = 16


class MeanSlot:
    """A slot in which every service is asked for as often as it is on average, and may be served in parts.

    What a choice of caches costs there ranks choices nearly as the mean over many slots does, for a fraction of the
    work: a search can go by it if the last word is left to `DrawnSlots`.

    Args:
        scenario: the constants.
        inverse_root: mean over users and slots of 1 / sqrt(spectral efficiency).
    """

    def __init__(self, scenario: Scenario, inverse_root: float) -> None:
        table = constants(scenario, torch.device("cpu"), torch.float64)
        asked = torch.tensor(scenario.popularity_vector, dtype=torch.float64) * scenario.num_users
        self._radio = asked[:, None] * (table.input_bits[:, None] / table.bandwidth_hz).sqrt() * inverse_root
        self._edge = asked[:, None] * (table.cycles[:, None] / table.compute_hz).sqrt()
        self._cloud = (asked * table.cloud_seconds(table.input_bits, table.cycles))[:, None]
        self.cells = scenario.num_services * scenario.num_servers
        self.effort = 0
        """Choices times services times servers evaluated so far."""

    def latency(self, choices: Bool[Tensor, "choice server service"]) -> Float[Tensor, " choice"]:
        """Relaxed latency of each choice summed over users, s."""
        self.effort += len(choices) * self.cells
        found = []
        for part in choices.split(max(CELLS_AT_ONCE // self.cells, 1)):
            held = part.transpose(1, 2).double()
            problem = OffloadingProblem(
                self._radio.expand_as(held), self._edge * held, self._cloud * (1 - held)
            )
            found.append(relaxed_assignment(problem).value)
        return torch.cat(found)


class DrawnSlots:
    """The same requests and positions for all choices of caches, with the fading in expectation.

    Args:
        scenario: the constants.
        count: number of slots.
        generator: draws them, on the CPU.
        most_cells: slots times users times servers at most; `count` is lowered to that, to no less than 16.
    """

    def __init__(self, scenario: Scenario, count: int, generator: torch.Generator, most_cells: int) -> None:
        self.cells = scenario.num_users * scenario.num_servers
        self.count = max(min(count, most_cells // self.cells), min(count, LEAST_SLOTS))
        network = EdgeNetwork(scenario, num_envs=self.count, generator=generator)
        self._requests = network.requests
        fading = expected_fading(scenario, network.positions)
        slots = (network.requests, network.positions, fading)
        self._full = offloading_problem(scenario, torch.ones_like(network.cache), *slots)
        self._empty = offloading_problem(scenario, torch.zeros_like(network.cache), *slots)
        efficiency = spectral_efficiency(scenario, network.positions.double(), fading.double())
        self.mean_slot = MeanSlot(scenario, float(efficiency.rsqrt().mean()))
        self.compared = 0
        """Choices compared so far."""

    def best(self, choices: Bool[Tensor, "choice server service"]) -> Bool[Tensor, "server service"]:
        """The choice of least mean relaxed latency.

        After each of the `KEPT` numbers of slots, those are left behind that can hardly be better than the best so far
        (by `INDIFFERENT` of the latency, were the difference four standard errors off), and the worst of too many.
        """
        stops = [0, *(stop for stop in KEPT if stop < self.count), self.count]
        self.compared += len(choices)
        found = torch.zeros(len(choices), 0, dtype=torch.float64)
        for first, last in pairwise(stops):
            found = torch.cat([found, self.relaxed(choices, first, last)], dim=1)
            mean = found.mean(dim=1)
            leader = mean.argmin()
            error = (found - found[leader]).std(dim=1, correction=min(last - 1, 1)) / last**0.5
            kept = mean - OUT_OF_REACH * error < mean[leader] * (1 - INDIFFERENT)
            kept[leader] = True
            index = kept.nonzero().flatten()
            index = index[mean[index].argsort(stable=True)[: KEPT.get(last)]]
            choices, found = choices[index], found[index]
            if len(choices) == 1:
                break
        return choices[0]

    def better(self, one: Bool[Tensor, "server service"], other: Bool[Tensor, "server service"]) -> bool:
        """Whether one choice has less mean relaxed latency than the other, by `INDIFFERENT` of it."""
        first, second = self.relaxed(torch.stack([one, other]), 0, self.count).mean(dim=1)
        return bool(first < second * (1 - INDIFFERENT))

    def relaxed(
        self, choices: Bool[Tensor, "choice server service"], first: int, last: int
    ) -> Float[Tensor, "choice slot"]:
        """Relaxed latency summed over users in the slots from `first` to `last`, s."""
        some = choices.split(max(CELLS_AT_ONCE // (self.cells * (last - first)), 1))
        problems = (self._with(part, first, last) for part in some)
        found = torch.cat([relaxed_assignment(problem).value for problem in problems])
        return found.view(len(choices), -1)

    def decided(self, cache: Bool[Tensor, "server service"]) -> Float[Tensor, " slot"]:
        """Expected latency of the best known decisions summed over users, s."""
        problem = self._with(cache.unsqueeze(0), 0, self.count)
        return summed_latency(problem, best_targets(problem))

    def _with(self, choices: Tensor, first: int, last: int) -> OffloadingProblem:
        """The problem of each slot under each choice, choice by choice."""
        number, some = len(choices), slice(first, last)
        requests = self._requests[some].repeat(number, 1)
        held = holders(choices.repeat_interleave(last - first, dim=0), requests).double()
        return OffloadingProblem(
            radio_root=self._full.radio_root[some].repeat(number, 1, 1),
            edge_root=self._full.edge_root[some].repeat(number, 1, 1) * held,
            cloud_latency=self._empty.cloud_latency[some].repeat(number, 1, 1) * (1 - held),
        )

"""Drawn slots on which choices of caches are compared."""

from collections.abc import Callable
from itertools import pairwise

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import pad

from hadrl_lightning.baselines.best_known import best_targets
from hadrl_lightning.baselines.lower_bound import relaxed_assignment
from hadrl_lightning.baselines.problem import (
    OffloadingProblem,
    expected_fading,
    holders,
    offloading_problem,
    summed_latency,
)
from hadrl_lightning.planning.cache_descent import Descent, Room
from hadrl_lightning.planning.frames import Frames
from hadrl_lightning.planning.named_slots import NamedSlots, Pairs, users_are_few
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
Solve = Callable[[OffloadingProblem], Tensor]
"""The latency of each slot."""


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
        few = users_are_few(scenario.num_users, scenario.num_servers)
        self._solve: Solve = _decided if few else _relaxed
        self.count = max(min(count, most_cells // self.cells), min(count, LEAST_SLOTS))
        network = EdgeNetwork(scenario, num_envs=self.count, generator=generator)
        self._requests = network.requests
        table = network.present
        fading = expected_fading(scenario, network.positions, table=table)
        slots = (network.requests, network.positions, fading, network.physics, table)
        self._full = offloading_problem(scenario, torch.ones_like(network.cache), *slots)
        self._empty = offloading_problem(scenario, torch.zeros_like(network.cache), *slots)
        self._room = Room(
            torch.tensor([scenario.storage_bits], dtype=torch.float64),
            torch.tensor([scenario.usable_cache_bits], dtype=torch.float64),
            torch.zeros(1, *network.cache.shape[1:], dtype=torch.float64),
        )
        efficiency = spectral_efficiency(scenario, network.positions.double(), fading.double(), table=table)
        idle = table.idle(network.requests)
        asked = network.requests.flatten() if idle is None else network.requests[~idle]
        asking = torch.bincount(asked, minlength=scenario.num_services).double()
        demand = _demand(scenario, efficiency)[None, None]
        users = torch.tensor([asked.numel() / self.count], dtype=torch.float64)
        self._crowd = Frames(demand, asking[None] / self.count, users)
        self.compared = 0
        """Choices compared so far."""

    def descent(self, count: int) -> Descent:
        """A search by the last `count` of the slots, which `best` looks at last."""
        some = torch.arange(self.count)[-count:]
        missing, holding = (
            Pairs(torch.stack((one.radio_root, one.edge_root), dim=1), one.alone)
            for one in (self._empty.rows(some), self._full.rows(some))
        )
        slots = NamedSlots(missing, holding, self._requests[some], self._room.rent.shape[2])
        return Descent(slots, self._room)

    def crowd_descent(self) -> Descent:
        """A search by the mean cost of a slot with users as shares of a crowd: a smooth landscape, soon crossed."""
        return Descent(self._crowd, self._room)

    def best(self, choices: Bool[Tensor, "choice server service"]) -> Bool[Tensor, "server service"]:
        """The choice of least mean latency.

        After each of the `KEPT` numbers of slots, those are left behind that can hardly be better than the best so far
        (by `INDIFFERENT` of the latency, were the difference four standard errors off), and the worst of too many.
        """
        stops = [0, *(stop for stop in KEPT if stop < self.count), self.count]
        self.compared += len(choices)
        found = torch.zeros(len(choices), 0, dtype=torch.float64)
        for first, last in pairwise(stops):
            found = torch.cat([found, self.latency(choices, first, last)], dim=1)
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
        """Whether one choice has less mean latency than the other, by `INDIFFERENT` of it, relaxed and decided.

        A decision may be found under the one and missed under the other, but holding more never makes a relaxed one
        worse where servers outdo the cloud.
        """
        both = torch.stack([one, other])
        found = torch.stack(
            [self._by(solve, both, 0, self.count).mean(dim=1) for solve in {_relaxed, self._solve}]
        )
        return bool((found[:, 0] < found[:, 1] * (1 - INDIFFERENT)).all())

    def latency(
        self, choices: Bool[Tensor, "choice server service"], first: int, last: int
    ) -> Float[Tensor, "choice slot"]:
        """Latency summed over users in the slots from `first` to `last`, s, of relaxed decisions or the best known."""
        return self._by(self._solve, choices, first, last)

    def _by(self, solve: Solve, choices: Tensor, first: int, last: int) -> Tensor:
        some = choices.split(max(CELLS_AT_ONCE // (self.cells * (last - first)), 1))
        found = torch.cat([solve(self._with(part, first, last)) for part in some])
        return found.view(len(choices), -1)

    def decided(self, cache: Bool[Tensor, "server service"]) -> Float[Tensor, " slot"]:
        """Expected latency of the best known decisions summed over users, s."""
        return _decided(self._with(cache.unsqueeze(0), 0, self.count))

    def _with(self, choices: Tensor, first: int, last: int) -> OffloadingProblem:
        """The problem of each slot under each choice, choice by choice."""
        number, some = len(choices), slice(first, last)
        requests = self._requests[some].repeat(number, 1)
        held = holders(choices.repeat_interleave(last - first, dim=0), requests).double()
        held = pad(held, (0, self._full.alone.shape[2] - held.shape[2]))
        return OffloadingProblem(
            radio_root=self._full.radio_root[some].repeat(number, 1, 1),
            edge_root=self._full.edge_root[some].repeat(number, 1, 1) * held,
            alone=torch.lerp(
                self._empty.alone[some].repeat(number, 1, 1),
                self._full.alone[some].repeat(number, 1, 1),
                held,
            ),
        )


def _relaxed(problem: OffloadingProblem) -> Float[Tensor, " slot"]:
    return relaxed_assignment(problem).value


def _decided(problem: OffloadingProblem) -> Float[Tensor, " slot"]:
    return summed_latency(problem, best_targets(problem))


def _demand(
    scenario: Scenario, efficiency: Float[Tensor, "slot user"]
) -> Float[Tensor, "held resource_and_base service server"]:
    """What a task demands of radio and edge and waits for alone, in s, where its service is not held, and where it is.

    Of the radio, the square of the mean root: that is what users share. What is beyond it is of each alone.
    """
    table = constants(scenario, torch.device("cpu"), torch.float64)
    inverse, root = efficiency.reciprocal().mean(), efficiency.rsqrt().mean()
    bits = table.input_bits[:, None] / table.bandwidth_hz
    radio, own = bits * root.square(), bits * (inverse - root.square())
    edge = table.cycles[:, None] / table.compute_hz
    cloud = table.cloud_seconds(table.input_bits, table.cycles)[:, None]
    return torch.stack([torch.stack([radio, 0 * edge, own + cloud]), torch.stack([radio, edge, own])])

"""Choices of caches in a scenario, and the ways from one to others."""

import itertools
import math
from collections.abc import Iterable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hadrl_lightning.baselines.covering import density, filled_by_density
from hadrl_lightning.scenario import Scenario
from hadrl_lightning.simulator import fill_caches

MAX_SERVICES_LISTED = 16
"""`maximal_contents` goes through 2^K subsets."""
NUM_DRAWN = 32
"""Random caches among the starts of a search."""
FINALISTS = 400
"""Choices that `Met` keeps."""


def maximal_contents(scenario: Scenario, server: int) -> Bool[Tensor, "choice service"]:
    """All sets of services that fit into the server's usable cache and to which none can be added, bool [M, K].

    Raises:
        ValueError: more than 16 services.
    """
    services = scenario.num_services
    if services > MAX_SERVICES_LISTED:
        raise ValueError(
            f"num_services must be at most {MAX_SERVICES_LISTED} to list cache contents, got {services}"
        )
    sets = (torch.arange(2**services).unsqueeze(1) >> torch.arange(services)) & 1 == 1
    storage = torch.tensor(scenario.storage_bits, dtype=torch.float64)
    left = scenario.usable_cache_bits[server] * (1 + 1e-9) - sets.double() @ storage
    addable = ~sets & (storage <= left.unsqueeze(1))
    return sets[(left >= 0) & ~addable.any(dim=1)]


class Choices:
    """What caches can hold, bool [N, S, K] for N choices.

    Args:
        scenario: the constants.
        generator: of random caches and neighbours.
    """

    def __init__(self, scenario: Scenario, generator: torch.Generator) -> None:
        self.scenario, self.generator = scenario, generator
        self._density = density(scenario)
        capacities = (
            scenario.usable_cache_bits,
            scenario.bandwidth_per_server_hz,
            scenario.compute_per_server_hz,
        )
        self.interchangeable = all(len(set(values)) == 1 for values in capacities)
        """All servers have the same capacities (where they stand does not matter: the radio is the home server's)."""
        self._contents: list[Tensor] = []
        if scenario.num_services <= MAX_SERVICES_LISTED:
            self._contents = [maximal_contents(scenario, server) for server in range(scenario.num_servers)]

    @property
    def number(self) -> float:
        """Of choices of maximal contents; infinite if they cannot be listed."""
        sizes = [len(sets) for sets in self._contents]
        if not sizes:
            return math.inf
        if self.interchangeable:
            return float(math.comb(sizes[0] + len(sizes) - 1, len(sizes)))
        return float(math.prod(sizes))

    def all(self) -> Bool[Tensor, "choice server service"]:
        """All choices of maximal contents."""
        listed: Iterable[tuple[int, ...]]
        if self.interchangeable:
            listed = itertools.combinations_with_replacement(
                range(len(self._contents[0])), len(self._contents)
            )
        else:
            listed = itertools.product(*(range(len(sets)) for sets in self._contents))
        index = torch.tensor(list(listed))
        return torch.stack([sets[index[:, server]] for server, sets in enumerate(self._contents)], dim=1)

    def starts(self) -> Bool[Tensor, "start server service"]:
        """Caches of great coverage, and random ones."""
        cells = self.scenario.num_servers, self.scenario.num_services
        dense = fill_caches(self.scenario, self._density.expand(1, *cells))
        drawn = self._filled(torch.zeros(NUM_DRAWN, *cells, dtype=torch.bool))
        return torch.cat([filled_by_density(self.scenario).unsqueeze(0), dense, drawn])

    def changed(
        self, choices: Bool[Tensor, "choice server service"]
    ) -> Bool[Tensor, "choice server service"]:
        """Others on one server of each."""
        kept = choices.clone()
        emptied = torch.rand(kept.shape[:2], generator=self.generator).argsort(dim=1)[:, :1]
        kept[torch.arange(len(kept)).unsqueeze(1), emptied] = False
        return self._filled(kept)

    def _filled(self, cache: Bool[Tensor, "start server service"]) -> Bool[Tensor, "start server service"]:
        """The caches, and in the room they leave services in random order."""
        drawn = torch.rand(cache.shape, generator=self.generator, dtype=torch.float64)
        return fill_caches(self.scenario, drawn + cache.double())

    def dropped(self, cache: Bool[Tensor, "server service"]) -> Bool[Tensor, "choice server service"]:
        """One service less on one server or on all, a server that holds nothing, and nothing held at all."""
        held = cache.nonzero()
        services, servers = cache.any(dim=0).nonzero()[:, 0], cache.any(dim=1).nonzero()[:, 0]
        less = cache.repeat(len(held) + len(services) + len(servers) + 1, 1, 1)
        each, everywhere, emptied, nothing = less.split([len(held), len(services), len(servers), 1])
        each[torch.arange(len(held)), held[:, 0], held[:, 1]] = False
        everywhere[torch.arange(len(services)), :, services] = False
        emptied[torch.arange(len(servers)), servers] = False
        nothing.zero_()
        return less


class Met:
    """The best different choices that a search has met.

    Args:
        choices: of the scenario; which of equal servers holds what is then no difference.
    """

    def __init__(self, choices: Choices) -> None:
        scenario = choices.scenario
        self._interchangeable = choices.interchangeable
        self._code = torch.rand(scenario.num_services, generator=choices.generator, dtype=torch.float64)
        self.choices = torch.zeros(0, scenario.num_servers, scenario.num_services, dtype=torch.bool)
        """Best first, bool [N, S, K]."""
        self._latency = torch.zeros(0, dtype=torch.float64)

    def add(self, choices: Bool[Tensor, "choice server service"], latency: Float[Tensor, " choice"]) -> None:
        """Take note of choices."""
        if len(self._latency) == FINALISTS:
            good = latency < self._latency[-1]
            choices, latency = choices[good], latency[good]
        if self._interchangeable:
            order = (choices.double() @ self._code).argsort(dim=1)
            choices = choices.gather(1, order.unsqueeze(2).expand_as(choices))
        choices, latency = torch.cat([self.choices, choices]), torch.cat([self._latency, latency])
        unique, index = torch.unique(choices.flatten(1), dim=0, return_inverse=True)
        least = latency.new_full((len(unique),), torch.inf).scatter_reduce(0, index, latency, "amin")
        order = least.argsort(stable=True)[:FINALISTS]
        self.choices, self._latency = unique[order].view(-1, *choices.shape[1:]), least[order]

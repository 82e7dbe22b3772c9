"""Choices of caches in a scenario, and the ways from one to others."""

import itertools
import math
from collections.abc import Iterable, Iterator

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hadrl_lightning.baselines.covering import density, filled_by_density
from hadrl_lightning.scenario import Scenario
from hadrl_lightning.simulator import fill_caches

MAX_SERVICES_LISTED = 16
"""`maximal_contents` goes through 2^K subsets."""
MAX_CONTENTS = 200
"""Maximal contents of a server up to which all are neighbours; beyond, one service in place of others."""
MAX_CELLS = 150_000
"""Neighbours times services times servers at once; of more, so many are drawn."""
LEAST_NEIGHBOURS = 16
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
        cells = scenario.num_servers * scenario.num_services
        self._most = max(MAX_CELLS // cells, LEAST_NEIGHBOURS)
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

    @property
    def patience(self) -> int:
        """Sets of neighbours without a better one after which a descent is over: one, if they are all there are."""
        return 1 if self._contents else 3

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

    def starts(self, met: "Met") -> Iterator[Bool[Tensor, "server service"]]:
        """Caches of great coverage, random ones, then, without end, others on two servers of the best that was met."""
        covering = filled_by_density(self.scenario)
        yield covering
        yield fill_caches(self.scenario, self._density.expand(1, *covering.shape))[0]
        yield from (self._filled(torch.zeros_like(covering)) for _ in range(4))
        while True:
            kept = met.choices[0].clone()
            kept[torch.randperm(len(kept), generator=self.generator)[:2]] = False
            yield self._filled(kept)

    def _filled(self, cache: Tensor) -> Tensor:
        """The caches, and in the room they leave services in random order."""
        drawn = torch.rand(cache.shape, generator=self.generator, dtype=torch.float64)
        return fill_caches(self.scenario, (drawn + cache.double()).unsqueeze(0))[0]

    def neighbours(self, cache: Bool[Tensor, "server service"]) -> Bool[Tensor, "choice server service"]:
        """Other contents of one server, two servers' services exchanged, a service less."""
        changes = [self._refilled(cache), self._exchanged(cache), self.dropped(cache)]
        return self._some(torch.cat(changes))

    def _refilled(self, cache: Tensor) -> Tensor:
        """Other contents of one server: all maximal ones, or those with one service in place of another or of more."""
        if self._contents and max(len(sets) for sets in self._contents) <= MAX_CONTENTS:
            refilled = [cache.repeat(len(sets), 1, 1) for sets in self._contents]
            for index, sets in enumerate(self._contents):
                refilled[index][:, index] = sets
            return torch.cat(refilled)
        server, absent = (~cache).nonzero().unbind(dim=1)
        leaves = torch.cat([cache, torch.ones_like(cache[:, :1])], dim=1)[
            server
        ]  # the last: none in particular
        pair, out = leaves.nonzero().unbind(dim=1)
        drawn = self._some(torch.arange(len(pair)))
        pair, out = pair[drawn], out[drawn]
        priority = (self._density + 2.0 * cache).repeat(len(pair), 1, 1)
        rows, named = torch.arange(len(pair)), out < cache.shape[1]
        priority[rows, server[pair], absent[pair]] = 4.0
        priority[rows[named], server[pair][named], out[named]] = -1.0
        return fill_caches(self.scenario, priority)

    def _exchanged(self, cache: Tensor) -> Tensor:
        """One service of each of two servers in the other's place."""
        server, service = cache.nonzero().unbind(dim=1)
        one, other = torch.combinations(torch.arange(len(server))).unbind(dim=1)
        apart = ~cache[server[one], service[other]] & ~cache[server[other], service[one]]
        drawn = self._some(apart.nonzero().flatten())
        one, other = one[drawn], other[drawn]
        rows = torch.arange(len(drawn))
        priority = (self._density + 2.0 * cache).repeat(len(drawn), 1, 1)
        for held, gone in ((one, other), (other, one)):
            priority[rows, server[held], service[held]] = -1.0
            priority[rows, server[held], service[gone]] = 4.0
        return fill_caches(self.scenario, priority)

    def dropped(self, cache: Bool[Tensor, "server service"]) -> Bool[Tensor, "choice server service"]:
        """One service less on one server."""
        held = self._some(cache.nonzero())
        neighbours = cache.repeat(len(held), 1, 1)
        neighbours[torch.arange(len(held)), held[:, 0], held[:, 1]] = False
        return neighbours

    def _some(self, rows: Tensor) -> Tensor:
        """Of too many rows a random part."""
        if len(rows) <= self._most:
            return rows
        return rows[torch.randperm(len(rows), generator=self.generator)[: self._most]]


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

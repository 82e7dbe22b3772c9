"""The best caches: the exact optimum of coverage, and the least expected latency."""

import itertools
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..scenario import Scenario
from ..simulator import EdgeNetwork
from .best_known import best_targets
from .lower_bound import relaxed_assignment
from .problem import expected_fading, offloading_problem, summed_latency

MAX_SERVICES_LISTED = 16
"""`maximal_contents` goes through 2^K subsets."""
ROWS_AT_ONCE = 8192


class Coverage(NamedTuple):
    """Caches of greatest coverage."""

    hit_ratio: float
    """Probability that some server holds the service that a user asks for."""
    cache: Bool[Tensor, "server service"]
    """bool [S, K]"""


class BestCaches(NamedTuple):
    """Caches of least expected latency."""

    cache: Bool[Tensor, "server service"]
    """bool [S, K]"""
    latency_s: float
    """Latency summed over users in s, mean over the slots compared on, decided by the best known."""
    exact: bool
    """Every maximal choice of caches was compared; else the best end of a local search."""
    compared: int
    """How many choices of caches were compared."""


def optimal_coverage(scenario: Scenario) -> Coverage:
    """The greatest hit ratio that caches allow when a request hits if any server holds its service, and such caches.

    Exact, by mixed-integer programming: maximise sum_k p_k z_k, z_k <= sum_s c_sk, storage of c_s within the usable
    cache. Among the optima it takes one that holds the most further copies, weighted by popularity.

    Raises:
        ImportError: SciPy is missing (extra `baselines`).
    """
    servers, services = scenario.num_servers, scenario.num_services
    popularity, cells = np.array(scenario.popularity_vector), servers * services
    room = np.array(scenario.usable_cache_bits)
    storage = np.array(scenario.storage_bits)
    # unknowns: c (server-major, S K), then z (K); storage is scaled by the cache to be near 1
    fits = np.concatenate(
        [np.kron(np.eye(servers), storage) / room[:, None], np.zeros((servers, services))], axis=1
    )
    copies = np.concatenate([np.tile(-np.eye(services), servers), np.eye(services)], axis=1)
    rows = np.concatenate([fits, copies])
    limits = np.concatenate([np.ones(servers), np.zeros(services)])
    covered = np.concatenate([np.zeros(cells), popularity])
    first = _solve_milp(-covered, rows, limits, cells)
    hit_ratio = _covered_share(scenario, first)
    rows, limits = np.concatenate([rows, -covered[None]]), np.append(limits, -hit_ratio + 1e-9)
    more = np.concatenate([np.tile(popularity, servers), np.zeros(services)])
    second = _solve_milp(-more, rows, limits, cells)
    best = max(
        first, second, key=lambda cache: (round(_covered_share(scenario, cache), 9), cache @ more[:cells])
    )
    cache = torch.from_numpy(best.reshape(servers, services) > 0.5)
    return Coverage(_covered_share(scenario, best), cache)


def coverage(scenario: Scenario, cache: Bool[Tensor, "batch server service"]) -> Float[Tensor, " batch"]:
    """Probability that some server holds the service that a user asks for, float64 [B]."""
    popularity = torch.tensor(scenario.popularity_vector, dtype=torch.float64, device=cache.device)
    return cache.any(dim=1).double() @ popularity


def best_caches(
    scenario: Scenario,
    generator: torch.Generator,
    num_slots: int = 64,
    max_compared: int = 3000,
    num_starts: int = 4,
) -> BestCaches:
    """Caches under which the latency expected of the best offloading decisions is least.

    Requests and positions of the slots to come do not depend on what is cached, so one choice of caches is best for
    all frames. Only maximal contents (nothing more fits) are worth comparing, and servers of equal capacities can
    change places. Where that leaves at most `max_compared` choices, all are compared on the same `num_slots` drawn
    slots; else a local search, from the optimum of coverage and from random contents, changes the contents of one
    server at a time. Choices are compared by the relaxed latency (within 0.1 % of the best known).

    Args:
        scenario: at most 16 services.
        generator: draws requests and positions, on the CPU.
        num_slots: slots to compare on; the choice is the best one for these slots.
        max_compared: number of choices up to which all are compared.
        num_starts: starts of the local search, at least 1.

    Raises:
        ValueError: too many services to list the contents.
        ImportError: SciPy is missing (extra `baselines`); only the local search needs it.
    """
    network = EdgeNetwork(scenario, num_envs=num_slots, generator=generator)
    contents = [maximal_contents(scenario, server) for server in range(scenario.num_servers)]
    exact = _num_choices(scenario, contents) <= max_compared
    if exact:
        choices = _all_choices(scenario, contents)
        cache = choices[int(relaxed_latency(network, choices).argmin())]
        compared = choices.shape[0]
    else:
        starts = [optimal_coverage(scenario).cache, *_random_choices(contents, num_starts - 1, generator)]
        found = [_search_caches(network, contents, start) for start in starts]
        cache, _, _ = min(found, key=lambda end: end[1])
        compared = sum(count for _, _, count in found)
    return BestCaches(cache, float(expected_latency(network, cache.unsqueeze(0))), exact, compared)


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


def relaxed_latency(
    network: EdgeNetwork, caches: Bool[Tensor, "choice server service"]
) -> Float[Tensor, " choice"]:
    """Certified lower bound on the expected latency summed over users in s, mean over the network's slots, [N]."""
    return _mean_latency(network, caches, relaxed=True)


def expected_latency(
    network: EdgeNetwork, caches: Bool[Tensor, "choice server service"]
) -> Float[Tensor, " choice"]:
    """Expected latency summed over users of the best known decision in s, mean over the network's slots, [N]."""
    return _mean_latency(network, caches, relaxed=False)


def _mean_latency(network: EdgeNetwork, caches: Tensor, relaxed: bool) -> Tensor:
    scenario, slots = network.scenario, network.num_envs
    fading = expected_fading(scenario, network.positions)
    found = []
    for some in caches.to(network.device).split(max(ROWS_AT_ONCE // slots, 1)):
        problem = offloading_problem(
            scenario,
            some.repeat_interleave(slots, dim=0),
            network.requests.repeat(some.shape[0], 1),
            network.positions.repeat(some.shape[0], 1, 1),
            fading.repeat(some.shape[0], 1),
        )
        if relaxed:
            latency = relaxed_assignment(problem, max_iterations=120, tolerance=1e-3).bound
        else:
            latency = summed_latency(problem, best_targets(problem))
        found.append(latency.view(-1, slots).mean(dim=1))
    return torch.cat(found)


def _interchangeable(scenario: Scenario) -> bool:
    """All servers have the same capacities (where they stand does not matter: the radio is the home server's)."""
    capacities = (
        scenario.usable_cache_bits,
        scenario.bandwidth_per_server_hz,
        scenario.compute_per_server_hz,
    )
    return all(len(set(values)) == 1 for values in capacities)


def _num_choices(scenario: Scenario, contents: list[Tensor]) -> int:
    if _interchangeable(scenario):
        return math.comb(contents[0].shape[0] + scenario.num_servers - 1, scenario.num_servers)
    return math.prod(sets.shape[0] for sets in contents)


def _all_choices(scenario: Scenario, contents: list[Tensor]) -> Bool[Tensor, "choice server service"]:
    listed: Iterable[tuple[int, ...]]
    if _interchangeable(scenario):
        listed = itertools.combinations_with_replacement(range(contents[0].shape[0]), scenario.num_servers)
    else:
        listed = itertools.product(*(range(sets.shape[0]) for sets in contents))
    index = torch.tensor(list(listed))
    return torch.stack([sets[index[:, server]] for server, sets in enumerate(contents)], dim=1)


def _random_choices(contents: list[Tensor], count: int, generator: torch.Generator) -> list[Tensor]:
    """Maximal contents drawn for every server, `count` times, bool [S, K]."""
    drawn = [torch.randint(sets.shape[0], (count,), generator=generator) for sets in contents]
    return list(torch.stack([sets[index] for sets, index in zip(contents, drawn, strict=True)], dim=1))


def _search_caches(network: EdgeNetwork, contents: list[Tensor], cache: Tensor) -> tuple[Tensor, float, int]:
    """Best contents of one server given the others', over and over until no server's change helps."""
    best = float(relaxed_latency(network, cache.unsqueeze(0)))
    compared, unchanged, server = 1, 0, 0
    while unchanged < len(contents):
        neighbours = cache.unsqueeze(0).repeat(contents[server].shape[0], 1, 1)
        neighbours[:, server] = contents[server]
        latency = relaxed_latency(network, neighbours)
        compared, unchanged = compared + len(latency), unchanged + 1
        if float(latency.min()) < best * (1 - 1e-6):
            best, cache, unchanged = float(latency.min()), neighbours[int(latency.argmin())], 1
        server = (server + 1) % len(contents)
    return cache, best, compared


def _covered_share(scenario: Scenario, cells: np.ndarray) -> float:
    held = np.any(cells.reshape(scenario.num_servers, -1) > 0.5, axis=0).tolist()
    return math.fsum(p for p, one in zip(scenario.popularity_vector, held, strict=True) if one)


def _solve_milp(cost: np.ndarray, rows: np.ndarray, limits: np.ndarray, cells: int) -> np.ndarray:
    """Least cost over binary c and z in [0, 1] with rows @ (c, z) <= limits; c as 0.0 or 1.0, [S K]."""
    optimize = _scipy_optimize()
    solution = optimize.milp(
        cost,
        constraints=optimize.LinearConstraint(rows, ub=limits),
        integrality=np.arange(len(cost)) < cells,
        bounds=optimize.Bounds(0, 1),
        options={"mip_rel_gap": 1e-9},
    )
    if solution.x is None:
        raise RuntimeError(f"scipy.optimize.milp found no caches: {solution.message}")
    return np.round(solution.x[:cells])


def _scipy_optimize() -> Any:
    try:
        from scipy import optimize
    except ImportError as error:
        raise ImportError(
            "the optimum of coverage needs SciPy: install the extra hadrl-lightning[baselines]"
        ) from error
    return optimize

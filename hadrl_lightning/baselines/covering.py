"""The caches of greatest coverage, with a certificate of how far they can be from it."""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hadrl_lightning.errors import require
from hadrl_lightning.scenario import Scenario
from hadrl_lightning.simulator import fill_caches

NODES_TIMES_CELLS = 100_000
"""Nodes of a branch-and-bound tree times servers times services: the effort ends there, on any machine alike."""
MAX_CELLS = 2000
"""Servers times services beyond which not even the root of the tree is worth its time."""
TIME_LIMIT_S = 60.0
"""A second stop for each of the two programs, which only a very slow machine meets."""
EQUAL = 1e-8
"""Hit ratios that differ by less count as equal: the solver's tolerance."""


class Coverage(NamedTuple):
    """Caches of greatest coverage."""

    hit_ratio: float
    """Probability that some server holds the service that a user asks for."""
    cache: Bool[Tensor, "server service"]
    """bool [S, K]"""
    bound: float
    """No caches have a greater hit ratio than this: certified. Equal to `hit_ratio` where that is the optimum."""

    @property
    def gap(self) -> float:
        """How much greater the optimum can be, as a share of the hit ratio; 0 where it is found."""
        return 0.0 if self.bound == self.hit_ratio else self.bound / self.hit_ratio - 1


def optimal_coverage(scenario: Scenario) -> Coverage:
    """The greatest hit ratio that caches allow when a request hits if any server holds its service, and such caches.

    By mixed-integer programming: maximise sum_k p_k z_k, z_k <= sum_s c_sk, storage of c_s within the usable cache;
    then, keeping the hit ratio, the most further copies, weighted by popularity. Both end after a number of nodes that
    depends on the scenario's size alone (in ES2 to ES5 long after the optimum is proved). `bound` says how much better
    other caches can cover; of the further copies nothing is certified. Where servers times services exceed `MAX_CELLS`
    the caches are filled by density (popularity per storage), and the bound is that of one cache as large as all.

    Raises:
        MissingExtra: SciPy is missing (extra `baselines`).
    """
    scenario.require_one_network()
    filled = filled_by_density(scenario)
    bound = _pooled_bound(scenario)
    found = [filled]
    if scenario.num_servers * scenario.num_services <= MAX_CELLS:
        first, dual = _widest(scenario)
        bound = min(bound, dual)
        found += [first, with_copies(scenario, first)]
        found.append(_most_copies(scenario, max(covered_share(scenario, cache) for cache in found)))
    share = max(covered_share(scenario, cache) for cache in found)
    good = [cache for cache in found if covered_share(scenario, cache) > share - EQUAL]
    best = max(good, key=lambda cache: _weighted_copies(scenario, cache))
    hit_ratio = covered_share(scenario, best)
    return Coverage(hit_ratio, best, bound if bound > hit_ratio + EQUAL else hit_ratio)


def coverage(scenario: Scenario, cache: Bool[Tensor, "batch server service"]) -> Float[Tensor, " batch"]:
    """Probability that some server holds the service that a user asks for, float64 [B]."""
    popularity = torch.tensor(scenario.popularity_vector, dtype=torch.float64, device=cache.device)
    return cache.any(dim=1).double() @ popularity


def covered_share(scenario: Scenario, cache: Bool[Tensor, "server service"]) -> float:
    """`coverage` of one choice of caches, summed without rounding errors."""
    held = cache.any(dim=0).tolist()
    return math.fsum(p for p, one in zip(scenario.popularity_vector, held, strict=True) if one)


def density(scenario: Scenario) -> Float[Tensor, " service"]:
    """Popularity per storage, in the unit of the densest service: in [0, 1], float64 [K]."""
    popularity = torch.tensor(scenario.popularity_vector, dtype=torch.float64)
    ratio = popularity / torch.tensor(scenario.storage_bits, dtype=torch.float64)
    return ratio / ratio.max()


def filled_by_density(scenario: Scenario) -> Tensor:
    """One server after another takes services by density, those that no server before holds first."""
    cache = torch.zeros(scenario.num_servers, scenario.num_services, dtype=torch.bool)
    for server in range(scenario.num_servers):
        priority = density(scenario) - 2.0 * cache.any(dim=0)
        cache[server] = fill_caches(scenario, priority.expand(1, *cache.shape))[0, server]
    return cache


def with_copies(scenario: Scenario, cache: Tensor) -> Tensor:
    """The caches, and in what room they leave further services by density."""
    return fill_caches(scenario, (density(scenario) + 2.0 * cache).unsqueeze(0))[0]


def _weighted_copies(scenario: Scenario, cache: Tensor) -> float:
    """Copies of services, weighted by popularity."""
    return float(cache.double().sum(dim=0) @ torch.tensor(scenario.popularity_vector, dtype=torch.float64))


def _pooled_bound(scenario: Scenario) -> float:
    """Dantzig's bound for one cache as large as all together, of the services that fit into some server."""
    largest, room = max(scenario.usable_cache_bits), math.fsum(scenario.usable_cache_bits)
    storage, bound = scenario.storage_bits, 0.0
    for service in density(scenario).argsort(descending=True).tolist():
        if storage[service] <= largest:
            share = min(1.0, room / storage[service])
            bound += share * scenario.popularity_vector[service]
            room -= share * storage[service]
    return bound


def _widest(scenario: Scenario) -> tuple[Tensor, float]:
    """Caches that cover most, as far as the effort goes, and a bound on what any cover."""
    popularity, cells = np.array(scenario.popularity_vector), scenario.num_servers * scenario.num_services
    cost = np.concatenate([np.zeros(cells), -popularity])
    solution = _solve(scenario, cost, [])
    dual = -solution.mip_dual_bound if solution.mip_dual_bound is not None else 1.0
    return _caches(scenario, solution), dual


def _most_copies(scenario: Scenario, hit_ratio: float) -> Tensor:
    """Caches that cover at least as much, with the most copies weighted by popularity, as far as the effort goes."""
    popularity, cells = np.array(scenario.popularity_vector), scenario.num_servers * scenario.num_services
    cost = np.concatenate([np.tile(-popularity, scenario.num_servers), np.zeros(scenario.num_services)])
    covered = np.concatenate([np.zeros(cells), popularity])
    return _caches(scenario, _solve(scenario, cost, [(covered, hit_ratio - 1e-9)]))


def _solve(scenario: Scenario, cost: np.ndarray, at_least: list[tuple[np.ndarray, float]]) -> Any:
    """Least cost over caches c (binary, server by server) and z in [0, 1], z_k <= sum_s c_sk, all within storage."""
    optimize, sparse = require("the optimum of coverage", ["scipy.optimize", "scipy.sparse"])
    servers, services = scenario.num_servers, scenario.num_services
    cells = servers * services
    storage, room = np.array(scenario.storage_bits), np.array(scenario.usable_cache_bits)
    with np.errstate(divide="ignore"):  # a server without a cache: nothing fits
        scaled = np.minimum(storage / room[:, None], 2.0)  # near 1, whatever the unit
    fits = sparse.block_diag([row[None] for row in scaled])
    copies = sparse.kron(np.ones((1, servers)), sparse.eye(services))
    rows = sparse.bmat([[fits, None], [-copies, sparse.eye(services)]])
    constraints = [
        optimize.LinearConstraint(rows.tocsc(), ub=np.concatenate([np.ones(servers), np.zeros(services)]))
    ]
    constraints += [optimize.LinearConstraint(row[None], lb=least) for row, least in at_least]
    return optimize.milp(
        cost,
        constraints=constraints,
        integrality=np.arange(len(cost)) < cells,
        bounds=optimize.Bounds(0, 1),
        options={
            "mip_rel_gap": 1e-9,
            "node_limit": max(NODES_TIMES_CELLS // cells, 1),
            "time_limit": TIME_LIMIT_S,
        },
    )


def _caches(scenario: Scenario, solution: Any) -> Bool[Tensor, "server service"]:
    """The caches of a solution, empty if there is none; what fits but for the solver's tolerance is left out."""
    shape = (scenario.num_servers, scenario.num_services)
    if solution.x is None:
        return torch.zeros(shape, dtype=torch.bool)
    cells = torch.from_numpy(solution.x[: shape[0] * shape[1]].reshape(shape) > 0.5)
    return fill_caches(scenario, density(scenario).expand(1, *shape), cells.unsqueeze(0))[0]

"""Policies to compare with, the best known decision and the bounds that bracket it."""

from hadrl_lightning.baselines.best_known import (
    Bracket,
    best_known,
    best_known_allocation,
    best_known_and_bound,
    best_known_policy,
    best_targets,
    coming_fading,
    hindsight_policy,
)
from hadrl_lightning.baselines.cache_choices import maximal_contents
from hadrl_lightning.baselines.caches import BestCaches, best_caches, least_latency
from hadrl_lightning.baselines.carried import EmptySlot, carried_bound, carried_over, empty_slot
from hadrl_lightning.baselines.clairvoyant import ClairvoyantPolicy
from hadrl_lightning.baselines.covering import Coverage, coverage, optimal_coverage
from hadrl_lightning.baselines.genetic import GeneticSearch, GeneticSettings
from hadrl_lightning.baselines.loads import (
    drift_plus_penalty,
    home_sqrt,
    least_loaded_equal,
    least_loaded_sqrt,
    local_only,
    shortest_queue,
    two_choices,
)
from hadrl_lightning.baselines.lower_bound import Relaxation, lower_bound, relaxed_assignment
from hadrl_lightning.baselines.policies import (
    CACHING_POLICIES,
    OFFLOADING_POLICIES,
    CachingFactory,
    OffloadingFactory,
    all_cloud,
    density_knapsack,
    fixed_caches,
    no_caching,
    popularity_first,
    random_caching,
    random_full_caches,
    random_offloading,
)
from hadrl_lightning.baselines.problem import (
    OffloadingProblem,
    expected_fading,
    offloading_problem,
    square_root_shares,
)
from hadrl_lightning.baselines.replacement import (
    GreedyDualSizeFrequency,
    LeastRecentlyUsed,
    Sieve,
    least_frequently_used,
)

__all__ = [
    "CACHING_POLICIES",
    "OFFLOADING_POLICIES",
    "BestCaches",
    "Bracket",
    "CachingFactory",
    "ClairvoyantPolicy",
    "Coverage",
    "EmptySlot",
    "GeneticSearch",
    "GeneticSettings",
    "GreedyDualSizeFrequency",
    "LeastRecentlyUsed",
    "OffloadingFactory",
    "OffloadingProblem",
    "Relaxation",
    "Sieve",
    "all_cloud",
    "best_caches",
    "best_known",
    "best_known_allocation",
    "best_known_and_bound",
    "best_known_policy",
    "best_targets",
    "carried_bound",
    "carried_over",
    "coming_fading",
    "coverage",
    "density_knapsack",
    "drift_plus_penalty",
    "empty_slot",
    "expected_fading",
    "fixed_caches",
    "hindsight_policy",
    "home_sqrt",
    "least_frequently_used",
    "least_latency",
    "least_loaded_equal",
    "least_loaded_sqrt",
    "local_only",
    "lower_bound",
    "maximal_contents",
    "no_caching",
    "offloading_problem",
    "optimal_coverage",
    "popularity_first",
    "random_caching",
    "random_full_caches",
    "random_offloading",
    "relaxed_assignment",
    "shortest_queue",
    "square_root_shares",
    "two_choices",
]

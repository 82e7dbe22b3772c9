"""Policies and learners that HADRL is compared with."""

from dataclasses import asdict, replace
from pathlib import Path

import gymnasium
import numpy as np
import optuna
import pytest
import torch
from stable_baselines3.common import vec_env
from torch import Tensor

from benchmarks.tune_rivals import PLACES, RIVALS, cell_of, finished, given_trials, run_trial, study_of
from hadrl_lightning.baselines import (
    CACHING_POLICIES,
    OFFLOADING_POLICIES,
    GeneticSearch,
    GeneticSettings,
    LeastRecentlyUsed,
    all_cloud,
    best_known_policy,
    density_knapsack,
    least_frequently_used,
    least_loaded_equal,
    least_loaded_sqrt,
    popularity_first,
    random_offloading,
)
from hadrl_lightning.baselines.learners import LearnerSettings
from hadrl_lightning.benchmark.policies import LEARNERS
from hadrl_lightning.benchmark.sb3 import SpawnedSeed, _normalised, spawned_seeds
from hadrl_lightning.play import OffloadingPolicy, home_equal, run_episode
from hadrl_lightning.scenario import GIB, Scenario
from hadrl_lightning.simulator import EdgeNetwork, fill_caches

TIGHT = Scenario(cache_bytes=40 * GIB)
SMALL = Scenario(cache_bytes=20 * GIB, num_users=6, decisions_per_episode=3, slots_per_decision=2)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network_of(scenario: Scenario, num_envs: int = 3, seed: int = 0) -> EdgeNetwork:
    return EdgeNetwork(scenario, num_envs=num_envs, generator=generator(seed))


def services(cache: Tensor) -> list[int]:
    """Ordinals 1...K of what one server holds."""
    return [int(k) + 1 for k in cache.nonzero().squeeze(1)]


def mean_latency(scenario: Scenario, caching: str, offloading: OffloadingPolicy, num_envs: int = 2) -> float:
    network = network_of(scenario, num_envs)
    policy = CACHING_POLICIES[caching](scenario, generator(1))
    return float(run_episode(network, policy, offloading).latency.sum(dim=2).mean())


@pytest.mark.parametrize("offloading", OFFLOADING_POLICIES)
@pytest.mark.parametrize("physics", ["strict", "published"])
def test_every_offloading_policy_plays_an_episode_and_repeats_it(offloading: str, physics: str) -> None:
    def latency() -> Tensor:
        network = EdgeNetwork(SMALL, physics, num_envs=2, generator=generator())  # type: ignore[arg-type]
        caching = CACHING_POLICIES["density"](SMALL, generator())
        policy = OFFLOADING_POLICIES[offloading](SMALL, generator(1))
        return run_episode(network, caching, policy).latency

    first = latency()
    assert torch.isfinite(first).all()
    assert torch.equal(first, latency())


@pytest.mark.parametrize("caching", CACHING_POLICIES)
def test_every_caching_policy_gives_feasible_caches_and_repeats_them(caching: str) -> None:
    def cache() -> Tensor:
        policy = CACHING_POLICIES[caching](SMALL, generator(1))
        return run_episode(network_of(SMALL), policy, home_equal).cache

    assert torch.equal(cache(), cache())


@pytest.mark.parametrize(
    "offloading", ["all_cloud", "home_equal", "least_loaded_equal", "best_known", "random"]
)
def test_strict_shares_of_every_server_with_users_sum_to_one(offloading: str) -> None:
    scenario = replace(TIGHT, decisions_per_episode=2)
    policy = OFFLOADING_POLICIES[offloading](scenario, generator())
    caching = CACHING_POLICIES["random"](scenario, generator())
    episode = run_episode(network_of(scenario), caching, policy)
    for load in (episode.bandwidth_load, episode.compute_load):
        torch.testing.assert_close(load[load > 0], torch.ones_like(load[load > 0]))


def test_popularity_first_fills_the_cache_from_the_most_popular_service_down() -> None:
    # 32 GiB hold ordinals summing up to 16 (2000 MiB each). Service 1 has 0.034 + 0.243 = 0.277, then 10, 9, ...:
    # 1, 10 (sum 11), then 5 fits (16).
    network = network_of(TIGHT)
    cache = popularity_first(network)
    assert services(cache[0, 0]) == [1, 5, 10]
    assert torch.equal(cache[0, 0], cache[2, 1])


def test_density_prefers_what_is_popular_for_its_size() -> None:
    # popularity / ordinal: 1: .277, 10: .0212, 2: .0183, 9: .0135, 3: .0134, 8: .0110, 4: .0112, ...
    # 1, 10, 2 (sum 13), 9 no, 3 (16)
    assert services(density_knapsack(network_of(TIGHT))[0, 0]) == [1, 2, 3, 10]


def test_lfu_holds_what_was_asked_most_and_nothing_at_first() -> None:
    network = network_of(TIGHT)
    assert not least_frequently_used(network).any()
    network.state.request_counts[0, [2, 9, 4]] = torch.tensor([5.0, 7.0, 6.0])
    # by count: 10 (10), 5 (15), 3 would be 18 > 16
    assert services(least_frequently_used(network)[0, 0]) == [5, 10]


def test_lru_prefers_the_last_frame_to_the_one_before() -> None:
    network, policy = network_of(TIGHT), LeastRecentlyUsed()
    assert not policy(network).any()
    network.decision = 1
    network.state.request_counts[0, [9, 4]] = torch.tensor([50.0, 1.0])
    assert services(policy(network)[0, 0]) == [5, 10]
    network.decision = 2
    network.state.request_counts[0, [7]] += 1
    # 8 was asked in the last frame; of the frame before, 10 does not fit beside it, 5 does
    assert services(policy(network)[0, 0]) == [5, 8]


def test_lru_forgets_at_the_start_of_an_episode() -> None:
    policy = LeastRecentlyUsed()
    first = run_episode(network_of(SMALL, seed=1), policy, home_equal).cache
    run_episode(network_of(SMALL, seed=2), policy, home_equal)
    assert torch.equal(first, run_episode(network_of(SMALL, seed=1), policy, home_equal).cache)
    assert not first[0].any()


def test_all_cloud_misses_wherever_a_server_lacks_the_service() -> None:
    network = network_of(TIGHT, num_envs=20)
    network.begin_frame(fill_caches(TIGHT, torch.rand(20, 2, 10, generator=generator(5))))
    everywhere = network.cache.all(dim=1).gather(1, network.requests)
    assert torch.equal(network.step(all_cloud(network)).hit, everywhere)


def test_least_loaded_hits_whenever_a_server_holds_the_service_and_balances_the_users() -> None:
    network = network_of(TIGHT, num_envs=20)
    network.begin_frame(fill_caches(TIGHT, torch.rand(20, 2, 10, generator=generator(5))))
    somewhere = network.cache.any(dim=1).gather(1, network.requests)
    assert torch.equal(network.step(least_loaded_equal(network)).hit, somewhere)
    full = network_of(Scenario())
    full.begin_frame(torch.ones(3, 2, 10, dtype=torch.bool))
    assert (least_loaded_equal(full).server.sum(dim=1) == 15).all()


def test_a_server_of_twice_the_compute_takes_twice_the_users() -> None:
    scenario = Scenario(compute_hz=(20e9, 40e9))
    network = network_of(scenario)
    network.begin_frame(torch.ones(3, 2, 10, dtype=torch.bool))
    assert (least_loaded_equal(network).server.sum(dim=1) == 20).all()


def test_the_policies_stand_in_the_known_order_where_caches_are_tight() -> None:
    ordered: list[OffloadingPolicy] = [
        best_known_policy,
        least_loaded_sqrt,
        least_loaded_equal,
        home_equal,
        random_offloading(generator(3)),
        all_cloud,
    ]
    latency = [mean_latency(TIGHT, "random_full", policy) for policy in ordered]
    assert latency == sorted(latency)


def test_with_everything_cached_the_levels_are_the_measured_ones() -> None:
    # random 39.92 (40,000 slots), home server with equal shares 23.8, best known 19.6; 5,000, and 400 slots here
    assert mean_latency(Scenario(), "popularity", random_offloading(generator(3)), 100) == pytest.approx(
        39.92, rel=0.01
    )
    assert mean_latency(Scenario(), "popularity", home_equal, 100) == pytest.approx(23.8, rel=0.01)
    assert mean_latency(Scenario(), "popularity", best_known_policy, 8) == pytest.approx(19.7, rel=0.02)


def test_the_genetic_algorithm_improves_with_its_budget() -> None:
    short = replace(TIGHT, decisions_per_episode=1)

    def latency(generations: int) -> float:
        settings = GeneticSettings(population=24, generations=generations)
        return mean_latency(short, "hit_optimal", GeneticSearch(generator(2), settings))

    few, many, best = latency(1), latency(30), mean_latency(short, "hit_optimal", best_known_policy)
    assert best <= many < 0.9 * few
    assert many < 1.15 * best


@pytest.mark.parametrize(
    ("field", "value"),
    [("population", 1), ("generations", 0), ("elites", 64), ("mutation_rate", 1.5), ("mutation_std", 0.0)],
)
def test_a_wrong_genetic_setting_is_named(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{field} must be .* got"):
        GeneticSettings(**{field: value})  # type: ignore[arg-type]


# --- the learners: their environments and settings -------------------------------------------------------------------


def test_environments_of_neighbouring_seeds_have_no_seed_in_common() -> None:
    seeds = [number for seed in range(20) for number in spawned_seeds(seed, 16)]
    assert len(set(seeds)) == 320
    assert spawned_seeds(3, 16)[:4] == spawned_seeds(3, 4)


def test_environments_of_neighbouring_seeds_show_different_requests() -> None:
    def first_views(seed: int) -> list[bytes]:
        makers = [
            lambda spawned=spawned: SpawnedSeed(gymnasium.make("hadrl/EdgeNetwork-v0"), spawned)
            for spawned in spawned_seeds(seed, 4)
        ]
        envs = vec_env.DummyVecEnv(makers)
        envs.seed(seed)  # as Stable-Baselines3 does: seed, seed + 1, …
        return [view.tobytes() for view in envs.reset()]

    assert len({*first_views(0), *first_views(1)}) == 8
    assert first_views(1) == first_views(1)


def test_rewards_are_normalised_by_their_mean_and_deviation() -> None:
    makers = [lambda: gymnasium.make("hadrl/EdgeNetwork-v0", reward="latency") for _ in range(4)]
    envs = _normalised(vec_env, makers, "rewards", 0.0)
    envs.reset()
    action = np.zeros((4, *envs.action_space.shape), np.float32)
    rewards = np.stack([envs.step(action)[1] for _ in range(60)])
    assert abs(rewards[20:].mean()) < 0.3
    assert rewards[20:].std() == pytest.approx(1, abs=0.3)


@pytest.mark.parametrize("name", ["twin-ddpg", "flat-ddpg"])
def test_settings_of_the_ddpg_learners_are_settings_there_are(name: str) -> None:
    settings = LearnerSettings(**{**asdict(LearnerSettings()), **LEARNERS[name].learner})
    assert settings.ddpg().hidden_sizes == tuple(settings.hidden_sizes)


@pytest.mark.parametrize("rival", list(RIVALS))
def test_the_search_begins_with_settings_that_a_trial_can_take(rival: str) -> None:
    for given in given_trials(rival):
        learner = RIVALS[rival].suggest(optuna.trial.FixedTrial(given))
        if LEARNERS[rival].kind == "sb3":
            assert learner["algorithm"] == LEARNERS[rival].learner["algorithm"]
            assert learner["gamma"] == given["gamma"]
        else:
            assert LearnerSettings(**learner) == LearnerSettings()
        unknown = set(LEARNERS[rival].learner) - set(learner)
        assert not unknown, "what the benchmark has, the search must set"


def test_the_place_of_a_trial_is_that_of_the_benchmark() -> None:
    cell = cell_of("sac", "es2.yaml", None, 100)
    assert cell.settings["scenario"]["cache_bytes"] == 20 * GIB
    assert cell.settings["slots"] == 9200
    assert cell.seed == 100


@pytest.mark.slow
def test_a_search_goes_on_where_it_was(tmp_path: Path) -> None:
    random = dict.fromkeys(PLACES, 100.0)
    for number in range(2):
        run_trial(("twin-ddpg", str(tmp_path / "journal"), number, 400, random))
    study = study_of("twin-ddpg", str(tmp_path / "journal"))
    assert [trial.params == RIVALS["twin-ddpg"].before for trial in finished(study)] == [True, False]
    assert finished(study)[0].value == pytest.approx(
        sum(finished(study)[0].user_attrs[place] for place in PLACES) / 200
    )

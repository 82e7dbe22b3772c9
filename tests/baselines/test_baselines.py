"""Policies and learners that HADRL is compared with; the best known policy."""

import importlib
import itertools
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import optuna
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common import vec_env
from torch import Tensor

from benchmarks.tune_rivals import PLACES, RIVALS, cell_of, finished, given_trials, run_trial, study_of
from hadrl_lightning.baselines import (
    CACHING_POLICIES,
    OFFLOADING_POLICIES,
    GeneticSearch,
    GeneticSettings,
    GreedyDualSizeFrequency,
    LeastRecentlyUsed,
    Sieve,
    all_cloud,
    best_caches,
    best_known,
    best_known_allocation,
    best_known_and_bound,
    best_known_policy,
    best_targets,
    cache_slots,
    caches,
    coming_fading,
    coverage,
    covering,
    density_knapsack,
    drift_plus_penalty,
    expected_fading,
    hindsight_policy,
    home_sqrt,
    least_frequently_used,
    least_latency,
    least_loaded_equal,
    least_loaded_sqrt,
    local_only,
    lower_bound,
    maximal_contents,
    offloading_problem,
    optimal_coverage,
    popularity_first,
    random_offloading,
    relaxed_assignment,
    shortest_queue,
    square_root_shares,
    two_choices,
)
from hadrl_lightning.baselines.best_known import greedy_targets, local_search
from hadrl_lightning.baselines.cache_slots import DrawnSlots
from hadrl_lightning.baselines.learners import LearnerSettings
from hadrl_lightning.baselines.problem import OffloadingProblem, shown_links, summed_latency
from hadrl_lightning.benchmark import sb3
from hadrl_lightning.benchmark.policies import LEARNERS
from hadrl_lightning.benchmark.sb3 import (
    SpawnedSeed,
    _normalised,
    set_policies,
    spawned_seeds,
    train_over_networks,
)
from hadrl_lightning.benchmark.slot_actor import SlotActor, SlotCritic, SlotNumbers, allocation_of
from hadrl_lightning.play import OffloadingPolicy, home_equal, run_episode
from hadrl_lightning.scenario import GIB, KIB, Scenario
from hadrl_lightning.simulator import (
    Allocation,
    EdgeNetwork,
    OffloadingView,
    equal_shares,
    fill_caches,
    serve,
    spectral_efficiency,
)
from hadrl_lightning.simulator.radio import rayleigh

TIGHT = Scenario(cache_bytes=40 * GIB)
ROOM_OF_3: dict[str, Any] = {"cache_bytes": 3.0 * GIB, "usable_cache_fraction": 1.0}
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


def test_gdsf_weighs_what_a_miss_costs_by_storage_and_ages_what_is_not_asked_for() -> None:
    alike = {"input_bytes": (8.0,) * 3, "workload_cycles": (4e9,) * 3, "popularity": "zipf", **ROOM_OF_3}
    sizes = (1.0 * GIB, 2.0 * GIB, 2.0 * GIB)
    scenario = Scenario(num_servers=1, num_services=3, storage_bytes=sizes, **alike)
    network, policy = network_of(scenario), GreedyDualSizeFrequency()

    def after(*asked: float) -> list[int]:
        network.state.request_counts += torch.tensor(asked)
        network.state.cache = policy(network)
        network.decision += 1
        return services(network.cache[0, 0])

    assert after(0, 0, 0) == []
    # In misses per GiB: 1, 2 and 1.5. The third does not fit beside the second; the clock rises to the lowest kept, 1.
    assert after(1, 4, 3) == [1, 2]
    # The third was not held, so it counts 1 request: 1 + 0.5. All 4 would have been 1 + 2, more than the second has.
    assert after(0, 0, 1) == [1, 2]
    # 1 + 1.5 is more than the 2 that the second had when the clock was at 0.
    assert after(0, 0, 3) == [1, 3]


def test_sieve_lets_go_what_was_not_asked_for_since_the_hand_passed() -> None:
    sizes = (1.0 * GIB, 1.0 * GIB, 1.0 * GIB, 2.0 * GIB, 4.0 * GIB)
    room = {**ROOM_OF_3, "cache_bytes": (3.0 * GIB, 1.0 * GIB)}
    scenario = Scenario(num_servers=2, num_services=5, storage_bytes=sizes, popularity="zipf", **room)
    network = network_of(scenario)
    policy = Sieve()

    def after(*asked: float) -> list[list[int]]:
        network.state.request_counts += torch.tensor(asked)
        held = policy(network)[0]
        network.decision += 1
        return [services(held[0]), services(held[1])]

    assert after(0, 0, 0, 0, 0) == [[], []]
    # 1, 2 and 3 come in this order, the last two marked; the fifth is too large. On the small server 3 is the last.
    assert after(1, 2, 3, 0, 9) == [[1, 2, 3], [3]]
    # 4 needs two places: 1 has no mark; 2 and 3 lose theirs, and the hand is back at 2.
    assert after(0, 0, 0, 1, 0) == [[3, 4], [3]]
    # 3 is marked and stays, so 4 goes, though it came later; the small server has nothing but 3 to let go.
    assert after(1, 0, 1, 0, 0) == [[1, 3], [1]]
    network.decision, network.state.request_counts = 0, torch.zeros(3, 5)
    assert after(0, 0, 0, 0, 0) == [[], []]


def asking(network: EdgeNetwork, *requests: int) -> EdgeNetwork:
    """Everything cached, and these requests in the coming slot."""
    network.begin_frame(torch.ones_like(network.cache))
    asked = torch.tensor(requests).repeat(network.num_envs, 1)
    network.unfolding.slot = replace(network.unfolding.slot, requests=asked)
    return network


def waiting(seconds: tuple[float, ...], num_envs: int = 1, **fields: Any) -> EdgeNetwork:
    """A network of equal users with one task each, and so many seconds of work before those of each server."""
    processes = {"queues": {"arrivals": "every", "load": None, "tasks_per_slot": 1.0}}
    size = {"num_servers": len(seconds), "num_services": 1, "workload_cycles": (4e9,), **fields}
    network = network_of(Scenario(processes=processes, popularity="zipf", **size), num_envs)
    asking(network, *[0] * network.scenario.num_users)
    backlog = torch.tensor(seconds, dtype=torch.float64) * network.exact.compute_hz
    network.state.carried["queues"]["backlog"] = backlog.expand(num_envs, -1).clone()
    return network


def test_the_shortest_queue_is_that_of_least_work_not_of_fewest_users() -> None:
    scenario = Scenario(num_users=6, num_services=2, popularity="zipf", workload_cycles=(1e9, 4e9))
    network = asking(network_of(scenario, 1), 1, 0, 0, 0, 0, 0)
    assert shortest_queue(network).server.tolist() == [[0, 1, 1, 1, 1, 0]]
    assert least_loaded_equal(network).server.tolist() == [[0, 1, 0, 1, 0, 1]]


def test_the_shortest_queue_counts_the_work_that_waits() -> None:
    # 4e9 cycles at 20 GHz are 0.2 s: after two users the queues are as long, and the first server has the lower index
    network = waiting((0.4, 0.0), num_users=4, compute_hz=20e9)
    assert shortest_queue(network).server.tolist() == [[1, 1, 0, 1]]


@pytest.mark.parametrize("name", sorted(OFFLOADING_POLICIES))
def test_where_there_are_no_users_there_is_nothing_to_decide(name: str) -> None:
    network = EdgeNetwork(Scenario(num_users=0), num_envs=2)
    network.begin_frame(torch.ones_like(network.cache))
    policy = OFFLOADING_POLICIES[name](network.scenario, generator())
    assert policy(network).server.shape == (2, 0)


def test_of_two_servers_drawn_at_random_the_less_loaded_is_chosen() -> None:
    network = waiting((1.0, 2.0, 3.0), num_envs=3000, num_users=1)
    chosen = two_choices(generator())(network).server.flatten().bincount(minlength=3) / 3000
    # of three pairs two have the first server, and the third is never the less loaded one
    torch.testing.assert_close(chosen, torch.tensor([2 / 3, 1 / 3, 0]), atol=0.03, rtol=0)


@pytest.mark.parametrize(("backlog_s", "target"), [(0.26, 1), (0.28, 0)])
def test_drift_plus_penalty_weighs_work_that_joins_a_backlog_beside_latency(
    backlog_s: float, target: int
) -> None:
    # 4e9 cycles take 0.4 s at the first server and 0.1 s behind the backlog at the second: 0.1 + 0.28 s are less than
    # 0.4 s, but not with 0.1 s · 0.28 s / 1 s besides.
    network = waiting((0.0, backlog_s), num_users=1, compute_hz=(10e9, 40e9))
    assert drift_plus_penalty(network).server.tolist() == [[target]]
    assert best_known_policy(network).server.tolist() == [[1]]


def test_local_only_stays_on_devices_where_they_compute_and_at_home_elsewhere() -> None:
    scenario = Scenario(num_servers=3, num_users=4)
    device = network_of(replace(scenario, processes={"device": {}}))
    assert (local_only(device).server == 3).all()
    network = network_of(scenario)
    assert torch.equal(local_only(network).server, network.homes)
    assert torch.equal(home_sqrt(network).server, home_equal(network).server)


@pytest.mark.parametrize(
    "name", ["home_sqrt", "least_loaded_sqrt", "shortest_queue", "drift_plus_penalty", "genetic"]
)
def test_heuristics_do_not_know_which_servers_are_slow(name: str) -> None:
    scenario = Scenario(num_servers=3, num_users=6)
    slow = replace(scenario, processes={"slow_servers": {"slow_part": 0.5}})

    def decided(offloading: str, scenario: Scenario) -> Allocation:
        network = network_of(scenario, 20)
        network.begin_frame(torch.ones_like(network.cache))
        return OFFLOADING_POLICIES[offloading](scenario, generator())(network)

    for one, other in zip(decided(name, slow), decided(name, scenario), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(decided("best_known", slow).server, decided("best_known", scenario).server)


def test_heuristics_know_of_links_what_phones_report() -> None:
    scenario = Scenario(num_servers=2, num_users=5, processes={"correlated_channel": {}})
    network = network_of(scenario)
    table, fading = shown_links(network)
    seen = network.offloading_view().spectral_efficiency.double()
    linked = spectral_efficiency(scenario, network.positions.double(), fading.double(), table=table)
    torch.testing.assert_close(linked, seen, atol=0, rtol=1e-5)


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
    envs = _normalised(makers, "rewards", 0.0)
    envs.reset()
    action = np.zeros((4, *envs.action_space.shape), np.float32)
    rewards = np.stack([envs.step(action)[1] for _ in range(60)])
    assert abs(rewards[20:].mean()) < 0.3
    assert rewards[20:].std() == pytest.approx(1, abs=0.3)


@pytest.mark.parametrize("name", ["twin-ddpg", "flat-ddpg"])
def test_settings_of_the_ddpg_learners_are_settings_there_are(name: str) -> None:
    settings = LearnerSettings(**{**asdict(LearnerSettings()), **LEARNERS[name].learner})
    assert settings.ddpg().hidden_sizes == tuple(settings.hidden_sizes)


def set_models() -> tuple[SlotActor, SlotCritic]:
    """An actor and a critic that tell users and servers apart."""
    torch.manual_seed(0)
    actor, critic = SlotActor(), SlotCritic()
    with torch.no_grad():
        for layer in (actor.logit.weight, actor.share.code.weight, actor.share.token.weight):
            layer.mul_(100)
    return actor, critic


def view_of(num_servers: int = 3, num_users: int = 7, num_envs: int = 2) -> OffloadingView:
    """What the fast level sees of networks of unequal servers."""
    unequal = [10e9 * (1 + server) for server in range(num_servers)]
    network = network_of(
        replace(TIGHT, num_servers=num_servers, num_users=num_users, compute_hz=unequal), num_envs
    )
    network.begin_frame(CACHING_POLICIES["random_full"](network.scenario, generator())(network))
    return network.offloading_view()


@torch.no_grad()
def decided(actor: SlotActor, view: OffloadingView) -> Allocation:
    seen, order = SlotNumbers.of(view)
    return allocation_of(*actor.act(seen, deterministic=True), order, view.cache.shape[1])


def test_a_set_actor_decides_the_same_in_whatever_order_users_and_servers_come() -> None:
    actor, critic = set_models()
    view = view_of(num_users=30)
    user, server = torch.randperm(30, generator=generator()), torch.tensor([2, 0, 1])
    users = ("requests", "input_bits", "cycles", "spectral_efficiency")
    servers = ("cache", "free_cache_bits", "bandwidth_hz", "compute_hz")
    turned = replace(
        view,
        **{name: getattr(view, name)[:, user] for name in users},
        **{name: getattr(view, name)[:, server] for name in servers},
    )
    before, after = decided(actor, view), decided(actor, turned)
    assert len(before.server.unique()) > 1
    assert torch.equal(server[after.server], before.server[:, user])
    for share in ("bandwidth_share", "compute_share"):
        assert getattr(before, share).std() > 0.01
        torch.testing.assert_close(getattr(after, share), getattr(before, share)[:, user])
    torch.testing.assert_close(critic(SlotNumbers.of(turned)[0]), critic(SlotNumbers.of(view)[0]))


@torch.no_grad()
def test_absent_users_and_servers_change_nothing() -> None:
    actor, critic = set_models()
    seen, _ = SlotNumbers.of(view_of())
    padded = SlotNumbers(
        *(torch.nn.functional.pad(value, (0, 0, 0, 2), value=9.0) for value in seen[:2]),
        torch.nn.functional.pad(seen.holds, (0, 2, 0, 2), value=1.0),
        *(torch.nn.functional.pad(value, (0, 2)) for value in seen[3:]),
    )
    target, share = actor.act(seen, deterministic=True)
    more_target, more_share = actor.act(padded, deterministic=True)
    assert torch.equal(more_target[:, :7], target)
    torch.testing.assert_close(more_share[:, :7], share)
    assert not more_target[:, 7:].any()
    assert not more_share[:, 7:].any()
    likely = actor.judge(seen, target, share)
    torch.testing.assert_close(actor.judge(padded, more_target, more_share), likely)
    torch.testing.assert_close(critic(padded), critic(seen))
    torch.testing.assert_close(padded.cropped().user, seen.user)
    for _ in range(20):
        assert actor.act(padded)[0].max() < 3


@torch.no_grad()
def test_a_set_actor_draws_as_often_as_it_says() -> None:
    actor, _ = set_models()
    one = SlotNumbers.of(view_of(num_servers=2, num_users=3, num_envs=1))[0]
    many = SlotNumbers(*(value.expand(4000, *value.shape[1:]) for value in one))
    target, share = actor.act(many)
    codes = target @ torch.tensor([1, 2, 4])
    every = torch.cartesian_prod(*[torch.arange(2)] * 3).flip(1)
    eight = SlotNumbers(*(value.expand(8, *value.shape[1:]) for value in one))
    means = actor.share(actor.pairs(eight).at(every.flatten())).view(8, 3, 2)
    density = -2 * actor.log_noise.mean() - torch.tensor(2 * torch.pi).log()
    chance = ((actor.judge(eight, every, means)[0] - density) * 3).exp()
    assert float(chance.sum()) == pytest.approx(1, abs=1e-4)
    torch.testing.assert_close(codes.bincount(minlength=8) / 4000, chance, atol=0.03, rtol=0)
    likely = actor.judge(many, target, share)[0] - actor.judge(many, target, means[codes])[0]
    assert float(likely.mean()) == pytest.approx(-1, abs=0.05)  # of two normal numbers a user


FEW = {
    "scenario": {
        "num_users": {"low": 2, "high": 5},
        "num_servers": {"low": 1, "high": 3},
        "decisions_per_episode": 2,
        "slots_per_decision": 2,
    },
    "num_envs": 2,
    "slots": 35,
    "learner": {"learning_rate": 3e-3, "gamma": 0.0, "n_steps": 4, "batch_size": 8, "n_epochs": 2},
}


def test_a_training_over_networks_that_was_interrupted_ends_as_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sb3, "ROLLOUTS_OF_A_PART", 2)
    whole, slots = train_over_networks(FEW, "strict", 3, None)
    assert slots == 32
    file, learn = tmp_path / "trainings" / "one.ckpt", sb3.PPO.learn

    def interrupted(model: sb3.PPO, total_timesteps: int, **options: object) -> sb3.PPO:
        if model.num_timesteps:
            raise KeyboardInterrupt
        return learn(model, total_timesteps, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(sb3.PPO, "learn", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_over_networks(FEW, "strict", 3, file)
    monkeypatch.setattr(sb3.PPO, "learn", learn)
    for _ in range(2):  # the second has nothing left to do
        again, slots = train_over_networks(FEW, "strict", 3, file)
        assert slots == 32
        torch.testing.assert_close(again.state_dict(), whole.state_dict(), rtol=0, atol=0)
    other, _ = train_over_networks(FEW, "strict", 4, None)
    assert not torch.equal(other.logit.weight, whole.logit.weight)
    scenario = replace(SMALL, num_servers=5, num_users=9, cache_bytes=1)  # larger than any that it met
    episode = run_episode(network_of(scenario), *set_policies(whole, scenario))
    assert torch.isfinite(episode.latency).all()


@pytest.mark.parametrize("rival", list(RIVALS))
def test_the_search_begins_with_settings_that_a_trial_can_take(rival: str) -> None:
    for trial in given_trials(rival):
        learner = RIVALS[rival].suggest(optuna.trial.FixedTrial(trial))
        if LEARNERS[rival].kind == "sb3":
            assert learner["algorithm"] == LEARNERS[rival].learner["algorithm"]
            assert learner["gamma"] == trial["gamma"]
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


# --- the best known policy

ES5 = Scenario(num_servers=5, num_users=40, input_step_bytes=500 * KIB, compute_hz=20e9, cache_bytes=40 * GIB)
Slot = tuple[Scenario, Tensor, Tensor, Tensor, Tensor]


def draw_slots(scenario: Scenario, batch: int, seed: int = 0) -> Slot:
    """Random full caches, requests, positions and fading, float64."""
    source = generator(seed)
    network = EdgeNetwork(scenario, num_envs=batch, generator=source, dtype=torch.float64)
    shape = (batch, scenario.num_servers, scenario.num_services)
    cache = fill_caches(scenario, torch.rand(shape, generator=source, dtype=torch.float64))
    fading = rayleigh((batch, scenario.num_users), source, torch.device("cpu"), torch.float64)
    return scenario, cache, network.requests, network.positions, fading


def tiny_scenario(servers: int, users: int, cache_gib: float = 20.0, compute_hz: float = 5e9) -> Scenario:
    """Few users on little compute, of different size on every server, so that targets matter."""
    compute = tuple(compute_hz * (1 + 0.4 * s) for s in range(servers))
    bandwidth = tuple(20e6 * (2 - 0.3 * s) for s in range(servers))
    return Scenario(
        num_servers=servers,
        num_users=users,
        cache_bytes=cache_gib * GIB,
        compute_hz=compute,
        bandwidth_hz=bandwidth,
    )


def exhaustive_latency(slots: Slot) -> Tensor:
    """Least summed latency over all S^U targets with square-root shares, each judged by `serve`, [B]."""
    scenario, cache, requests, positions, fading = slots
    problem = offloading_problem(*slots)
    best = torch.full((cache.shape[0],), math.inf, dtype=torch.float64)
    for choice in itertools.product(range(scenario.num_servers), repeat=scenario.num_users):
        target = torch.tensor(choice).expand(cache.shape[0], -1)
        allocation = square_root_shares(problem, target, torch.float64)
        service = serve(scenario, cache, requests, positions, fading, allocation)
        best = torch.minimum(best, service.latency.sum(dim=1))
    return best


@pytest.mark.parametrize(
    ("servers", "users", "cache_gib"), [(2, 6, 20), (2, 5, 200), (3, 5, 20), (3, 4, 200)]
)
def test_the_exhaustive_optimum_lies_between_lower_bound_and_best_known(
    servers: int, users: int, cache_gib: float
) -> None:
    slots = draw_slots(tiny_scenario(servers, users, cache_gib), batch=40)
    optimum = exhaustive_latency(slots)
    found = best_known(*slots).latency.sum(dim=1)
    bound = lower_bound(*slots)
    assert (bound <= optimum * (1 + 1e-9)).all()
    assert (found >= optimum * (1 - 1e-9)).all()
    assert (found <= optimum * 1.02).all()
    assert ((found / optimum).mean() - 1) < 1e-3


def test_two_equal_users_of_two_equal_servers_part_ways() -> None:
    # roots 1 on both servers: together (1 + 1)^2 = 4 for radio and for edge, 8 s; apart 1 + 1 for each, 4 s
    problem = OffloadingProblem(
        torch.ones(1, 2, 2).double(), torch.ones(1, 2, 2).double(), torch.zeros(1, 2, 2).double()
    )
    assert summed_latency(problem, torch.tensor([[0, 0]])).item() == 8
    target = best_targets(problem)
    assert target[0, 0] != target[0, 1]
    assert summed_latency(problem, target).item() == 4
    assert relaxed_assignment(problem).bound.item() == pytest.approx(4)


def test_a_user_goes_to_the_cloud_where_the_edge_is_slower_than_the_cloud() -> None:
    # server 0 holds both services: 3^2 = 9 s each alone, 36 s together; a miss at server 1 costs 10 s, radio is free
    problem = OffloadingProblem(
        torch.zeros(1, 2, 2).double(),
        torch.tensor([[[3.0, 0.0], [3.0, 0.0]]]).double(),
        torch.tensor([[[0.0, 10.0], [0.0, 10.0]]]).double(),
    )
    target = best_targets(problem)
    assert sorted(target[0].tolist()) == [0, 1]
    assert summed_latency(problem, target).item() == 19


def test_square_root_shares_cost_what_the_closed_form_says() -> None:
    slots = draw_slots(ES5, batch=20)
    problem = offloading_problem(*slots)
    target = torch.randint(5, (20, 40), generator=generator(1))
    allocation = square_root_shares(problem, target, torch.float64)
    service = serve(*slots, allocation)
    torch.testing.assert_close(service.latency.sum(dim=1), summed_latency(problem, target))
    torch.testing.assert_close(service.bandwidth_load, torch.ones(20, 5, dtype=torch.float64))
    torch.testing.assert_close(service.compute_load, torch.ones(20, 5, dtype=torch.float64))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_no_other_shares_beat_the_square_root_shares(seed: int) -> None:
    slots = draw_slots(tiny_scenario(2, 6), batch=4, seed=seed)
    problem = offloading_problem(*slots)
    target = torch.randint(2, (4, 6), generator=generator(seed))
    shares = square_root_shares(problem, target, torch.float64)
    noise = [torch.rand(4, 6, generator=generator(seed + n), dtype=torch.float64) + 0.5 for n in (1, 2)]
    onehot = torch.nn.functional.one_hot(target, 2).double()

    def normalised(weight: Tensor) -> Tensor:
        return weight / (onehot @ (onehot.transpose(1, 2) @ weight.unsqueeze(2))).squeeze(2)

    other = Allocation(
        target,
        normalised(shares.bandwidth_share * noise[0]),
        normalised(shares.compute_share * noise[1]),
    )
    best, worse = (serve(*slots, allocation).latency.sum(dim=1) for allocation in (shares, other))
    assert (best <= worse * (1 + 1e-9)).all()


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000), servers=st.integers(1, 4), users=st.integers(1, 12))
def test_the_lower_bound_is_below_every_decision(seed: int, servers: int, users: int) -> None:
    slots = draw_slots(tiny_scenario(servers, users), batch=8, seed=seed)
    bound = lower_bound(*slots)
    target = torch.randint(servers, (8, users), generator=generator(seed))
    latency = serve(*slots, equal_shares(slots[0], target, torch.float64)).latency.sum(dim=1)
    assert (bound > 0).all()
    assert (bound <= latency * (1 + 1e-9)).all()
    assert (bound <= best_known(*slots).latency.sum(dim=1) * (1 + 1e-9)).all()


def test_the_bound_of_any_fractional_assignment_holds_after_any_number_of_iterations() -> None:
    slots = draw_slots(tiny_scenario(3, 5), batch=20)
    problem, optimum = offloading_problem(*slots), exhaustive_latency(slots)
    for iterations in (1, 3, 10, 100):
        relaxed = relaxed_assignment(problem, max_iterations=iterations, tolerance=0.0)
        assert (relaxed.bound <= optimum * (1 + 1e-9)).all()
        assert (relaxed.bound <= relaxed.value * (1 + 1e-9)).all()


@pytest.mark.parametrize("cache_gib", [20, 40, 200])
def test_best_known_is_within_a_percent_of_the_lower_bound_in_the_published_size(cache_gib: float) -> None:
    slots = draw_slots(replace(ES5, cache_bytes=cache_gib * GIB), batch=30)
    found, bound = best_known(*slots).latency.sum(dim=1), lower_bound(*slots)
    assert (found <= bound * 1.02).all()
    assert found.mean() <= bound.mean() * 1.002


def test_best_known_does_not_depend_on_the_batch_or_on_the_order_of_users() -> None:
    scenario, cache, requests, positions, fading = draw_slots(ES5, batch=6)
    whole = best_known(scenario, cache, requests, positions, fading).latency.sum(dim=1)
    alone = best_known(scenario, cache[2:3], requests[2:3], positions[2:3], fading[2:3]).latency.sum(dim=1)
    torch.testing.assert_close(alone, whole[2:3])
    # within a cell users can change places: users 0-7 share server 0
    order = torch.cat([torch.arange(7, -1, -1), torch.arange(8, 40)])
    swapped = best_known(scenario, cache, requests[:, order], positions[:, order], fading[:, order])
    torch.testing.assert_close(swapped.latency.sum(dim=1), whole, rtol=5e-3, atol=0)


def test_the_relaxation_of_equal_users_on_unequal_servers_is_at_its_minimum() -> None:
    # fractions can share anything out, so the least is that of one server as fast as all: (12 * 3)^2 / (6 + 3 + 3)
    capacity = torch.tensor([6.0, 3.0, 3.0]).double()
    root = (3 / capacity.sqrt()).expand(1, 12, 3).clone()
    relaxed = relaxed_assignment(OffloadingProblem(torch.zeros_like(root), root, torch.zeros_like(root)))
    assert relaxed.value.item() == pytest.approx(108, rel=1e-6)
    assert relaxed.bound.item() == pytest.approx(108, rel=1e-6)
    torch.testing.assert_close(relaxed.targets.sum(dim=2), torch.ones(1, 12).double())


@pytest.mark.parametrize("seed", range(4))
def test_the_relaxation_converges_whatever_the_costs(seed: int) -> None:
    # costs over eight orders of magnitude, services on some of the servers, users who cost nothing
    source, servers, users = generator(seed), 1 + 3 * seed, 25 - 8 * seed
    shape = (20, users, servers)
    radio, edge, cloud = (10 ** (8 * torch.rand(shape, generator=source).double() - 4) for _ in range(3))
    held = torch.rand(shape, generator=source) < 0.5
    problem = OffloadingProblem(radio.sqrt(), edge.sqrt() * held, cloud * ~held)
    for field in problem:
        field[:, 0] = 0
    relaxed = relaxed_assignment(problem)
    assert (relaxed.value - relaxed.bound <= 1e-6 * relaxed.value).all()
    assert (relaxed.targets >= 0).all()
    alone = relaxed_assignment(problem.rows(torch.tensor([7])))
    torch.testing.assert_close(alone.value, relaxed.value[7:8])


def test_costs_too_far_apart_for_double_precision_end_with_a_bound_that_holds() -> None:
    source = generator()
    roots = [10 ** (12 * torch.rand(50, 5, 6, generator=source).double() - 6) for _ in range(3)]
    relaxed = relaxed_assignment(OffloadingProblem(*roots), tolerance=0.0)
    assert (relaxed.bound <= relaxed.value * (1 + 1e-9)).all()
    assert (relaxed.value - relaxed.bound <= 0.1 * relaxed.value).all()


def test_a_slot_without_users_or_costs_has_no_latency() -> None:
    for users in (0, 2):
        nothing = torch.zeros(3, users, 2).double()
        relaxed = relaxed_assignment(OffloadingProblem(nothing, nothing, nothing))
        assert relaxed.value.tolist() == relaxed.bound.tolist() == [0, 0, 0]


def test_the_expected_fading_gives_the_mean_of_the_inverse_efficiency() -> None:
    scenario = Scenario(num_users=4)
    positions = torch.tensor([[[100.0, 1.0], [100.0, 30.0], [200.0, 100.0], [1000.0, 50.0]]]).double()
    at_mean = 1 / spectral_efficiency(scenario, positions, expected_fading(scenario, positions))
    many = 400_000
    fading = rayleigh((many, 4), generator(), torch.device("cpu"), torch.float64)
    sampled = (1 / spectral_efficiency(scenario, positions.expand(many, -1, -1), fading)).mean(dim=0)
    torch.testing.assert_close(at_mean[0], sampled, rtol=2e-3, atol=0)


def test_single_precision_positions_give_single_precision_decisions() -> None:
    scenario, cache, requests, positions, fading = draw_slots(Scenario(), batch=3)
    allocation = best_known_allocation(scenario, cache, requests, positions.float())
    assert allocation.bandwidth_share.dtype == torch.float32
    service = best_known(scenario, cache, requests, positions.float(), fading.float())
    assert service.latency.dtype == torch.float32


def test_the_coming_fading_is_what_the_network_draws_and_looking_at_it_changes_nothing() -> None:
    network = EdgeNetwork(ES5, num_envs=5, generator=generator(3))
    network.begin_frame(fill_caches(ES5, torch.ones(5, 5, 10)))
    fading = coming_fading(network)
    torch.testing.assert_close(coming_fading(network), fading)
    foreseen = best_known(ES5, network.cache, network.requests, network.positions, fading)
    served = network.step(hindsight_policy(network))
    torch.testing.assert_close(served.latency, foreseen.latency)


def test_on_the_mean_over_fading_no_plan_beats_the_best_known_policy_by_more_than_its_gap() -> None:
    scenario = tiny_scenario(2, 5)
    network = EdgeNetwork(scenario, num_envs=30, generator=generator(), dtype=torch.float64)
    network.begin_frame(fill_caches(scenario, torch.rand(30, 2, 10, generator=generator(1))))
    fading = expected_fading(scenario, network.positions)
    state = scenario, network.cache, network.requests, network.positions, fading
    planned = serve(*state, best_known_policy(network)).latency.sum(dim=1)
    optimum = exhaustive_latency(state)
    assert (planned >= optimum * (1 - 1e-9)).all()
    assert planned.mean() <= optimum.mean() * 1.001


def test_exchanges_weighed_in_parts_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    scenario, cache, requests, positions, fading = draw_slots(ES5, 12)
    problem = offloading_problem(scenario, cache, requests, positions, fading)
    whole = best_targets(problem)
    module = importlib.import_module("hadrl_lightning.baselines.best_known")  # a function has its name too
    monkeypatch.setattr(module, "PAIRS_AT_ONCE", 5 * 40**2)
    assert torch.equal(best_targets(problem), whole)


def test_many_users_change_places_in_a_step_and_every_step_saves_what_its_changes_save() -> None:
    # One change a step takes 175 steps here.
    problem = offloading_problem(
        *draw_slots(Scenario(num_servers=50, num_users=320, cache_bytes=20 * GIB), 1)
    )
    target, steps = greedy_targets(problem), 0
    latency = summed_latency(problem, target)
    while not torch.equal(after := local_search(problem, target, max_steps=1), target):
        target, before, latency = after, latency, summed_latency(problem, after)
        assert (latency < before).all()
        steps += 1
    assert steps < 80
    assert (latency <= relaxed_assignment(problem).bound * 1.001).all()


def test_among_few_users_and_many_servers_hardly_a_slot_is_decided_worse_than_the_best() -> None:
    scenario = tiny_scenario(servers=7, users=4, compute_hz=2e9)
    problem = offloading_problem(scenario, *draw_slots(scenario, 60)[1:])
    found = summed_latency(problem, best_targets(problem))
    targets = torch.tensor(list(itertools.product(range(7), repeat=4)))
    least = torch.stack(
        [summed_latency(problem.rows(torch.full((len(targets),), slot)), targets).min() for slot in range(60)]
    )
    assert float(found.sum() / least.sum()) < 1.0005


@pytest.mark.parametrize(("servers", "users"), [(1, 5), (3, 1)])
def test_a_search_leaves_the_problem_as_it_is(servers: int, users: int) -> None:
    scenario = Scenario(num_servers=servers, num_users=users, cache_bytes=20 * GIB)
    problem = offloading_problem(scenario, *draw_slots(scenario, 4)[1:])
    before = [value.clone() for value in problem]
    target = best_targets(problem)
    for value, was in zip(problem, before):
        torch.testing.assert_close(value, was, rtol=0, atol=0)
    each = torch.stack(
        [summed_latency(problem, torch.full_like(target, server)) for server in range(servers)]
    )
    if users == 1:
        torch.testing.assert_close(summed_latency(problem, target), each.amin(dim=0))


def test_what_ends_a_search_is_that_no_move_and_no_swap_saves_anything() -> None:
    scenario = Scenario(num_servers=4, num_users=9, cache_bytes=20 * GIB)
    problem = offloading_problem(*draw_slots(scenario, 6))
    target = best_targets(problem)
    least = summed_latency(problem, target) * (1 - 1e-8)
    for user in range(9):
        for server in range(4):
            moved = target.clone()
            moved[:, user] = server
            assert (summed_latency(problem, moved) >= least).all()
        for other in range(user):
            swapped = target.clone()
            swapped[:, [user, other]] = target[:, [other, user]]
            assert (summed_latency(problem, swapped) >= least).all()


def test_one_call_gives_the_best_known_decision_of_a_city_its_cost_and_a_bound() -> None:
    city = Scenario(num_servers=50, num_users=320)
    _, cache, requests, positions, _ = slots = draw_slots(city, batch=1)
    found = best_known_and_bound(*slots)
    latency = serve(*slots, found.allocation).latency.sum(dim=1)
    torch.testing.assert_close(found.latency_s, latency)
    torch.testing.assert_close(found.bound_s, lower_bound(*slots))
    assert 0 <= found.gap.item() < 2e-3
    for parts, whole in zip(found.allocation, best_known_allocation(*slots), strict=True):
        assert torch.equal(parts, whole)
    nobody = best_known_and_bound(replace(city, num_users=0), cache, requests[:, :0], positions[:, :0])
    assert nobody.gap.tolist() == nobody.latency_s.tolist() == [0]


# Caches ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scenario", "ratio"), [(Scenario(cache_bytes=40 * GIB), 0.758), (ES5, 1.0), (Scenario(), 1)]
)
def test_the_optimal_coverage_is_the_known_one(scenario: Scenario, ratio: float) -> None:
    best = optimal_coverage(scenario)
    assert best.hit_ratio == pytest.approx(ratio, abs=5e-4)
    assert coverage(scenario, best.cache.unsqueeze(0)).item() == pytest.approx(best.hit_ratio)
    used = best.cache.double() @ torch.tensor(scenario.storage_bits, dtype=torch.float64)
    assert (used <= torch.tensor(scenario.usable_cache_bits, dtype=torch.float64)).all()


@pytest.mark.parametrize("seed", range(4))
def test_the_optimal_coverage_is_that_of_exhaustive_search(seed: int) -> None:
    weights = tuple((torch.rand(6, generator=generator(seed)) + 0.05).tolist())
    sizes = tuple(((torch.rand(6, generator=generator(seed + 9)) + 0.2) * 10 * GIB).tolist())
    scenario = Scenario(
        num_services=6,
        popularity=weights,
        storage_bytes=sizes,
        cache_bytes=(12 * GIB, 20 * GIB),
    )
    first, second = (maximal_contents(scenario, server) for server in (0, 1))
    pairs = (first.unsqueeze(1) | second.unsqueeze(0)).double()
    best = (pairs @ torch.tensor(scenario.popularity_vector, dtype=torch.float64)).max()
    assert optimal_coverage(scenario).hit_ratio == pytest.approx(best.item())


def test_maximal_contents_of_three_services() -> None:
    # room for 0.8 * 5 = 4 GiB; storage 1, 2, 3 GiB: {1, 2} and {1, 3} are maximal, {2, 3} does not fit
    scenario = Scenario(
        num_services=3,
        popularity=(1.0, 1.0, 1.0),
        storage_bytes=(1 * GIB, 2 * GIB, 3 * GIB),
        cache_bytes=5 * GIB,
    )
    found = {tuple(row) for row in maximal_contents(scenario, 0).int().tolist()}
    assert found == {(1, 1, 0), (1, 0, 1)}


def test_too_many_services_to_list_are_refused() -> None:
    with pytest.raises(ValueError, match="num_services must be at most 16"):
        maximal_contents(Scenario(num_services=17, popularity="zipf"), 0)


def test_coverage_of_many_unequal_servers_ends_with_a_certified_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(2)
    scenario = Scenario(
        num_servers=7,
        num_users=50,
        num_services=25,
        popularity="zipf",
        storage_bytes=tuple(draw.uniform(1, 10, 25) * GIB),
        cache_bytes=tuple(draw.uniform(0.5, 1.5, 7) * 20 * GIB),
    )
    monkeypatch.setattr(covering, "NODES_TIMES_CELLS", 5_000)
    best = optimal_coverage(scenario)
    assert 0 < best.gap < 0.02
    assert best.bound == pytest.approx(best.hit_ratio * (1 + best.gap))
    assert optimal_coverage(scenario).hit_ratio == best.hit_ratio
    used = best.cache.double() @ torch.tensor(scenario.storage_bits, dtype=torch.float64)
    assert (used <= torch.tensor(scenario.usable_cache_bits, dtype=torch.float64)).all()


def test_coverage_beyond_what_a_program_can_solve_is_bounded_by_one_pooled_cache(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # 4 + 4 GiB of room, services of 3, 3 and 2 GiB with popularity 0.4, 0.4, 0.2: one server holds one of 3 GiB, the
    # other the other one; pooled, 8 GiB would hold all
    scenario = Scenario(
        num_services=3,
        popularity=(2.0, 2.0, 1.0),
        storage_bytes=(3 * GIB, 3 * GIB, 2 * GIB),
        cache_bytes=5 * GIB,
    )
    assert optimal_coverage(scenario).gap == 0
    monkeypatch.setattr(covering, "MAX_CELLS", 0)
    best = optimal_coverage(scenario)
    assert best.hit_ratio == pytest.approx(0.8)
    assert best.bound == pytest.approx(1.0)


def test_the_best_caches_are_no_worse_than_those_of_optimal_coverage_and_random_ones() -> None:
    scenario = Scenario(cache_bytes=20 * GIB)
    best = best_caches(scenario, generator(), num_slots=24)
    assert best.exact
    assert best.label == "latency-optimal (exact)"
    slots = DrawnSlots(scenario, 24, generator(), 10**9)
    others = fill_caches(scenario, torch.rand(30, 2, 10, generator=generator(1)))
    others = torch.cat([others, optimal_coverage(scenario).cache.unsqueeze(0)])
    assert best.latency_s <= float(slots.latency(others, 0, 24).mean(dim=1).min()) * 1.001


def test_the_local_search_finds_the_caches_that_comparing_all_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caches, "DESCENDING", 60_000)
    scenario = Scenario(
        num_servers=3,
        num_users=15,
        num_services=6,
        popularity="zipf",
        compute_hz=(10e9, 20e9, 40e9),
        storage_bytes=tuple(size * 1e9 for size in (4, 6, 8, 10, 13, 16)),
        cache_bytes=20e9,
    )
    best = best_caches(scenario, generator(), num_slots=64)
    searched = best_caches(scenario, generator(1), num_slots=64, max_compared=1)
    assert best.exact
    assert not searched.exact
    assert searched.label == "least latency found (local search)"
    assert searched.starts > 1
    slots = DrawnSlots(scenario, 2000, generator(2), 10**9)
    least, found = slots.latency(torch.stack([best.cache, searched.cache]), 0, 2000).mean(dim=1)
    assert abs(float(found / least) - 1) < 0.002


@pytest.mark.slow
@pytest.mark.parametrize(("name", "gib"), [("es2", 20), ("es3", 40), ("es4", 40), ("es5", 40)])
def test_another_seed_of_the_search_moves_the_least_latency_by_less_than_a_five_hundredth(
    name: str, gib: int
) -> None:
    scenario = replace(Scenario.from_config(f"{name}.yaml"), cache_bytes=gib * GIB)
    found = torch.stack([best_caches(scenario, generator(seed)).cache for seed in range(3)])
    latency = DrawnSlots(scenario, 4096, generator(999), 10**9).latency(found, 0, 4096).mean(dim=1)
    assert float(latency.max() / latency.min()) < 1.002


def test_more_than_sixteen_services_are_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caches, "DESCENDING", 6_000)
    scenario = Scenario(
        num_servers=2, num_users=4, num_services=20, popularity="zipf", cache_bytes=(40 * GIB, 60 * GIB)
    )
    best = best_caches(scenario, generator(), num_slots=16)
    slots = DrawnSlots(scenario, 16, generator(), 10**9)
    widest = optimal_coverage(scenario).cache
    chosen, other = slots.latency(torch.stack([best.cache, widest]), 0, 16).mean(dim=1)
    assert chosen <= other
    used = best.cache.double() @ torch.tensor(scenario.storage_bits, dtype=torch.float64)
    assert (used <= torch.tensor(scenario.usable_cache_bits, dtype=torch.float64)).all()


CAMPUS = Scenario(
    num_servers=3,
    num_users=12,
    num_services=4,
    popularity=(4, 3, 2, 1),
    compute_hz=(60e9, 30e9, 30e9),
)
"""The example of README: all services fit on all servers, of which one is twice as fast."""


def test_caches_in_which_everything_fits_are_the_best_without_a_search() -> None:
    best = best_caches(CAMPUS, generator(), num_slots=64)
    assert best.exact
    assert best.starts == 0
    assert best.cache.all()


@pytest.mark.parametrize("lack", [(0, 0), (1, 3), (2, 0)])
def test_a_service_less_is_never_better_where_the_servers_outdo_the_cloud(lack: tuple[int, int]) -> None:
    slots = DrawnSlots(CAMPUS, 64, generator(), 10**9)
    everything = torch.ones(3, 4, dtype=torch.bool)
    less = everything.clone()
    less[lack] = False
    full, lacking = slots._by(cache_slots._relaxed, torch.stack([everything, less]), 0, 64)
    assert (full <= lacking * (1 + 2e-6)).all()
    assert not slots.better(less, everything)


def test_caches_that_a_search_found_leave_no_room_that_is_of_use() -> None:
    # on the mean slot and on few slots a service that hardly anybody asks for makes no difference
    scenario = replace(CAMPUS, num_services=5, popularity=(4, 3, 2, 1, 1e-12))
    slots = DrawnSlots(scenario, 16, generator(), 10**9)
    room = torch.ones(3, 5, dtype=torch.bool)
    room[1, 4] = False
    assert caches._filled_up(scenario, slots, room).all()


def test_nothing_is_held_where_the_cloud_outdoes_a_busy_server_with_every_service(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(caches, "DESCENDING", 6_000)
    fast = {"cloud_compute_hz": 35e9, "cloud_rate_bit_per_s": 1e9, "cloud_delay_s": 0.001, "compute_hz": 7e9}
    scenario = Scenario(num_servers=1, num_users=6, num_services=5, popularity="zipf", **fast)
    best = best_caches(scenario, generator(), num_slots=16)
    assert not best.cache.any()
    assert not best.exact


def test_caches_that_hold_less_are_found_where_the_cloud_outdoes_the_servers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(caches, "DESCENDING", 6_000)
    scenario = Scenario(compute_hz=1e8)  # room for all ten services on both servers
    best = best_caches(scenario, generator(), num_slots=16)
    assert not best.exact
    everything = torch.ones(1, 2, 10, dtype=torch.bool)
    assert best.latency_s < float(
        DrawnSlots(scenario, 16, generator(), 10**9).latency(everything, 0, 16).mean()
    )


@pytest.mark.parametrize("held", [True, False])
def test_descents_go_by_what_drawn_slots_cost(held: bool) -> None:
    scenario = Scenario(
        num_servers=2,
        num_users=6,
        num_services=4,
        popularity="zipf",
        cache_bytes=60 * GIB,
        server_positions_m=((0.0, 0.0), (300.0, 0.0)),
        user_positions_m=(
            (50.0, 0.0),
            (0.0, 50.0),
            (-50.0, 0.0),
            (300.0, 50.0),
            (300.0, -50.0),
            (350.0, 0.0),
        ),
    )
    slots = DrawnSlots(scenario, 16, generator(), 10**9)
    cache = torch.tensor([[True, False, held, False], [False, True, held, False]]).unsqueeze(0)
    found = slots.descent(16).cost(torch.zeros(1, dtype=torch.long), cache)
    torch.testing.assert_close(found, slots.latency(cache, 0, 16).mean(dim=1), rtol=2e-3, atol=0)


SIZES = (
    12,
    143,
    31,
    99,
    55,
    22,
    178,
    74,
    126,
    44,
    19,
    88,
    151,
    63,
    27,
    112,
    39,
    195,
    51,
    104,
    15,
    79,
    137,
    48,
    91,
)
LARGER = Scenario(
    num_servers=7,
    num_users=50,
    num_services=25,
    popularity="zipf",
    input_step_bytes=256_000,
    storage_bytes=tuple(size * 1e8 for size in SIZES),
    compute_hz=20e9,
    cache_bytes=40 * GIB,
)


@pytest.mark.slow
def test_a_short_search_in_a_larger_cell_finds_caches_about_as_good_as_the_best_met_so_far(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # a search by the mean slot, which does not tell near ties from each other, ends 1 % higher, at any length
    monkeypatch.setattr(caches, "DESCENDING", 120_000)
    found = best_caches(LARGER, generator(), num_slots=256).cache
    best = torch.zeros_like(found)
    held = (
        (12, 16, 19, 23),
        (10, 17, 21, 23),
        (2, 11, 16, 20, 21, 24),
        (0, 3, 22, 24),
        (6, 13, 24),
        (4, 8, 18, 20, 24),
        (5, 7, 9, 14, 15, 20, 23),
    )
    for server, services in enumerate(held):
        best[server, list(services)] = True
    latency = DrawnSlots(LARGER, 256, generator(999), 10**9).latency(torch.stack([found, best]), 0, 256)
    assert float(latency[0].mean() / latency[1].mean()) < 1.005


def test_the_caches_of_least_latency_need_no_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "scipy", None)
    least_latency.cache_clear()
    scenario = Scenario(cache_bytes=20 * GIB, num_users=2)
    assert least_latency(scenario) is least_latency(scenario)


def test_without_scipy_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "scipy.optimize", None)
    with pytest.raises(ImportError, match=r"hadrl-lightning\[baselines\]"):
        optimal_coverage(Scenario())

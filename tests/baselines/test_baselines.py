"""Policies and learners that HADRL is compared with."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

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
    GreedyDualSizeFrequency,
    LeastRecentlyUsed,
    Sieve,
    all_cloud,
    best_known_policy,
    density_knapsack,
    drift_plus_penalty,
    home_sqrt,
    least_frequently_used,
    least_loaded_equal,
    least_loaded_sqrt,
    local_only,
    popularity_first,
    random_offloading,
    shortest_queue,
    two_choices,
)
from hadrl_lightning.baselines.learners import LearnerSettings
from hadrl_lightning.baselines.problem import shown_links
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
from hadrl_lightning.scenario import GIB, Scenario
from hadrl_lightning.simulator import (
    Allocation,
    EdgeNetwork,
    OffloadingView,
    fill_caches,
    spectral_efficiency,
)

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

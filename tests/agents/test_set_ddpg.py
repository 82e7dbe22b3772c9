import dataclasses
from dataclasses import replace

import pytest
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from hadrl_lightning.agents.cache_search import propose_caches, settle
from hadrl_lightning.agents.set_ddpg import SetDDPG, SetDDPGSettings, without_outliers
from hadrl_lightning.baselines import optimal_coverage
from hadrl_lightning.data.transitions import CachingTransitions
from hadrl_lightning.nn.cache_encoder import CacheInputs, SetActor, SetCritic
from hadrl_lightning.scenario import GIB, MIB, Scenario
from hadrl_lightning.simulator import CachingView, EdgeNetwork, decode_caching, fill_caches, to_vector

SMALL = Scenario(
    num_servers=2,
    num_users=6,
    num_services=4,
    popularity=(0.1, 0.4, 0.2, 0.3),
    storage_bytes=(2 * MIB, 1 * MIB, 1 * MIB, 2 * MIB),
    cache_bytes=2 * MIB,
    usable_cache_fraction=1.0,
)
"""Two servers of room 2: the most requests are covered by {1, 2} on one and {3} on the other, 0.9 of all."""

TIGHT = dataclasses.replace(Scenario.from_config("es3.yaml"), cache_bytes=40 * GIB)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def agent(scenario: Scenario = SMALL, seed: int = 0, **changes) -> SetDDPG:
    settings = SetDDPGSettings(**({"hidden_sizes": (16, 16), "actor_width": 8} | changes))
    return SetDDPG(scenario, settings, generator=generator(seed))


def views(scenario: Scenario, num_rows: int, seed: int = 1) -> CachingView:
    """As in the middle of an episode: feasible caches, shares that sum to 1, demand about as the popularity."""
    draws = generator(seed)
    shape = (num_rows, scenario.num_servers, scenario.num_services)
    cache = fill_caches(scenario, torch.rand(shape, generator=draws))
    demand = torch.rand(num_rows, scenario.num_services, generator=draws) + 1
    demand = demand * torch.tensor(scenario.popularity_vector)
    demand = demand / demand.sum(dim=1, keepdim=True)
    hits = torch.rand(num_rows, scenario.caching_action_size, generator=draws).softmax(dim=1)
    begun = EdgeNetwork(scenario, num_envs=num_rows, generator=draws).caching_view()
    return replace(begun, cache=cache, demand=demand, hits=hits.view(shape))


def seen(rows: CachingView) -> CacheInputs:
    """What actor and critic take of a view of strict physics."""
    return CacheInputs.of(rows, rows.free_cache_bits.double())


def transitions(scenario: Scenario, num_rows: int, seed: int = 2) -> CachingTransitions:
    """Random caches that fit, rewarded with the share of requests covered."""
    draws = generator(seed)
    shape = (num_rows, scenario.num_servers, scenario.num_services)
    cache = fill_caches(scenario, torch.rand(shape, generator=draws))
    view = views(scenario, num_rows, seed)
    return CachingTransitions(view, cache.flatten(1).float() * 2 - 1, coverage(scenario, cache), view, cache)


def coverage(scenario: Scenario, cache: torch.Tensor) -> torch.Tensor:
    return cache.any(dim=-2).float() @ torch.tensor(scenario.popularity_vector)


def fits(scenario: Scenario, cache: torch.Tensor) -> bool:
    used = cache.float() @ torch.tensor(scenario.storage_bits)
    return bool((used <= torch.tensor(scenario.usable_cache_bits) * (1 + 1e-6)).all())


def as_cache(scenario: Scenario, action: torch.Tensor) -> torch.Tensor:
    return action.view(-1, scenario.num_servers, scenario.num_services) > 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_proposals", 0),
        ("num_starts", 0),
        ("explore_proposals", 0),
        ("explore_rounds", -1),
        ("actor_rows", 0),
        ("actor_width", 0),
        ("seed", -1),
        ("hysteresis", -0.1),
        ("hysteresis", float("inf")),
        ("hysteresis", float("nan")),
        ("discount", 1.0),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(name: str, value) -> None:
    with pytest.raises(ValueError, match=f"{name} must .*got {value}"):
        SetDDPGSettings(**{name: value})


def test_the_critic_sees_coverage_copies_and_what_is_new_by_hand() -> None:
    critic = SetCritic(4, (), sees_switching=True, generator=generator())
    view = replace(views(SMALL, 1), cache=torch.tensor([[[0, 1, 0, 0], [0, 0, 0, 0]]]).bool())
    held = torch.tensor([[[0, 1, 1, 0], [0, 1, 0, 0]]]).bool()
    with torch.no_grad():
        critic.layers[0].bias.zero_()
        for feature, expected in ((3, 2.0), (4, 3 / 4), (5, 3 / 2), (6, 2 / 4)):
            # services 1 (twice) and 2 are covered; of 3 copies on 2 servers, one was there before
            critic.layers[0].weight.zero_()
            critic.layers[0].weight[0, feature] = 1.0
            assert critic(seen(view), held).item() == pytest.approx(expected)


def test_the_critic_values_a_cache_alike_whatever_is_held_unless_it_sees_switching() -> None:
    rows = views(SMALL, 5)
    others = replace(rows, cache=~rows.cache)
    cache = transitions(SMALL, 5).cache
    for sees_switching in (False, True):
        ddpg = agent(sees_switching=sees_switching)
        alike = torch.isclose(ddpg.critic(seen(rows), cache), ddpg.critic(seen(others), cache))
        assert bool(alike.all()) is not sees_switching


def permuted(rows: CachingView, servers: list[int], services: list[int]) -> CachingView:
    """Views of SMALL with servers and services in another order."""
    cache, hits = (field[:, servers][:, :, services] for field in (rows.cache, rows.hits))
    free, storage = rows.free_cache_bits[:, servers], rows.storage_bits[:, services]
    return replace(
        rows,
        cache=cache,
        demand=rows.demand[:, services],
        hits=hits,
        free_cache_bits=free,
        storage_bits=storage,
    )


def test_the_critic_does_not_change_when_servers_and_services_change_places() -> None:
    order = [2, 0, 3, 1]
    critic = SetCritic(4, (16,), sees_switching=True, generator=generator())
    rows = views(SMALL, 5)
    held = transitions(SMALL, 5).cache
    moved = held[:, [1, 0]][:, :, order]
    values = critic(seen(rows), held), critic(seen(permuted(rows, [1, 0], order)), moved)
    assert torch.allclose(*values, atol=1e-6)


def test_the_actor_follows_services_that_change_places_and_tells_equal_servers_apart() -> None:
    order = [2, 0, 3, 1]
    actor = SetActor(4, 8, generator())
    rows = views(SMALL, 5)
    action = actor(seen(rows))
    assert torch.allclose(action[:, :, order], actor(seen(permuted(rows, [0, 1], order))), atol=1e-6)
    empty = EdgeNetwork(SMALL, generator=generator()).caching_view()
    first, second = actor(seen(empty))[0]
    assert not torch.allclose(first, second)


def test_usual_demand_is_the_mean_of_what_was_seen_and_stands_in_at_the_start() -> None:
    critic = SetCritic(4, (8,), generator=generator())
    rows = views(SMALL, 3)
    rows.demand[0] = torch.tensor([0.5, 0.5, 0, 0])
    rows.demand[1] = torch.tensor([0, 0.5, 0, 0.5])
    rows.demand[2] = 0  # an episode begins: no demand
    critic.watch_shares(rows.demand)
    assert critic.usual_demand.tolist() == pytest.approx([0.25, 0.5, 0, 0.25])
    critic.watch_shares(rows.demand[:1])  # (0.25 · 2 + 0.5) / 3, (0.5 · 2 + 0.5) / 3, 0, 0.25 · 2 / 3
    assert critic.usual_demand.tolist() == pytest.approx([1 / 3, 1 / 2, 0, 1 / 6])
    filled = rows[2:].clone()
    filled.demand[0] = critic.usual_demand
    held = transitions(SMALL, 1).cache
    assert torch.allclose(critic(seen(rows[2:]), held), critic(seen(filled), held))


def test_proposals_fit_and_the_first_follows_the_wish() -> None:
    inputs = seen(views(SMALL, 5))
    wish = torch.rand(5, 2, 4, generator=generator(3)) * 2 - 1
    caches = propose_caches(inputs, wish, 32, generator(4))
    assert caches.shape == (5, 32, 2, 4)
    assert fits(SMALL, caches)
    assert torch.equal(caches[:, 0], fill_caches(SMALL, wish))
    assert len(caches[0].flatten(1).unique(dim=0)) > 4
    again = propose_caches(inputs, wish, 32, generator(4))
    assert torch.equal(caches, again)


def test_a_decision_is_feasible_and_its_action_decodes_to_itself() -> None:
    ddpg = agent()
    rows = views(SMALL, 7)
    for action in (ddpg.act(rows), ddpg.act(rows, generator()), ddpg.explore(rows, 1.0, generator())):
        assert action.shape == (7, 8)
        assert set(action.unique().tolist()) == {-1.0, 1.0}
        cache = as_cache(SMALL, action)
        assert fits(SMALL, cache)
        assert torch.equal(decode_caching(SMALL, action, torch.zeros_like(cache)), cache)
    assert ddpg.act(rows[0]).shape == (8,)
    with pytest.raises(ValueError, match="decides on a CachingView, got a Tensor"):
        ddpg.act(to_vector(rows))


def test_decisions_depend_on_the_generator_and_the_row_alone() -> None:
    ddpg = agent()
    rows = views(SMALL, 6)
    before = torch.get_rng_state()
    together = ddpg.act(rows)
    assert torch.equal(together, torch.stack([ddpg.act(row) for row in rows]))
    assert torch.equal(together, ddpg.act(rows))
    drawn = ddpg.act(rows, generator(5))
    assert torch.equal(drawn, torch.stack([ddpg.act(row, generator(5)) for row in rows]))
    noisy = [ddpg.explore(rows, 1.0, generator(seed)) for seed in (1, 1, 2)]
    assert torch.equal(noisy[0], noisy[1])
    assert not torch.equal(noisy[0], noisy[2])
    assert torch.equal(torch.get_rng_state(), before)


class Coverage(torch.nn.Module):
    """The critic that is right where covered requests alone count."""

    def __init__(self, scenario: Scenario = SMALL) -> None:
        super().__init__()
        self.scenario = scenario

    def forward(self, view: CacheInputs, cache: torch.Tensor) -> torch.Tensor:
        return coverage(self.scenario, cache)


def test_a_critic_that_is_right_makes_the_decision_right() -> None:
    ddpg = agent(hysteresis=0.0)
    action = ddpg.decide(seen(views(SMALL, 5)), ddpg.actor, Coverage())
    assert coverage(SMALL, as_cache(SMALL, action)).tolist() == pytest.approx([0.9] * 5)


def test_an_untrained_agent_collects_caches_of_all_kinds() -> None:
    ddpg = agent()
    same = views(SMALL, 1)[torch.zeros(64, dtype=torch.long)]
    at_first = as_cache(SMALL, ddpg.explore(same, 0.0, generator()))
    assert fits(SMALL, at_first)
    assert at_first.flatten(2).any(dim=0).all()  # every service has been at every server
    assert len(at_first.unique(dim=0)) > 8
    roomy = dataclasses.replace(SMALL, cache_bytes=6 * MIB)
    everywhere = as_cache(
        roomy, agent(roomy).explore(views(roomy, 1)[torch.zeros(64, dtype=torch.long)], 0.0, generator())
    )
    assert 0.3 < everywhere.float().mean() < 0.7  # where all fits, about half is left out
    ddpg.num_updates += 1
    assert len(as_cache(SMALL, ddpg.explore(same, 0.0, generator())).unique(dim=0)) <= 4


def test_changes_of_pairs_end_where_no_change_helps() -> None:
    worth = torch.tensor(TIGHT.popularity_vector)

    def values(rows: torch.Tensor, caches: torch.Tensor) -> torch.Tensor:
        return (caches.any(dim=-2) * worth).sum(dim=-1)

    inputs = seen(views(TIGHT, 2))
    begun = fill_caches(TIGHT, torch.rand(16, 3, 10, generator=generator(1))).view(2, 8, 3, 10)
    ends = settle(inputs, begun, values)
    assert fits(TIGHT, ends)
    before, after = (values(None, caches) for caches in (begun, ends))  # type: ignore[arg-type]
    assert (after >= before).all()
    assert (after > before).any()
    assert torch.equal(settle(inputs, ends, values), ends)
    best = optimal_coverage(TIGHT).hit_ratio
    assert after.max(dim=1).values.tolist() == pytest.approx([best] * 2, rel=0.01)


def test_other_draws_end_at_a_cache_of_the_same_worth() -> None:
    ddpg, critic = agent(TIGHT), Coverage(TIGHT)
    inputs = seen(EdgeNetwork(TIGHT, num_envs=2, generator=generator(3)).caching_view())
    actions = torch.stack([ddpg.decide(inputs, ddpg.actor, critic, generator(seed)) for seed in range(4)])
    caches = (actions > 0).view(4, 2, 3, 10).transpose(0, 1)
    assert len(caches[0].unique(dim=0)) > 1
    values = critic(inputs, caches)
    assert ((values.amax(dim=1) - values.amin(dim=1)) < 0.01).all()


def test_what_is_held_stays_unless_another_cache_is_worth_more_by_the_margin() -> None:
    rows = views(SMALL, 2)
    # The first covers 0.7 of the requests, and 0.9 when filled up; the second is full with 0.4, 0.5 less than the best.
    rows.cache[0] = torch.tensor([[0, 1, 0, 0], [0, 0, 0, 1]]).bool()
    rows.cache[1] = torch.tensor([[0, 0, 0, 1], [1, 0, 0, 0]]).bool()
    for hysteresis, stays in ((0.0, [True, False]), (0.49, [True, False]), (0.51, [True, True])):
        ddpg = agent(hysteresis=hysteresis)
        cache = as_cache(SMALL, ddpg.decide(seen(rows), ddpg.actor, Coverage()))
        kept = fill_caches(SMALL, rows.cache.float())
        assert (cache == kept).flatten(1).all(dim=1).tolist() == stays
        switched = coverage(SMALL, cache)[~torch.tensor(stays)]
        assert switched.tolist() == pytest.approx([0.9] * stays.count(False))


def test_where_nothing_is_held_the_best_is_cached_whatever_the_margin() -> None:
    ddpg = agent(hysteresis=10.0)
    rows = views(SMALL, 3)
    rows.cache[:] = False
    action = ddpg.decide(seen(rows), ddpg.actor, Coverage())
    assert coverage(SMALL, as_cache(SMALL, action)).tolist() == pytest.approx([0.9] * 3)


def test_an_actor_that_decides_alone_has_no_margin() -> None:
    alone = agent(hysteresis=10.0, num_proposals=1)
    rows = views(SMALL, 5)
    decided = as_cache(SMALL, alone.decide(seen(rows), alone.actor, Coverage()))
    assert torch.equal(decided, fill_caches(SMALL, alone.actor(seen(rows))))


def test_where_everything_fits_everything_is_held_from_the_first_decision_on() -> None:
    wide = dataclasses.replace(SMALL, cache_bytes=6 * MIB)
    empty = EdgeNetwork(wide, num_envs=3, generator=generator()).caching_view()
    for seed in range(5):
        assert (agent(wide, seed=seed).act(empty) == 1).all()


def test_a_critic_that_is_broken_never_wins() -> None:
    class Broken(torch.nn.Module):
        def forward(self, view, cache):
            covered = coverage(SMALL, cache)
            return torch.where(covered > 0.75, torch.nan, covered)

    ddpg = agent()
    rows = views(SMALL, 5)
    rows.cache[:] = (
        False  # held now and filled up in order: services 0, 0, of which the first server's is 0.1
    )
    covered = coverage(SMALL, as_cache(SMALL, ddpg.decide(seen(rows), ddpg.actor, Broken())))
    assert (covered < 0.75).all()


def test_the_target_value_is_the_normalised_reward_and_bootstraps_only_with_a_discount() -> None:
    batch = replace(transitions(SMALL, 4), reward=torch.tensor([1.0, 3.0, 1.0, 3.0]))
    ddpg = agent()
    ddpg.rewards.update(batch.reward[:, None])  # mean 2, standard deviation 1
    assert ddpg.target_value(batch).tolist() == [-1, 1, -1, 1]
    ddpg = agent(discount=0.5, explore_proposals=8)
    with torch.no_grad():
        ddpg.target_critic.layers[-1].weight.zero_()
        ddpg.target_critic.layers[-1].bias.fill_(1.0)  # every cache is worth 4 services · 1
    ddpg.rewards.update(batch.reward[:, None])
    assert ddpg.target_value(batch).tolist() == [1, 3, 1, 3]


def test_a_rare_outlier_among_the_rewards_is_cut() -> None:
    reward = torch.linspace(0, 1, 257)
    assert torch.equal(without_outliers(reward), reward)
    reward[7] = -1e6  # the middle 90 % still reach from about 0.05 to 0.95
    cut = without_outliers(reward)
    assert cut[7] == pytest.approx(-1.75, abs=0.1)
    assert torch.equal(cut[8:], reward[8:])
    nearly_always_full = torch.ones(257)
    nearly_always_full[0] = 0.5
    assert torch.equal(without_outliers(nearly_always_full), nearly_always_full)


@pytest.mark.whole
def test_trained_alone_it_finds_the_caches_that_cover_most(tmp_path) -> None:
    ddpg = agent(target_rate=0.05)
    loader = DataLoader(list(transitions(SMALL, 512)), batch_size=128, shuffle=True, generator=generator())
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(
        accelerator="cpu", max_epochs=30, enable_checkpointing=False, default_root_dir=tmp_path, **quiet
    )
    trainer.fit(ddpg, loader)
    assert int(ddpg.num_updates) == 120
    rows = views(SMALL, 20, seed=9)
    covered = coverage(SMALL, as_cache(SMALL, ddpg.act(rows)))
    assert covered.mean() > 0.88  # the optimum is 0.9; random caches that fit cover less

    trainer.save_checkpoint(tmp_path / "agent.ckpt")
    again = SetDDPG.load_from_checkpoint(
        tmp_path / "agent.ckpt", scenario=SMALL, settings=ddpg.settings, weights_only=True
    )
    assert torch.equal(again.act(rows), ddpg.act(rows))


def test_the_actor_learns_the_caches_that_the_critic_prefers() -> None:
    ddpg = agent(actor_learning_rate=1e-2)
    ddpg.target_critic = PrefersServices(torch.tensor([[0.0, 1, 1, 0], [0.0, 0, 0, 1]]))
    optimizer, _ = ddpg.configure_optimizers()
    batch = transitions(SMALL, 16)
    for _ in range(150):
        optimizer.zero_grad()
        ddpg.actor_loss(batch).backward()
        optimizer.step()
        ddpg.num_updates += 1
    cache = fill_caches(SMALL, ddpg.actor(seen(views(SMALL, 20, seed=9))).detach())
    wanted = torch.tensor([[0, 1, 1, 0], [0, 0, 0, 1]]).bool()
    assert (cache == wanted).float().mean() > 0.95


class PrefersServices(torch.nn.Module):
    """Critic by hand: the number of pairs held that are wanted."""

    def __init__(self, wanted: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("wanted", wanted)

    def forward(self, view: CacheInputs, cache: torch.Tensor) -> torch.Tensor:
        return (cache * self.wanted).sum(dim=(-2, -1))


def test_the_same_seed_learns_the_same() -> None:
    one, two = agent(seed=1), agent(seed=1)
    for ddpg in (one, two):
        optimizers = ddpg.configure_optimizers()
        for seed in (5, 6):
            ddpg.update(transitions(SMALL, 32, seed), optimizers, torch.Tensor.backward)
    for left, right in zip(one.state_dict().values(), two.state_dict().values(), strict=True):
        assert torch.equal(left, right)


def test_the_same_weights_decide_for_other_numbers_and_sizes_of_servers_and_services() -> None:
    ddpg = agent(Scenario())
    ddpg.critic.watch_shares(views(Scenario(), 4).demand)
    for other in (Scenario(num_servers=5), SMALL, dataclasses.replace(SMALL, num_servers=3)):
        action = ddpg.act(views(other, 3))
        assert action.shape == (3, other.caching_action_size)
        assert fits(other, as_cache(other, action))


def test_every_network_of_a_batch_is_decided_by_its_own_sizes() -> None:
    one, other = (
        SMALL,
        dataclasses.replace(
            SMALL, cache_bytes=(3 * MIB, 5 * MIB), storage_bytes=(1 * MIB, 2 * MIB, 1.5 * MIB, 1 * MIB)
        ),
    )
    apart = [views(scenario, 3, seed) for seed, scenario in enumerate((one, other))]
    names = [name for name, _ in apart[0].tensors()]
    both = CachingView(**{name: torch.cat([getattr(view, name) for view in apart]) for name in names})
    ddpg = agent()
    for decide in (ddpg.act, lambda view: ddpg.act(view, generator(5))):
        together, alone = decide(both), [decide(view) for view in apart]
        assert torch.equal(together, torch.cat(alone))
        assert all(
            fits(scenario, as_cache(one, action))
            for scenario, action in zip((one, other), alone, strict=True)
        )
        assert not fits(one, as_cache(one, alone[1]))
    explored = as_cache(one, ddpg.explore(both, 1.0, generator()))
    assert fits(one, explored[:3])
    assert fits(other, explored[3:])


def test_bf16_mixed_precision_trains(tmp_path) -> None:
    ddpg = agent()
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    Trainer(
        accelerator="cpu",
        max_epochs=1,
        precision="bf16-mixed",
        enable_checkpointing=False,
        default_root_dir=tmp_path,
        **quiet,
    ).fit(ddpg, DataLoader(list(transitions(SMALL, 64)), batch_size=32))
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in ddpg.parameters())


def test_what_a_critic_says_of_each_service_adds_up_to_what_it_says_of_a_cache() -> None:
    critic = SetCritic(10, (8,), generator=generator())
    inputs = seen(views(TIGHT, 4))
    caches = torch.rand(4, 3, 10, generator=generator(3)) < 0.5
    table = critic.by_copies(inputs)
    added = table.gather(-1, caches.sum(dim=1).unsqueeze(-1)).sum(dim=(-2, -1))
    torch.testing.assert_close(added, critic(inputs, caches))


class PopularCoverage(torch.nn.Module):
    """The critic that is right where covered requests alone count and services differ in popularity."""

    def forward(self, inputs: CacheInputs, cache: torch.Tensor) -> torch.Tensor:
        return (cache.any(dim=-2) * torch.tensor(TIGHT.popularity_vector)).sum(dim=-1)


@pytest.mark.parametrize(("cells", "least"), [(2**24, 0.99), (2_000, 0.99), (1, 0.95)])
def test_changes_are_made_in_parts_or_left_where_they_are_too_many(
    monkeypatch: pytest.MonkeyPatch, cells: int, least: float
) -> None:
    ddpg = agent(TIGHT, hysteresis=0.0)
    inputs = seen(views(TIGHT, 3))
    whole = ddpg.decide(inputs, ddpg.actor, PopularCoverage())
    monkeypatch.setattr("hadrl_lightning.agents.cache_search.MOST_CELLS", cells)
    action = ddpg.decide(inputs, ddpg.actor, PopularCoverage())
    cache = as_cache(TIGHT, action)
    assert fits(TIGHT, cache)
    assert torch.equal(action, whole) or cells == 1
    assert (PopularCoverage()(inputs, cache) >= least * optimal_coverage(TIGHT).hit_ratio).all()

"""The caching agent that looks ahead: by a model that tells the true physics, and by a learnt one; what a trained agent
is asked to decide on: refused where it is no view of its network, decided alike where it is.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hadrl_lightning.agents import (
    HADRL,
    SetWorldModel,
    SetWorldModelSettings,
    WorldModelSettings,
    cache_choice,
)
from hadrl_lightning.agents.lookahead import LookaheadCaching
from hadrl_lightning.agents.settings import LookaheadSettings
from hadrl_lightning.baselines import best_known_policy
from hadrl_lightning.baselines.caches import least_latency
from hadrl_lightning.callbacks import CEMPlanning
from hadrl_lightning.data import CachingTransitions, OffloadingTransitions, TransitionDataModule
from hadrl_lightning.errors import HadrlError, HadrlWarning, NonFiniteError
from hadrl_lightning.nn.demand import UsualDemand, drawn_towards
from hadrl_lightning.planning import PlannerSettings
from hadrl_lightning.planning.frames import Frames
from hadrl_lightning.scenario import GIB, MIB, Physics, Scenario
from hadrl_lightning.simulator import (
    CachingView,
    EdgeNetwork,
    OffloadingView,
    View,
    decode_caching,
    decode_offloading,
    fields_of,
    fill_caches,
    from_vector,
    to_vector,
)
from tests.helpers import published_planner

SMALL = Scenario(
    num_servers=2,
    num_users=6,
    num_services=4,
    popularity=(0.1, 0.4, 0.2, 0.3),
    storage_bytes=(2 * MIB, 1 * MIB, 1 * MIB, 2 * MIB),
    input_bytes=(1 * MIB, 2 * MIB, 1 * MIB, 2 * MIB),
    cache_bytes=2 * MIB,
    usable_cache_fraction=1.0,
)
WIDE = replace(SMALL, cache_bytes=6 * MIB)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Physical(SetWorldModel):
    """Tells what tasks cost by the true physics, at a spectral efficiency that is the same everywhere.

    Args:
        inverse_efficiency: mean of 1 / efficiency, Hz s / bit.
        members: by what factor each member believes a miss to cost more.
    """

    def __init__(self, inverse_efficiency: float = 0.2, members: tuple[float, ...] = (1.0, 1.0)) -> None:
        super().__init__(SetWorldModelSettings(ensemble_size=len(members), hidden_size=4, weight_size=4))
        self.inverse_efficiency, self.members = inverse_efficiency, members

    def service_demands(self, view: CachingView) -> Tensor:
        shape = (len(self.members), len(view), 2, 3, view.storage_bits.shape[1], view.bandwidth_hz.shape[1])
        demand = torch.zeros(shape)
        demand[:, :, :, 0] = (view.input_bits[:, :, None] / view.bandwidth_hz[:, None])[
            :, None
        ] * self.inverse_efficiency
        demand[:, :, 1, 1] = view.cycles[:, :, None] / view.compute_hz[:, None]
        bits, cycles = view.input_bits.T / view.cloud_rate_bit_per_s, view.cycles.T / view.cloud_compute_hz
        cloud = (bits + cycles + view.cloud_delay_s).T[:, :, None]
        demand[:, :, 0, 2] = torch.tensor(self.members)[:, None, None, None] * cloud
        return demand


def agent(
    scenario: Scenario = SMALL, model: Any = None, physics: Physics = "strict", **changes: Any
) -> LookaheadCaching:
    made = LookaheadCaching(scenario, LookaheadSettings(**changes), physics=physics)
    made.look_through(model or Physical())
    return made


def views(scenario: Scenario, num_rows: int, seed: int = 1, physics: Physics = "strict") -> CachingView:
    """After a frame or two of networks with random caches, in which different services were asked for."""
    draws = generator(seed)
    network = EdgeNetwork(scenario, physics, num_envs=num_rows, generator=draws)
    shape = (num_rows, scenario.num_servers, scenario.num_services)
    for _ in range(2):
        network.begin_frame(fill_caches(scenario, torch.rand(shape, generator=draws)))
        while not network.frame_over:
            idle = torch.zeros(num_rows, scenario.offloading_action_size)
            network.step(decode_offloading(scenario, idle, physics))
    return network.caching_view()


def cache_of(view: CachingView, action: Tensor) -> Tensor:
    assert set(action.unique().tolist()) <= {-1.0, 1.0}
    return action.view_as(view.cache) > 0


def fits(scenario: Scenario, cache: Tensor) -> bool:
    used = cache.double() @ torch.tensor(scenario.storage_bits, dtype=torch.float64)
    return bool((used <= torch.tensor(scenario.usable_cache_bits) * (1 + 1e-9)).all())


def batch_of(view: CachingView) -> CachingTransitions:
    return CachingTransitions(
        view, view.cache.float().flatten(1) * 2 - 1, torch.zeros(len(view)), view, view.cache
    )


# --- demand --------------------------------------------------------------------------------------------------------


def test_chance_alone_leaves_what_was_expected_and_a_reversal_is_followed() -> None:
    expected = torch.tensor([0.05, 0.1, 0.15, 0.3, 0.4])
    drawn = torch.multinomial(expected.expand(1000, -1), 150, replacement=True, generator=generator())
    counts = torch.nn.functional.one_hot(drawn, 5).sum(dim=1).float()
    found = drawn_towards(counts, expected.expand(1000, -1))
    torch.testing.assert_close(found.sum(dim=1), torch.ones(1000))
    assert (found == expected).all(dim=1).float().mean() > 0.97
    reversed_counts = 150 * expected.flip(0)[None]
    # χ² = Σ (150 reversed − 150 expected)² / (150 expected + 1), of which 4 + 3 √8 are put down to chance
    pairs = list(zip(expected.tolist(), expected.flip(0).tolist()))
    chi = sum((150 * (b - a)) ** 2 / (150 * a + 1) for a, b in pairs)
    part = 1 - ((4 + 3 * 8**0.5) / chi) ** 2
    assert part > 0.9
    followed = drawn_towards(reversed_counts, expected[None])
    torch.testing.assert_close(followed[0], expected + part * (expected.flip(0) - expected))
    assert torch.equal(drawn_towards(torch.zeros(2, 5), expected.expand(2, -1)), expected.expand(2, -1))


def test_a_few_requests_for_what_is_hardly_asked_for_change_nothing() -> None:
    usual = torch.tensor([[0.5, 0.3, 0.2, 0.0]])
    rare = torch.tensor([[1530.0, 880.0, 589.0, 1.0]])
    assert torch.equal(drawn_towards(rare, usual), usual)
    weights = torch.arange(1, 61) ** -2.0
    shares = (weights / weights.sum())[None]
    estimated, counted = (
        torch.nn.functional.one_hot(
            torch.multinomial(shares, number, replacement=True, generator=generator(seed)), 60
        )
        .sum(dim=1)
        .float()
        for number, seed in ((20_000, 1), (3_000, 2))
    )
    expected = estimated / 20_000  # the usual demand is an estimate too
    assert torch.equal(drawn_towards(counted, expected, 20_000.0), expected)


def test_a_usual_demand_that_few_requests_tell_of_gives_way_later() -> None:
    usual, counts = torch.tensor([[0.7, 0.3]]), torch.tensor([[50.0, 50.0]])
    assert float(drawn_towards(counts, usual)[0, 0]) < 0.6
    assert float(drawn_towards(counts, usual, 50.0)[0, 0]) > 0.6


def test_usual_demand_is_the_mean_of_all_requests_and_follows_what_differs_now() -> None:
    demand = UsualDemand(4)
    assert demand.usual(4, torch.zeros(1)).tolist() == [0.25] * 4
    demand.watch(torch.tensor([[0, 1, 1, 3], [1, 1, 1, 1]]))
    assert demand.usual(4, torch.zeros(1)).tolist() == [1 / 8, 6 / 8, 0, 1 / 8]
    demand.watch(torch.tensor([2, 2]))
    assert demand.num_seen == 10
    torch.testing.assert_close(demand.usual_demand, torch.tensor([0.1, 0.6, 0.2, 0.1]))
    assert demand.usual(3, torch.zeros(1)).tolist() == pytest.approx([1 / 3] * 3)
    demand.num_seen.fill_(1e6)
    view = views(SMALL, 3)
    usual = view.requests.new_tensor([0.1, 0.6, 0.2, 0.1])
    counts = 100 * torch.stack((usual, usual, usual.flip(0)))
    recent = torch.stack((10 * usual, 1000 * usual.flip(0), torch.zeros(4)))
    unknown = torch.zeros(3, 4)
    now = demand.now(replace(view, requests=counts, recent_requests=recent, past_requests=unknown))
    torch.testing.assert_close(now[0], usual)
    torch.testing.assert_close(now[1], usual.flip(0), atol=0.01, rtol=0)  # the last frame is plain
    torch.testing.assert_close(now[2], drawn_towards(counts[2:], usual[None], 1e6)[0])  # the episode is
    assert now[2, 2] > 0.5


def test_what_is_on_record_of_a_network_stands_in_for_the_usual_demand_as_far_as_chance_does_not_explain_it() -> (
    None
):
    demand = UsualDemand(4)
    demand.usual_demand.copy_(torch.tensor([0.1, 0.6, 0.2, 0.1]))
    demand.num_seen.fill_(1e6)
    usual, own = demand.usual_demand.float(), torch.tensor([0.4, 0.1, 0.1, 0.4])
    past = torch.stack((1e5 * own, 1e5 * own, 20 * usual, 1e5 * own))
    requests = torch.stack((torch.zeros(4), 40 * own, 20 * usual, 1e5 * usual))
    view = replace(views(SMALL, 4), past_requests=past, requests=requests, recent_requests=torch.zeros(4, 4))
    now = demand.now(view)
    # χ² = Σ (1e5 own − 1e5 usual)² / (1e5 usual (1 + 1e5 / 1e6) + …), about 1e5: all but (3 + 3 √6) / 1e5 of it counts
    torch.testing.assert_close(now[0], own, atol=1e-3, rtol=0)
    torch.testing.assert_close(now[1], now[0])  # the episode says the same
    torch.testing.assert_close(now[2], usual)  # the record and the episode do
    torch.testing.assert_close(now[3], usual, atol=2e-3, rtol=0)  # an episode of so many outdoes the record
    learnt_anew = UsualDemand(4).now(view)
    torch.testing.assert_close(learnt_anew[:2], own.expand(2, -1), atol=1e-3, rtol=0)


def test_what_is_known_of_other_services_or_caches_is_not_taken_over() -> None:
    first = agent()
    first.demand.watch(torch.tensor([1, 1, 2, 3]))
    first.update(batch_of(views(SMALL, 2)), [], Tensor.backward)
    first.num_explored.add_(7)
    same, other = agent(), LookaheadCaching(SMALL.resized(3, 6, 5))
    same.load_state_dict(first.state_dict())
    assert all(torch.equal(value, same.state_dict()[name]) for name, value in first.state_dict().items())
    assert bool(same.remembered.any())
    view = views(SMALL, 3)
    assert torch.equal(same.act(view), first.act(view))
    other.load_state_dict(first.state_dict())
    assert other.demand.usual_demand.tolist() == pytest.approx([0.2] * 5)
    assert (other.demand.num_seen, other.num_rehearsed, other.num_explored) == (0, 0, 7)
    assert not other.remembered.any()


# --- what is seen --------------------------------------------------------------------------------------------------


def test_views_count_what_was_asked_for_in_the_episode_and_in_the_last_frame() -> None:
    scenario = replace(SMALL, slots_per_decision=2)
    network = EdgeNetwork(scenario, num_envs=3, generator=generator())
    begun = network.caching_view()
    assert not begun.requests.any()
    assert not begun.recent_requests.any()
    assert torch.equal(begun.input_bits[0], torch.tensor(scenario.input_bits))
    assert torch.equal(begun.cycles[0], torch.tensor(scenario.cycles))
    assert torch.equal(begun.bandwidth_hz[0], torch.tensor(scenario.bandwidth_per_server_hz))
    assert torch.equal(begun.compute_hz[0], torch.tensor(scenario.compute_per_server_hz))
    total = torch.zeros(3, 4)
    for frame in range(2):
        before, held = network.caching_view(), network.cache
        cache = fill_caches(scenario, torch.rand(3, 2, 4, generator=generator(frame)))
        switching = network.begin_frame(cache)
        fetched = ((cache & ~held) * before.fetch_s[:, None]).sum(dim=(1, 2))
        torch.testing.assert_close(fetched, switching)
        asked = torch.zeros(3, 4)
        for _ in range(2):
            asked += torch.nn.functional.one_hot(network.requests, 4).sum(dim=1)
            network.step(decode_offloading(scenario, torch.zeros(3, scenario.offloading_action_size)))
        total += asked
        view = network.caching_view()
        assert torch.equal(view.recent_requests, asked)
        assert torch.equal(view.requests, total)
    again = from_vector(CachingView, to_vector(view), scenario)
    untold = {"requests": 0.0, "recent_requests": 0.0, "past_requests": 0.0, "users": 0.0}
    untold["spectral_efficiency"] = 16.0
    for name, value in view.tensors():
        expected = torch.full_like(value, untold[name]) if name in untold else value
        torch.testing.assert_close(getattr(again, name), expected)


# --- deciding ------------------------------------------------------------------------------------------------------


def test_by_the_true_physics_the_caches_of_least_latency_are_found() -> None:
    scenario = replace(SMALL, popularity=(0.1, 0.4, 0.15, 0.35), num_users=12)
    caching = agent(scenario)
    caching.demand.usual_demand.copy_(torch.tensor(scenario.popularity_vector))
    view = EdgeNetwork(scenario, num_envs=1, generator=generator()).caching_view()
    found = cache_of(view, caching.act(view))[0]
    best = least_latency(scenario)
    assert best.exact
    assert sorted(map(tuple, found.tolist())) == sorted(map(tuple, best.cache.tolist()))  # servers are alike


def test_what_a_frame_is_expected_to_cost_is_told_by_what_was_asked_for() -> None:
    caching = agent(replace(SMALL, num_users=1))
    view = views(SMALL, 2)
    view.recent_requests[:] = torch.tensor([0.0, 5.0, 0.0, 15.0])
    cache = torch.zeros(2, 2, 4, dtype=torch.bool)
    cache[1, 0, 1] = cache[1, 1, 3] = True
    demand = Physical().service_demands(view)[0]
    alone = demand.sum(dim=2)  # network, held, service, server: one user shares nothing
    missing, holding = alone[0, 0, :, 0], alone[1, 1, :, 0]
    expected = [0.25 * of[1] + 0.75 * of[3] for of in (missing, holding)]
    for users in (0.0, 1.0):  # where nobody tells, as many as the agent's scenario has
        view.users[:] = users
        torch.testing.assert_close(caching.expected_latency(view, cache), torch.stack(expected))
    view.users[:] = 6.0
    assert (caching.expected_latency(view, cache) > torch.stack(expected)).all()


def mixed(count: int = 6) -> CachingView:
    """Networks of different room, requests, contents and capacities."""
    view = views(SMALL, count)
    room = torch.linspace(1, 6, count)[:, None] * MIB * 8
    asked = torch.rand(count, 4, generator=generator(3)).mul(200).round()
    speed = view.compute_hz * torch.linspace(0.5, 2, count)[:, None]
    return replace(
        view, free_cache_bits=room.expand(-1, 2), requests=asked, recent_requests=asked, compute_hz=speed
    )


def test_a_decision_depends_on_no_other_row_and_the_same_seed_decides_the_same() -> None:
    caching, view = agent(num_starts=2, num_finalists=3), mixed()
    for rehearsed in (False, True):
        together = cache_of(view, caching.act(view))
        assert torch.equal(together, cache_of(view, caching.act(view)))
        assert torch.equal(together[0], cache_of(view[0], caching.act(view[0])))
        for rows in ([3], [5, 0, 2, 2]):
            assert torch.equal(cache_of(view[rows], caching.act(view[rows])), together[rows])
        used = (together * view.storage_bits[:, None]).sum(dim=2)
        assert (used <= view.free_cache_bits).all()
        assert together[-1].all()  # all fits
        assert not torch.equal(together[1], together[4])
        if not rehearsed:
            caching.update(batch_of(view[3:4]), [], Tensor.backward)
            assert caching._known(view, caching._room(view))[1].tolist() == [
                False,
                False,
                False,
                True,
                True,
                True,
            ]


def test_networks_with_other_users_or_another_cloud_beside_each_other_are_decided_on_as_each_alone() -> None:
    caching, view = agent(num_starts=3), mixed(1)[[0] * 6]
    view = replace(
        view,
        free_cache_bits=torch.full((6, 2), 3.0 * MIB * 8),
        users=torch.tensor([1.0, 40.0, 6.0, 40.0, 0.0, 6.0]),
        cloud_delay_s=torch.tensor([0.1, 0.1, 0.1, 50.0, 0.1, 50.0]),
        spectral_efficiency=torch.tensor([4.0, 4.0, 4.0, 4.0, 4.0, 8.0]),
    )
    drawn = generator(5)
    together = cache_of(view, caching.act(view, drawn))
    alone = [cache_of(one, caching.act(one, generator(5)))[0] for one in (view[[row]] for row in range(6))]
    assert torch.equal(together, torch.stack(alone))
    assert torch.equal(together[4], together[2])  # nobody tells: as many as the agent's scenario has
    assert len(together[:4].unique(dim=0)) > 1
    expected = caching.expected_latency(view, together)
    for row in range(6):
        one = view[[row]]
        torch.testing.assert_close(caching.expected_latency(one, together[[row]]), expected[[row]])


def test_networks_that_differ_in_their_cloud_alone_are_not_taken_for_one() -> None:
    view = mixed(1)[[0, 0]]
    view.free_cache_bits[:] = 3 * MIB * 8
    view = replace(
        view, cloud_rate_bit_per_s=torch.tensor([1e12, 1e3]), cloud_delay_s=torch.tensor([1e-3, 1e3])
    )
    view.cloud_compute_hz[0] = 1e15
    view.cache[:] = torch.tensor(
        [True, False, False, False]
    )  # where the cloud is near nothing else is worth fetching
    caching = agent(switching_weight=1.0)
    near, far = cache_of(view, caching.act(view))
    assert torch.equal(far, cache_of(view[1:], caching.act(view[1:]))[0])
    assert not torch.equal(near, far)


def test_the_same_agent_decides_for_other_numbers_of_servers_services_and_users() -> None:
    caching = agent()
    caching.update(batch_of(views(SMALL, 1)), [], Tensor.backward)
    for servers, users, services in ((1, 6, 4), (3, 6, 7), (2, 1, 1), (2, 0, 4), (2, 40, 12)):
        scenario = Scenario().resized(servers, users, services)
        scenario = replace(scenario, cache_bytes=scenario.storage_bits[-1] / 8, usable_cache_fraction=1.0)
        caching.scenario = scenario
        view = EdgeNetwork(scenario, num_envs=2, generator=generator()).caching_view()
        cache = cache_of(view, caching.act(view))
        assert cache.shape == (2, servers, services)
        assert fits(scenario, cache)
        assert cache.any(dim=2).all()


@pytest.mark.parametrize("physics", ["strict", "published"])
def test_what_is_decided_and_explored_fits_and_decodes_to_itself(physics: Physics) -> None:
    caching = agent(physics=physics, random_decisions=1)
    network = EdgeNetwork(SMALL, physics, num_envs=3, generator=generator(2))
    for turn in range(4):
        view = network.caching_view()
        for action in (caching.act(view), caching.explore(view, float(turn > 1), generator(turn))):
            cache = cache_of(view, action)
            assert fits(SMALL, cache)
            assert torch.equal(decode_caching(SMALL, action, view.cache, physics), cache)
        network.begin_frame(cache)
        while not network.frame_over:
            network.step(decode_offloading(SMALL, torch.zeros(3, SMALL.offloading_action_size), physics))
    assert caching.num_explored == 4


def test_misses_are_explored_where_fetching_is_weighed_and_everything_fits() -> None:
    scenario = replace(WIDE, preferences={"switching_s": 0.01})
    view, caching = views(scenario, 8), agent(scenario, random_decisions=1)
    view = replace(view, cache=torch.zeros_like(view.cache))  # what is held already costs nothing
    drawn, later = (cache_of(view, caching.explore(view, 1.0, generator(0))) for _ in range(2))
    assert 0.3 < float(drawn.float().mean()) < 0.7
    assert not later.all()


def test_everything_is_held_where_everything_fits() -> None:
    view = views(WIDE, 3)
    assert cache_of(view, agent(WIDE).act(view)).all()
    tight = replace(view, free_cache_bits=view.free_cache_bits / 3)
    assert not cache_of(tight, agent(WIDE).act(tight)).all(dim=2).any()


@pytest.mark.parametrize("scenario", [SMALL, WIDE])
def test_the_first_decisions_see_every_server_with_and_without_every_service(scenario: Scenario) -> None:
    caching = agent(scenario, random_decisions=3)
    view = EdgeNetwork(scenario, num_envs=16, generator=generator()).caching_view()
    draws = generator(4)
    seen = torch.stack([cache_of(view, caching.explore(view, 0.0, draws)) for _ in range(3)]).flatten(0, 1)
    assert fits(scenario, seen)
    assert seen.any(dim=0).all()
    assert not seen.all(dim=0).any()
    assert len(seen.unique(dim=0)) > 5
    decided = cache_of(view, caching.explore(view, 0.0, draws))
    assert len(decided.unique(dim=0)) == 1  # members agree
    disturbed = cache_of(view, caching.explore(view, 2.0, draws))
    assert (len(disturbed.unique(dim=0)) > 1) or scenario is WIDE


def test_members_that_disagree_are_followed_in_turn() -> None:
    """One takes a miss for free where servers are dear: it holds what it likes; the other covers what it can."""
    view = EdgeNetwork(SMALL, num_envs=32, generator=generator()).caching_view()
    caching = agent(model=Physical(members=(0.0, 1.0)), random_decisions=0)
    caching.demand.usual_demand.copy_(torch.tensor(SMALL.popularity_vector))
    explored = cache_of(view, caching.explore(view, 0.0, generator(5)))
    assert len(explored.unique(dim=0)) == 2
    alike = agent(model=Physical(), random_decisions=0)
    alike.demand.usual_demand.copy_(torch.tensor(SMALL.popularity_vector))
    true = cache_of(view, alike.explore(view, 0.0, generator(5)))
    assert len(true.unique(dim=0)) == 1
    assert (explored == true[0]).flatten(1).all(dim=1).any()


def switching_case() -> tuple[LookaheadCaching, CachingView, list[float], float]:
    """One server with room for one of two services: it holds what 1 of 4 users asks for.

    Returns:
        The agent and the view, what the other service saves in a frame in its place and where nothing is held, and how
        long it takes to fetch it, s.
    """
    scenario = Scenario(
        num_servers=1,
        num_users=4,
        num_services=2,
        popularity=(0.25, 0.75),
        storage_bytes=(MIB, MIB),
        input_bytes=(MIB, MIB),
        cache_bytes=MIB,
        usable_cache_fraction=1.0,
        slots_per_decision=5,
    )
    caching = agent(scenario, num_finalists=0)
    caching.demand.usual_demand.copy_(torch.tensor([0.25, 0.75]))
    view = EdgeNetwork(scenario, num_envs=1, generator=generator()).caching_view()
    view.cache[0, 0, 0] = True
    demand = Physical().service_demands(view)
    frames = Frames(demand, torch.tensor([[1.0, 3.0]]), torch.tensor([4.0]))
    caches = torch.tensor([[[True, False]], [[False, True]], [[False, False]]])
    cost = frames.best_parts(torch.tensor([0, 0, 0]), caches).cost
    saves = [5 * (other - cost[1]).item() for other in (cost[0], cost[2])]
    return caching, view, saves, view.fetch_s[0, 1].item()


@pytest.mark.parametrize(("factor", "changes"), [(0.0, True), (0.98, True), (1.02, False), (1000.0, False)])
@pytest.mark.parametrize("finalists", [0, 5])
def test_caches_change_exactly_where_a_frame_saves_more_than_fetching_costs(
    factor: float, changes: bool, finalists: int
) -> None:
    caching, view, (saves, saves_at_first), fetch_s = switching_case()
    assert saves_at_first > 1.4 * saves > 10
    if finalists and 0 < factor < 10:
        factor = 0.5 if changes else 2.0  # by drawn slots, which tell it less exactly
    caching.settings = LookaheadSettings(num_finalists=finalists, switching_weight=factor * saves / fetch_s)
    assert cache_of(view, caching.act(view))[0, 0].tolist() == [not changes, changes]
    nothing_held = replace(view, cache=torch.zeros_like(view.cache))
    first = cache_of(nothing_held, caching.act(nothing_held))[0, 0].tolist()
    assert first == [False, factor * saves < saves_at_first]


def test_what_is_held_stays_where_another_cache_saves_next_to_nothing() -> None:
    """Two servers that are alike: their contents could change places."""
    caching = agent()
    caching.demand.usual_demand.copy_(torch.tensor(SMALL.popularity_vector))
    view = EdgeNetwork(SMALL, num_envs=2, generator=generator()).caching_view()
    best = cache_of(view, caching.act(view))[0]
    held = replace(view, cache=torch.stack((best, best.flip(0))))
    assert torch.equal(cache_of(held, caching.act(held)), held.cache)


# --- rehearsing ----------------------------------------------------------------------------------------------------


def test_what_is_remembered_becomes_better_by_rehearsal_and_the_same_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scenario = Scenario(num_servers=3, num_users=9, cache_bytes=60e9, usable_cache_fraction=1.0)
    view = EdgeNetwork(scenario, num_envs=1, generator=generator()).caching_view()
    uniform = torch.rand(400, 9, generator=generator(7))

    def rehearsed(times: int) -> LookaheadCaching:
        made = agent(scenario)
        made.demand.usual_demand.copy_(torch.tensor(scenario.popularity_vector))
        made.remembered.copy_(fill_caches(scenario, torch.rand(3, 10, generator=generator(1))[None])[0])
        made.num_rehearsed.add_(1)
        for _ in range(times):
            made.update(batch_of(view), [], Tensor.backward)
        return made

    asking = 9 * torch.tensor(scenario.popularity_vector, dtype=torch.float32)[None]
    frames = Frames(Physical().service_demands(view), asking, torch.tensor([9.0]))
    agents = [rehearsed(times) for times in (0, 1, 6)]
    caches = torch.stack([one.remembered for one in agents])
    assert fits(scenario, caches)
    begun, once, often = (
        frames.on_slots(torch.zeros(3, dtype=torch.int64), caches, uniform).mean(dim=1).tolist()
    )
    assert once < 0.99 * begun
    assert often <= once * 1.002
    assert agents[2].num_rehearsed == 7
    assert torch.equal(rehearsed(6).remembered, agents[2].remembered)
    decided = cache_of(view, agents[2].act(view))
    assert frames.on_slots(torch.tensor([0]), decided, uniform).mean() <= often * 1.005


def test_new_slots_are_watched_by_the_default_agent() -> None:
    module = HADRL(SMALL)
    assert isinstance(module.caching_agent, LookaheadCaching)
    assert not module.caching_agent.learns_from_frames
    assert not list(module.caching_agent.parameters())
    assert module.caching_agent.configure_optimizers() == []
    assert not any("_seen_through" in name for name in module.caching_agent.state_dict())
    network = EdgeNetwork(SMALL, num_envs=2, generator=generator())
    network.begin_frame(torch.zeros_like(network.cache))
    view = network.offloading_view()
    view.requests[:] = torch.tensor([[0, 0, 1, 3, 0, 0], [1, 1, 1, 1, 3, 3]])
    module.observe(OffloadingTransitions(view, torch.zeros(2, 18), torch.zeros(2), view, torch.ones(2, 6)))
    usual = module.caching_agent.demand.usual_demand.tolist()
    assert usual == pytest.approx([4 / 12, 5 / 12, 0.0, 3 / 12])


# --- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"fast_level": "flat"},
        {"set_world_model": SetWorldModelSettings(encoder="deep_sets")},
        {"set_world_model": SetWorldModelSettings(num_common_resources=1)},
    ],
)
def test_a_fast_level_that_knows_no_sharing_is_refused_in_a_line(changes: dict[str, Any]) -> None:
    with pytest.raises(HadrlError, match=r"^slow_level must be set or flat with .*got lookahead") as told:
        HADRL(SMALL, **changes)
    assert "\n" not in str(told.value)
    if "fast_level" not in changes:  # its planner would have to be another one
        HADRL(SMALL, slow_level="set", **changes)


def test_a_reward_is_refused_where_nothing_is_learnt_from_it() -> None:
    module = HADRL(SMALL)
    CEMPlanning().check_model(module)
    for reward in ("hits", "published", "latency"):
        with pytest.raises(
            HadrlError,
            match=rf"^planning.caching_reward must be hits_and_latency with a LookaheadCaching, .*, got {reward}$",
        ):
            CEMPlanning(caching_reward=reward).check_model(module)  # type: ignore[arg-type]
    CEMPlanning(caching_reward="hits").check_model(HADRL(SMALL, slow_level="set"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_starts", -1),
        ("num_finalists", -1),
        ("num_slots", 0),
        ("switching_weight", -0.1),
        ("switching_weight", float("inf")),
        ("switching_weight", float("nan")),
        ("random_decisions", -1),
        ("seed", -1),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} must .*got {value}"):
        LookaheadSettings(**{name: value})


@pytest.mark.unchecked
def test_a_decision_needs_a_view_and_a_model() -> None:
    view = views(SMALL, 1)
    with pytest.raises(RuntimeError, match="look_through must be called before a decision"):
        LookaheadCaching(SMALL).act(view)
    with pytest.raises(ValueError, match="decides on a CachingView, got a Tensor"):
        agent().act(to_vector(view))
    assert LookaheadSettings().num_slots >= cache_choice.LEAST_SLOTS


# --- what an agent is asked to decide on

FAST = PlannerSettings(
    plan_horizon=1,
    form="outcome",
    proposal="categorical",
    n_candidates=8,
    top_candidates=2,
    optimisation_iters=1,
)


def small_agent() -> HADRL:
    """With a cheap plan: what is refused is refused before."""
    agent = HADRL.from_checkpoint("es2.ckpt")
    agent.planner = agent.make_planner(FAST)
    return agent


AGENT = small_agent()
SCENARIO = AGENT.scenario
USERS = SCENARIO.num_users


def in_frame(scenario: Scenario = SCENARIO, num_envs: int = 2) -> EdgeNetwork:
    network = EdgeNetwork(scenario, num_envs=num_envs, generator=generator())
    network.begin_frame(torch.ones_like(network.cache))
    return network


VIEW = in_frame().offloading_view()
CACHING_VIEW = in_frame().caching_view()
OF_THE_CLOUD = [
    ("cloud_rate_bit_per_s", 1, 0.0, "rate to the cloud must be at least 1 and finite, got 0 in network 1"),
    ("cloud_compute_hz", 0, -1.0, "compute of the cloud must be at least 1 and finite, got -1 in network 0"),
    ("cloud_delay_s", 0, -0.1, "delay to the cloud must be at least 0 and finite, got -0.1 in network 0"),
]
NOT_NUMBERS = st.sampled_from([torch.nan, torch.inf, -torch.inf])


def real_names(view: View) -> list[str]:
    return [name for name, value in view.tensors() if value.is_floating_point()]


def spoilt(view: View, name: str, place: int, value: float) -> Any:
    """The view with another value in one place of a field."""
    changed = getattr(view, name).clone()
    changed.view(-1)[place % changed.numel()] = value
    return replace(view, **{name: changed})


@given(name=st.sampled_from(real_names(VIEW)), place=st.integers(-4, 3), value=NOT_NUMBERS)
@settings(max_examples=15, deadline=None)
def test_no_offloading_view_with_a_number_that_is_none_is_decided_on(
    name: str, place: int, value: float
) -> None:
    with pytest.raises(
        NonFiniteError, match=r"offloading observation: .* got (nan|inf|-inf) in network [01]"
    ):
        AGENT.decide(spoilt(VIEW, name, place, value))


@given(name=st.sampled_from(real_names(CACHING_VIEW)), place=st.integers(-4, 3), value=NOT_NUMBERS)
@settings(max_examples=15, deadline=None)
def test_no_caching_view_with_a_number_that_is_none_is_decided_on(
    name: str, place: int, value: float
) -> None:
    view = spoilt(CACHING_VIEW, name, place, value)
    for decide in (AGENT.caching_agent.act, AGENT.place):
        with pytest.raises(NonFiniteError, match=r"caching observation: .* got"):
            decide(view)


@pytest.mark.parametrize(
    ("name", "place", "value", "message"),
    [
        (
            "bandwidth_hz",
            -2,
            -1.0,
            "bandwidth of server 0 must be at least 0 and finite, got -1 in network 1",
        ),
        ("requests", -USERS, 10, "service of user 0 must be a whole number from 0 to 9, got 10 in network 1"),
        ("requests", -USERS, -1, "service of user 0 must be a whole number from 0 to 9, got -1 in network 1"),
        ("input_bits", 2 - USERS, -3.0, "input of user 2 must be at least 0 and finite, got -3 in network 1"),
        ("cycles", -1, -0.5, "cycles of user 29 must be at least 0 and finite, got -0.5 in network 1"),
        *[
            (
                "spectral_efficiency",
                2,
                value,
                f"link of user 2 must be at least 1e-07 and finite, got {value:g} in network 0",
            )
            for value in (0.0, -4.0)
        ],
        *OF_THE_CLOUD,
    ],
)
def test_a_number_that_no_network_shows_is_refused_by_its_name(
    name: str, place: int, value: float, message: str
) -> None:
    with pytest.raises(HadrlError, match=f"^offloading observation: {message}$"):
        AGENT.decide(spoilt(VIEW, name, place, value))


@pytest.mark.parametrize(
    ("name", "place", "value", "message"),
    [
        ("users", 1, 2.5, "number of users must be a whole number from 0 to 100000, got 2.5 in network 1"),
        ("users", 0, -1.0, "number of users must be a whole number from 0 to 100000, got -1 in network 0"),
        (
            "users",
            0,
            1e9,
            r"number of users must be a whole number from 0 to 100000, got 1e\+09 in network 0",
        ),
        (
            "past_requests",
            3,
            -1.0,
            "past requests of service 3 must be at least 0 and finite, got -1 in network 0",
        ),
        ("spectral_efficiency", 1, 0.0, "link quality must be at least 1e-07 and finite, got 0 in network 1"),
        *OF_THE_CLOUD,
    ],
)
def test_a_number_that_no_network_shows_places_no_service(
    name: str, place: int, value: float, message: str
) -> None:
    with pytest.raises(HadrlError, match=f"^caching observation: {message}$"):
        AGENT.place(spoilt(CACHING_VIEW, name, place, value))


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cache": VIEW.cache.float()}, r"cache must be of type torch\.bool, got torch\.float32"),
        ({"cycles": VIEW.cycles.long()}, r"cycles must be of a floating point type, got torch\.int64"),
        ({"cycles": VIEW.cycles[:, 1:]}, "cycles must be of 30 users, got 29"),
        ({"cycles": VIEW.cycles[:1]}, r"cycles must have shape \[2, user\], got \[1, 30\]"),
    ],
)
def test_fields_that_do_not_fit_together_are_refused(changes: dict[str, Tensor], message: str) -> None:
    with pytest.raises(HadrlError, match=f"^offloading observation: {message}$"):
        AGENT.decide(replace(VIEW, **changes))
    with pytest.raises(HadrlError, match=r"requests must have shape \[networks, user\], got \[30\]"):
        AGENT.decide(VIEW[0])


def test_a_structured_agent_plays_networks_of_other_sizes() -> None:
    other = replace(
        SCENARIO, num_users=3, num_servers=3, num_services=4, popularity="zipf", decisions_per_episode=1
    )
    episode = AGENT.play(EdgeNetwork(other, num_envs=2, generator=generator()))
    assert episode.cache.shape[-2:] == (3, 4)
    with pytest.raises(HadrlError, match="30 users, got one of 3 users"):
        AGENT.plan(in_frame(other).offloading_view(), AGENT.planner, generator())


@pytest.mark.parametrize("physics", ["strict", "published"])
@pytest.mark.parametrize("factor", [0.1, 0.5])
def test_a_cache_of_another_size_than_in_training_is_filled_and_not_overfilled(
    physics: Physics, factor: float
) -> None:
    """At a tenth a decision for the cache of the scenario would fill 6.3 times what is there."""
    agent = HADRL.load_from_checkpoint("es2.ckpt", physics=physics)
    smaller = replace(SCENARIO, cache_bytes=factor * SCENARIO.cache_per_server_bits[0] / 8)
    network = EdgeNetwork(smaller, physics, num_envs=2, generator=generator())
    for _ in range(2):  # empty, then with something in it
        cache = agent.policies()[0](network)
        used = cache.double() @ torch.tensor(smaller.storage_bits, dtype=torch.float64)
        least, usable = (
            min(smaller.storage_bits),
            torch.tensor(smaller.usable_cache_bits, dtype=torch.float64),
        )
        assert ((used <= usable) & (used > usable / 2 - least)).all()
        network.begin_frame(cache)
        while not network.frame_over:
            network.step(best_known_policy(network))


def test_contents_that_fill_more_than_a_cache_are_refused() -> None:
    agent = HADRL(SCENARIO, "published")
    view = EdgeNetwork(SCENARIO, "published", num_envs=2, generator=generator()).caching_view()
    with pytest.raises(
        HadrlError, match=r"remaining cache of server 0 must be at least .* below 0, got -1717"
    ):
        agent.place(replace(view, free_cache_bits=-view.free_cache_bits))


def first_weight(agent: HADRL, part: str) -> Tensor:
    return dict(agent.named_parameters())[part]


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize(
    "part",
    ["world_model.resources.token.0.weight", "caching_agent.target_critic.", "caching_agent.actor."],
    ids=str,
)
def test_an_agent_with_a_broken_weight_refuses_to_act(part: str, value: float) -> None:
    agent = small_agent() if part.startswith("world") else HADRL(SCENARIO, slow_level="set", planner=FAST)
    name = next(name for name, _ in agent.named_parameters() if name.startswith(part))
    with torch.no_grad():
        first_weight(agent, name).view(-1)[-1] = value
    for step in (agent.play, lambda network: agent.validation_step(network, 0)):
        with pytest.raises(NonFiniteError, match=f"weight {name} must be finite, got {value}"):
            step(EdgeNetwork(SCENARIO, num_envs=1, generator=generator()))


def test_a_broken_statistic_is_refused_too() -> None:
    agent = small_agent()
    usual = agent.caching_agent.demand.usual_demand
    usual[3], kept = torch.nan, float(usual[3])
    with pytest.raises(NonFiniteError, match=r"weight caching_agent\.demand\.usual_demand must be finite"):
        agent.play(EdgeNetwork(SCENARIO, num_envs=1, generator=generator()))
    usual[3] = kept
    agent.world_model.user_normaliser.running_mean[1] = torch.nan
    with pytest.raises(
        NonFiniteError, match=r"weight world_model\.user_normaliser\.running_mean must be finite"
    ):
        agent.decide(VIEW)
    with pytest.raises(NonFiniteError, match=r"weight world_model\.user_normaliser\.running_mean must be"):
        agent.place(CACHING_VIEW)  # the caches follow from the world model too


def test_a_slot_without_users_gets_an_empty_decision() -> None:
    nobody = replace(SCENARIO, num_users=0, decisions_per_episode=2, slots_per_decision=2)
    agent = AGENT.for_scenario(nobody)
    network = in_frame(nobody, num_envs=3)
    for allocation in (agent.decide(network.offloading_view()), best_known_policy(network)):
        assert [list(field.shape) for field in allocation] == [[3, 0]] * 3
        assert allocation.server.dtype == torch.long
    episode = agent.play(network)
    assert episode.latency.shape == (4, 3, 0)
    assert episode.cache.any()
    assert (episode.compute_load == 0).all()
    assert decode_offloading(nobody, torch.zeros(3, 0), "published").server.shape == (3, 0)


def test_nobody_is_nothing_to_learn_from() -> None:
    with pytest.raises(ValueError, match="num_users must be at least 1, got 0"):
        TransitionDataModule(replace(SCENARIO, num_users=0))


def test_the_same_view_with_the_same_seed_is_decided_alike_whatever_came_before() -> None:
    network = EdgeNetwork(SCENARIO, num_envs=3, generator=generator())
    caching, offloading = AGENT.policies(seed=4)
    cache = caching(network)
    assert torch.equal(caching(network), cache)
    network.begin_frame(cache)
    first = offloading(network)
    again = AGENT.decide(network.offloading_view(), seed=4)
    for other in (offloading(network), AGENT.policies(seed=4)[1](network), again):
        assert all(torch.equal(one, two) for one, two in zip(first, other))
    alone = AGENT.decide(network.offloading_view()[1:2], seed=4)
    assert torch.equal(alone.server, first.server[1:2])
    turned = AGENT.decide(network.offloading_view()[torch.tensor([2, 1, 0])], seed=4)
    assert turned.server.flip(0).equal(first.server)


# --- a controller of its own: no network, no Trainer -----------------------------------------------------------------


def lists_of(view: View, row: int = 0) -> dict[str, Any]:
    """One network as plain numbers."""
    return {name: value[row].tolist() for name, value in view.tensors()}


def test_a_view_of_lists_or_arrays_is_that_of_the_network() -> None:
    arrays = {name: value.double().numpy() for name, value in VIEW.tensors()}
    for view, rows in ((OffloadingView.of(**arrays), VIEW), (OffloadingView.of(**lists_of(VIEW)), VIEW[:1])):
        for (name, value), (_, expected) in zip(view.tensors(), rows.tensors(), strict=True):
            assert value.dtype == expected.dtype, name
            torch.testing.assert_close(value, expected)


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"requests": [0.5] * USERS}, r"requests must be whole numbers, got 0\.5"),
        ({"cache": [[2] * 10] * 2}, "cache must be 0 or 1, got 2"),
        ({"cycles": "many"}, "cycles must be an array of real numbers, got 'many'"),
        ({"cycles": 3.0}, r"cycles must have shape \[user\] or \[networks, user\], got \[\]"),
        ({"cloud_delay_s": [[0.1]]}, r"cloud_delay_s must have shape \[\] or \[networks\], got \[1, 1\]"),
        ({"cycles": [1.0] * 29}, "cycles must be of 30 users, got 29"),
        ({"speed": [1.0]}, "^speed must be one of cache, free_cache_bits, .*cycles"),
    ],
)
def test_what_is_no_view_is_refused_by_the_name_of_the_field(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OffloadingView.of(**{**lists_of(VIEW), **changes})
    with pytest.raises(ValueError, match=r"^cycles must be given$"):
        OffloadingView.of(**{name: value for name, value in lists_of(VIEW).items() if name != "cycles"})


@pytest.mark.unchecked
def test_what_is_no_view_of_the_level_and_no_seed_is_refused_in_a_line() -> None:
    no_server = {one.name: [] for one in fields_of(OffloadingView) if one.axes} | {"cache": torch.ones(0, 10)}
    of_services = {one.name: [] for one in fields_of(CachingView) if one.axes == ("service",)}
    of_servers = {one.name: [1, 1] for one in fields_of(CachingView) if one.axes == ("server",)}
    nothing = CachingView.of(**of_services, **of_servers, cache=[[]] * 2, hits=[[]] * 2)
    for act, view, told in (
        (AGENT.decide, CACHING_VIEW, r"^view must be of OffloadingView\.of\(…\), got CachingView$"),
        (AGENT.decide, lists_of(VIEW), "got dict$"),
        (
            AGENT.decide,
            OffloadingView.of(**no_server),
            "^offloading observation must have at least 1 server, got 0$",
        ),
        (AGENT.place, VIEW, r"^view must be of CachingView\.of\(…\), got OffloadingView$"),
        (AGENT.place, nothing, "^caching observation must have at least 1 service, got 0$"),
    ):
        with pytest.raises(HadrlError, match=told):
            act(view)  # type: ignore[operator]
    for seed in ("1", 1.5, True, [0]):
        with pytest.raises(HadrlError, match=r"^seed must be a whole number, got "):
            AGENT.decide(VIEW, seed=seed)  # type: ignore[arg-type]


@pytest.mark.parametrize(("servers", "users", "services"), [(2, 0, 10), (2, 1, 10), (3, 7, 4), (1, 31, 12)])
def test_a_controller_gets_a_decision_for_whatever_servers_users_and_services_there_are(
    servers: int, users: int, services: int
) -> None:
    view = OffloadingView.of(
        cache=[[1] * services] * servers,
        free_cache_bits=[0.0] * servers,
        bandwidth_hz=[200e6] * servers,
        compute_hz=[60e9] * servers,
        requests=[user % services for user in range(users)],
        input_bits=[6e6] * users,
        cycles=[3e8] * users,
    )
    agent = small_agent()
    agent.tell_outside = lambda ranges: None  # type: ignore[method-assign]
    allocation = agent.decide(view, seed=1)
    assert allocation.server.shape == (1, users)
    assert ((allocation.server >= 0) & (allocation.server < servers)).all()
    for share in (allocation.bandwidth_share, allocation.compute_share):
        load = torch.zeros(1, servers).scatter_add(1, allocation.server, share)
        assert torch.isclose(load, torch.ones(1)).logical_or(load == 0).all()
    again = agent.decide(view, seed=1)
    assert all(torch.equal(one, other) for one, other in zip(allocation, again))


def test_a_controller_is_told_what_lies_outside_of_training() -> None:
    with pytest.warns(HadrlWarning, match="num_users is 1 here, 5 to 100 in training"):
        small_agent().decide(
            OffloadingView.of(**lists_of(in_frame(replace(SCENARIO, num_users=1)).offloading_view()))
        )


def test_a_flat_agent_decides_for_the_sizes_of_its_scenario_alone() -> None:
    agent = HADRL(
        SCENARIO,
        fast_level="flat",
        slow_level="flat",
        world_model=WorldModelSettings(ensemble_size=2, hidden_size=4),
        planner=published_planner(plan_horizon=1, n_candidates=4, top_candidates=2, optimisation_iters=1),
    )
    assert agent.decide(VIEW).server.shape == (2, USERS)
    other = in_frame(replace(SCENARIO, num_users=29)).offloading_view()
    with pytest.raises(
        HadrlError, match=r"num_users of the agent's scenario \(30\), got 29: flat models act on no"
    ):
        agent.decide(other)


def test_a_controller_places_what_the_policy_of_the_agent_places() -> None:
    network = EdgeNetwork(SCENARIO, num_envs=2, generator=generator())
    cache = AGENT.place(
        CachingView.of(**{name: v.tolist() for name, v in network.caching_view().tensors()}), seed=4
    )
    assert cache.dtype == torch.bool
    assert torch.equal(cache, AGENT.policies(seed=4)[0](network))


def test_a_controller_is_told_of_caches_beyond_training() -> None:
    other = EdgeNetwork(replace(SCENARIO, cache_bytes=2000 * GIB), generator=generator())
    with pytest.warns(
        HadrlWarning, match="usable cache of a server is 1600 GiB here, 0.4 to 320 GiB in training"
    ):
        small_agent().place(other.caching_view())


def test_a_flat_caching_agent_decides_for_the_sizes_of_its_scenario_alone() -> None:
    agent = HADRL(SCENARIO, slow_level="flat")
    other = EdgeNetwork(replace(SCENARIO, num_servers=3), generator=generator()).caching_view()
    with pytest.raises(
        HadrlError, match=r"num_servers of the agent's scenario \(2\), got 3: flat models act on no"
    ):
        agent.place(other)


@pytest.mark.parametrize("physics", ["strict", "published"])
def test_plans_ask_for_shares_below_the_floor_of_actions_where_the_physics_takes_any(
    physics: Physics,
) -> None:
    agent = AGENT if physics == "strict" else HADRL(SCENARIO, "published")
    action = torch.full((1, 3 * USERS), -1.0)
    action[0, USERS] = action[0, 2 * USERS + 1] = (
        1.0  # all at server 0; one user has the largest wish for each
    )
    by_agent, by_physics = (
        agent.decide_offloading(SCENARIO, action),
        decode_offloading(SCENARIO, action, physics),
    )
    assert torch.equal(by_agent.server, by_physics.server)
    if physics == "published":
        assert all(torch.equal(one, other) for one, other in zip(by_agent, by_physics, strict=True))
        return
    total = 1 + (USERS - 1) * 1e-3
    for share, user in ((by_agent.bandwidth_share, 0), (by_agent.compute_share, 1)):
        expected = torch.full((USERS,), 1e-3 / total)
        expected[user] = 1 / total
        torch.testing.assert_close(share[0], expected)
    assert by_physics.bandwidth_share[0, 0] == pytest.approx(1 / (1 + (USERS - 1) * 0.05))
    network = in_frame(num_envs=1)
    assert network.step(by_agent).latency.isfinite().all()  # they are carried out

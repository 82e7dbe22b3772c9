"""What a trained agent is asked to decide on: refused where it is no view of its network, decided alike where it is."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hadrl_lightning import HADRL, EdgeNetwork, Scenario
from hadrl_lightning.agents import WorldModelSettings
from hadrl_lightning.baselines import best_known_policy
from hadrl_lightning.data import TransitionDataModule
from hadrl_lightning.errors import HadrlError, HadrlWarning, NonFiniteError
from hadrl_lightning.planning import PlannerSettings
from hadrl_lightning.scenario import GIB, Physics
from hadrl_lightning.simulator import CachingView, OffloadingView, View, decode_offloading, fields_of
from tests.helpers import published_planner

FAST = PlannerSettings(
    plan_horizon=1,
    form="outcome",
    proposal="categorical",
    n_candidates=8,
    top_candidates=2,
    optimisation_iters=1,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cache": VIEW.cache.float()}, r"cache must be of type torch\.bool, got torch\.float32"),
        ({"cycles": VIEW.cycles.long()}, r"cycles must be of a floating point type, got torch\.int64"),
        ({"cycles": VIEW.cycles[:, 1:]}, "cycles must be of 30 users, got 29"),
        ({"cycles": VIEW.cycles[:1]}, r"cycles must have shape \[2, user\], got \[1, 30\]"),
    ],
)
def test_fields_that_do_not_fit_together_are_refused(
    as_installed: None, changes: dict[str, Tensor], message: str
) -> None:
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
def test_what_is_no_view_is_refused_by_the_name_of_the_field(
    as_installed: None, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        OffloadingView.of(**{**lists_of(VIEW), **changes})
    with pytest.raises(ValueError, match=r"^cycles must be given$"):
        OffloadingView.of(**{name: value for name, value in lists_of(VIEW).items() if name != "cycles"})


def test_what_is_no_view_of_the_level_and_no_seed_is_refused_in_a_line(as_installed: None) -> None:
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

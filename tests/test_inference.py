"""What a trained agent is asked to decide on: refused where it is no view of its network, decided alike where it is."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hadrl_lightning import HADRL, EdgeNetwork, Scenario
from hadrl_lightning.baselines import best_known_policy
from hadrl_lightning.data import TransitionDataModule
from hadrl_lightning.errors import HadrlError, NonFiniteError
from hadrl_lightning.planning import PlannerSettings
from hadrl_lightning.simulator import decode_offloading

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


VIEW = in_frame().offloading_observation()
CACHING_VIEW = in_frame().caching_observation()
NOT_NUMBERS = st.sampled_from([torch.nan, torch.inf, -torch.inf])


@given(place=st.integers(0, VIEW.numel() - 1), value=NOT_NUMBERS)
@settings(max_examples=15, deadline=None)
def test_no_offloading_view_with_a_number_that_is_none_is_decided_on(place: int, value: float) -> None:
    view = VIEW.clone()
    view.view(-1)[place] = value
    with pytest.raises(
        NonFiniteError, match=r"offloading observation: .* got (nan|inf|-inf) in network [01]"
    ):
        AGENT.allocate(view)


@given(place=st.integers(0, CACHING_VIEW.numel() - 1), value=NOT_NUMBERS)
@settings(max_examples=15, deadline=None)
def test_no_caching_view_with_a_number_that_is_none_is_decided_on(place: int, value: float) -> None:
    view = CACHING_VIEW.clone()
    view.view(-1)[place] = value
    with pytest.raises(NonFiniteError, match=r"caching observation: .* got"):
        AGENT.ddpg.act(view)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        (0, 0.5, "cache bit 0 must be a whole number from 0 to 1, got 0.5 in network 1"),
        (22, -1.0, "bandwidth of server 0 must be at least 0 and finite, got -1 in network 1"),
        (26, 11.0, "service of user 0 must be a whole number from 1 to 10, got 11 in network 1"),
        (26, 0.0, "service of user 0 must be a whole number from 1 to 10, got 0 in network 1"),
        (26 + USERS + 2, -3.0, "input of user 2 must be at least 0 and finite, got -3 in network 1"),
        (-1, -0.5, "cycles of user 29 must be at least 0 and finite, got -0.5 in network 1"),
    ],
)
def test_a_number_that_no_network_shows_is_refused_by_its_name(
    column: int, value: float, message: str
) -> None:
    view = VIEW.clone()
    view[1, column] = value
    with pytest.raises(HadrlError, match=message):
        AGENT.allocate(view)


@pytest.mark.parametrize("users", [29, 31])
def test_another_number_of_users_is_refused(users: int) -> None:
    other = in_frame(replace(SCENARIO, num_users=users))
    caching, offloading = AGENT.policies()
    with pytest.raises(
        HadrlError, match=f"num_users of the agent's scenario \\(30\\), got {users}: for_scenario"
    ):
        offloading(other)
    with pytest.raises(HadrlError, match="num_users of the agent's scenario"):
        caching(other)
    with pytest.raises(HadrlError, match=rf"\[networks, 116\], 30 users, got one of {users} users"):
        AGENT.allocate(other.offloading_observation())
    with pytest.raises(HadrlError, match=f"30 users, got one of {users} users"):
        AGENT.plan(other.offloading_observation(), AGENT.planner, generator())
    with pytest.raises(HadrlError, match="num_users"):
        AGENT.play(other)


@pytest.mark.parametrize("factor", [0.1, 2.0])
def test_a_cache_of_another_size_than_the_agents_is_refused(factor: float) -> None:
    """At a tenth the decision would fill 9.8 times what is there."""
    view = CACHING_VIEW.clone()
    view[:, -2:] *= factor
    with pytest.raises(
        HadrlError, match=r"remaining cache of server 0 .* scenario \(1374.39 Gbit may be filled\)"
    ):
        AGENT.ddpg.act(view)
    network = EdgeNetwork(replace(SCENARIO, cache_bytes=factor * SCENARIO.cache_per_server_bits[0] / 8))
    with pytest.raises(HadrlError, match="remaining cache of server 0"):
        AGENT.policies()[0](network)


def first_weight(agent: HADRL, part: str) -> Tensor:
    return dict(agent.named_parameters())[part]


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize(
    "part", ["world_model.resources.token.0.weight", "ddpg.target_critic.", "ddpg.actor."], ids=str
)
def test_an_agent_with_a_broken_weight_refuses_to_act(part: str, value: float) -> None:
    agent = small_agent()
    name = next(name for name, _ in agent.named_parameters() if name.startswith(part))
    with torch.no_grad():
        first_weight(agent, name).view(-1)[-1] = value
    for step in (agent.play, lambda network: agent.validation_step(network, 0)):
        with pytest.raises(NonFiniteError, match=f"weight {name} must be finite, got {value}"):
            step(EdgeNetwork(SCENARIO, num_envs=1, generator=generator()))


def test_a_broken_statistic_is_refused_too() -> None:
    agent = small_agent()
    agent.world_model.user_normaliser.running_mean[1] = torch.nan
    with pytest.raises(
        NonFiniteError, match=r"weight world_model\.user_normaliser\.running_mean must be finite"
    ):
        agent.allocate(VIEW)


def test_a_slot_without_users_gets_an_empty_decision() -> None:
    nobody = replace(SCENARIO, num_users=0, decisions_per_episode=2, slots_per_decision=2)
    agent = AGENT.for_scenario(nobody)
    network = in_frame(nobody, num_envs=3)
    for allocation in (agent.allocate(network.offloading_observation()), best_known_policy(network)):
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
    again = AGENT.allocate(network.offloading_observation(), seed=4)
    for other in (offloading(network), AGENT.policies(seed=4)[1](network), again):
        assert all(torch.equal(one, two) for one, two in zip(first, other))
    alone = AGENT.allocate(network.offloading_observation()[1:2], seed=4)
    assert torch.equal(alone.server, first.server[1:2])
    assert AGENT.allocate(network.offloading_observation().flip(0), seed=4).server.flip(0).equal(first.server)

"""The structured world model: sharing by hand, symmetry, other sizes, planning, refinement, outcomes in nats."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from hadrl_lightning.agents import HADRL
from hadrl_lightning.agents.carried import CarriedLessons, CarriedWorkModel
from hadrl_lightning.agents.optimisers import DecayingAdam, ResumedAdam
from hadrl_lightning.agents.set_predictions import read_action
from hadrl_lightning.agents.set_world_model import CHANGE_ROWS, SetWorldModel
from hadrl_lightning.agents.settings import SetWorldModelSettings
from hadrl_lightning.agents.transition_model import derived_reward
from hadrl_lightning.data.passes import member_batches
from hadrl_lightning.data.transitions import OffloadingTransitions
from hadrl_lightning.distributed import MemberWise, Share
from hadrl_lightning.errors import HadrlError
from hadrl_lightning.nn.deep_sets import DeepSets
from hadrl_lightning.nn.set_encoder import SharedResources
from hadrl_lightning.nn.tokens import TokenFields
from hadrl_lightning.planning import CEMPlanner, PlannerSettings, PlanningModel, Prediction, rollout, rounds
from hadrl_lightning.planning.free_energy import OutcomeForm, expected_free_energy
from hadrl_lightning.planning.measures import Draws
from hadrl_lightning.planning.refine import (
    RefinementSettings,
    descend_shares,
    refine,
    sweep_targets,
)
from hadrl_lightning.planning.rounds import plan_by_sums
from hadrl_lightning.planning.starts import preferred_targets, random_targets
from hadrl_lightning.play import Frame, decided, offloading_agent, offloading_reward
from hadrl_lightning.scenario import GIB, Scenario
from hadrl_lightning.simulator import EdgeNetwork, OffloadingView, decode_offloading, fields_of, fill_caches
from hadrl_lightning.simulator.rows import concatenated
from tests.helpers import assert_same, published_planner
from tests.helpers.ranks import SCENARIOS, played_rows, train

SMALL = SetWorldModelSettings(ensemble_size=3, hidden_size=8, weight_size=6, num_resources=2)
NO_LAW = SetWorldModelSettings(ensemble_size=3, hidden_size=8, weight_size=6, encoder="deep_sets")
both_encoders = pytest.mark.parametrize("settings", [SMALL, NO_LAW], ids=["law", "no law"])
SCENARIO = Scenario(num_servers=2, num_users=6, cache_bytes=40 * GIB)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def transitions(
    scenario: Scenario = SCENARIO, slots: int = 5, envs: int = 8, seed: int = 0
) -> OffloadingTransitions:
    """Random caches and random actions."""
    draw = generator(seed)
    network = EdgeNetwork(scenario, num_envs=envs, generator=draw)
    rows = []
    for _ in range(slots):
        if network.frame_over:
            network.begin_frame(fill_caches(scenario, torch.rand(network.cache.shape, generator=draw)))
        before = network.offloading_view()
        action = 2 * torch.rand(envs, scenario.offloading_action_size, generator=draw) - 1
        latency = network.step(decode_offloading(scenario, action)).latency
        after = network.offloading_view()
        rows.append(OffloadingTransitions(before, action, offloading_reward(latency), after, latency))
    return concatenated(rows)


def world_model(scenario: Scenario = SCENARIO, settings: SetWorldModelSettings = SMALL) -> SetWorldModel:
    model = SetWorldModel(settings, generator=generator())
    model.observe(transitions(scenario))
    return model


def predict(model: SetWorldModel, view: OffloadingView, action: Tensor) -> Prediction:
    return model.step(model.start(view, 1), action)[0]


# --- reading -------------------------------------------------------------------------------------------------------


def test_the_numbers_of_users_and_servers_are_in_the_scale_and_the_order_of_vectors() -> None:
    view = OffloadingView(
        cache=torch.tensor([[[1, 0, 0], [0, 1, 1]]]).bool(),  # 2 servers, 3 services
        free_cache_bits=torch.tensor([[1.0, 2.0]]) * 8 * GIB,
        bandwidth_hz=torch.tensor([[11e5, 21e5]]),
        compute_hz=torch.tensor([[12e9, 24e9]]),
        requests=torch.tensor([[0, 2]]),
        input_bits=torch.tensor([[30e6, 31e6]]),
        cycles=torch.tensor([[40e9, 41e9]]),
        spectral_efficiency=torch.tensor([[5.0, 6.0]]),
        cloud_rate_bit_per_s=torch.tensor([7e6]),
        cloud_compute_hz=torch.tensor([8e9]),
        cloud_delay_s=torch.tensor([9.0]),
    )
    fields = TokenFields.of(OffloadingView)
    numbers = fields.read(view)
    assert fields.token_size == 9
    assert numbers.user.tolist() == [[[30, 40, 5, 7, 8, 9], [31, 41, 6, 7, 8, 9]]]
    assert numbers.server.tolist() == [[[11, 12], [21, 24]]]
    assert numbers.request.tolist() == [[0, 2]]
    assert fields.holds(numbers).tolist() == [[[1, 0], [0, 1]]]


def test_the_holders_read_are_those_of_the_network() -> None:
    network = EdgeNetwork(SCENARIO, num_envs=3, generator=generator())
    network.begin_frame(fill_caches(SCENARIO, torch.rand(network.cache.shape, generator=generator())))
    fields = TokenFields.of(OffloadingView)
    holds = fields.holds(fields.read(network.offloading_view()))
    expected = torch.stack([network.cache[:, s].gather(1, network.requests) for s in range(2)], dim=-1)
    assert torch.equal(holds.bool(), expected)


def test_a_vector_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"a structured model sees a view of cache, .*cloud_delay_s, got a vector"
    ):
        world_model().start(torch.zeros(1, 44), 1)


# --- sharing -------------------------------------------------------------------------------------------------------


def test_with_equal_weights_a_latency_is_one_demand_plus_another_times_the_users_of_the_server() -> None:
    resources = SharedResources(1, 7, 4, 4, num_resources=1, num_waits=1, generator=generator())
    for parameter in resources.parameters():
        torch.nn.init.zeros_(parameter)
    bias = torch.tensor([math.log(3), math.log(2), 0.0, 0.0])  # shared demand 3, own demand 2, two variances
    for head in resources.heads:
        head.bias.data[0, 0] = bias
    description = resources.describe(torch.zeros(1, 3, 7))
    target = torch.tensor([[[0, 0, 1]]])
    mean, log_var = resources.combine(description, torch.zeros(1, 3, 2), target, num_servers=2)
    latency = [2 + 3 * 2, 2 + 3 * 2, 2 + 3 * 1]
    torch.testing.assert_close(mean.exp(), torch.tensor([[latency]]).float(), rtol=2e-2, atol=0)  # soft bound
    var = math.exp(-11 + 12 * 0.5)  # middle of the range, both parts
    expected = var * (2**2 + 6**2) / 8**2
    torch.testing.assert_close(log_var[0, 0, 0].exp().item(), expected, rtol=3e-2, atol=0)


def test_demands_and_waits_are_products_of_powers_where_the_small_net_says_nothing() -> None:
    resources = SharedResources(1, 4, 4, 4, num_resources=1, num_waits=2, generator=generator())
    for parameter in resources.parameters():
        torch.nn.init.zeros_(parameter)
    x = torch.tensor([2.0, 30.0, 500.0])
    token = torch.cat((x.log(), torch.tensor([0.5])))[None, None].repeat(1, 2, 1)
    token[0, 1, -1] = -0.5
    missing, held = resources.powers
    held.weight.data[0, :3] = torch.tensor([[1.0, 0.5, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, -2.0]])
    held.bias.data[0, 0] = torch.tensor([0.0, math.log(3.0), math.log(7.0)])
    missing.weight.data[0, :3] = torch.tensor([[0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 1.0, 1.0]])
    found = resources.demands(resources.describe(token))
    # held: 2 / 30, and 3 √2 + 7 / 500²; missing: 1, and 30 · 500 + 500
    expected = [[2 / 30, 3 * 2**0.5 + 7 / 500**2], [1.0, 30 * 500 + 500]]
    torch.testing.assert_close(found[0], torch.tensor(expected))
    pairs = resources.pair_demands(token[:, :1, :2], token[:, :1, 2:3], torch.tensor([[[[0.5]]]]), None, 8)
    torch.testing.assert_close(pairs.flatten(), torch.tensor(expected[0]))


def test_resources_of_all_users_are_pooled_by_their_mean() -> None:
    resources = SharedResources(1, 7, 4, 4, num_resources=1, num_common=1, num_waits=1, generator=generator())
    for parameter in resources.parameters():
        torch.nn.init.zeros_(parameter)
    for num_users in (2, 7):
        target = torch.arange(num_users)[None, None]  # each alone on a server of its own
        description = resources.describe(torch.zeros(1, num_users, 7))
        mean, _ = resources.combine(description, torch.zeros(1, num_users, 2), target, num_users)
        torch.testing.assert_close(mean.exp(), torch.full((1, 1, num_users), 3.0))  # 1 + 1·1 + 1·1


def test_without_the_law_a_user_feels_the_users_of_its_server_and_no_others() -> None:
    network = DeepSets(2, 7, 8, 6, generator=generator())
    token, share = torch.randn(1, 4, 7, generator=generator(1)), torch.zeros(1, 4, 2)
    target = torch.tensor([[[0, 0, 1, 1]]])

    def mean(token: Tensor, share: Tensor, target: Tensor, num_servers: int = 2) -> Tensor:
        return network.combine(network.describe(token), share, target, num_servers)[0]

    before = mean(token, share, target)
    other_token, other_share = token.clone(), share.clone()
    other_token[0, 1] += 1
    other_share[0, 1] += 1
    for after in (mean(other_token, share, target), mean(token, other_share, target)):
        assert (after[..., :2] != before[..., :2]).all()
        torch.testing.assert_close(after[..., 2:], before[..., 2:], rtol=0, atol=0)
    torch.testing.assert_close(mean(token, share, target + 1, 5), before)  # which server it is says nothing


def test_without_the_law_members_that_are_held_apart_predict_what_they_do_together() -> None:
    whole, data = world_model(settings=NO_LAW), transitions(slots=1)
    for share in (Share(0, 1, 3), Share(1, 2, 3)):
        part = world_model(settings=NO_LAW)
        for module in part.modules():
            if isinstance(module, MemberWise):
                module.hold(share)
        assert part.num_members == share.count
        expected = predict(whole, data.view, data.action).mean[share.items]
        torch.testing.assert_close(predict(part, data.view, data.action).mean, expected)


@both_encoders
def test_permuting_users_permutes_what_is_predicted(
    settings: SetWorldModelSettings,
) -> None:
    model, data = world_model(settings=settings), transitions()
    order = torch.randperm(6, generator=generator(1))
    before = predict(model, data.view, data.action)
    names = ("requests", "input_bits", "cycles", "spectral_efficiency")
    users = {name: getattr(data.view, name)[:, order] for name in names}
    action = data.action.unflatten(1, (3, -1))[:, :, order].flatten(1)
    after = predict(model, replace(data.view, **users), action)
    torch.testing.assert_close(after.mean, before.mean[..., order], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(after.log_var, before.log_var[..., order], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(after.reward_mean, before.reward_mean, atol=0, rtol=1e-5)


def renumbered(view: Any, order: Tensor) -> Any:
    """The same networks with other numbers for the services: `order` tells which one comes where."""
    changed = {}
    for field in fields_of(type(view)):
        value = getattr(view, field.name)
        if field.axes[-1:] == ("service",):
            changed[field.name] = value[..., order]
        elif field.of == "service":
            changed[field.name] = order.argsort()[value]
    return replace(view, **changed)


@both_encoders
def test_which_number_a_service_has_says_nothing(settings: SetWorldModelSettings) -> None:
    model, data = world_model(settings=settings), transitions()
    order = torch.randperm(10, generator=generator(1))
    other = renumbered(data.view, order)
    assert not torch.equal(other.requests, data.view.requests)
    before, after = (predict(model, view, data.action) for view in (data.view, other))
    torch.testing.assert_close(after.mean, before.mean, atol=0, rtol=0)
    empty = EdgeNetwork(SCENARIO, num_envs=3, generator=generator()).caching_view()
    if model.knows_sharing:
        demand = model.service_demands(empty)
        torch.testing.assert_close(model.service_demands(renumbered(empty, order)), demand[..., order, :])


def test_an_agent_decides_alike_whatever_numbers_services_have() -> None:
    scenario = replace(
        SCENARIO, num_services=5, popularity=(0.31, 0.05, 0.26, 0.16, 0.22), cache_bytes=9 * GIB
    )
    agent = HADRL(scenario)
    agent.world_model.observe(transitions(scenario))
    order = torch.tensor([3, 0, 4, 1, 2])
    network = EdgeNetwork(scenario, num_envs=4, generator=generator())
    view = network.caching_view()
    places = agent.place(view)
    assert not bool(places.all())
    assert torch.equal(agent.place(renumbered(view, order)), places[..., order])
    network.begin_frame(places)
    view = network.offloading_view()
    for one, other in zip(agent.decide(view), agent.decide(renumbered(view, order)), strict=True):
        torch.testing.assert_close(one, other)


@both_encoders
def test_swapping_the_servers_and_the_targets_changes_nothing(
    settings: SetWorldModelSettings,
) -> None:
    model, data = world_model(settings=settings), transitions()
    names = ("cache", "free_cache_bits", "bandwidth_hz", "compute_hz")
    swapped = replace(data.view, **{name: getattr(data.view, name).flip(1) for name in names})
    action = data.action.clone()
    action[:, :6] *= -1
    before = predict(model, data.view, data.action)
    after = predict(model, swapped, action)
    torch.testing.assert_close(after.mean, before.mean, atol=1e-5, rtol=1e-5)


@both_encoders
def test_the_same_weights_act_on_other_numbers_of_users_and_servers(
    settings: SetWorldModelSettings,
) -> None:
    model = world_model(settings=settings)
    for servers, users in ((2, 3), (2, 12), (4, 8)):
        scenario = Scenario(num_servers=servers, num_users=users, cache_bytes=40 * GIB)
        other = SetWorldModel(settings)
        other.load_state_dict(model.state_dict())
        data = transitions(scenario)
        prediction = predict(other, data.view, data.action)
        assert prediction.mean.shape == (3, len(data.reward), users)
        assert all(field.isfinite().all() for field in prediction)


# --- learning ------------------------------------------------------------------------------------------------------


@both_encoders
def test_the_loss_is_the_likelihood_of_what_planning_predicts(
    settings: SetWorldModelSettings,
) -> None:
    model, data = world_model(settings=replace(settings, change_weight=0.0)), transitions()
    prediction = predict(model, data.view, data.action)
    error = prediction.mean - data.latency.log()
    expected = 0.5 * (error.square() / prediction.log_var.exp() + prediction.log_var)
    losses = model.loss(data)
    torch.testing.assert_close(losses.total, expected.mean(dim=(1, 2)).sum(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(losses.latency_error, error.square().mean().sqrt(), rtol=1e-4, atol=1e-4)


@both_encoders
def test_every_parameter_gets_a_gradient_and_members_learn_apart(
    settings: SetWorldModelSettings,
) -> None:
    model, data = world_model(settings=settings), transitions()
    by_member = data.map(lambda value: value.expand(3, *value.shape))
    torch.testing.assert_close(model.loss(by_member).total, model.loss(data).total)
    model.loss(data).total.backward()
    assert all(p.grad is not None and p.grad.flatten(1).norm(dim=1).min() > 0 for p in model.parameters())


def test_a_weight_counts_as_so_many_copies_for_latencies_and_changes() -> None:
    model, data = world_model(), transitions(slots=1, envs=4)
    weight = torch.tensor([2.0, 0.0, 1.0, 1.0])
    copies = model.loss(data[torch.tensor([0, 0, 2, 3])])
    weighted = model.loss(replace(data, weight=weight))
    torch.testing.assert_close(weighted.latency, copies.latency)
    spread = torch.arange(4).repeat_interleave(CHANGE_ROWS)  # changes are learnt from some rows alone
    copies = model.loss(data[torch.tensor([0, 0, 2, 3])[spread]])
    weighted = model.loss(replace(data, weight=weight)[spread])
    torch.testing.assert_close(weighted.change, copies.change)
    torch.testing.assert_close(weighted.total, copies.total)
    torch.testing.assert_close(weighted.latency_error, model.loss(data).latency_error)


def test_it_learns_the_network_and_its_plans_beat_random_ones() -> None:
    draw, data = generator(), transitions(slots=50, envs=8)
    model = SetWorldModel(replace(SMALL, hidden_size=16), generator=draw)
    model.observe(data)
    optimiser = model.configure_optimizers()
    for _ in range(8):
        for batch in member_batches(data, model.num_members, 16, draw):
            loss = model.loss(batch)
            optimiser.zero_grad()
            loss.total.backward()
            optimiser.step()
    held_out = transitions(slots=5, seed=9)
    assert model.loss(held_out).latency_error < 0.35
    settings = published_planner(
        plan_horizon=1, n_candidates=64, top_candidates=8, optimisation_iters=3, proposal="categorical"
    )
    planner = CEMPlanner(18, settings, num_users=6, num_targets=2)
    network = EdgeNetwork(SCENARIO, num_envs=64, generator=generator(3))
    network.begin_frame(fill_caches(SCENARIO, torch.rand(network.cache.shape, generator=draw)))
    action = planner.plan(model, network.offloading_view(), draw).action
    state = network.state_dict()
    planned = network.step(decode_offloading(SCENARIO, action)).latency.sum(dim=1).mean()
    network.load_state_dict(state)
    random = network.step(decode_offloading(SCENARIO, 2 * torch.rand(64, 18, generator=draw) - 1)).latency
    assert planned < 0.85 * random.sum(dim=1).mean()


def test_it_trains_alone_with_a_plain_trainer(tmp_path: Path) -> None:
    quiet: dict[str, Any] = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar"), False)
    trainer = Trainer(
        accelerator="cpu", max_epochs=3, default_root_dir=tmp_path, enable_model_summary=False, **quiet
    )
    model, data = SetWorldModel(SMALL, generator=generator()), transitions()
    trainer.fit(model, DataLoader(data, batch_size=8))
    assert model.user_normaliser.count == data.latency.numel()
    assert model.best_reward == data.reward.max()
    fresh = world_model()
    assert model.loss(data).latency < fresh.loss(data).latency


@both_encoders
def test_a_reset_draws_the_same_weights_from_the_same_seed_and_keeps_what_was_seen(
    settings: SetWorldModelSettings,
) -> None:
    model, seen = world_model(settings=settings), world_model(settings=settings).latency_normaliser.mean
    first = {name: value.clone() for name, value in model.state_dict().items()}
    model.reset_parameters(generator(1))
    assert not torch.equal(model.resources.token[0].weight, first["resources.token.0.weight"])
    model.reset_parameters(generator(0))
    assert all(torch.equal(value, first[name]) for name, value in model.state_dict().items())
    assert torch.equal(model.latency_normaliser.mean, seen)


def test_the_learning_rate_rises_falls_and_starts_anew_with_the_state() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimiser = DecayingAdam([parameter], 0.4, decay_steps=2.0, warmup_steps=2)
    rates = []
    for _ in range(6):
        parameter.grad = torch.ones(1)
        optimiser.step()
        rates.append(optimiser.param_groups[0]["lr"])
    assert rates == pytest.approx([0.2, 0.4, 0.4, 0.4 / 1.5, 0.4 / 2, 0.4 / 2.5])
    assert optimiser.num_steps == 6
    parameter.grad = None  # an update that is left out
    optimiser.step()
    assert optimiser.num_steps == int(optimiser.state[parameter]["step"]) == 6
    optimiser.state.clear()
    parameter.grad = torch.ones(1)
    optimiser.step()
    assert optimiser.param_groups[0]["lr"] == pytest.approx(0.2)


def test_a_run_from_trained_weights_learns_at_its_own_rate_whenever_its_optimizer_was_made() -> None:
    model = world_model()
    before = model.configure_optimizers()  # as where checkpoints are restored after optimizers are made
    model.begins_trained.fill_(True)
    after = model.configure_optimizers()
    for optimiser in (before, after):
        model.loss(transitions(SCENARIO)).total.backward()
        optimiser.step()
        optimiser.zero_grad()
    rates = [one.param_groups[0]["lr"] for one in (before, after)]
    assert rates[0] == rates[1] > 0


def test_steps_of_a_state_from_before_adam_was_fused_are_put_where_a_fused_step_needs_them() -> None:
    parameter = torch.nn.Parameter(torch.ones(1))
    before, after = torch.optim.Adam([parameter], lr=0.1), ResumedAdam([parameter], lr=0.2)
    parameter.grad = torch.ones(1)
    before.step()
    saved = before.state_dict()
    saved["state"][0]["step"] = saved["state"][0]["step"].double()  # float32, where the parameter is
    after.load_state_dict(saved)
    assert after.state[parameter]["step"].dtype == torch.float32
    assert after.param_groups[0]["lr"] == 0.2
    assert saved["param_groups"][0]["lr"] == 0.1
    after.step()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("ensemble_size", 0, "ensemble_size must be at least 1, got 0"),
        ("num_common_resources", -1, "num_common_resources must be at least 0, got -1"),
        ("learning_rate", 0.0, "learning_rate must be above 0 and finite, got 0.0"),
        ("decay_steps", 0.0, "decay_steps must be above 0 and finite, got 0.0"),
        ("change_weight", -0.1, "change_weight must be at least 0 and finite, got -0.1"),
        ("discount", 1.0, "discount must be at least 0 and below 1, got 1.0"),
        ("discount", -0.1, "discount must be at least 0 and below 1, got -0.1"),
    ],
)
def test_settings_out_of_range_are_refused(field: str, value: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SetWorldModelSettings(**{field: value})


# --- work that is carried over -------------------------------------------------------------------------------------


def carried_model(discount: float = 0.5) -> CarriedWorkModel:
    """Of users who bring 0.5 s of work each, and servers that work off 2 s; the second server's number is a mark."""
    model = CarriedWorkModel(1, 1, 2, 0, 8, discount, generator())
    with torch.no_grad():
        model.work.weight.zero_()
        model.power.bias.fill_(math.log(0.5))
        model.done.bias.fill_(math.log(2.0))
    return model


def carried_losses(
    model: CarriedWorkModel,
    before: list[float],
    after: list[float],
    target: list[int],
    asks: Tensor | None = None,
) -> Tensor:
    """`[server, loss]` of one slot of two servers in which a second more of work costs every user a second."""

    def numbers(backlog: list[float]) -> Tensor:
        return torch.tensor([[[[backlog[0], 0.0], [backlog[1], 1.0]]]])

    token = torch.zeros(1, 1, len(target), 1)
    lessons = CarriedLessons(torch.tensor([[before]]), torch.tensor([[after]]), numbers(after), token, None)
    dearer = torch.ones(1, 1, len(target)) if asks is None else asks.float()
    return model.losses(lessons, token, numbers(before), torch.tensor([[target]]), asks, dearer)[0, 0]


def test_a_server_that_is_empty_afterwards_teaches_only_that_it_had_time_enough() -> None:
    model = carried_model()
    off = carried_losses(model, [1.0, 1.75], [0.0, 0.0], [0, 1])[:, 0]
    # 1 + 0.5 − 2 is below 0; 1.75 + 0.5 − 2 = 0.25 s should have been left at the second one: 0.25² / 2 by Huber.
    torch.testing.assert_close(off, torch.tensor([0.0, 0.03125]))
    off[0].backward(retain_graph=True)
    assert not any(value.grad.any() for value in model.parameters() if value.grad is not None)
    off[1].backward()
    assert model.power.bias.grad is not None
    assert float(model.power.bias.grad) == pytest.approx(0.25 * 0.5)
    off = carried_losses(model, [1.0, 0.0], [0.25, 0.0], [0, 1])[:, 0]
    torch.testing.assert_close(off, torch.tensor([0.28125, 0.0]))  # (−0.5 − 0.25)² / 2


def test_idle_users_bring_no_work_and_pay_no_price() -> None:
    model = carried_model()
    asks = torch.tensor([[[True, False, False]]])
    losses = carried_losses(model, [2.0, 1.0], [0.0, 0.5], [0, 0, 1], asks)
    # By Huber: 2 + 0.5 − 2 is off by 0.5 from 0 at the first server, 1 + 0 − 2 by 1.5 from 0.5 at the second one.
    torch.testing.assert_close(losses[:, 0], torch.tensor([0.125, 1.0]))
    alone = carried_model()
    one = carried_losses(alone, [2.0, 1.0], [0.0, 0.5], [0])
    torch.testing.assert_close(losses[:, 0], one[:, 0])
    view = torch.zeros(1, 6, 1), torch.zeros(1, 1, 2, 2), torch.zeros(1, 2), asks[0]
    with torch.no_grad():
        assert model.carried(*view).work.flatten().tolist() == pytest.approx([0.5, 0.5, 0, 0, 0, 0])


def test_a_second_costs_all_tasks_to_come_where_a_queue_never_empties_and_those_of_a_slot_where_it_does() -> (
    None
):
    model = carried_model()
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(600):
        optimiser.zero_grad()
        carried_losses(model, [2.0, 0.0], [2.0, 0.0], [0, 0, 0, 1, 1, 1])[:, 1].sum().backward()
        optimiser.step()
    numbers = torch.tensor([[[[2.0, 0.0], [0.0, 1.0]]]])
    with torch.no_grad():
        price, rise = model.prices(numbers, 6)
    assert float(price[0, 0, 0] + 2 * rise[0, 0, 0]) == pytest.approx(3 / (1 - 0.5), rel=0.02)
    assert float(price[0, 0, 1]) == pytest.approx(3, rel=0.02)


def test_plans_look_at_their_slot_alone_where_nothing_is_carried_over_or_later_slots_do_not_count() -> None:
    assert world_model().carried is None
    assert world_model().carried_work(transitions().view) is None
    queues = replace(SCENARIO, processes={"queues": {}})
    carry, alone = (
        SetWorldModel.made_for(queues, "strict", replace(SMALL, discount=discount), generator())
        for discount in (0.9, 0.0)
    )
    assert carry.carried is not None
    assert carry.carried.discount == 0.9
    assert alone.carried is None


def test_by_default_plans_look_past_the_slot_where_tasks_can_go_elsewhere() -> None:
    queues, both = ({"queues": {}}, {"queues": {}, "device": {}})
    alone, past = (
        SetWorldModel.made_for(replace(SCENARIO, processes=processes), "strict", SMALL, generator())
        for processes in (queues, both)
    )
    assert alone.carried is None
    assert past.carried is not None
    assert past.carried.discount == 0.95


@pytest.mark.unchecked
@pytest.mark.parametrize("kind", ["queues", pytest.param("outcomes", marks=pytest.mark.whole)])
def test_an_agent_that_knows_what_work_costs_later_decides_and_trains_on_from_its_checkpoint(
    tmp_path: Path, kind: str
) -> None:
    """Where energy counts, and, of the kind `outcomes`, missed deadlines and drops too."""
    view, kind = played_rows(SCENARIOS[kind]).view, f"{kind}-collecting"
    whole, part, resumed = (tmp_path / f"{name}.ckpt" for name in ("whole", "part", "resumed"))
    module = train(kind, 2, whole)
    train(kind, 1, part)
    train(kind, 2, resumed, part)
    found, again = (torch.load(path, weights_only=True) for path in (whole, resumed))
    for name in ("state_dict", "optimizer_states", "TransitionDataModule"):
        assert_same(found[name], again[name], name)
    stored = HADRL.from_checkpoint(whole)
    decided = stored.decide(view)
    assert_same(decided, module.decide(view))
    stored.world_model.carried = None
    assert not torch.equal(stored.decide(view).server, decided.server)


def test_transitions_of_other_sizes_are_refused() -> None:
    data = transitions()
    with pytest.raises(ValueError, match=r"action \[18\] for 6 users, got action \[40, 17\]"):
        world_model().loss(replace(data, action=data.action[:, :-1]))


# --- planning ------------------------------------------------------------------------------------------------------


@both_encoders
def test_candidates_are_paired_with_their_own_network_and_members_with_their_own_weights(
    settings: SetWorldModelSettings,
) -> None:
    model, data = world_model(settings=settings), transitions(slots=1, envs=2)
    assert isinstance(model, PlanningModel)
    action = 2 * torch.rand(2, 3, 18, generator=generator()) - 1
    members = torch.tensor([2, 0])
    together = model.step(model.start(data.view, 3, members), action.flatten(0, 1), members)[0]
    for network in range(2):
        for candidate in range(3):
            row = slice(network, network + 1)
            alone = predict(model, data.view[row], action[row, candidate])
            torch.testing.assert_close(together.mean[:, 3 * network + candidate], alone.mean[members, 0])


def test_the_second_step_starts_from_the_observation_that_each_member_expects() -> None:
    model, data = world_model(), transitions(slots=1, envs=2)
    for parameter in model.change.parameters():
        torch.nn.init.zeros_(parameter)
    with torch.no_grad():  # a user's input falls by 0.5 standard deviations, more than its mean change
        model.change.user_head.bias[:, 0, 0] = -0.5
    action = data.action[:, None, None].expand(-1, 1, 2, -1)
    first, second = rollout(model, data.view, action)
    state = model.step(model.start(data.view, 1), data.action)[1]
    before, after = model.fields.read(data.view), model._next(state, None)
    scale = model.user_change_normaliser
    change = scale.mean + scale.std * torch.tensor([-0.5, *[0.0] * 5])
    torch.testing.assert_close(after.user[0], before.user + change.float(), rtol=1e-5, atol=1e-5)
    assert torch.equal(after.cache[0], data.view.cache)
    assert torch.equal(after.request[0], data.view.requests)
    expected = model.step(model._arrive(after, 1, None, None), data.action)[0]
    torch.testing.assert_close(second.mean[1], expected.mean[1])
    assert not torch.equal(first.mean, second.mean)


@pytest.mark.parametrize("var", [0.01, 0.1, 0.6, 1.0])
@pytest.mark.parametrize("num_users", [1, 2, 3, 30])
def test_the_derived_reward_is_that_of_sampled_latencies(var: float, num_users: int) -> None:
    mean = torch.randn(1, 2, num_users, generator=generator(3))
    log_var = torch.full_like(mean, math.log(var))
    noise = torch.randn(100_000 if num_users < 30 else 20_000, *mean.shape, generator=generator())
    sampled = 1e4 / (mean + math.sqrt(var) * noise).exp().sum(dim=-1)
    reward_mean, reward_log_var = derived_reward(mean, log_var)
    torch.testing.assert_close(reward_mean, sampled.mean(dim=0), rtol=0.035, atol=0)
    torch.testing.assert_close((0.5 * reward_log_var).exp(), sampled.std(dim=0), rtol=0.2, atol=0)


def test_the_derived_reward_of_one_user_is_exact_and_latencies_of_any_size_are_finite() -> None:
    mean = torch.tensor([[[2.0]]])
    reward_mean, reward_log_var = derived_reward(mean, torch.zeros_like(mean))  # a log-variance of 0: σ² = 1
    assert reward_mean.item() == pytest.approx(1e4 * math.exp(-2 + 0.5), rel=1e-3)
    assert reward_log_var.item() == pytest.approx(math.log(1e8 * math.exp(-4 + 1) * math.expm1(1)), abs=0.05)
    sizes = torch.tensor([[[-30.0, 30.0], [40.0, 41.0], [-40.0, -40.0]]])
    for log_var in (-30.0, 1.0):
        for field in derived_reward(sizes, torch.full_like(sizes, log_var)):
            assert field.isfinite().all()


# --- outcomes ------------------------------------------------------------------------------------------------------


def prediction_of(latency: Tensor, var: float = 1e-12) -> Prediction:
    mean, log_var = latency.log(), torch.full_like(latency, math.log(var))
    return Prediction(mean, log_var, *derived_reward(mean, log_var))


def test_the_pragmatic_value_is_the_expected_log_preference_in_nats() -> None:
    prediction = prediction_of(torch.tensor([[[1.0, 3.0]], [[2.0, 4.0]]]))  # two members, one row, two users
    terms = OutcomeForm(latency_scale_s=2.0, expl_scale=0.0).step(prediction, Draws(), 0)
    assert terms.pragmatic.item() == pytest.approx((4 + 6) / 2 / 2 + 2 * math.log(2))
    assert terms.total.item() == terms.pragmatic.item()
    wide = OutcomeForm(expl_scale=0.0).step(prediction_of(torch.ones(1, 1, 1), 0.5), Draws(), 0)
    assert wide.pragmatic.item() == pytest.approx(math.exp(0.25))  # the mean of a log-normal


def test_the_epistemic_value_is_0_where_members_agree_and_ln_members_where_they_do_not() -> None:
    form = OutcomeForm(expl_scale=0.5)
    agree = form.step(prediction_of(torch.ones(2, 1, 3), 0.01), Draws(), 0)
    assert agree.measure.item() == pytest.approx(0, abs=1e-5)
    apart = form.step(prediction_of(torch.tensor([[[1.0]], [[100.0]]]), 0.01), Draws(), 0)
    assert apart.measure.item() == pytest.approx(math.log(2), abs=1e-4)
    assert apart.epistemic.item() == pytest.approx(-0.5 * math.log(2), abs=1e-4)
    assert apart.total.item() == pytest.approx((apart.pragmatic + apart.epistemic).item())


@pytest.mark.parametrize("change", [{"latency_scale_s": 0.0}, {"expl_scale": -1.0}])
def test_an_outcome_form_out_of_range_is_refused(change: dict[str, float]) -> None:
    (name,) = change
    with pytest.raises(ValueError, match=f"{name} must be"):
        OutcomeForm(**change)


# --- start and refinement ------------------------------------------------------------------------------------------


# --- further outcomes ------------------------------------------------------------------------------------------------


WANTED = {"latency_s": 0.5, "energy_j": 40.0, "missed": 3.0, "dropped": 2.0}


def wanting(**weights: float) -> tuple[SetWorldModel, OffloadingTransitions]:
    """A model of such preferences that has learnt from random slots, and the slots."""
    scenario = replace(SCENARIO, preferences=weights)  # type: ignore[arg-type]
    draw, network = generator(), EdgeNetwork(scenario, num_envs=8, generator=generator())
    random = offloading_agent(lambda view: 2 * torch.rand(len(view), 18, generator=draw) - 1)
    frame = Frame(network, decided(fill_caches(scenario, torch.rand(network.cache.shape, generator=draw))))
    rows = [
        OffloadingTransitions.of(slot, offloading_reward(slot.service.latency), scenario.preferences)
        for slot in frame.slots(random)
    ]
    model = SetWorldModel.made_for(scenario, "strict", SMALL, generator())
    model.observe(concatenated(rows))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(30):
        optimizer.zero_grad()
        model.loss(concatenated(rows)).total.backward()
        optimizer.step()
    return model.eval(), concatenated(rows)


def test_what_a_task_costs_is_the_weighed_sum_of_the_outcomes_that_are_predicted() -> None:
    model, data = wanting(**WANTED)
    outcomes, view = model.outcomes, data.view
    assert outcomes is not None
    assert outcomes.drops is not None
    assert outcomes.energy is not None
    target, share = read_action(data.action, 2)
    users = model.at_targets(view, target)
    latency, cost = users.predict(share, latency_alone=True), users.predict(share)
    described, dropping = outcomes.parted(model._of_latency(users._described)[1])
    assert described is not None
    assert dropping is not None
    known = (share.flatten(0, 1)[None], target[None], 2)
    joules, spread = model.resources.combine(described, *known)
    energy = (joules + outcomes.energy_unit_j.log() + spread.exp() / 2).exp()
    dropped = outcomes.drops.combine(dropping, target[None], 2).sigmoid()
    deadline = (SCENARIO.deadline_step_s * (view.requests + 1)).log()  # type: ignore[attr-defined]
    deviation = latency.log_var.exp().sqrt()
    missed = torch.distributions.Normal(latency.mean, deviation)
    expected = 0.5 * (latency.mean + latency.log_var.exp() / 2).exp() + 40 * energy + 2 * dropped
    expected = expected + 3 * (1 - missed.cdf(deadline.expand_as(deviation)))
    found = (cost.mean + cost.log_var.exp() / 2).exp()
    torch.testing.assert_close(found, expected.to(found), rtol=1e-4, atol=1e-5)


def test_demands_weigh_latency_and_energy() -> None:
    model, data = wanting(latency_s=0.5, energy_j=40.0)
    view, outcomes = data.view, model.outcomes
    assert outcomes is not None
    assert outcomes.energy is not None
    found = model.pair_demands(view)
    weighed, model.outcomes = outcomes, None
    latency = model.pair_demands(view) * 0.5 * model.unit_s(found)
    model.outcomes = weighed
    assert bool((found > latency).all())
    none, model.outcomes.energy = model.outcomes.energy, None
    torch.testing.assert_close(model.pair_demands(view), latency)
    model.outcomes.energy = none
    slot = view[:3]
    target = torch.zeros_like(slot.requests)  # type: ignore[attr-defined]
    at_0 = found[:, :3, :-1, :, 0]
    torch.testing.assert_close(model.at_targets(slot, target).demand, at_0, rtol=1e-4, atol=1e-6)


def test_energy_is_learnt_beside_latency() -> None:
    model, data = wanting(energy_j=40.0)
    assert model.outcomes is not None
    assert data.energy is not None
    target, share = read_action(data.action, 2)
    users = model.at_targets(data.view, target)
    described, _ = model.outcomes.parted(model._of_latency(users._described)[1])
    assert described is not None
    found, _ = model.resources.combine(described, share.flatten(0, 1)[None], target[None], 2)
    joules = data.energy.log() - model.outcomes.energy_unit_j.log()
    error = (found.mean(dim=0) - joules).square().mean().sqrt()
    assert error < 0.5 * joules.std()


def test_plans_follow_slopes_as_far_as_they_lower_the_cost() -> None:
    model, data = wanting(**WANTED)
    by_sums = plan_by_sums(model, data.view, None)
    once = rounds._Sums(model, data.view, None, None, 0.0, 8192)
    alone = once.plan(*once.known())
    assert bool((by_sums.cost <= alone.cost).all())
    assert bool((by_sums.cost < alone.cost).any())


def test_preferences_beyond_latency_need_the_law_of_sharing() -> None:
    scenario = replace(SCENARIO, preferences={"energy_j": 1.0})  # type: ignore[arg-type]
    with pytest.raises(
        HadrlError, match=r"set_world_model\.encoder must be shared_resources where preferences"
    ):
        SetWorldModel.made_for(scenario, "strict", NO_LAW, generator())


class Toy:
    """Two users, two targets: user 0 is fast at 0, user 1 at 1; two users at one target slow each other down; the best
    share of user u is 0.3 (u + 1).
    """

    num_members = 1

    def start(self, view: Tensor, num_candidates: int, members: Tensor | None) -> None:
        return None

    def step(self, state: None, action: Tensor, members: Tensor | None) -> tuple[Prediction, None]:
        target, share = (action[:, :2] > 0).float(), action[:, 2:4]
        wrong = (target - torch.tensor([0.0, 1.0])).abs()
        crowded = (target[:, :1] == target[:, 1:]).float()
        latency = 1 + 4 * wrong + crowded + (share - torch.tensor([0.3, 0.6])).square()
        return prediction_of(latency[None]), None


FORM = OutcomeForm(expl_scale=0.0)
WORST = torch.tensor([[0.5, -0.5, 0.0, 0.0, 0.0, 0.0]])


def test_descent_finds_the_best_shares_and_leaves_the_targets() -> None:
    settings = RefinementSettings(share_steps=60)
    action = descend_shares(Toy(), torch.zeros(1, 1), WORST, FORM, settings, 2)
    torch.testing.assert_close(action[0, :4], torch.tensor([0.5, -0.5, 0.3, 0.6]), atol=0.02, rtol=0)


def test_a_sweep_changes_several_targets_at_once_as_far_as_that_helps() -> None:
    settings = RefinementSettings(target_sweeps=1)
    action = sweep_targets(Toy(), torch.zeros(1, 1), WORST, FORM, settings, 2, 2)
    assert action[0, :2].tolist() == [-0.5, 0.5]
    one = sweep_targets(Toy(), torch.zeros(1, 1), WORST, FORM, replace(settings, joint_changes=1), 2, 2)
    assert (one[0, :2] != WORST[0, :2]).sum() == 1


class Counting:
    """A model that counts the rows (networks × candidates × members) it sees at once."""

    def __init__(self, model: PlanningModel) -> None:
        self.model = model
        self.num_members = model.num_members
        self.most = 0

    def start(self, view: Any, num_candidates: int, members: Tensor | None) -> Any:
        return self.model.start(view, num_candidates, members)

    def step(self, state: Any, action: Tensor, members: Tensor | None) -> tuple[Prediction, Any]:
        num_members = self.num_members if members is None else len(members)
        self.most = max(self.most, num_members * len(action))
        return self.model.step(state, action, members)


def test_refinement_never_makes_a_plan_worse_and_may_be_split() -> None:
    model, data = world_model(), transitions(slots=1, envs=5)
    settings = RefinementSettings(share_steps=2, target_sweeps=1)
    whole = refine(model, data.view, data.action, FORM, settings, 6, 2)
    by_one = refine(model, data.view, data.action, FORM, settings, 6, 2, torch.tensor([1]))
    for max_rows in (3, 50):  # candidates are split; networks are
        counting = Counting(model)
        split = refine(counting, data.view, data.action, FORM, settings, 6, 2, torch.tensor([1]), max_rows)
        assert counting.most <= max_rows
        torch.testing.assert_close(by_one, split)
    with pytest.raises(ValueError, match=r"max_rows must be at least the members of the model \(3\) where"):
        refine(model, data.view, data.action, FORM, settings, 6, 2, max_rows=2)
    before, after = (FORM.surprise(predict(model, data.view, a)) for a in (data.action, whole.action))
    assert (after <= before).all()
    assert (after < before).any()
    torch.testing.assert_close(whole.free_energy.total, after)
    assert whole.action.abs().max() <= 1
    best = torch.tensor([[-0.5, 0.5, 0.3, 0.6, 0.0, 0.0]])
    wild = RefinementSettings(share_steps=1, share_step_size=2.0)
    assert torch.equal(refine(Toy(), torch.zeros(1, 1), best, FORM, wild, 2, 2).action, best)


def test_an_informed_start_prefers_the_target_that_is_faster_for_the_user() -> None:
    target = random_targets((3, 64, 2), 2, generator())
    probability = preferred_targets(Toy(), torch.zeros(3, 1), target, 2)
    assert probability.shape == (3, 1, 2, 2)
    torch.testing.assert_close(probability.sum(dim=-1), torch.ones(3, 1, 2))
    assert (probability[:, 0, 0, 0] > 0.9).all()
    assert (probability[:, 0, 1, 1] > 0.9).all()
    assert (probability >= 0.01 - 1e-6).all()


@pytest.mark.parametrize(
    "change", [{"share_steps": -1}, {"target_sweeps": -1}, {"joint_changes": 0}, {"share_step_size": 0.0}]
)
def test_refinement_settings_out_of_range_are_refused(change: dict[str, Any]) -> None:
    (name,) = change
    with pytest.raises(ValueError, match=f"{name} must be"):
        RefinementSettings(**change)


OUTCOME: dict[str, Any] = {
    "plan_horizon": 1,
    "form": "outcome",
    "proposal": "categorical",
    "n_candidates": 16,
    "top_candidates": 4,
    "optimisation_iters": 2,
    "informed_candidates": 8,
    "use_exploration": True,
    "share_steps": 0,
    "target_sweeps": 0,
    "planning_members": None,
}


def planner_of(**changes: Any) -> CEMPlanner:
    settings = PlannerSettings(**{**OUTCOME, **changes})
    sizes = {"num_users": SCENARIO.num_users, "num_targets": SCENARIO.num_servers}
    return CEMPlanner(SCENARIO.offloading_action_size, settings, **sizes)


@both_encoders
def test_a_refined_plan_is_expected_to_be_no_worse_and_can_be_made_while_gradients_are_off(
    settings: SetWorldModelSettings,
) -> None:
    model = world_model(settings=settings)
    view = EdgeNetwork(SCENARIO, num_envs=3, generator=generator(4)).offloading_view()
    plain = planner_of(expl_scale=0.0).plan(model, view, generator(5)).action
    with torch.inference_mode():  # as in validation and test
        refined = planner_of(expl_scale=0.0, share_steps=5, target_sweeps=1).plan(model, view, generator(5))
    surprise = OutcomeForm().surprise
    before, after = (surprise(predict(model, view, action)) for action in (plain, refined.action.clone()))
    assert bool((after <= before + 1e-5).all())
    assert bool((after < before - 1e-5).any())


@pytest.mark.parametrize("proposal", ["categorical", "gaussian"])
def test_a_refined_plan_reports_free_energy_and_proposal_of_the_action_it_holds(proposal: str) -> None:
    model = world_model()
    view = EdgeNetwork(SCENARIO, num_envs=3, generator=generator(4)).offloading_view()
    changes = {"proposal": proposal, "informed_candidates": 8 if proposal == "categorical" else 0}
    planner = planner_of(**changes, planning_members=2, share_steps=5, target_sweeps=1, expl_scale=0.5)
    plan = planner.plan(model, view, generator(5))
    terms = expected_free_energy(
        rollout(model, view, plan.action[:, None, None]), planner.settings.make_form()
    )
    torch.testing.assert_close(plan.free_energy, terms)
    torch.testing.assert_close(plan.proposal.mean()[:, 0], plan.action)
    assert plan.elite_spread.tolist() == [0.0, 0.0, 0.0]


def test_no_call_of_the_model_sees_more_than_max_rows() -> None:
    view = EdgeNetwork(SCENARIO, num_envs=3, generator=generator(4)).offloading_view()
    changes = {"planning_members": 2, "share_steps": 2, "target_sweeps": 1}
    whole = planner_of(**changes).plan(world_model(), view, generator(5))
    for max_rows in (3, 64):
        counting = Counting(world_model())
        plan = planner_of(**changes, max_rows=max_rows).plan(counting, view, generator(5))
        assert counting.most <= max_rows
        torch.testing.assert_close(plan, whole)


def test_a_plan_of_several_slots_is_scored_over_the_observations_expected() -> None:
    model = world_model()
    view = EdgeNetwork(SCENARIO, num_envs=2, generator=generator(4)).offloading_view()
    plan = planner_of(plan_horizon=3).plan(model, view, generator(5))
    assert bool(plan.free_energy.total.isfinite().all())
    assert plan.proposal.mean().shape[1] == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"share_steps": 1, "plan_horizon": 2}, "plan_horizon must be 1 where plans are refined, got 2"),
        ({"proposal": "gaussian"}, "informed_candidates must be 0 unless"),
        ({"latency_scale_s": 0.0}, "latency_scale_s must be above 0"),
    ],
)
def test_planner_settings_that_contradict_each_other_are_refused(
    change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        planner_of(**change)


# What the planner by sums asks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("pairs_at_once", [1, 7, 10_000])
def test_demands_of_all_pairs_are_those_of_their_descriptions(pairs_at_once: int) -> None:
    draw = torch.Generator().manual_seed(2)
    encoder = SharedResources(3, token_size=6, generator=draw)
    user, server = torch.randn(2, 4, 2, generator=draw), torch.randn(2, 5, 3, generator=draw)
    holds = torch.randint(2, (2, 4, 5), generator=draw) - 0.5
    sizes = (2, 4, 5)
    parts = (user[:, :, None].expand(*sizes, 2), server[:, None].expand(*sizes, 3), holds[..., None])
    members = torch.tensor([2, 0])
    with torch.no_grad():
        described = encoder.describe(torch.cat(parts, dim=-1).flatten(0, 2)[None], members)
        found = encoder.pair_demands(user, server, holds[..., None], members, pairs_at_once)
    expected = encoder.demands(described).unflatten(1, sizes).permute(0, 1, 4, 2, 3)
    torch.testing.assert_close(found, expected)


def test_the_slopes_of_log_weights_are_those_of_autograd() -> None:
    draw = torch.Generator().manual_seed(3)
    encoder = SharedResources(2, token_size=6, generator=draw)
    encoder.weight_powers.weight.data.normal_(generator=draw)
    share = (2 * torch.rand(7, 2, generator=draw) - 1).requires_grad_(True)
    with torch.no_grad():
        weight, slope = encoder.weight_slopes(share)
    own = torch.autograd.functional.jacobian(
        lambda share: _log_weights(encoder, share).sum(dim=-1), share.detach()
    )
    torch.testing.assert_close(weight.log(), _log_weights(encoder, share.detach()))
    torch.testing.assert_close(slope, own.movedim(-1, 2))


def _log_weights(encoder: SharedResources, share: Tensor) -> Tensor:
    """[m, resource, tokens], as `combine` reckons them."""
    share = share.expand(2, -1, -1)
    hidden = torch.nn.functional.silu(encoder.weight_action(share))
    return (encoder.weight(hidden) + encoder.weight_powers(share)).transpose(1, 2)

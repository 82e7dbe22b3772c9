"""The flat world model, and what an agent learns of its networks while it is deployed."""

import math
import threading
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from hadrl_lightning.agents import HADRL
from hadrl_lightning.agents.adapting import _decision
from hadrl_lightning.agents.belief import CHANGED, DRIFT, TRUSTED, Belief, Measured
from hadrl_lightning.agents.settings import SetWorldModelSettings
from hadrl_lightning.agents.world_model import WorldModel, WorldModelSettings
from hadrl_lightning.data.passes import member_batches
from hadrl_lightning.data.transitions import OffloadingTransitions
from hadrl_lightning.errors import HadrlError
from hadrl_lightning.nn import DynamicsEnsemble, EnsembleLinear, RewardModel, RunningNormaliser
from hadrl_lightning.nn.normaliser import batch_moments, merge
from hadrl_lightning.nn.perceptrons import gaussian_nll
from hadrl_lightning.planning import CEMPlanner, PlanningModel, rollout
from hadrl_lightning.scenario import Scenario
from hadrl_lightning.simulator import Allocation, EdgeNetwork, OffloadingView, log_weights, weighted_shares
from tests.helpers import published_planner

OBSERVED, ACTED, MEMBERS = 5, 3, 4
SMALL = WorldModelSettings(ensemble_size=MEMBERS, hidden_size=16)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def transitions(*lead: int, seed: int = 0) -> OffloadingTransitions:
    """Change = action in the first dimensions; the last is constant; reward = 400 + 20·(sum of actions)."""
    draw = generator(seed)
    observation = 3 + 2 * torch.randn(*lead, OBSERVED, generator=draw)
    observation[..., -1] = 7.0
    action = 2 * torch.rand(*lead, ACTED, generator=draw) - 1
    after = observation.clone()
    after[..., :ACTED] += action
    reward = 400 + 20 * action.sum(dim=-1)
    return OffloadingTransitions(observation, action, reward, after, torch.ones(*lead, 2))


def world_model(settings: WorldModelSettings = SMALL, observed: int | None = 200) -> WorldModel:
    model = WorldModel(OBSERVED, ACTED, settings, generator=generator())
    if observed:
        model.observe(transitions(observed))
    return model


def quiet_trainer(tmp_path: Path, **changes: object) -> Trainer:
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return Trainer(accelerator="cpu", default_root_dir=tmp_path, **{**quiet, **changes})  # type: ignore[arg-type]


# --- the normaliser ----------------------------------------------------------------------------------------------


def test_the_normaliser_merges_batches_to_the_statistics_of_all() -> None:
    values = 1e6 + torch.randn(103, 4, generator=generator())
    normaliser = RunningNormaliser(4)
    for part in values.split(10):
        normaliser.update(part)
    normaliser.update(values[:0])
    assert normaliser.count == 103
    torch.testing.assert_close(normaliser.mean, values.double().mean(dim=0), rtol=1e-12, atol=0)
    torch.testing.assert_close(normaliser.std, values.double().std(dim=0, unbiased=False), rtol=1e-9, atol=0)


def test_constant_dimensions_get_standard_deviation_1_and_become_0() -> None:
    normaliser = RunningNormaliser(3)
    torch.testing.assert_close(normaliser.std, torch.ones(3).double())
    for _ in range(50):
        values = torch.randn(7, 3, generator=generator())
        values[:, 1], values[:, 2] = 2000.1, 0.0
        normaliser.update(values)
    assert normaliser.std[1:].tolist() == [1.0, 1.0]
    torch.testing.assert_close(normaliser.normalise(values)[:, 1:], torch.zeros(7, 2), atol=2e-4, rtol=0)


def test_normalising_and_back_is_the_identity_for_values_and_log_variances() -> None:
    normaliser = RunningNormaliser(2)
    normaliser.update(torch.tensor([[1.0, 10.0], [3.0, 50.0]]))  # means 2, 30; standard deviations 1, 20
    values = torch.tensor([[2.0, 50.0]])
    torch.testing.assert_close(normaliser.normalise(values), torch.tensor([[0.0, 1.0]]))
    torch.testing.assert_close(normaliser.denormalise(normaliser.normalise(values)), values)
    log_var = normaliser.denormalise_log_var(torch.zeros(1, 2))
    torch.testing.assert_close(log_var, torch.tensor([[0.0, math.log(400)]]))


def test_moments_of_the_parts_merge_to_the_moments_of_the_whole_whatever_is_empty() -> None:
    values = torch.randn(9, 2, generator=generator())
    for cut in (0, 4, 9):
        merged = merge(batch_moments(values[:cut]), batch_moments(values[cut:]))
        for part, whole in zip(merged, batch_moments(values)):
            torch.testing.assert_close(part, whole)


def test_values_that_would_spoil_the_statistics_are_refused() -> None:
    normaliser = RunningNormaliser(2)
    with pytest.raises(ValueError, match="values must be finite, got 1 that are not"):
        normaliser.update(torch.tensor([[1.0, math.nan]]))
    with pytest.raises(ValueError, match=r"values must have shape \[..., 2\], got \[3\]"):
        normaliser.update(torch.zeros(3))
    assert normaliser.count == 0


def test_the_normaliser_survives_a_state_dict() -> None:
    first, second = RunningNormaliser(3), RunningNormaliser(3)
    first.update(torch.randn(9, 3, generator=generator()))
    second.load_state_dict(first.state_dict())
    assert torch.equal(second.mean, first.mean)
    assert torch.equal(second.std, first.std)


# --- the networks ------------------------------------------------------------------------------------------------


def test_an_ensemble_layer_is_one_linear_layer_per_member() -> None:
    layer = EnsembleLinear(3, 4, 2, generator())
    value = torch.randn(3, 5, 4, generator=generator(1))
    for member in range(3):
        expected = value[member] @ layer.weight[member] + layer.bias[member]
        torch.testing.assert_close(layer(value)[member], expected)
        chosen = layer(value[member][None], torch.tensor([member]))
        torch.testing.assert_close(chosen[0], expected)


def test_rows_that_share_an_observation_are_predicted_as_if_each_had_its_own() -> None:
    ensemble = DynamicsEnsemble(MEMBERS, OBSERVED, ACTED, 8, generator=generator())
    observation = torch.randn(1, 2, OBSERVED, generator=generator(1))
    action = torch.randn(1, 6, ACTED, generator=generator(2))
    shared = ensemble(observation, action)
    own = ensemble(
        observation.repeat_interleave(3, dim=1).repeat(MEMBERS, 1, 1), action.repeat(MEMBERS, 1, 1)
    )
    for value, expected in zip(shared, own):
        torch.testing.assert_close(value, expected)
    two = ensemble(observation, action, torch.tensor([2, 0]))
    torch.testing.assert_close(two[0], shared[0][[2, 0]])


def test_the_log_variance_stays_within_its_bounds() -> None:
    ensemble = DynamicsEnsemble(2, OBSERVED, ACTED, 8, generator=generator())
    for scale in (0.0, 1.0, 1e4):
        _, log_var = ensemble(scale * torch.ones(1, 1, OBSERVED), scale * torch.ones(1, 1, ACTED))
        assert (log_var >= -5).all()
        assert (log_var <= -1).all()


def test_the_same_generator_draws_the_same_networks_and_leaves_the_global_one_alone() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first, second = (WorldModel(OBSERVED, ACTED, SMALL, generator=generator(1)) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    for one, other in zip(first.parameters(), second.parameters()):
        assert torch.equal(one, other)
    second.reset_parameters(generator(2))
    assert not torch.equal(first.dynamics.first.weight, second.dynamics.first.weight)
    second.reset_parameters(generator(1))
    for one, other in zip(first.parameters(), second.parameters()):
        assert torch.equal(one, other)
    assert not torch.equal(first.dynamics.first.weight[0], first.dynamics.first.weight[1])


def test_reset_parameters_keeps_what_was_observed() -> None:
    model = world_model()
    mean, best = model.observation_normaliser.mean.clone(), model.best_reward.clone()
    model.reset_parameters(generator(9))
    assert torch.equal(model.observation_normaliser.mean, mean)
    assert torch.equal(model.best_reward, best)


# --- the loss ----------------------------------------------------------------------------------------------------


def test_the_negative_log_likelihood_is_the_normal_one_up_to_its_constant() -> None:
    mean, log_var, target = (torch.randn(4, 3, generator=generator(seed)) for seed in range(3))
    expected = -torch.distributions.Normal(mean, (0.5 * log_var).exp()).log_prob(target)
    torch.testing.assert_close(gaussian_nll(mean, log_var, target) + 0.5 * math.log(2 * math.pi), expected)


def test_the_loss_is_the_mean_over_batch_and_dimensions_and_the_sum_over_members() -> None:
    model, batch = world_model(), transitions(MEMBERS, 6, seed=1)
    losses = model.loss(batch)
    dynamics, reward = 0.0, 0.0
    for member in range(MEMBERS):
        before = model.observation_normaliser.normalise(batch.view[member])
        action = model.action_normaliser.normalise(batch.action[member])
        mean, log_var = model.dynamics(before[None], action[None], torch.tensor([member]))
        change = batch.next_view[member] - batch.view[member]
        target = model.change_normaliser.normalise(change)
        dynamics += (0.5 * (log_var[0] + (mean[0] - target) ** 2 / log_var[0].exp())).mean().item()
        mean, log_var = model.reward(before, action)
        target = (batch.reward[member] - model.reward_normaliser.mean) / model.reward_normaliser.std
        reward += (0.5 * (log_var + (mean - target) ** 2 / log_var.exp())).mean().item() / MEMBERS
    assert losses.dynamics.item() == pytest.approx(dynamics, rel=1e-5)
    assert losses.reward.item() == pytest.approx(reward, rel=1e-4)
    assert losses.total.item() == pytest.approx(dynamics + reward, rel=1e-5)


@pytest.mark.parametrize("size", [1, 5])
def test_a_batch_for_all_members_counts_as_the_same_batch_for_each(size: int) -> None:
    """A batch of one sample included: (1, 1) against (1) must not broadcast."""
    model, batch = world_model(), transitions(size, seed=1)
    repeated = batch.map(lambda value: value.expand(MEMBERS, *value.shape))
    for shared, each in zip(model.loss(batch), model.loss(repeated)):
        assert shared.shape == ()
        torch.testing.assert_close(shared, each)


@pytest.mark.unchecked
def test_a_weight_counts_for_the_ensemble_as_so_many_copies_and_for_the_reward_not_at_all() -> None:
    model, batch = world_model(), transitions(4)
    weight = torch.tensor([2.0, 0.0, 1.0, 1.0])
    copies = batch[torch.tensor([0, 0, 2, 3])]
    weighted = model.loss(replace(batch, weight=weight))
    torch.testing.assert_close(weighted.dynamics, model.loss(copies).dynamics)
    torch.testing.assert_close(weighted.reward, model.loss(batch).reward)
    torch.testing.assert_close(weighted.dynamics_error, model.loss(batch).dynamics_error)
    by_member = batch.map(lambda value: value.expand(MEMBERS, *value.shape))
    only = torch.zeros(MEMBERS, 4)
    only[1] = weight
    model.zero_grad()
    model.loss(replace(by_member, weight=only)).total.backward()
    gradient = model.dynamics.head.weight.grad
    assert gradient is not None
    assert [bool(one.any()) for one in gradient] == [member == 1 for member in range(MEMBERS)]
    expected = rf"weight must have shape \[{MEMBERS}, 4\] or \[1, 4\], got "
    with pytest.raises(ValueError, match=expected + r"\[1, 3\]"):
        model.loss(replace(batch, weight=weight[:3]))
    with pytest.raises(ValueError, match=expected + r"\[2, 4\]"):
        model.loss(replace(by_member, weight=only[:2]))


@pytest.mark.unchecked
def test_batches_of_wrong_shape_are_refused() -> None:
    model = world_model()
    batch = transitions(5)
    for wrong in (transitions(MEMBERS + 1, 5), transitions(), transitions(MEMBERS, 2, 5)):
        with pytest.raises(ValueError, match=r"transitions must have shape \[b, …\] or \[4, b, …\]"):
            model.loss(wrong)
    with pytest.raises(ValueError, match="transitions must have shape"):
        model.loss(replace(batch, reward=batch.reward[:, None]))


def test_members_learn_from_their_own_rows_only() -> None:
    model, batch = world_model(), transitions(MEMBERS, 6, seed=1)
    model.loss(batch).total.backward()
    before = model.dynamics.first.weight.grad.clone()  # type: ignore[union-attr]
    model.zero_grad()
    changed = replace(batch, next_view=batch.next_view.clone())
    changed.next_view[2] += 1
    model.loss(changed).total.backward()
    same = (model.dynamics.first.weight.grad == before).flatten(1).all(dim=1)  # type: ignore[union-attr]
    assert same.tolist() == [True, True, False, True]


def test_the_reward_variance_is_learnt_by_likelihood() -> None:
    """Reward noise of standard deviation 3 on a constant 10: the network has to say so, not to fall to its floor."""
    model = WorldModel(1, 1, WorldModelSettings(ensemble_size=1, hidden_size=8), generator=generator())
    reward = 10 + 3 * torch.randn(400, generator=generator(1))
    nothing = torch.zeros(400, 1)
    data = OffloadingTransitions(nothing, nothing, reward, nothing, nothing)
    model.observe(data)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(150):
        optimizer.zero_grad()
        model.loss(data).total.backward()
        optimizer.step()
    prediction, _ = model.step(model.start(torch.zeros(1, 1), 1), torch.zeros(1, 1))
    assert prediction.reward_mean.item() == pytest.approx(reward.mean().item(), abs=0.1)
    assert prediction.reward_log_var.item() == pytest.approx(math.log(reward.var().item()), abs=0.1)


# --- a model to plan with ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalise_reward", [True, False])
@pytest.mark.parametrize("members", [None, torch.tensor([3, 1])])
def test_it_rolls_each_member_along_its_own_mean(normalise_reward: bool, members: Tensor | None) -> None:
    settings = WorldModelSettings(ensemble_size=MEMBERS, hidden_size=16, normalise_reward=normalise_reward)
    model = world_model(settings)
    assert isinstance(model, PlanningModel)
    observation = transitions(2, seed=4).view
    action = 2 * torch.rand(2, 3, 4, ACTED, generator=generator(5)) - 1
    predictions = list(rollout(model, observation, action, members))
    for i, member in enumerate(range(MEMBERS) if members is None else members.tolist()):
        for row in range(6):
            state = observation[row // 3]
            for t, prediction in enumerate(predictions):
                before = model.observation_normaliser.normalise(state)
                done = model.action_normaliser.normalise(action[row // 3, row % 3, t])
                mean, log_var = model.dynamics(before[None, None], done[None, None], torch.tensor([member]))
                torch.testing.assert_close(prediction.mean[i, row], mean[0, 0], rtol=1e-4, atol=1e-5)
                torch.testing.assert_close(prediction.log_var[i, row], log_var[0, 0], rtol=1e-4, atol=1e-5)
                reward, reward_log_var = model.reward(before, done)
                if normalise_reward:
                    scale = model.reward_normaliser.std.float()[0]
                    reward = reward * scale + model.reward_normaliser.mean.float()[0]
                    reward_log_var = reward_log_var + 2 * scale.log()
                torch.testing.assert_close(prediction.reward_mean[i, row], reward, rtol=1e-4, atol=1e-4)
                torch.testing.assert_close(
                    prediction.reward_log_var[i, row], reward_log_var, rtol=1e-4, atol=1e-4
                )
                state = state + model.change_normaliser.denormalise(mean[0, 0])


def test_a_constant_dimension_stays_where_it_is_scaled_and_harms_no_plan() -> None:
    model = world_model()
    assert model.change_normaliser.std[-2:].tolist() == [1.0, 1.0]
    plan = CEMPlanner(ACTED, published_planner(plan_horizon=2, n_candidates=20, top_candidates=4)).plan(
        model, transitions(2, seed=4).view, generator()
    )
    assert plan.num_nonfinite.tolist() == [0, 0]
    assert plan.free_energy.total.isfinite().all()


def test_bfloat16_autocast_learns_and_plans_with_statistics_in_float32() -> None:
    model, batch = world_model(), transitions(6, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        losses = model.loss(batch)
        prediction, after = model.step(model.start(batch.view, 2), batch.action.repeat(2, 1))
        plan = CEMPlanner(ACTED, published_planner(plan_horizon=2, n_candidates=40, top_candidates=4)).plan(
            model, batch.view, generator()
        )
    losses.total.backward()
    exact = model.loss(batch)
    for value, expected in zip(losses, exact):
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, expected, rtol=0.05, atol=0.02)
    assert {field.dtype for field in prediction} == {torch.float32}
    assert after.observation.dtype == plan.action.dtype == plan.free_energy.total.dtype == torch.float32
    assert plan.free_energy.total.isfinite().all()


# --- observing and training --------------------------------------------------------------------------------------


def test_observing_keeps_the_best_reward_and_the_statistics_of_all_transitions() -> None:
    model = world_model(observed=None)
    assert model.best_reward == -math.inf
    first, second = transitions(30), transitions(2, 20, seed=1)
    model.observe(first)
    model.observe(second)
    assert model.best_reward == max(first.reward.max(), second.reward.max())
    observed = torch.cat((first.view, second.view.flatten(0, 1))).double()
    torch.testing.assert_close(model.observation_normaliser.mean, observed.mean(dim=0))
    assert model.change_normaliser.count == model.reward_normaliser.count == 70


@pytest.mark.whole
def test_it_trains_alone_with_a_plain_trainer_and_learns(tmp_path: Path) -> None:
    model = WorldModel(OBSERVED, ACTED, SMALL, generator=generator())
    loader = DataLoader(transitions(300), batch_size=50, shuffle=True, generator=generator())
    test = transitions(50, seed=7)
    trainer = quiet_trainer(tmp_path, max_epochs=30)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(model, loader)
    assert model.observation_normaliser.count == 300
    assert {f"world_model/{name}" for name in ("total", "dynamics", "reward")} <= set(
        trainer.callback_metrics
    )
    losses = model.loss(test)
    assert losses.dynamics_error < 0.5  # of 1
    assert losses.reward_error < 10  # of a standard deviation of 20


def test_batches_per_member_train_alone_too_and_the_gradient_is_clipped(tmp_path: Path) -> None:
    settings = WorldModelSettings(ensemble_size=MEMBERS, hidden_size=16, grad_clip_norm=0.5)
    model = WorldModel(OBSERVED, ACTED, settings, generator=generator())
    norms = []

    def note(optimizer: torch.optim.Optimizer, *_: object) -> None:
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        norms.append(torch.linalg.vector_norm(torch.stack([grad.norm() for grad in grads])).item())

    model.configure_optimizers = lambda: _noting(WorldModel.configure_optimizers(model), note)  # type: ignore[method-assign]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quiet_trainer(tmp_path, max_epochs=1).fit(
            model, member_batches(transitions(30), MEMBERS, 10, generator())
        )
    assert len(norms) == 3
    assert norms == pytest.approx([0.5] * 3, rel=1e-3)


def _noting(optimizer: torch.optim.Optimizer, note: object) -> torch.optim.Optimizer:
    optimizer.register_step_post_hook(note)  # type: ignore[arg-type]
    return optimizer


def test_what_was_observed_before_training_is_not_observed_again(tmp_path: Path) -> None:
    model = world_model(observed=200)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quiet_trainer(tmp_path, max_epochs=1).fit(
            model, member_batches(transitions(10), MEMBERS, 5, generator())
        )
    assert model.observation_normaliser.count == 200


class TwoRanks:
    """`all_reduce` between two threads that stand for ranks: real processes would take seconds to import torch."""

    def __init__(self) -> None:
        self.barrier = threading.Barrier(2, timeout=20)
        self.brought: dict[int, Tensor] = {}

    def all_reduce(self, tensor: Tensor, op: object = torch.distributed.ReduceOp.SUM) -> None:
        self.brought[threading.get_ident()] = tensor.clone()
        self.barrier.wait()
        both = torch.stack([self.brought[rank] for rank in sorted(self.brought)])
        self.barrier.wait()
        tensor.copy_(both.amax(dim=0) if op == torch.distributed.ReduceOp.MAX else both.sum(dim=0))


@pytest.mark.parametrize("at_once", [True, False])
def test_two_ranks_agree_on_what_both_observed(at_once: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"is_initialized": True, "get_rank": 0, "get_world_size": 2}.items():
        monkeypatch.setattr(torch.distributed, name, lambda value=value: value)
    monkeypatch.setattr(torch.distributed, "all_reduce", TwoRanks().all_reduce)
    models = [world_model(observed=None) for _ in range(2)]

    def observe(rank: int) -> None:
        models[rank].observe(transitions(30 + 10 * rank, seed=rank), synchronise=at_once)
        if not at_once:
            models[rank].synchronise()

    threads = [threading.Thread(target=observe, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    monkeypatch.undo()
    expected = world_model(observed=None)
    expected.observe(transitions(30, seed=0))
    expected.observe(transitions(40, seed=1))
    for name, value in expected.state_dict().items():
        first, second = (model.state_dict()[name] for model in models)
        torch.testing.assert_close(first, value)
        assert torch.equal(first, second)


def test_a_model_survives_a_state_dict() -> None:
    model = world_model()
    other = WorldModel(OBSERVED, ACTED, SMALL, generator=generator(8))
    other.load_state_dict(model.state_dict())
    batch = transitions(4, seed=3)
    for value, expected in zip(other.loss(batch), model.loss(batch)):
        assert torch.equal(value, expected)
    assert other.best_reward == model.best_reward


def test_settings_out_of_range_are_named() -> None:
    for name, value, message in (
        ("ensemble_size", 0, "ensemble_size must be at least 1, got 0"),
        ("hidden_size", -1, "hidden_size must be at least 1, got -1"),
        ("learning_rate", 0.0, "learning_rate must be above 0 and finite, got 0.0"),
        ("grad_clip_norm", math.nan, "grad_clip_norm must be a number, got nan"),
        ("min_log_var", -1.0, r"min_log_var must be below max_log_var \(-1.0\), both finite, got -1.0"),
    ):
        with pytest.raises(ValueError, match=message):
            WorldModelSettings(**{name: value})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="observation_size must be at least 1, got 0"):
        WorldModel(0, 1)


def test_the_defaults_are_the_published_table() -> None:
    published = WorldModelSettings()
    assert (published.ensemble_size, published.hidden_size) == (20, 400)
    assert (published.learning_rate, published.adam_epsilon, published.grad_clip_norm) == (1e-3, 1e-8, 1000)
    assert isinstance(RewardModel(2, 1).layers[0], torch.nn.Linear)


# Learning while deployed ---------------------------------------------------------------------------------------------

TIGHT = Scenario.from_config("es3.yaml", "tight.yaml")


def measured(
    part: list[list[float]], latency: list[float], target: list[int] | None = None, variance: float = 0.01
) -> Measured:
    """Of one network: parts of each user's latency as expected, s, and what was measured."""
    users = len(latency)
    return Measured(
        torch.tensor([target or [0] * users]),
        torch.tensor([part]),
        torch.full((1, users), variance).log(),
        torch.tensor([latency]).log(),
    )


def agent(scenario: Scenario = TIGHT, **settings: Any) -> HADRL:
    made = HADRL.load_from_checkpoint("hadrl.ckpt", scenario=scenario, **settings)
    made.keep_quiet()
    return made


def begun(scenario: Scenario, networks: int = 2, seed: int = 1) -> EdgeNetwork:
    network = EdgeNetwork(scenario, num_envs=networks, generator=torch.Generator().manual_seed(seed))
    network.begin_frame(agent(scenario).place(network.caching_view()))
    return network


def served(network: EdgeNetwork, decision: Allocation, slow: float = 1.0) -> Tensor:
    """Latencies of the coming slot, where the last server has another compute than it shows."""
    compute = network.table.compute_hz.clone()
    compute[-1] *= slow
    slot = network.unfolding.foreseen()
    assert slot.fading is not None
    table = network.table._replace(compute_hz=compute)
    fields = (network.cache, slot.requests, slot.positions, slot.fading, decision)
    return network.rules.serve(table, *fields).latency


# --- beliefs


def test_what_is_believed_of_a_single_part_is_the_mean_weighted_by_precision() -> None:
    belief = Belief(1, 1, 1, torch.zeros(()))
    belief.update(measured([[2.0]], [2.1]))
    prior = 1 / (TRUSTED**2 + DRIFT**2)
    expected = 100 * torch.tensor(2.1 / 2).log() / (prior + 100)
    assert float(belief.mean) == pytest.approx(float(expected), rel=1e-4)
    assert float(belief.precision) == pytest.approx(prior + 100)
    assert belief.num_surprises == 0


def test_a_surprise_is_believed_at_once_and_a_deep_fade_is_not() -> None:
    belief = Belief(1, 2, 1, torch.zeros(()))
    calm = measured([[2.0]] * 6, [2.0] * 6, [0, 0, 0, 1, 1, 1])
    belief.update(calm)
    belief.update(measured([[2.0]] * 6, [2.0, 2.0, 2.0, 20.0, 20.0, 20.0], [0, 0, 0, 1, 1, 1]))
    assert belief.mean.exp().flatten().tolist() == pytest.approx([1.0, 10.0], rel=0.01)
    assert belief.num_surprises == 1
    one = Belief(1, 1, 1, torch.zeros(()))
    one.update(measured([[2.0]] * 12, [2.0] * 11 + [20.0]))
    assert abs(float(one.mean)) < 0.05
    assert one.num_surprises == 0


def test_parts_are_told_apart_by_users_who_wait_for_other_parts() -> None:
    belief = Belief(1, 1, 2, torch.zeros(()))
    part = [[1.0, 0.1], [0.1, 1.0], [0.5, 0.5], [0.2, 0.8]]
    latency = [one + 4 * other for one, other in part]
    for _ in range(3):
        belief.update(measured(part, latency, variance=0.0025))
    assert belief.mean[0, 0].exp().tolist() == pytest.approx([1.0, 4.0], rel=0.1)


def test_what_was_not_measured_and_servers_without_users_change_nothing_that_is_believed() -> None:
    belief = Belief(1, 2, 1, torch.zeros(()))
    belief.update(measured([[2.0]] * 3, [5.0, float("nan"), float("nan")], [0, 1, 1]))
    assert float(belief.mean[0, 0]) > 0
    assert float(belief.mean[0, 1]) == 0
    assert float(belief.precision[0, 1]) < 1 / TRUSTED**2  # but it drifts
    assert float(belief.precision[0, 0]) > 1 / CHANGED**2


def test_what_is_believed_of_a_network_does_not_depend_on_those_beside_it() -> None:
    draw = torch.Generator().manual_seed(0)
    part = torch.rand(3, 7, 2, generator=draw) + 0.1
    target = torch.randint(2, (3, 7), generator=draw)
    latency = (part.sum(dim=2) * (1 + 4 * torch.rand(3, 7, generator=draw))).log()
    variance = torch.full((3, 7), -4.0)
    all_, each = Belief(3, 2, 2, part), [Belief(1, 2, 2, part) for _ in range(3)]
    all_.update(Measured(target, part, variance, latency))
    for row, belief in enumerate(each):
        one = slice(row, row + 1)
        belief.update(Measured(target[one], part[one], variance[one], latency[one]))
        torch.testing.assert_close(belief.mean, all_.mean[one])


def test_shares_are_those_of_the_actions_that_they_are_read_as() -> None:
    server = torch.tensor([[0, 0, 1, 1, 1]])
    action = torch.tensor([[1.0, -0.5, 0.2, 1.0, -1.0]])
    share = weighted_shares(server, action, 2)
    torch.testing.assert_close(log_weights(server, share, 2), action)


# --- agents that learn


def test_an_agent_that_learns_avoids_a_server_that_has_slowed_down_and_knows_it_again_when_it_forgets() -> (
    None
):
    scenario = Scenario.from_config("es3.yaml")  # all servers hold everything
    network, learning = begun(scenario), agent(scenario)
    view = network.offloading_view()
    before = learning.decide(view)
    learning.learn(view, before, served(network, before, slow=0.1))
    after = learning.decide(view)
    assert (after.server == 2).sum() < 0.7 * (before.server == 2).sum()
    both = [float(served(network, one, slow=0.1).sum()) for one in (before, after)]
    assert both[1] < 0.7 * both[0]
    learning.forget()
    assert all(torch.equal(*pair) for pair in zip(learning.decide(view), before, strict=True))


def test_caches_go_by_what_is_believed_of_servers_and_change_where_plainly_more_is_saved() -> None:
    """Those that are held when a server slows down cost about a sixth more than the best ones from then on."""
    network, learning = begun(TIGHT, networks=4), agent()
    view = network.offloading_view()
    decision = learning.decide(view)
    learning.learn(view, decision, served(network, decision, slow=0.1))
    held, found = network.cache, learning.place(network.caching_view())
    assert bool((held != found).flatten(1).any(dim=1).all())
    caching: Any = learning.caching_agent
    seen = network.caching_view()
    factor = learning._adaptation.belief.mean  # type: ignore[union-attr]
    frames = caching.frames(seen, caching.demand.now(seen), None, factor)
    uniform = torch.rand(200, TIGHT.num_users, generator=torch.Generator().manual_seed(0))
    before, after = (frames.on_slots(torch.arange(4), cache, uniform).mean(dim=1) for cache in (held, found))
    assert bool((after < 0.93 * before).all())
    learning.forget()
    assert torch.equal(learning.place(network.caching_view()), held)


def test_an_agent_learns_from_half_of_the_latencies_and_from_other_users_in_every_slot() -> None:
    learning = agent()
    for users in (30, 17, 40):
        scenario = replace(TIGHT, num_users=users)
        network = begun(scenario, seed=users)
        view = network.offloading_view()
        decision = learning.decide(view)
        latency = served(network, decision, slow=0.1)
        latency[:, ::2] = torch.nan
        learning.learn(view, decision, latency)
    factor = learning._adaptation.belief.mean.exp()  # type: ignore[union-attr]
    assert factor[:, :2, :2].log().abs().max() < 0.3
    assert bool((factor[:, 2].amax(dim=1) > 5).all())


def test_weights_that_learn_are_given_back_to_the_bit_and_part_of_no_copy(tmp_path: Path) -> None:
    network, learning = begun(TIGHT), agent()
    before = {name: value.clone() for name, value in learning.state_dict().items()}
    view = network.offloading_view()
    decision = learning.decide(view)
    learning.learn(view, decision, served(network, decision, slow=0.1), "all")
    changed = [name for name, value in learning.named_parameters() if not torch.equal(value, before[name])]
    assert any(name.startswith("world_model.resources") for name in changed)
    learning.learn(view, decision, served(network, decision, slow=0.1))  # in the same way as before
    assert learning._adaptation is not None
    assert learning._adaptation.adapt == "all"
    learning.save_weights(tmp_path / "file.ckpt")
    for copy in (learning.for_scenario(TIGHT), HADRL.from_checkpoint(tmp_path / "file.ckpt")):
        assert all(torch.equal(value, before[name]) for name, value in copy.named_parameters())
    state = learning.state_dict()  # as a Trainer stores it
    learning.make_lasting(state)
    assert all(torch.equal(value, before[name]) for name, value in state.items())
    learning.forget()
    assert all(torch.equal(value, before[name]) for name, value in learning.state_dict().items())


def test_a_training_begins_without_what_was_learnt_while_deployed(monkeypatch: pytest.MonkeyPatch) -> None:
    network, learning = begun(TIGHT), agent()
    before = {name: value.clone() for name, value in learning.named_parameters()}
    view = network.offloading_view()
    decision = learning.decide(view)
    learning.learn(view, decision, served(network, decision, slow=0.1), "all")
    monkeypatch.setattr("hadrl_lightning.agents.learning.check_trainer", lambda trainer: None)
    learning._trainer = object()  # type: ignore[assignment]
    learning.setup("fit")
    assert all(torch.equal(value, before[name]) for name, value in learning.named_parameters())
    with torch.no_grad():
        next(learning.world_model.parameters()).add_(1)  # training
    state = learning.state_dict()
    learning.make_lasting(state)
    assert all(torch.equal(value, state[name]) for name, value in learning.named_parameters())


@pytest.mark.parametrize("adapt", ["heads", "all"])
def test_in_networks_where_nothing_changes_an_agent_that_learns_plays_about_as_well(adapt: str) -> None:
    scenario = replace(TIGHT, decisions_per_episode=2, slots_per_decision=3)

    def latency(**settings: Any) -> float:
        network = EdgeNetwork(scenario, num_envs=2, generator=torch.Generator().manual_seed(4))
        playing = agent(scenario, **settings)
        episode = playing.play(network)
        assert playing._adaptation is None  # what was learnt in an episode is forgotten after it
        return float(episode.latency.sum())

    assert latency(adapt=adapt) == pytest.approx(latency(), rel=0.01)


def test_a_controller_of_one_network_learns_from_a_plain_list() -> None:
    network, learning = begun(TIGHT, networks=1), agent()
    view = network.offloading_view()
    decision = learning.decide(view)
    learning.learn(view, decision, [float("nan")] * 29 + [1.0])
    assert learning._adaptation is not None


def _lived(users: int = 30) -> tuple[OffloadingView, Allocation, Tensor]:
    network = begun(replace(TIGHT, num_users=users))
    view = network.offloading_view()
    decision = agent().decide(view)
    return view, decision, served(network, decision)


def test_a_decision_with_idle_users_or_tasks_that_stay_can_be_learnt_from() -> None:
    scenario = Scenario(num_servers=2, num_users=3, processes={"queues": {}, "device": {}})
    tasks = torch.tensor([[1e9, 1e9, 0.0]])
    view = replace(EdgeNetwork(scenario).offloading_view(), input_bits=tasks, cycles=tasks)

    def checked(server: list[int], share: list[float]) -> list[list[int]]:
        return _decision(
            Allocation(torch.tensor([server]), *[torch.tensor([share])] * 2), view
        ).server.tolist()

    assert checked([0, 0, 1], [0.5, 0.5, 0.0]) == [[0, 0, 1]]  # nobody has a task at the other server
    assert checked([0, 0, 0], [0.4, 0.4, 0.2]) == [[0, 0, 0]]  # what the idle one has goes to the others
    assert checked([2, 2, 2], [1.0, 1.0, 1.0]) == [[2, 2, 2]]  # each on its own device
    with pytest.raises(
        HadrlError, match=r"^bandwidth_share must sum to 1 on every server that has users, got 0.7"
    ):
        checked([0, 0, 1], [0.5, 0.2, 0.3])


def test_a_belief_about_servers_makes_caches_go_by_other_latencies_and_not_by_other_energies() -> None:
    scenario = Scenario(num_users=3, processes={"device": {}}, preferences={"energy_j": 0.5})  # type: ignore[arg-type]
    view, model = EdgeNetwork(scenario).caching_view(), HADRL(scenario).world_model
    once = model.service_demands(view)  # type: ignore[operator]
    factor = torch.zeros(1, scenario.num_servers, once.shape[3])
    assert torch.equal(model.service_demands(view, factor), once)  # type: ignore[operator]
    twice = model.service_demands(view, factor + math.log(2))  # type: ignore[operator]
    assert bool((twice > once).all())
    assert bool((twice < 2 * once).any())


def test_what_can_not_be_learnt_from_is_refused_in_a_line() -> None:
    view, decision, latency = _lived()
    learning = agent()
    with pytest.raises(HadrlError, match=r"latencies must have shape \[2, 30\], got \[2, 29\]"):
        learning.learn(view, decision, latency[:, 1:])
    with pytest.raises(HadrlError, match="latencies must be above 0 and finite, or NaN"):
        learning.learn(view, decision, -latency)
    with pytest.raises(HadrlError, match="adapt must be heads or all to learn, got 'off'"):
        learning.learn(view, decision, latency, "off")
    with pytest.raises(ValueError, match="server"):
        learning.learn(view, decision._replace(server=decision.server + 3), latency)
    learning.learn(view, decision, latency)
    with pytest.raises(HadrlError, match=r"that the agent learns of, 2 with 3 servers .*, got 1 with 3"):
        learning.decide(view[:1])
    with pytest.raises(HadrlError, match=r"bandwidth_share must sum to 1 on every server .*, got 0\.5"):
        learning.learn(view, decision._replace(bandwidth_share=decision.bandwidth_share / 2), latency)
    with pytest.raises(HadrlError, match="latencies must be numbers, NaN where nothing was measured, got"):
        learning.learn(view, decision, [[None] * 30] * 2)
    plain = SetWorldModelSettings(encoder="deep_sets")
    with pytest.raises(
        HadrlError, match="adapt must be off unless fast_level is set with encoder shared_resources"
    ):
        HADRL(TIGHT, set_world_model=plain, slow_level="set", adapt="heads")

"""Each model trains alone with a plain `Trainer` on any loader of transitions; the published DDPG."""

import copy
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from hadrl_lightning import DDPG, HADRL, EdgeNetwork, Scenario, WorldModel
from hadrl_lightning.agents import (
    DDPGSettings,
    SetDDPG,
    SetDDPGSettings,
    SetWorldModel,
    SetWorldModelSettings,
    WorldModelSettings,
)
from hadrl_lightning.agents.actor_critic import ActorCritic, ActorCriticLosses
from hadrl_lightning.data import CachingTransitions, OffloadingTransitions, TrainingBatch, member_batches
from hadrl_lightning.errors import HadrlError, NonFiniteError
from hadrl_lightning.nn.perceptrons import Actor, Critic
from hadrl_lightning.planning import PlannerSettings
from hadrl_lightning.scenario import GIB
from hadrl_lightning.simulator import CachingView, OffloadingView, vector_size
from tests.agents.test_set_world_model import transitions

SCENARIO = Scenario(num_servers=2, num_users=6, cache_bytes=40 * GIB)
OFFLOADING = transitions(SCENARIO)
pytestmark = pytest.mark.filterwarnings("ignore:.*(does not have many workers|log_every_n_steps)")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def caching(rows: int = 24) -> CachingTransitions:
    network = EdgeNetwork(SCENARIO, num_envs=rows, generator=generator())
    seen = network.caching_view()
    action = 2 * torch.rand(rows, SCENARIO.caching_action_size, generator=generator()) - 1
    reward = torch.rand(rows, generator=generator())
    return CachingTransitions(seen, action, reward, seen.clone(), (action > 0.9).view(seen.cache.shape))


CACHING = caching()


class Items:
    """Not even a `DataLoader`: something that can be iterated again and again."""

    def __init__(self, *items: Any) -> None:
        self.items = items

    def __iter__(self) -> Iterator[Any]:
        return iter(self.items)


class Passes:
    """Training steps, as `TransitionDataModule` makes them."""

    def __iter__(self) -> Iterator[TrainingBatch]:
        draw = generator()
        for _ in range(3):
            yield TrainingBatch(member_batches(OFFLOADING, 2, 8, draw), [CACHING, CACHING])


def models() -> dict[str, tuple[LightningModule, Any]]:
    """A model of each kind, and a loader for it."""
    sizes = (vector_size(OffloadingView, SCENARIO), SCENARIO.offloading_action_size)
    small, set_small = (
        WorldModelSettings(ensemble_size=2, hidden_size=8),
        SetWorldModelSettings(ensemble_size=2),
    )
    offloading = DataLoader(OFFLOADING, batch_size=8, shuffle=True)
    decisions = DataLoader(CACHING, batch_size=8)
    caching_sizes = (vector_size(CachingView, SCENARIO), SCENARIO.caching_action_size)
    flat = {
        "world_model": small,
        "ddpg": DDPGSettings(hidden_sizes=(8,)),
        "planner": PlannerSettings(form="tschantz", informed_candidates=0),
    }
    return {
        "WorldModel": (WorldModel(*sizes, small, generator=generator()), offloading),
        "SetWorldModel": (SetWorldModel(set_small, generator=generator()), offloading),
        "DDPG": (DDPG(*caching_sizes, DDPGSettings(hidden_sizes=(8,)), generator=generator()), decisions),
        "SetDDPG": (SetDDPG(SCENARIO, SetDDPGSettings(), generator=generator()), decisions),
        "HADRL": (HADRL(SCENARIO, set_world_model=set_small), Passes()),
        "HADRL of flat models": (HADRL(SCENARIO, fast_level="flat", slow_level="flat", **flat), Passes()),
    }


def fit(model: LightningModule, loader: Any, epochs: int = 1) -> None:
    trainer = Trainer(
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
    )
    trainer.fit(model, loader)


@pytest.mark.parametrize("name", models())
def test_every_model_trains_alone_from_a_plain_loader(name: str) -> None:
    model, loader = models()[name]
    before = {part: value.clone() for part, value in model.named_parameters()}
    fit(model, loader)
    moved = [part for part, value in model.named_parameters() if not torch.equal(value, before[part])]
    assert {part.split(".")[0] for part in moved} == {part.split(".")[0] for part in before}
    assert all(bool(value.isfinite().all()) for value in model.parameters())
    for module in (model, getattr(model, "world_model", model)):
        for part, buffer in module.named_buffers():  # what was observed: the inputs are scaled
            if part.endswith("_normaliser.count"):
                assert buffer > 0, part


@pytest.mark.unchecked
@pytest.mark.parametrize("name", models())
def test_an_item_of_another_kind_gets_one_clear_error(name: str) -> None:
    model, _ = models()[name]
    wrong: list[Any] = [DataLoader(TensorDataset(torch.zeros(4, 3)), batch_size=2)]
    wrong.append(Items(OFFLOADING if "DDPG" in name else CACHING))
    for loader in wrong:
        with pytest.raises(HadrlError, match=r"the train dataloader must give .*(Transitions|Batch), got"):
            fit(model, loader)


@pytest.mark.parametrize("name", ["WorldModel", "SetWorldModel", "DDPG", "SetDDPG"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_transition_with_a_number_that_is_none_is_refused(name: str, value: float) -> None:
    model, _ = models()[name]
    data = CACHING if "DDPG" in name else OFFLOADING
    reward = data.reward.clone()
    reward[3] = value
    with pytest.raises(NonFiniteError, match=f"reward of the transitions must be finite, got {value}"):
        fit(model, Items(replace(data, reward=reward)))


@pytest.mark.parametrize("name", ["WorldModel", "SetWorldModel", "DDPG", "SetDDPG"])
def test_transitions_of_other_sizes_are_refused(name: str) -> None:
    model, _ = models()[name]
    data = CACHING if "DDPG" in name else OFFLOADING
    with pytest.raises(ValueError, match=r"transitions must have shape \["):
        fit(model, Items(replace(data, action=data.action[:, 1:])))


def log_latency_error(model: SetWorldModel, data: OffloadingTransitions) -> float:
    with torch.no_grad():
        return float(model.loss(data).latency_error)


def fine_tuned(model: SetWorldModel, data: OffloadingTransitions, steps: int = 60) -> SetWorldModel:
    optimiser, draw = model.train().configure_optimizers(), generator(3)
    for _ in range(steps):
        index = torch.randint(len(data.reward), (16,), generator=draw)
        loss = model.loss(data[index])
        optimiser.zero_grad()
        loss.total.backward()
        model.clip_gradients_of_all()
        optimiser.step()
    return model


def test_observing_new_data_before_a_trained_model_learns_from_it_makes_nothing_worse() -> None:
    """120 slots of servers of 6, 12 and 24 GHz for an agent that saw 20 GHz alone: that number never varied before."""
    agents = [HADRL.from_checkpoint("es3.ckpt") for _ in range(2)]
    scenario = (
        agents[0]
        .for_scenario(Scenario.from_dict({**agents[0].scenario.to_dict(), "compute_hz": (6e9, 12e9, 24e9)}))
        .scenario
    )
    new, held_out = (transitions(scenario, slots=15, envs=8, seed=seed) for seed in (1, 50))
    plain, observing = (agent.world_model for agent in agents)
    assert isinstance(plain, SetWorldModel)
    assert isinstance(observing, SetWorldModel)
    at_first = log_latency_error(plain, held_out)
    observing.observe(new)
    assert observing.server_normaliser.count > plain.server_normaliser.count
    assert log_latency_error(observing, held_out) == at_first
    without = log_latency_error(fine_tuned(plain, new), held_out)
    with_it = log_latency_error(fine_tuned(observing, new), held_out)
    assert with_it <= without + 1e-6
    assert with_it < 0.6 * at_first


def test_weights_drawn_anew_take_up_the_scale_of_all_that_was_seen() -> None:
    model = SetWorldModel(SetWorldModelSettings(ensemble_size=1), generator=generator())
    model.observe(OFFLOADING)
    model.loss(OFFLOADING)
    scale: Tensor = model.user_normaliser.scale.clone()
    view = OFFLOADING.view
    model.observe(replace(OFFLOADING, view=replace(view, input_bits=view.input_bits * 3.0)))
    assert torch.equal(model.user_normaliser.scale, scale)
    model.reset_parameters(generator())
    assert not torch.equal(model.user_normaliser.scale, scale)
    torch.testing.assert_close(model.user_normaliser.scale, model.user_normaliser.std)


def random_batch(
    num_rows: int, observation_size: int = 3, action_size: int = 2, seed: int = 1
) -> CachingTransitions:
    """One-step problem: the reward is best, 0, where the action is half the observation's first numbers."""
    draws = generator(seed)
    observation, next_observation = (
        torch.rand(num_rows, observation_size, generator=draws) * 2 - 1 for _ in "on"
    )
    action = torch.rand(num_rows, action_size, generator=draws) * 2 - 1
    reward = -(action - best_action(observation, action_size)).square().mean(dim=-1)
    return CachingTransitions(observation, action, reward, next_observation, (action > 0)[:, None])


def best_action(observation: torch.Tensor, action_size: int) -> torch.Tensor:
    return observation[..., :action_size] / 2


def agent(seed: int = 0, **changes) -> DDPG:
    settings = DDPGSettings(**{"hidden_sizes": (16, 16), **changes})
    return DDPG(3, 2, settings, generator=generator(seed))


def loader(num_rows: int, batch_size: int) -> DataLoader:
    return DataLoader(
        list(random_batch(num_rows)), batch_size=batch_size, shuffle=True, generator=generator(2)
    )


def quiet_trainer(tmp_path, **changes) -> Trainer:
    defaults = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False}
    defaults |= {"enable_model_summary": False, "enable_checkpointing": False, "default_root_dir": tmp_path}
    return Trainer(**(defaults | changes))


class Constant(nn.Module):
    """Actor or critic by hand: weight·(sum of the inputs), for one-number actions."""

    def __init__(self, weight: float, keepdim: bool) -> None:
        super().__init__()
        self.weight, self.keepdim = nn.Parameter(torch.tensor(weight)), keepdim

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.weight * torch.cat(inputs, dim=-1).sum(dim=-1, keepdim=self.keepdim)


def agent_by_hand(**changes) -> DDPG:
    settings = DDPGSettings(**changes)
    return DDPG(1, 1, settings, actor=Constant(0.5, True), critic=Constant(2.0, False))


def one_transition() -> CachingTransitions:
    one = torch.ones(1, 1)
    return CachingTransitions(one, 0.4 * one, torch.tensor([3.0]), -2 * one, torch.ones(1, 1, 1).bool())


def test_default_settings_are_the_published_table() -> None:
    settings = DDPGSettings()
    assert (settings.actor_learning_rate, settings.critic_learning_rate) == (1e-3, 2e-3)
    assert (settings.discount, settings.target_rate) == (0.95, 0.005)
    assert settings.hidden_sizes == (256, 128)


@pytest.mark.parametrize(
    ("name", "value", "bound"),
    [
        ("actor_learning_rate", 0.0, "above 0 and finite"),
        ("critic_learning_rate", float("nan"), "a number"),
        ("discount", 1.0, "at least 0 and below 1"),
        ("target_rate", 1.5, "above 0 and at most 1"),
        ("hidden_sizes", (256, 0), "each be at least 1"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(name: str, value, bound: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must .*{bound}, got"):
        DDPGSettings(**{name: value})


def test_the_structured_agent_is_no_variant_of_the_published_one() -> None:
    assert (DDPG.__bases__, SetDDPG.__bases__) == ((ActorCritic,), (ActorCritic,))
    assert not issubclass(SetDDPGSettings, DDPGSettings)


def test_networks_have_the_published_layers() -> None:
    actor, critic = Actor(210, 20, generator=generator()), Critic(210, 20, generator=generator())
    assert [tuple(p.shape) for p in actor.parameters()] == [
        (256, 210),
        (256,),
        (128, 256),
        (128,),
        (20, 128),
        (20,),
    ]
    assert [tuple(p.shape) for p in critic.parameters()] == [
        (256, 230),
        (256,),
        (128, 256),
        (128,),
        (1, 128),
        (1,),
    ]
    assert actor.layers[1].negative_slope == 0.01
    assert len(actor.layers) == 5
    action = actor(torch.randn(4, 7, 210, generator=generator()) * 1e6)
    assert action.shape == (4, 7, 20)
    assert action.abs().max() <= 1
    assert critic(torch.zeros(4, 7, 210), action).shape == (4, 7)


def test_parameters_come_from_the_generator_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, same, other = agent(seed=1), agent(seed=1), agent(seed=2)
    assert torch.equal(torch.get_rng_state(), before)
    for left, right in zip(one.parameters(), same.parameters(), strict=True):
        assert torch.equal(left, right)
    assert not torch.equal(next(one.parameters()), next(other.parameters()))
    layer = Actor(100, 2, generator=generator()).layers[0]
    assert 0.09 < layer.weight.abs().max() <= 0.1  # uniform within 1/√100


def test_target_value_bootstraps_at_every_transition() -> None:
    # μ′(−2) = 0.5·(−2) = −1; Q′(−2, −1) = 2·(−3) = −6; 3 + 0.5·(−6) = 0
    assert agent_by_hand(discount=0.5).target_value(one_transition()).tolist() == [0.0]
    # 3 + 0.95·(−6) = −2.7
    assert agent_by_hand().target_value(one_transition()).tolist() == pytest.approx([-2.7])


def test_losses_by_hand() -> None:
    hand = agent_by_hand(discount=0.5)
    # Q(1, 0.4) = 2.8 against the target 0
    assert hand.critic_loss(one_transition()).item() == pytest.approx(2.8**2)
    # μ(1) = 0.5; Q(1, 0.5) = 3
    assert hand.actor_loss(one_transition()).item() == pytest.approx(-3.0)


def test_targets_follow_by_the_target_rate() -> None:
    hand = agent_by_hand(target_rate=0.25)
    with torch.no_grad():
        hand.actor.weight.fill_(1.5)
        hand.critic.weight.fill_(-2.0)
    hand.update_targets()
    assert hand.target_actor.weight.item() == pytest.approx(0.75)  # 0.5 + 0.25·(1.5 − 0.5)
    assert hand.target_critic.weight.item() == pytest.approx(1.0)  # 2 + 0.25·(−2 − 2)


def test_an_update_is_critic_then_actor_then_targets_and_the_critic_keeps_its_own_gradient() -> None:
    hand = agent_by_hand(discount=0.5, target_rate=0.5)
    optimizers = [torch.optim.SGD(network.parameters(), lr=0.1) for network in (hand.actor, hand.critic)]
    losses = hand.update(one_transition(), optimizers, torch.Tensor.backward)
    # d/dw (1.4 w)² at w = 2: 2·1.4²·2 = 7.84; w = 2 − 0.784 = 1.216
    assert hand.critic.weight.item() == pytest.approx(1.216)
    assert hand.critic.weight.grad.item() == pytest.approx(7.84)
    # −Q = −1.216·(1 + v): slope −1.216; v = 0.5 + 0.1216, by the critic after its step
    assert hand.actor.weight.item() == pytest.approx(0.6216)
    assert hand.actor.weight.grad.item() == pytest.approx(-1.216)
    assert hand.target_actor.weight.item() == pytest.approx(0.5608)
    assert hand.target_critic.weight.item() == pytest.approx(1.608)
    assert isinstance(losses, ActorCriticLosses)
    assert losses.critic.item() == pytest.approx(7.84)
    assert losses.actor.item() == pytest.approx(-1.216 * 1.5)
    assert all(parameter.requires_grad for parameter in hand.critic.parameters())


def test_target_networks_are_no_business_of_the_optimizers() -> None:
    ddpg = agent()
    targets = {id(p) for module in (ddpg.target_actor, ddpg.target_critic) for p in module.parameters()}
    held = {
        id(p)
        for optimizer in ddpg.configure_optimizers()
        for g in optimizer.param_groups
        for p in g["params"]
    }
    assert not targets & held
    assert len(held) == 12
    assert not any(p.requires_grad for p in ddpg.parameters() if id(p) in targets)
    assert [optimizer.defaults["lr"] for optimizer in ddpg.configure_optimizers()] == [1e-3, 2e-3]


def test_act_checks_the_observation_and_keeps_no_graph() -> None:
    ddpg = agent()
    action = ddpg.act(torch.zeros(5, 3))
    assert action.shape == (5, 2)
    assert not action.requires_grad
    with pytest.raises(ValueError, match=r"observation must have shape \[\.\.\., 3\], got \[5, 4\]"):
        ddpg.act(torch.zeros(5, 4))
    with pytest.raises(ValueError, match="action_size must be at least 1, got 0"):
        DDPG(3, 0)


@pytest.mark.whole
def test_trained_alone_it_solves_a_one_step_problem(tmp_path) -> None:
    ddpg = agent(hidden_sizes=(32, 32), target_rate=0.05)
    quiet_trainer(tmp_path, max_epochs=30).fit(ddpg, loader(1024, batch_size=64))
    observation = random_batch(500, seed=9).view
    error = (ddpg.act(observation) - best_action(observation, 2)).square().mean()
    # uniform actions: E(a − x/2)² = 1/3 + 1/12 = 0.417; always 0: 1/12 = 0.083
    assert error < 0.03


class LoggedNames(Callback):
    def __init__(self) -> None:
        self.names: set[str] = set()

    def on_train_batch_end(self, trainer: Trainer, *_) -> None:
        self.names = set(trainer.logged_metrics)


class Root(LightningModule):
    """As the whole system does: holds the agent and lends it its own `manual_backward`."""

    def __init__(self, ddpg: DDPG) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.ddpg = ddpg

    def training_step(self, batch: CachingTransitions, batch_idx: int) -> None:
        self.ddpg.update(batch, self.optimizers(), self.manual_backward)

    def configure_optimizers(self):
        return self.ddpg.configure_optimizers()


def test_as_a_child_it_learns_the_same_and_leaves_logging_to_the_root(tmp_path) -> None:
    alone, child = agent(), agent()
    for root, logged in ((alone, {"caching_agent/critic", "caching_agent/actor"}), (Root(child), set())):
        names = LoggedNames()
        quiet_trainer(tmp_path, max_epochs=1, callbacks=[names]).fit(root, loader(64, batch_size=16))
        assert names.names == logged
    for left, right in zip(alone.parameters(), child.parameters(), strict=True):
        assert torch.equal(left, right)


def test_a_checkpoint_of_the_agent_alone_loads_and_decides_the_same(tmp_path) -> None:
    ddpg = agent()
    trainer = quiet_trainer(tmp_path, max_epochs=1)
    trainer.fit(ddpg, loader(32, batch_size=16))
    trainer.save_checkpoint(tmp_path / "agent.ckpt")
    again = DDPG.load_from_checkpoint(
        tmp_path / "agent.ckpt", observation_size=3, action_size=2, settings=ddpg.settings
    )
    observation = random_batch(4).view
    assert torch.equal(again.act(observation), ddpg.act(observation))


def test_bf16_mixed_precision_trains(tmp_path) -> None:
    ddpg = agent()
    before = copy.deepcopy(ddpg.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quiet_trainer(tmp_path, max_epochs=1, precision="bf16-mixed").fit(ddpg, loader(32, batch_size=16))
    for name, value in ddpg.state_dict().items():
        assert value.dtype == torch.float32
        assert value.isfinite().all()
        assert not torch.equal(value, before[name])

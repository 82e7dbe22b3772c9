import copy
import warnings

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader

from hadrl_lightning.agents.actor_critic import ActorCritic, ActorCriticLosses
from hadrl_lightning.agents.ddpg import DDPG, DDPGSettings
from hadrl_lightning.agents.set_ddpg import SetDDPG, SetDDPGSettings
from hadrl_lightning.data.transitions import CachingTransitions
from hadrl_lightning.nn.actor_critic import Actor, Critic


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


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

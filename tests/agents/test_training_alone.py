"""Each model trains alone with a plain `Trainer` on any loader of transitions, and tells what is wrong with an item."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
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
from hadrl_lightning.data import CachingTransitions, OffloadingTransitions, TrainingBatch, member_batches
from hadrl_lightning.errors import HadrlError, NonFiniteError
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


@pytest.mark.parametrize("name", models())
def test_an_item_of_another_kind_gets_one_clear_error(name: str, as_installed: None) -> None:
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

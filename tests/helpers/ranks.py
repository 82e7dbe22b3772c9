"""Small trainings on one or several ranks, which are compared: shared by tests, and run by them on ranks.

torchrun … tests/helpers/ranks.py train KIND MAX_EPOCHS SAVE_TO [RESUME_FROM]    by test_ensemble_parallel.py
torchrun … tests/helpers/ranks.py play SAVE_TO                                   by test_ensemble_parallel.py
torchrun … tests/helpers/ranks.py break STRATEGY                                 by test_callbacks.py
python tests/helpers/ranks.py explore                                            by test_training.py
"""

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import distributed, nn

from hadrl_lightning.agents import (
    HADRL,
    DDPGSettings,
    SetDDPGSettings,
    SetWorldModelSettings,
    WorldModelSettings,
)
from hadrl_lightning.agents.adapting import Adaptation, Lived
from hadrl_lightning.callbacks import FiniteNumbers
from hadrl_lightning.data import OffloadingTransitions, ReplayBuffer, TransitionDataModule
from hadrl_lightning.distributed import member_parameters, of_each_rank
from hadrl_lightning.ensemble_parallel import EnsembleParallelStrategy
from hadrl_lightning.planning import PlannerSettings
from hadrl_lightning.play import Frame, decided, offloading_agent, offloading_reward
from hadrl_lightning.process import quiet_trainer
from hadrl_lightning.scenario import Preferences, Scenario
from hadrl_lightning.simulator import (
    CachingView,
    EdgeNetwork,
    OffloadingView,
    Use,
    decode_offloading,
    fields_of,
    fill_caches,
    make_generator,
)
from hadrl_lightning.simulator.rows import AnyRows, concatenated
from tests.helpers import published_collection, published_planner

SCENARIO = Scenario(num_users=6, decisions_per_episode=3)
BURSTS: dict[str, Any] = {"arrivals": "bursts", "load": 3.0, "on_slots": 2.0, "off_slots": 2.0}
WORK_WAITS = replace(
    SCENARIO, processes={"queues": BURSTS, "device": {}}, preferences=Preferences(energy_j=2.0)
)
"""Of the kind `queues`: work carries over, tasks can go elsewhere than to servers, users are idle, energy counts."""
ALL_COUNTS = replace(WORK_WAITS, preferences=Preferences(energy_j=2.0, missed=2.0, dropped=3.0))
"""The same where missed deadlines and drops count too."""
SCENARIOS = {"flat": SCENARIO, "set": SCENARIO, "queues": WORK_WAITS, "outcomes": ALL_COUNTS}
MEMBERS = 5


class Agent(HADRL):
    """An agent for whom nobody collects unless told to."""

    def configure_callbacks(self) -> list[Callback]:
        return []


def build(kind: str, members: int = MEMBERS) -> tuple[HADRL, TransitionDataModule]:
    """An agent of one kind and its data: five networks, and members and batches that 2, 3 and 4 do not divide.

    Kinds: `flat` and `set` levels; the default agent where work carries over, `queues`, and, for one rank, `outcomes`.
    """
    scenario, default = SCENARIOS[kind], SCENARIOS[kind] is not SCENARIO
    set_planner = PlannerSettings(
        plan_horizon=1,
        n_candidates=16,
        top_candidates=4,
        optimisation_iters=2,
        form="outcome",
        proposal="categorical",
        informed_candidates=8,
        use_exploration=True,
        planning_members=3,
        share_steps=3,
        target_sweeps=1,
        max_rows=128,
    )
    flat_planner = published_planner(plan_horizon=3, n_candidates=16, top_candidates=4, optimisation_iters=2)
    planners = {"flat": flat_planner, "set": set_planner}
    module = Agent(
        scenario,
        fast_level="set" if default else kind,
        slow_level="lookahead" if default else kind,
        world_model=WorldModelSettings(ensemble_size=members, hidden_size=16, grad_clip_norm=1.0),
        set_world_model=SetWorldModelSettings(ensemble_size=members, hidden_size=8, grad_clip_norm=1.0),
        ddpg=DDPGSettings(hidden_sizes=(16,)),
        set_ddpg=SetDDPGSettings(
            discount=0.5,
            hidden_sizes=(16,),
            actor_width=8,
            num_proposals=8,
            explore_proposals=8,
            actor_rows=5,
        ),
        planner=planners.get(kind, PlannerSettings(planning_members=3)),
        reset_world_model=kind == "flat",
    )
    if default:
        nn.init.constant_(module.world_model.carried.price.bias, 5.0)  # dear at once: plans go by it
    data = TransitionDataModule(
        scenario,
        num_envs=5,
        passes_per_epoch=2,
        batch_size=8,
        samples_per_pass=40,
        caching_updates_per_epoch=4,
        caching_batch_size=7,
    )
    return module, data


def given_data(data: TransitionDataModule, module: HADRL) -> None:
    """Fills both replay buffers with the same transitions on whatever rank, in double precision."""
    draw = make_generator(11, Use.TRAINING_BATCHES)
    like, scenario = data.offloading_buffer.like, module.scenario
    offloading = (
        played_rows(scenario).to(dtype=like.dtype) if scenario.processes else random_rows(like, 60, draw)
    )
    data.offloading_buffer.add(offloading)
    data.caching_buffer.add(random_rows(data.caching_buffer.like, 20, draw))
    module.world_model.observe(offloading)


def played_rows(scenario: Scenario) -> OffloadingTransitions:
    """75 slots of random decisions: what views show of worlds with processes hangs together."""
    draw = make_generator(12, Use.TRAINING_NETWORKS)
    network = EdgeNetwork(scenario, num_envs=5, generator=draw)
    size = scenario.offloading_action_size
    policy = offloading_agent(lambda view: 2 * torch.rand(len(view), size, generator=draw) - 1)
    rows = []
    for _ in range(scenario.decisions_per_episode):
        caches = fill_caches(scenario, torch.rand(network.cache.shape, generator=draw))
        for slot in Frame(network, decided(caches)).slots(policy):
            reward = offloading_reward(slot.service.latency)
            rows.append(OffloadingTransitions.of(slot, reward, scenario.preferences))
    return concatenated(rows)


def random_rows(like: AnyRows, count: int, draw: torch.Generator) -> AnyRows:
    """Random numbers of about 1 in the scale of vectors, services and cache bits."""
    scales = {
        f"{field.name}": field.scale for view in (OffloadingView, CachingView) for field in fields_of(view)
    }

    def drawn(name: str, value: torch.Tensor) -> torch.Tensor:
        size = (count, *value.shape[1:])
        if value.dtype == torch.long:
            return torch.randint(SCENARIO.num_services, size, generator=draw)
        number = torch.rand(size, generator=draw)
        if value.dtype == torch.bool:
            return number > 0.5
        return (number + 0.1).to(value) * scales.get(name.rpartition(".")[2], 1.0)

    return like.filled(drawn(name, value) for name, value in like.tensors())


class GivenData(Callback):
    """Stands in for collecting: the first epoch gets all the data."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data: Any = trainer.datamodule
        if len(data.offloading_buffer) == 0:
            given_data(data, pl_module)  # type: ignore[arg-type]


class Record(Callback):
    """Writes what this rank holds and plans at the end, beside the checkpoint."""

    def __init__(self, save_to: Path) -> None:
        self.save_to = save_to

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module: Any = pl_module
        own = dict(member_parameters(module))
        states = trainer.optimizers[0].state
        losses = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("train/")}
        record = {
            "weights": {name: list(value.shape) for name, value in own.items()},
            "moments": {name: list(states[value]["exp_avg"].shape) for name, value in own.items()},
            "plan": plan(module),
            "losses": losses,
        }
        if module.scenario.processes:
            record["belief"] = belief(module)
        torch.save(record, f"{self.save_to}.rank{trainer.global_rank}")


def belief(module: HADRL) -> dict[str, torch.Tensor]:
    """What is believed of the servers of five networks after two slots in which one is slow; plans that go by it."""
    draw, model = make_generator(5, Use.PLAY), module.world_model
    adaptation = Adaptation(model, "all")  # type: ignore[arg-type]
    rows = played_rows(module.scenario).to(dtype=module.dtype)
    for slot in (rows[-10:-5], rows[-5:]):
        allocation = decode_offloading(module.scenario, slot.action)
        slower = torch.where(allocation.server == 0, 4 * slot.latency, slot.latency)
        measured = torch.where(slot.view.asking, slower, torch.nan)
        adaptation.learn(Lived(slot.view, allocation, measured))
    seen = adaptation.seen(rows[-5:].view)
    action = module.plan(seen, module.planner, draw).action
    adaptation.forget()
    return {"log_factor": seen.log_factor, "action": action}


def plan(module: HADRL) -> dict[str, torch.Tensor]:
    """Action and free energy for seven networks."""
    draw = make_generator(5, Use.PLAY)
    if module.scenario.processes:
        view = played_rows(module.scenario).view[-7:].to(dtype=module.dtype)
    else:
        view = random_rows(OffloadingView.none(SCENARIO).to(dtype=module.dtype), 7, draw)
    result = module.plan(view, module.planner, draw)
    energy = result.free_energy.total
    return {"action": result.action, "free_energy": energy, "after": torch.rand(3, generator=draw)}


def train(
    kind: str, max_epochs: int, save_to: Path, resume_from: Path | None = None, **trainer_settings: Any
) -> HADRL:
    """Trains and saves a checkpoint; with `KIND-collecting` on what it collects itself, else on given data."""
    torch.manual_seed(0)
    collects = kind.endswith("-collecting")
    module, data = build(kind.removesuffix("-collecting"))
    if not collects:
        module.configure_callbacks = list  # type: ignore[method-assign,assignment]  # nobody else collects
        module.double()  # so that a difference is a mistake and not rounding
        data.offloading_buffer, data.caching_buffer = (
            ReplayBuffer(100, buffer.like.to(dtype=torch.float64))
            for buffer in (data.offloading_buffer, data.caching_buffer)
        )
    collecting: dict[str, Any] = {"seed_decisions": 1, "decisions_per_epoch": 1}
    if module.scenario.processes:
        collecting["caching_reward"] = "hits_and_latency"
    acting = published_collection(**collecting) if collects else GivenData()
    trainer = quiet_trainer(
        accelerator="cpu",
        max_epochs=max_epochs,
        callbacks=[acting, Record(save_to)],
        **trainer_settings,
    )
    trainer.fit(module, datamodule=data, ckpt_path=resume_from, weights_only=True)
    trainer.save_checkpoint(save_to)
    return module


class CompareExplored(Callback):
    """At the end, every rank compares its weights and its collected actions with those of the others."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data: Any = trainer.datamodule
        own = {
            "weights": dict(pl_module.state_dict()),
            "actions": data.offloading_buffer.contents().action,
        }
        ranks: list[Any] = [None] * trainer.world_size
        distributed.all_gather_object(ranks, own)
        first, second = ranks
        assert first["weights"].keys() == second["weights"].keys()
        for name, value in first["weights"].items():
            assert torch.equal(value, second["weights"][name]), name
        assert not torch.equal(first["actions"], second["actions"])
        sys.stdout.write(f"rank {trainer.global_rank} agrees\n")
        sys.stdout.flush()


def exploring() -> None:
    """Two ranks explore, each for itself, and have the same weights."""
    scenario = Scenario(num_users=6)
    planner = published_planner(plan_horizon=2, n_candidates=16, top_candidates=4, optimisation_iters=2)
    world_model = WorldModelSettings(ensemble_size=2, hidden_size=16)
    module = HADRL(
        scenario,
        fast_level="flat",
        slow_level="flat",
        world_model=world_model,
        ddpg=DDPGSettings(hidden_sizes=(16,)),
        planner=planner,
        reset_world_model=True,
    )
    data = TransitionDataModule(
        scenario, passes_per_epoch=2, num_envs=2, caching_batch_size=4, caching_updates_per_epoch=2
    )
    trainer = quiet_trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp_find_unused_parameters_true",
        max_epochs=3,
        callbacks=[published_collection(seed_decisions=2, decisions_per_epoch=1), CompareExplored()],
    )
    trainer.fit(module, datamodule=data)


class CompareSkipped(Callback):
    """At the end: the counts of all ranks, and whether what they share is equal and finite."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data: Any = trainer.datamodule
        totals = of_each_rank(FiniteNumbers.of(trainer).totals)
        stored = of_each_rank((len(data.offloading_buffer), len(data.caching_buffer)))
        shared = {name: value.detach() for name, value in pl_module.named_parameters() if "ddpg" in name}
        for rank in of_each_rank(shared):
            assert all(torch.equal(value, shared[name]) for name, value in rank.items())
        assert all(bool(value.isfinite().all()) for value in pl_module.state_dict().values())
        updates = of_each_rank([int(state["step"]) for state in trainer.optimizers[0].state.values()])
        assert all(set(one) == set(updates[0]) for one in updates)
        if trainer.is_global_zero:
            counts = {kind: sum(one[kind] for one in totals) for kind in totals[0]}
            sys.stdout.write(f"{counts} {stored}\n")


def breaking(strategy: str) -> None:
    """Numbers break on rank 1 alone: both ranks skip these.

    The batch size is such that a pass with one transition less has one update less.
    """
    from tests.callbacks.test_callbacks import CRITIC_LOSS, LATENCY, LOSS, PLAN, SWITCHING

    torch.manual_seed(0)
    module, data = build("set")
    data.samples_per_pass, data.batch_size = None, 2 * SCENARIO.slots_per_decision * data.num_envs - 1
    trainer = quiet_trainer(
        accelerator="cpu",
        devices=2,
        strategy=strategy,
        max_epochs=2,
        callbacks=[
            published_collection(seed_decisions=2, decisions_per_epoch=2),
            FiniteNumbers("skip"),
            CompareSkipped(),
        ],
    )
    with pytest.MonkeyPatch.context() as patch:
        for inject in (LOSS, CRITIC_LOSS, PLAN, LATENCY, SWITCHING) if trainer.global_rank == 1 else ():
            inject(patch)
        trainer.fit(module, datamodule=data)


def playing(save_to: str) -> None:
    """Judges and plays an agent of four members, in memory alone; each rank writes what it then holds and plans."""
    world = int(os.environ["WORLD_SIZE"])
    module, _ = build("set", members=4)
    slot = replace(SCENARIO, decisions_per_episode=1, slots_per_decision=1)
    data = TransitionDataModule(slot, validation_episodes=1, test_episodes=1, predict_episodes=1)
    for what in ("validate", "test", "predict"):
        trainer = quiet_trainer(
            accelerator="cpu",
            strategy=EnsembleParallelStrategy(),
            devices=world,
            limit_val_batches=1,
        )
        getattr(trainer, what)(module, datamodule=data)
        own = {name: value.detach() for name, value in member_parameters(module)}
        torch.save({"weights": own, **plan(module)}, f"{save_to}-{what}.rank{trainer.global_rank}")


def training(kinds: str, max_epochs: str, save_to: str, resume_from: str | None = None) -> None:
    """Trains each of the kinds as a rank; KIND in the files stands for it."""
    world = int(os.environ["WORLD_SIZE"])
    for kind in kinds.split(","):
        files = [Path(file.replace("KIND", kind)) for file in (save_to, resume_from) if file]
        train(kind, int(max_epochs), *files, strategy=EnsembleParallelStrategy(), devices=world)


if __name__ == "__main__":
    torch.set_num_threads(1)
    what, *words = sys.argv[1:]
    {"train": training, "play": playing, "break": breaking, "explore": exploring}[what](*words)
    if what == "break":
        distributed.destroy_process_group()

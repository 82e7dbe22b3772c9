"""Trains on two ranks and compares them.

    python tests/helpers/two_ranks.py                        by test_training.py: what ranks explore, and their weights
    torchrun … tests/helpers/two_ranks.py STRATEGY ...       by test_callbacks.py: numbers that break on rank 1 alone

Both ranks skip these. There the batch size is such that a pass with one transition less has one update less.
"""

import sys
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import distributed

from hadrl_lightning.agents import HADRL, DDPGSettings, WorldModelSettings
from hadrl_lightning.callbacks import FiniteNumbers
from hadrl_lightning.data import TransitionDataModule
from hadrl_lightning.distributed import of_each_rank
from hadrl_lightning.process import quiet_trainer
from hadrl_lightning.scenario import Scenario
from tests.callbacks.test_callbacks import CRITIC_LOSS, LATENCY, LOSS, PLAN, SWITCHING
from tests.helpers import published_collection, published_planner
from tests.helpers.ensemble_ranks import SCENARIO, build

BROKEN = (LOSS, CRITIC_LOSS, PLAN, LATENCY, SWITCHING)


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
        for inject in BROKEN if trainer.global_rank == 1 else ():
            inject(patch)
        trainer.fit(module, datamodule=data)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in sys.argv[1:]:
        breaking(name)
    if len(sys.argv) == 1:
        exploring()
    else:
        distributed.destroy_process_group()

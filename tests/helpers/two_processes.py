"""Run by test_training.py: trains on two gloo processes and compares them."""

import sys
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import distributed

from hadrl_lightning.agents import HADRL, DDPGSettings, WorldModelSettings
from hadrl_lightning.data import TransitionDataModule
from hadrl_lightning.process import quiet_trainer
from hadrl_lightning.scenario import Scenario
from tests.helpers import published_collection, published_planner


class Compare(Callback):
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


def main() -> None:
    torch.set_num_threads(1)
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
        callbacks=[published_collection(seed_decisions=2, decisions_per_epoch=1), Compare()],
    )
    trainer.fit(module, datamodule=data)


if __name__ == "__main__":
    main()

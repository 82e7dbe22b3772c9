"""Run by test_finite.py on two ranks: numbers that break on rank 1 alone, skipped by both.

The batch size is such that a pass with one transition less has one update less.

torchrun --standalone --nproc_per_node 2 tests/helpers/broken_ranks.py STRATEGY ...
"""

import sys
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import distributed

from hadrl_lightning.callbacks import FiniteNumbers
from hadrl_lightning.distributed import of_each_rank
from hadrl_lightning.process import quiet_trainer
from tests.callbacks.test_finite import CRITIC_LOSS, LATENCY, LOSS, PLAN, SWITCHING
from tests.helpers import published_collection
from tests.helpers.ensemble_ranks import SCENARIO, build

BROKEN = (LOSS, CRITIC_LOSS, PLAN, LATENCY, SWITCHING)


class Compare(Callback):
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


def train(strategy: str) -> None:
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
            Compare(),
        ],
    )
    with pytest.MonkeyPatch.context() as patch:
        for inject in BROKEN if trainer.global_rank == 1 else ():
            inject(patch)
        trainer.fit(module, datamodule=data)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in sys.argv[1:]:
        train(name)
    distributed.destroy_process_group()

"""What looking for numbers that are not finite costs: the time of an update with the checks over that without.

python benchmarks/finite_checks.py
"""

import argparse
import statistics
import time

import torch
from lightning.pytorch import Callback, Trainer

from hadrl_lightning.agents import HADRL
from hadrl_lightning.callbacks import CEMPlanning, FiniteNumbers
from hadrl_lightning.data import TransitionDataModule
from hadrl_lightning.process import quiet_trainer


class Clock(Callback):
    """Times the training batches."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, *_: object) -> None:
        """Start."""
        self._started = _now(trainer)

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        """Stop."""
        self.seconds.append(_now(trainer) - self._started)


def _now(trainer: Trainer) -> float:
    """Wall time on a GPU, when it has finished; else the time of this process, whatever else runs."""
    if trainer.strategy.root_device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def seconds_a_batch(checks: bool, accelerator: str, batches: int) -> float:
    """Median seconds of a training batch with the settings of es2.yaml."""
    module = HADRL.from_config("es2.yaml")
    data = TransitionDataModule(
        module.scenario, passes_per_epoch=batches, caching_updates_per_epoch=2 * batches
    )
    clock = Clock()
    callbacks = [CEMPlanning(), *([FiniteNumbers()] if checks else []), clock]
    trainer = quiet_trainer(
        accelerator=accelerator,
        devices=1,
        max_epochs=1,
        callbacks=callbacks,
    )
    trainer.fit(module, datamodule=data)
    return statistics.median(clock.seconds)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--accelerator", default="cpu")
    parser.add_argument("--batches", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    ratios = []
    for _ in range(options.repeats):
        without, checked = (
            seconds_a_batch(checks, options.accelerator, options.batches) for checks in (False, True)
        )
        ratios.append(checked / without)
        print(
            f"without {without * 1e3:.1f} ms, with {checked * 1e3:.1f} ms, ratio {ratios[-1]:.3f}", flush=True
        )
    print(f"ratio: median {statistics.median(ratios):.3f}, {min(ratios):.3f} … {max(ratios):.3f}")


if __name__ == "__main__":
    main()

"""Memory and time of a rank with the strategy `ensemble_parallel`, for 1, 2 and 4 gloo processes on this machine.

    python benchmarks/ensemble_parallel.py [--members 8] [--hidden-size 400] [--samples 400] [--ranks 1 2 4]

Prints a table of the rank that holds most. CPU time of a rank is what falls as 1/N; the wall time does so only with as
many free cores as ranks.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from hadrl_lightning.agents import HADRL, DDPGSettings, WorldModelSettings
from hadrl_lightning.data import OffloadingTransitions, TransitionDataModule
from hadrl_lightning.distributed import member_parameters, members_held, of_each_rank
from hadrl_lightning.ensemble_parallel import EnsembleParallelStrategy
from hadrl_lightning.planning import PlannerSettings
from hadrl_lightning.process import quiet_trainer
from hadrl_lightning.scenario import Scenario
from hadrl_lightning.simulator import Use, make_generator

COLUMNS = (
    ("ranks", "{ranks:d}"),
    ("members a rank", "{members:d}"),
    ("ensemble parameters (MB)", "{parameters_mb:.1f}"),
    ("their Adam state (MB)", "{adam_mb:.1f}"),
    ("peak memory beyond the start (MB)", "{peak_mb:.0f}"),
    ("CPU s a pass", "{pass_cpu_s:.2f}"),
    ("wall s a pass", "{pass_wall_s:.2f}"),
    ("CPU s a plan", "{plan_cpu_s:.2f}"),
    ("wall s a plan", "{plan_wall_s:.2f}"),
)


def main() -> None:
    """Run once for each number of ranks, each in processes of its own, and print a row."""
    words = arguments()
    if "WORLD_SIZE" in os.environ:
        measure(words)
        return
    print(" | ".join(name for name, _ in COLUMNS))
    for ranks in words.ranks:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [*command, __file__, *sys.argv[1:]], env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            sys.exit(done.stdout + done.stderr)
        rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        largest = {name: max(row[name] for row in rows) for name in rows[0]}
        print(" | ".join(form.format(**largest) for _, form in COLUMNS), flush=True)


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--hidden-size", type=int, default=400)
    parser.add_argument("--samples", type=int, default=400)
    parser.add_argument("--passes", type=int, default=4)
    parser.add_argument("--networks", type=int, default=8)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    return parser.parse_args()


class Measure(Callback):
    """Fills the replay, and takes the time of every pass after the first and of a plan."""

    def __init__(self, samples: int) -> None:
        self.samples = samples
        self.start_kb = 0
        self.passes: list[tuple[float, float]] = []
        self.row: dict[str, Any] = {}

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the data, the same on all ranks."""
        data: Any = trainer.datamodule
        module: Any = pl_module
        rows = random_rows(data.offloading_buffer.like, self.samples, make_generator(1, Use.TRAINING_BATCHES))
        data.offloading_buffer.add(rows)
        module.world_model.observe(rows)

    def on_train_batch_start(self, *_: Any) -> None:
        """Begin a pass."""
        trainer: Any = _[0]
        trainer.strategy.barrier()
        self.began = (time.process_time(), time.perf_counter())

    def on_train_batch_end(self, *_: Any) -> None:
        """End a pass."""
        self.passes.append((time.process_time() - self.began[0], time.perf_counter() - self.began[1]))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Plan once, and write what was measured."""
        module: Any = pl_module
        data: Any = trainer.datamodule
        own = [parameter for _, parameter in member_parameters(module)]
        states = [trainer.optimizers[0].state[parameter] for parameter in own]
        moments = [value for state in states for name, value in state.items() if name != "step"]
        draw = make_generator(2, Use.PLAY)
        view = random_rows(data.offloading_buffer.like, data.num_envs, draw).view
        module.plan(view[:1], module.planner, draw)
        trainer.strategy.barrier()
        began = (time.process_time(), time.perf_counter())
        module.plan(view, module.planner, draw)
        plan = (time.process_time() - began[0], time.perf_counter() - began[1])
        later = self.passes[1:]
        self.row = {
            "ranks": trainer.world_size,
            "members": members_held(module).count,
            "parameters_mb": sum(one.nbytes for one in own) / 1e6,
            "adam_mb": sum(one.nbytes for one in moments) / 1e6,
            "peak_mb": (peak_kb() - self.start_kb) / 1e3,
            "pass_cpu_s": sum(cpu for cpu, _ in later) / len(later),
            "pass_wall_s": sum(wall for _, wall in later) / len(later),
            "plan_cpu_s": plan[0],
            "plan_wall_s": plan[1],
        }
        rows = of_each_rank(self.row)
        if trainer.is_global_zero:  # alone: lines of several processes get mixed
            for row in rows:
                print(json.dumps(row), flush=True)


def random_rows(like: OffloadingTransitions, count: int, draw: torch.Generator) -> OffloadingTransitions:
    """Random numbers of the right types."""
    shapes = [(count, *value.shape[1:]) for _, value in like.tensors()]
    return like.filled(
        torch.rand(shape, generator=draw).to(value.dtype)
        for shape, (_, value) in zip(shapes, like.tensors(), strict=True)
    )


def peak_kb() -> int:
    """The most memory that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measure(words: argparse.Namespace) -> None:
    """Train as one of several ranks."""
    torch.set_num_threads(1)
    scenario = Scenario()
    module = HADRL(
        scenario,
        world_model=WorldModelSettings(ensemble_size=words.members, hidden_size=words.hidden_size),
        ddpg=DDPGSettings(hidden_sizes=(16,)),
        fast_level="flat",
        slow_level="flat",
        planner=PlannerSettings(
            plan_horizon=3,
            form="tschantz",
            proposal="gaussian",
            use_exploration=True,
            planning_members=None,
            informed_candidates=0,
            share_steps=0,
            target_sweeps=0,
        ),
    )
    data = TransitionDataModule(
        scenario,
        num_envs=words.networks,
        passes_per_epoch=words.passes,
        batch_size=50,
        samples_per_pass=None,
        caching_updates_per_epoch=10,
        caching_batch_size=64,
    )
    measuring = Measure(words.samples)
    trainer = quiet_trainer(
        accelerator="cpu",
        strategy=EnsembleParallelStrategy(),
        devices=int(os.environ["WORLD_SIZE"]),
        max_epochs=1,
        default_root_dir=Path.cwd(),
        callbacks=[measuring],
    )
    measuring.start_kb = peak_kb()
    trainer.fit(module, datamodule=data)


if __name__ == "__main__":
    main()

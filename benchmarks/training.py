"""What training takes: whole commands, a city, caches of a large network, other libraries, and where the time goes.

    python benchmarks/training.py [whole city caches peers profile] [--repeats 3] [--configs es2.yaml quick.yaml]

whole    `hadrl fit` as a process of its own, with one and with two threads, alone and beside a process that keeps one
         core busy, in turn: seconds on the wall and of CPU, and the ratios of the turns.
city     `hadrl fit` for 816 users, 125 servers and 87 services: CPU time of an epoch, memory, and the agent's latency
         over that of the best known decisions under its own caches, with what the certified bound leaves open.
caches   A caching decision for 200 servers and 100 services, by an agent of es3.yaml and tight.yaml: CPU time, and the
         expected share of hits over the bound of the linear relaxation; beside it caches filled by density, popularity
         per storage, and the latency of a slot under the best known decisions, over theirs. Sizes are drawn so that
         all caches together hold half of all services.
peers    Stable-Baselines3's PPO and SAC on `hadrl/EdgeNetwork-v0`, to the latency of `hadrl fit` with quick.yaml on the
         same episodes, or until they have taken three times its CPU time.
profile  CPU time of the parts of decisions and of a training epoch, and of their matrix products alone.

A ratio or a time is the median, with the least and the largest in brackets.
"""

import argparse
import csv
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loops.evaluation_loop import _EvaluationLoop
from torch.utils._python_dispatch import TorchDispatchMode

from hadrl_lightning import HADRL, EdgeNetwork
from hadrl_lightning.agents.actor_critic import ActorCritic
from hadrl_lightning.agents.learning import Learning
from hadrl_lightning.agents.set_world_model import SetWorldModel
from hadrl_lightning.baselines import best_known_and_bound, coverage
from hadrl_lightning.baselines.covering import filled_by_density
from hadrl_lightning.baselines.learners import LearnerSettings
from hadrl_lightning.benchmark.players import Judge, play
from hadrl_lightning.benchmark.policies import LEARNERS
from hadrl_lightning.benchmark.sb3 import train_sb3
from hadrl_lightning.callbacks.collection import Collection
from hadrl_lightning.cli import main as hadrl
from hadrl_lightning.data import EpisodeStream
from hadrl_lightning.errors import require
from hadrl_lightning.planning import sums
from hadrl_lightning.play import episode_scores
from hadrl_lightning.scenario import GIB, Scenario
from hadrl_lightning.simulator import Use, fill_caches, make_generator, serve

FEW_TESTS = {
    "data.test_episodes": "1",
    "evaluation.references": "false",
    "evaluation.second_process": "false",
}
CITY = {
    "data.scenario.num_servers": "125",
    "data.scenario.num_users": "816",
    "data.scenario.num_services": "87",
    "data.scenario.offload_thresholds": "null",
    "data.scenario.popularity": "zipf",
    "data.num_envs": "4",
    "data.validation_episodes": "1",
    **FEW_TESTS,
}
"""Settings over es5.yaml."""
CONFIGS = {
    "es2.yaml": ("--config", "es2.yaml"),
    "quick.yaml": ("--config", "es2.yaml", "--config", "quick.yaml"),
}
PATIENCE = 3
"""Peers get so many times the CPU time of `hadrl fit`."""


def main() -> None:
    """Measure, and print."""
    parts: dict[str, Callable[[argparse.Namespace], None]] = {
        "whole": whole,
        "city": city,
        "caches": caches,
        "peers": peers,
        "profile": profile,
    }
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", choices=[*parts, []], help="what to measure (default: all)")
    parser.add_argument("--repeats", type=int, default=3, help="turns of whole commands (default: 3)")
    parser.add_argument("--configs", nargs="+", choices=CONFIGS, default=list(CONFIGS))
    parser.add_argument("--epochs", type=int, default=10, help="of the city's training (default: 10)")
    parser.add_argument("--peers", nargs="+", choices=("ppo", "sac", "td3"), default=["ppo", "sac"])
    parser.add_argument("--agent", type=Path, help="of city or caches, in place of training one")
    words = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for part in words.parts or parts:
        parts[part](words)


# Whole commands ----------------------------------------------------------------------------------------------------


class Spent(NamedTuple):
    """What a command took."""

    wall_s: float
    cpu_s: float
    peak_gib: float
    """Largest resident memory."""


def fitted(folder: str | Path, *settings: str) -> Spent:
    """Run `hadrl fit` in a folder."""
    begun = time.perf_counter()
    command = [sys.executable, "-m", "hadrl_lightning.cli", "fit", *settings]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    wall = time.perf_counter() - begun
    return Spent(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 2**20)


def flags(settings: dict[str, str]) -> list[str]:
    """Of a command line."""
    return [word for name, value in settings.items() for word in (f"--{name}", value)]


@contextmanager
def busy_core(busy: bool) -> Iterator[None]:
    """Beside a process that computes without end, if `busy`."""
    spinning = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if busy else None
    try:
        yield
    finally:
        if spinning is not None:
            spinning.kill()
            spinning.wait()


def whole(words: argparse.Namespace) -> None:
    """Whole commands, in turn."""
    ways = [(threads, busy) for busy in (False, True) for threads in (1, 2)]
    for config in words.configs:
        spent: dict[tuple[int, bool], list[Spent]] = defaultdict(list)
        for _ in range(words.repeats):
            for threads, busy in ways:
                with busy_core(busy), tempfile.TemporaryDirectory() as folder:
                    spent[threads, busy].append(
                        fitted(folder, *CONFIGS[config], "--trainer.threads", f"{threads}")
                    )
        print(f"{config}, load of the machine at the end {os.getloadavg()[0]:.1f}")
        for way in ways:
            threads, busy = way
            beside = [one.wall_s / first.wall_s for one, first in zip(spent[way], spent[1, False])]
            print(
                f"  {threads} threads, {'one core busy' if busy else 'alone'}: "
                f"wall s {told(one.wall_s for one in spent[way])}, CPU s {told(one.cpu_s for one in spent[way])}, "
                f"GiB {told(one.peak_gib for one in spent[way])}, wall ÷ one thread alone {told(beside)}",
                flush=True,
            )


def told(values: Any, shown: str = ".2f") -> str:
    """Median, least and largest."""
    values = list(values)
    return f"{statistics.median(values):{shown}} ({min(values):{shown}} to {max(values):{shown}})"


# A city ------------------------------------------------------------------------------------------------------------


def city(words: argparse.Namespace) -> None:
    """Train for a city, and hold the agent against the best known."""
    with tempfile.TemporaryDirectory() as folder:
        file = words.agent
        if file is None:
            epochs, validated = f"{words.epochs}", f"{min(5, words.epochs)}"
            times = {"trainer.max_epochs": epochs, "trainer.check_val_every_n_epoch": validated}
            spent = fitted(folder, "--config", "es5.yaml", *flags({**CITY, **times}))
            print(
                f"city, {words.epochs} epochs: {spent.cpu_s / words.epochs:.0f} CPU s an epoch, with all else in it, "
                f"{spent.wall_s / words.epochs:.0f} s on the wall, {spent.peak_gib:.2f} GiB"
            )
            (file,) = Path(folder).glob("checkpoints/es5/version_0/best.ckpt")
        agent = HADRL.from_checkpoint(file)
    network = EdgeNetwork(agent.scenario, generator=make_generator(5, Use.TEST_NETWORKS))
    ratios, gaps = [], []
    for index in range(3):
        network.begin_frame(agent.place(network.caching_view(), decision=index))
        for _ in range(agent.scenario.slots_per_decision):
            allocation = agent.decide(network.offloading_view())
            slot = (agent.scenario, network.cache, network.requests, network.positions)
            fading = network.unfolding.foreseen().fading
            assert fading is not None
            found = best_known_and_bound(*slot, fading)
            ratios.append(float(serve(*slot, fading, allocation).latency.sum() / found.latency_s))
            gaps.append(100 * float(found.gap))
            network.step(allocation)
    print(f"city: latency ÷ best known, slots of three frames {told(ratios, '.4f')}")
    print(f"city: best known above its bound at most {told(gaps, '.3f')} %", flush=True)


# Caches of a large network -----------------------------------------------------------------------------------------


def caches(words: argparse.Namespace) -> None:
    """Caching decisions of one large network, with caches alike and of very different sizes."""
    with tempfile.TemporaryDirectory() as folder:
        file = words.agent
        if file is None:
            fitted(folder, "--config", "es3.yaml", "--config", "tight.yaml", *flags(FEW_TESTS))
            (file,) = Path(folder).glob("checkpoints/*/version_0/best.ckpt")
        trained = HADRL.from_checkpoint(file)
    large = trained.scenario.resized(200, 3000, 100)
    draws = torch.Generator().manual_seed(0)
    sizes = torch.randn(200, generator=draws).mul(1.5).exp()
    half = 0.5 / 0.8 * sum(large.storage_bits) / 8
    drawn = tuple((half * sizes / sizes.sum()).tolist())
    for name, size in (
        ("5 GiB", 5 * GIB),
        ("40 GiB", 40 * GIB),
        ("200 GiB", 200 * GIB),
        ("drawn sizes", drawn),
    ):
        scenario = replace(large, cache_bytes=size)
        agent = trained.for_scenario(scenario)
        network = EdgeNetwork(scenario, generator=make_generator(5, Use.TEST_NETWORKS))
        network.begin_frame(fill_caches(scenario, torch.rand(1, 200, 100, generator=draws)))
        for _ in range(scenario.slots_per_decision):  # so that requests were seen
            network.step(agent.decide(network.offloading_view()))
        view, spent = network.caching_view(), []
        for _ in range(5):
            begun = time.process_time()
            cache = agent.place(view)
            spent.append(time.process_time() - begun)
        dense, bound = filled_by_density(scenario)[None], relaxed_hits(scenario)
        hits, of_dense = (float(coverage(scenario, choice)) / bound for choice in (cache, dense))
        own, other = (
            float(best_known_and_bound(scenario, choice, network.requests, network.positions).latency_s)
            for choice in (cache, dense)
        )
        print(
            f"caches of {name}: CPU s {told(spent, '.3f')}, hits ÷ bound {hits:.3f}; "
            f"filled by density: {of_dense:.3f}, latency over theirs {own / other:.4f}",
            flush=True,
        )


def relaxed_hits(scenario: Scenario) -> float:
    """The largest share of hits where servers may hold parts of a service, of such as fit into them whole."""
    optimize, sparse = require("the relaxation", ["scipy.optimize", "scipy.sparse"])
    servers, services = scenario.num_servers, scenario.num_services
    storage, room = np.array(scenario.storage_bits), np.array(scenario.usable_cache_bits)
    unit = storage.max()
    rows = sparse.bmat(
        [
            [sparse.kron(sparse.eye(servers), storage[None] / unit), None],
            [-sparse.kron(np.ones((1, servers)), sparse.eye(services)), sparse.eye(services)],
        ]
    )
    largest = np.concatenate([(storage <= room[:, None]).ravel().astype(float), np.ones(services)])
    cost = np.concatenate([np.zeros(servers * services), -np.array(scenario.popularity_vector)])
    limits = np.concatenate([room / unit, np.zeros(services)])
    found = optimize.linprog(
        cost, rows.tocsc(), limits, bounds=np.stack([np.zeros_like(largest), largest], 1)
    )
    return -float(found.fun)


# Other libraries ---------------------------------------------------------------------------------------------------


class TimeIsUp(Exception):
    """A peer has had its time, or has got there."""


class Racing(Judge):
    """Validates every so many slots, whose time does not count, and ends a training that is done."""

    def __init__(self, stream: EpisodeStream, goal: float, limit_s: float, every: int) -> None:
        super().__init__(stream, [])
        self.goal, self.limit_s, self.every = goal, limit_s, every
        self.begun, self.judging, self.next = time.process_time(), 0.0, every

    @property
    def spent(self) -> float:
        """CPU seconds of the training so far."""
        return time.process_time() - self.begun - self.judging

    def is_due(self, slots: int) -> bool:
        """Whether the next validation is."""
        if self.spent < self.limit_s and slots < self.next:
            return False
        self.next = slots + self.every
        return True

    def __call__(self, slots: int, policies: Any, snapshot: Any) -> None:
        """Validate, and end the training where that is due."""
        spent, begun = self.spent, time.process_time()
        super().__call__(slots, policies, lambda: None)
        self.judging += time.process_time() - begun
        if spent > self.limit_s or self.validations[-1].latency <= self.goal:
            raise TimeIsUp


def peers(words: argparse.Namespace) -> None:
    """PPO and SAC, to the latency of a short training of ours."""
    with tempfile.TemporaryDirectory() as folder:
        spent = fitted(folder, *CONFIGS["quick.yaml"], "--evaluation.second_process", "false")
        agent = HADRL.from_checkpoint(next(Path(folder).glob("checkpoints/*/version_0/best.ckpt")))
        with next(Path(folder).glob("checkpoints/*/version_0/metrics.csv")).open(newline="") as file:
            slots = [row["step"] for row in csv.DictReader(file)][-1]
    scenario = agent.scenario
    stream = EpisodeStream(scenario, "strict", 20, 20, 1, Use.VALIDATION_NETWORKS)
    goal = mean_latency(play(stream, agent.play))
    print(
        f"hadrl fit, quick.yaml: {goal:.2f} s after {spent.cpu_s:.1f} CPU s, tests included, and {slots} slots"
    )
    common = asdict(LearnerSettings(num_envs=4))
    for name in words.peers:
        settings = {**{key: common[key] for key in ("num_envs", "reward")}, **LEARNERS[name].learner}
        racing = Racing(stream, goal * 1.001, PATIENCE * spent.cpu_s, 1000)
        with suppress(TimeIsUp):
            train_sb3(scenario, "strict", settings, 10**6, 0, racing)
        seen = racing.validations
        best = min(one.latency for one in seen)
        print(
            f"{name}: {best:.2f} s at best, {seen[-1].latency:.2f} s after {racing.spent:.1f} CPU s and "
            f"{seen[-1].slots:.0f} slots; {seen[0].latency:.2f} s after {seen[0].slots:.0f}",
            flush=True,
        )


def mean_latency(episodes: Sequence[Any]) -> float:
    """Summed over users, mean over slots and episodes."""
    return float(torch.cat([episode_scores(episode).latency for episode in episodes]).mean())


# Where the time goes -----------------------------------------------------------------------------------------------


class Products(TorchDispatchMode):
    """Notes the matrix products that are computed, with their shapes and strides."""

    KINDS = ("mm", "addmm", "bmm", "baddbmm")

    def __init__(self) -> None:
        super().__init__()
        self.met: Counter[Any] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute as ever, and count."""
        if func.overloadpacket.__name__ in self.KINDS:
            shapes = tuple((tuple(one.shape), one.stride()) for one in args if isinstance(one, torch.Tensor))
            self.met[func, shapes] += 1
        return func(*args, **(kwargs or {}))

    def seconds(self) -> float:
        """CPU time of all of them alone."""
        total = 0.0
        for (func, shapes), count in self.met.items():
            factors = [of_strides(*shape) for shape in shapes]
            func(*factors)
            begun, times = time.process_time(), min(count, 50)
            for _ in range(times):
                func(*factors)
            total += (time.process_time() - begun) * count / times
        return total


def of_strides(shape: tuple[int, ...], stride: tuple[int, ...]) -> torch.Tensor:
    """Small random numbers of that layout."""
    cells = 1 + sum((size - 1) * step for size, step in zip(shape, stride)) if math.prod(shape) else 0
    return torch.rand(max(cells, 1)).mul_(0.1).as_strided(shape, stride)


class Clock:
    """CPU time inside functions."""

    def __init__(self) -> None:
        self.spent: defaultdict[str, float] = defaultdict(float)
        self.on = True

    def watch(self, owner: Any, name: str, label: str) -> None:
        """Count what this function takes, while the clock is on."""
        inner = getattr(owner, name)

        def timed(*given: Any, **named: Any) -> Any:
            begun = time.process_time()
            try:
                return inner(*given, **named)
            finally:
                if self.on:
                    self.spent[label] += time.process_time() - begun

        setattr(owner, name, timed)


def profile(_: argparse.Namespace) -> None:
    """Parts of decisions and of an epoch."""
    clock = Clock()
    clock.watch(SetWorldModel, "pair_demands", "describing pairs")
    clock.watch(sums, "best_targets", "choosing targets")
    clock.watch(sums, "best_shares", "choosing shares")
    clock.watch(HADRL, "plan", "the whole plan")
    for name, file, sizes, networks in (
        ("ES2, one network", "es2.ckpt", None, 1),
        ("ES2, 100 networks", "es2.ckpt", None, 100),
        ("125 x 816, 10 services", "es5.ckpt", (125, 816, 10), 1),
        ("200 x 3000, 100 services", "es5.ckpt", (200, 3000, 100), 1),
    ):
        decision_profile(name, HADRL.from_checkpoint(file), sizes, networks, clock)
    epoch_profile()


def decision_profile(
    name: str, agent: HADRL, sizes: tuple[int, int, int] | None, networks: int, clock: Clock
) -> None:
    """Parts of a decision."""
    scenario = agent.scenario if sizes is None else agent.scenario.resized(*sizes)
    network = EdgeNetwork(scenario, num_envs=networks, generator=make_generator(5, Use.TEST_NETWORKS))
    draws = torch.rand(networks, scenario.num_servers, scenario.num_services)
    network.begin_frame(fill_caches(scenario, draws))
    view, times = network.offloading_view(), 20 if sizes is None else 5
    agent.decide(view)
    clock.spent.clear()
    begun = time.process_time()
    for _ in range(times):
        agent.decide(view)
    total = time.process_time() - begun
    parts = {label: seconds / total for label, seconds in clock.spent.items()}
    planned = parts.pop("the whole plan", 0.0)
    parts = {**parts, "rest of the plan": planned - sum(parts.values()), "checks, decoding": 1 - planned}
    with Products() as products:
        agent.decide(view)
    alone = products.seconds()
    print(
        f"decision, {name}: {1e3 * total / times:.1f} ms; {shares(parts)}; matrix products alone "
        f"{100 * alone * times / total:.0f} %",
        flush=True,
    )


def shares(parts: dict[str, float]) -> str:
    """Parts of one, in words."""
    return ", ".join(f"{label} {100 * share:.0f} %" for label, share in parts.items())


def epoch_profile(measured: int = 4) -> None:
    """Parts of one epoch of es2.yaml, and the products of the next one."""
    clock, products = Clock(), Products()
    clock.on = False
    for owner, name, label in (
        (Collection, "_offloading_action", "plans of collecting"),
        (Collection, "_caching_action", "caching decisions of collecting"),
        (Collection, "frame", "collecting"),
        (ActorCritic, "update", "learning of the caching agent"),
        (Learning, "training_step", "learning"),
        (_EvaluationLoop, "run", "validating"),
        (Trainer, "save_checkpoint", "saving"),
    ):
        clock.watch(owner, name, label)
    stepped, framed = Learning.training_step, Collection.frame

    def step(self: Any, *given: Any) -> Any:
        return of_epoch(self.current_epoch, stepped, self, *given)

    def frame(self: Any) -> Any:
        return of_epoch(self.epoch, framed, self)

    def of_epoch(epoch: int, inner: Any, *given: Any) -> Any:
        clock.on = epoch == measured
        if epoch != measured + 1:
            return inner(*given)
        with products:
            return inner(*given)

    Learning.training_step, Collection.frame = step, frame  # type: ignore[assignment, method-assign]
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "trainer.max_epochs": f"{measured + 2}",
            "trainer.check_val_every_n_epoch": f"{measured + 1}",
            "trainer.enable_progress_bar": "false",
            "trainer.default_root_dir": folder,
            **FEW_TESTS,
        }
        hadrl(["fit", "--config", "es2.yaml", *flags(settings)])
    spent = clock.spent
    epoch = spent["collecting"] + spent["learning"]
    print(f"epoch of es2.yaml: {epoch:.2f} CPU s, and {spent['validating']:.2f} s for a validation")
    for label, seconds in spent.items():
        print(f"  {label}: {seconds:.3f} s, {100 * seconds / epoch:.0f} %")
    print(f"  matrix products alone: {products.seconds():.3f} s", flush=True)


if __name__ == "__main__":
    main()

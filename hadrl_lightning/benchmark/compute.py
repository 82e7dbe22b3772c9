"""Compute one cell: train if there is something to train, then play the test episodes."""

import hashlib
import platform
import time
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from .. import callbacks
from ..agents import SetDDPG
from ..baselines import CACHING_POLICIES, OFFLOADING_POLICIES, optimal_coverage
from ..baselines.learners import FlatDDPG, LearnerSettings, TwinDDPG
from ..data import EpisodeStream
from ..scenario import Physics, Scenario
from ..simulator import EdgeNetwork, Use, make_generator
from .cells import Cell, CellResult
from .judge import Judge, Policies, bounds, by_episode, latency_percentile, own_best_known, play
from .policies import LEARNERS, LOWER_BOUND, pair_of
from .sb3 import train_sb3
from .trained import trained_policies
from .training import Trained, build, train


def compute(cell: Cell) -> CellResult:
    """The result of a cell. It depends on the cell alone, so cells can be computed anywhere and in any order.

    Raises:
        HadrlError: an extra is missing, or a setting is out of range.
    """
    settings = cell.settings
    scenario, physics = Scenario(**settings["scenario"]), settings["physics"]
    test = settings["test"]
    parallel = min(test["parallel"], test["episodes"])
    stream = EpisodeStream(scenario, physics, test["episodes"], parallel, test["seed"], Use.TEST_NETWORKS)
    optimum = {"optimal_hit_ratio": optimal_coverage(scenario).hit_ratio}
    if cell.policy == LOWER_BOUND:
        started = time.perf_counter()
        caching = CACHING_POLICIES["latency_optimal"](scenario, make_generator(0, Use.CACHE_SEARCH))
        return _finished(bounds(stream, caching), optimum, started)
    started = time.perf_counter()
    judge = _judge(scenario, physics, settings)
    trained = _policies(cell, scenario, physics, judge)
    training_s = time.perf_counter() - started if judge else 0.0
    started = time.perf_counter()
    episodes = play(stream, trained.policies)
    evaluation_s = time.perf_counter() - started
    columns = {**by_episode(episodes), "own_best_known": own_best_known(stream, episodes)}
    return _finished(
        columns,
        {**optimum, "latency_p95": latency_percentile(episodes)},
        started,
        curve=judge.curve if judge else [],
        slots=trained.slots,
        training_s=training_s,
        evaluation_s=evaluation_s,
    )


def _finished(
    episodes: dict[str, list[float]], others: dict[str, float], started: float, **rest: Any
) -> CellResult:
    means = {name: sum(values) / len(values) for name, values in episodes.items()}
    rest.setdefault("evaluation_s", time.perf_counter() - started)
    return CellResult(scores={**means, **others}, episodes=episodes, versions=versions(), **rest)


def _judge(scenario: Scenario, physics: Physics, settings: dict[str, Any]) -> Judge | None:
    if "validation" not in settings:
        return None
    validation = settings["validation"]
    return Judge(scenario, physics, validation["episodes"], validation["parallel"], validation["seed"])


def _policies(cell: Cell, scenario: Scenario, physics: Physics, judge: Judge | None) -> Trained:
    seed = cell.seed or 0
    pair = pair_of(cell.policy)
    if pair is not None:
        draws = [make_generator(seed, use) for use in (Use.BASELINE_CACHING, Use.BASELINE_OFFLOADING)]
        policies: Policies = (
            CACHING_POLICIES[pair.caching](scenario, draws[0]),
            OFFLOADING_POLICIES[pair.offloading](scenario, draws[1]),
        )
        return Trained(policies, 0)
    if "agent" in cell.settings:
        return Trained(trained_policies(cell.settings["agent"], scenario, physics), 0)
    assert judge is not None
    settings, kind = cell.settings, LEARNERS[cell.policy].kind
    slots, validations = settings["slots"], settings["validation"]["number"]
    if kind == "hadrl":
        return train(settings["config"], seed, judge, validations)
    if kind == "sb3":
        return train_sb3(scenario, physics, settings["learner"], slots, seed, judge, validations)
    learner = _ddpg_learner(cell, scenario, physics, seed)
    period = slots / max(validations, 1)
    played, due = 0, period
    while played < slots:
        played += learner.advance(played / slots)
        if played + 0.5 >= due or played >= slots:
            due += period
            judge(played, learner.policies(), learner.state_dict)
    learner.load_state_dict(judge.best)
    return Trained(learner.policies(), played)


def _ddpg_learner(cell: Cell, scenario: Scenario, physics: Physics, seed: int) -> TwinDDPG | FlatDDPG:
    settings = LearnerSettings(**cell.settings["learner"])
    generator = make_generator(seed, Use.RIVAL_NETWORKS)
    network = EdgeNetwork(scenario, physics, settings.num_envs, generator=generator)
    kind = LEARNERS[cell.policy].kind
    if kind == "flat-ddpg":
        return FlatDDPG(network, settings, seed)
    slow = _slow_agent(cell, seed) if kind == "no-planning" else None
    return TwinDDPG(network, settings, seed, slow)


def _slow_agent(cell: Cell, seed: int) -> SetDDPG | None:
    """HADRL's structured caching agent, if that is what the settings have."""
    agent = build(cell.settings["config"], seed).model.ddpg
    return agent if isinstance(agent, SetDDPG) else None


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Of Python and of what computes; `source` is a hash of this package's modules."""
    found = {"python": platform.python_version(), "torch": torch.__version__}
    for package in ("hadrl-lightning", "lightning", "numpy", "scipy", "stable-baselines3"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    root, digest = Path(__file__).parents[1], hashlib.sha256()
    for folder in (root, *(Path(str(path)) for path in callbacks.__path__)):
        for module in sorted(folder.rglob("*.py")):
            digest.update(module.read_bytes())
    return {**found, "source": digest.hexdigest()[:12]}

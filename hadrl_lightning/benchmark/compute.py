"""Compute one cell: train if there is something to train, then play the test episodes."""

import hashlib
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from hadrl_lightning import callbacks
from hadrl_lightning.agents import DDPG, CachingAgent
from hadrl_lightning.baselines import CACHING_POLICIES, least_latency
from hadrl_lightning.baselines.learners import FlatDDPG, LearnerSettings, TwinDDPG
from hadrl_lightning.benchmark.cells import Cell, CellResult
from hadrl_lightning.benchmark.players import Judge, play, player, trained_player
from hadrl_lightning.benchmark.policies import LOWER_BOUND, pair_of
from hadrl_lightning.benchmark.training import Trained, build, import_modules, train
from hadrl_lightning.data import EpisodeStream
from hadrl_lightning.errors import require
from hadrl_lightning.judge import (
    Scoreboard,
    Validation,
    around_changes,
    bounds,
    by_unit,
    interval,
    optimal_hit_ratio,
    own_best_known,
)
from hadrl_lightning.play import Episode
from hadrl_lightning.scenario import Physics, Scenario
from hadrl_lightning.simulator import EdgeNetwork, Use, make_generator
from hadrl_lightning.simulator.state import asked


def compute(cell: Cell, folder: Path | None = None) -> CellResult:
    """The result of a cell. It depends on the cell alone, so cells can be computed anywhere and in any order.

    Args:
        cell: what to compute.
        folder: of the benchmark, where trainings that several cells share are kept; none are kept where not given.

    Raises:
        HadrlError: an extra is missing, or a setting is out of range.
    """
    started = time.perf_counter()
    result = _computed(cell, folder)
    return replace(result, wall_s=time.perf_counter() - started)


def _computed(cell: Cell, folder: Path | None) -> CellResult:
    settings = cell.settings
    scenario, physics = Scenario(**settings["scenario"]), settings["physics"]
    test = settings["test"]
    parallel = min(test["parallel"], test["episodes"])
    stream = EpisodeStream(scenario, physics, test["episodes"], parallel, test["seed"], Use.TEST_NETWORKS)
    started = time.perf_counter()
    if cell.policy == LOWER_BOUND:
        caching = CACHING_POLICIES["latency_optimal"](stream.scenario, make_generator(0, Use.CACHE_SEARCH))
        bound = {scenario.preferences.figure: bounds(stream, caching)}
        return _finished(cell.policy, stream, bound, {}, started)
    trained = _trained(cell, scenario, stream.scenario, physics, folder)
    training_s = time.perf_counter() - started if trained.slots else 0.0
    started = time.perf_counter()
    episodes = play(stream, trained.play)
    evaluation_s = time.perf_counter() - started
    wanted = scenario.preferences
    own, least = Scoreboard(cell.policy, wanted), Scoreboard("best known, same caches", wanted)
    best = [own_best_known(stream, index, episode) for index, episode in enumerate(episodes)]
    for episode, same_caches in zip(episodes, best, strict=True):
        own.add(episode, same_caches)
        least.add(same_caches)
    around = around_changes(episodes, best, wanted)
    return _finished(
        cell.policy,
        stream,
        by_unit({**own.episodes(), "own_best_known": least.episode_costs()}, physics),
        {"latency_p95": float(own.values()["latency_p95"])},
        started,
        curve=[_known(one) for one in trained.validations],
        slots=trained.slots,
        training_s=training_s,
        evaluation_s=evaluation_s,
        held=_held(episodes),
        decision_ms={name: float(value) for name, value in own.times().items()},
        task_quantiles=_quantiles(episodes),
        around_changes={} if around is None else around._asdict(),
    )


def _held(episodes: Sequence[Episode]) -> list[list[float]]:
    """Of every server and service, the share of frames in which the one held the other; none of many sizes."""
    if len({episode.cache.shape[2:] for episode in episodes}) > 1:
        return []
    frames = torch.cat([episode.cache.cpu().flatten(0, 1) for episode in episodes])
    return [[round(share, 3) for share in server] for server in frames.double().mean(dim=0).tolist()]


def _quantiles(episodes: Sequence[Episode]) -> list[float]:
    """Quantiles 0, 0.01, …, 1 of the latency of all tasks, s; none where there was none."""
    latency = torch.cat([episode.latency.cpu().double().flatten() for episode in episodes])
    tasks = latency[asked(latency)].numpy()
    found: list[float] = np.quantile(tasks, np.linspace(0, 1, 101)).tolist() if tasks.size else []
    return found


def _finished(
    policy: str,
    stream: EpisodeStream,
    episodes: dict[str, list[float]],
    scores: dict[str, float],
    started: float,
    **rest: Any,
) -> CellResult:
    means = {name: interval([values]).mean for name, values in episodes.items()}
    optimum = optimal_hit_ratio(*stream.scenarios())
    if optimum is not None:
        means["optimal_hit_ratio"] = optimum
    if policy in (LOWER_BOUND, "ppo-set") or policy.startswith("latency_optimal+"):
        means["exact_caches"] = float(all(least_latency(one).exact for one in stream.scenarios()))
    rest.setdefault("evaluation_s", time.perf_counter() - started)
    return CellResult(scores={**means, **scores}, episodes=episodes, versions=versions(), **rest)


def _known(validation: Validation) -> dict[str, Any]:
    return {name: value for name, value in validation._asdict().items() if value is not None}


def _trained(
    cell: Cell, scenario: Scenario, played: Scenario, physics: Physics, folder: Path | None
) -> Trained:
    """A policy for a scenario, which may know the world that is `played`; those who learn do so in that of training."""
    seed, settings = cell.seed or 0, cell.settings
    import_modules(settings.get("modules", {}))
    pair = pair_of(cell.policy) if "kind" not in settings else None
    if pair is not None:
        return Trained(pair.player(played, seed), 0, [])
    if "agent" in settings:
        return Trained(trained_player(settings["agent"], scenario, physics, settings.get("adapt")), 0, [])
    if settings["kind"] == "hadrl":
        return train(settings["config"], seed)
    if settings["kind"] == "ppo-set":
        file = None if folder is None else cell.training_file(folder)
        sb3 = _sb3()
        actor, slots = sb3.train_over_networks(settings["training"], physics, seed, file)
        return Trained(player(sb3.set_policies(actor, scenario)), slots, [])
    return train_rival(cell, scenario, physics)


def train_rival(
    cell: Cell,
    scenario: Scenario,
    physics: Physics,
    judged_by: Callable[[EpisodeStream, Sequence[int]], Judge] = Judge,
) -> Trained:
    """Train a learner that HADRL is compared with.

    Args:
        cell: of the learner.
        scenario: its constants.
        physics: `strict`, `published`, or one of your own.
        judged_by: makes what validates while it trains.
    """
    seed, settings = cell.seed or 0, cell.settings
    validation = settings["validation"]
    episodes = validation["episodes"]
    parallel = min(validation["parallel"], episodes)
    stream = EpisodeStream(scenario, physics, episodes, parallel, validation["seed"], Use.VALIDATION_NETWORKS)
    judge = judged_by(stream, validation["slots"])
    if settings["kind"] == "sb3":
        trained: Trained = _sb3().train_sb3(
            scenario, physics, settings["learner"], settings["slots"], seed, judge
        )
        return trained
    return _train_ddpg(_ddpg_learner(cell, scenario, physics, seed), settings["slots"], judge)


def _sb3() -> ModuleType:
    """What trains by Stable-Baselines3.

    Raises:
        MissingExtra: it is not installed.
    """
    require("training PPO, SAC or TD3", ["stable_baselines3"])
    return import_module("hadrl_lightning.benchmark.sb3")


def _train_ddpg(learner: TwinDDPG | FlatDDPG, slots: int, judge: Judge) -> Trained:
    played = 0
    while played < slots:
        played += learner.advance(played / slots)
        if judge.is_due(played):
            judge(played, learner.policies(), learner.state_dict)
    if judge.best is not None:
        learner.load_state_dict(judge.best)
    return Trained(player(learner.policies()), played, judge.validations)


def _ddpg_learner(cell: Cell, scenario: Scenario, physics: Physics, seed: int) -> TwinDDPG | FlatDDPG:
    settings = LearnerSettings(**cell.settings["learner"])
    generator = make_generator(seed, Use.RIVAL_NETWORKS)
    network = EdgeNetwork(scenario, physics, settings.num_envs, generator=generator)
    kind = cell.settings["kind"]
    if kind == "flat-ddpg":
        return FlatDDPG(network, settings, seed)
    slow = _slow_agent(cell, seed) if kind == "no-planning" else None
    return TwinDDPG(network, settings, seed, slow)


def _slow_agent(cell: Cell, seed: int) -> CachingAgent | None:
    """The caching agent of the settings (see `plan`), unless it is plain DDPG, which is what learners have anyway."""
    agent = build(cell.settings["config"], seed).model.caching_agent
    return None if isinstance(agent, DDPG) else agent


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Of Python and of what computes; `source` is a hash of this package's modules."""
    found = {"python": platform.python_version(), "torch": torch.__version__}
    for package in ("hadrl-lightning", "lightning", "numpy", "scipy", "stable-baselines3", "sb3-contrib"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    root, digest = Path(__file__).parents[1], hashlib.sha256()
    for folder in (root, *(Path(str(path)) for path in callbacks.__path__)):
        for module in sorted(folder.rglob("*.py")):
            digest.update(module.read_bytes())
    return {**found, "source": digest.hexdigest()[:12]}

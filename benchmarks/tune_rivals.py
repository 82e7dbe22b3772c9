"""Search settings for the learners that HADRL is compared with: the same number of trials for each, by Optuna.

    python benchmarks/tune_rivals.py --journal /tmp/rivals.journal --trials 8
    python benchmarks/tune_rivals.py --journal /tmp/rivals.journal --report

A trial trains a rival with the benchmark's own budget of slots in one of `PLACES` after the other, and validates it as
the benchmark does: equally often, on the same validation episodes, its best validation counts. Its score is the latency
as a share of that of random decisions, mean over the places: each weighs alike, and one setting has to serve both, as
HADRL has one for all scenarios. From the second validation on, a trial whose score so far is worse than the median of
those before it at that point is stopped. Training is seeded from `FIRST_SEED` on and the test episodes are never
played: nothing of what is reported is searched on. `--slots` shortens the trainings.

The first trial of a rival is what the benchmark used before any search. For those of Stable-Baselines3 the second is
the same with discount 0, which is HADRL's, and with rewards normalised as our DDPG learners' are. Then Optuna's
tree-structured Parzen estimator proposes. What is finished lies in the journal: the same command goes on where it was,
and more trials may be asked for. With one worker the search is the same each time.
"""

import argparse
import math
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import optuna
import torch
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from hadrl_lightning.baselines import random_caching, random_offloading
from hadrl_lightning.benchmark.cells import Cell
from hadrl_lightning.benchmark.compute import train_rival
from hadrl_lightning.benchmark.plan import PlanSettings, make_plan
from hadrl_lightning.benchmark.players import Judge
from hadrl_lightning.benchmark.training import merged
from hadrl_lightning.data import EpisodeStream
from hadrl_lightning.judge import Validation, best_and_last
from hadrl_lightning.play import Policies
from hadrl_lightning.scenario import GIB, Scenario
from hadrl_lightning.simulator import Use, make_generator

Settings = dict[str, Any]

PLACES = {"es3.yaml": 40 * GIB, "es2.yaml": 20 * GIB}
"""Scenarios, and the cache of a server in bytes."""
FIRST_SEED = 100
"""Seed of the trainings of all trials, in the first place; in the next place the next one."""
RANDOM_TRIALS = 4
"""Trials before the estimator proposes, those that are given among them."""
DISCOUNTS = [0.0, 0.5, 0.9, 0.99]


class Rival(NamedTuple):
    """What is searched for one rival."""

    before: Settings
    """What it had before the search, by the names of the search."""
    suggest: Callable[[Trial], Settings]
    """Its search space; returns settings of a `Learner`."""


def ddpg(trial: Trial) -> Settings:
    """Both DDPGs: our own, `LearnerSettings`."""
    return {
        "actor_learning_rate": trial.suggest_float("actor_learning_rate", 1e-6, 1e-3, log=True),
        "critic_learning_rate": trial.suggest_float("critic_learning_rate", 1e-4, 3e-3, log=True),
        "discount": trial.suggest_categorical("discount", DISCOUNTS),
        "target_rate": trial.suggest_categorical("target_rate", [0.005, 0.02]),
        "hidden_sizes": tuple(widths(trial, ["128-64", "256-128", "400-300"])),
        "batch_size": trial.suggest_categorical("batch_size", [64, 128, 256]),
        "random_share": trial.suggest_categorical("random_share", [0.1, 0.25]),
        "noise_start": trial.suggest_float("noise_start", 0.1, 1.0),
        "noise_end": 0.1,
        "updates_per_transition": 1.0,
    }


def ppo(trial: Trial) -> Settings:
    """PPO of Stable-Baselines3; `n_steps` are slots of each environment between two updates."""
    return {
        "algorithm": "PPO",
        "learning_rate": trial.suggest_float("learning_rate", 3e-5, 3e-3, log=True),
        "gamma": trial.suggest_categorical("gamma", DISCOUNTS),
        "n_steps": trial.suggest_categorical("n_steps", [8, 16, 32, 64]),
        "batch_size": trial.suggest_categorical("batch_size", [64, 128]),
        "n_epochs": trial.suggest_categorical("n_epochs", [5, 10, 20]),
        "gae_lambda": trial.suggest_categorical("gae_lambda", [0.8, 0.95]),
        "ent_coef": trial.suggest_categorical("ent_coef", [0.0, 1e-4, 1e-3]),
        "reward_scaling": trial.suggest_categorical("reward_scaling", ["returns", "rewards"]),
        "policy_kwargs": {
            "net_arch": widths(trial, ["64-64", "256-256"]),
            "log_std_init": trial.suggest_categorical("log_std_init", [0.0, -1.0]),
        },
    }


def sac(trial: Trial) -> Settings:
    """SAC of Stable-Baselines3."""
    entropy = trial.suggest_categorical("ent_coef", ["auto", "0.1", "0.01", "0.001"])
    return {
        "algorithm": "SAC",
        "ent_coef": entropy if entropy == "auto" else float(entropy),
        **off_policy(trial, ["256-256", "400-300"]),
        "noise": 0.0,
    }


def td3(trial: Trial) -> Settings:
    """TD3 of Stable-Baselines3; `noise` is the standard deviation of the noise on its actions."""
    return {
        "algorithm": "TD3",
        "noise": trial.suggest_categorical("noise", [0.0, 0.1, 0.3, 0.5]),
        **off_policy(trial, ["256-256", "400-300"]),
    }


def off_policy(trial: Trial, architectures: list[str]) -> Settings:
    """What SAC and TD3 share; an update for each transition, as for the DDPGs, or half as many."""
    return {
        "learning_rate": trial.suggest_float("learning_rate", 3e-5, 3e-3, log=True),
        "gamma": trial.suggest_categorical("gamma", DISCOUNTS),
        "tau": trial.suggest_categorical("tau", [0.005, 0.02]),
        "batch_size": trial.suggest_categorical("batch_size", [64, 128]),
        "learning_starts": trial.suggest_categorical("learning_starts", [400, 1600]),
        "reward_scaling": trial.suggest_categorical("reward_scaling", ["returns", "rewards"]),
        "policy_kwargs": {"net_arch": widths(trial, architectures)},
        "updates_per_transition": trial.suggest_categorical("updates_per_transition", [0.5, 1.0]),
    }


def widths(trial: Trial, choices: list[str]) -> list[int]:
    """Widths of the two hidden layers of actor and critic."""
    return [int(width) for width in trial.suggest_categorical("hidden_sizes", choices).split("-")]


DDPG = {
    "actor_learning_rate": 3e-5,
    "critic_learning_rate": 1e-3,
    "discount": 0.0,
    "target_rate": 0.005,
    "hidden_sizes": "256-128",
    "batch_size": 64,
    "random_share": 0.1,
    "noise_start": 0.5,
}
OFF_POLICY = {
    "gamma": 0.99,
    "tau": 0.005,
    "batch_size": 64,
    "learning_starts": 400,
    "reward_scaling": "returns",
    "updates_per_transition": 1.0,
}
RIVALS = {
    "ppo": Rival(
        {
            "learning_rate": 3e-4,
            "gamma": 0.99,
            "n_steps": 64,
            "batch_size": 64,
            "n_epochs": 10,
            "gae_lambda": 0.95,
            "ent_coef": 0.0,
            "reward_scaling": "returns",
            "hidden_sizes": "64-64",
            "log_std_init": 0.0,
        },
        ppo,
    ),
    "twin-ddpg": Rival(DDPG, ddpg),
    "flat-ddpg": Rival(DDPG, ddpg),
    "td3": Rival({**OFF_POLICY, "learning_rate": 1e-3, "hidden_sizes": "400-300", "noise": 0.0}, td3),
    "sac": Rival({**OFF_POLICY, "learning_rate": 3e-4, "hidden_sizes": "256-256", "ent_coef": "auto"}, sac),
}


def given_trials(rival: str) -> list[Settings]:
    """The trials that do not come from Optuna."""
    before = RIVALS[rival].before
    as_ours = {"gamma": 0.0, "reward_scaling": "rewards"}
    return [before, {**before, **as_ours}] if "gamma" in before else [before]


def cell_of(policy: str, place: str, slots: int | None, seed: int) -> Cell:
    """The benchmark's cell of a policy in a place."""
    overrides = {"data": {"scenario": {"cache_bytes": PLACES[place]}}}
    plan = make_plan(
        PlanSettings(
            scenarios=(place,),
            overrides=overrides,
            policies=(policy,),
            seeds=(seed,),
            slots=slots,
            episodes=1,
        )
    )
    return next(cell for cell in plan.cells if cell.policy == policy)


def random_latency(place: str) -> float:
    """Latency of random decisions in the validation episodes of a place, s."""
    settings = cell_of("ppo", place, None, FIRST_SEED).settings
    scenario, validation = Scenario(**settings["scenario"]), settings["validation"]
    episodes, parallel, seed = (validation[name] for name in ("episodes", "parallel", "seed"))
    stream = EpisodeStream(
        scenario, "strict", episodes, min(parallel, episodes), seed, Use.VALIDATION_NETWORKS
    )
    judge = Judge(stream, [])
    draws = (make_generator(FIRST_SEED, use) for use in (Use.BASELINE_CACHING, Use.BASELINE_OFFLOADING))
    judge(0, (random_caching(next(draws)), random_offloading(next(draws))), dict)
    return judge.validations[0].latency


class TrialJudge(Judge):
    """Reports each validation of a trial to Optuna, and stops the trial if it is worse than others were then.

    Args:
        trial: the trial.
        before: shares of random decisions' latency in the places before this one.
        random: latency of random decisions here, s.
        stream: the validation episodes.
        due: slots of training after which they are played.
    """

    def __init__(
        self, trial: Trial, before: list[float], random: float, stream: EpisodeStream, due: Sequence[int]
    ) -> None:
        super().__init__(stream, due)
        self._trial, self._before, self._random = trial, before, random
        self._first_step = len(before) * len(due)

    def __call__(self, slots: int, policies: Policies, snapshot: Callable[[], Any]) -> None:
        """Validate after `slots` slots of training."""
        super().__call__(slots, policies, snapshot)
        shares = [*self._before, least_latency(self.validations) / self._random]
        self._trial.report(sum(shares) / len(shares), self._first_step + len(self.validations) - 1)
        if self._trial.should_prune():
            raise optuna.TrialPruned


def least_latency(validations: Sequence[Validation]) -> float:
    """Of the best validation, s; infinite where none is a number."""
    found = best_and_last(validations)
    return found.best.latency if found else math.inf


def score(trial: Trial, rival: str, slots: int | None, random: dict[str, float]) -> float:
    """Mean over the places of latency ÷ that of random decisions."""
    learner = RIVALS[rival].suggest(trial)
    shares: list[float] = []
    for index, place in enumerate(PLACES):
        cell = cell_of(rival, place, slots, FIRST_SEED + index)
        settings = {**cell.settings, "learner": merged(cell.settings["learner"], learner)}
        judged_by = partial(TrialJudge, trial, shares.copy(), random[place])
        scenario = Scenario(**settings["scenario"])
        trained = train_rival(replace(cell, settings=settings), scenario, "strict", judged_by)
        latency = least_latency(trained.validations)
        trial.set_user_attr(place, latency)
        shares.append(latency / random[place])
    return sum(shares) / len(shares)


def study_of(rival: str, journal: str, number: int = 0) -> optuna.Study:
    """The study of a rival; its sampler is that of the trial `number`."""
    return optuna.create_study(
        study_name=rival,
        storage=JournalStorage(JournalFileBackend(journal)),
        sampler=optuna.samplers.TPESampler(seed=number, n_startup_trials=RANDOM_TRIALS),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=2, n_warmup_steps=1),
        load_if_exists=True,
    )


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that were not broken off."""
    return [trial for trial in study.trials if trial.state.is_finished()]


def run_trial(job: tuple[str, str, int, int | None, dict[str, float]]) -> str:
    """One more trial of a rival."""
    rival, journal, number, slots, random = job
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = study_of(rival, journal, number)
    tried = [trial.params for trial in finished(study)]
    for given in given_trials(rival):
        if given not in tried:
            study.enqueue_trial(given)
            break
    study.optimize(
        lambda trial: score(trial, rival, slots, random),
        n_trials=1,
        catch=(ValueError, RuntimeError, FloatingPointError),
    )
    last = study.trials[-1]
    return f"{rival:<10} trial {number:>2} {last.state.name:<8} {last.value} {last.user_attrs} {last.params}"


def report(journal: str) -> None:
    """Print the trials of each rival as a table, and its best settings."""
    for rival, (_, suggest) in RIVALS.items():
        study = study_of(rival, journal)
        print(f"\n## {rival}\n")
        print(f"| trial | score | {' | '.join(f'{place} (s)' for place in PLACES)} | settings |")
        print("|---|---|---|---|---|")
        for trial in finished(study):
            print(row_of(trial))
        if any(trial.state == TrialState.COMPLETE for trial in study.trials):
            best = suggest(optuna.trial.FixedTrial(study.best_params))
            print(f"\nBest: trial {study.best_trial.number}, `{best}`.")


def row_of(trial: FrozenTrial) -> str:
    """A trial as a row of a table; of one that was stopped, its score at the last validation."""
    value = "–" if trial.value is None else f"{trial.value:.4f}"
    score = f"stopped at {value}" if trial.state == TrialState.PRUNED else value
    places = [f"{trial.user_attrs[place]:.1f}" if place in trial.user_attrs else "–" for place in PLACES]
    settings = ", ".join(
        f"{name} {setting:.3g}" if isinstance(setting, float) else f"{name} {setting}"
        for name, setting in trial.params.items()
    )
    return f"| {trial.number} | {score} | {' | '.join(places)} | {settings} |"


def main() -> None:
    """Parse the command line and search."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--journal", required=True, help="file that the trials are kept in")
    parser.add_argument("--rivals", nargs="+", choices=list(RIVALS), default=list(RIVALS))
    parser.add_argument("--trials", type=int, default=8, help="of each rival (default 8)")
    parser.add_argument("--workers", type=int, default=1, help="trials at once (default 1)")
    parser.add_argument("--slots", type=int, help="of a training (default: the benchmark's)")
    parser.add_argument("--report", action="store_true", help="print what is finished and search nothing")
    asked = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if asked.report:
        return report(asked.journal)
    random = {place: random_latency(place) for place in PLACES}
    print(f"latency of random decisions, s: {random}", flush=True)
    done = {rival: len(finished(study_of(rival, asked.journal))) for rival in asked.rivals}
    jobs = [
        (rival, asked.journal, number, asked.slots, random)
        for number in range(asked.trials)
        for rival in asked.rivals
        if number >= done[rival]
    ]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(asked.workers, context) as pool:
        for line in pool.map(run_trial, jobs):
            print(line, flush=True)
    return report(asked.journal)


if __name__ == "__main__":
    main()

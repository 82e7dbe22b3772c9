"""The learners that HADRL is compared with: their environments and settings."""

from dataclasses import asdict
from pathlib import Path

import gymnasium
import numpy as np
import optuna
import pytest
from stable_baselines3.common import vec_env

from benchmarks.tune_rivals import PLACES, RIVALS, cell_of, finished, given_trials, run_trial, study_of
from hadrl_lightning.baselines.learners import LearnerSettings
from hadrl_lightning.benchmark.policies import LEARNERS
from hadrl_lightning.benchmark.sb3 import SpawnedSeed, _normalised, spawned_seeds
from hadrl_lightning.scenario import GIB


def test_environments_of_neighbouring_seeds_have_no_seed_in_common() -> None:
    seeds = [number for seed in range(20) for number in spawned_seeds(seed, 16)]
    assert len(set(seeds)) == 320
    assert spawned_seeds(3, 16)[:4] == spawned_seeds(3, 4)


def test_environments_of_neighbouring_seeds_show_different_requests() -> None:
    def first_views(seed: int) -> list[bytes]:
        makers = [
            lambda spawned=spawned: SpawnedSeed(gymnasium.make("hadrl/EdgeNetwork-v0"), spawned)
            for spawned in spawned_seeds(seed, 4)
        ]
        envs = vec_env.DummyVecEnv(makers)
        envs.seed(seed)  # as Stable-Baselines3 does: seed, seed + 1, …
        return [view.tobytes() for view in envs.reset()]

    assert len({*first_views(0), *first_views(1)}) == 8
    assert first_views(1) == first_views(1)


def test_rewards_are_normalised_by_their_mean_and_deviation() -> None:
    makers = [lambda: gymnasium.make("hadrl/EdgeNetwork-v0", reward="latency") for _ in range(4)]
    envs = _normalised(vec_env, makers, "rewards", 0.0)
    envs.reset()
    action = np.zeros((4, *envs.action_space.shape), np.float32)
    rewards = np.stack([envs.step(action)[1] for _ in range(60)])
    assert abs(rewards[20:].mean()) < 0.3
    assert rewards[20:].std() == pytest.approx(1, abs=0.3)


@pytest.mark.parametrize("name", ["twin-ddpg", "flat-ddpg"])
def test_settings_of_the_ddpg_learners_are_settings_there_are(name: str) -> None:
    settings = LearnerSettings(**{**asdict(LearnerSettings()), **LEARNERS[name].learner})
    assert settings.ddpg().hidden_sizes == tuple(settings.hidden_sizes)


@pytest.mark.parametrize("rival", list(RIVALS))
def test_the_search_begins_with_settings_that_a_trial_can_take(rival: str) -> None:
    for given in given_trials(rival):
        learner = RIVALS[rival].suggest(optuna.trial.FixedTrial(given))
        if LEARNERS[rival].kind == "sb3":
            assert learner["algorithm"] == LEARNERS[rival].learner["algorithm"]
            assert learner["gamma"] == given["gamma"]
        else:
            assert LearnerSettings(**learner) == LearnerSettings()
        unknown = set(LEARNERS[rival].learner) - set(learner)
        assert not unknown, "what the benchmark has, the search must set"


def test_the_place_of_a_trial_is_that_of_the_benchmark() -> None:
    cell = cell_of("sac", "es2.yaml", None, 100)
    assert cell.settings["scenario"]["cache_bytes"] == 20 * GIB
    assert cell.settings["slots"] == 9200
    assert cell.seed == 100


@pytest.mark.slow
def test_a_search_goes_on_where_it_was(tmp_path: Path) -> None:
    random = dict.fromkeys(PLACES, 100.0)
    for number in range(2):
        run_trial(("twin-ddpg", str(tmp_path / "journal"), number, 400, random))
    study = study_of("twin-ddpg", str(tmp_path / "journal"))
    assert [trial.params == RIVALS["twin-ddpg"].before for trial in finished(study)] == [True, False]
    assert finished(study)[0].value == pytest.approx(
        sum(finished(study)[0].user_attrs[place] for place in PLACES) / 200
    )

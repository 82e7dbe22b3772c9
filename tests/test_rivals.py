"""The learners that HADRL is compared with: their environments and settings."""

from dataclasses import asdict

import gymnasium
import numpy as np
import pytest
from stable_baselines3.common import vec_env

from hadrl_lightning.baselines.learners import LearnerSettings
from hadrl_lightning.benchmark.policies import LEARNERS
from hadrl_lightning.benchmark.sb3 import SpawnedSeed, _normalised, spawned_seeds


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

"""Stable-Baselines3's PPO, SAC and TD3 on `hadrl/EdgeNetwork-v0`."""

import copy
import warnings
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from hadrl_lightning.baselines.learners import joint_policies
from hadrl_lightning.benchmark.players import Judge, player
from hadrl_lightning.benchmark.training import Trained
from hadrl_lightning.extras import require
from hadrl_lightning.play import Policies
from hadrl_lightning.scenario import Physics, Scenario
from hadrl_lightning.simulator import Use, make_generator


def train_sb3(
    scenario: Scenario,
    physics: Physics,
    settings: dict[str, Any],
    slots: int,
    seed: int,
    judge: Judge,
) -> Trained:
    """Train an algorithm of Stable-Baselines3 on at most `slots` slots, with observations and rewards normalised.

    Args:
        scenario: the constants.
        physics: `strict`, `published`, or one of your own.
        settings: `algorithm`, `num_envs`, `reward`, `reward_scaling` (see `_normalised`), arguments of the algorithm;
            for SAC and TD3 also `updates_per_transition` and `noise`, the standard deviation of that on actions.
        slots: over all networks.
        seed: of the environments, the weights and all draws.
        judge: validates while it trains, and keeps the best weights.

    Raises:
        MissingExtra: Stable-Baselines3 is not installed.
    """
    (package,) = require("training PPO, SAC or TD3", ["stable_baselines3"])
    settings = dict(settings)
    algorithm, num_envs, reward = (settings.pop(name) for name in ("algorithm", "num_envs", "reward"))
    scaling, noise = settings.pop("reward_scaling", "returns"), settings.pop("noise", 0.0)
    steps = slots // num_envs
    if "n_steps" in settings:  # rollouts of about that length that fill the budget
        rollouts = max(1, steps // settings["n_steps"])
        settings["n_steps"] = max(2, steps // rollouts)
        steps = rollouts * settings["n_steps"]
    if "updates_per_transition" in settings:
        settings["gradient_steps"] = max(1, round(settings.pop("updates_per_transition") * num_envs))
    if "learning_starts" in settings:
        settings["learning_starts"] = min(settings["learning_starts"], slots // 4)
    with isolate_rng(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="stable_baselines3")
        warnings.filterwarnings("ignore", message=".*truncated mini-batch.*")

        def make(spawned: int) -> gymnasium.Env[Any, Any]:
            env = gymnasium.make("hadrl/EdgeNetwork-v0", scenario=scenario, physics=physics, reward=reward)
            return SpawnedSeed(env, spawned)

        makers = [partial(make, spawned) for spawned in spawned_seeds(seed, num_envs)]
        venv = _normalised(package.common.vec_env, makers, scaling, settings.get("gamma", 0.99))
        if noise:
            size = venv.action_space.shape
            settings["action_noise"] = package.common.noise.NormalActionNoise(
                np.zeros(size), np.full(size, noise)
            )
        model = getattr(package, algorithm)("MlpPolicy", venv, seed=seed, device="cpu", **settings)

        def snapshot() -> Any:
            return model.get_parameters(), venv.obs_rms

        def validate(local: dict[str, Any], _: dict[str, Any]) -> bool:
            if judge.is_due(model.num_timesteps):
                judge(model.num_timesteps, _policies(model, venv), snapshot)
            return True

        model.learn(steps * num_envs, callback=validate)
        if judge.best is not None:
            parameters, venv.obs_rms = copy.deepcopy(judge.best)
            model.set_parameters(parameters)
    return Trained(player(_policies(model, venv)), int(model.num_timesteps), judge.validations)


class SpawnedSeed(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An environment that takes a seed of its own wherever it is given one.

    Stable-Baselines3 seeds its environments by seed, seed + 1, …: trainings of the seeds 0 and 1 would share all of
    them but one.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], spawned: int) -> None:
        super().__init__(env)
        self._spawned = spawned

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode; any seed stands for the spawned one."""
        return self.env.reset(seed=None if seed is None else self._spawned, options=options)


def spawned_seeds(seed: int, count: int) -> list[int]:
    """A seed for each environment of a training; those of two trainings have nothing in common."""
    draws = (make_generator(seed, Use.RIVAL_ENVIRONMENTS, index) for index in range(count))
    return [int(torch.randint(2**63 - 1, (1,), generator=draw)) for draw in draws]


def _normalised(vec_env: Any, makers: list[Any], scaling: str, gamma: float) -> Any:
    """The environments with observations and rewards normalised.

    Rewards are divided by the deviation of the discounted return, which is the package's own way (`returns`), or
    normalised by their own mean and deviation, as those of our DDPG learners are (`rewards`). Episodes all have the
    same length, so taking the mean off changes no preference.
    """
    if scaling == "returns":
        return vec_env.VecNormalize(vec_env.DummyVecEnv(makers), gamma=gamma)

    class Centred(vec_env.VecNormalize):
        def _update_reward(self, reward: np.ndarray) -> None:
            self.ret_rms.update(reward)

        def normalize_reward(self, reward: np.ndarray) -> np.ndarray:
            spread = np.sqrt(self.ret_rms.var + self.epsilon)
            scaled = (reward - self.ret_rms.mean) / spread
            return np.clip(scaled, -self.clip_reward, self.clip_reward).astype(np.float32)

    return Centred(vec_env.DummyVecEnv(makers), gamma=gamma)


def _policies(model: Any, venv: Any) -> Policies:
    def act(observation: Tensor) -> Tensor:
        action, _ = model.predict(venv.normalize_obs(observation.cpu().numpy()), deterministic=True)
        return torch.from_numpy(np.clip(action, -1, 1).astype(np.float32)).to(observation.device)

    return joint_policies(act)

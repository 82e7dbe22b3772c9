"""Stable-Baselines3's PPO, SAC and TD3 on `hadrl/EdgeNetwork-v0`."""

import copy
import warnings
from typing import Any

import gymnasium
import numpy as np
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from ..baselines.learners import joint_policies
from ..errors import HadrlError
from ..judge import Policies
from ..scenario import Physics, Scenario
from ..simulator import Use, make_generator
from .judge import Judge, player
from .training import Trained


def stable_baselines3() -> Any:
    """The package.

    Raises:
        HadrlError: it is not installed.
    """
    try:
        import stable_baselines3
    except ImportError as error:
        raise HadrlError(
            "ppo, sac and td3 need Stable-Baselines3: pip install 'hadrl-lightning[baselines]'"
        ) from error
    return stable_baselines3


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
        physics: `strict` or `published`.
        settings: `algorithm`, `num_envs`, `reward`, and arguments of the algorithm.
        slots: over all networks.
        seed: of the environments, the weights and all draws.
        judge: validates while it trains, and keeps the best weights.
    """
    package = stable_baselines3()
    settings = dict(settings)
    algorithm, num_envs, reward = (settings.pop(name) for name in ("algorithm", "num_envs", "reward"))
    steps = slots // num_envs
    if "n_steps" in settings:  # rollouts of about that length that fill the budget
        rollouts = max(1, steps // settings["n_steps"])
        settings["n_steps"] = max(2, steps // rollouts)
        steps = rollouts * settings["n_steps"]
    if "learning_starts" in settings:
        settings["learning_starts"] = min(settings["learning_starts"], slots // 4)
    with isolate_rng(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="stable_baselines3")
        warnings.filterwarnings("ignore", message=".*truncated mini-batch.*")

        def make() -> gymnasium.Env[Any, Any]:
            return gymnasium.make("hadrl/EdgeNetwork-v0", scenario=scenario, physics=physics, reward=reward)

        vec_env = package.common.vec_env
        venv = vec_env.VecNormalize(vec_env.DummyVecEnv([make] * num_envs))
        draw = make_generator(seed, Use.RIVAL_ENVIRONMENTS)
        venv.seed(
            int(torch.randint(2**31, (1,), generator=draw))
        )  # one environment's seed is the next one's plus 1
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


def _policies(model: Any, venv: Any) -> Policies:
    def act(observation: Tensor) -> Tensor:
        action, _ = model.predict(venv.normalize_obs(observation.cpu().numpy()), deterministic=True)
        return torch.from_numpy(np.clip(action, -1, 1).astype(np.float32)).to(observation.device)

    return joint_policies(act)

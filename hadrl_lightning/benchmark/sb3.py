"""Stable-Baselines3's PPO, SAC and TD3, and the recurrent PPO of sb3-contrib, on `hadrl/EdgeNetwork-v0`, and PPO over
networks of every kind, with a set encoder (see `slot_actor`). What imports this needs the extra `baselines`.
"""

import copy
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import stable_baselines3
import torch
from gymnasium.spaces import Box
from lightning.pytorch.utilities.seed import isolate_rng
from stable_baselines3 import PPO
from stable_baselines3.common import noise as action_noise
from stable_baselines3.common import vec_env
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import set_random_seed
from torch import Tensor

from hadrl_lightning.baselines import CACHING_POLICIES
from hadrl_lightning.baselines.learners import joint_policies
from hadrl_lightning.benchmark.players import Judge, player
from hadrl_lightning.benchmark.slot_actor import FIELDS, SlotActor, SlotCritic, SlotNumbers, allocation_of
from hadrl_lightning.benchmark.training import Trained
from hadrl_lightning.errors import require
from hadrl_lightning.files import load_tensors, replacing
from hadrl_lightning.play import Frame, Policies, decided, mean_of_tasks, task_cost
from hadrl_lightning.scenario import Physics, Scenario
from hadrl_lightning.simulator import Allocation, EdgeNetwork, Use, make_generator


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
    """
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
        venv = _normalised(makers, scaling, settings.get("gamma", 0.99))
        if noise:
            size = venv.action_space.shape
            settings["action_noise"] = action_noise.NormalActionNoise(np.zeros(size), np.full(size, noise))
        model = _algorithm(algorithm, venv, seed=seed, device="cpu", **settings)

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


def _normalised(makers: list[Any], scaling: str, gamma: float) -> Any:
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


def _algorithm(name: str, venv: Any, **settings: Any) -> Any:
    """An algorithm of Stable-Baselines3; recurrent PPO, with an LSTM, of sb3-contrib.

    Raises:
        MissingExtra: sb3-contrib is not installed.
    """
    if name == "RecurrentPPO":
        (contrib,) = require("training recurrent PPO", ["sb3_contrib"])
        return contrib.RecurrentPPO("MlpLstmPolicy", venv, **settings)
    return getattr(stable_baselines3, name)("MlpPolicy", venv, **settings)


def _policies(model: Any, venv: Any) -> Policies:
    """Decisions without exploration; what an LSTM remembers begins with the episode."""
    memory: list[Any] = [None]

    def act(observation: Tensor) -> Tensor:
        normal = venv.normalize_obs(observation.cpu().numpy())
        action, memory[0] = model.predict(normal, state=memory[0], deterministic=True)
        return torch.from_numpy(np.clip(action, -1, 1).astype(np.float32)).to(observation.device)

    caching, offloading = joint_policies(act)

    def from_the_start(network: EdgeNetwork) -> Tensor:
        if network.slot == 0:
            memory[0] = None
        return caching(network)

    return from_the_start, offloading


# Over networks of every kind -----------------------------------------------------------------------------------------

ROLLOUTS_OF_A_PART = 8
"""Rollouts after which a training is saved, and goes on with networks and draws of the next part's own seeds."""
EPISODES_SEEN = 24
"""Episodes from whose first slots the scale of numbers is taken."""
LEAST_RATE = 0.02
"""What the learning rate falls to, as a share."""


class SlotEnvs(vec_env.VecEnv):
    """The slots of the networks of an `EdgeNetwork`, padded to the largest sizes: an environment a network.

    An action is a target and two share actions for every user, in the order in which users decide. The reward is minus
    the logarithm of the slot's mean latency: a network counts the same however slow it is. Caches are
    random full ones or, in every other frame of a network, those of the most popular services.

    Args:
        network: the networks.
        generator: draws the caches.
    """

    def __init__(self, network: EdgeNetwork, generator: torch.Generator) -> None:
        self.network = network
        self._generator = generator
        self._frame: Frame[Any, Any] | None = None
        self._random = CACHING_POLICIES["random_full"](network.declared, generator)
        self._popular = CACHING_POLICIES["popularity"](network.declared, generator)
        largest = network.declared.largest_counts
        users, servers = largest["num_users"], largest["num_servers"]
        shapes: dict[str, tuple[int, ...]] = {
            "user": (users, len(FIELDS.user)),
            "server": (servers, len(FIELDS.server)),
            "holds": (users, servers),
            "present": (users,),
            "there": (servers,),
        }
        spaces: dict[str, gymnasium.Space[Any]] = {
            name: Box(-np.inf, np.inf, shape) for name, shape in shapes.items()
        }
        low, high = (
            np.tile(np.array(ends, np.float32), (users, 1)) for ends in ([0, -1, -1], [servers - 1, 1, 1])
        )
        self.render_mode = None
        super().__init__(network.num_envs, gymnasium.spaces.Dict(spaces), Box(low, high))

    def reset(self) -> dict[str, np.ndarray]:
        """Start an episode of all networks."""
        self.network.reset()
        return self._observe()

    def step_async(self, actions: np.ndarray) -> None:
        """Take note of the actions."""
        self._actions = torch.from_numpy(actions)

    def step_wait(self) -> tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Serve the slot; where the episode is over, the next one begins."""
        network = self.network
        action = self._actions[:, : self._order.shape[1]]
        target, share = action[..., 0].long(), action[..., 1:]
        allocation = allocation_of(target, share, self._order, network.scenario.num_servers)
        assert self._frame is not None
        service = self._frame.serve(decided(allocation)).service
        cost = mean_of_tasks(task_cost(network.scenario.preferences, service), service.latency)
        reward = -torch.where(cost == 0, 1.0, cost).log()  # 0 where nobody has a task
        over = np.full(self.num_envs, network.episode_over)
        if network.episode_over:
            network.reset()
        return self._observe(), reward.numpy().astype(np.float32), over, [{} for _ in range(self.num_envs)]

    def _observe(self) -> dict[str, np.ndarray]:
        network = self.network
        if network.frame_over:
            popular = torch.rand(self.num_envs, 1, 1, generator=self._generator) < 0.5
            cache = torch.where(popular, self._popular(network), self._random(network))
            self._frame = Frame(network, decided(cache))
        seen, self._order = SlotNumbers.of(network.offloading_view())
        found = {}
        for name, space in self.observation_space.spaces.items():  # type: ignore[attr-defined]
            value = getattr(seen, name).numpy()
            found[name] = np.zeros((self.num_envs, *space.shape), np.float32)
            found[name][tuple(slice(size) for size in value.shape)] = value
        return found

    def close(self) -> None:
        """Nothing is open."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """An attribute, which all environments share."""
        return [getattr(self, attr_name)] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set an attribute of all."""
        setattr(self, attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """Call a method of all."""
        return [getattr(self, method_name)(*args, **kwargs)] * self.num_envs

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """None is."""
        return [False] * self.num_envs


def numbers_of(observation: dict[str, Tensor]) -> SlotNumbers:
    """What an observation of `SlotEnvs` says."""
    user, server, holds = (observation[name] for name in ("user", "server", "holds"))
    present, there = (observation[name] > 0 for name in ("present", "there"))
    return SlotNumbers(user, server, holds, present, there).cropped()


class SetPolicy(ActorCriticPolicy):
    """`SlotActor` and `SlotCritic` as a policy of Stable-Baselines3.

    The likelihood of a decision is the geometric mean over users: so the ratio that PPO clips is that of a user,
    whatever their number.
    """

    def _build(self, lr_schedule: Any) -> None:
        self.actor, self.critic = SlotActor(), SlotCritic()
        self.optimizer = torch.optim.Adam(self.parameters(), lr_schedule(1), eps=1e-5)

    @torch.no_grad()
    def see(self, envs: SlotEnvs) -> None:
        """Take the scale of numbers from the first slots of some episodes."""
        for _ in range(EPISODES_SEEN):
            observation = {name: torch.from_numpy(value) for name, value in envs.reset().items()}
            for part in (self.actor, self.critic):
                part.pairs.see(numbers_of(observation))

    def forward(self, obs: Any, deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Actions, what is expected, and log-likelihoods."""
        seen = numbers_of(obs)
        target, share = self.actor.act(seen, deterministic)
        action = obs["user"].new_zeros(*obs["user"].shape[:2], 3)
        action[:, : target.shape[1]] = torch.cat([target.unsqueeze(-1), share], dim=-1)
        return action, self.critic(seen), self.actor.judge(seen, target, share)[0]

    def evaluate_actions(self, obs: Any, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What is expected, log-likelihoods, and entropies."""
        seen = numbers_of(obs)
        action = actions.view(len(actions), -1, 3)[:, : seen.present.shape[1]]
        likely, entropy = self.actor.judge(seen, action[..., 0].long(), action[..., 1:])
        return self.critic(seen), likely, entropy

    def predict_values(self, obs: Any) -> Tensor:
        """What is expected."""
        value: Tensor = self.critic(numbers_of(obs))
        return value


def set_policies(actor: SlotActor, scenario: Scenario) -> Policies:
    """The caches of least expected latency, which it is told, and the actor's likeliest decisions."""

    @torch.no_grad()
    def offloading(network: EdgeNetwork) -> Allocation:
        seen, order = SlotNumbers.of(network.offloading_view())
        target, share = actor.act(seen, deterministic=True)
        return allocation_of(target, share, order, network.scenario.num_servers)

    return CACHING_POLICIES["latency_optimal"](scenario, make_generator(0, Use.CACHE_SEARCH)), offloading


def train_over_networks(
    training: dict[str, Any], physics: Physics, seed: int, file: Path | None
) -> tuple[SlotActor, int]:
    """Train PPO over networks of a scenario of ranges, and the slots that it trained on.

    A training comes in parts of some rollouts. Each begins with networks and draws that are those of the seed and the
    number of the part, so one that was interrupted ends with the same weights as one that was not. The learning rate
    falls to almost nothing, and the last weights are those that are judged.

    Args:
        training: `scenario`, `num_envs`, `slots` over all networks, and `learner`, arguments of PPO.
        physics: `strict`, `published`, or one of your own.
        seed: of the networks, the weights and all draws.
        file: where the training is saved after every part, and goes on from; None: nowhere.

    Raises:
        HadrlError: the file is damaged.
        OutputError: it can't be written.
    """
    scenario, num_envs = Scenario.from_dict(training["scenario"]), training["num_envs"]
    settings = dict(training["learner"])
    rate = settings["learning_rate"]
    steps = max(2, training["slots"] // num_envs)
    rollouts = max(1, steps // settings["n_steps"])
    settings["n_steps"] = steps // rollouts  # rollouts of about that length that fill the budget
    slots = settings["n_steps"] * rollouts * num_envs
    settings["batch_size"] = min(settings["batch_size"], settings["n_steps"] * num_envs)
    part_slots = ROLLOUTS_OF_A_PART * settings["n_steps"] * num_envs

    def envs(part: int) -> SlotEnvs:
        draws = (make_generator(seed, use, part) for use in (Use.RIVAL_NETWORKS, Use.RIVAL_DRAWS))
        return SlotEnvs(EdgeNetwork(scenario, physics, num_envs, generator=next(draws)), next(draws))

    with isolate_rng(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*truncated mini-batch.*")
        set_random_seed(_number(seed, Use.RIVAL_WEIGHTS))
        model = PPO(SetPolicy, envs(0), device="cpu", **settings)
        policy: SetPolicy = model.policy  # type: ignore[assignment]
        cpu_s = 0.0
        if file is not None and file.is_file():
            saved = load_tensors(file, "training")
            model.set_parameters(saved["parameters"])
            model.num_timesteps, cpu_s = saved["slots"], saved["cpu_s"]
        else:
            policy.see(envs(0))
        while model.num_timesteps < slots:
            started, part = time.process_time(), model.num_timesteps // part_slots
            set_random_seed(_number(seed, Use.RIVAL_ENVIRONMENTS, part))
            model.set_env(envs(part))
            model.lr_schedule = lambda _: rate * max(1 - model.num_timesteps / slots, LEAST_RATE)
            model.learn(min(part_slots, slots - model.num_timesteps), reset_num_timesteps=False)
            cpu_s += time.process_time() - started
            if file is not None:
                found = {"parameters": model.get_parameters(), "slots": model.num_timesteps, "cpu_s": cpu_s}
                with replacing(file) as temporary:
                    torch.save(found, temporary)
    return policy.actor, int(model.num_timesteps)


def _number(seed: int, use: Use, *index: int) -> int:
    """A seed for the generators of torch and numpy."""
    return int(torch.randint(2**32, (1,), generator=make_generator(seed, use, *index)))

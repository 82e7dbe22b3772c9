"""Gymnasium vector environments over the batched simulator: B networks cost little more than one."""

from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import ArrayLike, NDArray

from hadrl_lightning.envs.core import (
    CachingCore,
    Core,
    JointCore,
    OffloadingCore,
    ScenarioLike,
    build_network,
    most_requested,
)
from hadrl_lightning.envs.single import Array, as_action, spaces
from hadrl_lightning.play import CachingPolicy, OffloadingPolicy, Reward, home_equal
from hadrl_lightning.scenario import Physics, Scenario

Bools = NDArray[np.bool_]


class _BatchedEnv(VectorEnv[Array, ArrayLike, Any]):
    """B networks in step. Their episodes end together, so autoreset resets all of them at once.

    Every entry of `info` is an array [B], with a mask `_name` beside it as Gymnasium's own vector environments have;
    the names are the fields of `SlotScores` in every step and reset, and all entries are 0 where a step was a reset.
    With autoreset in the same step, the last step of an episode has its own in `final_info` and `final_obs` besides.
    """

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "render_modes": [],
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    def __init__(self, core: Core, autoreset_mode: AutoresetMode | str) -> None:
        self.core = core
        self.num_envs = core.network.num_envs
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {**self.metadata, "autoreset_mode": self.autoreset_mode}  # type: ignore[misc]
        self.single_observation_space, self.single_action_space = spaces(core)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    @property
    def scenario(self) -> Scenario:
        """The constants of the networks."""
        return self.core.scenario

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Start an episode of all networks; a seed (one number for all) fixes all draws from here on.

        Raises:
            ValueError: `options["reset_mask"]` leaves out a network.
        """
        mask = (options or {}).get("reset_mask")
        if mask is not None and not np.all(mask):
            raise ValueError(
                f"reset_mask must be true for all networks, whose episodes end together, got {mask}"
            )
        super().reset(seed=seed)
        return self.core.reset(seed).cpu().numpy(), self._info(self.core.nothing_happened())

    def step(self, actions: ArrayLike) -> tuple[Array, Any, Bools, Bools, dict[str, Any]]:
        """Apply actions [B, A] in [-1, 1]; values outside count as the bound.

        Raises:
            ValueError: the actions have another shape, or values that are not finite.
            RuntimeError: the episode is over and autoreset disabled.
        """
        never = np.zeros(self.num_envs, dtype=bool)
        if self.core.over:
            if self.autoreset_mode is not AutoresetMode.NEXT_STEP:
                raise RuntimeError("step must follow reset: the episode is over")
            observation = self.core.reset().cpu().numpy()
            info = self._info(self.core.nothing_happened())
            return observation, np.zeros(self.num_envs, np.float32), never, never.copy(), info
        batch = torch.as_tensor(as_action(actions), device=self.core.network.device)
        outcome = self.core.step(batch)
        observation = outcome.observation.cpu().numpy()
        info = self._info(outcome.info)
        over = np.full(self.num_envs, self.core.over)
        if self.core.over and self.autoreset_mode is AutoresetMode.SAME_STEP:
            final = self._masked({"final_obs": observation, "final_info": info})
            info = self._info(self.core.nothing_happened()) | final
            observation = self.core.reset().cpu().numpy()
        return observation, outcome.reward.cpu().numpy(), never, over, info

    def _info(self, info: dict[str, torch.Tensor]) -> dict[str, Any]:
        return self._masked({name: value.cpu().numpy() for name, value in info.items()})

    def _masked(self, info: dict[str, Any]) -> dict[str, Any]:
        everywhere = np.ones(self.num_envs, dtype=bool)
        return info | {f"_{name}": everywhere.copy() for name in info}


class ServiceCachingVectorEnv(_BatchedEnv):
    """`num_envs` networks of `hadrl/ServiceCaching-v0`; see `ServiceCachingEnv`.

    Args:
        num_envs: B.
        scenario: the constants, as a `Scenario`, a mapping of its fields or the name of a config; ES2 by default.
        physics: `strict`, `published`, or one of your own.
        offloading_policy: decides the slots, from the networks to an `Allocation`.
        reward: `published` or `latency`.
        autoreset_mode: `NextStep`, `SameStep` or `Disabled`, as in Gymnasium.
        device: where the networks live.

    Raises:
        ValueError: a setting is out of range, or there is no such config.
    """

    def __init__(
        self,
        num_envs: int = 1,
        scenario: ScenarioLike = None,
        physics: Physics = "strict",
        offloading_policy: OffloadingPolicy = home_equal,
        reward: Reward = "published",
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        device: str | torch.device | None = None,
    ) -> None:
        network = build_network(scenario, physics, num_envs, device)
        super().__init__(CachingCore(network, reward, offloading_policy), autoreset_mode)


class ComputationOffloadingVectorEnv(_BatchedEnv):
    """`num_envs` networks of `hadrl/ComputationOffloading-v0`; see `ComputationOffloadingEnv`.

    Args:
        num_envs: B.
        scenario: the constants, as a `Scenario`, a mapping of its fields or the name of a config; ES2 by default.
        physics: `strict`, `published`, or one of your own.
        caching_policy: fills the caches at the start of each frame, from the networks to bool [B, S, K].
        reward: `published` or `latency`.
        autoreset_mode: `NextStep`, `SameStep` or `Disabled`, as in Gymnasium.
        device: where the networks live.

    Raises:
        ValueError: a setting is out of range, or there is no such config.
    """

    def __init__(
        self,
        num_envs: int = 1,
        scenario: ScenarioLike = None,
        physics: Physics = "strict",
        caching_policy: CachingPolicy = most_requested,
        reward: Reward = "published",
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        device: str | torch.device | None = None,
    ) -> None:
        network = build_network(scenario, physics, num_envs, device)
        super().__init__(OffloadingCore(network, reward, caching_policy), autoreset_mode)


class EdgeNetworkVectorEnv(_BatchedEnv):
    """`num_envs` networks of `hadrl/EdgeNetwork-v0`; see `EdgeNetworkEnv`.

    Args:
        num_envs: B.
        scenario: the constants, as a `Scenario`, a mapping of its fields or the name of a config; ES2 by default.
        physics: `strict`, `published`, or one of your own.
        reward: `published` or `latency`.
        autoreset_mode: `NextStep`, `SameStep` or `Disabled`, as in Gymnasium.
        device: where the networks live.

    Raises:
        ValueError: a setting is out of range, or there is no such config.
    """

    def __init__(
        self,
        num_envs: int = 1,
        scenario: ScenarioLike = None,
        physics: Physics = "strict",
        reward: Reward = "published",
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        device: str | torch.device | None = None,
    ) -> None:
        super().__init__(
            JointCore(build_network(scenario, physics, num_envs, device), reward), autoreset_mode
        )

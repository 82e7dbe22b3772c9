"""Gymnasium environments of one network."""

from typing import Any, ClassVar, Literal

import gymnasium
import numpy as np
import torch
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
from hadrl_lightning.errors import shown
from hadrl_lightning.play import CachingPolicy, OffloadingPolicy, PlayedSlot, Reward, home_equal
from hadrl_lightning.scenario import Physics, Scenario
from hadrl_lightning.viewer import FRAMES_PER_S, Picture, Scene, Watcher, Window

Array = NDArray[np.float32]
UInt8Array = NDArray[np.uint8]
RenderMode = Literal["human", "rgb_array"] | None


def spaces(core: Core) -> tuple[gymnasium.Space[Array], gymnasium.Space[Array]]:
    """The spaces of an observation and an action of one network."""
    low, high = (np.asarray(bound, dtype=np.float32) for bound in core.bounds)
    return (
        gymnasium.spaces.Box(low, high, dtype=np.float32),
        gymnasium.spaces.Box(-1.0, 1.0, (core.action_size,), np.float32),
    )


def as_action(action: ArrayLike) -> Array:
    """An action in single precision, copied.

    Raises:
        ValueError: it does not consist of numbers.
    """
    try:
        if np.iscomplexobj(action):
            raise TypeError("complex numbers have no order")
        with np.errstate(over="ignore"):  # too large a number becomes infinite, and is refused as such
            return np.array(action, np.float32)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"action must be an array of numbers, got {shown(action)}") from error


class _SingleEnv(gymnasium.Env[Array, Array]):
    """One network as a Gymnasium environment. Episodes are truncated at their end, never terminated.

    What is drawn of it is the slot served last, or at the start of an episode the one that comes first. `rgb_array`
    gives it as a picture, uint8 [720, 1280, 3]; `human` shows every slot on a window, by itself.
    """

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "render_modes": ["human", "rgb_array"],
        "render_fps": FRAMES_PER_S,
    }

    def __init__(self, core: Core, render_mode: RenderMode = None) -> None:
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise ValueError(f"render_mode must be human, rgb_array or None, got {render_mode!r}")
        self.core = core
        self.observation_space, self.action_space = spaces(core)
        self.render_mode = render_mode
        self._window = Window() if render_mode == "human" else None
        self._picture = Picture() if render_mode == "rgb_array" else None
        self._watcher = Watcher(core.network)
        self._scene: Scene | None = None
        if render_mode is not None:
            core.after_slot = self._see

    @property
    def scenario(self) -> Scenario:
        """The constants of the network."""
        return self.core.scenario

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Start an episode; a seed fixes all draws from here on. There are no options. The info is all 0."""
        super().reset(seed=seed)
        observation = self.core.reset(seed)[0].cpu().numpy()
        if self.render_mode is not None:
            self._show(self._watcher.coming())
        return observation, _of_one(self.core.nothing_happened())

    def step(self, action: ArrayLike) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Apply an action in [-1, 1]; values outside count as the bound.

        Raises:
            ValueError: the action has another shape, or values that are not finite.
            RuntimeError: the episode is over.
        """
        if self.core.over:
            raise RuntimeError("step must follow reset: the episode is over")
        batch = torch.as_tensor(as_action(action), device=self.core.network.device)[None]
        observation, reward, info = self.core.step(batch)
        return (
            observation[0].cpu().numpy(),
            reward.item(),
            False,
            self.core.over,
            _of_one(info),
        )

    def render(self) -> UInt8Array | None:
        """The slot served last as a picture; on a window it is there already.

        Raises:
            RuntimeError: there was no reset.
        """
        if self._picture is None:
            return None
        if self._scene is None:
            raise RuntimeError("render must follow reset: no episode has begun")
        return self._picture.image(self._scene)

    def close(self) -> None:
        """Close the window, if there is one."""
        if self._window is not None:
            self._window.close()

    def _see(self, played: PlayedSlot[Any, Any]) -> None:
        self._show(self._watcher.served(played))

    def _show(self, scene: Scene) -> None:
        self._scene = scene
        if self._window is not None:
            self._window.show(scene)


def _of_one(info: dict[str, torch.Tensor]) -> dict[str, Any]:
    """The info of one network, numpy numbers of single precision."""
    return {name: value.cpu().numpy()[0] for name, value in info.items()}


class ServiceCachingEnv(_SingleEnv):
    """`hadrl/ServiceCaching-v0`: a step is a caching decision and the slots that it holds.

    Observation and action are those of the slow level: K (1 + 2 S) + S numbers, and S K numbers of which the positive
    ones ask for their service. Reward: mean hits per slot / 100 + 1 / (switching cost + 100), or (`latency`) minus the
    mean cost of a task, by default its latency in seconds. `info` has the means of `SlotScores` over the slots, but the
    whole `switching` cost of the decision.

    Args:
        scenario: the constants, as a `Scenario`, a mapping of its fields or the name of a config; ES2 by default.
        physics: `strict`, `published`, or one of your own.
        offloading_policy: decides the slots, from the network to an `Allocation`; by default every user goes to its
            home server and gets an equal share.
        reward: `published` or `latency`.
        render_mode: `human`, `rgb_array`, or None.

    Raises:
        ValueError: a setting is out of range, or there is no such config.
        MissingExtra: something is to be drawn and matplotlib is not installed.
    """

    def __init__(
        self,
        scenario: ScenarioLike = None,
        physics: Physics = "strict",
        offloading_policy: OffloadingPolicy = home_equal,
        reward: Reward = "published",
        render_mode: RenderMode = None,
    ) -> None:
        super().__init__(
            CachingCore(build_network(scenario, physics), reward, offloading_policy), render_mode
        )


class ComputationOffloadingEnv(_SingleEnv):
    """`hadrl/ComputationOffloading-v0`: a step is a slot.

    Observation and action are those of the fast level: S K + 3 S + 3 U numbers, and for each user target server,
    bandwidth share and compute share (three blocks of U). Reward: 10^4 over the summed latency in seconds, or
    (`latency`) minus the mean cost of a task, by default its latency in seconds. `info` has the fields of `SlotScores`.

    Args:
        scenario: the constants, as a `Scenario`, a mapping of its fields or the name of a config; ES2 by default.
        physics: `strict`, `published`, or one of your own.
        caching_policy: fills the caches at the start of each frame, from the network to bool [1, S, K]; by default
            with the services most requested so far in the episode, while they fit.
        reward: `published` or `latency`.
        render_mode: `human`, `rgb_array`, or None.

    Raises:
        ValueError: a setting is out of range, or there is no such config.
        MissingExtra: something is to be drawn and matplotlib is not installed.
    """

    def __init__(
        self,
        scenario: ScenarioLike = None,
        physics: Physics = "strict",
        caching_policy: CachingPolicy = most_requested,
        reward: Reward = "published",
        render_mode: RenderMode = None,
    ) -> None:
        super().__init__(
            OffloadingCore(build_network(scenario, physics), reward, caching_policy), render_mode
        )


class EdgeNetworkEnv(_SingleEnv):
    """`hadrl/EdgeNetwork-v0`: a step is a slot, and both levels are the agent's.

    Action: S K numbers for the caches, then 3 U for the offloading. The first part counts in the first slot of a frame
    only, which is where the last number of the observation is 0; in other slots it is passed over. Observation: that
    of the slow level, that of the fast level (its cache bits are those before the decision), the share of the frame
    that is served. Reward: 10^4 over the summed latency, and in the last slot of a frame the reward of the slow level
    on top; or (`latency`) minus the mean cost of a task, by default its latency in seconds, where each slot of a frame
    bears its part of what fetching costs. `info` as in `ComputationOffloading`.

    Args:
        scenario: the constants, as a `Scenario`, a mapping of its fields or the name of a config; ES2 by default.
        physics: `strict`, `published`, or one of your own.
        reward: `published` or `latency`.
        render_mode: `human`, `rgb_array`, or None.

    Raises:
        ValueError: a setting is out of range, or there is no such config.
        MissingExtra: something is to be drawn and matplotlib is not installed.
    """

    def __init__(
        self,
        scenario: ScenarioLike = None,
        physics: Physics = "strict",
        reward: Reward = "published",
        render_mode: RenderMode = None,
    ) -> None:
        super().__init__(JointCore(build_network(scenario, physics), reward), render_mode)

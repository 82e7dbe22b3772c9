"""What all environments share: B networks in step, tensors in and tensors out, no Gymnasium."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hadrl_lightning.envs.bounds import Bounds, caching_bounds, join, offloading_bounds
from hadrl_lightning.play import (
    CachingPolicy,
    Frame,
    OffloadingPolicy,
    PlayedSlot,
    Reward,
    SlotScores,
    by_policy,
    caching_objective,
    caching_reward,
    decided,
    frame_scores,
    hits,
    home_equal,
    offloading_objective,
    play_frame,
    read_allocation,
    read_caches,
    slot_scores,
    task_cost,
    tasks,
)
from hadrl_lightning.scenario import Physics, Scenario
from hadrl_lightning.simulator import Allocation, EdgeNetwork, Service, fill_caches


class Outcome(NamedTuple):
    """What a step brings to B networks."""

    observation: Float[Tensor, "batch observation"]
    reward: Float[Tensor, " batch"]
    info: dict[str, Float[Tensor, " batch"]]
    """The fields of `SlotScores`, in every step."""


ScenarioLike = Scenario | Mapping[str, Any] | str | Path | None
"""A scenario, its fields as plain values, the name of a config that holds them, or (None) ES2."""


def build_network(
    scenario: ScenarioLike,
    physics: Physics,
    num_envs: int = 1,
    device: str | torch.device | None = None,
) -> EdgeNetwork:
    """The networks of a scenario.

    Raises:
        ValueError: there is no such config, or a setting is out of range.
    """
    return EdgeNetwork(read_scenario(scenario), physics, num_envs, device)


def read_scenario(scenario: ScenarioLike) -> Scenario:
    """The scenario that is meant.

    Raises:
        ValueError: there is no such config, or a setting is out of range.
    """
    if isinstance(scenario, Scenario):
        return scenario
    if scenario is None:
        return Scenario()
    if isinstance(scenario, Mapping):
        return Scenario.from_dict(dict(scenario))
    if isinstance(scenario, str | Path):
        return Scenario.from_config(str(scenario))
    raise ValueError(
        f"scenario must be a Scenario, a mapping of its fields or the name of a config, got {scenario!r}"
    )


class Core(ABC):
    """B networks that an agent plays through one of the three views, all of them in the same slot.

    Args:
        network: the networks.
        reward: see `Reward`.

    Raises:
        ValueError: `reward` is neither.
    """

    def __init__(self, network: EdgeNetwork, reward: Reward = "published") -> None:
        if reward not in get_args(Reward):
            raise ValueError(f"reward must be published or latency, got {reward!r}")
        network.scenario.require_users()
        network.declared.require_fixed_sizes("environments, whose spaces are fixed")
        self.network, self.scenario, self.physics = network, network.scenario, network.physics
        self.pays = reward
        self.after_slot: Callable[[PlayedSlot[Any, Any]], None] | None = None
        """Told of every slot that was served, before the next caching decision."""
        self._has_begun = False

    @property
    @abstractmethod
    def bounds(self) -> Bounds:
        """Least and largest value of every entry of an observation."""

    @property
    @abstractmethod
    def action_size(self) -> int:
        """Numbers of an action."""

    @abstractmethod
    def observe(self) -> Float[Tensor, "batch observation"]:
        """What the agent sees now, [B, O]."""

    @abstractmethod
    def _advance(self, action: Tensor) -> Outcome:
        """Apply an action of the right shape."""

    def begin(self) -> None:
        """Play from where the networks stand: at the start of an episode."""
        self._has_begun = True

    def step(self, action: Float[Tensor, "..."]) -> Outcome:
        """Apply an action, [B, A].

        Raises:
            ValueError: another shape, or values that are not finite.
            RuntimeError: there was no reset.
        """
        if not self._has_begun:
            raise RuntimeError("step must follow reset: no episode has begun")
        expected = [self.network.num_envs, self.action_size]
        if list(action.shape) != expected:
            raise ValueError(f"action must have shape {expected}, got {list(action.shape)}")
        return self._advance(action)

    def reset(self, seed: int | None = None) -> Float[Tensor, "batch observation"]:
        """Start an episode, with new draws from `seed` if there is one."""
        if seed is not None:
            self.network.set_seed(seed)
        self.network.reset()
        self.begin()
        return self.observe()

    def _serve(self, frame: Frame[Any, Any], allocation: Allocation) -> Service:
        """Serve a slot of a frame."""
        played = frame.serve(decided(allocation))
        if self.after_slot is not None:
            self.after_slot(played)
        return played.service

    def nothing_happened(self) -> dict[str, Float[Tensor, " batch"]]:
        """The info of a reset, in which no slot is served: 0 under every name that a step has."""
        zero = torch.zeros(self.network.num_envs, device=self.network.device)
        return {name: zero.clone() for name in SlotScores._fields}

    @property
    def over(self) -> bool:
        """The episode of all networks is over."""
        return self.network.episode_over


def most_requested(network: EdgeNetwork) -> Bool[Tensor, "batch server service"]:
    """Caches filled with the services asked for most often so far in the episode, while they fit, [B, S, K].

    It knows nothing of the popularity but what the network has seen; ties (and the first decision) go to the smaller
    index. With caches that hold everything it caches everything.
    """
    counts = network.state.request_counts
    return fill_caches(network.scenario, counts[:, None, :].expand(network.cache.shape), table=network.exact)


def _require_policy(name: str, policy: object) -> None:
    if not callable(policy):
        raise ValueError(f"{name} must be a function of the network, got {policy!r}")


class CachingCore(Core):
    """A step is a frame: the agent fills the caches, `offloading_policy` serves the slots."""

    def __init__(
        self,
        network: EdgeNetwork,
        reward: Reward = "published",
        offloading_policy: OffloadingPolicy = home_equal,
    ) -> None:
        super().__init__(network, reward)
        _require_policy("offloading_policy", offloading_policy)
        self.offloading_policy = offloading_policy

    @property
    def bounds(self) -> Bounds:
        """Bounds of the caching observation."""
        return caching_bounds(self.scenario, self.physics)

    @property
    def action_size(self) -> int:
        """S K."""
        return self.scenario.caching_action_size

    def observe(self) -> Float[Tensor, "batch observation"]:
        """The caching observation."""
        return self.network.caching_observation()

    def _advance(self, action: Tensor) -> Outcome:
        """Begin a frame with the caches that the action asks for, and serve all its slots."""
        cache = read_caches(self.network, action)
        fast = by_policy(self.offloading_policy)
        frame = play_frame(self.network, decided(cache), fast, self.after_slot)
        slots = [slot_scores(slot.service, frame.switching) for slot in frame.slots]
        means = SlotScores(*(torch.stack(column).mean(0) for column in zip(*slots, strict=True)))
        means = means._replace(switching=frame.switching)
        return Outcome(
            self.observe(),
            caching_objective(self.pays, frame_scores(frame, self.scenario.preferences)),
            means._asdict(),
        )


class OffloadingCore(Core):
    """A step is a slot: `caching_policy` fills the caches at the start of a frame, the agent serves the slots."""

    def __init__(
        self,
        network: EdgeNetwork,
        reward: Reward = "published",
        caching_policy: CachingPolicy = most_requested,
    ) -> None:
        super().__init__(network, reward)
        _require_policy("caching_policy", caching_policy)
        self.caching_policy = caching_policy
        self._frame: Frame[Any, Any] | None = None
        self._switching = torch.zeros(network.num_envs)

    @property
    def bounds(self) -> Bounds:
        """Bounds of the offloading observation."""
        return offloading_bounds(self.scenario, self.physics)

    @property
    def action_size(self) -> int:
        """3 U."""
        return self.scenario.offloading_action_size

    def observe(self) -> Float[Tensor, "batch observation"]:
        """The offloading observation."""
        return self.network.offloading_observation()

    def reset(self, seed: int | None = None) -> Float[Tensor, "batch observation"]:
        """Start an episode; the first caches are filled before the agent sees anything."""
        super().reset(seed)
        self._begin_frame()
        return self.observe()

    def _advance(self, action: Tensor) -> Outcome:
        """Serve a slot; if it ends a frame, the caches of the next are filled before the agent sees it."""
        assert self._frame is not None
        allocation = read_allocation(self.network, action)
        service = self._serve(self._frame, allocation)
        scores = slot_scores(service, self._switching)
        self._switching = torch.zeros_like(self._switching)
        if self.network.frame_over and not self.over:
            self._begin_frame()
        reward = offloading_objective(
            self.pays, task_cost(self.scenario.preferences, service), service.latency
        )
        return Outcome(self.observe(), reward, scores._asdict())

    def _begin_frame(self) -> None:
        self._frame = Frame(self.network, by_policy(self.caching_policy))
        self._switching = self._frame.switching


class JointCore(Core):
    """A step is a slot and the agent decides both: [caches (S K), offloading (3 U)].

    The first part counts in the first slot of a frame only, where the last entry of the observation is 0; in the
    others it must be finite and is passed over. The observation is that of the slow level, that of the fast level,
    and the slots of the frame that are served, as a share of the frame.
    """

    def __init__(self, network: EdgeNetwork, reward: Reward = "published") -> None:
        super().__init__(network, reward)
        self._frame: Frame[Any, Any] | None = None

    @property
    def bounds(self) -> Bounds:
        """Bounds of both observations and of the share of the frame."""
        parts = (caching_bounds(self.scenario, self.physics), offloading_bounds(self.scenario, self.physics))
        return join(*parts, Bounds((0.0,), (1.0,)))

    @property
    def action_size(self) -> int:
        """S K + 3 U."""
        return self.scenario.caching_action_size + self.scenario.offloading_action_size

    def observe(self) -> Float[Tensor, "batch observation"]:
        """Both observations and the share of the frame that is served."""
        slow, fast = self.network.caching_observation(), self.network.offloading_observation()
        clock = self.network.slot % self.scenario.slots_per_decision / self.scenario.slots_per_decision
        return torch.cat([slow, fast, torch.full_like(slow[:, :1], clock)], dim=1)

    def _advance(self, action: Tensor) -> Outcome:
        """Begin a frame if one is due, and serve a slot."""
        network = self.network
        slow, fast = action.tensor_split([self.scenario.caching_action_size], dim=1)
        cache = read_caches(network, slow)
        allocation = read_allocation(network, fast)
        due = network.frame_over
        if due:
            self._frame = Frame(network, decided(cache))
        assert self._frame is not None
        switching = self._frame.switching
        service = self._serve(self._frame, allocation)
        scores = slot_scores(service, switching if due else torch.zeros_like(switching))
        reward = offloading_objective(
            self.pays, task_cost(self.scenario.preferences, service), service.latency
        )
        if self.pays == "latency":  # every slot of the frame bears its part of what fetching cost
            weight = self.scenario.preferences.switching_s / self.scenario.slots_per_decision
            number = tasks(service.latency, reward.dtype)
            reward = reward - weight * switching / number.where(number > 0, max(1, self.scenario.num_users))
        if self.pays == "published" and network.frame_over:
            in_frame = hits(self._frame.finish().hit, reward.dtype)
            reward = reward + caching_reward(in_frame.mean(dim=0), switching)
        return Outcome(self.observe(), reward, scores._asdict())

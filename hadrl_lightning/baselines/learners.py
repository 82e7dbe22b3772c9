"""Learners to compare with: DDPG at both levels, and DDPG on the joint decision."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from hadrl_lightning.agents import DDPG, CachingAgent
from hadrl_lightning.agents.ddpg import DDPGSettings
from hadrl_lightning.data import CachingTransitions, OffloadingTransitions, ReplayBuffer, Transitions
from hadrl_lightning.envs.core import JointCore
from hadrl_lightning.nn.normaliser import RunningNormaliser
from hadrl_lightning.nn.perceptrons import HIDDEN_SIZES
from hadrl_lightning.play import (
    Frame,
    Policies,
    Reward,
    caching_agent,
    caching_objective,
    frame_scores,
    offloading_agent,
    offloading_objective,
    read_allocation,
    read_caches,
    task_cost,
)
from hadrl_lightning.simulator import (
    Allocation,
    CachingView,
    EdgeNetwork,
    Seen,
    Use,
    make_generator,
    offloading_view_of,
    to_vector,
    vector_size,
)
from hadrl_lightning.typed import typed


@typed
@dataclass(frozen=True, kw_only=True)
class LearnerSettings:
    """Settings of the DDPG learners. Observations and rewards are normalised by their running mean and deviation.

    The defaults are those that did best in ES2 with 40 GiB caches and 3000 slots; the published learning rates (1e-3
    and 2e-3), discount (0.95) and noise (1.0) drive the actors into the corners of the action space there. The
    benchmark uses what a search found (`LEARNERS` in benchmark/policies.py).

    Raises:
        ValueError: a field is out of its range.
    """

    num_envs: int = 8
    """Networks that collect in parallel (at least 1)."""
    reward: Reward = "latency"
    """`latency` (minus the mean latency of a task) or `published`."""
    actor_learning_rate: float = 3e-5
    """Adam's learning rate of the actors (above 0)."""
    critic_learning_rate: float = 1e-3
    """Adam's learning rate of the critics (above 0)."""
    discount: float = 0.0
    """Weight of the next step's value; 0 or more and below 1."""
    target_rate: float = 0.005
    """Share by which target models follow each update; above 0, at most 1."""
    hidden_sizes: tuple[int, ...] = HIDDEN_SIZES
    """Widths of the hidden layers of actors and critics; each at least 1."""
    batch_size: int = 64
    """Transitions of a gradient update (at least 1)."""
    memory: int = 500_000
    """Transitions remembered (at least 1)."""
    updates_per_transition: float = 1.0
    """Gradient updates for each transition collected (0 or more)."""
    random_share: float = 0.1
    """Share of the training in which actions are drawn uniformly, in [0, 1]."""
    noise_start: float = 0.5
    """Standard deviation of the noise on actions at the start (0 or more)."""
    noise_end: float = 0.1
    """The same at the end; in between it falls linearly (0 or more)."""

    def __post_init__(self) -> None:
        for name in ("num_envs", "batch_size", "memory"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("updates_per_transition", "noise_start", "noise_end"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        if not 0 <= self.random_share <= 1:
            raise ValueError(f"random_share must be from 0 to 1, got {self.random_share}")
        self.ddpg()

    def ddpg(self) -> DDPGSettings:
        """The part that DDPG reads."""
        return DDPGSettings(
            actor_learning_rate=self.actor_learning_rate,
            critic_learning_rate=self.critic_learning_rate,
            discount=self.discount,
            target_rate=self.target_rate,
            hidden_sizes=tuple(self.hidden_sizes),
        )

    def noise(self, progress: float) -> float:
        """Standard deviation of the noise when a share `progress` of the training is over."""
        return self.noise_start + (self.noise_end - self.noise_start) * min(max(progress, 0.0), 1.0)


class DDPGLevel(nn.Module):
    """One DDPG with its replay, normalisers and optimisers.

    Args:
        agent: decides and learns.
        like: transitions of the kind that it learns from; none are enough.
        settings: of the learner.
        generator: of exploration and of the batches, on the CPU.
        normalise: whether the agent sees normalised observations and rewards (`SetDDPG` takes them as they are).
    """

    def __init__(
        self,
        agent: CachingAgent,
        like: Transitions,
        settings: LearnerSettings,
        generator: torch.Generator,
        normalise: bool = True,
    ) -> None:
        super().__init__()
        self.agent = agent
        self.settings = settings
        self.generator = generator
        self.normalise = normalise
        self.observations = RunningNormaliser(to_vector(like.view).shape[-1])
        self.action_size = like.action.shape[-1]
        self.rewards = RunningNormaliser(1)
        self.buffer = ReplayBuffer(settings.memory, like)
        self.optimizers = agent.configure_optimizers()
        self._owed = 0.0

    def act(self, seen: Seen, generator: torch.Generator | None = None) -> Float[Tensor, "batch action"]:
        """The decision without exploration; a `SetDDPG` searches by the generator, as HADRL has it."""
        return self.agent.act(self._normal(seen), generator)

    def explore(self, seen: Seen, progress: float) -> Float[Tensor, "batch action"]:
        """The decision with exploration when a share `progress` of the training is over."""
        if progress < self.settings.random_share and self.normalise:
            shape = (len(seen), self.action_size)
            return 2 * torch.rand(shape, generator=self.generator) - 1
        return self.agent.explore(self._normal(seen), self.settings.noise(progress), self.generator)

    def add(self, transitions: Transitions) -> None:
        """Remember transitions, and take note of the updates that are due for them."""
        self.buffer.add(transitions)
        self.observations.update(to_vector(transitions.view))
        self.rewards.update(transitions.reward.unsqueeze(1))
        self._owed += self.settings.updates_per_transition * len(transitions)

    def learn(self) -> None:
        """Make the updates that are due."""
        while self._owed >= 1:
            self._owed -= 1
            batch: Any = self.buffer.sample(self.settings.batch_size, self.generator)
            if self.normalise:
                batch = replace(
                    batch,
                    view=self._normal(batch.view),
                    next_view=self._normal(batch.next_view),
                    reward=self.rewards.normalise(batch.reward.unsqueeze(1)).squeeze(1),
                )
            self.agent.update(batch, self.optimizers, torch.Tensor.backward)

    def _normal(self, seen: Seen) -> Any:
        """A vector, clipped at 10: a dimension that has hardly varied may jump."""
        return self.observations.normalise(to_vector(seen)).clamp(-10, 10) if self.normalise else seen


class TwinDDPG(nn.Module):
    """DDPG at both levels: one decides the caches of a frame, the other the offloading of a slot, without planning.

    Args:
        network: networks to collect on.
        settings: of both levels.
        seed: of weights, exploration and batches.
        slow_agent: the caching agent; plain DDPG by default. `SetDDPG` makes this HADRL without planning.
    """

    def __init__(
        self,
        network: EdgeNetwork,
        settings: LearnerSettings,
        seed: int = 0,
        slow_agent: CachingAgent | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.settings = settings
        self.seed = seed
        network.declared.require_fixed_sizes("learners over vectors")
        scenario, initial = network.scenario, make_generator(seed, Use.RIVAL_WEIGHTS)
        slow_sizes = (vector_size(CachingView, scenario), scenario.caching_action_size)
        slow = slow_agent or DDPG(*slow_sizes, settings.ddpg(), generator=initial)
        draws = [make_generator(seed, Use.RIVAL_DRAWS, level) for level in (0, 1)]
        like = CachingTransitions.none(scenario)
        self.slow = DDPGLevel(slow, like, settings, draws[0], slow_agent is None)
        seen = vector_size(offloading_view_of(scenario), scenario)
        fast_sizes = (seen, scenario.offloading_action_size)
        fast = DDPG(*fast_sizes, settings.ddpg(), generator=initial)
        self.fast = DDPGLevel(fast, OffloadingTransitions.none(scenario), settings, draws[1])

    def advance(self, progress: float) -> int:
        """Play a frame in all networks and learn from it; returns the slots played, over all networks."""
        network, wanted = self.network, self.network.scenario.preferences
        if network.episode_over:
            network.reset()
        playing = Frame(network, caching_agent(lambda view: self.slow.explore(view, progress)))
        for slot in playing.slots(offloading_agent(lambda view: self.fast.explore(view, progress))):
            service = slot.service
            cost = task_cost(wanted, service)
            reward = offloading_objective(self.settings.reward, cost, service.latency)
            self.fast.add(OffloadingTransitions.of(slot, reward, wanted))
            self.fast.learn()
        frame = playing.finish()
        reward = caching_objective(self.settings.reward, frame_scores(frame, wanted))
        self.slow.add(CachingTransitions(frame.seen, frame.act, reward, frame.seen_next, frame.cache))
        self.slow.learn()
        return network.num_envs * network.scenario.slots_per_decision

    def policies(self) -> Policies:
        """Both levels without exploration."""

        def caching(network: EdgeNetwork) -> Bool[Tensor, "batch server service"]:
            generator = make_generator(self.seed, Use.PLAY, network.decision)
            action = self.slow.act(network.caching_view(), generator)
            return read_caches(network, action)

        def offloading(network: EdgeNetwork) -> Allocation:
            action = self.fast.act(network.offloading_view())
            return read_allocation(network, action)

        return caching, offloading


class FlatDDPG(nn.Module):
    """DDPG on the joint decision of `hadrl/EdgeNetwork-v0`: caches and offloading in one action, every slot.

    Args:
        network: networks to collect on.
        settings: of the learner.
        seed: of weights, exploration and batches.
    """

    def __init__(self, network: EdgeNetwork, settings: LearnerSettings, seed: int = 0) -> None:
        super().__init__()
        self.core = JointCore(network, settings.reward)
        self.core.begin()
        seen, action = self.core.observe()[:0], torch.zeros(0, self.core.action_size)
        sizes = (seen.shape[1], action.shape[1])
        agent = DDPG(*sizes, settings.ddpg(), generator=make_generator(seed, Use.RIVAL_WEIGHTS))
        like = Transitions(seen, action, torch.zeros(0), seen)
        self.level = DDPGLevel(agent, like, settings, make_generator(seed, Use.RIVAL_DRAWS))

    def advance(self, progress: float) -> int:
        """Play a slot in all networks and learn from it; returns the slots played, over all networks."""
        if self.core.over:
            self.core.reset()
        observation = self.core.observe()
        action = self.level.explore(observation, progress)
        outcome = self.core.step(action)
        self.level.add(Transitions(observation, action, outcome.reward, outcome.observation))
        self.level.learn()
        return self.core.network.num_envs

    def policies(self) -> Policies:
        """The joint decision without exploration, level by level."""
        return joint_policies(self.level.act)


def joint_policies(
    act: Callable[[Float[Tensor, "batch observation"]], Float[Tensor, "batch action"]],
) -> Policies:
    """Policies for each level out of one on the observation and action of `hadrl/EdgeNetwork-v0`.

    The first decision of a frame is one for both levels, as in the environment.
    """
    decided: list[Tensor] = []

    def caching(network: EdgeNetwork) -> Bool[Tensor, "batch server service"]:
        decided[:] = [act(JointCore(network).observe())]
        slow = decided[0][:, : network.scenario.caching_action_size]
        return read_caches(network, slow)

    def offloading(network: EdgeNetwork) -> Allocation:
        action = decided.pop() if decided else act(JointCore(network).observe())
        fast = action[:, network.scenario.caching_action_size :]
        return read_allocation(network, fast)

    return caching, offloading

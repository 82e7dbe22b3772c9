"""`Collection`: the frames of one epoch, played on the simulated networks and stored in the replay buffers."""

from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor

from hadrl_lightning.agents import HADRL
from hadrl_lightning.callbacks.finite import FiniteNumbers
from hadrl_lightning.data import CachingTransitions, OffloadingTransitions, TransitionDataModule
from hadrl_lightning.planning import CEMPlanner, Plan, plan_from_state, plan_state
from hadrl_lightning.play import (
    CachingObjective,
    Frame,
    PlayedFrame,
    PlayedSlot,
    caching_agent,
    caching_objective,
    frame_scores,
    offloading_agent,
    offloading_reward,
    task_cost,
    total_latency,
)
from hadrl_lightning.simulator import CachingView, EdgeNetwork, OffloadingView, Rows

Transitions = TypeVar("Transitions", CachingTransitions, OffloadingTransitions)


class NoiseSchedule:
    """A standard deviation that fades: after n decisions it is max(minimum, initial · decayⁿ).

    Raises:
        ValueError: a number is out of its range.
    """

    def __init__(self, name: str, initial: float, decay: float, minimum: float) -> None:
        for field, value in ((name, initial), (f"{name}_min", minimum)):
            if not 0 <= value < float("inf"):
                raise ValueError(f"{field} must be at least 0 and finite, got {value}")
        if not 0 < decay <= 1:
            raise ValueError(f"{name}_decay must be greater than 0 and at most 1, got {decay}")
        self.initial = initial
        self.decay = decay
        self.minimum = minimum
        self.num_fades = 0
        """Decisions since the start."""

    @property
    def level(self) -> float:
        """The standard deviation now."""
        return max(self.minimum, self.initial * self.decay**self.num_fades)

    def fade(self) -> None:
        """One decision later."""
        self.num_fades += 1


@dataclass(frozen=True)
class Exploration:
    """How decisions are explored, and what of it is learnt from."""

    caching_noise: NoiseSchedule
    """On the actions of the slow level."""
    offloading_noise: NoiseSchedule
    """On the actions of the fast level."""
    caching_warmup_epochs: int
    """Epochs at first whose frames are not learnt from."""
    caching_reward: CachingObjective
    """What a frame is rewarded with."""
    latency_weight: float
    """Hits that a second of latency is worth, for `hits_and_latency`."""


class Collection:
    """One epoch's collecting on the networks of a data module, and the means of what was met that is finite."""

    def __init__(
        self,
        module: HADRL,
        data: TransitionDataModule,
        planner: CEMPlanner,
        exploration: Exploration,
        generator: torch.Generator,
        finite: FiniteNumbers,
        epoch: int,
        seeding: bool,
    ) -> None:
        assert data.network is not None
        self.module = module
        self.data = data
        self.planner = planner
        """For the sizes that were met last."""
        self.exploration = exploration
        self.network: EdgeNetwork = data.network
        self.generator = generator
        self.finite = finite
        self.epoch = epoch
        self.seeding = seeding
        self.frames = 0
        """Caching decisions so far, of each network."""
        self.slots = 0
        self._slow = caching_agent(
            self._caching_action, lambda _, view, action: module.decide_caching(view, action).cache
        )
        self._fast = offloading_agent(
            self._offloading_action,
            lambda network, _, action: module.decide_offloading(network.scenario, action),
        )
        self._plan: Plan | None = None
        self._sums: dict[str, tuple[Tensor, Tensor]] = {}

    def frame(self) -> None:
        """One caching decision and its slots, in all networks."""
        if self.network.episode_over:
            self.network.reset()
            self._plan = None
        playing = Frame(self.network, self._slow)
        for slot in playing.slots(self._fast):
            self._keep_slot(slot)
        self._keep_frame(playing.finish())

    def means(self) -> dict[str, Tensor]:
        """Mean of everything met that is finite, by name."""
        return {name: total / count for name, (total, count) in self._sums.items()}

    def state_dict(self) -> dict[str, Any]:
        """Where the collecting stands between two frames, as tensors and plain values."""
        return {
            "frames": self.frames,
            "slots": self.slots,
            "seeding": self.seeding,
            "plan": plan_state(self._plan) if self._plan is not None else None,
            "sums": {name: list(sums) for name, sums in self._sums.items()},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        state = move_data_to_device(state_dict, self.network.device)
        self.frames, self.slots, self.seeding = state["frames"], state["slots"], state["seeding"]
        self._plan = plan_from_state(state["plan"]) if state["plan"] is not None else None
        self._sums = {name: (total, count) for name, (total, count) in state["sums"].items()}

    def _keep_slot(self, slot: PlayedSlot[OffloadingView, Tensor]) -> None:
        """What is learnt from a slot, and counted."""
        service = slot.service
        self.exploration.offloading_noise.fade()
        reward = offloading_reward(task_cost(self.data.scenario.preferences, service))
        transitions = OffloadingTransitions.of(slot, reward, self.data.scenario.preferences)
        transitions = self._storable(transitions, "offloading")
        self.data.offloading_buffer.add(transitions)
        self.module.observe(transitions)
        self.data.slots += self.network.num_envs
        self.slots += self.network.num_envs
        self._add(
            latency=total_latency(service.latency),
            hit_ratio=service.hit[service.asked],
            on_time=service.on_time[service.asked],
            offloading_reward=reward,
        )

    def _keep_frame(self, frame: PlayedFrame[CachingView, Tensor]) -> None:
        """What is learnt from a frame, and counted."""
        self.data.decisions += self.network.num_envs
        exploration = self.exploration
        scores = frame_scores(frame, self.data.scenario.preferences)
        reward = caching_objective(exploration.caching_reward, scores, exploration.latency_weight)
        self._add(caching_reward=reward, switching=frame.switching)
        expected = self.module.caching_agent.expected_latency(frame.seen_next, frame.cache)
        if expected is not None:
            # The rest is not expected of a frame.
            told = replace(self.data.scenario.preferences, missed=0, dropped=0, handovers=0)
            self._add(frame_error=(expected / frame_scores(frame, told).task_cost - 1).abs())
        self.frames += 1
        if self.epoch < exploration.caching_warmup_epochs:
            return
        exploration.caching_noise.fade()
        transitions = CachingTransitions(frame.seen, frame.act, reward, frame.seen_next, frame.cache)
        self.data.caching_buffer.add(self._storable(transitions, "caching"))

    def _caching_action(self, view: CachingView) -> Tensor:
        self.finite.broken(_named("caching observation", view), self._when())
        noise = self.exploration.caching_noise.level
        action = self.module.caching_agent.explore(view, noise, self.generator).float()
        broken = self.finite.broken({"caching decision": action}, self._when(), "plan")
        if broken is not None:
            action = torch.where(broken[:, None], 0.0, action)  # the middle of the action space
        return action

    def _offloading_action(self, view: OffloadingView) -> Tensor:
        self.finite.broken(_named("offloading observation", view), self._when())
        noise = self.exploration.offloading_noise.level
        shape = (self.network.num_envs, self.network.scenario.offloading_action_size)
        drawn = torch.randn(shape, generator=self.generator).to(self.network.device)
        if self.seeding and not self._plans_at_first():  # an untrained actor decides about 0
            return (noise * drawn).clamp(-1, 1)
        self.planner = self.module.sized_planner(view, self.planner)
        plan = self.module.plan(view, self.planner, self.generator, self._plan)
        energy = plan.free_energy
        fields = {"offloading plan": plan.action.float(), "free energy of all candidates": energy.total}
        broken = self.finite.broken(fields, self._when(), "plan")
        action = plan.action.float()
        if broken is None:
            self._plan = plan
        else:  # the middle of the action space, and a fresh start for the next plan
            self._plan = None
            action = torch.where(broken[:, None], 0.0, action)
        self._add(
            free_energy=energy.total,
            pragmatic=energy.pragmatic,
            epistemic=energy.epistemic,
            elite_spread=plan.elite_spread,
            nonfinite_candidates=plan.num_nonfinite.float(),
        )
        return (action + noise * drawn).clamp(-1, 1)

    def _plans_at_first(self) -> bool:
        """Whether the world model begins with what another has learnt, and with all that the form of plans takes."""
        model = self.module.world_model
        lacks = self.planner.settings.form == "gould" and not model.best_reward.isfinite()
        return bool(model.begins_trained) and not lacks

    def _storable(self, transitions: Transitions, level: str) -> Transitions:
        """Those of the networks of which every number is finite."""
        broken = self.finite.broken(_named(level, transitions), self._when(), "transition")
        return transitions if broken is None else transitions[~broken]

    def _when(self) -> str:
        return f"in slot {self.slots // self.network.num_envs} of epoch {self.epoch}"

    def _add(self, **values: Tensor) -> None:
        for name, value in values.items():
            value, finite = value.float(), value.isfinite()
            zero = torch.zeros((), device=value.device)
            total, count = self._sums.get(name, (zero, zero))
            self._sums[name] = (total + torch.where(finite, value, 0.0).sum(), count + finite.sum())


def _named(what: str, rows: Rows) -> dict[str, Tensor]:
    """The real numbers of rows, by names for errors."""
    return {f"{what} {name}": value for name, value in rows.tensors() if value.is_floating_point()}

"""`Collection`: the frames of one epoch, played on the simulated networks and stored in the replay buffers."""

from typing import TYPE_CHECKING, Any, TypeVar

import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor

from hadrl_lightning.agents import HADRL, CachingDecision, caching_objective
from hadrl_lightning.callbacks.finite import FiniteNumbers
from hadrl_lightning.data import CachingTransitions, OffloadingTransitions, TransitionDataModule
from hadrl_lightning.planning import CEMPlanner, Plan, plan_from_state, plan_state
from hadrl_lightning.simulator import (
    CachingView,
    EdgeNetwork,
    OffloadingView,
    Rows,
    Service,
    decode_offloading,
    offloading_reward,
)

if TYPE_CHECKING:
    from hadrl_lightning.callbacks.planning import CEMPlanning

Transitions = TypeVar("Transitions", CachingTransitions, OffloadingTransitions)


class Collection:
    """One epoch's collecting on the networks of a data module, and the means of what was met that is finite."""

    def __init__(
        self,
        callback: "CEMPlanning",
        module: HADRL,
        data: TransitionDataModule,
        generator: torch.Generator,
        finite: FiniteNumbers,
        epoch: int,
        seeding: bool,
        warming_up: bool,
    ) -> None:
        assert data.network is not None
        self.callback = callback
        self.module = module
        self.data = data
        self.network: EdgeNetwork = data.network
        self.generator = generator
        self.finite = finite
        self.epoch = epoch
        self.seeding = seeding
        self.warming_up = warming_up
        self.planner: CEMPlanner = module.make_planner(callback.planner_settings)
        self.frames = 0
        """Caching decisions so far, of each network."""
        self.slots = 0
        self._plan: Plan | None = None
        self._sums: dict[str, tuple[Tensor, Tensor]] = {}

    def frame(self) -> None:
        """One caching decision and its slots, in all networks."""
        network, noise = self.network, self.callback.caching_noise
        if network.episode_over:
            network.reset()
            self._plan = None
        view = network.caching_view()
        decision = self._caching_decision(view, noise.level)
        switching = network.begin_frame(decision.cache)
        services = []
        while not network.frame_over:
            services.append(self._slot())
        self.data.decisions += network.num_envs
        reward = caching_objective(
            self.callback.caching_reward,
            torch.stack([service.hit.to(switching.dtype) for service in services]).mean(dim=(0, 2)),
            torch.stack([service.latency for service in services]).mean(dim=(0, 2)),
            switching,
            network.scenario.num_users,
            self.callback.latency_weight,
        )
        self._add(caching_reward=reward, switching=switching)
        self.frames += 1
        if self.warming_up:
            return
        noise.fade()
        transitions = CachingTransitions(
            view, decision.action, reward, network.caching_view(), decision.cache
        )
        self.data.caching_buffer.add(self._storable(transitions, "caching"))

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

    def _caching_decision(self, view: CachingView, noise: float) -> CachingDecision:
        self.finite.broken(_named("caching observation", view), self._when())
        action = self.module.caching_agent.explore(view, noise, self.generator).float()
        broken = self.finite.broken({"caching decision": action}, self._when(), "plan")
        if broken is not None:
            action = torch.where(broken[:, None], 0.0, action)  # the middle of the action space
        return self.module.decide_caching(view, action)

    def _slot(self) -> Service:
        network, noise = self.network, self.callback.offloading_noise
        view = network.offloading_view()
        self.finite.broken(_named("offloading observation", view), self._when())
        action = self._offloading_action(view, noise.level)
        service = network.step(decode_offloading(network.scenario, action, network.physics))
        noise.fade()
        reward = offloading_reward(service.latency)
        transitions = OffloadingTransitions(view, action, reward, network.offloading_view(), service.latency)
        transitions = self._storable(transitions, "offloading")
        self.data.offloading_buffer.add(transitions)
        self.module.observe(transitions)
        self.data.slots += network.num_envs
        self.slots += network.num_envs
        self._add(
            latency=service.latency.sum(dim=1),
            hit_ratio=service.hit.float(),
            on_time=service.on_time.float(),
            offloading_reward=reward,
        )
        return service

    def _offloading_action(self, view: OffloadingView, noise: float) -> Tensor:
        shape = (self.network.num_envs, self.network.scenario.offloading_action_size)
        drawn = torch.randn(shape, generator=self.generator).to(self.network.device)
        if self.seeding:  # an untrained actor decides about 0
            return (noise * drawn).clamp(-1, 1)
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

"""Acting: what a trained agent of two levels decides, from views alone or as policies on networks."""

import warnings
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from hadrl_lightning.agents.belief import Believed
from hadrl_lightning.agents.levels import CachingAgent, SlotModel
from hadrl_lightning.agents.seen import (
    Ranges,
    SeenRanges,
    ranges_of_caching_view,
    ranges_of_scenario,
    ranges_of_view,
)
from hadrl_lightning.agents.views import (
    check_caching_view,
    check_network,
    check_offloading_view,
    check_plan,
    check_sizes,
    check_weights,
    of_kind,
)
from hadrl_lightning.errors import HadrlError, HadrlWarning
from hadrl_lightning.planning import CEMPlanner, Plan, PlanFunction, PlannerSettings, plan_alone
from hadrl_lightning.play import Episode, Policies, run_episode
from hadrl_lightning.scenario import Physics, Scenario
from hadrl_lightning.simulator import (
    Allocation,
    CachingView,
    EdgeNetwork,
    OffloadingView,
    Use,
    decode_caching_seen,
    decode_offloading,
    equal_shares,
    make_generator,
    num_targets,
    offloading_view_of,
    rules,
    weighted_shares,
)
from hadrl_lightning.simulator.fields import SERVER, SERVICE, USER


class CachingDecision(NamedTuple):
    """What the caching agent does."""

    action: Float[Tensor, "batch action"]
    """Raw action in [-1, 1], [B, S K], server-major."""
    cache: Bool[Tensor, "batch server service"]
    """The cache that it stands for, bool [B, S, K]."""


class Acting(nn.Module):
    """Two levels that decide: a caching agent by itself, a slot model through a planner.

    It has no parameters of its own and knows nothing of learning. Whoever combines it with something that is built
    calls `compose`.
    """

    scenario: Scenario
    physics: Physics
    seed: int
    """Of plans and searches, where none is given."""
    world_model: SlotModel
    caching_agent: CachingAgent
    planner: CEMPlanner
    plan_by: PlanFunction
    """How a planner plans; a strategy that spreads the world model over ranks has its own way."""
    seen: SeenRanges
    """The ranges of what training saw."""

    def compose(self, world_model: SlotModel, caching_agent: CachingAgent, planner: PlannerSettings) -> None:
        """Take the models of both levels, and make the planner.

        Raises:
            HadrlError: the world model can't serve such a planner.
        """
        self.world_model = world_model
        self.caching_agent = caching_agent
        caching_agent.look_through(world_model)
        self.planner = self.make_planner(planner)
        self.plan_by = plan_alone
        self.seen = SeenRanges()
        self._told = False

    @property
    def num_members(self) -> int:
        """Members of the world model's ensemble, wherever they are held."""
        return self.world_model.held.total

    def make_planner(self, settings: PlannerSettings | None = None, name: str = "planner") -> CEMPlanner:
        """A planner for this scenario and this world model; the agent's own where no settings are given.

        Args:
            settings: of the planner.
            name: what an error shall call them.

        Raises:
            HadrlError: the world model can't serve such a planner.
        """
        if settings is None:
            return self.planner
        try:
            settings.members_used(self.num_members)
            self.world_model.check_planner(settings.form, settings.plan_horizon)
        except ValueError as error:
            raise HadrlError(f"{name}.{error}") from error
        return self._planner_of(self.scenario, settings)

    def _planner_of(self, scenario: Scenario, settings: PlannerSettings) -> CEMPlanner:
        users = max(1, scenario.num_users)  # for nobody nothing is planned
        return CEMPlanner(
            3 * users, settings, num_users=users, num_targets=num_targets(scenario, self.physics)
        )

    def plan(
        self,
        view: OffloadingView | Believed,
        planner: CEMPlanner,
        generator: torch.Generator,
        warm_start: Plan | None = None,
        alike: bool = False,
    ) -> Plan:
        """Plan the coming slot of every network with the present world model.

        Args:
            view: as `EdgeNetwork.offloading_view` gives it.
            planner: one of `make_planner`.
            generator: the only source of randomness.
            warm_start: the plan of the slot before.
            alike: whether all networks draw the same numbers.

        Raises:
            HadrlError: a view of another number of users than the planner's.
        """
        users = (view.view if isinstance(view, Believed) else view).requests.shape[-1]  # type: ignore[attr-defined]
        if 3 * users != planner.action_size:
            raise HadrlError(
                f"offloading observation must be of {planner.num_users} users, got one of {users} users"
            )
        best_reward = float(self.world_model.best_reward)
        return self.plan_by(planner, self.world_model, view, generator, warm_start, best_reward, alike=alike)

    def decide(self, view: OffloadingView, seed: int | None = None) -> Allocation:
        """Decide on a slot without exploration: a function of each network's own view and of the seed.

        Args:
            view: as `EdgeNetwork.offloading_view` or `OffloadingView.of` gives it (`offloading_view_of(scenario).of`
                where processes show more); where the world model is structured, with any number of servers, users and
                services.
            seed: of the plan's draws; None: the agent's.

        Returns:
            Targets and shares, [B, U]; empty ones for no users or no networks.

        Raises:
            NonFiniteError: a number of the view, a weight or the plan is infinite or none.
            HadrlError: another view, a service that is not there, a negative size, a seed that is none, or other
                numbers than the agent's scenario has of servers, users or services where the world model is flat.
        """
        return self._decide(view, self.seed if seed is None else seed)[0]

    def _decide(
        self, view: OffloadingView, seed: int, warm_start: Plan | None = None
    ) -> tuple[Allocation, Plan | None]:
        """As `decide`, and the plan; none where there is nobody to plan for."""
        view = self.checked(view)
        scenario = self._of_sizes(view)
        planner = self.sized_planner(view)
        if not scenario.num_users or not len(view):
            return equal_shares(scenario, view.requests, view.dtype), None
        check_weights(self.world_model, "world_model")
        self.tell_outside(ranges_of_view(view, self.physics))
        generator = make_generator(seed, Use.PLAY)
        plan = self.plan(self.believed(view), planner, generator, warm_start, alike=True)
        action = plan.action.float()
        check_plan(action, plan.free_energy.total)
        return self.decide_offloading(scenario, action), plan

    def checked(self, view: OffloadingView) -> OffloadingView:
        """The view on the agent's device and in its format.

        Raises:
            NonFiniteError: a number of it is infinite or none.
            HadrlError: another view, or what no network shows.
        """
        kind = offloading_view_of(self.scenario)
        view = of_kind(OffloadingView, kind, view, self.world_model.transfers)
        view = view.to(self.world_model.best_reward.device, torch.float32)
        check_offloading_view(view, self.physics)
        return view

    def believed(self, view: OffloadingView) -> OffloadingView | Believed:
        """What plans go by: the view, and what is believed beside it."""
        return view

    def decide_offloading(self, scenario: Scenario, action: Float[Tensor, "batch action"]) -> Allocation:
        """What an action of the planner stands for in networks of a scenario."""
        laws = rules(self.physics)
        if self.world_model.targets_in_bins:
            action = laws.in_its_bins(scenario, action)
        allocation = decode_offloading(scenario, action, self.physics)
        if not (self.world_model.shares_in_logarithms and laws.takes_any_shares):
            return allocation
        _, *shares = action.chunk(3, dim=1)
        server = allocation.server
        targets = num_targets(scenario, self.physics)
        return Allocation(server, *(weighted_shares(server, one, targets) for one in shares))

    def sized_planner(self, view: OffloadingView, planner: CEMPlanner | None = None) -> CEMPlanner:
        """A planner (None: the agent's own) for as many servers and users as are seen.

        Raises:
            HadrlError: other numbers than the agent's scenario has where the world model is flat.
        """
        planner = planner or self.planner
        scenario = self._of_sizes(view)
        sizes = (max(1, scenario.num_users), num_targets(scenario, self.physics))
        return (
            planner
            if (planner.num_users, planner.num_targets) == sizes
            else self._planner_of(scenario, planner.settings)
        )

    def _of_sizes(self, view: OffloadingView) -> Scenario:
        """The scenario with as many servers, users and services as are seen."""
        sizes = view.sizes()
        scenario = self.scenario.resized(sizes[SERVER] - view.beyond, sizes[USER], sizes[SERVICE])
        if scenario is not self.scenario and not self.world_model.transfers:
            check_sizes("offloading observation", view, self.scenario)
        return scenario

    def place(self, view: CachingView, seed: int | None = None, decision: int = 0) -> Bool[Tensor, "..."]:
        """Decide on the caches of a frame without exploration: a function of each network's own view and of the seed.

        For as many users as the view tells; where it tells of none, for those of the agent's scenario (`for_scenario`).

        Args:
            view: as `EdgeNetwork.caching_view` or `CachingView.of` gives it; where the caching agent is structured,
                with any number of servers and services, of any sizes.
            seed: of the search's draws; None: the agent's.
            decision: how many decisions the episode had before: each searches by draws of its own.

        Returns:
            What every server shall hold, bool [B, S, K].

        Raises:
            NonFiniteError: a number of the view, a weight or the decision is infinite or none.
            HadrlError: another view, what no network shows, a seed that is none, or other numbers than the agent's
                scenario has of servers or services where the caching agent is flat.
        """
        view = of_kind(CachingView, CachingView, view, self.caching_agent.transfers)
        view = view.to(self.world_model.best_reward.device, torch.float32)
        check_caching_view(view, self.scenario, self.physics)
        if not self.caching_agent.transfers:
            check_sizes("caching observation", view, self.scenario)
        self.tell_outside(ranges_of_caching_view(view, rules(self.physics).usable_bits(self.scenario, view)))
        check_weights(self.caching_agent, "caching_agent")
        if self.caching_agent.looks_through:
            check_weights(self.world_model, "world_model")
        generator = make_generator(self.seed if seed is None else seed, Use.PLAY, decision)
        return self.decide_caching(view, self.caching_action(view, generator).float()).cache

    def caching_action(self, view: CachingView, generator: torch.Generator) -> Float[Tensor, "..."]:
        """What the caching agent does on a view that was checked."""
        return self.caching_agent.act(view, generator)

    def decide_caching(self, view: CachingView, action: Float[Tensor, "batch action"]) -> CachingDecision:
        """What an action of the caching agent stands for in every network."""
        return CachingDecision(action, decode_caching_seen(self.scenario, action, view, self.physics))

    def policies(self, seed: int | None = None) -> Policies:
        """The trained agent without exploration as a policy for each level; `seed` is that of its draws.

        A decision depends on what the network shows, on the seed and, for the caches, on how many decisions the episode
        had before: asked again it is the same, and it does not depend on the networks beside it. With the planner's
        setting `warm_start` a plan starts from that of the slot before, from the second slot of an episode on, and
        depends on it too.

        Raises (when a policy is called):
            NonFiniteError: a number that is observed, a weight or the decision is infinite or none.
            HadrlError: a network of another physics, or of other sizes than the agent's scenario where a model is flat.
        """
        seed = self.seed if seed is None else seed
        if self.scenario.num_users:  # for nobody nothing is decided
            self.tell_outside(ranges_of_scenario(self.scenario, self.physics))

        def caching(network: EdgeNetwork) -> Tensor:
            check_network(self.physics, network)
            return self.place(network.caching_view(), seed, network.decision)

        before: tuple[EdgeNetwork, Plan] | None = None

        def offloading(network: EdgeNetwork) -> Allocation:
            nonlocal before
            check_network(self.physics, network)
            goes_on = before is not None and before[0] is network and network.slot > 0
            start = before[1] if before is not None and goes_on else None
            allocation, plan = self._decide(network.offloading_view(), seed, start)
            before = (network, plan) if plan is not None and self.planner.settings.warm_start else None
            return allocation

        return caching, offloading

    def play(self, network: EdgeNetwork) -> Episode:
        """Play one episode of the networks without exploration."""
        return run_episode(network, *self.policies())

    def keep_quiet(self) -> None:
        """Warn no more of where the agent was not trained."""
        self._told = True

    def tell_outside(self, ranges: Ranges) -> None:
        """Warn, once, where numbers that the agent is to act on lie outside what its training saw."""
        outside = "" if self._told else self.seen.outside(ranges)
        if outside:
            self._told = True
            warnings.warn(f"the agent acts where it was not trained: {outside}", HadrlWarning, stacklevel=3)

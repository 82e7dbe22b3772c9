"""`HADRL`: the two levels as one LightningModule."""

import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from torch.optim import Optimizer

from hadrl_lightning.agents.actor_critic import ActorCritic
from hadrl_lightning.agents.ddpg import DDPG, DDPGSettings
from hadrl_lightning.agents.refusals import check_item, check_trainer
from hadrl_lightning.agents.seen import SeenRanges, ranges_of_view
from hadrl_lightning.agents.set_ddpg import SetDDPG, SetDDPGSettings
from hadrl_lightning.agents.set_world_model import SetWorldModel, SetWorldModelSettings
from hadrl_lightning.agents.stored import StoredAgent
from hadrl_lightning.agents.views import (
    check_caching_view,
    check_network,
    check_offloading_view,
    check_plan,
    check_sizes,
    check_weights,
)
from hadrl_lightning.agents.world_model import WorldModel, WorldModelSettings
from hadrl_lightning.data import OffloadingTransitions, TrainingBatch, TransitionDataModule
from hadrl_lightning.errors import HadrlError, HadrlWarning
from hadrl_lightning.planning import CEMPlanner, Plan, PlanFunction, PlannerSettings, plan_alone
from hadrl_lightning.ranges import Ranges, ranges_of
from hadrl_lightning.scenario import Physics, Scenario
from hadrl_lightning.simulator import (
    Allocation,
    CachingPolicy,
    CachingView,
    EdgeNetwork,
    Episode,
    OffloadingPolicy,
    OffloadingView,
    Use,
    decode_caching,
    decode_offloading,
    equal_shares,
    make_generator,
    offloading_view_of,
    rules,
    run_episode,
    vector_size,
)
from hadrl_lightning.simulator.fields import SERVER, SERVICE, USER
from hadrl_lightning.typed import typed

Level = Literal["flat", "set"]
"""Kind of model: the published one over vectors, or the structured one over sets."""


class CachingDecision(NamedTuple):
    """What the caching agent does."""

    action: Float[Tensor, "batch action"]
    """Raw action in [-1, 1], [B, S K], server-major."""
    cache: Bool[Tensor, "batch server service"]
    """The cache that it stands for, bool [B, S, K]."""


@typed
class HADRL(StoredAgent):
    """Hierarchical DRL with active inference: DDPG decides the caches, a planner on a world model the offloading.

    The root module: it holds the two agents, trains both on the batches of `TransitionDataModule`, and turns them into
    policies. `CEMPlanning` collects for it, `EpisodeEvaluation` judges the episodes that it plays.
    The published algorithm is `HADRL.from_config("es2.yaml", "published.yaml")`.

    The fast level learns from every user's measured latency in every slot where its model is structured, and from the
    view that follows; agents without a world model (`baselines.learners`, Stable-Baselines3) learn from one
    reward a slot.

    Each level has two kinds of model. `flat` is the published one, over vectors. `set` has the structure of the problem
    in it: users, servers and services are sets, and the same weights act on any number of them. How well they do where
    a number lies outside what training saw is another matter: the agent keeps the ranges it has seen (`seen`), and
    tells by a `HadrlWarning`, once, where it acts outside of them.

    Args:
        scenario: constants of the network.
        physics: how actions are read: `strict` or `published`.
        fast_level: `flat` plans with `WorldModel`, `set` with `SetWorldModel`.
        slow_level: `flat` caches with `DDPG`, `set` with `SetDDPG`.
        world_model: settings of the fast level's flat model; of no effect where `fast_level` is `set`.
        set_world_model: settings of the fast level's structured model; of no effect where it is `flat`.
        ddpg: settings of the slow level's flat agent; of no effect where `slow_level` is `set`.
        set_ddpg: settings of the slow level's structured agent; of no effect where it is `flat`.
        planner: the fast level's planner.
        reset_world_model: start the world model anew before each learning step, as published; else go on training it.
        seed: of the initial weights, of their resets, and of plans outside training.
    """

    parts = {
        "scenario": Scenario,
        "world_model": WorldModelSettings,
        "set_world_model": SetWorldModelSettings,
        "ddpg": DDPGSettings,
        "set_ddpg": SetDDPGSettings,
        "planner": PlannerSettings,
    }

    def __init__(
        self,
        scenario: Scenario = Scenario(),  # noqa: B008 (frozen)
        physics: Physics = "strict",
        fast_level: Level = "set",
        slow_level: Level = "set",
        world_model: WorldModelSettings = WorldModelSettings(),  # noqa: B008 (frozen)
        set_world_model: SetWorldModelSettings = SetWorldModelSettings(),  # noqa: B008 (frozen)
        ddpg: DDPGSettings = DDPGSettings(),  # noqa: B008 (frozen)
        set_ddpg: SetDDPGSettings = SetDDPGSettings(),  # noqa: B008 (frozen)
        planner: PlannerSettings = PlannerSettings(),  # noqa: B008 (frozen)
        reset_world_model: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        rules(physics).check_scenario(scenario)
        self.scenario = scenario
        self.physics: Physics = physics
        self.reset_world_model = reset_world_model
        self.seed = seed
        self.keep_settings(
            {
                "scenario": scenario,
                "physics": physics,
                "fast_level": fast_level,
                "slow_level": slow_level,
                "world_model": world_model,
                "set_world_model": set_world_model,
                "ddpg": ddpg,
                "set_ddpg": set_ddpg,
                "planner": planner,
                "reset_world_model": reset_world_model,
                "seed": seed,
            }
        )
        generator = make_generator(seed, Use.INITIAL_WEIGHTS)
        self.world_model: WorldModel | SetWorldModel
        if fast_level == "set":
            self.world_model = SetWorldModel(
                set_world_model, view=offloading_view_of(scenario), generator=generator
            )
        else:
            seen = vector_size(offloading_view_of(scenario), scenario)
            sizes = (seen, scenario.offloading_action_size)
            self.world_model = WorldModel(*sizes, world_model, generator=generator)
        if slow_level == "set":
            self.ddpg: ActorCritic = SetDDPG(scenario, set_ddpg, generator=generator)
        else:
            sizes = (vector_size(CachingView, scenario), scenario.caching_action_size)
            self.ddpg = DDPG(*sizes, ddpg, generator=generator)
        self.planner = self.make_planner(planner)
        self.plan_by: PlanFunction = plan_alone
        """How a planner plans; a strategy that spreads the world model over ranks has its own way."""
        self.seen = SeenRanges()
        self._told = False

    @staticmethod
    def transfers(settings: Mapping[str, Any]) -> bool:
        """Whether agents with these settings act in scenarios of other sizes than they were trained on."""
        return settings.get("fast_level") == "set" and settings.get("slow_level") == "set"

    @property
    def num_members(self) -> int:
        """Members of the world model's ensemble, wherever they are held."""
        return self.world_model.held.total

    # Acting --------------------------------------------------------------------------------------------------------

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
        return CEMPlanner(3 * users, settings, num_users=users, num_targets=scenario.num_servers)

    def plan(
        self,
        view: OffloadingView,
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
        users = view.requests.shape[-1]
        if 3 * users != planner.action_size:
            raise HadrlError(
                f"offloading observation must be of {planner.num_users} users, got one of {users} users"
            )
        best_reward = float(self.world_model.best_reward)
        return self.plan_by(planner, self.world_model, view, generator, warm_start, best_reward, alike=alike)

    def decide(self, view: OffloadingView, seed: int | None = None) -> Allocation:
        """Decide on a slot without exploration: a function of each network's own view and of the seed.

        Args:
            view: as `EdgeNetwork.offloading_view` or `OffloadingView.of` gives it; where the world model is structured,
                with any number of servers, users and services.
            seed: of the plan's draws; None: the agent's.

        Returns:
            Targets and shares, [B, U]; empty ones for no users or no networks.

        Raises:
            NonFiniteError: a number of the view, a weight or the plan is infinite or none.
            HadrlError: a service that is not there, a negative size, or other numbers than the agent's scenario has of
                servers, users or services where the world model is flat.
        """
        return self._decide(view, self.seed if seed is None else seed)[0]

    def _decide(
        self, view: OffloadingView, seed: int, warm_start: Plan | None = None
    ) -> tuple[Allocation, Plan | None]:
        """As `decide`, and the plan; none where there is nobody to plan for."""
        view = view.to(self.device, torch.float32)
        check_offloading_view(view, self.physics)
        scenario, planner = self._of_sizes(view)
        if not scenario.num_users or not len(view):
            return equal_shares(scenario, view.requests, view.dtype), None
        check_weights(self.world_model, "world_model")
        self.tell_outside(ranges_of_view(view, self.physics))
        plan = self.plan(view, planner, make_generator(seed, Use.PLAY), warm_start, alike=True)
        action = plan.action.float()
        check_plan(action, plan.free_energy.total)
        return decode_offloading(scenario, action, self.physics), plan

    def _of_sizes(self, view: OffloadingView) -> tuple[Scenario, CEMPlanner]:
        """The scenario and the planner with as many servers, users and services as are seen."""
        sizes = view.sizes()
        scenario = self.scenario.resized(sizes[SERVER], sizes[USER], sizes[SERVICE])
        if scenario is self.scenario:
            return scenario, self.planner
        if not isinstance(self.world_model, SetWorldModel):
            check_sizes("offloading observation", view, self.scenario, "flat models act on no other")
        return scenario, self._planner_of(scenario, self.planner.settings)

    def place(self, view: CachingView, seed: int | None = None, decision: int = 0) -> Bool[Tensor, "..."]:
        """Decide on the caches of a frame without exploration: a function of each network's own view and of the seed.

        Args:
            view: as `EdgeNetwork.caching_view` or `CachingView.of` gives it; of the servers and services of the agent's
                scenario, whose storage no view tells (`for_scenario` takes an agent to others).
            seed: of the search's draws; None: the agent's.
            decision: how many decisions the episode had before: each searches by draws of its own.

        Returns:
            What every server shall hold, bool [B, S, K].

        Raises:
            NonFiniteError: a number of the view, a weight or the decision is infinite or none.
            HadrlError: caches of other numbers or sizes than those of the agent's scenario.
        """
        view = view.to(self.device, torch.float32)
        check_caching_view(view, self.scenario, self.physics)
        check_weights(self.ddpg, "ddpg")
        generator = make_generator(self.seed if seed is None else seed, Use.PLAY, decision)
        return self.decide_caching(view, self.ddpg.act(view, generator).float()).cache

    def decide_caching(self, view: CachingView, action: Float[Tensor, "batch action"]) -> CachingDecision:
        """What an action of the caching agent stands for in every network."""
        return CachingDecision(action, decode_caching(self.scenario, action, view.cache, self.physics))

    def policies(self, seed: int | None = None) -> tuple[CachingPolicy, OffloadingPolicy]:
        """The trained agent without exploration as a policy for each level; `seed` is that of its draws.

        A decision depends on what the network shows, on the seed and, for the caches, on how many decisions the episode
        had before: asked again it is the same, and it does not depend on the networks beside it. With the planner's
        setting `warm_start` a plan starts from that of the slot before, from the second slot of an episode on, and
        depends on it too.

        Raises (when a policy is called):
            NonFiniteError: a number that is observed, a weight or the decision is infinite or none.
            HadrlError: a network of another physics, or of other sizes than the agent's scenario (`for_scenario` takes
                the agent there).
        """
        seed = self.seed if seed is None else seed
        if self.scenario.num_users:  # for nobody nothing is decided
            self.tell_outside(ranges_of(self.scenario, self.physics))

        def caching(network: EdgeNetwork) -> Tensor:
            check_network(self.scenario, self.physics, network)
            return self.place(network.caching_view(), seed, network.decision)

        before: tuple[EdgeNetwork, Plan] | None = None

        def offloading(network: EdgeNetwork) -> Allocation:
            nonlocal before
            check_network(self.scenario, self.physics, network)
            goes_on = before is not None and before[0] is network and network.slot > 0
            start = before[1] if before is not None and goes_on else None
            allocation, plan = self._decide(network.offloading_view(), seed, start)
            before = (network, plan) if plan is not None and self.planner.settings.warm_start else None
            return allocation

        return caching, offloading

    def play(self, network: EdgeNetwork) -> Episode:
        """Play one episode of the networks without exploration."""
        return run_episode(network, *self.policies())

    def validation_step(self, batch: EdgeNetwork, batch_idx: int) -> Episode:  # type: ignore[override]
        """Play the episode of the networks."""
        return self.play(batch)

    def test_step(self, batch: EdgeNetwork, batch_idx: int) -> Episode:  # type: ignore[override]
        """Play the episode of the networks."""
        return self.play(batch)

    def predict_step(self, batch: EdgeNetwork, batch_idx: int) -> Episode:
        """Play the episode of the networks."""
        return self.play(batch)

    def tell_outside(self, ranges: Ranges) -> None:
        """Warn, once, where numbers that the agent is to act on lie outside what its training saw."""
        outside = "" if self._told else self.seen.outside(ranges)
        if outside:
            self._told = True
            warnings.warn(f"the agent acts where it was not trained: {outside}", HadrlWarning, stacklevel=3)

    def for_scenario(self, scenario: Scenario) -> "HADRL":
        """A copy with the same weights for another network; other sizes need structured models at both levels.

        Warns (`HadrlWarning`) where a number of the scenario lies outside what training saw.

        Raises:
            HadrlError: the weights don't fit.
        """
        other = type(self)(**{**self.settings, "scenario": scenario})
        other.take(
            self.state_dict(), "scenario must have the sizes the agent was trained on: it has flat models"
        )
        other.origin = self.origin
        other.tell_outside(ranges_of(scenario, self.physics))
        return other.to(self.device).train(self.training)

    # Learning ------------------------------------------------------------------------------------------------------

    def configure_callbacks(self) -> list[Callback]:
        """Supply those of our callbacks that a Trainer lacks: `CEMPlanning` to collect, `EpisodeEvaluation` to judge.

        A subclass that collects or judges in another way returns an empty list.

        Raises:
            HadrlError: episodes are to be judged without a `TransitionDataModule`.
        """
        trainer: Any = self.trainer
        if isinstance(trainer.datamodule, TransitionDataModule):
            from hadrl_lightning.callbacks import missing_callbacks  # they need the agents

            return missing_callbacks(trainer, self)
        command = trainer.state.fn.value
        if command in ("validate", "test"):
            raise HadrlError(
                f"datamodule must be a TransitionDataModule to {command} with, "
                f"got {type(trainer.datamodule).__name__}"
            )
        return []

    def setup(self, stage: str) -> None:
        """Refuse what training can't do.

        Raises:
            HadrlError: see `check_trainer`.
        """
        if stage == "fit":
            check_trainer(self.trainer)

    def on_train_start(self) -> None:
        """Note what the scenario brings."""
        self.seen.include(ranges_of(self.scenario, self.physics))
        if (
            getattr(self.trainer, "datamodule", None) is None
        ):  # of a loader alone nothing was observed by collecting
            with isolate_rng():
                self.world_model.observe_first(self._passes(self.trainer.train_dataloader or ()))

    def _passes(self, batches: Iterable[Any]) -> Iterator[OffloadingTransitions]:
        """The fast level's transitions of all batches."""
        for batch in batches:
            check_item(batch, TrainingBatch)
            yield from batch.offloading or ()

    def observe(self, transitions: OffloadingTransitions) -> None:
        """Take new transitions into the world model's normalisers and into the ranges seen; every rank has to call."""
        self.world_model.observe(transitions)
        assert isinstance(transitions.view, OffloadingView)
        some = len(transitions) > 0
        self.seen.include(ranges_of_view(transitions.view, self.physics) if some else {})

    def on_train_epoch_start(self) -> None:
        """Start the world model anew, as published, if that is set."""
        if not self.reset_world_model:
            return
        self.world_model.reset_parameters(make_generator(self.seed, Use.RESETS, self.current_epoch))
        self._optimizers()[0].state.clear()

    def training_step(self, batch: TrainingBatch, batch_idx: int) -> None:
        """Update the world model on every minibatch of the pass, then DDPG on each of its batches.

        Raises:
            HadrlError: the loader gives something else than a `TrainingBatch`.
        """
        check_item(batch, TrainingBatch)
        world_model_optimizer, actor_optimizer, critic_optimizer = self._optimizers()
        losses: dict[str, list[Tensor]] = {}
        for transitions in batch.offloading or ():
            loss = self.world_model.loss(transitions)
            world_model_optimizer.zero_grad()
            self.manual_backward(loss.total)
            world_model_optimizer.step()  # which clips in on_before_optimizer_step
            _append(losses, "world_model", loss._asdict())
        for caching in batch.caching:
            optimizers = (actor_optimizer, critic_optimizer)
            update = self.ddpg.update(caching, optimizers, self.manual_backward)
            _append(losses, "ddpg", update._asdict())
        for name, values in losses.items():
            self.log(
                f"train/{name}",
                _finite_mean(self._of_all_ranks(name, torch.stack(values))),
                on_step=False,
                on_epoch=True,
                batch_size=1,
                sync_dist=True,
            )

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clip the world model's gradient: here Lightning has undone the scaling that `16-mixed` gives it."""
        if optimizer is self._optimizers()[0].optimizer:
            self.world_model.clip_gradients_of_all()

    def _of_all_ranks(self, name: str, losses: Float[Tensor, " updates"]) -> Float[Tensor, " updates"]:
        """Losses of all members and whole batches, from the parts of this rank."""
        level, _, field = name.partition("/")
        if level == "world_model":
            return self.world_model.of_all_members(field, losses)
        return self.ddpg.of_all_rows(losses)

    def configure_optimizers(self) -> Any:
        """World model, actor, critic, in this order."""
        return [self.world_model.configure_optimizers(), *self.ddpg.configure_optimizers()]

    def _optimizers(self) -> list[LightningOptimizer]:
        optimizers = self.optimizers()
        assert isinstance(optimizers, list)
        return optimizers


def _finite_mean(losses: Float[Tensor, " updates"]) -> Float[Tensor, ""]:
    """Mean over the updates that were made: `FiniteNumbers` may leave some out."""
    finite = losses.isfinite()
    return torch.where(finite, losses, 0.0).sum() / finite.sum()


def _append(losses: dict[str, list[Tensor]], prefix: str, values: dict[str, Tensor]) -> None:
    for name, value in values.items():
        losses.setdefault(f"{prefix}/{name}", []).append(value.detach().float())

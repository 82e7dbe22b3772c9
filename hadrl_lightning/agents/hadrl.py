"""`HADRL`: the two levels as one LightningModule."""

from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any, TypeVar

import torch
from lightning.pytorch.callbacks import Callback

from hadrl_lightning.agents.adapting import Adapt, Adapting
from hadrl_lightning.agents.ddpg import DDPGSettings
from hadrl_lightning.agents.learning import Learning
from hadrl_lightning.agents.levels import CACHING_AGENTS, SLOT_MODELS, Level
from hadrl_lightning.agents.seen import ranges_of_scenario
from hadrl_lightning.agents.set_ddpg import SetDDPGSettings
from hadrl_lightning.agents.settings import LookaheadSettings, SetWorldModelSettings
from hadrl_lightning.agents.stored import StoredAgent, check_learnt, seen_otherwise
from hadrl_lightning.agents.world_model import WorldModelSettings
from hadrl_lightning.data import TransitionDataModule
from hadrl_lightning.errors import HadrlError
from hadrl_lightning.planning import PlannerSettings
from hadrl_lightning.play import Episode
from hadrl_lightning.registries import Registry
from hadrl_lightning.scenario import Physics, Scenario
from hadrl_lightning.simulator import EdgeNetwork, Use, make_generator, rules
from hadrl_lightning.typed import read_settings, typed

AnyLevel = TypeVar("AnyLevel", bound=Level)


@typed
class HADRL(Learning, Adapting, StoredAgent):
    """Hierarchical RL with active inference: one level decides the caches, a planner on a world model the offloading.

    The root module: it holds the two agents, trains both on the batches of `TransitionDataModule`, and turns them into
    policies. `CEMPlanning` collects for it, `EpisodeEvaluation` judges the episodes that it plays.
    The published algorithm is `HADRL.from_config("es2.yaml", "published.yaml")`.

    The fast level learns from every user's measured latency in every slot where its model is structured, and from the
    view that follows; agents without a world model (`baselines.learners`, Stable-Baselines3) learn from one
    reward a slot.

    Each level has kinds by name (`levels` says what one of your own has to have). `flat` is the published one, over
    vectors. `set` has the structure of the problem in it: users, servers and services are sets, and the same
    weights act on any number of them. How well they do where a number lies outside what training saw is another matter:
    the agent keeps the ranges it has seen (`seen`), and tells by a `HadrlWarning`, once, where it acts outside of them.

    Args:
        scenario: constants of the network.
        physics: how actions are read: `strict`, `published`, or one of your own.
        fast_level: the model that plans: `set`, `flat`, a name of an installed package, or `module.Class`.
        slow_level: the agent that caches: `lookahead`, `set`, `flat`, a name of an installed package, or
            `module.Class`.
        world_model: settings of the fast level `flat`; of no effect with another.
        set_world_model: settings of the fast level `set`; of no effect with another.
        ddpg: settings of the slow level `flat`; of no effect with another.
        set_ddpg: settings of the slow level `set`; of no effect with another.
        lookahead: settings of the slow level `lookahead`; of no effect with another.
        slow_settings: settings of a slow level of your own; null: its defaults.
        fast_settings: settings of a fast level of your own; null: its defaults.
        planner: the fast level's planner.
        reset_world_model: start the world model anew before each learning step, as published; else go on training it.
        adapt: what goes on learning in episodes that are played without exploration (test, predict, validate of a
            trained agent): `off` nothing, `heads` by which factors servers demand more than expected, `all` the world
            model's weights too (`learn`).
        seed: of the initial weights, of their resets, and of plans outside training.
    """

    played_elsewhere: Episode | None = None
    """What another process has played of the batch that is tested next, as this agent would."""
    parts = {
        "scenario": Scenario,
        "world_model": WorldModelSettings,
        "set_world_model": SetWorldModelSettings,
        "ddpg": DDPGSettings,
        "set_ddpg": SetDDPGSettings,
        "lookahead": LookaheadSettings,
        "planner": PlannerSettings,
    }

    def __init__(
        self,
        scenario: Scenario = Scenario(),  # noqa: B008 (frozen)
        physics: Physics = "strict",
        fast_level: str = "set",
        slow_level: str = "lookahead",
        world_model: WorldModelSettings = WorldModelSettings(),  # noqa: B008 (frozen)
        set_world_model: SetWorldModelSettings = SetWorldModelSettings(),  # noqa: B008 (frozen)
        ddpg: DDPGSettings = DDPGSettings(),  # noqa: B008 (frozen)
        set_ddpg: SetDDPGSettings = SetDDPGSettings(),  # noqa: B008 (frozen)
        lookahead: LookaheadSettings = LookaheadSettings(),  # noqa: B008 (frozen)
        slow_settings: dict[str, Any] | None = None,
        fast_settings: dict[str, Any] | None = None,
        planner: PlannerSettings = PlannerSettings(),  # noqa: B008 (frozen)
        reset_world_model: bool = False,
        adapt: Adapt = "off",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        rules(physics).check_scenario(scenario)
        self.scenario = scenario
        self.physics: Physics = physics
        self.reset_world_model = reset_world_model
        self.adapt: Adapt = adapt
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
                "lookahead": lookahead,
                "slow_settings": slow_settings,
                "fast_settings": fast_settings,
                "planner": planner,
                "reset_world_model": reset_world_model,
                "adapt": adapt,
                "seed": seed,
            }
        )
        place = (scenario, physics, make_generator(seed, Use.INITIAL_WEIGHTS))
        model = _made(SLOT_MODELS, "fast", fast_level, self.settings, fast_settings, *place)
        self.compose(
            model, _made(CACHING_AGENTS, "slow", slow_level, self.settings, slow_settings, *place), planner
        )
        if adapt != "off":
            self._adaptable(adapt)  # says what it can't

    @staticmethod
    def transfers(settings: Mapping[str, Any]) -> bool:
        """Whether agents with these settings act in scenarios of other sizes than they were trained on.

        Raises:
            HadrlError: they name a level that can't be found.
        """
        levels: tuple[tuple[str, Registry[Any]], ...] = (
            ("fast_level", SLOT_MODELS),
            ("slow_level", CACHING_AGENTS),
        )
        try:
            return all(
                name in settings and registry.find(settings[name], name).transfers
                for name, registry in levels
            )
        except ValueError as error:
            raise HadrlError(error) from error

    def for_scenario(self, scenario: Scenario) -> "HADRL":
        """A copy with the same weights for another network; other sizes need structured models at both levels.

        Warns (`HadrlWarning`) where a number of the scenario lies outside what training saw.

        Raises:
            HadrlError: it is one of another world, or the weights don't fit.
        """
        other = type(self)(**{**self.settings, "scenario": scenario})
        if self.world_model.transfers:  # flat ones have other sizes too, and say so
            differ = seen_otherwise(self.scenario, scenario)
            if differ:
                raise HadrlError(
                    f"scenario must be of the world that the agent was trained in, but {differ}: train one there"
                )
            check_learnt(self.scenario, scenario)
        other.take(
            self.lasting_weights(),
            "scenario must have the sizes the agent was trained on: it has flat models",
        )
        other.origin = self.origin
        other.tell_outside(ranges_of_scenario(scenario, self.physics))
        return other.to(self.device).train(self.training)

    def setup(self, stage: str) -> None:
        """Refuse what training can't do, and begin it without what was learnt while deployed."""
        super().setup(stage)
        if stage == "fit":
            self.forget()

    def validation_step(self, batch: EdgeNetwork, batch_idx: int) -> Episode:  # type: ignore[override]
        """Play the episode of the networks."""
        return self.play(batch)

    def test_step(self, batch: EdgeNetwork, batch_idx: int) -> Episode:  # type: ignore[override]
        """Play the episode of the networks, unless it was played elsewhere."""
        played, self.played_elsewhere = self.played_elsewhere, None
        return self.play(batch) if played is None else played

    def predict_step(self, batch: EdgeNetwork, batch_idx: int) -> Episode:
        """Play the episode of the networks."""
        return self.play(batch)

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


def _settings(
    kind: type[Level], groups: Mapping[str, Any], given: Mapping[str, Any] | None, field: str
) -> Any:
    """The settings of one kind.

    Args:
        kind: the class.
        groups: settings of `HADRL` by name, among them those of the kinds that have a group of their own.
        given: settings of any other kind as plain values; None: its defaults.
        field: the setting that holds `given`, for errors.

    Raises:
        HadrlError: `given` beside a kind that has a group, a field that the settings lack, or a value not allowed.
    """
    group = groups.get(kind.settings_group or "")
    if isinstance(group, kind.Settings):
        if given is not None:
            raise HadrlError(
                f"{field} must be null for a {kind.__name__}, whose settings are {kind.settings_group}, got {given}"
            )
        return group
    return read_settings(kind.Settings, given or {}, field)


def _made(
    registry: Registry[type[AnyLevel]],
    level: str,
    name: str,
    groups: Mapping[str, Any],
    given: Mapping[str, Any] | None,
    scenario: Scenario,
    physics: Physics,
    generator: torch.Generator,
) -> AnyLevel:
    """An untrained level by its name.

    Args:
        registry: of its kinds.
        level: `slow` or `fast`, for errors.
        name: of the kind.
        groups: see `_settings`.
        given: see `_settings`.
        scenario: see `Level.made_for`.
        physics: see `Level.made_for`.
        generator: see `Level.made_for`.

    Raises:
        ValueError: there is no kind of that name, or it lacks something.
        HadrlError: see `_settings`; or the scenario has ranges of counts and the level acts on one size alone.
    """
    kind = registry.find(name, f"{level}_level")
    lacks = sorted(kind.__abstractmethods__) + ["Settings"] * (
        not is_dataclass(getattr(kind, "Settings", None))
    )
    if lacks:
        raise ValueError(f"{level}_level must be a {registry.kind} that has {', '.join(lacks)}, got {name}")
    if not kind.transfers:
        scenario.require_fixed_sizes(f"{level}_level {name}, which acts on one size alone")
    settings = _settings(kind, groups, given, f"{level}_settings")
    return kind.made_for(scenario, physics, settings, generator)

"""Build and train HADRL from settings as nested dictionaries, without a command line.

What a user adds, such as a policy or a measure, is found by its name: its module is part of what determines a cell, and
workers import it.
"""

import copy
import hashlib
import inspect
import sys
import uuid
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from jsonargparse import ArgumentParser
from lightning.pytorch import Callback, LightningModule, Trainer

from hadrl_lightning.agents import CACHING_AGENTS, HADRL, SLOT_MODELS
from hadrl_lightning.benchmark.players import Player
from hadrl_lightning.callbacks import CEMPlanning, EpisodeEvaluation, FiniteNumbers
from hadrl_lightning.config_files import groups_of, merged, refuse_nulls, said
from hadrl_lightning.data import TransitionDataModule
from hadrl_lightning.errors import HadrlError
from hadrl_lightning.judge import KeepBest, Validation
from hadrl_lightning.messages import essence, known_settings
from hadrl_lightning.network_files import SETTINGS
from hadrl_lightning.planning import MEASURES
from hadrl_lightning.process import quiet_trainer, quieten
from hadrl_lightning.registries import Registry, import_module
from hadrl_lightning.simulator.physics import PHYSICS
from hadrl_lightning.simulator.processes import PROCESSES

Settings = dict[str, Any]

SHARED = ("scenario", "physics", "seed")
"""Settings of the data that the model takes over."""
TRAINER_SETTINGS = ("max_epochs", "check_val_every_n_epoch", "accelerator", "precision")
"""What of the Trainer's settings matters to a cell; the rest is about files and output."""


class Parts(NamedTuple):
    """What a training is made of."""

    data: TransitionDataModule
    model: HADRL
    planning: CEMPlanning


@lru_cache(maxsize=1)
def _parser() -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(TransitionDataModule, "data", fail_untyped=False)
    parser.add_class_arguments(HADRL, "model", fail_untyped=False)
    parser.add_class_arguments(CEMPlanning, "planning", fail_untyped=False)
    return parser


def setting_groups() -> dict[str, bool]:
    """What must be a group of settings here (see `said`)."""
    return {**groups_of(_parser()), "trainer": False}


def resolved(settings: Mapping[str, Any]) -> Settings:
    """The settings of data, model, planning and Trainer in full, defaults included, as plain values.

    Raises:
        HadrlError: an unknown setting, or a value that is not allowed.
    """
    known, trainer = _with_defaults(settings)
    unknown = sorted(set(trainer) - set(inspect.signature(Trainer).parameters) - {"threads"})
    if unknown:
        raise HadrlError(f"unknown setting trainer.{unknown[0]}")
    trainer = {name: trainer[name] for name in TRAINER_SETTINGS if name in trainer}
    _check_trainer(trainer)
    return {
        **known,
        "trainer": {"max_epochs": 1, "check_val_every_n_epoch": 1, "accelerator": "cpu", **trainer},
    }


def build(settings: Mapping[str, Any], seed: int = 0) -> Parts:
    """Data, model and collection of these settings; `seed` is that of both.

    Raises:
        HadrlError: an unknown setting, or a value that is not allowed.
    """
    known, _ = _with_defaults(settings)
    known["data"]["seed"] = seed
    known["model"] |= {name: known["data"][name] for name in SHARED}
    try:
        built = _parser().instantiate(_parser().parse_object(known))
    except HadrlError:
        raise
    except ValueError as error:
        raise _in_one_line(error) from error
    built.planning.check_model(built.model)
    return Parts(built.data, built.model, built.planning)


def num_slots(settings: Settings) -> int:
    """Slots that a training with these (resolved) settings plays, over all networks that collect."""
    data, planning = settings["data"], settings["planning"]
    later = (settings["trainer"]["max_epochs"] - 1) * planning["decisions_per_epoch"]
    per_decision = data["num_envs"] * data["scenario"]["slots_per_decision"]
    return (planning["seed_decisions"] + later) * per_decision


def with_slots(settings: Settings, slots: int) -> Settings:
    """The (resolved) settings with as many epochs as fit into a budget of slots.

    Raises:
        HadrlError: the first epoch, and one that plans, do not fit.
    """
    one, two = (num_slots(merged(settings, {"trainer": {"max_epochs": n}})) for n in (1, 2))
    if slots < two:
        raise HadrlError(
            f"slots must be at least {two} with these settings ({one} in the first epoch, {two - one} in each other), "
            f"got {slots}"
        )
    return merged(settings, {"trainer": {"max_epochs": 1 + (slots - one) // (two - one)}})


def validated_slots(settings: Settings) -> list[int]:
    """After how many slots, over all networks, a training with these (resolved) settings is validated."""
    trainer = settings["trainer"]
    every = trainer["check_val_every_n_epoch"] or 1
    epochs = range(every, trainer["max_epochs"] + 1, every)
    return [num_slots(merged(settings, {"trainer": {"max_epochs": epoch}})) for epoch in epochs]


class KeepBestWeights(Callback):
    """Keeps a copy of the weights of the best validation, by the rule and at the moment of `hadrl fit`."""

    def __init__(self, evaluation: EpisodeEvaluation) -> None:
        self.evaluation = evaluation
        self.keep = KeepBest()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep them if they are the best so far."""
        self.keep(self.evaluation.validations[-1], pl_module.state_dict)


class Trained(NamedTuple):
    """A learner after training."""

    play: Player
    slots: int
    """Slots it was trained on."""
    validations: list[Validation]
    """Those made while it trained."""


def train(settings: Settings, seed: int) -> Trained:
    """Train HADRL with (resolved) settings as `hadrl fit` does, and give it the weights of the best validation."""
    parts = build(settings, seed)
    evaluation = EpisodeEvaluation(references=False)
    best = KeepBestWeights(evaluation)
    quieten()
    trainer = quiet_trainer(
        **{name: value for name, value in settings["trainer"].items() if value is not None},
        devices=1,
        limit_val_batches=1.0,
        num_sanity_val_steps=0,
        callbacks=[parts.planning, evaluation, FiniteNumbers(), best],
    )
    trainer.fit(parts.model, datamodule=parts.data)
    if best.keep.kept is not None:
        parts.model.load_state_dict(best.keep.kept)
    model = parts.model.cpu().eval()
    return Trained(model.play, parts.data.slots, evaluation.validations)


def _with_defaults(settings: Mapping[str, Any]) -> tuple[Settings, Settings]:
    """Settings of data, model and planning with their defaults, and those of the Trainer as they are."""
    settings = said(settings, setting_groups())
    known = {name: copy.deepcopy(settings.get(name, {})) for name in ("data", "model", "planning")}
    for name in SHARED:
        known["model"].pop(name, None)
    try:
        full = _parser().parse_object(known).as_dict()
    except Exception as error:  # jsonargparse raises several kinds
        raise _in_one_line(error) from error
    refuse_nulls(_parser(), full)
    for name in SHARED:
        full["model"].pop(name, None)
    full["data"].pop("seed", None)
    full["data"] = _with_files(full["data"])
    return full, settings.get("trainer", {})


def _with_files(data: Settings) -> Settings:
    """The settings of the data with what files say in the scenario."""
    try:
        return TransitionDataModule.resolved(data)
    except HadrlError as error:
        names_file = str(error).partition(" ")[0].partition(".")[0] in SETTINGS
        raise HadrlError(f"data.{error}" if names_file else error) from error
    except ValueError as error:
        raise _in_one_line(error) from error


def _check_trainer(trainer: Settings) -> None:
    """Lightning would refuse the same, but only where a cell is computed."""
    for name in ("max_epochs", "check_val_every_n_epoch"):
        value = trainer.get(name, 1)
        if value is None and name == "check_val_every_n_epoch":
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise HadrlError(f"trainer.{name} must be a whole number of at least 1, got {value!r}")
    for name in ("accelerator", "precision"):
        value = trainer.get(name, "")
        if isinstance(value, bool) or not isinstance(value, str | int | None):
            raise HadrlError(f"trainer.{name} must be a name, got {value!r}")


def _in_one_line(error: Exception) -> HadrlError:
    return HadrlError(essence(str(error), known_settings(_parser())))


# What a user adds ----------------------------------------------------------------------------------------------------

PACKAGE = __name__.partition(".")[0]
NAMED: dict[tuple[str, ...], Registry[Any]] = {
    ("data", "physics"): PHYSICS,
    ("data", "scenario", "processes"): PROCESSES,
    ("model", "fast_level"): SLOT_MODELS,
    ("model", "slow_level"): CACHING_AGENTS,
    ("model", "planner", "strategy"): MEASURES,
    ("planning", "planner", "strategy"): MEASURES,
}
"""Settings that name something, or hold settings by the names of some things, and what they can name."""


def named(settings: Settings) -> Iterator[Any]:
    """What the settings of a run name."""
    for (*groups, field), registry in NAMED.items():
        group: Any = settings
        for key in groups:
            group = (group or {}).get(key)
        names = (group or {}).get(field) or ()
        for name in [names] if isinstance(names, str) else names:
            yield registry.find(name, field)


def own_modules(parts: Iterable[Any]) -> dict[str, str]:
    """The modules of functions and classes that are not this package's, by name, with a hash of their source.

    A module without a source, such as an interactive session, has another hash each time: nothing of it is used again.
    """
    names = {_module_of(part) for part in parts}
    return {name: _digest(name) for name in sorted(names) if name.partition(".")[0] != PACKAGE}


def import_modules(names: Iterable[str]) -> None:
    """Import modules that add something. The main program's is run again by Python itself in a worker."""
    for name in names:
        if name not in ("__main__", "__mp_main__"):
            import_module(name)


def _module_of(part: Any) -> str:
    inner = getattr(part, "func", part)  # of functools.partial
    return str(getattr(inner, "__module__", None) or type(inner).__module__)


def _digest(name: str) -> str:
    try:
        source = inspect.getsource(sys.modules[name])
    except (KeyError, OSError, TypeError):
        source = uuid.uuid4().hex
    return hashlib.sha256(source.encode()).hexdigest()[:16]

"""`StoredAgent`: an agent that is made from its settings and from files, and is saved with what it was made by."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, is_dataclass
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch import __version__ as lightning_version
from torch import Tensor

from hadrl_lightning.agent_files import (
    RECORD,
    SHIPPED,
    check_agent,
    find_agent,
    is_shipped,
    read_agent,
    recorded,
    settings_of_shipped,
)
from hadrl_lightning.config_files import class_parser, construct, groups_of, load_config, merged
from hadrl_lightning.distributed import members_held
from hadrl_lightning.errors import HadrlError
from hadrl_lightning.files import replacing
from hadrl_lightning.network_files import names_files
from hadrl_lightning.scenario import Scenario
from hadrl_lightning.simulator import fields_of, offloading_view_of

if TYPE_CHECKING:
    from typing import Self
else:  # a type checker at run time meets the annotations of methods apart from their class
    Self = Any

OF_DATA = ("scenario", "physics", "seed")
"""Settings of the data in a file of settings that the agent takes over."""
OF_TRAINING = ("best_reward", "num_updates", "rewards")
"""Parts of the names of buffers that belong to a training and not to what it taught: of what was earned above all."""


def progress(trainer: Trainer) -> dict[str, int]:
    """Epochs that a training has finished, and slots that all its ranks have collected."""
    data: Any = getattr(trainer, "datamodule", None)
    epochs: Any = trainer.fit_loop.epoch_progress.current
    return {
        "epochs": epochs.processed,
        "slots": getattr(data, "slots", 0) * getattr(data, "num_collectors", 1),
    }


@runtime_checkable
class BeginsTrained(Protocol):
    """A model that is trained otherwise where it has begun with weights (`load_weights`)."""

    begins_trained: Tensor
    """Whether it has; part of its state."""


class StoredAgent(LightningModule):
    """An agent that is made from its settings and from files.

    A subclass calls `keep_settings` with the arguments of its constructor, by which copies of it are made.
    """

    settings: dict[str, Any]
    """The arguments of the constructor by name."""
    origin: dict[str, Any]
    """What the agent's file says it was made by; empty where it comes from no file."""
    parts: Mapping[str, Any] = {}
    """The classes of the settings that are dataclasses, by name."""

    def keep_settings(self, settings: dict[str, Any]) -> None:
        """Keep the arguments of the constructor; `hparams` has them as plain values, and loggers get those."""
        self.settings = settings
        self.origin = {}
        self.save_hyperparameters(self.settings_dict())

    def settings_dict(self) -> dict[str, Any]:
        """All settings as plain values, from which `from_settings` makes an untrained copy of the agent."""
        return {
            name: asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
            for name, value in self.settings.items()
        }

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        """An untrained agent with the settings of `settings_dict`.

        Raises:
            TypeError: there is no setting of a name.
            ValueError: a value is not allowed.
        """
        return cls(**cls._arguments(settings))

    @classmethod
    def from_config(cls, *names: str | Path, **settings: Any) -> Self:
        """An untrained agent with the settings of some files, as `hadrl fit --config NAME …` builds it.

        Args:
            names: paths, or names of shipped files such as `es2.yaml`; later ones win.
            settings: arguments of the constructor that win over the files.

        Raises:
            HadrlError: there is no such file, or a setting is unknown or not allowed.
        """
        cls._check_names(settings)
        parser = class_parser(cls, "model", {"data": OF_DATA})
        given = merged(*(load_config(name, groups_of(parser)) for name in names))
        data = {name: value for name, value in given.get("data", {}).items() if name in OF_DATA}
        if names_files(given.get("data", {})):
            settings = {"scenario": Scenario.from_config(*names), **settings}
        return construct(cls, parser, {"model": given.get("model", {}), "data": data}, settings)

    @classmethod
    def from_checkpoint(cls, path: str | Path) -> Self:
        """The trained agent of a checkpoint, on the CPU and in evaluation mode.

        Args:
            path: the file, or the name of an agent that ships with the package: `hadrl.ckpt`, that for any network, or
                `es2.ckpt` … `es5.ckpt`, the same one in that scenario.

        Raises:
            HadrlError: there is no such file, it is damaged, of another version, holds code or a weight that is not
                finite, or is no checkpoint of an agent.
        """
        return cls.load_from_checkpoint(path)

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls,
        checkpoint_path: str | Path,
        map_location: Any = None,
        hparams_file: str | Path | None = None,
        strict: bool | None = None,
        weights_only: bool | None = None,
        **settings: Any,
    ) -> Self:
        """The agent that `from_checkpoint` makes, by Lightning's name and with its arguments.

        Args:
            checkpoint_path: as there.
            map_location: device of the agent; the CPU where not given.
            hparams_file: not used by agents, whose files hold their settings.
            strict: whether the weights must be exactly those of the agent; they must where not given.
            weights_only: files are always read as tensors and plain values only.
            settings: arguments of the constructor in place of those in the file.

        Raises:
            HadrlError: as there, a setting that the agent doesn't have, or a `hparams_file`.
        """
        if hparams_file is not None:
            raise HadrlError(f"hparams_file must not be given: the checkpoint has them, got {hparams_file}")
        path = find_agent(checkpoint_path)
        contents = read_agent(path)
        try:
            agent = cls(**{**cls._arguments(contents["hyper_parameters"]), **_of_name(path), **settings})
        except (TypeError, ValueError) as error:
            problem = f"ckpt_path must hold the settings of {cls.__name__}, got {path}"
            raise HadrlError(f"{problem}: {error}") from error
        known: Any = agent
        if "scenario" in settings and known.world_model.transfers:
            check_seen("ckpt_path", path, contents, known.scenario)
        agent.take(
            contents["state_dict"], f"ckpt_path must be a checkpoint of this agent, got {path}", strict
        )
        agent.origin = dict(contents[RECORD])
        return agent.to(map_location or "cpu").eval()

    def load_weights(self, path: str | Path) -> None:
        """Take over what another agent has learnt, to train on from it: its weights and what it has seen.

        All else stays fresh: optimizers, replay, counters, schedules, statistics of rewards. The scenario may be
        another one; other sizes of it need structured models at both levels.

        Args:
            path: a file of weights or a checkpoint, or the name of an agent that ships with the package.

        Raises:
            HadrlError: as in `from_checkpoint`, or the weights don't fit the models of this agent.
        """
        path = find_agent(path, "weights")
        contents = read_agent(path, "weights")
        found = contents["state_dict"]
        agent: Any = self
        if agent.world_model.transfers:  # flat ones have other sizes too, and say so
            check_seen("weights", path, contents, agent.scenario)
            there = contents.get("hyper_parameters", {}).get("scenario")
            if there is not None:
                check_learnt(Scenario.from_dict(there), agent.scenario)
        fresh = {
            name: value
            for name, value in self.state_dict().items()
            if any(part in OF_TRAINING for part in name.split("."))
        }
        self.take({**found, **fresh}, f"weights must fit the models of these settings, got {path}")
        for module in self.modules():
            if isinstance(module, BeginsTrained):
                module.begins_trained.fill_(True)

    def take(self, weights: Mapping[str, Any], problem: str, strict: bool | None = None) -> None:
        """Load weights, or raise a HadrlError that begins with `problem`."""
        try:
            self.load_state_dict(weights, strict=strict is not False)
        except RuntimeError as error:
            reasons = str(error).split("\n\t")
            raise HadrlError(f"{problem}: {reasons[min(1, len(reasons) - 1)].strip()[:160]}") from error

    def lasting_weights(self) -> dict[str, Any]:
        """The state of the whole agent that copies and files of weights get.

        Raises:
            HadrlError: members of the ensemble are held by other ranks.
        """
        held = members_held(self)
        if held is not None and not held.is_whole:
            raise HadrlError(
                f"agent must hold all {held.total} members of its ensemble, got {held.count} on this rank: load the "
                "checkpoint of the training, such as last.ckpt"
            )
        state = self.state_dict()
        self.make_lasting(state)
        return state

    def make_lasting(self, state: dict[str, Any]) -> None:
        """Take out of a state what is not meant to last; nothing here."""

    # Saving --------------------------------------------------------------------------------------------------------

    def save_weights(self, path: str | Path, scores: Mapping[str, float] | None = None) -> None:
        """Write the agent alone, without what training would need to go on: a small file to use it and to share it.

        `from_checkpoint` and the commands `validate`, `test`, `predict`, `benchmark` and `inspect` read it.

        Args:
            path: the file.
            scores: what the agent reaches, by name; those of its training's last validation where not given.
        """
        contents = {
            "state_dict": self.lasting_weights(),
            "hyper_parameters": self.settings_dict(),
            "pytorch-lightning_version": lightning_version,
        }
        with replacing(path) as temporary:
            torch.save(recorded(contents, **self._record(scores)), temporary)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the settings as plain values, and what the file was made by."""
        self.make_lasting(checkpoint["state_dict"])
        checkpoint["hyper_parameters"] = self.settings_dict()
        record = self._record()
        if self._own_trainer() is not None:
            epochs = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
            record["training"] = {**record["training"], "epochs": epochs}
        checkpoint[RECORD] = recorded(checkpoint, **record)[RECORD]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse what is not what was written.

        Raises:
            HadrlError: see `from_checkpoint`.
        """
        check_agent(checkpoint, str(self.trainer.ckpt_path))
        self.origin = dict(checkpoint[RECORD])

    def _record(self, scores: Mapping[str, float] | None = None) -> dict[str, Any]:
        """What a file that is written now is made by: of the training at hand, else of the file the agent is from."""
        known = {name: self.origin.get(name, {}) for name in ("data", "training", "scores")}
        trainer = self._own_trainer()
        if trainer is not None:
            data: Any = getattr(trainer, "datamodule", None)
            known["data"] = getattr(data, "settings", {})
            known["training"] = progress(trainer)
            metrics = trainer.callback_metrics
            known["scores"] = {name: float(metrics[name]) for name in metrics if name.startswith("val/")}
        return known if scores is None else {**known, "scores": dict(scores)}

    def _own_trainer(self) -> Trainer | None:
        """The Trainer that is fitting this agent."""
        try:
            trainer = self.trainer
        except RuntimeError:  # there is none
            return None
        return trainer if isinstance(trainer, Trainer) and trainer.state.fn == "fit" else None

    @classmethod
    def _check_names(cls, settings: Collection[str]) -> None:
        """Raise a HadrlError unless all are arguments of the constructor."""
        known = signature(cls).parameters
        if any(one.kind is one.VAR_KEYWORD for one in known.values()):
            return
        for name in settings:
            if name not in known:
                owners = [owner for owner, part in cls.parts.items() if name in signature(part).parameters]
                hint = f", a field of {' and '.join(owners)}, to be given whole" if owners else ""
                raise HadrlError(f"settings must be some of {', '.join(known)}, got {name}{hint}")

    @classmethod
    def _arguments(cls, settings: Any) -> dict[str, Any]:
        """Arguments of the constructor from plain values."""
        if not isinstance(settings, Mapping):
            raise TypeError(f"settings must be a dictionary, got {type(settings).__name__}")
        return {
            name: cls.parts[name](**value) if name in cls.parts else value for name, value in settings.items()
        }


def check_learnt(there: Scenario, here: Scenario) -> None:
    """Refuse preferences of outcomes that an agent has not learnt.

    Args:
        there: in which it was trained.
        here: in which it shall decide.

    Raises:
        HadrlError: they weigh such outcomes.
    """
    for name in ("energy_j", "dropped"):
        if bool(getattr(there.preferences, name)) != bool(getattr(here.preferences, name)):
            learnt = "above 0" if getattr(there.preferences, name) else "0"
            raise HadrlError(
                f"preferences.{name} must be {learnt} for this agent, as where it was trained, "
                f"got {getattr(here.preferences, name):g}"
            )


def check_seen(name: str, path: Path, contents: Mapping[str, Any], scenario: Scenario) -> None:
    """Refuse an agent whose views showed other fields or targets than those of a scenario, as processes add them.

    Args:
        name: of the setting, for the error.
        path: of the file.
        contents: of the file.
        scenario: in which the agent shall decide.

    Raises:
        HadrlError: they differ.
    """
    settings = contents.get("hyper_parameters", {}).get("scenario")
    differ = "" if settings is None else seen_otherwise(Scenario.from_dict(settings), scenario)
    if differ:
        raise HadrlError(
            f"{name} must be an agent of this world, where {differ}, got {path}: train one in it, by hadrl fit with "
            "the same files"
        )


def seen_otherwise(there: Scenario, here: Scenario) -> str:
    """What structured models see otherwise here than there, as processes add fields and targets; nothing where they see
    alike.
    """
    kinds = [offloading_view_of(one) for one in (there, here)]
    saw, sees = ({field.name for field in fields_of(view) if field.in_token} for view in kinds)
    if saw == sees and kinds[0].beyond == kinds[1].beyond:
        return ""
    further, lacking = (", ".join(sorted(one)) or "nothing" for one in (saw - sees, sees - saw))
    return f"views show {lacking} more and {further} less"


def _of_name(path: Path) -> dict[str, Scenario]:
    """The scenario that a shipped agent has by its name, if it is another one than it was trained on."""
    if not is_shipped(path) or path.name == SHIPPED:
        return {}
    return {"scenario": Scenario.from_config(settings_of_shipped(path))}

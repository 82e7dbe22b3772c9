"""HadrlCLI: LightningCLI with shipped settings, one folder a run, and resuming in place."""

import argparse
import copy
import dataclasses
import inspect
import os
import sys
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace, set_parsing_settings
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.plugins import CheckpointIO
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from hadrl_lightning.agent_files import SHIPPED, find_agent, is_shipped, read_agent
from hadrl_lightning.agents import check_trainer
from hadrl_lightning.agents.stored import StoredAgent
from hadrl_lightning.cli import checkpoints, runs
from hadrl_lightning.cli.checkpointing import Checkpointing
from hadrl_lightning.cli.loggers import MetricsLogger
from hadrl_lightning.cli.mistakes import naming_settings, resuming_from, trainer_mistakes
from hadrl_lightning.cli.outputs import (
    SETTINGS_FILE,
    ResultTable,
    RunTrainer,
    SaveRun,
    cells,
    place,
    result_name,
    write_row,
)
from hadrl_lightning.cli.parser import ConfigByName, HadrlParser
from hadrl_lightning.cli.resuming import (
    Start,
    check_parts,
    differences,
    make_loggers,
    read_words,
    told_of_own_settings,
    unwanted_callbacks,
)
from hadrl_lightning.cli.signals import StopSignals
from hadrl_lightning.cli.stopping import GracefulStop, ending_in_one_line, naming_lost_ranks, resuming
from hadrl_lightning.config_files import BASE, load_config, refuse_nulls
from hadrl_lightning.console import show
from hadrl_lightning.ensemble_parallel import EnsembleParallelStrategy, require_members
from hadrl_lightning.errors import HadrlError, HadrlWarning
from hadrl_lightning.messages import known_settings
from hadrl_lightning.process import quieten, spare_the_collector

WEIGHTS_HELP = (
    "Begin with what an agent has learnt, and with everything else fresh: a file, the name of a shipped agent, or last "
    "or best. The scenario may be another one. Not together with ckpt_path, which goes on with a training."
)
KIND = (
    "data.physics",
    "model.fast_level",
    "model.slow_level",
    "model.set_world_model",
    "model.fast_settings",
)
"""Settings that say what kind of agent it is: the shipped one serves only where they are its own."""
SHARED = ("scenario", "physics", "seed")
"""Settings of the data that the model takes over: the two can't contradict each other."""
COMPLETION = "JSONARGPARSE_ADD_PRINT_COMPLETION_ARGUMENT"
"""Variable of the environment with which a command line can ask for the script of a shell's completion."""
KEPT = 4
"""Parsers that a process keeps."""


class HadrlCLI(LightningCLI):
    """The command line of a model and its data.

    A run writes into `checkpoints/<config names>/version_N/` below `trainer.default_root_dir`. Validation, test and
    prediction write beside the checkpoint they use, in files named after the command and the checkpoint.

    Args:
        model_class: The module to train.
        datamodule_class: Its data. `scenario` and `physics`, where both have them, are settings of the data alone and
            handed to the model.
        callbacks: Callbacks that every run has, by the key of their settings.
        defaults: Settings of Trainer and callbacks that differ from the defaults of their classes, by their keys.
        args: The command line; that of the process if None.
    """

    def __init__(
        self,
        model_class: type[LightningModule],
        datamodule_class: type[LightningDataModule],
        callbacks: dict[str, type[Callback]] | None = None,
        defaults: dict[str, dict[str, Any]] | None = None,
        args: Sequence[str] | None = None,
    ) -> None:
        """Parse and run."""
        quieten()
        self.command_line = list(sys.argv[1:] if args is None else args)
        self.callback_classes = callbacks or {}
        self.defaults = dict(defaults or {})
        self.classes: dict[str, type] = {
            "data": datamodule_class,
            "model": model_class,
            **self.callback_classes,
        }
        both = set(_parameters(model_class)) & set(_parameters(datamodule_class))
        self.shared = [name for name in SHARED if name in both]
        self.start = Start(None, runs.RunFolder(Path()))
        self.notices: list[str | None] = []
        self.checkpoint_file: Path | None = None
        self.checkpoint: dict[str, Any] = {}
        self.stop = GracefulStop(StopSignals())
        self.results = ResultTable({})
        self.parsers: dict[str, LightningArgumentParser] = {}
        asked = [word for word in self.command_line[:1] if word in LightningCLI.subcommands()]
        if asked and COMPLETION not in os.environ:
            # the others only where they matter: each takes a while to build
            self.subcommands = lambda: {name: LightningCLI.subcommands()[name] for name in asked}  # type: ignore[method-assign]
        super().__init__(
            model_class,
            datamodule_class,
            save_config_callback=SaveRun,
            save_config_kwargs={"overwrite": True},
            trainer_class=RunTrainer,
            trainer_defaults=self.defaults.pop("trainer", {}),
            seed_everything_default=0,
            parser_class=HadrlParser,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,  # the model's own
            args=self.command_line,
        )

    # --- parsing

    def setup_parser(self, *args: Any, **kwargs: Any) -> None:
        """Build the parsers; where those of an earlier command line are the same, take copies of them."""
        texts = COMPLETION in os.environ or _asks_for_texts(self.command_line)
        set_parsing_settings(docstring_parse_attribute_docstrings=texts)  # takes as long as all else
        if type(self) is not HadrlCLI:  # parsers of a subclass may depend on anything
            super().setup_parser(*args, **kwargs)
            return
        settings = (self.classes, self.defaults, self.trainer_class, self.trainer_defaults)
        wanted = (*settings, list(self.subcommands()), sys.argv[:1], texts)
        kept = next((kept for of, kept in _kept if of == wanted), None)
        if kept is not None:
            vars(self).update(copy.deepcopy(kept))
            return
        before = {*vars(self)} - {"parsers"}
        super().setup_parser(*args, **kwargs)
        made = {name: value for name, value in vars(self).items() if name not in before}
        with suppress(Exception):  # a default that is wrong, of which parsing tells, or one without copies
            for parser in self.parsers.values():
                parser.get_defaults()  # the copies know them
            _kept.append(copy.deepcopy((wanted, made)))

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """A parser with `--config NAME`."""
        kwargs.setdefault("dump_header", ["Settings of a run: hadrl fit --config THIS_FILE repeats it"])
        parser = self.parser_class(**kwargs)
        parser.add_argument(
            "-c",
            "--config",
            action=ConfigByName,
            help="A file of settings: a path, or the name of a shipped one. Give several, the later ones win.",
        )
        return parser

    def _prepare_subcommand_parser(
        self, klass: type, subcommand: str, **kwargs: Any
    ) -> LightningArgumentParser:
        """Add --weights to fit. The callbacks show results: Lightning's own list of them is off unless asked for."""
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        self.parsers[subcommand] = parser
        if subcommand in ("validate", "test"):
            parser.set_defaults({"verbose": False})
        if hasattr(self.model_class, "load_weights"):  # the others meet it in the settings that fit has saved
            shown = WEIGHTS_HELP if subcommand == "fit" else argparse.SUPPRESS
            parser.add_argument("--weights", type=str | None, default=None, help=shown)
        return parser

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Settings of Trainer, data and model; what the model takes over from the data is no setting of the model."""
        parser.add_lightning_class_args(self.trainer_class, "trainer")
        parser.set_defaults({f"trainer.{key}": value for key, value in self.trainer_defaults.items()})
        parser.add_lightning_class_args(self.classes["data"], "data")
        parser.add_class_arguments(
            self.classes["model"], "model", fail_untyped=False, sub_configs=True, skip=set(self.shared)
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Settings of the callbacks that every run has."""
        for key, callback_class in self.callback_classes.items():
            parser.add_lightning_class_args(callback_class, key)
            own = self.defaults.get(key, {})
            parser.set_defaults({f"{key}.{name}": value for name, value in own.items()})

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse; a checkpoint's own settings are the base, unless files are named that are not those of its run."""
        words, parsed = read_words(self.command_line), self.command_line
        words.check()
        if words.ckpt_path is not None:
            self.checkpoint_file = runs.find_checkpoint(words.ckpt_path, words.root, words.run_name)
            own = runs.settings_of(self.checkpoint_file)
            names_run = own is not None and runs.run_name([own]) == words.run_name
            if own is not None and (names_run or not words.configs):
                parsed = [words.command, "--config", own, *words.others[1:]]
            if own is None and not words.configs and self._recorded:
                # a file alone knows what it was made with
                found = checkpoints.read_checkpoint(self.checkpoint_file, recorded=True)
                self._set_known_defaults(self.parsers[words.command], checkpoints.settings_in(found))
        self.config = parser.parse_args(parsed)
        command = self.config.subcommand
        refuse_nulls(self.parsers[command], self.config[command])
        if parsed is not self.command_line and words.configs:
            named = differences(parser.parse_args(self.command_line)[command], self.config[command])
            self.notices.append(told_of_own_settings(Path(parsed[2]), named, command))

    @property
    def _recorded(self) -> bool:
        """Whether the files of the model hold a record of what they were made by."""
        return isinstance(self.model_class, type) and issubclass(self.model_class, StoredAgent)

    def _is_as_shipped(self, settings: Namespace) -> bool:
        """Whether the agent for any network is of the kind that these settings ask for."""
        if not self._recorded:
            return False
        shipped = checkpoints.settings_in(read_agent(find_agent(SHIPPED)))
        own = {name: value for name, value in shipped.items() if name.startswith(KIND)}
        return all(
            checkpoints.plain(_as_dict(settings.get(name))) == self._filled(name, value)
            for name, value in own.items()
        )

    def _filled(self, name: str, value: Any) -> Any:
        """A recorded setting, with the defaults of what the version that recorded it did not have."""
        assert self.model_class is not None
        known = inspect.signature(self.model_class).parameters.get(name.removeprefix("model."))
        if known is None or not isinstance(value, dict) or not dataclasses.is_dataclass(known.default):
            return value
        defaults = {one.name: getattr(known.default, one.name) for one in dataclasses.fields(known.default)}
        return {**checkpoints.plain(defaults), **value}

    def _set_known_defaults(self, parser: LightningArgumentParser, settings: dict[str, Any]) -> None:
        known = set(known_settings(parser))
        parser.set_defaults({name: value for name, value in settings.items() if name in known})

    def _parse_ckpt_path(self) -> None:
        """Find checkpoint and folder of the run. The base class would let the checkpoint's settings win here."""
        settings, words = self.config[self.config.subcommand], read_words(self.command_line)
        configs = [path.relative for path in settings.get("config") or [] if path is not None]
        root = Path(settings.trainer.default_root_dir or ".") / "checkpoints"
        folder = (root / runs.run_name(configs)).absolute()
        if settings.ckpt_path:
            if self.checkpoint_file is None:  # named by a settings file
                self.checkpoint_file = runs.find_checkpoint(str(settings.ckpt_path), root, folder.name)
            settings.ckpt_path = str(self.checkpoint_file)
        elif self.config.subcommand != "fit" and self._is_as_shipped(settings):
            self.checkpoint_file = find_agent(SHIPPED)
            settings.ckpt_path = str(self.checkpoint_file)
        elif settings.get("weights"):
            found = runs.find_checkpoint(settings.weights, root, words.run_name, "weights")
            settings.weights = runs.name_of(found)
        command, file = self.config.subcommand, self.checkpoint_file
        if command != "fit":
            self.start = Start(file, runs.RunFolder(runs.results_folder(file, folder)))
            return
        self.start = Start(file, runs.RunFolder(folder / f"version_{runs.next_version(folder)}", is_new=True))
        if file is not None and self.start.is_in_run:
            own = [command, "--config", str(file.with_name(runs.CONFIG_FILE)), "--ckpt_path", str(file)]
            self.start.stay_if_same(self.parser.parse_args(own)[command], settings)

    # --- building

    def before_instantiate_classes(self) -> None:
        """Check the checkpoint before anything is built or written."""
        self.parser.add_instantiator(self._build_data, self.classes["data"], subclasses=False)
        self.parser.add_instantiator(self._build_model, self.classes["model"], subclasses=False)
        command = str(self.subcommand)
        dump = self.parsers[command].dump(self.config[command], skip_link_targets=False, skip_unset=False)
        self.settings: dict[str, Any] = yaml.safe_load(dump)
        """The settings as plain values."""
        if self.checkpoint_file is not None:
            self._check_checkpoint(self.checkpoint_file)
        if command == "fit":
            return
        self.results.other = cells(differences(self._own_settings(command), self.config[command]))
        if command == "predict":
            first = self.start.folder.path / result_name(command, self.checkpoint_file, "")
            self.start.folder = runs.RunFolder(place(first, self.results.other))

    def _check_checkpoint(self, file: Path) -> None:
        self.checkpoint = checkpoints.read_checkpoint(
            file, to_resume=self.subcommand == "fit", recorded=self._recorded
        )
        resolved = getattr(self.classes["data"], "resolved", dict)
        with naming_settings(self.classes, dict(self.config[self.config.subcommand].items())):
            data = resolved(self.settings["data"])
        wanted = {name: data[name] for name in self.shared}
        transfers = getattr(self.model_class, "transfers", lambda settings: False)
        if self.subcommand != "fit" and transfers(self.settings.get("model") or {}):
            for changed in checkpoints.changed_files(self.checkpoint, wanted.pop("scenario")):
                text = f"{changed} has changed since {file} was trained with it"
                warnings.warn(text, HadrlWarning, stacklevel=1)
        instead = f"; --weights {file} begins a new training with what it has learnt"
        checkpoints.check_settings(file, self.checkpoint, wanted, instead if self.subcommand == "fit" else "")
        if self.subcommand == "fit":
            self.start.check(self.checkpoint, self.settings["trainer"]["max_epochs"])

    def _own_settings(self, command: str) -> Namespace:
        """The agent's own settings: those it was trained with, or those of the files where nothing trained it."""
        file = self.checkpoint_file
        own = runs.settings_of(file) if file is not None else None
        if file is not None and is_shipped(file) and file.name == SHIPPED:
            own = None  # it has no settings that those of a network could differ from
        configs = read_words(self.command_line).configs if own is None else [own]
        if file is not None and own is None and self._recorded and not is_shipped(file):
            configs = []
            self._set_known_defaults(self.parsers[command], checkpoints.settings_in(self.checkpoint))
        words = [word for config in configs for word in ("--config", config)]
        return self.parser.parse_args([command, *words])[command]

    def _build_data(self, cls: type, *args: Any, **kwargs: Any) -> Any:
        kwargs.pop("applied_instantiation_links", None)
        made = cls(*args, **kwargs)
        self._shared_values = {
            name: getattr(made, name, kwargs[name]) for name in self.shared
        }  # files may say more
        return made

    def _build_model(self, cls: type, *args: Any, **kwargs: Any) -> Any:
        kwargs.pop("applied_instantiation_links", None)
        return cls(*args, **kwargs, **self._shared_values)

    def instantiate_classes(self) -> None:
        """Build data, model, callbacks and Trainer; have the model begin with the weights that are asked for."""
        with naming_settings(self.classes, dict(self.config[self.config.subcommand].items())):
            super().instantiate_classes()
        if self.checkpoint_file is not None:
            checkpoints.check_weights(self.checkpoint_file, self.checkpoint, self.model)
        elif self.settings.get("weights"):
            self.model.load_weights(self.settings["weights"])
        self.checkpoint = {}  # the Trainer loads it again: don't hold it twice

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """A Trainer with our loggers and checkpoint files, where the settings don't ask for others."""
        settings = self.config_init[self.config.subcommand].trainer
        for key in unwanted_callbacks(settings, self.callback_classes):
            self.parsers[self.config.subcommand].callback_keys.remove(key)
        kwargs["logger"] = make_loggers(settings.get("logger"), self.config.subcommand, self.start)
        plugins = settings.get("plugins") or []
        plugins = list(plugins) if isinstance(plugins, list) else [plugins]
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            plugins.append(checkpoints.AtomicCheckpointIO())
        if settings.get("barebones"):
            raise HadrlError(
                "trainer.barebones must be false, got true: a run needs its loggers and checkpoints"
            )
        with trainer_mistakes(ValueError, TypeError, ImportError):
            trainer = super().instantiate_trainer(plugins=plugins, **kwargs)
        check_trainer(trainer)
        assert isinstance(trainer, RunTrainer)
        if not getattr(trainer, "fast_dev_run", False):
            trainer.folder = self.start.folder
        metrics = next((logger for logger in trainer.loggers if isinstance(logger, MetricsLogger)), None)
        if metrics is not None:
            metrics.current_epoch = lambda: trainer.current_epoch
        for callback in _callbacks(trainer):
            if isinstance(callback, SaveRun):
                callback.metrics, callback.is_new = metrics, self.start.folder.is_new
                callback.config = _without_checkpoint(callback.config)
        _callbacks(trainer)[:0] = [self.stop, self.results]
        return trainer

    # --- running

    def _run_subcommand(self, subcommand: str) -> None:
        """Run, until the end, a signal or the loss of a rank; what ends it early says how to go on."""
        if self.start.is_finished:
            show(f"Finished already, all {self.settings['trainer']['max_epochs']} epochs and the test")
            show(f"Outputs: {os.path.relpath(self.start.folder.path)}")
            return
        with (
            self.stop.signals.handled(),
            ending_in_one_line(self.stop, self.command_line, self._folder),
            naming_lost_ranks(lambda: resuming(self.command_line, self._folder())),
            self._leaving_nothing(),
            resuming_from(self.checkpoint_file),
            trainer_mistakes(),
        ):
            super()._run_subcommand(subcommand)

    @contextmanager
    def _leaving_nothing(self) -> Iterator[None]:
        """Within, a mistake that is found before there is anything to keep leaves no folder behind."""
        try:
            yield
        except HadrlError as error:
            if type(error) is HadrlError and self.subcommand == "fit" and self.trainer.is_global_zero:
                self.start.folder.discard()
            raise

    def _folder(self) -> Path | None:
        """Where the training at hand keeps its checkpoints; None if nothing is trained."""
        keeps = any(isinstance(one, Checkpointing) for one in _callbacks(self.trainer))
        return self.start.folder.path if self.subcommand == "fit" and keeps else None

    def before_fit(self) -> None:
        """Check what strategy and callbacks ask for, and reserve the run's folder."""
        if isinstance(self.trainer.strategy, EnsembleParallelStrategy):
            require_members(self.model, self.trainer.world_size)
        for callback in _callbacks(self.trainer):
            getattr(callback, "check_model", lambda model: None)(self.model)
        if self.datamodule is not None:
            check_parts(self.trainer, self.datamodule)
        spare_the_collector()
        if getattr(self.trainer, "fast_dev_run", False):
            return
        if getattr(rank_zero_only, "rank", 0) == 0:
            self.start.make_folder()
        for callback in _callbacks(self.trainer):  # those of the user
            ours = isinstance(callback, Checkpointing)
            if isinstance(callback, ModelCheckpoint) and not ours and callback.dirpath is None:
                callback.dirpath = str(self.start.folder.path / "checkpoints")
        self._tell(*self.notices, self.start.notice())

    def after_fit(self) -> None:
        """Judge the best checkpoint of the run, as `test` does, and say where everything is."""
        if self.trainer.interrupted:
            return
        folder = Path(self.trainer.log_dir or ".")  # asks all ranks
        dry = getattr(self.trainer, "fast_dev_run", False)
        names = () if dry or self._folder() is None else (checkpoints.BEST, checkpoints.LAST)
        tested = next((str(folder / name) for name in names if (folder / name).is_file()), None)
        self.trainer.test(self.model, datamodule=self.datamodule, ckpt_path=tested, verbose=False)
        if self.trainer.is_global_zero and not dry:
            show(f"Outputs: {os.path.relpath(folder)}")

    def before_validate(self) -> None:
        """Say whose settings hold."""
        self._tell(*self.notices)

    before_test = before_predict = before_validate

    def after_validate(self) -> None:
        """Say where the results are."""
        if self.results.written is not None:
            show(f"Outputs: {os.path.relpath(self.results.written)}")

    after_test = after_validate

    def after_predict(self) -> None:
        """Record the settings that are not the agent's own beside the decisions, and say where."""
        evaluation = self.settings.get("evaluation") or {}
        if self.trainer.is_global_zero and self.results.other and not evaluation.get("output_dir"):
            file = self.start.folder.path / SETTINGS_FILE
            write_row(file, self.results.other)
            show(f"Settings that are not the agent's own: {os.path.relpath(file)}")

    def _tell(self, *notices: str | None) -> None:
        for notice in filter(None, notices):
            warnings.warn(notice, HadrlWarning, stacklevel=2)


def run(args: Sequence[str] | None = None) -> None:
    """Parse `args`, or the command line of the process, and carry them out."""
    from hadrl_lightning.agents import HADRL
    from hadrl_lightning.callbacks import default_callbacks
    from hadrl_lightning.data import TransitionDataModule

    callbacks: dict[str, type[Callback]] = {"checkpointing": Checkpointing, **default_callbacks()}
    HadrlCLI(HADRL, TransitionDataModule, callbacks, load_config(BASE), args)


_kept: deque[tuple[tuple[Any, ...], dict[str, Any]]] = deque(maxlen=KEPT)
"""What parsers depend on, and the attributes of a command line that hold them, as they were built."""


def _asks_for_texts(words: Sequence[str]) -> bool:
    """Whether a command line shows texts on settings, which are read from the source of all classes."""
    return any(word == "-h" or "help" in word or "comments" in word for word in words)


def _without_checkpoint(config: Namespace) -> Namespace:
    """Settings that start a run anew, also if this one was resumed."""
    config = config.clone()
    config.ckpt_path = None
    return config


def _as_dict(value: Any) -> Any:
    return value.as_dict() if isinstance(value, Namespace) else value


def _callbacks(trainer: Trainer) -> list[Callback]:
    return getattr(trainer, "callbacks", [])


def _parameters(cls: type) -> list[str]:
    return list(inspect.signature(cls).parameters)

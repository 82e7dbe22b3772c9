"""HadrlCLI: LightningCLI with shipped settings, one folder a run, and resuming in place."""

import argparse
import inspect
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import Namespace, set_parsing_settings
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.core.mixins.hparams_mixin import _given_hyperparameters_context
from lightning.pytorch.plugins import CheckpointIO
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from ..agents import check_trainer
from ..config_files import BASE, load_config, refuse_nulls
from ..parallel import EnsembleParallelStrategy, require_members
from ..process import quieten, spare_the_collector
from . import checkpoints, ranks, runs
from .loggers import EventsLogger, MetricsLogger, Rows
from .loops import row_to_come
from .mistakes import naming_settings, trainer_mistakes
from .parser import ConfigByName, HadrlParser
from .signals import StopSignals
from .stopping import GracefulStop, ending_in_one_line, resuming

SHARED = ("scenario", "physics", "seed")
"""Settings of the data that the model takes over: the two can't contradict each other."""


class SaveRun(SaveConfigCallback):
    """Saves the settings of a training as config.yaml in its folder, and in every checkpoint the rows logged so far."""

    @property
    def state_key(self) -> str:
        """Key of this callback's state in a checkpoint."""
        return "SaveRun"

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Save config.yaml; other commands than fit leave that of the training alone."""
        if stage == "fit" and trainer.loggers:
            super().setup(trainer, pl_module, stage)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Store how many rows metrics.csv has, and the one that comes next."""
        if self.metrics is not None:
            rows = Rows(self.metrics.num_rows, row_to_come(trainer))
            checkpoint["callbacks"][self.state_key] = rows._asdict()

    metrics: MetricsLogger | None = None


class HadrlCLI(LightningCLI):
    """The command line of a model and its data.

    A run writes into `checkpoints/<config names>/version_N/` below `trainer.default_root_dir`. Validation, test and
    prediction write beside the checkpoint they use, in files named after the command and the checkpoint.

    Args:
        model_class: The module to train.
        datamodule_class: Its data. `scenario` and `physics`, where both have them, are settings of the data alone and
            handed to the model.
        callbacks: Callbacks that every run has, by the key of their settings.
        trainer_defaults: Defaults of the Trainer's settings.
        args: The command line; that of the process if None.
    """

    def __init__(
        self,
        model_class: type[LightningModule],
        datamodule_class: type[LightningDataModule],
        callbacks: dict[str, type[Callback]] | None = None,
        trainer_defaults: dict[str, Any] | None = None,
        args: Sequence[str] | None = None,
    ) -> None:
        """Parse and run."""
        set_parsing_settings(docstring_parse_attribute_docstrings=True)
        quieten()
        self.command_line = list(sys.argv[1:] if args is None else args)
        self.callback_classes = callbacks or {}
        self.classes: dict[str, type] = {
            "data": datamodule_class,
            "model": model_class,
            **self.callback_classes,
        }
        both = set(_parameters(model_class)) & set(_parameters(datamodule_class))
        self.shared = [name for name in SHARED if name in both]
        self.run_folder: Path | None = None
        self.checkpoint_file: Path | None = None
        self.checkpoint: dict[str, Any] = {}
        self.stop = GracefulStop(StopSignals())
        self.parsers: dict[str, LightningArgumentParser] = {}
        asked = [word for word in self.command_line[:1] if word in LightningCLI.subcommands()]
        if asked and "JSONARGPARSE_ADD_PRINT_COMPLETION_ARGUMENT" not in os.environ:
            # the others only where they matter: each takes a while to build
            self.subcommands = lambda: {name: LightningCLI.subcommands()[name] for name in asked}  # type: ignore[method-assign]
        super().__init__(
            model_class,
            datamodule_class,
            save_config_callback=SaveRun,
            save_config_kwargs={"overwrite": True},
            trainer_defaults=trainer_defaults,
            seed_everything_default=0,
            parser_class=HadrlParser,
            auto_configure_optimizers=False,
            args=self.command_line,
        )

    # --- parsing

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
        """The callbacks show the results: Lightning's own list of them is off unless asked for."""
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        self.parsers[subcommand] = parser
        if subcommand in ("validate", "test"):
            parser.set_defaults({"verbose": False})
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

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse; without a `--config`, go by the settings that belong to the checkpoint."""
        words = list(self.command_line)
        configs, ckpt_path, root_dir = _given(words)
        if ckpt_path is not None:
            name = runs.run_name(configs) if configs else None
            found = runs.find_checkpoint(ckpt_path, Path(root_dir or ".") / "checkpoints", name)
            saved = runs.settings_of(found)
            if not configs and saved is not None:
                words[1:1] = ["--config", saved]
        self.config = parser.parse_args(words)
        subcommand = self.config.subcommand
        refuse_nulls(self.parsers[subcommand], self.config[subcommand])

    def _parse_ckpt_path(self) -> None:
        """Find checkpoint and folder of the run. The base class would let the checkpoint's settings win here."""
        settings = self.config[self.config.subcommand]
        configs = [path.relative for path in settings.get("config") or [] if path is not None]
        root = Path(settings.trainer.default_root_dir or ".") / "checkpoints"
        self.run_folder = root / runs.run_name(configs)
        if settings.ckpt_path:
            name = runs.run_name(configs) if _given(self.command_line)[0] else None
            self.checkpoint_file = runs.find_checkpoint(str(settings.ckpt_path), root, name)
            settings.ckpt_path = str(self.checkpoint_file)

    # --- building

    def before_instantiate_classes(self) -> None:
        """Check the checkpoint before anything is built or written."""
        self._dump_config()
        if self.checkpoint_file is None:
            return
        self.checkpoint = checkpoints.read_checkpoint(
            self.checkpoint_file, to_resume=self.subcommand == "fit"
        )
        wanted = {name: self.config_dump["data"][name] for name in self.shared}
        transfers = getattr(self.model_class, "transfers", lambda settings: False)
        if self.subcommand != "fit" and transfers(self.config_dump.get("model") or {}):
            del wanted["scenario"]
        checkpoints.check_settings(self.checkpoint_file, self.checkpoint, wanted)

    def _add_instantiators(self) -> None:
        self.parser.add_instantiator(self._build_data, self.classes["data"], subclasses=False)
        self.parser.add_instantiator(self._build_model, self.classes["model"], subclasses=False)

    def _build_data(
        self, cls: type, *args: Any, applied_instantiation_links: Any = None, **kwargs: Any
    ) -> Any:
        self._shared_values = {name: kwargs[name] for name in self.shared}
        with _given_hyperparameters_context(
            hparams=dict(self.config_dump["data"]), instantiator="lightning.pytorch.cli.instantiate_module"
        ):
            return cls(*args, **kwargs)

    def _build_model(
        self, cls: type, *args: Any, applied_instantiation_links: Any = None, **kwargs: Any
    ) -> Any:
        shared = {name: self.config_dump["data"][name] for name in self.shared}
        with _given_hyperparameters_context(
            hparams={**(self.config_dump.get("model") or {}), **shared},
            instantiator="lightning.pytorch.cli.instantiate_module",
        ):
            return cls(*args, **kwargs, **self._shared_values)

    def instantiate_classes(self) -> None:
        """Build data, model, callbacks and Trainer."""
        with naming_settings(self.classes, dict(self.config[self.config.subcommand].items())):
            super().instantiate_classes()
        if self.checkpoint_file is not None:
            checkpoints.check_weights(self.checkpoint_file, self.checkpoint, self.model)
        self.checkpoint = {}  # the Trainer loads it again: don't hold it twice

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """A Trainer with our loggers and checkpoint files, where the settings don't ask for others."""
        settings = self.config_init[self.config.subcommand].trainer
        self._leave_out_callbacks(settings)
        if settings.get("logger") in (None, True):
            kwargs["logger"] = self._loggers()
        plugins = settings.get("plugins") or []
        plugins = list(plugins) if isinstance(plugins, list) else [plugins]
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            plugins.append(checkpoints.AtomicCheckpointIO())
        with trainer_mistakes():
            trainer = super().instantiate_trainer(plugins=plugins, **kwargs)
        check_trainer(trainer)
        metrics = next((logger for logger in trainer.loggers if isinstance(logger, MetricsLogger)), None)
        if metrics is not None:
            metrics.current_epoch = lambda: trainer.current_epoch
        for callback in _callbacks(trainer):
            if isinstance(callback, SaveRun):
                callback.metrics = metrics
                callback.config = _without_checkpoint(callback.config)
        _callbacks(trainer).insert(0, self.stop)
        return trainer

    def _leave_out_callbacks(self, settings: Namespace) -> None:
        """Leave out our progress bar and checkpoints where the Trainer's settings want none, or another bar."""
        given = settings.get("callbacks") or []
        bars = [
            one for one in (given if isinstance(given, list) else [given]) if isinstance(one, ProgressBar)
        ]
        unwanted: list[type[Callback]] = []
        if bars or settings.get("enable_progress_bar") is False:
            unwanted.append(ProgressBar)
        if settings.get("enable_checkpointing") is False:
            unwanted.append(ModelCheckpoint)
        keys = self.parsers[self.config.subcommand].callback_keys
        for key, callback_class in self.callback_classes.items():
            if issubclass(callback_class, tuple(unwanted)):
                keys.remove(key)

    def _loggers(self) -> list[Any]:
        """TensorBoard events and metrics.csv for fit, else one file beside the checkpoint."""
        assert self.run_folder is not None
        file = self.checkpoint_file
        if self.subcommand != "fit":
            folder = runs.results_folder(file, self.run_folder.absolute())
            name = f"{self.subcommand}-{file.stem}.csv" if file is not None else f"{self.subcommand}.csv"
            return [MetricsLogger(folder, name)]
        kept = Rows()
        if self._resumes_in_place():
            assert file is not None
            folder = file.absolute().parent
            kept = Rows(**self.checkpoint.get("callbacks", {}).get("SaveRun", {}))
        else:
            folder = self.run_folder.absolute() / f"version_{runs.next_version(self.run_folder)}"
        events = EventsLogger(folder.parent, name="", version=folder.name, default_hp_metric=False)
        return [events, MetricsLogger(folder, runs.METRICS_FILE, kept)]

    def _resumes_in_place(self) -> bool:
        """Whether the checkpoint lies in the folder of a run, which then goes on there."""
        if self.checkpoint_file is None:
            return False
        folder = self.checkpoint_file.absolute().parent
        return runs.version_of(folder) is not None and (folder / runs.CONFIG_FILE).is_file()

    # --- running

    def _run_subcommand(self, subcommand: str) -> None:
        """Run, until the end, a signal or the loss of a rank; what ends it early says how to go on."""
        with (
            self.stop.signals.handled(),
            ending_in_one_line(self.stop, self.command_line, self._folder),
            ranks.naming_lost_ranks(lambda: resuming(self.command_line, self._folder())),
        ):
            super()._run_subcommand(subcommand)

    def _folder(self) -> Path | None:
        """Where the training at hand keeps its checkpoints; None if nothing is trained."""
        if self.subcommand != "fit":
            return None
        keeper = next((one for one in _callbacks(self.trainer) if isinstance(one, ModelCheckpoint)), None)
        return Path(keeper.dirpath) if keeper is not None and keeper.dirpath is not None else None

    def before_fit(self) -> None:
        """Check what the strategy asks for, reserve the run's folder, and have checkpoints written into it."""
        if isinstance(self.trainer.strategy, EnsembleParallelStrategy):
            require_members(self.model, self.trainer.world_size)
        spare_the_collector()
        ours = [logger for logger in self.trainer.loggers if isinstance(logger, EventsLogger | MetricsLogger)]
        if not ours or getattr(self.trainer, "fast_dev_run", False):
            return
        folder = Path(str(ours[0].log_dir))
        if not self._resumes_in_place() and getattr(rank_zero_only, "rank", 0) == 0:
            number = runs.version_of(folder)
            assert number is not None
            version = f"version_{runs.reserve_version(folder.parent, number)}"
            folder = folder.parent / version
            for logger in ours:
                logger._version = version
        for callback in _callbacks(self.trainer):
            if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
                callback.dirpath = str(folder)

    def after_fit(self) -> None:
        """Judge the best checkpoint of the run, as `test` does, and say where everything is."""
        if self.trainer.interrupted or not self.trainer.loggers:
            return
        folder = Path(self.trainer.log_dir or ".")  # asks all ranks
        best = folder / "best.ckpt"
        ckpt_path = str(best) if best.is_file() else None
        self.trainer.test(self.model, datamodule=self.datamodule, ckpt_path=ckpt_path, verbose=False)
        if self.trainer.is_global_zero:
            print(f"Outputs: {os.path.relpath(folder)}")


def run(args: Sequence[str] | None = None) -> None:
    """Parse `args`, or the command line of the process, and carry them out."""
    from ..agents import HADRL
    from ..callbacks import default_callbacks
    from ..data import TransitionDataModule

    callbacks: dict[str, type[Callback]] = {"checkpointing": checkpoints.Checkpointing, **default_callbacks()}
    trainer_defaults = load_config(BASE)["trainer"]
    HadrlCLI(HADRL, TransitionDataModule, callbacks, trainer_defaults, args)


def _given(words: Sequence[str]) -> tuple[list[str], str | None, str | None]:
    """The settings files, the checkpoint and the root directory that a command line names."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("-c", "--config", action="append", default=[])
    parser.add_argument("--ckpt_path")
    parser.add_argument("--trainer.default_root_dir", dest="root_dir")
    try:
        known, _ = parser.parse_known_args(list(words))
    except argparse.ArgumentError:
        return [], None, None  # the real parser says what is wrong
    return known.config, known.ckpt_path, known.root_dir


def _without_checkpoint(config: Namespace) -> Namespace:
    """Settings that start a run anew, also if this one was resumed."""
    config = config.clone()
    config.ckpt_path = None
    return config


def _callbacks(trainer: Trainer) -> list[Callback]:
    return getattr(trainer, "callbacks", [])


def _parameters(cls: type) -> list[str]:
    return list(inspect.signature(cls).parameters)

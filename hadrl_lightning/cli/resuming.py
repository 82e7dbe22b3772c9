"""How a training goes on: with the settings of its run, in its folder as long as nothing differs from what it was."""

import argparse
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from jsonargparse import Namespace
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, ProgressBar

from hadrl_lightning.cli import runs
from hadrl_lightning.cli.checkpoints import BEST, LAST, plain
from hadrl_lightning.cli.loggers import EventsLogger, MetricsLogger, Rows
from hadrl_lightning.cli.outputs import matters, result_name
from hadrl_lightning.config_files import load_config
from hadrl_lightning.errors import HadrlError
from hadrl_lightning.files import load_tensors, replacing

NO_DIFFERENCE = ("config", "ckpt_path", "weights")
"""Settings that say where a training begins, not what it does."""


class Start:
    """What a command starts from, and the folder that it writes into.

    Args:
        file: the checkpoint; None without one.
        folder: as it is without a checkpoint of a run.
    """

    def __init__(self, file: Path | None, folder: runs.RunFolder) -> None:
        self.file = file
        self.folder = folder
        self.kept = Rows()
        """Rows of the metrics of the run that goes on."""
        self.is_finished = False
        """Whether nothing is left to do."""
        self._different: dict[str, tuple[Any, Any]] = {}
        self._best: Path | None = None

    @property
    def is_in_run(self) -> bool:
        """Whether the checkpoint lies in the folder of a run."""
        return self.file is not None and runs.is_in_run(self.file)

    @property
    def earlier_metrics(self) -> Path | None:
        """The metrics of the run that goes on."""
        return self.file.with_name(runs.METRICS_FILE) if self.file is not None and self.is_in_run else None

    def stay_if_same(self, own: Namespace, present: Namespace) -> None:
        """Stay in the folder of the run, if nothing differs from its settings and the checkpoint is its last one."""
        assert self.file is not None
        self._different = differences(own, present)
        if not self._different and self.file.name == LAST:
            self.folder = runs.RunFolder(self.file.absolute().parent)

    def check(self, checkpoint: Mapping[str, Any], max_epochs: int | None) -> None:
        """Look at what is left to train, and at what is kept.

        Raises:
            HadrlError: no epoch is left.
        """
        assert self.file is not None
        if not check_epochs(self.file, checkpoint, max_epochs, self.folder.is_new):
            self.is_finished = has_result(self.folder.path)
        if self.is_in_run:
            self.kept = Rows(**checkpoint.get("callbacks", {}).get("SaveRun", {}))
            self._best = best_so_far(self.file, checkpoint) if self.folder.is_new else None

    def make_folder(self) -> None:
        """Make the folder, if it is new, and take the best checkpoint so far into it; on rank 0.

        Raises:
            OutputError: it can't be written.
        """
        self.folder.reserve()
        if self._best is not None:
            with replacing(self.folder.path / BEST) as temporary:
                shutil.copyfile(self._best, temporary)

    def notice(self) -> str | None:
        """What the user is told where a training doesn't go on in the folder of the run that it comes from."""
        if self.file is None or not self.is_in_run or not self.folder.is_new:
            return None
        folder = os.path.relpath(self.folder.path)
        reason = in_words(self._different) or f"{self.file.name} is not the last one of its run"
        return f"{os.path.relpath(self.file)} goes on in the new folder {folder}: {reason}"


class Words(NamedTuple):
    """What a command line names, as far as it matters before the settings are parsed."""

    command: str
    configs: list[str]
    ckpt_path: str | None
    weights: str | None
    root: Path
    """Folder `checkpoints` of all runs."""
    others: list[str]
    """The words without the settings files."""

    @property
    def run_name(self) -> str | None:
        """Name of the runs of the settings files; None without any."""
        return runs.run_name(self.configs) if self.configs else None

    def check(self) -> None:
        """Raise HadrlError if the words contradict each other."""
        if self.weights is None:
            return
        if self.command != "fit":
            raise HadrlError(f"weights must be given to fit alone, got {self.weights!r} with {self.command}")
        if self.ckpt_path is not None:
            raise HadrlError(
                "weights must not be given beside ckpt_path, which holds them and all else, "
                f"got {self.weights!r} and {self.ckpt_path!r}"
            )


def read_words(words: Sequence[str]) -> Words:
    """Look for what the words name; what is wrong with them the real parser says."""
    files = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    files.add_argument("-c", "--config", action="append", default=[])
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--ckpt_path")
    parser.add_argument("--weights")
    parser.add_argument("--trainer.default_root_dir", dest="root")
    try:
        configs, others = files.parse_known_args(list(words))
        known, _ = parser.parse_known_args(others)
    except argparse.ArgumentError:
        return Words("", [], None, None, Path("checkpoints"), list(words))
    root = runs_root(configs.config, known.root)
    command = words[0] if words else ""
    return Words(command, configs.config, known.ckpt_path, known.weights, root, others)


def runs_root(configs: Sequence[str], told: str | None = None) -> Path:
    """Where runs lie: below the `trainer.default_root_dir` that is told, else that of the last settings file with one.

    What is wrong with the files the parser says.
    """
    root: Any = None
    for name in configs if not told else ():
        with suppress(HadrlError):
            trainer = load_config(name).get("trainer")
            if isinstance(trainer, Mapping):
                root = trainer.get("default_root_dir", root)
    return Path(str(told or root or ".")) / "checkpoints"


def differences(own: Namespace, present: Namespace) -> dict[str, tuple[Any, Any]]:
    """Settings by dotted key that are not as they were: then and now."""
    then, now = _flat(own), _flat(present)
    keys = [*now, *(key for key in then if key not in now)]
    return {key: (then.get(key), now.get(key)) for key in keys if then.get(key) != now.get(key)}


def in_words(different: Mapping[str, tuple[Any, Any]], when: str = "before") -> str:
    """`data.seed is 1 (before: 0), …`: the first three."""
    parts = [f"{key} is {_shown(now)} ({when}: {_shown(then)})" for key, (then, now) in different.items()]
    more = len(parts) - 3
    return ", ".join(parts[:3]) + (f" and {more} more" if more > 0 else "")


def check_epochs(
    path: Path, checkpoint: Mapping[str, Any], max_epochs: int | None, in_new_folder: bool
) -> bool:
    """Whether an epoch is left to train; in its own folder, what follows the last one may still be.

    Raises:
        HadrlError: none is left, or less than none.
    """
    behind = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
    if max_epochs in (None, -1) or behind < max_epochs:
        return True
    if behind > max_epochs or in_new_folder:
        raise HadrlError(
            f"trainer.max_epochs must be more than {behind}, the epochs behind ckpt_path {path}, got {max_epochs}"
        )
    return False


COPIED_IN_S = 2.0
"""By so much a result may seem older than its checkpoint: a copy of a run gives files times in any order."""


def has_result(folder: Path) -> bool:
    """Whether the test at the end of a training has been made, of the checkpoint that is there."""
    tested = folder / BEST if (folder / BEST).is_file() else folder / LAST
    result = folder / result_name("test", tested.name)
    return result.is_file() and result.stat().st_mtime > tested.stat().st_mtime - COPIED_IN_S


def best_so_far(path: Path, checkpoint: Mapping[str, Any]) -> Path | None:
    """The best checkpoint of the run up to a checkpoint of it; None where a later one has taken its place."""
    best = path.with_name(BEST)
    if not best.is_file() or path.name in (LAST, BEST):
        return best if best.is_file() else None
    scores = [_best_score(contents) for contents in (checkpoint, load_tensors(best))]
    return best if scores[0] is not None and scores[0] == scores[1] else None


def _best_score(checkpoint: Mapping[str, Any]) -> float | None:
    return checkpoint.get("callbacks", {}).get("Checkpointing", {}).get("best_score")


def told_of_own_settings(own: Path, different: Mapping[str, tuple[Any, Any]], command: str) -> str | None:
    """What the user is told where the run's settings hold, and the files that name the run say otherwise."""
    if command != "fit":
        different = {key: values for key, values in different.items() if matters(key)}
    does = "the run goes on" if command == "fit" else "the agent is judged"
    words = f"{does} as {os.path.relpath(own)} says: {in_words(different, 'by the settings files')}"
    return words if different else None


def _flat(settings: Namespace) -> dict[str, Any]:
    return {key: plain(value) for key, value in settings.items() if key not in NO_DIFFERENCE}


def _shown(value: Any) -> str:
    return "null" if value is None else str(value)


# What of ours a Trainer gets -----------------------------------------------------------------------------------------


def unwanted_callbacks(settings: Namespace, classes: Mapping[str, type[Callback]]) -> list[str]:
    """Keys of our callbacks to leave out: a Trainer wants no progress bar or checkpoints, or has another bar.

    Args:
        settings: of the Trainer, with what they name built.
        classes: ours, by key.
    """
    unwanted: list[type[Callback]] = []
    bars = [one for one in _list(settings.get("callbacks")) if isinstance(one, ProgressBar)]
    if bars or settings.get("enable_progress_bar") is False:
        unwanted.append(ProgressBar)
    if settings.get("enable_checkpointing") is False:
        unwanted.append(ModelCheckpoint)
    return [key for key, one in classes.items() if issubclass(one, tuple(unwanted))]


def make_loggers(given: Any, command: str, start: Start) -> Any:
    """The loggers of a command: those given; for fit beside TensorBoard events, where none are given, and metrics.csv.

    Args:
        given: the Trainer's setting `logger`; False for none at all.
        command: name of the command. Those other than fit leave their results in a file of their own.
        start: tells where to write.
    """
    if given is False or command != "fit":
        return False if given in (None, True) else given
    metrics = MetricsLogger(start.folder, start.kept, start.earlier_metrics)
    if given in (None, True):
        return [EventsLogger(start.folder), metrics]
    return [*_list(given), metrics]


def check_parts(trainer: Trainer, data: LightningDataModule) -> None:
    """Refuse parts of validation and test that hold no batch, before a training: Lightning would when it is their turn.

    Raises:
        HadrlError: there is such a part.
    """
    for name, loader in (("val", data.val_dataloader), ("test", data.test_dataloader)):
        part = getattr(trainer, f"limit_{name}_batches")
        if not isinstance(part, float) or not 0 < part < 1:
            continue
        batches = len(loader())
        if int(part * batches) < 1:
            key = "overfit_batches" if getattr(trainer, "overfit_batches", 0) else f"limit_{name}_batches"
            text = f"trainer.{key} must leave a batch of {name}, which has {batches}, got {part}"
            raise HadrlError(f"{text}: a whole number counts batches")


def _list(given: Any) -> list[Any]:
    if given is None:
        return []
    return list(given) if isinstance(given, list | tuple) else [given]

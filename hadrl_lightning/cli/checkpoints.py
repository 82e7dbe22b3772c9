"""Checkpoint files: written so that an interruption can't damage them, and checked before anything starts."""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import LightningModule

from hadrl_lightning.agent_files import RECORD, check_contents, is_shipped, read_agent, stored_file
from hadrl_lightning.agents.stored import OF_DATA, check_seen
from hadrl_lightning.errors import HadrlError
from hadrl_lightning.files import load_tensors, replacing
from hadrl_lightning.scenario import Scenario

LAST, BEST = "last.ckpt", "best.ckpt"
"""The checkpoints in the folder of a run."""

AGENT = {"state_dict", "hyper_parameters", "pytorch-lightning_version"}
"""What every checkpoint has; that of a trained agent alone has nothing else."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes to a temporary file in the same folder and renames it when it is safely on disk.

    Whatever interrupts a save, the file under its name is the whole new checkpoint or the whole old one. The shipped
    agent is read by any of its names.
    """

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Any = lambda storage, place: storage,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """The contents of the file at `path`, or of the shipped agent where that is one of its names."""
        file = stored_file(path) if is_shipped(Path(path)) else path  # which may be one of remote storage
        return super().load_checkpoint(file, map_location, weights_only)

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Save `checkpoint` at `path`, replacing a file that is there.

        Raises:
            OutputError: the folder can't be written to, or the disk is full.
        """
        if storage_options is not None:
            raise TypeError(
                "storage_options are for remote storage, which AtomicCheckpointIO doesn't write to"
            )
        with replacing(path) as temporary, temporary.open("wb") as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:  # torch's own, about the file that its OSError left half written
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise


def read_checkpoint(path: Path, *, to_resume: bool = False, recorded: bool = False) -> dict[str, Any]:
    """The contents of a checkpoint file, on the CPU.

    Args:
        path: The file.
        to_resume: Whether training shall go on from it, for which weights alone don't suffice.
        recorded: Whether it must hold the record of an agent, and be what was written.

    Raises:
        HadrlError: it is damaged, or not a checkpoint of Lightning.
    """
    try:
        checkpoint = read_agent(path) if recorded else load_tensors(stored_file(path))
    except HadrlError as error:
        raise HadrlError(f"{error}{_other_checkpoint(path)}") from error
    if not isinstance(checkpoint, dict) or not set(checkpoint) >= AGENT:
        raise HadrlError(
            f"ckpt_path must be a checkpoint saved by hadrl fit, got {path}, which holds no agent"
        )
    if to_resume and not {"loops", "optimizer_states"} <= set(checkpoint):
        raise HadrlError(
            f"ckpt_path must be a checkpoint that training can go on from, got {path}, which holds weights alone"
        )
    return checkpoint


def settings_in(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of data and model, by dotted name, that the checkpoint of an agent was made with."""
    model = dict(checkpoint["hyper_parameters"])
    data = {**checkpoint[RECORD]["data"], **{name: model.pop(name) for name in OF_DATA}}
    named = {f"data.{name}": value for name, value in data.items()}
    return plain({**named, **{f"model.{name}": value for name, value in model.items()}})


def last_good(folder: Path) -> str:
    """Which checkpoint in the folder of a run to go on from, in words."""
    good: list[tuple[tuple[int, int], str]] = []
    for name in (BEST, LAST):  # of two of the same age the latter
        with suppress(HadrlError):
            checkpoint = _good(folder / name)
            path = os.path.relpath(folder / name)
            good.append((_progress(checkpoint), f"the last good checkpoint is {path} ({_age(checkpoint)})"))
    return max(reversed(good), key=lambda one: one[0])[1] if good else "there is no checkpoint yet"


def _other_checkpoint(path: Path) -> str:
    """Words about the other checkpoint of the run, if that one is good."""
    others = {LAST: BEST, BEST: LAST}
    if path.name not in others or not (other := path.with_name(others[path.name])).is_file():
        return ""
    try:
        return f"; {other} is good ({_age(_good(other))})"
    except HadrlError:
        return ""


def _good(path: Path) -> Any:
    """The contents of a file that is what was written, where it says what that was.

    Raises:
        HadrlError: it is not.
    """
    contents = load_tensors(path)
    if isinstance(contents, dict) and RECORD in contents:
        check_contents(contents, path)
    return contents


def _age(checkpoint: Any) -> str:
    loops = checkpoint["loops"]["fit_loop"]
    epochs = loops["epoch_progress"]["current"]
    batches = loops["epoch_loop.batch_progress"]["current"]["processed"]
    text = "after " + _count(epochs["processed"], "epoch", "epochs")
    unfinished = epochs["started"] > epochs["processed"]
    return text + (f" and {_count(batches, 'batch', 'batches')}" if unfinished else "")


def _progress(checkpoint: Any) -> tuple[int, int]:
    """Epochs, and batches of the one at hand, that a checkpoint comes after: the larger, the later."""
    loops = checkpoint["loops"]["fit_loop"]
    epochs = loops["epoch_progress"]["current"]
    unfinished = epochs["started"] > epochs["processed"]
    batches = loops["epoch_loop.batch_progress"]["current"]["processed"]
    return epochs["processed"], batches if unfinished else 0


def _count(number: int, one: str, several: str) -> str:
    return f"{number} {one if number == 1 else several}"


def check_settings(
    path: Path, checkpoint: Mapping[str, Any], settings: Mapping[str, Any], instead: str = ""
) -> None:
    """Raise HadrlError if the checkpoint was trained on another scenario or physics than `settings` (of the model).

    Args:
        path: the file.
        checkpoint: its contents.
        settings: those that have to be the same.
        instead: what to do in place of it, in words.
    """
    saved = _saved(checkpoint)
    for changed in changed_files(checkpoint, settings.get("scenario")):
        raise HadrlError(
            f"ckpt_path must be a checkpoint of the same scenario, got {path}: {changed} has changed since{instead}"
        )
    for key in ("scenario", "physics"):
        if key not in saved or key not in settings:
            continue
        there, here = _meant(key, saved[key]), _meant(key, settings[key])
        if there != here:
            difference = _first_difference(key, there, here)
            raise HadrlError(
                f"ckpt_path must be a checkpoint of the same {key}, got {path}: {difference}{instead}"
            )


def _meant(key: str, setting: Any) -> Any:
    """A setting in the one form that stands for all that mean the same, such as the ways to write a range.

    A file that is played is what it holds, wherever it lies.
    """
    if key != "scenario":
        return plain(setting)
    fields = plain(Scenario.from_dict(setting).to_dict())
    for one in (fields["processes"] or {}).values():
        if (one or {}).get("digest"):
            one.pop("file")
    return fields


def changed_files(checkpoint: Mapping[str, Any], scenario: Any) -> list[str]:
    """The files that a scenario plays and that held something else when the checkpoint's was made."""
    there, here = (
        (plain(one or {}).get("processes") or {}) for one in (_saved(checkpoint).get("scenario"), scenario)
    )
    both = [(there[name] or {}, one or {}) for name, one in here.items() if name in there]
    return [
        now["file"]
        for then, now in both
        if then.get("digest") and now.get("file") == then.get("file") and now.get("digest") != then["digest"]
    ]


def _saved(checkpoint: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = checkpoint.get("hyper_parameters", {})
    return found


def check_weights(path: Path, checkpoint: Mapping[str, Any], model: LightningModule) -> None:
    """Raise HadrlError if the weights in the checkpoint don't fit into `model`."""
    saved = checkpoint["state_dict"]
    if isinstance(scenario := getattr(model, "scenario", None), Scenario):
        check_seen("ckpt_path", path, checkpoint, scenario)
    for name, parameter in model.named_parameters():
        if name not in saved:
            raise HadrlError(f"ckpt_path must be a checkpoint of this model, got {path} without {name}")
        if saved[name].shape != parameter.shape:
            raise HadrlError(
                f"ckpt_path must be a checkpoint of a model of the same sizes, got {path}: {name} is "
                f"{list(saved[name].shape)} there and {list(parameter.shape)} with these settings"
            )


def plain(value: Any) -> Any:
    """The same plain value with lists for tuples: YAML and checkpoints differ in that."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def _first_difference(key: str, saved: Any, wanted: Any) -> str:
    if isinstance(saved, Mapping) and isinstance(wanted, Mapping):
        for name in [*wanted, *(name for name in saved if name not in wanted)]:
            if saved.get(name) != wanted.get(name):
                return _first_difference(f"{key}.{name}", saved.get(name), wanted.get(name))
    return f"{key} is {saved!r} there and {wanted!r} in the settings"

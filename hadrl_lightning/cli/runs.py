"""Where a run writes: `checkpoints/<config names>/version_N/`, and which folder `last` and `best` stand for."""

import re
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from hadrl_lightning.agent_files import find_agent, is_shipped, settings_of_shipped
from hadrl_lightning.errors import HadrlError, OutputError
from hadrl_lightning.files import writing

CONFIG_FILE = "config.yaml"
METRICS_FILE = "metrics.csv"
_VERSION = re.compile(r"version_(\d+)")


def run_name(configs: Sequence[str | Path]) -> str:
    """Name of the runs of these settings files: es2, es2-tight, …; `default` without any.

    The settings that a run saved in its folder bear the name of that run.
    """
    names = []
    for config in map(Path, configs):
        in_run = config.name == CONFIG_FILE and version_of(config.absolute().parent) is not None
        names.append(config.absolute().parent.parent.name if in_run else config.stem)
    return "-".join(dict.fromkeys(names)) or "default"


def version_of(folder: Path) -> int | None:
    """N of a folder `…/version_N`, else None."""
    match = _VERSION.fullmatch(folder.name)
    return int(match.group(1)) if match else None


def versions(folder: Path) -> list[tuple[int, Path]]:
    """The folders version_N in `folder`, by rising N."""
    if not folder.is_dir():
        return []
    found = ((version_of(child), child) for child in folder.iterdir() if child.is_dir())
    return sorted((number, child) for number, child in found if number is not None)


def next_version(folder: Path) -> int:
    """The first N above those of all folders version_N in `folder`."""
    return max((number for number, _ in versions(folder)), default=-1) + 1


def reserve_version(folder: Path, version: int) -> int:
    """Create `folder/version_N` with the first free N from `version` on, and return N: two runs never share one.

    Raises:
        OutputError: it can't be created.
    """
    while True:
        path = folder / f"version_{version}"
        try:
            with writing(path):
                path.mkdir(parents=True)
        except OutputError as error:
            if not isinstance(error.__cause__, FileExistsError):
                raise
            version += 1
        else:
            return version


class RunFolder:
    """The folder that a command writes into.

    Args:
        path: where it is. A new one of a training, `…/version_N`, may end as a later number: see `reserve`.
        is_new: whether it is one of a training that begins, or goes on, in a folder of its own.
    """

    def __init__(self, path: Path, is_new: bool = False) -> None:
        self.path = path
        self.is_new = is_new
        self._is_made = False

    def reserve(self) -> None:
        """Create it, if it is new; with the next free number if another run has taken this one by now."""
        number = version_of(self.path)
        if self.is_new and number is not None:
            number = reserve_version(self.path.parent, number)
            self.path = self.path.with_name(f"version_{number}")
            self._is_made = True

    def discard(self) -> None:
        """Remove it, if it was made here and holds neither metrics nor a checkpoint, with empty folders above."""
        kept = [METRICS_FILE, *(file.name for file in self.path.glob("*.ckpt"))]
        if not self._is_made or any((self.path / name).exists() for name in kept):
            return
        shutil.rmtree(self.path, ignore_errors=True)
        with suppress(OSError):  # there are other runs
            self.path.parent.rmdir()
            self.path.parent.parent.rmdir()


def settings_of(checkpoint: Path) -> str | None:
    """The settings that a checkpoint was trained with: the file in its run's folder, or the name of a shipped one."""
    if is_shipped(checkpoint):
        return settings_of_shipped(checkpoint)
    saved = checkpoint.parent / CONFIG_FILE
    return str(saved) if saved.is_file() else None


def name_of(checkpoint: Path) -> str:
    """How settings name a checkpoint: a shipped one by its name, which is the same wherever the package lies."""
    return checkpoint.name if is_shipped(checkpoint) else str(checkpoint)


def is_in_run(checkpoint: Path) -> bool:
    """Whether the checkpoint lies in the folder of a run, `…/version_N` with its settings."""
    folder = checkpoint.absolute().parent
    return version_of(folder) is not None and (folder / CONFIG_FILE).is_file()


def results_folder(checkpoint: Path | None, run_folder: Path) -> Path:
    """Where validate, test and predict write: beside the checkpoint, and for a shipped one below the working folder."""
    if checkpoint is None:
        return run_folder / "untrained"
    return run_folder / "shipped" if is_shipped(checkpoint) else checkpoint.absolute().parent


def find_checkpoint(ckpt_path: str, root: Path, name: str | None, what: str = "ckpt_path") -> Path:
    """The checkpoint file that `ckpt_path` stands for.

    Args:
        ckpt_path: A path, or `last` or `best`: that of the newest run that has one; or the name of a shipped agent.
        root: The folder `checkpoints`.
        name: Which runs `last` and `best` look at; all of them if None.
        what: What the error calls it.

    Raises:
        HadrlError: there is no such file.
    """
    if ckpt_path not in ("last", "best"):
        try:
            return find_agent(ckpt_path, what)
        except HadrlError as error:
            raise HadrlError(f"{error}; last and best stand for those of the newest run") from error
    folders = [root / name] if name is not None else sorted(root.iterdir()) if root.is_dir() else []
    found = [
        (number, checkpoint)
        for folder in folders
        for number, version in versions(folder)
        if (checkpoint := version / f"{ckpt_path}.ckpt").is_file()
    ]
    if not found:
        where = root / (name or "*") / "version_*" / f"{ckpt_path}.ckpt"
        same = "" if name is None else " of the same configs"
        raise HadrlError(f"{what} {ckpt_path} needs an earlier run{same}, found no {where}")
    if name is None:  # runs of several names: their numbers can't be compared
        return max(found, key=lambda entry: entry[1].stat().st_mtime_ns)[1]
    return max(found)[1]

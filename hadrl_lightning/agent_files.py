"""Trained agents by name: a path if there is one, else the file of that name that ships with the package."""

from importlib import resources
from pathlib import Path

from .errors import HadrlError

SUFFIX = ".ckpt"
"""Ending of the files of trained agents."""


def shipped_agents() -> tuple[str, ...]:
    """Names of the trained agents that ship with the package, in alphabetical order."""
    files = resources.files("hadrl_lightning.checkpoints").iterdir()
    return tuple(sorted(file.name for file in files if file.name.endswith(SUFFIX) and file.is_file()))


def find_agent(name: str | Path) -> Path:
    """The file that `name` stands for.

    Raises:
        HadrlError: there is neither such a file nor a shipped agent of that name.
    """
    path = Path(name)
    if path.is_file():
        return path
    shipped = shipped_agents()
    if str(name) in shipped:
        return shipped_folder() / str(name)
    what = "a folder" if path.is_dir() else "no such file"
    raise HadrlError(
        f"ckpt_path must be an existing file or one of the shipped agents ({', '.join(shipped)}), "
        f"got {str(name)!r} ({what})"
    )


def shipped_folder() -> Path:
    """Where the shipped agents lie."""
    return Path(str(resources.files("hadrl_lightning.checkpoints")))


def is_shipped(path: Path) -> bool:
    """Whether the file is one of the shipped agents."""
    return path.absolute().parent == shipped_folder() and path.name in shipped_agents()

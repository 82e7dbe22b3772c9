"""Errors that a user caused or can mend, as opposed to bugs of ours: the command line shows them as one line.

Among them are packages that only some uses need, and that are not installed.
"""

from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

LONGEST_VALUE = 200
LONGEST = 1000
"""Characters of a message that are shown of what was got, and of all of it."""

EXTRAS = {
    "scipy": ("SciPy", "baselines"),
    "stable_baselines3": ("Stable-Baselines3", "baselines"),
    "sb3_contrib": ("sb3-contrib", "baselines"),
    "matplotlib": ("matplotlib", "plots"),
    "ray": ("Ray", "ray"),
    "polars": ("Polars", "files"),
}
"""By the package that is imported: its name, and the extra of this package that has it."""


class HadrlError(ValueError):
    """A request that can't be carried out: one line that names what is wrong, the value and what is allowed.

    The command line prints it without a traceback and ends with the exit status of the class. Of a value of thousands
    of characters it shows the first and the last ones.
    """

    status = 2
    """Exit status of the command line."""

    def __init__(self, message: object) -> None:
        """See the class."""
        before, got, value = str(message).partition(", got ")
        super().__init__(shortened(before + got + shortened(value, LONGEST_VALUE), LONGEST))


def shown(value: object) -> str:
    """A value as Python writes it, in one line that is not too long."""
    return shortened(" ".join(repr(value).split()), LONGEST_VALUE)


def shortened(text: str, longest: int) -> str:
    """The text, without its middle where it is longer than that."""
    if len(text) <= longest:
        return text
    return f"{text[: longest * 3 // 4]} … {text[-(longest // 4) :]}"


class OutputError(HadrlError):
    """A file that can't be written: a full disk, a folder that is not writable."""


class HadrlWarning(UserWarning):
    """Something that the user should know and that stops nothing; the command line shows it in one line, once."""


class NonFiniteError(HadrlError):
    """A number of the training that is infinite or not a number."""

    status = 3


class MissingExtra(HadrlError, ImportError):
    """Packages that are not installed: one line with the command that installs all of them."""


def require(user: str, modules: Sequence[str]) -> list[ModuleType]:
    """The modules of optional packages, such as `scipy.optimize`.

    Args:
        user: what needs them.
        modules: of packages in `EXTRAS`.

    Raises:
        MissingExtra: one or more of them are not installed; the line names all of these.
    """
    found, missing = [], {}
    for module in modules:
        try:
            found.append(import_module(module))
        except ImportError:
            name, extra = EXTRAS[module.partition(".")[0]]
            missing[name] = extra
    if missing:
        extras = ",".join(dict.fromkeys(missing.values()))
        raise MissingExtra(f"{user} needs {', '.join(missing)}: pip install 'hadrl-lightning[{extras}]'")
    return found

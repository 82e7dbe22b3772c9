"""Packages that only some uses need, and the extras that install them."""

from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

from hadrl_lightning.errors import HadrlError

EXTRAS = {
    "scipy": ("SciPy", "baselines"),
    "stable_baselines3": ("Stable-Baselines3", "baselines"),
    "matplotlib": ("matplotlib", "plots"),
    "ray": ("Ray", "ray"),
    "polars": ("Polars", "files"),
}
"""By the package that is imported: its name, and the extra of this package that has it."""


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

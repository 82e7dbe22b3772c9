"""Things that settings name: short names of this package, of others' entry points, and module paths.

MEASURES: Registry[Measure] = Registry("measure", "hadrl_lightning.measures")

@MEASURES.register("variance")
def variance(...): ...

MEASURES.find("variance", "strategy")  # registered
MEASURES.find("theirs", "strategy")  # an entry point of the group that an installed package declares
MEASURES.find("my_module.my_measure", "strategy")  # from the path of Python or the working directory
"""

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any, Generic, TypeVar

T = TypeVar("T")
Entry = TypeVar("Entry")


class Registry(Generic[T]):
    """What can be found by its name.

    Args:
        kind: what the entries are, in a word for errors, such as `measure`.
        group: of entry points, by which installed packages add to the short names; loaded when they are asked for.
        is_one: whether something found can be an entry; a class or a function if nothing else is said.
    """

    def __init__(self, kind: str, group: str, is_one: Callable[[Any], bool] = callable) -> None:
        self.kind = kind
        self.group = group
        self._is_one = is_one
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[Entry], Entry]:
        """A decorator that gives a function or a class a short name.

        Raises:
            ValueError: the name has a dot or is taken, or what is registered can't be an entry.
        """
        if not name or "." in name or name in self._entries:
            raise ValueError(f"name of a {self.kind} must be new and have no dot, got {name!r}")

        def add(entry: Any) -> Any:
            if not self._is_one(entry):
                raise ValueError(f"{name} must be a {self.kind}, got {entry!r}")
            self._entries[name] = entry
            return entry

        return add

    def names(self) -> list[str]:
        """The short names: those registered, in that order, then those of entry points."""
        return list(dict.fromkeys([*self._entries, *sorted(self._entry_points())]))

    def find(self, name: str, field: str) -> T:
        """What is called so.

        Args:
            name: a short name, or a module path with a dot: `my_module.my_measure`.
            field: the setting that holds the name, for errors.

        Raises:
            ValueError: in one line, there is no such thing, it can't be imported, or it is of another kind.
        """
        if name in self._entries:
            return self._entries[name]
        if "." in name:
            return self._checked(_from_module(name, field), name, field)
        found = self._entry_points().get(name)
        if found is None:
            raise ValueError(
                f"{field} must be one of {', '.join(self.names())}, "
                f"or a {self.kind} of your own as module.name, got {name}"
            )
        with _saying(f"{field} must be a {self.kind} that can be imported, got {name} ({found.value})"):
            entry = found.load()
        self._entries[name] = self._checked(entry, name, field)
        return self._entries[name]

    def _checked(self, entry: Any, name: str, field: str) -> T:
        if not self._is_one(entry):
            raise ValueError(f"{field} must be a {self.kind}, got {name}, which is {entry!r:.100}")
        return entry

    def _entry_points(self) -> dict[str, EntryPoint]:
        return {one.name: one for one in entry_points(group=self.group)}


def import_module(name: str) -> ModuleType:
    """Import a module; one of the working directory too, which the path of an installed command lacks."""
    added = "" not in sys.path
    if added:
        sys.path.append("")
    try:
        return importlib.import_module(name)
    finally:
        if added:
            sys.path.remove("")


def _from_module(path: str, field: str) -> Any:
    """What a module path stands for.

    Raises:
        ValueError: the module can't be imported, or has nothing of the name.
    """
    module_name, _, name = path.rpartition(".")
    with _saying(f"{field} must be a module path that can be imported, got {path}"):
        return getattr(import_module(module_name), name)


@contextmanager
def _saying(what: str) -> Iterator[None]:
    """Turn whatever a module raises while it is imported, an exit too, into a ValueError of one line."""
    try:
        yield
    except (Exception, SystemExit) as error:
        why = " ".join(str(error).split())
        raise ValueError(f"{what}: {type(error).__name__}: {why}") from error

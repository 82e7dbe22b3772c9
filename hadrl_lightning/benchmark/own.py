"""What a user adds, such as a policy or a measure: its module is part of what determines a cell; workers import it."""

import hashlib
import inspect
import sys
import uuid
from collections.abc import Iterable, Iterator
from typing import Any

from hadrl_lightning.agents import CACHING_AGENTS, SLOT_MODELS
from hadrl_lightning.benchmark.training import Settings
from hadrl_lightning.planning import MEASURES
from hadrl_lightning.registries import Registry, import_module
from hadrl_lightning.simulator.processes import PROCESSES

PACKAGE = __name__.partition(".")[0]
NAMED: dict[tuple[str, ...], Registry[Any]] = {
    ("data", "scenario", "processes"): PROCESSES,
    ("model", "fast_level"): SLOT_MODELS,
    ("model", "slow_level"): CACHING_AGENTS,
    ("model", "planner", "strategy"): MEASURES,
    ("planning", "planner", "strategy"): MEASURES,
}
"""Settings that name something, or hold settings by the names of some things, and what they can name."""


def named(settings: Settings) -> Iterator[Any]:
    """What the settings of a run name."""
    for (*groups, field), registry in NAMED.items():
        group: Any = settings
        for key in groups:
            group = (group or {}).get(key)
        names = (group or {}).get(field) or ()
        for name in [names] if isinstance(names, str) else names:
            yield registry.find(name, field)


def own_modules(parts: Iterable[Any]) -> dict[str, str]:
    """The modules of functions and classes that are not this package's, by name, with a hash of their source.

    A module without a source, such as an interactive session, has another hash each time: nothing of it is used again.
    """
    names = {_module_of(part) for part in parts}
    return {name: _digest(name) for name in sorted(names) if name.partition(".")[0] != PACKAGE}


def import_modules(names: Iterable[str]) -> None:
    """Import modules that add something. The main program's is run again by Python itself in a worker."""
    for name in names:
        if name not in ("__main__", "__mp_main__"):
            import_module(name)


def _module_of(part: Any) -> str:
    inner = getattr(part, "func", part)  # of functools.partial
    return str(getattr(inner, "__module__", None) or type(inner).__module__)


def _digest(name: str) -> str:
    try:
        source = inspect.getsource(sys.modules[name])
    except (KeyError, OSError, TypeError):
        source = uuid.uuid4().hex
    return hashlib.sha256(source.encode()).hexdigest()[:16]

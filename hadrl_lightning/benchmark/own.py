"""Policies that a user registers: their module is part of what determines a cell, and workers import it."""

import hashlib
import importlib
import inspect
import sys
import uuid
from collections.abc import Iterable
from typing import Any

from hadrl_lightning.benchmark.policies import PairPolicy

PACKAGE = __name__.partition(".")[0]


def own_modules(pair: PairPolicy) -> dict[str, str]:
    """Of the policies that are not this package's the module, by name, with a hash of its source.

    A module without a source, such as an interactive session, has another hash each time: nothing of it is used again.
    """
    names = {_module_of(factory) for factory in pair.factories.values()}
    return {name: _digest(name) for name in sorted(names) if name.partition(".")[0] != PACKAGE}


def import_modules(names: Iterable[str]) -> None:
    """Import modules that register policies. The main program's is run again by Python itself in a worker."""
    for name in names:
        if name not in ("__main__", "__mp_main__"):
            importlib.import_module(name)


def _module_of(factory: Any) -> str:
    inner = getattr(factory, "func", factory)  # of functools.partial
    return str(getattr(inner, "__module__", None) or type(inner).__module__)


def _digest(name: str) -> str:
    try:
        source = inspect.getsource(sys.modules[name])
    except (KeyError, OSError, TypeError):
        source = uuid.uuid4().hex
    return hashlib.sha256(source.encode()).hexdigest()[:16]

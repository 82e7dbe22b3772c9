"""`typed`: a constructor that reads units, and refuses in one line an argument that is not of the type it declares.

`read_settings` does the same for settings that are given by name.
"""

import functools
import inspect
import math
import sys
import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

from hadrl_lightning.errors import HadrlError, shown
from hadrl_lightning.units import read_units

Cls = TypeVar("Cls", bound=type)
T = TypeVar("T")

_WORDS: dict[Any, tuple[str, str]] = {
    bool: ("true or false", "of true or false"),
    int: ("a whole number", "of whole numbers"),
    float: ("a number", "of numbers"),
    str: ("a text", "of texts"),
    type(None): ("none", "of none"),
}
"""What a type is called, and several of it."""


def typed(cls: Cls) -> Cls:
    """Class decorator: the constructor gets its arguments as `read_as` gives them.

    Raises (when the class is called):
        ValueError: an argument is of another type; the line names it, what is allowed and what was given.
    """
    made: Callable[..., None] = vars(cls)["__init__"]
    names = list(inspect.signature(made).parameters)[1:]
    hints = functools.cache(lambda: get_type_hints(made))

    @functools.wraps(made)
    def checked(self: Any, *args: Any, **kwargs: Any) -> None:
        read = {
            name: read_as(name, value, hints().get(name, Any))
            for name, value in (*zip(names, args, strict=False), *kwargs.items())
        }
        in_order = [read[name] for name, _ in zip(names, args, strict=False)]
        made(self, *in_order, *args[len(names) :], **{name: read[name] for name in kwargs})

    cls.__init__ = checked  # type: ignore[misc]
    return cls


def read_as(name: str, value: Any, hint: Any) -> Any:
    """The value of an argument: with a unit a number, of numpy a plain one, a list as a tuple where that is meant.

    Args:
        name: of the argument.
        value: of the argument.
        hint: its type: bool, int, float, str, a literal, a tuple, a class, a union of those. Any other allows all.

    Raises:
        ValueError: the value is of another type.
    """
    found = _as(plain(read_units(value, name)), hint)
    if found is _OTHER:
        raise ValueError(f"{name} must be {_called(hint)}, got {shown(value)}")
    return found


def as_floats(value: Any) -> Any:
    """Lists and arrays become tuples and whole numbers floats, at any depth; all else stays."""
    value = plain(value)
    if isinstance(value, list | tuple):
        return tuple(as_floats(item) for item in value)
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def plain(value: Any) -> Any:
    """A number or an array of numpy's as Python's own numbers and lists; all else stays."""
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value


def read_settings(cls: type[T], given: Mapping[str, Any], field: str) -> T:
    """An object of a dataclass of settings.

    Args:
        cls: the dataclass.
        given: plain values by the names of its fields, read as `read_as` does.
        field: the setting that holds them, for errors.

    Raises:
        HadrlError: a field that the class does not know, one that is missing, or a value that is not allowed; the line
            begins with `field`.
    """
    if not is_dataclass(cls):
        raise HadrlError(f"{field} must be settings of a dataclass, got {cls.__name__}, which is none")
    hints, known = get_type_hints(cls), [one for one in fields(cls) if one.init]
    names = [one.name for one in known]
    for name in given:
        if name not in names:
            raise HadrlError(f"{field} must be of {', '.join(names) or 'no settings'}, got {name}")
    for one in known:
        if one.default is MISSING and one.default_factory is MISSING and one.name not in given:
            raise HadrlError(f"{field} must have {one.name}, got {shown(dict(given))}")
    try:
        return cls(**{name: read_as(name, value, hints[name]) for name, value in given.items()})
    except (TypeError, ValueError) as error:
        raise HadrlError(f"{field}.{error}") from error


_OTHER = object()
"""Stands for a value of another type."""


def _as(value: Any, hint: Any) -> Any:
    kind, parts = get_origin(hint), get_args(hint)
    if kind in (Union, types.UnionType):
        return next((found for part in parts if (found := _as(value, part)) is not _OTHER), _OTHER)
    if kind is Literal:
        return value if any(type(value) is type(part) and value == part for part in parts) else _OTHER
    if kind is tuple:
        return _as_tuple(value, parts)
    if hint in (int, float):
        return value if _is_number(value, whole=hint is int) else _OTHER
    if kind is not None or hint is Any or not isinstance(hint, type) or getattr(hint, "_is_protocol", False):
        return value  # nothing that can be told by its class
    return value if isinstance(value, hint) else _OTHER


def _as_tuple(value: Any, parts: tuple[Any, ...]) -> Any:
    if not isinstance(value, list | tuple):
        return _OTHER
    of_each = parts[:1] * len(value) if parts[-1:] == (...,) else parts
    found = tuple(_as(item, part) for item, part in zip(value, of_each, strict=False))
    return _OTHER if len(value) != len(of_each) or _OTHER in found else found


def _is_number(value: Any, whole: bool) -> bool:
    """Whether it is one, and not NaN or beyond double precision."""
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        return False
    return whole or (value == value and (isinstance(value, float) or abs(value) <= sys.float_info.max))


def _called(hint: Any, several: bool = False) -> str:
    """What may be given, in words."""
    parts = get_args(hint)
    if hint in _WORDS:
        return _WORDS[hint][several]
    if get_origin(hint) is Literal:
        return f"{'of' if several else 'one of'} {', '.join(map(str, parts))}"
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_called(part, several) for part in parts)
    if get_origin(hint) is tuple:
        return "a list " + (_called(parts[0], several=True) if parts[-1:] == (...,) else f"of {len(parts)}")
    return f"a {getattr(hint, '__name__', hint)}"

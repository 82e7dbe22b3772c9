"""Numbers with a unit, such as `20GiB`, `60 GHz` or `30ms`, wherever the name of a setting says what it is in."""

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from hadrl_lightning.errors import HadrlError

_DECIMAL = {"": "1", "k": "1e3", "M": "1e6", "G": "1e9", "T": "1e12"}
_BINARY = {"Ki": 1024, "Mi": 1024**2, "Gi": 1024**3, "Ti": 1024**4}
_BARE = {prefix: factor for prefix, factor in _DECIMAL.items() if prefix}
"""Prefixes without the unit, as in `200M`."""


def _prefixed(unit: str, binary: bool = False) -> dict[str, str]:
    prefixes = {**_DECIMAL, **({name: str(factor) for name, factor in _BINARY.items()} if binary else {})}
    return {prefix + unit: factor for prefix, factor in prefixes.items()}


UNITS: dict[str, dict[str, str]] = {
    "_bytes_per_s": _prefixed("B/s", binary=True) | _BARE,
    "_bit_per_s": _prefixed("bit/s", binary=True) | _BARE,
    "_bytes": _prefixed("B", binary=True) | _BARE,
    "_bits": _prefixed("bit", binary=True) | _BARE,
    "_cycles": _prefixed("cycles") | _BARE,
    "_hz": _prefixed("Hz") | _BARE,
    "_dbm": {"dBm": "1"},
    "_db": {"dB": "1"},
    "_s": {"ns": "1e-9", "us": "1e-6", "µs": "1e-6", "ms": "1e-3", "s": "1", "min": "60", "h": "3600"},
    "_m": {"mm": "1e-3", "cm": "1e-2", "m": "1", "km": "1e3"},
}
"""By the end of a setting's name: its units, each in the unit of the name; the first that fits counts."""

ENDS = ("low", "high")
"""Of a range of numbers, which are in the unit of the setting that is one."""

_NUMBER = re.compile(r"\s*([-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?)\s*(\S*)\s*")


def read_unit(name: str, value: Any) -> Any:
    """The number that a text with a unit stands for, in the unit of the setting.

    Args:
        name: of the setting, dotted or not: its end says the unit, as in `data.scenario.compute_hz`.
        value: of the setting. Texts in lists are read too. What is no text, has no unit or belongs to a name without
            one stays as it is.

    Raises:
        HadrlError: a number with another unit; the line names the setting, what is allowed and the value.
    """
    end = unit_end(name)
    if not end:
        return value
    units = UNITS[end]
    if isinstance(value, list | tuple):
        return type(value)(read_unit(name, item) for item in value)
    match = _NUMBER.fullmatch(value.replace("\u03bc", "\u00b5")) if isinstance(value, str) else None
    if match is None or not match.group(2):
        return value
    number, unit = match.groups()
    if unit not in units:
        allowed = ", ".join(word for word in units if word not in _BARE)
        raise HadrlError(f"{name} must be a number, in one of {allowed} if it has a unit, got {value!r}")
    return _product(number, units[unit])


def with_unit(name: str, value: Any) -> str:
    """A number of the setting with the unit that makes it shortest, such as `200 GiB`; any other value as a text."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(with_unit(name, one) for one in value)}]"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value).lower() if isinstance(value, bool) else str(value)
    unit, factor = common_unit(name, [value])
    return f"{value / factor:g} {unit}" if unit else str(value)


def common_unit(name: str, values: Sequence[int | float]) -> tuple[str, float]:
    """The unit in which numbers of the setting are shortest, none of them below 1 if that can be, and its size.

    Returns:
        `("GiB", 2**30)`; `("", 1)` where the name of the setting says no unit.
    """
    end = unit_end(name)
    if not end:
        return "", 1.0
    sizes = {unit: float(factor) for unit, factor in UNITS[end].items() if unit not in _BARE}
    least = min((abs(value) for value in values if value), default=0.0)
    fitting = [unit for unit, size in sizes.items() if least >= size]
    fitting = fitting or [unit for unit, size in sizes.items() if size == 1]
    shortest = min(fitting, key=lambda unit: sum(len(f"{value / sizes[unit]:g}") for value in values))
    return shortest, sizes[shortest]


def unit_end(name: str) -> str:
    """The end of a setting's name that says its unit, such as `_bytes`; empty where there is none."""
    end = next((end for end in UNITS if name.endswith(end)), "")
    return "" if end == "_s" and name.endswith("_per_s") else end


def read_units(settings: Any, name: str = "") -> Any:
    """Nested settings with a number in place of every text with a unit (see `read_unit`).

    Settings of Lightning's Trainer stay as they are.

    Args:
        settings: nested dictionaries; they are not changed.
        name: dotted name of the group they are.

    Raises:
        HadrlError: a number with a unit of another kind.
    """
    if not isinstance(settings, Mapping):
        return read_unit(name, settings)
    return {
        key: value
        if not name and key == "trainer"
        else read_units(value, name if name and key in ENDS else f"{name}.{key}" if name else str(key))
        for key, value in settings.items()
    }


def read_prefix(text: str) -> Any:
    """The number that a text such as `10k` or `2M` stands for; any other text as it is."""
    match = _NUMBER.fullmatch(text)
    if match is None or match.group(2) not in _DECIMAL:
        return text
    return _product(match.group(1), _DECIMAL[match.group(2)])


def _product(value: str, factor: str) -> int | float:
    """A whole number as such as long as double precision holds it exactly."""
    try:
        number = Decimal(value) * Decimal(factor)
    except ArithmeticError:  # an exponent beyond Decimal's
        return float(value) * float(factor)
    return int(number) if abs(number) < 2**53 and number == number.to_integral_value() else float(number)

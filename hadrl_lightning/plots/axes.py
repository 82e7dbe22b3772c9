"""Axes of sweeps: what a figure calls a setting, and in which unit it shows its values."""

import ast
import math
from typing import Any, NamedTuple

from hadrl_lightning.plots.tables import number
from hadrl_lightning.units import common_unit, unit_end, with_unit

NAMES = {
    "data.scenario.cache_bytes": "cache per server",
    "data.scenario.bandwidth_hz": "bandwidth per server",
    "data.scenario.compute_hz": "compute per server",
    "data.scenario.zipf_exponent": "Zipf exponent",
}
"""What an axis calls a setting, where it is not by the words of the setting's name."""


class Axis(NamedTuple):
    """How a setting that is swept is shown."""

    key: str
    label: str
    """Its name, with its unit in brackets."""
    size: float
    """Of the unit, in the unit of the setting."""

    def short(self, value: str) -> str:
        """A value of the CSV file, in the unit of the axis; a list or a word as a text."""
        if math.isfinite(number(value)):
            return f"{number(value) / self.size:g}"
        return with_unit(self.key, _listed(value))


def axis(key: str, values: list[str]) -> Axis:
    """The axis of the setting `key` for its values in a CSV file, in the unit in which they are shortest."""
    numbers = [one for one in map(number, values) if math.isfinite(one)]
    unit, size = common_unit(key, numbers) if numbers else ("", 1.0)
    words = key.rpartition(".")[2].removesuffix(unit_end(key)).removeprefix("num_").replace("_", " ")
    return Axis(key, NAMES.get(key, words) + (f" ({unit})" if unit else ""), size)


def _listed(value: str) -> Any:
    """The list that a text stands for; any other text as it is."""
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value

"""Reading the CSV files that a benchmark or a run wrote, and what an axis of a sweep calls a setting and its values."""

import ast
import csv
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from hadrl_lightning.errors import HadrlError
from hadrl_lightning.units import common_unit, unit_end, with_unit

Row = dict[str, str]

NAMES = {
    "data.scenario.cache_bytes": "cache per server",
    "data.scenario.bandwidth_hz": "bandwidth per server",
    "data.scenario.compute_hz": "compute per server",
    "data.scenario.zipf_exponent": "Zipf exponent",
}
"""What an axis calls a setting, where it is not by the words of the setting's name."""


def read_rows(path: Path, needed: Iterable[str]) -> list[Row]:
    """The rows of a CSV file; none if it does not exist.

    Raises:
        HadrlError: the file lacks a column, or can't be read.
    """
    if not path.is_file():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise HadrlError(f"{path} must be a readable CSV file, got {error}") from error
    missing = [name for name in needed if rows and name not in rows[0]]
    if missing:
        raise HadrlError(f"{path} must have a column {missing[0]}, got {', '.join(rows[0])}")
    return rows


def number(text: str | None) -> float:
    """The number in a cell; NaN where there is none."""
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan


def distinct(rows: Iterable[Row], column: str) -> list[str]:
    """The values of a column, in the order in which they appear."""
    return list(dict.fromkeys(row[column] for row in rows))


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

"""Reading the CSV files that a benchmark or a run wrote."""

import csv
import math
from collections.abc import Iterable
from pathlib import Path

from hadrl_lightning.errors import HadrlError

Row = dict[str, str]


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

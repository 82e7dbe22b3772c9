"""What runs wrote, as far as two equal runs write the same."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

Value = TypeVar("Value")


def without_times(scores: Mapping[str, Value]) -> dict[str, Value]:
    """Scores by name without how long decisions took, which no two runs share."""
    return {name: one for name, one in scores.items() if not name.endswith(("_ms", "_ms_p95"))}


def rows_without_times(file: Path) -> list[dict[str, str]]:
    """The rows of a CSV file of scores, `without_times`."""
    with file.open(newline="") as opened:
        return [without_times(row) for row in csv.DictReader(opened)]

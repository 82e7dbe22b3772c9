"""What validate, test and predict record, and where: never over what was judged in other settings."""

import csv
import json
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

from hadrl_lightning.files import replacing

SETTINGS_FILE = "settings.csv"
"""In a folder of predictions that were made in other settings than the agent's own: these, as a table of one row."""


def matters(key: str) -> bool:
    """Whether what an agent is judged by depends on a setting, by its dotted name."""
    return key.startswith(("data.", "model.")) or key == "trainer.precision"


def cells(different: Mapping[str, tuple[Any, Any]]) -> dict[str, str]:
    """Settings that a judgement depends on as cells of a table: the values that they have now."""
    values = {key: now for key, (_, now) in different.items() if matters(key)}
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in values.items()}


def place(first: Path, other: Mapping[str, str]) -> Path:
    """The file, or folder, of what is judged: `first` in the agent's own settings, NAME-1, NAME-2, … in others.

    Args:
        first: where it lies in the agent's own settings.
        other: the settings that are not the agent's own, as `cells` gives them.

    Returns:
        The first of them that is free, or that holds what was judged in the same settings.
    """
    if not other and _recorded(first) in (None, {}):
        return first
    numbered = (first.with_name(f"{first.stem}-{number}{first.suffix}") for number in count(1))
    return next(path for path in numbered if _recorded(path) in (None, dict(other)))


def write_row(file: Path, row: Mapping[str, Any]) -> None:
    """Write a table of one row.

    Raises:
        OutputError: the folder can't be written to, or the disk is full.
    """
    with replacing(file) as temporary, temporary.open("w", newline="", encoding="utf-8") as table:
        writer = csv.DictWriter(table, fieldnames=list(row))
        writer.writeheader()
        writer.writerow(row)


def _recorded(path: Path) -> dict[str, str] | None:
    """The settings that are not the agent's own, of a file or a folder of results; None where there is none."""
    if not path.exists():
        return None
    file = path / SETTINGS_FILE if path.is_dir() else path
    if not file.is_file():
        return {}
    with file.open(newline="", encoding="utf-8", errors="replace") as table:
        row = next(csv.DictReader(table), {})
    return {key: value for key, value in row.items() if matters(key or "")}

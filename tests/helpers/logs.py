"""What runs wrote, as far as two equal runs write the same."""

import csv
from pathlib import Path


def rows_without_times(file: Path) -> list[dict[str, str]]:
    """The rows of a CSV file of scores, without how long decisions took, which no two runs share."""
    with file.open(newline="") as opened:
        return [
            {name: one for name, one in row.items() if not name.endswith(("_ms", "_ms_p95"))}
            for row in csv.DictReader(opened)
        ]

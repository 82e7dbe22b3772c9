"""Turn the summaries of `hadrl benchmark` into the Markdown tables of docs/results.md.

python benchmarks/results_table.py checkpoints/results/tight checkpoints/results/published_capacity
"""

import argparse
import csv
from collections import defaultdict
from pathlib import Path

COLUMNS = {
    "hit_ratio": ("hit ratio", "{:.3f}"),
    "ratio_to_optimal_hit_ratio": ("÷ optimum", "{:.3f}"),
    "latency_s": ("Σ latency (s)", "{:.2f}"),
    "ratio_to_own_best_known": ("÷ best known, own caches", "{:.3f}"),
    "ratio_to_best_known": ("÷ best known, hit-optimal caches", "{:.3f}"),
    "on_time": ("deadlines met", "{:.3f}"),
    "energy_j": ("energy (J)", "{:.3f}"),
    "switching_s": ("switching (s)", "{:.0f}"),
}
"""Score of summary.csv, heading and format."""
WITH_INTERVAL = ("hit_ratio", "latency_s", "ratio_to_own_best_known", "ratio_to_best_known")


def cell(row: dict[str, str], name: str) -> str:
    """Mean and 95 % interval of a score."""
    form = COLUMNS[name][1]
    text = form.format(float(row["mean"]))
    if name not in WITH_INTERVAL or row["low"] in ("", "nan") or row["low"] == row["high"]:
        return text
    return f"{text} [{form.format(float(row['low']))}, {form.format(float(row['high']))}]"


def tables(folder: Path) -> str:
    """One table for every scenario of a benchmark folder."""
    groups: dict[tuple[str, str], dict[str, dict[str, str]]] = defaultdict(lambda: defaultdict(dict))
    with (folder / "summary.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if row["metric"] in COLUMNS and row["mean"] not in ("", "nan"):
                key = (row["scenario"], row["sweep_value"])
                groups[key][row["label"]][row["metric"]] = cell(row, row["metric"])
    parts = []
    for (scenario, value), policies in groups.items():
        title = f"### {scenario}" + (f", {value}" if value else "")
        lines = [title, "", "| policy | " + " | ".join(label for label, _ in COLUMNS.values()) + " |"]
        lines.append("|---" * (len(COLUMNS) + 1) + "|")
        for policy, scores in policies.items():
            lines.append(f"| {policy} | " + " | ".join(scores.get(name, "–") for name in COLUMNS) + " |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def main() -> None:
    """Print the tables of all folders."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path, help="outputs of hadrl benchmark")
    for folder in parser.parse_args().folders:
        command = (folder / "command.txt").read_text().strip()
        print(f"## {folder.name}\n\n```\n{command}\n```\n\n{tables(folder)}\n")


if __name__ == "__main__":
    main()

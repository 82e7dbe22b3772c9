"""Turn the output of `hadrl benchmark` into a page beside its folder: commands, versions, tables, figures, CSV files.

python benchmarks/results_page.py docs/results/capacity --title "HADRL and heuristics, by capacity"
python benchmarks/results_page.py docs/results/capacity --readme            # the table of README.md
"""

import argparse
import csv
import json
from collections import defaultdict
from pathlib import Path

from hadrl_lightning.scenario import GIB

Cells = dict[str, str]
"""What a table shows of a policy, by score."""
Place = tuple[str, str, str]
"""Scenario, key and value of a sweep."""

COLUMNS = {
    "hit_ratio": ("hit ratio", "{:.3f}"),
    "ratio_to_optimal_hit_ratio": ("÷ optimum", "{:.3f}"),
    "latency_s": ("Σ latency (s)", "{:.2f}"),
    "ratio_to_own_best_known": ("÷ best known, own caches", "{:.3f}"),
    "ratio_to_least_known": ("÷ least known", "{:.3f}"),
    "on_time": ("deadlines met", "{:.3f}"),
    "energy_j": ("energy (J)", "{:.3f}"),
    "switching_s": ("switching (s)", "{:.0f}"),
}
"""Score of summary.csv, heading and format."""
WITH_INTERVAL = ("hit_ratio", "latency_s", "ratio_to_own_best_known", "ratio_to_least_known")
README_POLICIES = {
    "random+random": "random, both levels",
    "popularity+home_equal": "popularity + home server, equal shares",
    "hit_optimal+least_loaded_equal": "hit-optimal + least loaded, equal",
    "hit_optimal+least_loaded_sqrt": "hit-optimal + least loaded, square-root shares¹",
    "hit_optimal+best_known": "best known¹",
}
"""Policies whose latency stands beside HADRL's in README.md."""
CAPACITY = "data.scenario.cache_bytes"
CSV_FILES = ("results.csv", "summary.csv", "curves.csv")


def rows_of(file: Path) -> list[dict[str, str]]:
    """The rows of a CSV file; none if there is no such file."""
    if not file.is_file():
        return []
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def shown(row: dict[str, str]) -> str:
    """Mean and 95 % interval of a score."""
    name = row["metric"]
    form = COLUMNS[name][1]
    text = form.format(float(row["mean"]))
    if name not in WITH_INTERVAL or row["low"] in ("", "nan") or row["low"] == row["high"]:
        return text
    return f"{text} [{form.format(float(row['low']))}, {form.format(float(row['high']))}]"


def summaries(folder: Path) -> dict[Place, dict[str, Cells]]:
    """By place and policy what summary.csv says; the label and the number of seeds are among it."""
    found: dict[Place, dict[str, Cells]] = defaultdict(lambda: defaultdict(dict))
    for row in rows_of(folder / "summary.csv"):
        if row["metric"] in COLUMNS and row["mean"] not in ("", "nan"):
            cells = found[row["scenario"], row["sweep_key"], row["sweep_value"]][row["policy"]]
            cells |= {row["metric"]: shown(row), "label": row["label"], "seeds": row["seeds"]}
    return found


def place_name(place: Place) -> str:
    """Heading of a table: `ES2, caches of 40 GiB`."""
    scenario, key, value = place
    name, *overlays = scenario.split("-")
    name = ", ".join([name.upper() if name.startswith("es") else name, *overlays])
    if key == CAPACITY:
        return f"{name}, {float(value) / GIB:g} GiB"
    return f"{name}, {key.rpartition('.')[2]} = {value}" if key else name


def table(policies: dict[str, Cells]) -> str:
    """One row a policy."""
    titles = [title for title, _ in COLUMNS.values()]
    lines = ["| policy | " + " | ".join([*titles, "seeds"]) + " |", "|---" * (len(titles) + 2) + "|"]
    for cells in policies.values():
        scores = [cells.get(name, "–") for name in COLUMNS]
        lines.append(f"| {cells['label']} | " + " | ".join([*scores, cells["seeds"]]) + " |")
    return "\n".join(lines)


def readme_table(folder: Path) -> str:
    """One row a scenario and capacity: HADRL in full, of the others the latency."""
    heads = ["scenario, cache", "hit ratio", "÷ optimum", "Σ latency (s)"]
    heads += ["÷ best known, own caches", "÷ best known, hit-optimal caches", *README_POLICIES.values()]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for place, policies in summaries(folder).items():
        ours = {name: cell.partition(" [")[0] for name, cell in policies["hadrl"].items()}
        cells = [ours["hit_ratio"], ours["ratio_to_optimal_hit_ratio"], f"**{ours['latency_s']}**"]
        cells += [ours["ratio_to_own_best_known"], ours["ratio_to_least_known"]]
        cells += [policies[name]["latency_s"].partition(" [")[0] for name in README_POLICIES]
        lines.append(f"| {place_name(place)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def versions(folder: Path) -> str:
    """What computed the cells of results.csv, and how long a training and a test took."""
    rows = rows_of(folder / "results.csv")
    keys = {row["cell"] for row in rows}
    found: dict[str, set[str]] = defaultdict(set)
    for file in (folder / "cells").glob("*.json"):
        if file.stem.rpartition("-")[2] in keys:
            for name, value in json.loads(file.read_text())["result"]["versions"].items():
                found[name].add(value)
    text = ", ".join(f"{name} {' and '.join(sorted(values))}" for name, values in sorted(found.items()))
    times = sorted(float(row["training_s"]) for row in rows if float(row["training_s"]) > 0)
    if times:
        text += f". Wall time of a training: {times[0]:.0f} to {times[-1]:.0f} s, median {times[len(times) // 2]:.0f} s"
    return text + "."


def page(folder: Path, title: str, figures: list[str]) -> str:
    """The page in Markdown."""
    name = folder.name
    seeds = sorted({int(row["seed"]) for row in rows_of(folder / "results.csv")})
    parts = [f"# {title}", f"```\n{(folder / 'command.txt').read_text().strip()}\n```"]
    parts.append(
        f"Seeds {', '.join(map(str, seeds))}; the column tells how many a policy has. {versions(folder)}"
    )
    links = [f"[{file}]({name}/{file})" for file in CSV_FILES if (folder / file).is_file()]
    parts.append(f"Every cell and every mean with its interval: {', '.join(links)}.")
    parts += [f"![{figure}]({name}/figures/{figure})" for figure in figures]
    parts += [f"## {place_name(place)}\n\n{table(policies)}" for place, policies in summaries(folder).items()]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Write the page, or print the table of README.md."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="output of hadrl benchmark")
    parser.add_argument("--title", default="Results")
    parser.add_argument("--figures", nargs="*", default=[], help="names in DIR/figures, such as bars-es3.png")
    parser.add_argument("--readme", action="store_true", help="print the table of README.md, write nothing")
    options = parser.parse_args()
    if options.readme:
        print(readme_table(options.folder))
        return
    text = page(options.folder, options.title, options.figures)
    options.folder.with_suffix(".md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

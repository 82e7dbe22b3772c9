"""Turn the output of `hadrl benchmark` into a page beside its folder: commands, versions, figures, tables.

python benchmarks/results_page.py docs/results/capacity --title "HADRL and heuristics, by capacity"
python benchmarks/results_page.py docs/results/capacity --readme            # the table of README.md
python benchmarks/results_page.py docs/results/any --title "Networks that no training has met"    # of --suite unseen
"""

import argparse
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from hadrl_lightning.benchmark import Archive, Group, Record, groups, intervals
from hadrl_lightning.benchmark.records import Place, aggregate
from hadrl_lightning.benchmark.report import FIGURES, rises_text, seeds_text_of, slots_text
from hadrl_lightning.benchmark.spread import MEASURES, agents_of, place_cells, spread_cells, suite_of
from hadrl_lightning.judge import HEADINGS, LEAST_KNOWN, NONE, Interval, cell
from hadrl_lightning.judge.tables import OVER, WITH_INTERVAL, mean_cell
from hadrl_lightning.scenario import GIB

README_POLICIES = {
    LEAST_KNOWN: "least known¹",
    "hit_optimal+least_loaded_sqrt": "hit-optimal + least loaded, square-root shares¹",
    "popularity+home_equal": "popularity + home server, equal shares",
    "random+random": "random, both levels",
}
"""Policies whose latency stands beside HADRL's in README.md."""
OWN = "hadrl"
CAPACITY = "data.scenario.cache_bytes"


def place_name(place: Place) -> str:
    """Heading of a table: `ES2, 40 GiB`."""
    scenario, key, value = place
    name, *overlays = scenario.split("-")
    name = ", ".join([name.upper() if name.startswith("es") else name, *overlays])
    if key == CAPACITY:
        return f"{name}, {float(value) / GIB:g} GiB"
    return f"{name}, {key.rpartition('.')[2]} = {value}" if key else name


def by_place(records: Sequence[Record]) -> dict[Place, dict[str, Group]]:
    """The groups by place and policy."""
    found: dict[Place, dict[str, Group]] = defaultdict(dict)
    for group in groups(records):
        found[group.first.place][group.first.policy] = group
    return found


def shown(found: dict[str, Interval], column: str) -> str:
    """A figure as the tables of the terminal show it."""
    name = FIGURES[column]
    return (cell if name in WITH_INTERVAL else mean_cell)(found.get(column), HEADINGS[name][1])


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def table(policies: dict[str, Group]) -> str:
    """One row a policy."""
    columns = [column for column, name in FIGURES.items() if name not in OVER]
    heads = ["policy", *(HEADINGS[FIGURES[column]][0] for column in columns)]
    heads += [
        "Σ latency (s) of every seed",
        "best validation after (slots)",
        "last ÷ best validation",
        "seeds",
    ]
    rows = []
    for group in policies.values():
        found = intervals(group)
        cells = [shown(found, column) for column in columns]
        cells += [seeds_text_of(group, " "), slots_text(group), rises_text(group), str(len(group.seeds))]
        rows.append([group.first.label, *cells])
    return markdown(heads, rows)


def summary_table(records: Sequence[Record]) -> str:
    """One row a policy that was measured in all places."""
    rows = []
    summaries = aggregate(records)
    for one in summaries:
        behind = cell(one.behind, "{:.3f}") if one.behind is not None else NONE
        rows.append([one.label, cell(one.ratio, "{:.3f}"), behind])
    heads = [
        "policy",
        "÷ least known, interquartile mean",
        f"probability that {summaries[0].label} has less {records[0].result.figure}",
    ]
    return markdown(heads, rows)


def readme_table(records: Sequence[Record]) -> str:
    """One row a scenario and capacity: HADRL in full with every seed, of the others the latency.

    Places where one of those was not measured have none.
    """
    heads = ["scenario, cache", "hit ratio", "÷ optimum", "Σ latency (s)", "of the seeds"]
    heads += ["÷ least known", "÷ best known, own caches", *README_POLICIES.values()]
    rows = []
    for place, policies in by_place(records).items():
        if not {OWN, *README_POLICIES} <= set(policies):
            continue
        ours = intervals(policies[OWN])
        columns = ("hit_ratio", "ratio_to_optimal_hit_ratio", "latency_s")
        cells = [mean_cell(ours[name], HEADINGS[FIGURES[name]][1]) for name in columns]
        least, own = (ours[name] for name in ("ratio_to_least_known", "ratio_to_own_best_known"))
        cells[-1] = f"**{cells[-1]}**"
        cells += [
            seeds_text_of(policies[OWN], ", "),
            f"**{cell(least, '{:.3f}')}**",
            mean_cell(own, "{:.3f}"),
        ]
        cells += [mean_cell(intervals(policies[name])["latency_s"], "{:.2f}") for name in README_POLICIES]
        rows.append([place_name(place), *cells])
    return markdown(heads, rows)


def versions(records: Sequence[Record]) -> str:
    """What computed the cells, and how long a training took."""
    found: dict[str, set[str]] = defaultdict(set)
    for record in records:
        for name, value in record.result.versions.items():
            found[name].add(value)
    text = ", ".join(f"{name} {' and '.join(sorted(values))}" for name, values in sorted(found.items()))
    times = sorted(
        {record.key: record.result.training_s for record in records if record.result.slots}.values()
    )
    if times:
        text += f". Wall time of a training: {times[0]:.0f} to {times[-1]:.0f} s, median {times[len(times) // 2]:.0f} s"
    return text + "."


def commands(folder: Path) -> str:
    """Those given for a folder: as noted while they ran, else as the page has them."""
    noted, page_file = folder / "command.txt", folder.with_suffix(".md")
    if noted.is_file():
        return noted.read_text(encoding="utf-8").strip()
    return page_file.read_text(encoding="utf-8").split("```")[1].strip()


def suite_parts(records: Sequence[Record]) -> list[str]:
    """How every measure is spread over the networks of a suite, and all networks of every agent, the worst first."""
    count = len({record.scenario for record in records})
    parts = [
        f"{count} networks, each a scenario by itself. Quartiles, worst and shares are over networks and seeds, "
        "each by itself; ÷ least known is what the caches lose × what the fast level loses."
    ]
    for measure, heading in MEASURES.items():
        heads, rows = spread_cells(records, measure)
        if rows:
            parts.append(f"## {heading[0].upper()}{heading[1:]}\n\n{markdown(heads, rows)}")
    for own in agents_of(records).values():
        parts.append(f"## Network by network: {own[0].group.first.label}\n\n{markdown(*place_cells(own))}")
    return parts


def page(folder: Path, title: str, figures: Sequence[str], note: str) -> str:
    """The page in Markdown."""
    name = folder.name
    records = Archive(folder).records()
    seeds = sorted({record.seed for record in records})
    parts = [f"# {title}", f"```\n{commands(folder)}\n```"]
    if note:
        parts.append(note)
    parts.append(
        f"Seeds {', '.join(map(str, seeds))}; the column tells how many a policy has. {versions(records)}"
    )
    parts.append(
        f"[cells.json.xz]({name}/cells.json.xz) holds every cell, episode by episode; `hadrl benchmark --report_only "
        f"--output {folder}` makes tables, CSV files and figures of it. ± is half of the 95 % interval over seeds and "
        "episodes; of one seed it is over episodes alone, and says nothing of another training."
    )
    parts += [f"![{figure}]({name}/figures/{figure})" for figure in figures]
    if suite_of(records):
        return "\n\n".join([*parts, *suite_parts(records)]) + "\n"
    places = by_place(records)
    if len(places) > 1:
        parts.append(f"## All {len(places)} places\n\n{summary_table(records)}")
    parts += [f"## {place_name(place)}\n\n{table(policies)}" for place, policies in places.items()]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Write the page, or print the table of README.md."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="output of hadrl benchmark")
    parser.add_argument("--title", default="Results")
    parser.add_argument("--note", default="", help="a sentence below the commands")
    parser.add_argument("--figures", nargs="*", default=[], help="names in DIR/figures, such as bars-es3.png")
    parser.add_argument("--readme", action="store_true", help="print the table of README.md, write nothing")
    options = parser.parse_args()
    if options.readme:
        print(readme_table(Archive(options.folder).records()))
        return
    text = page(options.folder, options.title, options.figures, options.note)
    options.folder.with_suffix(".md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

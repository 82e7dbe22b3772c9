"""What a suite of networks says of a policy: its distribution over them, not means alone, and where it loses most."""

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.table import Table

from hadrl_lightning.benchmark.cells import CellResult
from hadrl_lightning.benchmark.policies import LOWER_BOUND, pair_of
from hadrl_lightning.benchmark.records import Group, Record, groups
from hadrl_lightning.benchmark.suites import SuitePlace, find_suite, place_of
from hadrl_lightning.files import replacing
from hadrl_lightning.judge import LEAST_KNOWN, NONE, figures_table
from hadrl_lightning.scenario import Scenario

MEASURES = {
    "least": "÷ least known",
    "own": "÷ best known, own caches",
    "hits": "hits ÷ optimum",
    "decided_hits": "hits ÷ optimum, cloud ≥ 5 × slower",
}
"""What is spread over networks, and what tables call it."""
SHARES = ("hits", "decided_hits")
"""Of them those that are the better the larger they are."""
WITHIN = (0.01, 0.02, 0.05)
ALL_CLOUD = "none+all_cloud"
SLOWER = 5.0
"""Hits decide where all in the cloud, `none+all_cloud`, takes at least as many times the least latency known."""
SHOWN = 12
"""Networks that a table of the terminal shows, those that lose most."""

Row = dict[str, Any]


class Loss(NamedTuple):
    """Of one policy with one seed in one network."""

    seed: int | None
    """None where one result serves all seeds."""
    least: float
    """Latency ÷ least known; the product of the next two. NaN where the least is not known."""
    caches: float
    """Best known latency under the caches that were played ÷ least known: what is lost by the slow level."""
    own: float
    """Latency ÷ best known under those caches: what is lost by the fast level."""
    hits: float
    """Hit ratio ÷ that of the best caches; NaN where no caches hold anything."""

    @property
    def ratios(self) -> dict[str, float]:
        """All but the seed."""
        return {name: value for name, value in self._asdict().items() if name != "seed"}


class Visit(NamedTuple):
    """A policy in one network."""

    place: SuitePlace
    group: Group
    losses: list[Loss]
    """Of every seed."""
    hits_decide: bool | None
    """None where that was not measured."""

    @property
    def worst(self) -> Loss:
        """Of its seeds."""
        return max(self.losses, key=lambda loss: (math.isfinite(loss.least), loss.least))


class Spread(NamedTuple):
    """A measure of a policy over networks and seeds."""

    policy: str
    label: str
    seed: int | None
    """None for all seeds together."""
    measure: str
    values: list[float]

    @property
    def row(self) -> Row:
        """Its mean, quartiles, worst, and the shares of values that are within 1, 2 and 5 % of 1."""
        good = self.measure in SHARES
        quarters = np.percentile(self.values, (25, 50, 75)).tolist()
        near = [
            [value >= 1 - part if good else value <= 1 + part for value in self.values] for part in WITHIN
        ]
        return {
            "mean": sum(self.values) / len(self.values),
            **dict(zip(("first_quartile", "median", "third_quartile"), quarters, strict=True)),
            "worst": min(self.values) if good else max(self.values),
            **{
                f"within_{100 * part:g}_percent": sum(one) / len(one)
                for part, one in zip(WITHIN, near, strict=True)
            },
        }


def suite_of(records: Sequence[Record]) -> str:
    """The name of the suite whose networks all records are of; empty if there is none."""
    names = {one.scenario.partition("/")[0] if place_of(one.scenario) else "" for one in records}
    return names.pop() if len(names) == 1 else ""


def visits(records: Sequence[Record]) -> dict[str, list[Visit]]:
    """Of every policy but the bound its networks, in the order of the suite."""
    found: dict[str, list[Visit]] = {}
    by_place = groups(records)
    cloud = {
        group.first.scenario: _cloud_ratio(group) for group in by_place if group.first.policy == ALL_CLOUD
    }
    for group in by_place:
        place = place_of(group.first.scenario)
        if place is None or group.first.policy == LOWER_BOUND:
            continue
        seeds: Sequence[int | None] = group.seeds if group.draws else [None]
        losses = [_loss(seed, one, group.least) for seed, one in zip(seeds, group.results, strict=True)]
        ratio = cloud.get(group.first.scenario)
        decide = None if ratio is None else ratio >= SLOWER
        found.setdefault(group.first.policy, []).append(Visit(place, group, losses, decide))
    order = list(find_suite(suite_of(records)).places)
    return {name: sorted(own, key=lambda visit: order.index(visit.place.name)) for name, own in found.items()}


def _cloud_ratio(group: Group) -> float | None:
    return group.results[0].cost / group.least.cost if group.least else None


def _loss(seed: int | None, result: CellResult, least: CellResult | None) -> Loss:
    scores = result.scores
    known = least.cost if least is not None else math.nan
    optimum = scores.get("optimal_hit_ratio", 0.0)
    own = scores["own_best_known"]
    hits = scores["hit_ratio"] / optimum if optimum > 0 else math.nan
    return Loss(seed, result.cost / known, own / known, result.cost / own, hits)


def is_agent(policy: str) -> bool:
    """Whether it is trained: what tables and figures look at network by network."""
    return policy != LOWER_BOUND and pair_of(policy) is None


def spreads(records: Sequence[Record]) -> list[Spread]:
    """Every measure of every policy, of an agent of several seeds also each by itself."""
    found = []
    for policy, own in visits(records).items():
        seeds = list(dict.fromkeys(loss.seed for visit in own for loss in visit.losses))
        each = seeds if is_agent(policy) and len(seeds) > 1 else []
        for seed in [None, *each]:
            for measure in SHARES if policy == LEAST_KNOWN else MEASURES:
                values = list(_values(own, measure, seed))
                if values:
                    label = own[0].group.first.label + (f", seed {seed}" if seed is not None else "")
                    found.append(Spread(policy, label, seed, measure, values))
    return found


def _values(own: Sequence[Visit], measure: str, seed: int | None) -> Iterator[float]:
    for visit in own:
        if measure == "decided_hits" and not visit.hits_decide:
            continue
        for loss in visit.losses:
            value = getattr(loss, "hits" if measure in SHARES else measure)
            if seed in (None, loss.seed) and math.isfinite(value):
                yield value


# Tables --------------------------------------------------------------------------------------------------------------

Cells = tuple[list[str], list[list[str]]]
"""Headings and rows."""


def spread_cells(records: Sequence[Record], measure: str) -> Cells:
    """A row a policy: how a measure is spread over the networks."""
    heads = ["policy", "mean", "quartiles", "median", "worst", *(f"within {part:.0%}" for part in WITHIN)]
    rows = []
    for one in spreads(records):
        if one.measure == measure:
            mean, low, middle, high, worst, *near = one.row.values()
            numbers = [f"{mean:.3f}", f"{low:.3f} to {high:.3f}", f"{middle:.3f}", f"{worst:.3f}"]
            rows.append([one.label, *numbers, *(f"{share:.0%}" for share in near)])
    return heads, rows


def place_cells(own: Sequence[Visit]) -> Cells:
    """A row a network: its size, how much longer an agent's latency is there and where that is lost, what is special.

    Of several seeds there are the means, and the worst ratio.
    """
    several = any(len(visit.losses) > 1 for visit in own)
    heads = ["network", "S", "U", "K", "÷ least known", *(["worst seed"] if several else [])]
    heads += ["by caches", "by the fast level", "hits ÷ optimum", "what is special"]
    rows = []
    for visit in own:
        scenario = Scenario.from_dict(visit.place.fields)
        counts = [scenario.num_servers, scenario.num_users, scenario.num_services]
        texts = {}
        for name in ("least", "caches", "own", "hits"):
            mean = _mean([getattr(one, name) for one in visit.losses])
            texts[name] = NONE if math.isnan(mean) else f"{mean:.3f}"
        worst = [f"{visit.worst.least:.3f}"] if several else []
        row = [visit.place.name, *map(str, counts), texts["least"], *worst]
        rows.append([*row, texts["caches"], texts["own"], texts["hits"], visit.place.why])
    return heads, rows


def agents_of(records: Sequence[Record]) -> dict[str, list[Visit]]:
    """Of every agent its networks, those where it loses most first."""
    return {
        policy: sorted(own, key=lambda visit: -visit.worst.least)
        for policy, own in visits(records).items()
        if is_agent(policy)
    }


def suite_tables(records: Sequence[Record]) -> list[Table]:
    """What the terminal shows of a suite: how every measure is spread, and the networks where agents lose most."""
    suite, places = suite_of(records), len({one.scenario for one in records})
    tables = []
    for measure, heading in MEASURES.items():
        heads, rows = spread_cells(records, measure)
        if rows:
            tables.append(_table(f"{suite}, {heading}, over {places} networks and all seeds", heads, rows))
    for own in agents_of(records).values():
        heads, rows = place_cells(own)
        title = (
            f"{own[0].group.first.label}: where most is lost (÷ least known = by caches × by the fast level)"
        )
        tables.append(_table(title, heads, rows[:SHOWN]))
    return tables


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    columns = {head: [row[index] for row in rows] for index, head in enumerate(heads) if index}
    return figures_table(title, heads[0], [(row[0], {}) for row in rows], columns)


def slow_places(records: Sequence[Record], seconds: float) -> list[tuple[str, float]]:
    """Networks whose cells took longer together, with the time in s, the longest first."""
    times: dict[str, float] = {}
    for one in {(record.scenario, record.key): record for record in records}.values():
        times[one.scenario] = times.get(one.scenario, 0.0) + one.result.wall_s
    return sorted(((name, time) for name, time in times.items() if time > seconds), key=lambda one: -one[1])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


# Files ---------------------------------------------------------------------------------------------------------------


def spread_rows(records: Sequence[Record]) -> list[Row]:
    """Rows of distribution.csv."""
    return [
        {
            "policy": one.policy,
            "label": one.label,
            "seed": "" if one.seed is None else one.seed,
            "measure": one.measure,
            "values": len(one.values),
            **one.row,
        }
        for one in spreads(records)
    ]


def write_places(records: Sequence[Record], file: Path) -> None:
    """Write places.json, of which `hadrl plot` draws: the networks, and what every policy reached and held there."""
    by_policy = visits(records)
    found: dict[str, Row] = {}
    for policy, own in by_policy.items():
        for visit in own:
            known = found.setdefault(visit.place.name, _network(visit.place))
            known["policies"][policy] = _reached(visit, held=is_agent(policy) or policy == LEAST_KNOWN)
    order = [name for name in find_suite(suite_of(records)).places if name in found]
    stored = {
        "suite": suite_of(records),
        "labels": {policy: own[0].group.first.label for policy, own in by_policy.items()},
        "agents": [policy for policy in by_policy if is_agent(policy)],
        "places": [found[name] for name in order],
    }
    with replacing(file) as temporary:
        temporary.write_text(json.dumps(stored, separators=(",", ":")) + "\n", encoding="utf-8")


def _network(place: SuitePlace) -> Row:
    scenario = Scenario.from_dict(place.fields)
    return {
        "name": place.name,
        "why": place.why,
        "users": scenario.num_users,
        "compute_hz": scenario.compute_per_server_hz,
        "bandwidth_hz": scenario.bandwidth_per_server_hz,
        "cache_bytes": [bits / 8 for bits in scenario.cache_per_server_bits],
        "storage_bytes": [bits / 8 for bits in scenario.storage_bits],
        "popularity": scenario.popularity_vector,
        "policies": {},
    }


def _reached(visit: Visit, held: bool) -> Row:
    """The losses of every seed, those that are known, and the caches of the worst one."""
    losses = [
        {
            "seed": one.seed,
            **{name: round(value, 4) for name, value in one.ratios.items() if math.isfinite(value)},
        }
        for one in visit.losses
    ]
    worst = visit.losses.index(visit.worst)
    return {"losses": losses, "worst": worst, "held": visit.group.results[worst].held if held else []}

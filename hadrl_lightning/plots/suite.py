"""Figures of a suite: how policies are spread over its networks, and where an agent loses most, drawn with why."""

import json
import textwrap
from pathlib import Path
from typing import Any

import numpy as np

from hadrl_lightning.errors import HadrlError
from hadrl_lightning.plots.style import (
    COLOURS,
    PAGE_IN,
    YARDSTICK,
    file_name,
    legend_below,
    look,
    save,
    style,
)

PLACES = "places.json"
"""What `hadrl benchmark --suite` writes for them."""
WORST = 4
"""Networks that are drawn."""
PANELS = {"least": "Σ latency ÷ least known", "own": "Σ latency ÷ best known, own caches"}
LEAST_EXCESS = 1e-3
"""Ratios nearer to 1 are drawn as this much above it: the axis is logarithmic in what is above 1."""
TICKS = (1.001, 1.01, 1.02, 1.05, 1.1, 1.2, 1.5, 2, 5, 10, 20, 50, 100, 1000)
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.5)), (0, (5, 1.5, 1.5, 1.5)))
"""Of agents, which share a colour."""
GIB = 2**30
CAPACITIES = {
    "bandwidth_hz": ("bandwidth\n(MHz)", 1e6, COLOURS[5]),
    "compute_hz": ("compute\n(GHz)", 1e9, COLOURS[4]),
    "cache_bytes": ("cache\n(GiB)", GIB, COLOURS[2]),
}
HOLDERS = {"both": "#555555", "agent": COLOURS[1], "least known": COLOURS[0]}
"""Who holds a service on a server, and its colour."""
LOSSES = {"caches": ("caches", "#7A7A7A"), "own": ("fast level", COLOURS[3])}

Place = dict[str, Any]


def draw_suite(file: Path, output: Path, worst: int = WORST) -> list[Path]:
    """Draw `distribution-SUITE` and, of every agent, `worst-SUITE-AGENT`, each as PDF and PNG.

    Args:
        file: places.json of the folder of a benchmark.
        output: where the figures go.
        worst: networks that are drawn of every agent.

    Raises:
        HadrlError: the file is damaged, or matplotlib is missing.
    """
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        suite, labels, places, agents = (stored[name] for name in ("suite", "labels", "places", "agents"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HadrlError(f"{file} must be written by hadrl benchmark --suite, got {error}") from error
    with style() as plt:
        files = save(_distribution(plt, places, labels, agents), output / f"distribution-{suite}")
        for agent in agents:
            shown = [place for place in places if "least" in _worst_loss(place, agent)]
            shown.sort(key=lambda place: -_worst_loss(place, agent)["least"])
            if shown:
                figure = _worst_places(plt, shown[:worst], agent, labels[agent])
                name = file_name(f"worst-{suite}-{_short(agent)}")
                files += save(figure, output / name)
    return files


def _short(agent: str) -> str:
    """The name of its file, without what stands for the seed."""
    return Path(agent).stem.replace("{seed}", "").rstrip("-_. ")


def _worst_loss(place: Place, agent: str) -> dict[str, float]:
    """Of the agent's seeds; empty where it was not measured."""
    reached = place["policies"].get(agent)
    return reached["losses"][reached["worst"]] if reached else {}


# Distributions -------------------------------------------------------------------------------------------------------


def _distribution(plt: Any, places: list[Place], labels: dict[str, str], agents: list[str]) -> Any:
    """Of every policy the share of networks (and seeds) with at most a ratio."""
    policies = [policy for policy in labels if policy != YARDSTICK]
    figure, panels = plt.subplots(1, 2, figsize=(PAGE_IN, 2.6 + 0.16 * len(policies)), sharey=True)
    for axes, (measure, name) in zip(panels, PANELS.items(), strict=True):
        largest = 1.1
        for policy in policies:
            ratios = _ratios(places, policy, measure)
            if ratios:
                largest = max(largest, *ratios)
                _steps(axes, ratios, labels[policy], policy, agents)
        _excess_axis(axes, largest)
        axes.set(xlabel=name, ylim=(0, 1.02))
    panels[0].set_ylabel("share of networks")
    handles, names = panels[0].get_legend_handles_labels()
    legend_below(figure, handles, names)
    return figure


def _ratios(places: list[Place], policy: str, measure: str) -> list[float]:
    reached = [place["policies"][policy] for place in places if policy in place["policies"]]
    return [loss[measure] for one in reached for loss in one["losses"] if measure in loss]


def _steps(axes: Any, ratios: list[float], label: str, policy: str, agents: list[str]) -> None:
    appearance = look(policy)
    marker = {"marker": appearance.pop("marker"), "markevery": max(1, len(ratios) // 6), "markersize": 3}
    if policy in agents:
        appearance["linestyle"] = DASHES[agents.index(policy) % len(DASHES)]
        marker = {}
    excess = np.maximum(np.sort(ratios) - 1, LEAST_EXCESS)
    x = np.concatenate([[LEAST_EXCESS], excess, [1e9]])
    y = np.concatenate([[0], np.arange(1, len(ratios) + 1) / len(ratios), [1]])
    axes.step(x, y, where="post", label=label, **appearance, **marker)


def _excess_axis(axes: Any, largest: float) -> None:
    """Logarithmic in what is above 1, with ratios at the ticks."""
    axes.set_xscale("log")
    axes.minorticks_off()
    ticks = [tick for tick in TICKS if tick <= 1.5 * largest]
    names = [f"{tick:g}" for tick in ticks]
    axes.set_xticks([tick - 1 for tick in ticks], ["≤ " + names[0], *names[1:]], rotation=45)
    axes.set_xlim(LEAST_EXCESS, 1.2 * (largest - 1))


# The worst, drawn ----------------------------------------------------------------------------------------------------


def _worst_places(plt: Any, places: list[Place], agent: str, label: str) -> Any:
    """A row a network: its servers, who holds which service on them, and what is lost by which level."""
    figure = plt.figure(figsize=(PAGE_IN, 0.5 + sum(map(_height, places))))
    rows = figure.subfigures(
        len(places), 1, height_ratios=[_height(place) for place in places], squeeze=False
    )[:, 0]
    for part, place in zip(rows, places, strict=True):
        _draw_place(part, place, agent)
    handles = [plt.Rectangle((0, 0), 1, 1, color=shade) for shade in HOLDERS.values()]
    names = [f"held by {'both' if one == 'both' else f'the {one} alone'}" for one in HOLDERS]
    names[-1] = "held under the least known alone"
    figure.suptitle(f"{label}: where it loses most", fontsize=8)
    figure.legend(handles, names, loc="outside lower center", ncols=3)
    return figure


def _height(place: Place) -> float:
    """Of its row in inches."""
    return 1.6 + 0.1 * len(place["compute_hz"])


def _draw_place(part: Any, place: Place, agent: str) -> None:
    servers = len(place["compute_hz"])
    loss = _worst_loss(place, agent)
    sizes = f"S = {servers}, U = {place['users']}, K = {len(place['popularity'])}"
    head = f"{place['name']} ({sizes}): {loss['least']:.3f} × the least known; {place['why']}"
    part.suptitle("\n".join(textwrap.wrap(head, 120)), fontsize=7, x=0.01, ha="left")
    grid = part.subplots(
        2,
        5,
        gridspec_kw={"width_ratios": (0.8, 0.8, 0.8, 4.6, 1.5), "height_ratios": (0.5, 0.45 + 0.1 * servers)},
    )
    for axes in (*grid[0, :3], grid[0, 4]):
        axes.set_axis_off()
    for above, axes, (name, (title, unit, shade)) in zip(grid[0], grid[1], CAPACITIES.items(), strict=False):
        _draw_capacity(axes, [value / unit for value in place[name]], shade)
        above.text(0.5, 0, title, fontsize=6, ha="center", va="bottom", transform=above.transAxes)
    grid[1, 0].set_yticks(range(1, servers + 1))
    grid[1, 0].set_ylabel("server", fontsize=6)
    order = np.argsort(-np.array(place["popularity"]), kind="stable")
    _draw_services(
        grid[0, 3], np.array(place["storage_bytes"])[order] / GIB, np.array(place["popularity"])[order]
    )
    _draw_caches(grid[1, 3], place, agent, order)
    _draw_loss(grid[1, 4], loss)


def _draw_capacity(axes: Any, values: list[float], shade: str) -> None:
    """A bar a server, with its value."""
    axes.barh(range(1, len(values) + 1), values, color=shade, height=0.8)
    for server, value in enumerate(values, start=1):
        text = f"{value:.3g}" if value >= 1e-3 else "0"
        axes.text(0.03 * max(values), server, text, fontsize=5.5, va="center_baseline")
    axes.set(xlim=(0, max(values)), xticks=[], yticks=[], ylim=(len(values) + 0.5, 0.5))
    axes.tick_params(labelsize=6, length=0)
    axes.grid(visible=False)
    axes.spines["bottom"].set_visible(False)


def _draw_services(axes: Any, sizes: Any, popularity: Any) -> None:
    """Above the caches: bars are sizes, on a logarithmic axis; the line is the popularity."""
    x = np.arange(1, len(sizes) + 1)
    axes.bar(x, sizes, color="#CCCCCC", width=0.8)
    axes.set_yscale("log")
    axes.minorticks_off()
    axes.set(xlim=(0.5, len(sizes) + 0.5), xticks=[])
    axes.set_ylabel("size\n(GiB)", fontsize=6, color="#777777")
    other = axes.twinx()
    other.plot(x, 100 * popularity, color="black", linewidth=0.9, marker=".", markersize=2.5)
    other.set_ylabel("asked\n(%)", fontsize=6)
    other.set_ylim(bottom=0)
    other.spines["right"].set_visible(True)
    other.grid(visible=False)
    axes.grid(visible=False)
    for one in (axes, other):
        one.tick_params(labelsize=6)


def _draw_caches(axes: Any, place: Place, agent: str, order: Any) -> None:
    """Servers by services, the most popular first; the shade is the share of frames in which a service is held."""
    servers, services = len(place["compute_hz"]), len(order)
    held = [_held(place, policy, (servers, services))[:, order] for policy in (agent, YARDSTICK)]
    both = np.minimum(*held)
    weights = {"both": both, "agent": held[0] - both, "least known": held[1] - both}
    picture = np.ones((servers, services, 3))
    for name, share in weights.items():
        shade = np.array([int(HOLDERS[name][at : at + 2], 16) / 255 for at in (1, 3, 5)])
        picture += share[:, :, None] * (shade - 1)
    extent = (0.5, services + 0.5, servers + 0.5, 0.5)
    axes.imshow(picture.clip(0, 1), extent=extent, aspect="auto", interpolation="nearest")
    axes.set_xlabel("service, the most popular first", fontsize=6)
    axes.set_yticks([])
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.tick_params(labelsize=6)
    axes.grid(visible=False)
    axes.hlines(np.arange(1, servers) + 0.5, 0.5, services + 0.5, color="white", linewidth=0.8)
    axes.vlines(np.arange(1, services) + 0.5, 0.5, servers + 0.5, color="white", linewidth=0.4)
    for side in ("top", "right"):
        axes.spines[side].set_visible(True)


def _held(place: Place, policy: str, shape: tuple[int, int]) -> Any:
    found = place["policies"].get(policy, {}).get("held") or np.zeros(shape)
    return np.array(found)


def _draw_loss(axes: Any, loss: dict[str, float]) -> None:
    """By how many per cent each level makes the latency longer."""
    values = [100 * (loss[name] - 1) for name in LOSSES]
    axes.barh(range(len(values)), values, color=[shade for _, shade in LOSSES.values()], height=0.4)
    for at, (value, (name, _)) in enumerate(zip(values, LOSSES.values(), strict=True)):
        axes.text(0, at - 0.25, f" {name} {round(value, 1) + 0.0:+.1f} %", fontsize=6, va="bottom")
    axes.axvline(0, color="black", linewidth=0.6)
    axes.set(ylim=(1.3, -0.9), yticks=[], xlim=(min(0, *values), max(1, *values) * 1.05))
    axes.set_xlabel("lost by (%)", fontsize=6)
    axes.locator_params(axis="x", nbins=3)
    axes.tick_params(labelsize=6)
    axes.grid(axis="y", visible=False)

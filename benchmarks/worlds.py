"""What the overlays of `docs/worlds.md` do over time, what is reached in them, and what a slot of them costs.

python benchmarks/worlds.py draw [--output docs/worlds]     # the figure: every world over some slots
python benchmarks/worlds.py bench [--seeds 0 1 2 3 4] [--output worlds]    # HADRL and others in each world; goes on
python benchmarks/worlds.py page [--output worlds]          # the table of docs/results/worlds.md
python benchmarks/worlds.py cost [--networks 8 256]         # CPU time of a slot, in parts of one without processes
"""

import argparse
import csv
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hadrl_lightning import EdgeNetwork, Scenario
from hadrl_lightning.baselines import CACHING_POLICIES
from hadrl_lightning.benchmark import Archive, write_report
from hadrl_lightning.benchmark.policies import LOWER_BOUND
from hadrl_lightning.judge import LEAST_KNOWN
from hadrl_lightning.play import home_equal, run_episode
from hadrl_lightning.plots.style import COLOURS, PAGE_IN, save, style
from hadrl_lightning.scenario.scenario import GIB
from hadrl_lightning.simulator import Use, equal_shares, fill_caches, make_generator

OVERLAYS = ("drift", "slowdowns", "mobile", "channel", "queues", "device", "hops")
WORLDS = (*OVERLAYS, "mobile+channel+hops", "drift+queues+slowdowns", "+".join(OVERLAYS))
"""Those of one overlay, and combinations."""
ES3 = ("es3.yaml", "tight.yaml")


def configs(world: str) -> list[str]:
    """Settings files of a world."""
    return [*ES3, *(f"{name}.yaml" for name in world.split("+") if name)]


# What worlds do over time ---------------------------------------------------------------------------------------------


def played(
    world: str, slots: int, note: Callable[[EdgeNetwork], dict[str, Tensor]], seed: int = 0, **more: Any
) -> dict[str, Tensor]:
    """What is noted of one network in every slot, where users go home, under caches that are filled by popularity."""
    frames = {"decisions_per_episode": slots // 5, "slots_per_decision": 5}
    fields = Scenario.from_config(*configs(world)).to_dict()
    scenario = Scenario.from_dict({**fields, **frames, **more})
    network = EdgeNetwork(scenario, num_envs=1, generator=make_generator(seed, Use.TEST_NETWORKS))
    caching = CACHING_POLICIES["popularity"](scenario, make_generator(seed, Use.CACHE_SEARCH))
    noted = []
    while not network.episode_over:
        if network.frame_over:
            network.begin_frame(caching(network))
        now = note(network)
        served = network.step(home_equal(network))
        noted.append({**now, "efficiency": served.spectral_efficiency[0]})
    return {name: torch.stack([one[name] for one in noted]) for name in noted[0]}


def draw(output: Path) -> None:
    """A panel for each overlay."""
    with style() as plt:
        figure, grid = plt.subplots(4, 2, figsize=(PAGE_IN, 7.2))
        panels = (_drift, _slowdowns, _mobile, _channel, _queues, _device, _hops, _energy)
        for axes, panel in zip(grid.flat, panels, strict=True):
            panel(axes)
            axes.set_xlabel("slot")
            axes.set_title(axes.get_title(), pad=15)
        for file in save(figure, output):
            print(file)


def _lines(axes: Any, values: Tensor, labels: list[str], **more: Any) -> None:
    for column, label, colour in zip(values.T, labels, COLOURS, strict=False):
        axes.plot(column.tolist(), label=label, color=colour, **more)
    place = {"loc": "lower center", "bbox_to_anchor": (0.5, 0.97), "borderaxespad": 0.0}
    axes.legend(ncols=len(labels), handlelength=1.2, columnspacing=0.8, **place)


def _drift(axes: Any) -> None:
    found = played("drift", 100, lambda network: {"chance": network.popularity.reshape(-1)})["chance"]
    services = [0, 3, 6, 9]
    _lines(axes, found[:, services], [f"service {k}" for k in services])
    axes.set(title="drift.yaml", ylabel="probability", ylim=(0, None))


def _slowdowns(axes: Any) -> None:
    def note(network: EdgeNetwork) -> dict[str, Tensor]:
        view: Any = network.offloading_view()
        return {"speed": network.unfolding.slot.more["server_speed"][0], "seen": 1 / view.slowdown[0]}

    found = played("slowdowns", 100, note, seed=1)
    _lines(axes, found["speed"], [f"server {s}" for s in range(3)], drawstyle="steps-mid")
    for column, colour in zip(found["seen"].T, COLOURS, strict=False):
        axes.plot(column.tolist(), ".", color=colour, markersize=2)
    axes.set(title="slowdowns.yaml (dots: as last measured)", ylabel="speed ÷ full speed", yscale="log")


def _mobile(axes: Any) -> None:
    def note(network: EdgeNetwork) -> dict[str, Tensor]:
        return {"x": network.positions[0, :3, 0], "home": network.homes[0, :3]}

    found = played("mobile", 100, note, seed=3)
    _lines(axes, found["x"], [f"user {u}" for u in range(3)])
    servers = Scenario.from_config(*configs("mobile")).servers_m
    for user, colour in zip(range(3), COLOURS, strict=False):
        axes.plot(
            [servers[home][0] for home in found["home"][:, user].tolist()],
            ":",
            color=colour,
            drawstyle="steps-mid",
        )
    axes.set(title="mobile.yaml (dotted: the user's home)", ylabel="x (m)")


def _channel(axes: Any) -> None:
    def note(network: EdgeNetwork) -> dict[str, Tensor]:
        view: Any = network.offloading_view()
        return {"reported": view.spectral_efficiency[0, 0]}

    found = played("mobile+channel", 100, note, seed=3)
    both = torch.stack((found["efficiency"][:, 0], found["reported"]), dim=1)
    _lines(axes, both, ["link in the slot", "reported before it"])
    axes.set(title="channel.yaml, with mobile.yaml: one user", ylabel="bit/s/Hz", ylim=(0, None))


def _queues(axes: Any) -> None:
    def note(network: EdgeNetwork) -> dict[str, Tensor]:
        view: Any = network.offloading_view()
        return {"backlog": view.backlog_s[0]}

    found = played("queues", 100, note, cache_bytes=200 * GIB)["backlog"]
    _lines(axes, found, [f"server {s}" for s in range(3)])
    axes.set(title="queues.yaml (every service held)", ylabel="backlog (s)", ylim=(0, None))


def _device(axes: Any) -> None:
    battery = {"device": {"battery_j": 60.0, "charge_w": 0.3}}
    found = _on_devices(battery)["battery"]
    _lines(axes, found[:, :4], [f"user {u}" for u in range(4)])
    axes.set(title="device.yaml: all tasks stay, batteries of 60 J", ylabel="battery", ylim=(0, 1.15))


def _energy(axes: Any) -> None:
    found = _on_devices({"device": {}})["joules"]
    _lines(axes, found, ["on the devices", "at the home servers"])
    axes.set(title="device.yaml: all tasks stay, or go home", ylabel="energy of a slot (J)", yscale="log")


def _on_devices(changes: dict[str, dict[str, Any]]) -> dict[str, Tensor]:
    scenario = Scenario.from_config(*configs("device"))
    own = {name: {**scenario.processes[name], **change} for name, change in changes.items()}
    scenario = Scenario.from_dict({**scenario.to_dict(), "processes": own, "decisions_per_episode": 20})
    batteries: list[Tensor] = []

    def stays(network: EdgeNetwork) -> Any:
        view: Any = network.offloading_view()
        batteries.append(view.battery[0])
        return equal_shares(
            network.scenario, torch.full_like(network.requests, scenario.num_servers), network.dtype
        )

    joules = []
    for policy in (stays, home_equal):
        network = EdgeNetwork(scenario, num_envs=1, generator=make_generator(0, Use.TEST_NETWORKS))
        caching = CACHING_POLICIES["popularity"](scenario, make_generator(0, Use.CACHE_SEARCH))
        joules.append(run_episode(network, caching, policy).energy.sum(dim=(1, 2)))
    return {"battery": torch.stack(batteries), "joules": torch.stack(joules, dim=1)}


def _hops(axes: Any) -> None:
    def note(network: EdgeNetwork) -> dict[str, Tensor]:
        view: Any = network.offloading_view()
        return {"path": 1000 * view.path_s[0, 0]}

    found = played("mobile+hops", 100, note, seed=3)["path"]
    _lines(axes, found, [f"to server {s}" for s in range(3)], drawstyle="steps-mid")
    axes.set(title="hops.yaml, with mobile.yaml: one user", ylabel="path of its task (ms)", ylim=(0, None))


# What HADRL reaches beside others -------------------------------------------------------------------------------------

OWN = "hadrl"
LEARNERS = (OWN, "ppo", "ppo-recurrent", "sac")
HEURISTICS = tuple(
    f"{caching}+{offloading}"
    for caching, offloading in (
        *((caching, "drift_plus_penalty") for caching in ("popularity", "lru", "lfu", "gdsf", "sieve")),
        ("popularity", "home_equal"),
        *(("lfu", offloading) for offloading in ("shortest_queue", "two_choices", "home_sqrt")),
        *(("lfu", offloading) for offloading in ("least_loaded_equal", "least_loaded_sqrt", "local_only")),
        ("random", "random"),
    )
)
"""They decide by what views show: none of them knows popularity to come, true speeds or links."""
TRUTH = LEAST_KNOWN
"""Knows the popularity, true speeds and links, and decides each slot for itself."""
AHEAD = "latency_optimal+clairvoyant"
"""Knows all slots to come."""
REFERENCES = (TRUTH, AHEAD, LOWER_BOUND)


def bench(worlds: list[str], policies: list[str], seeds: list[int], workers: int, output: Path) -> None:
    """`hadrl benchmark` in every world, into a folder of each; goes on where it was."""
    for world in worlds:
        scenario, *files = configs(world)
        words = [
            "benchmark",
            "--scenarios",
            scenario,
            *(word for name in files for word in ("--config", name)),
        ]
        words += ["--policies", *policies, "--seeds", *map(str, seeds), "--workers", str(workers)]
        print(f"hadrl {' '.join(words)} --output {output / world}", flush=True)
        words += ["--output", str(output / world)]
        subprocess.run([sys.executable, "-m", "hadrl_lightning.cli", *words], check=True)


def page(worlds: list[str], output: Path) -> None:
    """Print a row for each world of all that its folder holds: who is ahead, and how far from who knows the truth."""
    for world in worlds:
        archive = Archive(output / world)
        archive.collect()
        records = archive.records()
        if records:  # the tables are those of the last command
            write_report(records, archive.folder)
    rows = [one for world in worlds if (one := _row(world, output / world / "summary.csv"))]
    titles = ("overlays", "HADRL", "best heuristic", *LEARNERS[1:], "knows the truth", "HADRL ÷ truth")
    titles += ("clairvoyant", "lower bound", "trainings", "ahead")
    print(f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}")
    print("\n".join(rows))


def _row(world: str, summary: Path) -> str:
    if not summary.is_file():
        return ""
    with summary.open() as file:
        scores = [one for one in csv.DictReader(file) if one["metric"] == "latency_s" and one["mean"]]
    ends = {one["policy"]: (float(one["mean"]), float(one["low"]), float(one["high"])) for one in scores}
    trainings = {one["policy"]: one["trainings"] for one in scores}
    if not {OWN, TRUTH} <= ends.keys():
        return ""
    own, known = ends[OWN], {name: end for name, end in ends.items() if name in REFERENCES}
    rivals = {name: end for name, end in ends.items() if not name.startswith(OWN) and name not in REFERENCES}
    heuristics = {name: end for name, end in rivals.items() if not int(trainings[name])}
    best = min(heuristics, key=lambda one: heuristics[one][0], default="")
    cells = [world.replace("+", ", ") if world != WORLDS[-1] else "all seven", _end(own)]
    cells.append(f"{_end(heuristics.get(best))} {best}".strip())
    cells += [_end(rivals.get(name)) + _fewer(trainings, name) for name in LEARNERS[1:]]
    cells += [_end(known[TRUTH]), f"{own[0] / known[TRUTH][0]:.3f}"]
    cells += [*(_end(known.get(name)) for name in (AHEAD, LOWER_BOUND)), trainings[OWN]]
    cells.append("yes" if all(own[2] < low for _, low, _ in rivals.values()) else "no")
    return f"| {' | '.join(cells)} |"


def _fewer(trainings: dict[str, str], name: str) -> str:
    """Says of a learner that it was trained less often than HADRL."""
    return (
        f" ({trainings[name]} of {trainings[OWN]})"
        if trainings.get(name, trainings[OWN]) != trainings[OWN]
        else ""
    )


def _end(end: tuple[float, float, float] | None) -> str:
    if end is None:
        return "–"
    mean, low, high = end
    return f"{mean:.2f} ± {(high - low) / 2:.2f}"


# What a slot costs ----------------------------------------------------------------------------------------------------


def cost(networks: list[int]) -> None:
    """CPU time of a slot in every world, as a part of one without processes: the median of pairs of episodes."""
    torch.set_num_threads(1)
    for count in networks:
        plain = _network("", count)
        for world in ("", *OVERLAYS, *WORLDS[len(OVERLAYS) :]):
            other = _network(world, count)
            ratios = [_seconds(other) / _seconds(plain) for _ in range(9)]
            print(f"{count} networks | {world or 'nothing'} | {statistics.median(ratios):.2f}", flush=True)


def _network(world: str, count: int) -> EdgeNetwork:
    scenario = Scenario.from_config(*configs(world))
    return EdgeNetwork(scenario, num_envs=count, generator=make_generator(0, Use.TEST_NETWORKS))


def _seconds(network: EdgeNetwork) -> float:
    cells = network.exact.cells.expand(network.num_envs, -1)
    home = equal_shares(network.scenario, cells, network.dtype)
    full = fill_caches(network.scenario, torch.ones(network.cache.shape, dtype=torch.float64))
    network.reset()
    began = time.process_time()
    while not network.episode_over:
        if network.frame_over:
            network.begin_frame(full)
        network.offloading_view()
        network.step(home)
    return time.process_time() - began


def main() -> None:
    """Do what is asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("draw")
    one.add_argument("--output", type=Path, default=Path("docs/worlds"))
    for name in ("bench", "page"):
        one = commands.add_parser(name)
        one.add_argument("--worlds", nargs="+", default=list(WORLDS))
        one.add_argument("--output", type=Path, default=Path("worlds"))
        if name == "bench":
            one.add_argument("--policies", nargs="+", default=[*LEARNERS, *HEURISTICS, *REFERENCES])
            one.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
            one.add_argument("--workers", type=int, default=2)
    one = commands.add_parser("cost")
    one.add_argument("--networks", nargs="+", type=int, default=[8, 256])
    words = vars(parser.parse_args())
    {"draw": draw, "bench": bench, "page": page, "cost": cost}[words.pop("command")](**words)


if __name__ == "__main__":
    main()

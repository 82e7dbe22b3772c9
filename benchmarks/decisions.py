"""How good, how fast and how steady decisions of a slot are: by sums and by samples, for agents and for a city.

    OMP_NUM_THREADS=1 python benchmarks/decisions.py [--networks 10] [--cities 20x300x10 125x816x10 200x3000x100]
    OMP_NUM_THREADS=1 python benchmarks/decisions.py --growth docs/performance.svg
    OMP_NUM_THREADS=1 python benchmarks/decisions.py --stability es2.ckpt es3.ckpt es5.ckpt [--views 24] [--episodes 20]

Agents play an episode each way under the caches of most hits, on the same requests, positions and fading: latency over
that of the best known decisions, and the CPU time of a decision for one network (median and largest) and per network of
several. Cities are drawn, with random full caches and the weights of es5.ckpt: CPU time of a decision, memory of the
process, and with `--compare`, which takes seconds, latency over that of the best known decisions.

`--growth` draws the CPU time of a decision against users x servers, and fits its exponent: by all sizes, and by those
of the last decade alone, where what does not depend on the sizes hardly counts.

`--stability` says how many users move when nothing or little has changed, and what that costs. For views from the third
frame of an episode (or another, by `--frame`): users whose server differs under other draws; after one user's input
grew by 1 %; and the *others'* whose server differs after one user asks for another service. Then the latency of
episodes, summed over users, mean over slots, the same for every version of the package, and the CPU time of one
decision for one network and for ten.
"""

import argparse
import math
import resource
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import linear_regression, median

import torch
from torch import Tensor

from hadrl_lightning import HADRL, EdgeNetwork
from hadrl_lightning.baselines import CACHING_POLICIES, best_known_allocation, best_known_policy
from hadrl_lightning.files import writing
from hadrl_lightning.play import Frame, OffloadingPolicy, by_policy, episode_scores, play_frame, run_episode
from hadrl_lightning.plots.style import COLOURS, COLUMN_IN, style
from hadrl_lightning.scenario import GIB, Scenario
from hadrl_lightning.simulator import (
    Allocation,
    OffloadingView,
    Use,
    decode_offloading,
    fill_caches,
    make_generator,
    serve,
)

PLACES = [(name, cache) for name in ("es2", "es3", "es4", "es5") for cache in (20, 40, 80, 200)]
GROWTH = [(2, 30), (4, 60), (8, 120), (16, 240), (32, 480), (64, 960), (96, 1440), (128, 1920), (200, 3000)]
"""Servers and users."""


def main() -> None:
    """Measure, and print a row for each place and city."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--networks", type=int, default=10)
    parser.add_argument(
        "--cities", nargs="*", default=["20x300x10", "125x816x10", "125x816x87", "200x3000x100"]
    )
    parser.add_argument("--compare", action="store_true", help="cities beside the best known decisions")
    parser.add_argument("--growth", type=Path, metavar="FILE", help="draw the growth with the sizes, and end")
    parser.add_argument("--stability", nargs="+", metavar="AGENT", help="who moves, and end")
    parser.add_argument("--views", type=int, default=24)
    parser.add_argument("--frame", type=int, default=3)
    parser.add_argument("--episodes", type=int, default=20)
    words = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if words.growth:
        growth(words.growth)
        return
    if words.stability:
        stability(words.stability, words.views, words.frame, words.episodes)
        return
    print("place | samples: ÷ best known, ms of one, a network of several | sums")
    for name, cache in PLACES:
        agent = HADRL.from_checkpoint(f"{name}.ckpt")
        agent = agent.for_scenario(replace(agent.scenario, cache_bytes=cache * GIB))
        cells = [cell(searching(agent, search), words.networks) for search in ("samples", "sums")]
        print(f"{name}, {cache} GiB | {' | '.join(cells)}", flush=True)
    for sizes in words.cities:
        print(city(*map(int, sizes.split("x")), compare=words.compare), flush=True)


def searching(agent: HADRL, search: str) -> HADRL:
    """The agent with another way to plan."""
    other = HADRL(**{**agent.settings, "planner": replace(agent.planner.settings, search=search)})
    other.load_state_dict(agent.state_dict())
    return other.eval()


def cell(agent: HADRL, networks: int) -> str:
    """Latency over the best known, and CPU times, in words."""
    ratio, several = played(agent, networks)
    _, one = played(agent, 1)
    one.sort()
    per_network = 1e3 * sorted(several)[len(several) // 2] / networks
    return f"{ratio:.4f}, {1e3 * one[len(one) // 2]:.1f} (at most {1e3 * one[-1]:.1f}), {per_network:.2f}"


def played(agent: HADRL, networks: int) -> tuple[float, list[float]]:
    """Mean ratio to the best known decisions under the same caches, and seconds of every decision."""
    caching = CACHING_POLICIES["hit_optimal"](agent.scenario, torch.Generator())
    seconds: list[float] = []

    def timed(network: EdgeNetwork) -> Allocation:
        view, begun = network.offloading_view(), time.process_time()
        allocation = agent.decide(view)
        seconds.append(time.process_time() - begun)
        return allocation

    policies: list[Callable[[EdgeNetwork], Allocation]] = [timed, best_known_policy]
    own, best = (latency(agent.scenario, networks, caching, policy) for policy in policies)
    return float((own / best).mean()), seconds


def latency(
    scenario: Scenario,
    networks: int,
    caching: Callable[[EdgeNetwork], torch.Tensor],
    policy: OffloadingPolicy,
) -> torch.Tensor:
    """Of every network, over an episode."""
    generator = make_generator(5, Use.TEST_NETWORKS)
    episode = run_episode(EdgeNetwork(scenario, num_envs=networks, generator=generator), caching, policy)
    return episode_scores(episode).latency


def city(servers: int, users: int, services: int, compare: bool) -> str:
    """What a decision for so many takes, in words."""
    network, seconds, allocation = decided(servers, users, services, times=5)
    scenario = network.scenario
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    text = f"{servers} servers, {users} users, {services} services | {median(seconds):.3f} s, at most {peak:.2f} GiB"
    if not compare:
        return text
    slot = (scenario, network.cache, network.requests, network.positions)
    fading = network.unfolding.foreseen().fading
    assert fading is not None
    own, best = (
        float(serve(*slot, fading, decision).latency.sum())
        for decision in (allocation, best_known_allocation(*slot))
    )
    return f"{text}, {own / best:.4f} × the best known"


def decided(
    servers: int, users: int, services: int, times: int
) -> tuple[EdgeNetwork, list[float], Allocation]:
    """A network of so many with random full caches, CPU seconds of each of several decisions, and the last one."""
    agent = HADRL.from_checkpoint("es5.ckpt")
    scenario = agent.scenario.resized(servers, users, services)
    network = EdgeNetwork(scenario, generator=make_generator(5, Use.TEST_NETWORKS))
    draws = torch.Generator().manual_seed(1)
    network.begin_frame(fill_caches(scenario, torch.rand(1, servers, services, generator=draws)))
    view, seconds = network.offloading_view(), []
    for _ in range(times):
        begun = time.process_time()
        allocation = agent.decide(view, seed=0)
        seconds.append(time.process_time() - begun)
    return network, seconds, allocation


def growth(file: Path) -> None:
    """Time decisions of networks from a few users to a city, print and draw them with the exponents fitted."""
    with style() as plt, writing(file):
        plt.rcParams["svg.hashsalt"] = "growth"
        figure, axes = plt.subplots(figsize=(COLUMN_IN, 2.6))
        for services, colour in zip((10, 100), COLOURS):
            pairs = [servers * users for servers, users in GROWTH]
            spent = [timed_decisions(*sizes, services) for sizes in GROWTH]
            taken = [median(seconds) for seconds in spent]
            whole, _ = exponent(pairs, taken)
            last = [index for index, count in enumerate(pairs) if count >= pairs[-1] / 10]
            slope, level = exponent([pairs[index] for index in last], [taken[index] for index in last])
            print(
                f"{services} services: exponent {whole:.2f} over all, {slope:.2f} over the last decade",
                flush=True,
            )
            ends = [
                [middle - min(seconds), max(seconds) - middle]
                for middle, seconds in zip(taken, spent, strict=True)
            ]
            axes.errorbar(pairs, taken, list(zip(*ends)), fmt="o", color=colour, elinewidth=0.6)
            line = [pairs[last[0]], pairs[-1]]
            fitted = [math.exp(level) * count**slope for count in line]
            axes.plot(line, fitted, color=colour, label=f"{services} services: exponent {slope:.2f}")
        axes.set(xscale="log", yscale="log", xlabel="users × servers", ylabel="CPU time of a decision (s)")
        axes.legend()
        figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else {})
        plt.close(figure)


def timed_decisions(servers: int, users: int, services: int) -> list[float]:
    """CPU seconds of a decision, several times after a first one that does not count."""
    _, (_, *spent), _ = decided(servers, users, services, times=16)
    print(
        f"{servers} x {users}, {services} services: {median(spent):.4f} s ({min(spent):.4f} to {max(spent):.4f})",
        flush=True,
    )
    return spent


def exponent(counts: list[int], seconds: list[float]) -> tuple[float, float]:
    """Slope and level of the line of least squares through the logarithms."""
    return linear_regression(list(map(math.log, counts)), list(map(math.log, seconds)))


def stability(names: list[str], count: int, frame: int, episodes: int) -> None:
    """Print a row of every agent."""
    print(
        "agent | other draws | input + 1 % | others, one other request | latency (s) | ms, 1 network | ms, 10"
    )
    for name in names:
        agent = HADRL.from_checkpoint(name)
        views = views_of(agent, count, frame)
        first = targets(agent, views, 1)
        changed, user = other_request(agent, views)
        others = targets(agent, changed, 1) != first
        others[torch.arange(len(user)), user] = False
        counts = [
            (targets(agent, views, 2) != first).sum() / len(views),
            (targets(agent, heavier(agent, views), 1) != first).sum() / len(views),
            others.sum() / len(views),
        ]
        moved = " | ".join(f"{float(count):.2f}" for count in counts)
        speed = " | ".join(f"{cpu_ms(agent, views[:size]):.1f}" for size in (1, 10))
        print(f"{name} | {moved} | {mean_latency(agent, episodes):.3f} | {speed}", flush=True)


def seeded(seed: int) -> torch.Generator:
    """A generator."""
    return torch.Generator().manual_seed(seed)


def views_of(agent: HADRL, count: int, frame: int) -> OffloadingView:
    """Offloading views at the start of a frame, of networks that the agent has served until then."""
    network = EdgeNetwork(agent.scenario, num_envs=count, generator=seeded(3))
    caching, offloading = agent.policies()
    for _ in range(frame - 1):
        play_frame(network, by_policy(caching), by_policy(offloading))
    Frame(network, by_policy(caching))
    return network.offloading_view()


def targets(agent: HADRL, views: OffloadingView, seed: int) -> Tensor:
    """The servers decided, view by view, each with the same draws."""
    plans = [agent.plan(view, agent.planner, seeded(seed)).action for view in views.split(1)]
    return decode_offloading(agent.scenario, torch.cat(plans)).server


def heavier(agent: HADRL, views: OffloadingView) -> OffloadingView:
    """The views with one user's input grown by 1 %."""
    users = agent.scenario.num_users
    user = torch.randint(users, (len(views),), generator=seeded(7))
    views = views.clone()
    views.input_bits[torch.arange(len(views)), user] *= 1.01
    return views


def other_request(agent: HADRL, views: OffloadingView) -> tuple[OffloadingView, Tensor]:
    """The views with one user's request replaced, and who that user is."""
    scenario, draw = agent.scenario, seeded(3)
    rows, users = torch.arange(len(views)), scenario.num_users
    user = torch.randint(users, (len(views),), generator=draw)
    views = views.clone()
    step = torch.randint(1, scenario.num_services, (len(views),), generator=draw)
    service = (views.requests[rows, user] + step) % scenario.num_services
    views.requests[rows, user] = service
    views.input_bits[rows, user] = torch.tensor(scenario.input_bits)[service]
    views.cycles[rows, user] = torch.tensor(scenario.cycles)[service]
    return views, user


def mean_latency(agent: HADRL, episodes: int) -> float:
    """Of episodes that depend on nothing but their number."""
    network = EdgeNetwork(agent.scenario, num_envs=episodes, generator=seeded(5))
    return float(episode_scores(agent.play(network)).latency.mean())


def cpu_ms(agent: HADRL, views: OffloadingView, repeats: int = 10) -> float:
    """CPU time of a decision for some networks, the least of several."""
    times = []
    for _ in range(repeats):
        began = time.process_time()
        agent.plan(views, agent.planner, seeded(1))
        times.append(1e3 * (time.process_time() - began))
    return min(times)


if __name__ == "__main__":
    main()

"""What an agent's caches are worth, and how well it expects what caches cost.

    hadrl fit --config es3.yaml --config tight.yaml
    python benchmarks/caches.py checkpoints/es3/version_0/best.ckpt [--figure docs/frames.svg] [--networks 50]

found     Latency of the caches that the agent would hold under the usual demand, over that of the least known ones:
          both under the best known decisions, in the same slots.
frames    Latency of whole episodes under caches of all kinds, filled at random and drawn around the agent's, decided by
          the agent's own plans, beside what it expected of each with users as shares of a crowd and with users in drawn
          slots: mean error, rank correlation, and how much worse than the best of them the expectedly best one is.
reversed  The services asked for most change places with those asked for least: latency of every decision of an episode
          over that of the least known caches of the reversed network.
time      CPU time of one caching decision, one network.
"""

import argparse
import time
import warnings
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from hadrl_lightning import HADRL, EdgeNetwork, Scenario
from hadrl_lightning.agents import LookaheadCaching
from hadrl_lightning.agents.cache_search import as_action, normal
from hadrl_lightning.baselines import best_known_policy, least_latency
from hadrl_lightning.play import Episode, OffloadingPolicy, run_episode
from hadrl_lightning.plots.style import COLOURS, COLUMN_IN, style
from hadrl_lightning.simulator import Use, fill_caches, make_generator

NUM_CACHES = 48
"""Of each kind."""
NUM_SLOTS = 500
SEED = 7


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("agent", help="a checkpoint")
    parser.add_argument("--networks", type=int, default=50, help="episodes of each number (default: 50)")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw the frames")
    words = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    agent = HADRL.from_checkpoint(words.agent)
    if not isinstance(agent.caching_agent, LookaheadCaching):
        parser.error(f"agent must look ahead, got one with a {type(agent.caching_agent).__name__}")
    agent.keep_quiet()
    found(agent, words.networks)
    frames(agent, words.networks, words.figure)
    reversed_demand(agent, words.networks)
    timed(agent)


def networks(scenario: Scenario, count: int) -> EdgeNetwork:
    """Networks of fresh episodes, the same each time."""
    return EdgeNetwork(scenario, num_envs=count, generator=make_generator(SEED, Use.TEST_NETWORKS))


def played(scenario: Scenario, cache: Tensor, policy: OffloadingPolicy, count: int) -> Episode:
    """An episode under one cache."""
    return run_episode(networks(scenario, count), lambda network: cache.expand(network.cache.shape), policy)


def found(agent: HADRL, count: int) -> None:
    """Print what the caches under the usual demand are worth."""
    scenario = agent.scenario
    cache = agent.place(EdgeNetwork(scenario).caching_view())[0]
    own, least = (
        played(scenario, choice, best_known_policy, count).latency.sum(dim=2).mean()
        for choice in (cache, least_latency(scenario).cache)
    )
    print(f"found: {float(own):.3f} s, least known {float(least):.3f} s, ratio {float(own / least):.4f}")


def frames(agent: HADRL, count: int, file: Path | None) -> None:
    """Print, and draw, what frames cost and what was expected of them."""
    scenario, slow = agent.scenario, agent.caching_agent
    assert isinstance(slow, LookaheadCaching)
    view = networks(scenario, 1).caching_view()
    to_come, draws = slow.frames(view, slow.demand.now(view)), torch.Generator().manual_seed(SEED)
    shape = (NUM_CACHES, scenario.num_servers, scenario.num_services)
    own = as_action(agent.place(view), torch.float32)
    wishes = {"at random": normal(shape, draws, own), "around the agent's": own + normal(shape, draws, own)}
    _, fast = agent.policies()
    points = {}
    for kind, wish in wishes.items():
        caches = torch.unique(fill_caches(scenario, wish), dim=0)
        measured = [played(scenario, cache, fast, count).latency.sum(dim=2).mean() for cache in caches]
        row = torch.zeros(len(caches), dtype=torch.int64)
        slots = to_come.on_slots(row, caches, torch.rand(NUM_SLOTS, scenario.num_users, generator=draws))
        crowd = to_come.best_parts(row, caches).cost
        points[kind] = torch.stack((torch.stack(measured), crowd, slots.mean(dim=1)))
    every = torch.cat(list(points.values()), dim=1)
    for name, expected in zip(("crowd", "drawn slots"), every[1:]):
        rank = torch.corrcoef(torch.stack((every[0], expected)).argsort().argsort().float())[0, 1]
        worse = float(every[0, expected.argmin()] / every[0].min())
        error = (expected / every[0] - 1).abs().mean()
        print(
            f"frames by {name}: {every.shape[1]} caches, {float(every[0].min()):.1f} to {float(every[0].max()):.1f} s, "
            f"mean error {100 * float(error):.2f} %, rank correlation {float(rank):.4f}, "
            f"the one expected to be best over the best {worse:.4f}"
        )
    if file is not None:
        draw(points, file)


def draw(points: dict[str, Tensor], file: Path) -> None:
    """Draw expected against measured latencies."""
    with style() as plt:
        plt.rcParams["svg.hashsalt"] = "frames"
        figure, axes = plt.subplots(figsize=(COLUMN_IN, 2.8))
        for (kind, values), colour in zip(points.items(), COLOURS):
            axes.plot(values[0], values[2], "o", color=colour, label=f"caches {kind}", alpha=0.7)
        ends = [float(end) for end in torch.aminmax(torch.cat(list(points.values()), dim=1))]
        axes.plot(ends, ends, color="#888888", linewidth=0.8, zorder=0)
        axes.set_xlabel("measured: latency summed over users (s)")
        axes.set_ylabel("expected by the model (s)")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.legend()
        figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else {})
        plt.close(figure)


def reversed_demand(agent: HADRL, count: int) -> None:
    """Print how the agent does where popularity is reversed."""
    usual = agent.scenario
    scenario = replace(usual, popularity=tuple(reversed(usual.popularity_vector)))
    own = run_episode(networks(scenario, count), *agent.for_scenario(scenario).policies())
    least = played(scenario, least_latency(scenario).cache, best_known_policy, count)
    each = [episode.latency.sum(dim=2).view(len(own.switching), -1).mean(dim=1) for episode in (own, least)]
    ratios = ", ".join(f"{float(ratio):.3f}" for ratio in each[0] / each[1])
    print(
        f"reversed: by decision {ratios}; from the third on {float(each[0][2:].sum() / each[1][2:].sum()):.4f}"
    )


def timed(agent: HADRL) -> None:
    """Print what a decision takes."""
    view = networks(agent.scenario, 1).caching_view()
    spent = []
    for index in range(20):
        begun = time.process_time()
        agent.place(view, decision=index)
        spent.append(time.process_time() - begun)
    spent.sort()
    print(f"time: {1e3 * spent[len(spent) // 2]:.1f} ms, at most {1e3 * spent[-1]:.1f} ms")


if __name__ == "__main__":
    main()

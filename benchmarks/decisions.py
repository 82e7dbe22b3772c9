"""How good and how fast decisions of a slot are: by sums and by samples, for shipped agents and for a city.

    OMP_NUM_THREADS=1 python benchmarks/decisions.py [--networks 10] [--cities 20x300x10 125x816x10 200x3000x100]

Agents play an episode each way under the caches of most hits, on the same requests, positions and fading: latency over
that of the best known decisions, and the CPU time of a decision for one network (median and largest) and per network of
several. Cities are drawn, with random full caches and the weights of es5.ckpt: CPU time of a decision, memory of the
process, and with `--compare`, which takes seconds, latency over that of the best known decisions.
"""

import argparse
import resource
import time
import warnings
from collections.abc import Callable
from dataclasses import replace

import torch

from hadrl_lightning import HADRL, EdgeNetwork
from hadrl_lightning.baselines import CACHING_POLICIES, best_known_allocation, best_known_policy
from hadrl_lightning.play import OffloadingPolicy, episode_scores, run_episode
from hadrl_lightning.scenario import GIB, Scenario
from hadrl_lightning.simulator import Allocation, Use, fill_caches, make_generator, serve

PLACES = [(name, cache) for name in ("es2", "es3", "es4", "es5") for cache in (20, 40, 80, 200)]


def main() -> None:
    """Measure, and print a row for each place and city."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--networks", type=int, default=10)
    parser.add_argument(
        "--cities", nargs="*", default=["20x300x10", "125x816x10", "125x816x87", "200x3000x100"]
    )
    parser.add_argument("--compare", action="store_true", help="cities beside the best known decisions")
    words = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
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
    agent = HADRL.from_checkpoint("es5.ckpt")
    scenario = agent.scenario.resized(servers, users, services)
    network = EdgeNetwork(scenario, generator=make_generator(5, Use.TEST_NETWORKS))
    draws = torch.Generator().manual_seed(1)
    network.begin_frame(fill_caches(scenario, torch.rand(1, servers, services, generator=draws)))
    view, seconds = network.offloading_view(), []
    for _ in range(5):
        begun = time.process_time()
        allocation = agent.decide(view, seed=0)
        seconds.append(time.process_time() - begun)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    text = f"{servers} servers, {users} users, {services} services | {sorted(seconds)[2]:.3f} s, at most {peak:.2f} GiB"
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


if __name__ == "__main__":
    main()

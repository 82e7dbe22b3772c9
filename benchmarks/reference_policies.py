"""All policies that learn nothing, on the same requests, positions and fading: what learners are held against.

    python benchmarks/reference_policies.py --scenario es2.yaml --cache_gib 200 40

For each caching policy one row for each offloading policy: hit ratio; latency summed over users per slot in s with a
95 % interval over episodes; its ratio to the best known decision and to the certified lower bound, both with the same
caches. `best_known` and the bound know all but the fading to come; `hindsight` knows that too.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from hadrl_lightning.baselines import CACHING_POLICIES, OFFLOADING_POLICIES, expected_fading, lower_bound
from hadrl_lightning.judge import interval
from hadrl_lightning.play import OffloadingPolicy, run_episode
from hadrl_lightning.scenario import GIB, Scenario
from hadrl_lightning.simulator import Allocation, EdgeNetwork, Use, make_generator


class Score(NamedTuple):
    """One pair of policies, a value per episode."""

    hit_ratio: Tensor
    latency_s: Tensor
    """Summed over users, mean over the episode's slots."""


class LowerBound:
    """Plays the policy it wraps and notes the lower bound of every slot it meets."""

    def __init__(self, policy: OffloadingPolicy) -> None:
        self.policy = policy
        self.bounds: list[Tensor] = []

    def __call__(self, network: EdgeNetwork) -> Allocation:
        """The wrapped policy's allocation."""
        fading = expected_fading(network.scenario, network.positions)
        bound = lower_bound(network.scenario, network.cache, network.requests, network.positions, fading)
        self.bounds.append(bound)
        return self.policy(network)


def play(scenario: Scenario, caching: str, offloading: str, seeds: int, num_envs: int) -> dict[str, Score]:
    """Scores of the pair over seeds x num_envs episodes; beside `best_known` also those of the lower bound."""
    episodes: list[Score] = []
    bounds: list[Tensor] = []
    for seed in range(seeds):
        uses = (Use.TEST_NETWORKS, Use.BASELINE_CACHING, Use.BASELINE_OFFLOADING)
        slots, cache_draws, offload_draws = (make_generator(seed, use) for use in uses)
        network = EdgeNetwork(scenario, num_envs=num_envs, generator=slots)
        policy = OFFLOADING_POLICIES[offloading](scenario, offload_draws)
        if offloading == "best_known":
            policy = LowerBound(policy)
        episode = run_episode(network, CACHING_POLICIES[caching](scenario, cache_draws), policy)
        hits, latency = episode.hit.double().mean(dim=(0, 2)), episode.latency.double().sum(dim=2).mean(dim=0)
        episodes.append(Score(hits, latency))
        if isinstance(policy, LowerBound):
            bounds.append(torch.stack(policy.bounds).mean(dim=0))
    scores = {offloading: Score(*(torch.cat(column) for column in zip(*episodes, strict=True)))}
    if bounds:
        scores["lower bound"] = Score(scores[offloading].hit_ratio, torch.cat(bounds))
    return scores


def row(name: str, score: Score, scores: dict[str, Score]) -> str:
    """One line of the table."""
    latency = score.latency_s
    half = interval([latency.tolist()]).half
    ratios = [
        f"{float(latency.mean() / scores[other].latency_s.mean()):8.3f}" if other in scores else " " * 8
        for other in ("best_known", "lower bound")
    ]
    hits, mean = float(score.hit_ratio.mean()), float(latency.mean())
    return f"  {name:20s} {hits:9.3f} {mean:10.2f} ± {half:5.2f} {' '.join(ratios)}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenario", default="es2.yaml", help="config: a path or the name of a shipped one")
    parser.add_argument(
        "--cache_gib", type=float, nargs="+", help="caches per server in GiB (default: the config's)"
    )
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds, from 0")
    parser.add_argument("--num_envs", type=int, default=20, help="episodes a seed, played in parallel")
    parser.add_argument("--caching", nargs="+", choices=CACHING_POLICIES, default=list(CACHING_POLICIES))
    parser.add_argument(
        "--offloading", nargs="+", choices=OFFLOADING_POLICIES, default=list(OFFLOADING_POLICIES)
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    config = Scenario.from_config(options.scenario)
    for gib in options.cache_gib or (None,):
        scenario = config if gib is None else replace(config, cache_bytes=gib * GIB)
        print(f"{options.scenario}, caches of {scenario.cache_per_server_bits[0] / 8 / GIB:g} GiB", end=", ")
        print(f"{options.seeds} seeds x {options.num_envs} episodes of {scenario.slots_per_episode} slots")
        for caching in options.caching:
            scores: dict[str, Score] = {}
            for offloading in options.offloading:
                scores |= play(scenario, caching, offloading, options.seeds, options.num_envs)
            print(
                f"caching: {caching}\n  {'offloading':20s} {'hit ratio':>9s} {'latency [s]':>18s} / known  / bound"
            )
            for name, score in scores.items():
                print(row(name, score, scores), flush=True)


if __name__ == "__main__":
    main()

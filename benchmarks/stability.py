"""How many users move when nothing or little has changed, what that costs, and how long a decision takes.

    python benchmarks/stability.py [--agents es2.ckpt es3.ckpt es5.ckpt] [--views 24] [--episodes 20]

For views from the third frame of an episode (or another, by `--frame`): users whose server differs under other draws;
after one user's input grew by 1 %; and the *others'* whose server differs after one user asks for another service. Then
the latency of episodes, summed over users, mean over slots, the same for every version of the package, and the CPU time
of one decision for one network and for ten.
"""

import argparse
import time

import torch
from torch import Tensor

from hadrl_lightning import HADRL, EdgeNetwork
from hadrl_lightning.play import Frame, by_policy, episode_scores, play_frame
from hadrl_lightning.simulator import OffloadingView, decode_offloading


def main() -> None:
    """Measure every agent, and print a row of each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--agents", nargs="+", default=["es2.ckpt", "es3.ckpt", "es5.ckpt"])
    parser.add_argument("--views", type=int, default=24)
    parser.add_argument("--frame", type=int, default=3)
    parser.add_argument("--episodes", type=int, default=20)
    words = parser.parse_args()
    torch.set_num_threads(1)
    print(
        "agent | other draws | input + 1 % | others, one other request | latency (s) | ms, 1 network | ms, 10"
    )
    for name in words.agents:
        agent = HADRL.from_checkpoint(name)
        views = views_of(agent, words.views, words.frame)
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
        print(f"{name} | {moved} | {latency(agent, words.episodes):.3f} | {speed}", flush=True)


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


def latency(agent: HADRL, episodes: int) -> float:
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

"""What an agent that goes on learning makes of changes that nobody announces.

    python benchmarks/adapting.py [AGENT] [--config es3.yaml --config tight.yaml] [--networks 8] [--seeds 0 1 2]

After BEFORE slots something changes that no view shows, and after CHANGED more it is as it was. Printed are, for each
change and way of learning, latencies over those of the least known: the best known decisions, by the true physics,
under the caches of least latency of the network as it is then. In turn: before, in the first slot of the change, from
its 20th slot on, and after it; then the slot from which five in a row stay within 1.05, and the largest ratio of the
latency of five slots to what the agent that learns nothing takes in them.

slow     the last server has a tenth of its compute
half     every server has half of its bandwidth
fast     the last server has four times its compute
new      two services that nobody asked for, and of which nothing is on record, get 40 % of all requests
nothing  nothing changes
"""

import argparse
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from hadrl_lightning import HADRL, EdgeNetwork, Scenario
from hadrl_lightning.agents.adapting import Adapt
from hadrl_lightning.baselines import best_known_policy, least_latency
from hadrl_lightning.simulator import Allocation, Use, make_generator
from hadrl_lightning.simulator.processes.usual import requested

BEFORE, CHANGED, AFTER = 20, 60, 40
NEW_SHARE = 0.4
WAYS: tuple[Adapt, ...] = ("off", "heads", "all")
WITHIN = 1.05


class Change(NamedTuple):
    """What is the case, as views show it, and as it is while it is changed."""

    shown: Scenario
    true: Scenario


def changes(scenario: Scenario) -> dict[str, Change]:
    """All changes by name."""
    *others, last = scenario.compute_per_server_hz
    half = tuple(value / 2 for value in scenario.bandwidth_per_server_hz)
    known = list(scenario.popularity_vector[:-2])
    sizes = range(2)
    old = [(1 - NEW_SHARE) * weight / sum(known) for weight in known]
    before = replace(scenario, popularity=(*known, *(0.0 for _ in sizes)))
    return {
        "slow": Change(scenario, replace(scenario, compute_hz=(*others, last / 10))),
        "half": Change(scenario, replace(scenario, bandwidth_hz=half)),
        "fast": Change(scenario, replace(scenario, compute_hz=(*others, last * 4))),
        "new": Change(before, replace(scenario, popularity=(*old, *(NEW_SHARE / 2 for _ in sizes)))),
        "nothing": Change(scenario, scenario),
    }


class World:
    """Networks in which something changes for a while; what is met does not depend on who decides.

    Args:
        change: what.
        networks: how many.
        seed: of all that is drawn.
    """

    def __init__(self, change: Change, networks: int, seed: int) -> None:
        slots = BEFORE + CHANGED + AFTER
        length = {"decisions_per_episode": -(-slots // change.shown.slots_per_decision)}
        self.shown, self.true = (replace(one, **length) for one in change)
        self.network = EdgeNetwork(
            self.shown, num_envs=networks, generator=make_generator(seed, Use.TEST_NETWORKS)
        )
        self.changed = EdgeNetwork(
            self.true, num_envs=networks, generator=make_generator(seed, Use.TEST_NETWORKS)
        )
        self._draws = make_generator(seed, Use.ENVIRONMENTS)
        self._ask()

    def _ask(self) -> None:
        """What is asked for in the coming slot."""
        here, unfolding = self.present, self.network.unfolding
        draws = torch.rand(unfolding.slot.requests.shape, generator=self._draws, dtype=torch.float64)
        for memory in unfolding.memory.values():
            if "requests" in memory:
                memory["requests"] = requested(here.table, draws)  # type: ignore[index]
        unfolding.slot = unfolding.slot_of(slice(None))

    @property
    def is_changed(self) -> bool:
        """Whether the coming slot is one of the changed ones."""
        return BEFORE <= self.network.slot < BEFORE + CHANGED

    @property
    def present(self) -> EdgeNetwork:
        """The networks that have the constants of the coming slot."""
        return self.changed if self.is_changed else self.network

    def serve(self, allocation: Allocation) -> Tensor:
        """Latencies of a slot by the true physics; the networks go on."""
        network, table = self.network, self.present.table
        slot = network.unfolding.foreseen()
        assert slot.fading is not None
        cache = network.state.cache
        served = network.rules.serve(table, cache, slot.requests, slot.positions, slot.fading, allocation)
        network.step(allocation)
        self._ask()
        return served.latency


def least_known(change: Change, networks: int, seed: int) -> Tensor:
    """Latency of every slot, summed over users and networks, by who knows all."""
    world, found = World(change, networks, seed), []
    caches = {one: least_latency(one).cache for one in (world.shown, world.true)}
    for _ in range(BEFORE + CHANGED + AFTER):
        network, present = world.network, world.present
        if network.frame_over:
            network.begin_frame(caches[present.scenario].expand(network.cache.shape))
        present.state, present.unfolding.slot = network.state, network.unfolding.slot
        present.unfolding.memory = network.unfolding.memory
        found.append(world.serve(best_known_policy(present)).sum())
    return torch.stack(found)


def played(agent: HADRL, adapt: Adapt, change: Change, networks: int, seed: int) -> Tensor:
    """The same by an agent."""
    world, found = World(change, networks, seed), []
    agent = agent.for_scenario(world.shown).eval()
    agent.keep_quiet()
    for _ in range(BEFORE + CHANGED + AFTER):
        network = world.network
        if network.frame_over:
            network.begin_frame(agent.place(network.caching_view(), decision=network.decision))
        view = network.offloading_view()
        allocation = agent.decide(view)
        latency = world.serve(allocation)
        if adapt != "off":
            agent.learn(view, allocation, latency, adapt)
        found.append(latency.sum())
    return torch.stack(found)


def settled(ratio: Tensor) -> int | None:
    """From which slot of the change on five in a row are within `WITHIN`."""
    inside = (ratio[BEFORE : BEFORE + CHANGED] <= WITHIN).tolist()
    return next((slot for slot in range(len(inside) - 4) if all(inside[slot : slot + 5])), None)


def main(words: Sequence[str] | None = None) -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("agent", nargs="?", default="hadrl.ckpt", help="a checkpoint (default: hadrl.ckpt)")
    parser.add_argument("--config", action="append", help="of the network (default: es3.yaml tight.yaml)")
    parser.add_argument("--changes", nargs="+", help="some of them (default: all)")
    parser.add_argument("--networks", type=int, default=8, help="in parallel (default: 8)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    given = parser.parse_args(words)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    scenario = Scenario.from_config(*(given.config or ("es3.yaml", "tight.yaml")))
    agent = HADRL.from_checkpoint(given.agent)
    known = changes(scenario)
    head = (
        "change",
        "adapt",
        "seed",
        "before",
        "1st slot",
        "from 20th",
        "after",
        "within 1.05",
        "worst ÷ frozen",
    )
    print(" ".join(f"{word:>14s}" for word in head))
    for name in given.changes or known:
        for seed in given.seeds:
            least = least_known(known[name], given.networks, seed)
            frozen = None
            for adapt in WAYS:
                latency = played(agent, adapt, known[name], given.networks, seed)
                frozen = latency if frozen is None else frozen
                print(
                    " ".join(
                        f"{cell:>14s}" for cell in (name, adapt, str(seed), *_cells(latency, least, frozen))
                    )
                )


def _cells(latency: Tensor, least: Tensor, frozen: Tensor) -> list[str]:
    ratio, end = latency / least, BEFORE + CHANGED
    parts = (slice(0, BEFORE), slice(BEFORE, BEFORE + 1), slice(BEFORE + 20, end), slice(end + 5, None))
    means = [float(latency[part].sum() / least[part].sum()) for part in parts]
    worst = (latency.unfold(0, 5, 1).sum(dim=1) / frozen.unfold(0, 5, 1).sum(dim=1)).max()
    slot = settled(ratio)
    return [
        *(f"{mean:.3f}" for mean in means),
        "never" if slot is None else f"slot {slot}",
        f"{float(worst):.3f}",
    ]


if __name__ == "__main__":
    main()

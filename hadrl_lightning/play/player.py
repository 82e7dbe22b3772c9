"""The one loop over frames and slots: what was seen, decided, served and seen next, as values; and whole episodes."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hadrl_lightning.simulator import (
    Allocation,
    CachingView,
    EdgeNetwork,
    OffloadingView,
    Service,
    decode_caching,
    decode_offloading,
    equal_shares,
    terms,
)
from hadrl_lightning.simulator.state import asked

CachingPolicy = Callable[[EdgeNetwork], Tensor]
"""From the network to the next cache, bool [B, S, K]."""
OffloadingPolicy = Callable[[EdgeNetwork], Allocation]
"""From the network to the allocation of the coming slot."""
Policies = tuple[CachingPolicy, OffloadingPolicy]
"""One for each level."""

Sight = TypeVar("Sight")
"""What a decider looks at: a view, or the networks themselves."""
Act = TypeVar("Act")
"""What a decider does: the numbers of an agent's action, or the decision itself."""
Decision = TypeVar("Decision")
"""What an act stands for: the caches of a frame, or the allocation of a slot."""
FastSight = TypeVar("FastSight")
FastAct = TypeVar("FastAct")


@dataclass(frozen=True)
class Decider(Generic[Sight, Act, Decision]):
    """Who plays one of the two levels: it looks at the networks, acts, and the act is read as a decision."""

    look: Callable[[EdgeNetwork], Sight]
    """What it sees of the networks as they stand."""
    act: Callable[[Sight], Act]
    """What it does there."""
    read: Callable[[EdgeNetwork, Sight, Act], Decision]
    """The decision that this stands for in those networks."""


def home_equal(network: EdgeNetwork) -> Allocation:
    """Every user to its home server, equal shares: the plainest fast level, [B, U]."""
    return equal_shares(network.scenario, network.homes, network.dtype)


def by_policy(policy: Callable[[EdgeNetwork], Decision]) -> Decider[EdgeNetwork, Decision, Decision]:
    """A policy as a decider: it sees the networks themselves, and what it does is the decision."""
    return Decider(lambda network: network, policy, lambda network, seen, decision: decision)


def decided(decision: Decision) -> Decider[EdgeNetwork, Decision, Decision]:
    """A decision that was made already, as a decider."""
    return by_policy(lambda network: decision)


def caching_agent(
    act: Callable[[CachingView], Tensor],
    read: Callable[[EdgeNetwork, CachingView, Tensor], Tensor] | None = None,
) -> Decider[CachingView, Tensor, Tensor]:
    """An agent of the slow level, from its view to an action [B, S K]; by default read as the physics has it."""
    read = read or (lambda network, seen, action: read_caches(network, action))
    return Decider(lambda network: network.caching_view(), act, read)


def offloading_agent(
    act: Callable[[OffloadingView], Tensor],
    read: Callable[[EdgeNetwork, OffloadingView, Tensor], Allocation] | None = None,
) -> Decider[OffloadingView, Tensor, Allocation]:
    """An agent of the fast level, from its view to an action [B, 3 U]; by default read as the physics has it."""
    read = read or (lambda network, seen, action: read_allocation(network, action))
    return Decider(lambda network: network.offloading_view(), act, read)


def read_caches(
    network: EdgeNetwork, action: Float[Tensor, "batch action"]
) -> Bool[Tensor, "batch server service"]:
    """The caches that an action [B, S K] stands for in these networks."""
    return decode_caching(network.scenario, action, network.cache, network.physics, network.exact)


def read_allocation(network: EdgeNetwork, action: Float[Tensor, "batch action"]) -> Allocation:
    """The allocation that an action [B, 3 U] stands for in these networks."""
    return decode_offloading(network.scenario, action, network.physics)


@dataclass(frozen=True, eq=False)
class PlayedSlot(Generic[Sight, Act]):
    """A slot of B networks."""

    seen: Sight
    """What the fast level saw."""
    act: Act
    """What it did."""
    requests: Int[Tensor, "batch user"]
    positions: Float[Tensor, "batch user 2"]
    """m"""
    allocation: Allocation
    """What was decided."""
    service: Service
    """What the users got."""
    seen_next: Sight
    """What the fast level saw when the slot was over."""


@dataclass(frozen=True, eq=False)
class PlayedFrame(Generic[Sight, Act]):
    """A frame of B networks."""

    seen: Sight
    """What the slow level saw."""
    act: Act
    """What it did."""
    cache: Bool[Tensor, "batch server service"]
    """What was decided."""
    switching: Float[Tensor, " batch"]
    """Cost of the decision, s."""
    slots: tuple[PlayedSlot[Any, Any], ...]
    """What was played until the next decision."""
    seen_next: Sight
    """What the slow level saw when the frame was over."""

    @property
    def hit(self) -> Bool[Tensor, "slot batch user"]:
        """Which tasks were served from a cache."""
        return torch.stack([slot.service.hit for slot in self.slots])

    @property
    def latency(self) -> Float[Tensor, "slot batch user"]:
        """Of every task, s; 0 of users without one."""
        return torch.stack([slot.service.latency for slot in self.slots])


class Frame(Generic[Sight, Act]):
    """A frame under way: begun by the slow level's decision, played slot by slot, and finished.

    Args:
        network: the networks, at the start of a frame.
        slow: decides on the caches.

    Raises:
        ValueError: caches that the networks refuse.
        RuntimeError: the frame before it is not over, or the episode is.
    """

    def __init__(self, network: EdgeNetwork, slow: Decider[Sight, Act, Tensor]) -> None:
        self._network = network
        self._slow = slow
        self._seen = slow.look(network)
        self._act = slow.act(self._seen)
        self._cache = slow.read(network, self._seen, self._act)
        self.switching = network.begin_frame(self._cache)
        """Cost of the decision in seconds, [B]."""
        self._slots: list[PlayedSlot[Any, Any]] = []

    def serve(self, fast: Decider[FastSight, FastAct, Allocation]) -> PlayedSlot[FastSight, FastAct]:
        """Play one slot.

        Raises:
            ValueError: an allocation that the networks refuse.
            RuntimeError: the frame is over.
        """
        return self._serve(fast, fast.look(self._network))

    def slots(
        self, fast: Decider[FastSight, FastAct, Allocation]
    ) -> Iterator[PlayedSlot[FastSight, FastAct]]:
        """Play the rest of the frame; each slot is given before the next one is decided."""
        seen = fast.look(self._network)
        while not self._network.frame_over:
            played = self._serve(fast, seen)
            seen = played.seen_next
            yield played

    def finish(self) -> PlayedFrame[Sight, Act]:
        """The whole frame.

        Raises:
            RuntimeError: the frame is not over.
        """
        if not self._network.frame_over:
            raise RuntimeError("finish must follow the last slot of the frame")
        seen_next = self._slow.look(self._network)
        slots = tuple(self._slots)
        return PlayedFrame(self._seen, self._act, self._cache, self.switching, slots, seen_next)

    def _serve(
        self, fast: Decider[FastSight, FastAct, Allocation], seen: FastSight
    ) -> PlayedSlot[FastSight, FastAct]:
        network = self._network
        requests, positions = network.requests, network.positions
        act = fast.act(seen)
        allocation = fast.read(network, seen, act)
        service = network.step(allocation)
        played = PlayedSlot(seen, act, requests, positions, allocation, service, fast.look(network))
        self._slots.append(played)
        return played


def play_frame(
    network: EdgeNetwork,
    slow: Decider[Sight, Act, Tensor],
    fast: Decider[FastSight, FastAct, Allocation],
    after_slot: Callable[[PlayedSlot[Any, Any]], None] | None = None,
) -> PlayedFrame[Sight, Act]:
    """Play a frame from its start to its end; `after_slot` is told of every slot that was served."""
    frame = Frame(network, slow)
    for slot in frame.slots(fast):
        if after_slot is not None:
            after_slot(slot)
    return frame.finish()


MEASURED = ("offloading_s", "caching_s")
"""What of an episode a clock has measured: it is other numbers each time."""


class Episode(NamedTuple):
    """One episode of B networks: D caching decisions, T = D * slots of a decision."""

    requests: Int[Tensor, "slot batch user"]
    positions: Float[Tensor, "slot batch user 2"]
    """m"""
    server: Int[Tensor, "slot batch user"]
    bandwidth_share: Float[Tensor, "slot batch user"]
    compute_share: Float[Tensor, "slot batch user"]
    latency: Float[Tensor, "slot batch user"]
    """s"""
    hit: Bool[Tensor, "slot batch user"]
    on_time: Bool[Tensor, "slot batch user"]
    energy: Float[Tensor, "slot batch user"]
    """J"""
    bandwidth_load: Float[Tensor, "slot batch server"]
    compute_load: Float[Tensor, "slot batch server"]
    spectral_efficiency: Float[Tensor, "slot batch user"]
    """bit/s/Hz"""
    dropped: Bool[Tensor, "slot batch user"]
    handover: Bool[Tensor, "slot batch user"]
    device_energy: Float[Tensor, "slot batch user"]
    """J"""
    cache: Bool[Tensor, "decision batch server service"]
    switching: Float[Tensor, "decision batch"]
    """s"""
    home: Int[Tensor, "slot batch user"]
    input_bits: Float[Tensor, "slot batch user"]
    cycles: Float[Tensor, "slot batch user"]
    deadline_s: Float[Tensor, "slot batch user"]
    bandwidth_hz: Float[Tensor, "slot batch user"]
    """As of `simulator.Terms`, as the rest."""
    compute_hz: Float[Tensor, "slot batch user"]
    changed: Bool[Tensor, "slot batch"]
    """Where the world was another one than in the slot before (`Process.changed`)."""
    offloading_s: Float[Tensor, "slot batch"]
    """Wall time of each slot's decision, s: that of all networks decided on at once, shared out among them."""
    caching_s: Float[Tensor, "decision batch"]
    """The same of each decision on the caches, s."""

    @property
    def asked(self) -> Bool[Tensor, "slot batch user"]:
        """Who had a task."""
        return asked(self.latency)


def run_episode(
    network: EdgeNetwork,
    caching_policy: CachingPolicy,
    offloading_policy: OffloadingPolicy,
    after_slot: Callable[[PlayedSlot[Any, Any]], None] | None = None,
) -> Episode:
    """Reset the networks and play one episode to its end; `after_slot` is told of every slot that was served."""
    clocks: tuple[list[Tensor], list[Tensor]] = ([], [])
    slow, fast = by_policy(_timed(caching_policy, clocks[1])), by_policy(_timed(offloading_policy, clocks[0]))
    network.reset()
    frames, held, changed = [], [], [network.changed]

    def note(slot: PlayedSlot[Any, Any]) -> None:
        held.append(terms(network.rules, network.held, slot.requests, slot.allocation))
        changed.append(network.changed)
        if after_slot is not None:
            after_slot(slot)

    while not network.episode_over:
        frames.append(play_frame(network, slow, fast, note))
    slots = [
        (slot.requests, slot.positions, *slot.allocation, *slot.service)
        for frame in frames
        for slot in frame.slots
    ]
    decisions = [(frame.cache, frame.switching) for frame in frames]
    columns: list[Any] = [column for rows in (slots, decisions, held) for column in zip(*rows, strict=True)]
    columns += [changed[:-1], *clocks]
    return Episode._make(torch.stack(column) for column in columns)


def _timed(
    policy: Callable[[EdgeNetwork], Decision], taken: list[Tensor]
) -> Callable[[EdgeNetwork], Decision]:
    """The policy, which notes how long each of its decisions took for each network, s."""

    def decide(network: EdgeNetwork) -> Decision:
        begun = _now_s()
        decision = policy(network)
        seconds = (_now_s() - begun) / network.num_envs
        taken.append(torch.full((network.num_envs,), seconds, device=network.device))
        return decision

    return decide


def _now_s() -> float:
    """A clock that has waited for what is under way on a GPU."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()

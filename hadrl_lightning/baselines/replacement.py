"""Caching policies that replace services by what was asked for in the episode so far; the first frame starts empty.

Caches change between frames only. So a frame's requests, of the whole network, come to each server as one batch: first
those for what it holds, then those for the rest. Servers differ by the room in their caches.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hadrl_lightning.simulator import EdgeNetwork, fill_caches


def least_frequently_used(network: EdgeNetwork) -> Bool[Tensor, "batch server service"]:
    """Keep the services asked most often in the episode so far, in the whole network; the first frame starts empty."""
    counts = network.state.request_counts
    priority = counts.unsqueeze(1).expand_as(network.cache)
    return fill_caches(network.scenario, priority, priority > 0, network.exact)


class LeastRecentlyUsed:
    """Keep the services asked most recently in the episode; the first frame starts empty.

    Caches change between frames only, so recency is counted in frames: services asked in the frame just over come
    first, by how often, then those asked last in the frame before, and so on.
    """

    def __call__(self, network: EdgeNetwork) -> Bool[Tensor, "batch server service"]:
        """The next cache, bool [B, S, K]."""
        counts = network.state.request_counts
        if network.decision == 0:
            self._seen, self._priority = torch.zeros_like(counts), torch.zeros_like(counts)
        asked = counts - self._seen
        self._seen = counts.clone()
        per_frame = network.scenario.num_users * network.scenario.slots_per_decision + 1
        # the whole part tells the frame of the last request, the fraction how often it was asked there
        recent = network.decision + asked / per_frame
        self._priority = torch.where(asked > 0, recent, self._priority)
        priority = self._priority.unsqueeze(1).expand_as(network.cache)
        return fill_caches(network.scenario, priority, priority > 0, network.exact)


class GreedyDualSizeFrequency:
    """Keep the services of the highest clock + requests · cost / storage (Cherkasova 1998, GDSF).

    The cost is what a miss takes beyond the uplink (`Constants.cloud_seconds`), in s: what a fetch takes is in
    proportion to the storage and would leave the frequency alone. Requests are counted while a server holds a service;
    the clock is what a service had when it was last asked for. A server's clock rises to the highest priority of what
    it let go or left out, but above nothing that it keeps.
    """

    def __call__(self, network: EdgeNetwork) -> Bool[Tensor, "batch server service"]:
        """The next cache, bool [B, S, K]."""
        counts, held, table = network.state.request_counts.double(), network.cache, network.exact
        if network.decision == 0:
            self._seen = torch.zeros_like(counts)
            self._requests = torch.zeros_like(held, dtype=counts.dtype)
            self._priority = torch.zeros_like(self._requests)
            self._clock = torch.zeros_like(self._requests[:, :, :1])
        asked = (counts - self._seen).unsqueeze(1)
        self._seen = counts
        worth = table.cloud_seconds(table.input_bits, table.cycles) / table.storage_bits
        self._requests = torch.where(held, self._requests, 0.0) + asked
        renewed = self._clock + self._requests * worth.unsqueeze(-2)
        self._priority = torch.where(asked > 0, renewed, self._priority)
        wanted = held | (asked > 0)
        cache = fill_caches(network.scenario, self._priority, wanted, table)
        self._clock = self._risen(wanted & ~cache, cache)
        return cache

    def _risen(
        self, left: Bool[Tensor, "batch server service"], kept: Bool[Tensor, "batch server service"]
    ) -> Float[Tensor, "batch server one"]:
        highest = self._priority.masked_fill(~left, 0.0).amax(dim=2, keepdim=True)
        lowest = self._priority.masked_fill(~kept, torch.inf).amin(dim=2, keepdim=True)
        return torch.maximum(self._clock, torch.minimum(highest, lowest))


class Sieve:
    """SIEVE (Zhang, Yang et al., NSDI 2024) on every server, with services of different storage.

    Services stand in the order in which they came. A request for what is there marks it. A hand goes from the oldest to
    the newest and around again: it takes the mark off what has one, and what has none goes, until there is room. Of the
    services of a frame that a server lacks, those asked for least come first; asked for again, they are marked. What is
    larger than the cache never comes.
    """

    def __call__(self, network: EdgeNetwork) -> Bool[Tensor, "batch server service"]:
        """The next cache, bool [B, S, K]."""
        counts, table = network.state.request_counts, network.exact
        if network.decision == 0:
            self._seen = torch.zeros_like(counts)
            rooms = table.usable_cache_bits.expand(network.cache.shape[:2]).tolist()
            self._queues = [[_SieveQueue(room) for room in servers] for servers in rooms]
        asked = (counts - self._seen).tolist()
        self._seen = counts.clone()
        sizes = table.storage_bits.expand(counts.shape).tolist()
        cache = torch.zeros_like(network.cache, device="cpu")
        for index, (queues, requests, storage) in enumerate(zip(self._queues, asked, sizes, strict=True)):
            for server, queue in enumerate(queues):
                queue.ask(requests, storage)
                cache[index, server, queue.services] = True
        return cache.to(network.device)


class _SieveQueue:
    """What one server holds, the oldest first."""

    def __init__(self, room_bits: float) -> None:
        self.services: list[int] = []
        self._room_bits = room_bits
        self._marked: set[int] = set()
        self._hand = 0

    def ask(self, requests: list[float], storage_bits: list[float]) -> None:
        """Take up a frame's requests of every service, where services have such storage."""
        asked = sorted((count, -service) for service, count in enumerate(requests) if count > 0)
        self._marked.update(-service for _, service in asked if -service in self.services)
        lacking = [(count, -service) for count, service in asked if -service not in self.services]
        for count, service in lacking:
            if storage_bits[service] > self._room_bits:
                continue
            while sum(storage_bits[one] for one in [*self.services, service]) > self._room_bits:
                self._evict()
            self.services.append(service)
            if count > 1:
                self._marked.add(service)

    def _evict(self) -> None:
        while self.services[self._hand] in self._marked:
            self._marked.remove(self.services[self._hand])
            self._hand = (self._hand + 1) % len(self.services)
        del self.services[self._hand]
        if self._hand == len(self.services):
            self._hand = 0

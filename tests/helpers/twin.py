"""A slow twin of the simulator: one network, plain Python numbers and loops, written from the paper's description.

It shares no line and no constant with the package. Servers and users count from 0, services from 1 as in the paper.
What is random (requests, positions, fading) is handed in, so both can be played side by side.
"""

import math

MIB_BITS = 8 * 1024 * 1024
GIB_BITS = 1024 * MIB_BITS
SERVICES = range(1, 11)

PUBLISHED = {
    "ES2": {"servers": 2, "users": 30, "input_kib": 700, "ghz": 60, "free": 0.2, "thresholds": [0.0]},
    "ES3": {"servers": 3, "users": 30, "input_kib": 500, "ghz": 20, "free": 0.2, "thresholds": [-0.5, 0.5]},
    "ES4": {
        "servers": 4,
        "users": 30,
        "input_kib": 500,
        "ghz": 20,
        "free": 0.3,
        "thresholds": [-0.5, 0, 0.5],
    },
    "ES5": {
        "servers": 5,
        "users": 40,
        "input_kib": 500,
        "ghz": 20,
        "free": 0.3,
        "thresholds": [-0.6, -0.2, 0.2, 0.6],
    },
}
"""The table of the paper's scenarios."""


class PublishedTwin:
    """The published arithmetic with its quirks, for one network."""

    def __init__(self, name: str, cache_gib: float = 200.0) -> None:
        row = PUBLISHED[name]
        self.servers = row["servers"]
        self.users = row["users"]
        self.free = row["free"]
        self.thresholds = row["thresholds"]
        self.compute = row["ghz"] * 1e9
        self.bandwidth = 200e6
        self.cache_bits = cache_gib * GIB_BITS
        self.limit = 0.8 * self.cache_bits
        self.input = {k: row["input_kib"] * k * 1024 * 8 for k in SERVICES}
        self.cycles = {k: (400 + 50 * k) * self.input[k] / 10 for k in SERVICES}
        self.storage = {k: 2000 * k * MIB_BITS for k in SERVICES}
        self.start()

    def start(self) -> None:
        self.cached = [set() for _ in range(self.servers)]
        self.gain = dict.fromkeys(SERVICES, 0.0)
        self.asked = dict.fromkeys(SERVICES, 0)
        self.hits = {(s, k): 0 for s in range(self.servers) for k in SERVICES}
        self.frame_hits = []
        self.taken = [(0.0, 0.0)] * self.servers

    # The slow level

    def occupied(self, server: int) -> float:
        return sum(self.storage[k] for k in self.cached[server])

    def choose_caches(self, action: list[float]) -> list[set[int]]:
        if all(self.occupied(s) > self.limit for s in range(self.servers)):
            return [set(content) for content in self.cached]
        return [{k for k in SERVICES if action[10 * s + k - 1] > 0} for s in range(self.servers)]

    def begin_frame(self, action: list[float]) -> float:
        """The switching cost in seconds."""
        new = self.choose_caches(action)
        cost = 0.0
        for s in range(self.servers):
            for k in new[s]:
                if k not in self.cached[s]:
                    cost += self.storage[k] / (200 * MIB_BITS)
        self.cached = new
        self.taken = [(0.0, 0.0)] * self.servers
        self.frame_hits = []
        self.cost = cost
        return cost

    def caching_reward(self) -> float:
        return sum(self.frame_hits) / len(self.frame_hits) / 100 + 1 / (self.cost + 100)

    # The fast level

    def target(self, coordinate: float) -> int:
        server = 0
        for threshold in self.thresholds:
            if coordinate > threshold:
                server += 1
        return server

    def share(self, wishes: list[float], targets: list[int], user: int) -> float:
        exact = self.exact_share(wishes, targets, user)
        rounded = round(exact, 3)
        return self.free if rounded == 0 else rounded

    def exact_share(self, wishes: list[float], targets: list[int], user: int) -> float:
        total = 0.0
        for other in range(self.users):
            if targets[other] == targets[user]:
                total += min(max(wishes[other], 0.0), 1.0)
        return min(max(wishes[user], 0.0), 1.0) / total if total > 0 else 0.0

    def allocate(self, action: list[float]) -> list[tuple[int, float, float]]:
        """(server, bandwidth share, compute share) of each user."""
        n = self.users
        targets = [self.target(a) for a in action[:n]]
        return [
            (targets[i], self.share(action[n : 2 * n], targets, i), self.share(action[2 * n :], targets, i))
            for i in range(n)
        ]

    def home(self, user: int) -> int:
        return min(user // (self.users // self.servers), self.servers - 1)

    def bits_per_hz(self, user: int, position: tuple[float, float], fading: float) -> float:
        server_x = (2 * self.home(user) + 1) * 100
        metres = math.sqrt((position[0] - server_x) ** 2 + position[1] ** 2)
        if metres == 0:
            metres = 30
        loss_db = 128.1 + 37.6 * math.log10(metres / 1000)
        signal_mw = fading * 10 ** ((20 - loss_db) / 10)
        noise_mw = 10 ** (-114 / 10)
        return math.log2(1 + signal_mw / noise_mw)

    def power(self) -> float:
        return 20.0

    def serve(self, action, requests, positions, fading) -> dict[str, list]:
        """Serve a slot and count it. Requests are 1...10."""
        allocation = self.allocate(action)
        result = {"latency": [], "hit": [], "on_time": [], "energy": [], "spectral_efficiency": []}
        taken = [[0.0, 0.0] for _ in range(self.servers)]
        for i, (server, band, cpu) in enumerate(allocation):
            k = requests[i]
            efficiency = self.bits_per_hz(i, positions[i], fading[i])
            sending = self.input[k] / (band * self.bandwidth * efficiency)
            hit = k in self.cached[server]
            if hit:
                latency = sending + self.cycles[k] / (cpu * self.compute)
            else:
                latency = sending + self.input[k] / (4 * 1024 * 1024) + self.cycles[k] / 4e9 + 0.1
            result["latency"].append(latency)
            result["hit"].append(hit)
            result["on_time"].append(latency <= 0.8 * k)
            result["energy"].append(self.power() * sending)
            result["spectral_efficiency"].append(efficiency)
            taken[server][0] += self.input[k]
            taken[server][1] += self.cycles[k]
            if hit:
                self.hits[server, k] += 1
        for column, name in ((1, "bandwidth_load"), (2, "compute_load")):
            result[name] = [sum(a[column] for a in allocation if a[0] == s) for s in range(self.servers)]
        self.taken = [tuple(pair) for pair in taken]
        self.frame_hits.append(sum(result["hit"]))
        self.count_requests(requests)
        result["reward"] = 10_000 / sum(result["latency"])
        users = len(result["hit"])
        result |= {"dropped": [False] * users, "handover": [False] * users, "device_energy": [0.0] * users}
        return result

    def count_requests(self, requests: list[int]) -> None:
        for k in requests:
            self.asked[k] += 1
            self.gain[k] += 1
        scaled = stretched([self.gain[k] * 1e10 / self.storage[k] for k in SERVICES])
        self.gain = dict(zip(SERVICES, scaled))

    # What the agents see

    def cache_flags(self) -> list[float]:
        return [1.0 if k in self.cached[s] else 0.0 for s in range(self.servers) for k in SERVICES]

    def caching_observation(self) -> list[float]:
        popularity = stretched([self.hits[s, k] for s in range(self.servers) for k in SERVICES])
        room = [(self.cache_bits - self.occupied(s)) / 1e9 for s in range(self.servers)]
        return self.cache_flags() + [self.gain[k] for k in SERVICES] + popularity + room

    def remaining(self) -> list[float]:
        room = [(self.cache_bits - self.occupied(s)) / GIB_BITS for s in range(self.servers)]
        band = [(self.bandwidth - bits) / 1e5 for bits, _ in self.taken]
        cpu = [(self.compute - cycles) / 1e9 for _, cycles in self.taken]
        return room + band + cpu

    def offloading_observation(self, requests: list[int]) -> list[float]:
        return (
            self.cache_flags()
            + self.remaining()
            + [float(k) for k in requests]
            + [self.input[k] / 1e6 for k in requests]
            + [self.cycles[k] / 1e9 for k in requests]
        )


class StrictTwin(PublishedTwin):
    """The same network where the constraints hold."""

    def choose_caches(self, action: list[float]) -> list[set[int]]:
        caches = []
        for s in range(self.servers):
            row = action[10 * s : 10 * s + 10]
            room, content = self.limit, set()
            for value, k in sorted(((row[k - 1], k) for k in SERVICES), key=lambda pair: (-pair[0], pair[1])):
                if value > 0 and self.storage[k] <= room:
                    content.add(k)
                    room -= self.storage[k]
            caches.append(content)
        return caches

    def target(self, coordinate: float) -> int:
        return min(math.floor((coordinate + 1) / 2 * self.servers), self.servers - 1)

    def share(self, wishes: list[float], targets: list[int], user: int) -> float:
        weights = [0.05 + 0.95 * (wish + 1) / 2 for wish in wishes]
        return weights[user] / sum(w for w, target in zip(weights, targets) if target == targets[user])

    def home(self, user: int) -> int:
        return user * self.servers // self.users

    def power(self) -> float:
        return 0.1

    def caching_observation(self) -> list[float]:
        asked, hits = sum(self.asked.values()), sum(self.hits.values())
        return (
            self.cache_flags()
            + [self.asked[k] / max(asked, 1) for k in SERVICES]
            + [self.hits[s, k] / max(hits, 1) for s in range(self.servers) for k in SERVICES]
            + [self.limit / 1e9] * self.servers
        )

    def remaining(self) -> list[float]:
        room = [(self.limit - self.occupied(s)) / GIB_BITS for s in range(self.servers)]
        return room + [self.bandwidth / 1e5] * self.servers + [self.compute / 1e9] * self.servers


def stretched(values: list[float]) -> list[float]:
    """(max - x) / (max - m), where m is the least, or 0.1 in place of a least of 0."""
    most, least = max(values), min(values)
    m = 0.1 if least == 0 else least
    return [(most - x) / (most - m) if most != m else 0.0 for x in values]

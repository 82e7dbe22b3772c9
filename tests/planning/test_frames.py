"""What frames cost by what a model knows of sharing, and the search for the caches of least cost, by plain sums."""

from itertools import product
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from hadrl_lightning.planning import cache_descent, named_slots
from hadrl_lightning.planning import frames as frames_module
from hadrl_lightning.planning.cache_descent import MIN_GAIN, Descent, Room
from hadrl_lightning.planning.frames import GAP, Frames, Parts
from hadrl_lightning.planning.named_slots import NamedSlots
from hadrl_lightning.planning.sums import best_targets
from hadrl_lightning.scenario import Scenario
from hadrl_lightning.simulator import EdgeNetwork

USERS = 6


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Problem(NamedTuple):
    """Some networks, and about half of everything held in each."""

    frames: Frames
    demand: Tensor
    """[member, network, held, resource_and_base, service, server]"""
    asking: Tensor
    row: Tensor
    cache: Tensor

    @classmethod
    def random(cls, networks: int = 6, services: int = 4, servers: int = 3, seed: int = 0) -> "Problem":
        draws = generator(seed)
        size = torch.rand(2, networks, 1, 2, services, 1, generator=draws) + 0.2
        speed = torch.rand(1, networks, 1, 2, 1, servers, generator=draws) + 0.3
        own = torch.rand(1, networks, 1, 2, services, servers, generator=draws) / 5 + 0.9
        demand = torch.zeros(2, networks, 2, 3, services, servers)
        demand[:, :, :, :2] = own * size / speed
        demand[:, :, 0, 1] = 0.0  # what is missing is computed elsewhere, and waits for the cloud
        demand[:, :, 0, 2] = 20 + demand[:, :, 1, 1]
        asking = torch.rand(networks, services, generator=draws) + 0.1
        asking = USERS * asking / asking.sum(dim=1, keepdim=True)
        cache = torch.rand(networks, servers, services, generator=draws) < 0.5
        return cls(
            Frames(demand, asking, torch.full((networks,), float(USERS))),
            demand,
            asking,
            torch.arange(networks),
            cache,
        )

    @classmethod
    def of(cls, scenario: Scenario, networks: int = 4) -> "Problem":
        """Networks of a scenario by its physics, 5 bit/s/Hz everywhere; random caches of 40 % of the services."""
        bits, cycles = torch.tensor(scenario.input_bits), torch.tensor(scenario.cycles)
        computing = cycles[:, None] / torch.tensor(scenario.compute_per_server_hz)
        demand = torch.zeros(1, networks, 2, 3, scenario.num_services, scenario.num_servers)
        demand[:, :, :, 0] = bits[:, None] / (5 * torch.tensor(scenario.bandwidth_per_server_hz))
        demand[:, :, 1, 1] = computing
        demand[:, :, 0, 2] = EdgeNetwork(scenario).table.cloud_seconds(bits, cycles)[:, None]
        asking = scenario.num_users * torch.tensor(scenario.popularity_vector, dtype=torch.float32)
        asking = asking.expand(networks, -1).contiguous()
        shape = (networks, scenario.num_servers, scenario.num_services)
        cache = torch.rand(shape, generator=generator()) < 0.4
        frames = Frames(demand, asking, torch.full((networks,), float(scenario.num_users)))
        return cls(frames, demand, asking, torch.arange(networks), cache)

    def at(self, network: int, cache: Tensor) -> tuple[Tensor, Tensor]:
        """Roots `[resource, service, server]` and what is waited for alone besides `[service, server]`, of a cache."""
        mean = self.demand.double().mean(dim=0)[network]
        value = torch.where(cache.T, mean[1], mean[0])
        return value[:-1].sqrt(), value[-1]

    def cost(self, network: int, cache: Tensor, part: Tensor) -> Tensor:
        """Σ_k n_k Σ_s x_ks alone_ks + (1 − 1/U) Σ_s Σ_r (Σ_k n_k x_ks root_ksr)²."""
        root, base = self.at(network, cache)
        users = self.asking[network].double()[:, None] * part.double()
        load = (users * root).sum(dim=1)
        alone = (users * (root.square().sum(dim=0) + base)).sum()
        return alone + self.pairs(network) * load.square().sum()

    def pairs(self, network: int) -> float:
        """1 − 1/U."""
        return 1 - 1 / round(self.asking[network].sum().item())

    def least(self, network: int, cache: Tensor) -> float:
        """The least cost, by a long descent along projected gradients, to 10⁻⁵ of it as the duality gap says."""
        root, base = self.at(network, cache)
        roots = self.asking[network].double()[:, None] * root
        alone = self.asking[network].double()[:, None] * (root.square().sum(dim=0) + base)
        pairs = 2 * self.pairs(network)

        def slope(part: Tensor) -> Tensor:
            return alone + pairs * (roots * (roots * part).sum(dim=1, keepdim=True)).sum(dim=0)

        part = torch.full(cache.T.shape, 1 / cache.shape[0], dtype=torch.float64)
        before, speed, step = part, 1.0, 1 / (pairs * roots.square().sum(dim=(0, 1)).max())
        for _ in range(1500):
            faster = (1 + (1 + 4 * speed**2) ** 0.5) / 2
            ahead = part + (speed - 1) / faster * (part - before)
            before, part, speed = part, on_simplex(ahead - step * slope(ahead)), faster
        cost = self.cost(network, cache, part)
        gap = ((slope(part) * part).sum(dim=1) - slope(part).amin(dim=1)).sum()
        assert gap < 1e-5 * cost
        return cost.item()


@pytest.fixture
def in_many_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the very best parts, so that costs of different caches can be compared closely."""
    for name in ("STEPS", "MORE_STEPS"):
        monkeypatch.setattr(frames_module, name, 1000)


def on_simplex(value: Tensor) -> Tensor:
    """The nearest rows of parts that sum to 1."""
    order = value.sort(dim=1, descending=True).values
    over = (order.cumsum(dim=1) - 1) / torch.arange(1, value.shape[1] + 1)
    last = (order > over).sum(dim=1, keepdim=True) - 1
    return (value - over.gather(1, last)).clamp(min=0)


def changed(cache: Tensor, server: int, service: int) -> Tensor:
    """The cache with one pair held if it was not, and the other way around."""
    cache = cache.clone()
    cache[..., server, service] ^= True
    return cache


# --- the best parts ------------------------------------------------------------------------------------------------


def check_parts(problem: Problem, within: float, after_change: float | None = None) -> None:
    """At first, and after a change with the parts from before, in fewer steps."""
    first = problem.frames.best_parts(problem.row, problem.cache)
    other = changed(problem.cache, 1, 2)
    second = problem.frames.best_parts(problem.row, other, first.part)
    for found, caches, most in (
        (first, problem.cache, within),
        (second, other, within if after_change is None else after_change),
    ):
        assert found.part.min() >= 0
        torch.testing.assert_close(found.part.sum(dim=2), torch.ones(found.part.shape[:2]))
        for row, cache in enumerate(caches):
            formula = problem.cost(row, cache, found.part[row])
            assert found.cost[row].item() == pytest.approx(formula.item(), rel=1e-5)
            least = problem.least(row, cache)
            assert least * (1 - 1e-5) <= formula <= least * (1 + most)


@pytest.mark.parametrize("name", ["es2.yaml", "es3.yaml", "es5.yaml"])
def test_parts_of_the_shipped_scenarios_are_the_best_ones_and_cost_what_the_formula_says(name: str) -> None:
    check_parts(Problem.of(Scenario.from_config(name), 2), within=5e-4)


def test_parts_of_servers_of_all_kinds_are_the_best_ones_to_within_a_thousandth() -> None:
    check_parts(Problem.random(networks=3), within=1e-3)


@pytest.mark.parametrize(("cloud", "spread"), [(0.1, 0.2), (0.1, 1.0), (1.0, 0.6), (10.0, 0.2), (10.0, 1.0)])
def test_parts_are_the_best_ones_however_near_the_cloud_is_and_however_servers_differ(
    cloud: float, spread: float
) -> None:
    problem = Problem.random(networks=2, services=6, seed=4)
    draws = generator(1)
    size = torch.randn(2, 1, 2, 6, 1, generator=draws)
    speed = torch.randn(2, 1, 2, 1, 3, generator=draws)
    waits = 0.3 + torch.rand(2, 6, 1, generator=draws)
    demand = torch.zeros(1, 2, 2, 3, 6, 3)
    demand[:, :, :, :2] = (spread * (size - speed)).exp() / USERS  # factors of up to e² apart and more
    demand[:, :, 0, 1] = 0.0
    demand[:, :, 0, 2] = cloud * waits
    users = torch.full((2,), float(USERS))
    check_parts(
        problem._replace(demand=demand, frames=Frames(demand, problem.asking, users)), 1e-3, after_change=5e-3
    )


def test_parts_are_at_most_as_far_off_as_the_gap_of_duality_says(in_many_steps: None) -> None:
    problem = Problem.random(networks=4, services=3)
    found = problem.frames.best_parts(problem.row, problem.cache)
    for network, cache in enumerate(problem.cache):
        root, base = problem.at(network, cache)
        users = problem.asking[network].double()[:, None] * found.part[network].double()
        load = (users * root).sum(dim=1, keepdim=True)
        price = base + root.square().sum(dim=0) + 2 * problem.pairs(network) * (root * load).sum(dim=0)
        gap = (users * (price - price.amin(dim=1, keepdim=True))).sum()
        assert gap < 1.01 * GAP * problem.cost(network, cache, found.part[network])


def test_the_cost_is_the_mean_of_slots_whose_users_go_where_the_parts_say() -> None:
    problem = Problem.random(networks=2)
    found = problem.frames.best_parts(problem.row, problem.cache)
    draws = generator(5)
    for row, cache in enumerate(problem.cache):
        root, base = problem.at(row, cache)
        slots = 40_000
        service = torch.multinomial(problem.asking[row], slots * USERS, replacement=True, generator=draws)
        server = torch.multinomial(found.part[row][service], 1, generator=draws).squeeze(1)
        there = torch.nn.functional.one_hot(server, 3).view(slots, USERS, 3)
        load = (root[:, service, server].view(2, slots, USERS, 1) * there).sum(dim=2)
        cost = load.square().sum(dim=(0, 2)) + base[service, server].view(slots, USERS).sum(dim=1)
        error = cost.std() / slots**0.5
        assert error < 0.005 * cost.mean()
        assert abs(cost.mean() - found.cost[row]) < 3 * error


def test_users_of_equal_servers_are_split_evenly_and_go_nowhere_else_than_to_the_one_that_serves_them() -> (
    None
):
    equal = Frames(torch.full((1, 1, 2, 3, 1, 4), 0.5), torch.tensor([[8.0]]), torch.tensor([8.0]))
    part = equal.best_parts(torch.tensor([0]), torch.ones(1, 4, 1, dtype=torch.bool)).part
    torch.testing.assert_close(part, torch.full((1, 1, 4), 0.25), atol=1e-2, rtol=0)
    demand = torch.full((1, 1, 2, 3, 2, 3), 1e4)
    demand[0, 0, 1] = 0.1
    held = torch.zeros(1, 3, 2, dtype=torch.bool)
    held[0, 0, 0] = held[0, 2, 1] = True
    parts = Frames(demand, torch.tensor([[4.0, 4.0]]), torch.tensor([8.0])).best_parts(
        torch.tensor([0]), held
    )
    assert parts.part.tolist() == [[[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]]
    # a user alone waits for 0.3 s; 4 · 3 others at either server add 0.1 s on each of two resources, by chance 7 of 8
    assert parts.cost.item() == pytest.approx(8 * 0.3 + 7 / 8 * 2 * 2 * 16 * 0.1)
    alone = Problem.random(servers=1)
    assert (alone.frames.best_parts(alone.row, alone.cache).part == 1).all()


def test_parts_of_a_cache_depend_on_no_other_and_on_no_size_of_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    problem = Problem.random()
    row = torch.tensor([5, 0, 5, 2])
    together = problem.frames.best_parts(problem.row, problem.cache)
    monkeypatch.setattr(frames_module, "MOST_CELLS", 1)
    for start in (None, together.part[row].flip(2)):
        apart = problem.frames.best_parts(row, problem.cache[row], start)
        monkeypatch.undo()
        again = problem.frames.best_parts(row, problem.cache[row], start)
        torch.testing.assert_close(tuple(apart), tuple(again))
        monkeypatch.setattr(frames_module, "MOST_CELLS", 1)
    torch.testing.assert_close(problem.frames.best_parts(row, problem.cache[row]).cost, together.cost[row])


# --- what a change is worth ----------------------------------------------------------------------------------------


def ranks(value: Tensor) -> Tensor:
    return value.argsort().argsort().double()


def test_what_pairs_are_worth_is_about_what_their_change_costs(in_many_steps: None) -> None:
    problem = Problem.random(networks=8)
    found = problem.frames.best_parts(problem.row, problem.cache)
    worth = problem.frames.worth(problem.row, problem.cache, found.part)
    truth = torch.zeros_like(worth)
    for server, service in product(range(3), range(4)):
        cost = problem.frames.best_parts(problem.row, changed(problem.cache, server, service)).cost
        truth[:, server, service] = (cost - found.cost).abs()
        held = problem.cache[:, server, service]
        assert ((cost - found.cost)[held] > -1e-3).all()  # what is held was of use, what is brought is
        assert ((cost - found.cost)[~held] < 1e-3).all()
    assert (truth[worth == 0] < 0.01 * found.cost.mean()).all()
    pairs = [torch.stack((ranks(worth[row].flatten()), ranks(truth[row].flatten()))) for row in range(8)]
    alike = torch.stack([pair.corrcoef()[0, 1] for pair in pairs])
    assert alike.min() > 0.8
    assert alike.mean() > 0.9


# --- drawn slots ---------------------------------------------------------------------------------------------------


def test_drawn_slots_cost_what_a_plain_loop_says_whatever_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Problem.random()
    row = torch.tensor([3, 0, 3])
    cache = torch.stack((problem.cache[3], problem.cache[0], ~problem.cache[3]))
    uniform = torch.rand(5, USERS, generator=generator(2))
    together = problem.frames.on_slots(row, cache, uniform)
    assert together.shape == (3, 5)
    for index, (network, held) in enumerate(zip(row.tolist(), cache)):
        root, base = problem.at(network, held)
        ends = (problem.asking[network].double() / USERS).cumsum(dim=0).tolist()
        for slot, draws in enumerate(uniform.tolist()):
            asked = [next(k for k, end in enumerate([*ends[:-1], 1.0]) if draw <= end) for draw in draws]
            of_users, waits = root[:, asked].float(), base[asked].float()
            target = best_targets(of_users[None], waits[None], None)[0].tolist()
            cost = sum(waits[user, server].item() for user, server in enumerate(target))
            for server in range(3):
                there = [user for user in range(USERS) if target[user] == server]
                cost += of_users[:, there, server].sum(dim=1).square().sum().item()
            assert together[index, slot].item() == pytest.approx(cost, rel=1e-5)
    monkeypatch.setattr(frames_module, "MOST_CELLS", 1)
    torch.testing.assert_close(problem.frames.on_slots(row, cache, uniform), together)
    torch.testing.assert_close(problem.frames.on_slots(row[1:2], cache[1:2], uniform), together[1:2])


def test_named_slots_cost_what_drawn_slots_cost_and_know_about_what_changes_save() -> None:
    problem = Problem.random()
    uniform = torch.rand(40, USERS, generator=generator(2))
    caches = torch.stack((problem.cache[1], ~problem.cache[1], problem.cache[0]))
    row = torch.zeros(3, dtype=torch.int64)
    slots = NamedSlots.of(problem.frames, 1, problem.frames.asked(uniform)[1])
    found = slots.best_parts(row, caches)
    plain = problem.frames.on_slots(row + 1, caches, uniform)
    torch.testing.assert_close(found.cost, plain.mean(dim=1))
    asked = problem.frames.asked(uniform)[1]
    torch.testing.assert_close(slots.asking[0], torch.bincount(asked.flatten(), minlength=4) / 40)
    # to begin from where users are changes nothing; after a change of a cache it hardly costs more than from nothing
    again = slots.best_parts(row, caches, found.part)
    torch.testing.assert_close(again.cost, found.cost)
    saved, expected = [], []
    worth = slots.worth(row, caches, found.part)
    for own, cache in enumerate(caches):
        for server, service in product(range(3), range(4)):
            other = changed(cache, server, service)[None]
            moved = slots.best_parts(row[:1], other, found.part[own : own + 1]).cost
            assert moved <= slots.best_parts(row[:1], other).cost * 1.02
            held = bool(cache[server, service])
            saved.append(float(moved - found.cost[own]) if held else float(found.cost[own] - moved))
            expected.append(float(worth[own, server, service]))
    assert np.corrcoef(saved, expected)[0, 1] > 0.85
    assert sum(saved) == pytest.approx(sum(expected), rel=0.3)


def test_named_slots_are_the_same_whatever_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Problem.random()
    uniform = torch.rand(6, USERS, generator=generator(2))
    slots = NamedSlots.of(problem.frames, 0, problem.frames.asked(uniform)[0])
    row = torch.zeros(6, dtype=torch.int64)
    together = slots.best_parts(row, problem.cache)
    worth = slots.worth(row, problem.cache, together.part)
    monkeypatch.setattr(named_slots, "MOST_CELLS", 1)
    apart = slots.best_parts(row, problem.cache)
    torch.testing.assert_close(apart.cost, together.cost)
    torch.testing.assert_close(slots.worth(row, problem.cache, apart.part), worth)


# --- the search ----------------------------------------------------------------------------------------------------


def room_of(problem: Problem, seed: int = 1, rent: float = 0.0) -> Room:
    """Storage of 1 to 3 in caches of 4; `rent` for what is not held."""
    networks, servers, services = problem.cache.shape
    storage = torch.randint(1, 4, (networks, services), generator=generator(seed)).double()
    usable = torch.full((networks, servers), 4.0, dtype=torch.float64)
    return Room(storage, usable, torch.zeros_like(problem.cache, dtype=torch.float32) + rent)


def fits(room: Room, row: Tensor, cache: Tensor) -> bool:
    used = (cache.double() * room.storage_bits[row].unsqueeze(1)).sum(dim=2)
    return bool((used <= room.usable_bits[row]).all())


def is_full(room: Room, row: Tensor, cache: Tensor) -> bool:
    used = (cache.double() * room.storage_bits[row].unsqueeze(1)).sum(dim=2, keepdim=True)
    left = room.usable_bits[row].unsqueeze(2) - used
    return not bool((~cache & (room.storage_bits[row].unsqueeze(1) <= left)).any())


def all_maximal(room: Room, network: int) -> Tensor:
    """All caches of a network in which nothing more fits."""
    sizes, usable = room.storage_bits[network].tolist(), room.usable_bits[network, 0].item()
    contents = []
    for held in product((False, True), repeat=len(sizes)):
        left = usable - sum(size for size, has in zip(sizes, held) if has)
        if left >= 0 and not any(size <= left for size, has in zip(sizes, held) if not has):
            contents.append(held)
    return torch.tensor(list(product(contents, repeat=room.usable_bits.shape[1])))


@pytest.mark.parametrize("seed", [0, 3])
def test_a_search_finds_the_best_of_all_caches_of_small_networks(
    seed: int, request: pytest.FixtureRequest
) -> None:
    problem = Problem.random(networks=10, services=5, servers=3, seed=seed)
    room = room_of(problem)
    descent = Descent(problem.frames, room)
    greedy = descent.greedy()
    assert fits(room, problem.row, greedy)
    assert is_full(room, problem.row, greedy)
    starts = room.filled(problem.row, torch.randn(10, 6, 3, 5, generator=generator(4)))
    starts = torch.cat((greedy.unsqueeze(1), starts), dim=1).flatten(0, 1)
    row = problem.row.repeat_interleave(7)
    ends, cost = descent.settled(row, starts)
    assert fits(room, row, ends)
    before = descent.cost(row, starts)
    assert (cost <= before).all()
    assert (cost < 0.98 * before).any()
    request.getfixturevalue("in_many_steps")
    torch.testing.assert_close(cost, descent.cost(row, ends), rtol=0.01, atol=0)
    reached = descent.cost(row, ends).view(10, 7).amin(dim=1)
    caches = [all_maximal(room, network) for network in range(10)]
    costs = [descent.cost(torch.full((len(some),), network), some) for network, some in enumerate(caches)]
    least = torch.stack([some.min() for some in costs])
    assert (reached >= least * (1 - 1e-4)).all()
    assert (reached <= least * (1 + 1e-4)).sum() >= 9
    greedy_cost = descent.cost(problem.row, greedy)
    middle = torch.stack([some.median() for some in costs])
    assert (greedy_cost < middle).all()


def test_a_search_ends_where_none_of_its_changes_helps(in_many_steps: None) -> None:
    problem = Problem.random(networks=4, services=5, servers=3, seed=3)
    room = room_of(problem)
    descent = Descent(problem.frames, room)
    ends, cost = descent.settled(problem.row, descent.greedy())
    part = problem.frames.best_parts(problem.row, ends).part
    for plain in (False, True):
        tried = descent._changes(problem.row, ends, part, torch.tensor([plain] * 4))
        assert fits(room, problem.row.repeat_interleave(tried.shape[1]), tried.flatten(0, 1))
        after = descent.cost(problem.row.repeat_interleave(tried.shape[1]), tried.flatten(0, 1))
        assert (after.view(4, -1) >= cost[:, None] * (1 - MIN_GAIN - 5e-5)).all()
    for row, cache in enumerate(
        ends
    ):  # and hardly any exchange of one service for another at any server does
        here = torch.tensor([row])
        for server, gone, brought in product(range(3), range(5), range(5)):
            if cache[server, gone] and not cache[server, brought]:
                other = changed(changed(cache, server, gone), server, brought)[None]
                if fits(room, here, other):
                    assert descent.cost(here, descent.filled_up(here, other)) >= cost[row] * 0.985


def test_where_a_cloud_is_near_a_search_leaves_no_service_that_does_harm() -> None:
    # nor where others, for which its room would do, only seem to save something
    draws, networks, services, servers = generator(3), 40, 5, 2
    demand = torch.rand(
        1, networks, 2, 2, services, servers, generator=draws
    )  # of one resource, and waited for alone
    demand[:, :, 0, 0] = 0.0
    demand[:, :, 0, 1] = 0.6 + 0.8 * torch.rand(1, networks, services, 1, generator=draws)
    demand[:, :, 1, 0] = 0.02 + 0.5 * torch.rand(1, networks, services, servers, generator=draws)
    demand[:, :, 1, 1] = 0.0
    frames = Frames(demand, torch.full((networks, services), 3.0), torch.full((networks,), 15.0))
    storage = torch.randint(1, 4, (networks, services), generator=draws).double()
    usable = torch.full((networks, servers), 6.0, dtype=torch.float64)
    room, row = Room(storage, usable, torch.zeros(networks, servers, services)), torch.arange(networks)
    descent = Descent(frames, room)
    ends, cost = descent.settled(
        row, room.filled(row, torch.rand(networks, servers, services, generator=draws))
    )
    for server, service in product(range(servers), range(services)):
        less = ends.clone()
        less[:, server, service] = False
        assert (descent.cost(row, less) >= cost * (1 - 5e-3)).all()


def test_what_costs_more_to_hold_than_it_saves_is_not_fetched(in_many_steps: None) -> None:
    problem = Problem.random(networks=4)
    dear = room_of(problem, rent=1e4)
    assert not Descent(problem.frames, dear).greedy().any()
    held = dear.filled(problem.row, problem.cache.float(), problem.cache)
    kept = dear._replace(rent=dear.rent.masked_fill(held, 0.0))
    descent = Descent(problem.frames, kept)
    assert not kept.holds_all.any()
    for start in (held, kept.filled(problem.row, torch.rand(4, 3, 4, generator=generator(3)))):
        ends, cost = descent.settled(problem.row, start)
        assert not (ends & ~held).any()
        assert (cost < 1e4).all()
    torch.testing.assert_close(descent.settled(problem.row, held)[0], held)
    torch.testing.assert_close(descent.filled_up(problem.row, held), held)
    # at the very rent at which fetching a single service pays, and just above
    free = room_of(problem)
    ends, cost = Descent(problem.frames, free).settled(
        problem.row, free.filled(problem.row, problem.cache.float())
    )
    server, service = ends[0].nonzero()[0].tolist()
    without = changed(ends, server, service)
    saves = (Descent(problem.frames, free).cost(problem.row, without) - cost)[0].item()
    assert saves > 0.01 * cost[0]
    for factor, fetched in ((0.9, True), (1.1, False)):
        rent = torch.full_like(free.rent, 1e4).masked_fill(without, 0.0)
        rent[0, server, service] = factor * saves
        ended, _ = Descent(problem.frames, free._replace(rent=rent)).settled(problem.row, without)
        assert ended[0, server, service] == fetched


def test_everything_is_held_where_everything_fits_at_no_cost() -> None:
    problem = Problem.random(networks=2)
    room = room_of(problem)
    wide = room._replace(usable_bits=room.usable_bits * 10)
    assert wide.holds_all.tolist() == [True, True]
    one = wide._replace(usable_bits=torch.stack((wide.usable_bits[0], room.usable_bits[1])))
    assert one.holds_all.tolist() == [True, False]
    assert Descent(problem.frames, one).greedy()[0].all()
    costly = one._replace(rent=one.rent + torch.tensor([1.0, 0.0])[:, None, None])
    assert costly.holds_all.tolist() == [False, False]


def test_large_networks_weigh_the_changes_that_promise_most(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Problem.random(networks=3, services=6, servers=4)
    room = room_of(problem)
    descent = Descent(problem.frames, room)
    start = descent.greedy()
    _, all_weighed = descent.settled(problem.row, start)
    monkeypatch.setattr(cache_descent, "MOST_CHANGES", 8)
    ends, some_weighed = descent.settled(problem.row, start)
    assert fits(room, problem.row, ends)
    assert (some_weighed <= descent.cost(problem.row, start)).all()
    torch.testing.assert_close(some_weighed, all_weighed, rtol=0.03, atol=0)


def test_no_networks_and_no_users_are_no_trouble() -> None:
    nobody = Frames(torch.rand(1, 1, 2, 3, 4, 3), torch.zeros(1, 4), torch.zeros(1))
    found = nobody.best_parts(torch.tensor([0]), torch.ones(1, 3, 4, dtype=torch.bool))
    assert isinstance(found, Parts)
    assert found.cost.tolist() == [0.0]

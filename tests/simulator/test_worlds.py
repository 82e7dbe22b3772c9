"""Worlds that move: demand that drifts, servers that slow down."""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hadrl_lightning.baselines import (
    CACHING_POLICIES,
    OFFLOADING_POLICIES,
    best_known_allocation,
    best_known_policy,
)
from hadrl_lightning.baselines.cache_slots import DrawnSlots
from hadrl_lightning.callbacks.references import References
from hadrl_lightning.errors import HadrlError
from hadrl_lightning.judge import optimal_hit_ratio_if_known
from hadrl_lightning.play import MEASURED, home_equal, run_episode
from hadrl_lightning.scenario import Scenario
from hadrl_lightning.simulator import (
    Allocation,
    EdgeNetwork,
    Use,
    decode_offloading,
    equal_shares,
    make_generator,
    num_targets,
)
from hadrl_lightning.simulator.constants import constants, constants_of_each
from hadrl_lightning.simulator.decisions import sum_per_server
from hadrl_lightning.simulator.processes import (
    DriftingRequests,
    Handover,
    SlowServers,
    World,
    demand_is_known,
)
from hadrl_lightning.simulator.service import served_slot
from hadrl_lightning.simulator.state import NetworkState, Slot
from hadrl_lightning.simulator.unfolding import Unfolding
from hadrl_lightning.typed import as_floats

CPU = torch.device("cpu")


def shipped(*names: str) -> Scenario:
    """A scenario of shipped files; whole numbers of settings become real ones, which the type checker asks for."""
    scenario = Scenario.from_config(*names)
    kinds = {"drifting_requests": DriftingRequests(), "slow_servers": SlowServers()}
    processes = {
        process: {name: type(getattr(kinds[process], name))(value) for name, value in chosen.items()}
        for process, chosen in scenario.processes.items()
    }
    return replace(scenario, processes=processes)


BOTH = dict(shipped("es3.yaml", "drift.yaml", "slowdowns.yaml").processes)
DRIFT, SLOW = BOTH.values()


def network_of(scenario: Scenario, num_envs: int = 3, seed: int = 0) -> EdgeNetwork:
    return EdgeNetwork(scenario, num_envs=num_envs, generator=make_generator(seed, Use.TEST_NETWORKS))


def world_of(scenario: Scenario, num_envs: int) -> World:
    return World(scenario, constants(scenario, CPU, torch.float64), num_envs, CPU, torch.float32)


def course(process: Any, world: World, slots: int, seed: int = 0) -> list[dict[str, Tensor]]:
    """The memory of a process, slot by slot."""
    generator = torch.Generator().manual_seed(seed)
    found = [process.initial(world, generator)]
    for _ in range(slots - 1):
        found.append(process.advance(world, found[-1], generator))
    return found


# Demand that drifts --------------------------------------------------------------------------------------------------


def test_demand_of_which_no_part_is_on_is_the_usual_one_to_the_bit() -> None:
    usual, still = (
        network_of(Scenario(processes=processes)) for processes in ({}, {"drifting_requests": {}})
    )
    for _ in range(2):
        assert torch.equal(usual.caching_view().past_requests, still.caching_view().past_requests)
        one, other = (run_episode(net, _empty, home_equal) for net in (usual, still))
        for name, mine, theirs in zip(one._fields, one, other, strict=True):
            assert torch.equal(mine, theirs) or name in MEASURED, name
    assert torch.equal(usual.popularity, still.popularity[0])


def _empty(network: EdgeNetwork) -> Tensor:
    return torch.zeros_like(network.cache)


def _full(network: EdgeNetwork) -> Tensor:
    return torch.ones_like(network.cache)


def test_regimes_take_turns_of_the_mean_length_and_are_the_same_everywhere() -> None:
    scenario = Scenario(num_users=1)
    process = DriftingRequests(regimes=3, regime_slots=8.0)
    found = course(process, world_of(scenario, 400), 200)
    regimes = torch.stack([one["regime"] for one in found])
    share = torch.bincount(regimes.flatten(), minlength=3) / regimes.numel()
    torch.testing.assert_close(share, torch.full((3,), 1 / 3), rtol=0, atol=0.02)
    left = (regimes[1:] != regimes[:-1]).double().mean()
    assert float(left) == pytest.approx(1 / 8, rel=0.03)  # 10,000 changes
    of_each: dict[int, list[Tensor]] = {}
    for one in found:
        for regime, popularity in zip(one["regime"].tolist(), one["popularity"], strict=True):
            of_each.setdefault(regime, []).append(popularity)
    popularity = torch.tensor(scenario.popularity_vector, dtype=torch.float64)
    assert sorted(of_each) == [0, 1, 2]
    for rows in of_each.values():
        assert all(torch.equal(rows[0], row) for row in rows)
        torch.testing.assert_close(rows[0].sort().values, popularity.sort().values)
    torch.testing.assert_close(of_each[0][0], popularity)
    for one, other in ((0, 1), (1, 2), (0, 2)):
        assert not torch.equal(of_each[one][0], of_each[other][0])


def test_a_leap_of_many_slots_is_as_likely_as_that_many_steps() -> None:
    process = DriftingRequests(regimes=3, regime_slots=6.0, bursts_per_slot=0.8, burst_slots=4.0)
    services, batch = 4, 40_000
    at_first = {
        "regime": torch.zeros(batch, dtype=torch.long),
        "burst": torch.zeros(batch, services, dtype=torch.bool),
    }
    generator = torch.Generator().manual_seed(0)
    stepped = at_first
    for _ in range(5):
        stepped = process._moved(stepped, 1, generator)
    for slots in (5, -5):
        leapt = process._moved(at_first, slots, generator)
        for same in (
            (stepped["regime"] == 0, stepped["burst"].float()),
            (
                leapt["regime"] == 0,
                leapt["burst"].float(),
            ),
        ):
            back, burst = same
            stays = 1 / 3 + 2 / 3 * (1 - 1 / 6 * 3 / 2) ** 5
            assert float(back.double().mean()) == pytest.approx(stays, abs=0.01)
            # Of a service it begins with 0.2 and ends with 0.25.
            assert float(burst.mean()) == pytest.approx(0.2 / 0.45 * (1 - 0.55**5), abs=0.005)


def test_bursts_begin_and_end_as_often_as_is_said_and_multiply_demand() -> None:
    scenario = Scenario(num_users=1, num_services=4, popularity=(0.1, 0.2, 0.3, 0.4))
    process = DriftingRequests(bursts_per_slot=0.08, burst_factor=6.0, burst_slots=5.0)
    found = course(process, world_of(scenario, 500), 120)
    on = torch.stack([one["burst"] for one in found])
    share = 0.02 / (0.02 + 0.2)
    assert float(on.double().mean()) == pytest.approx(share, rel=0.05)
    assert float(on[0].double().mean()) == pytest.approx(share, abs=0.02)  # from the first slot on
    began = (~on[:-1] & on[1:]).double().sum() / (~on[:-1]).sum()
    ended = (on[:-1] & ~on[1:]).double().sum() / on[:-1].sum()
    assert (float(began), float(ended)) == pytest.approx((0.02, 0.2), rel=0.04)
    alone = (on == torch.tensor([False, True, False, False])).all(dim=-1)
    popularity = torch.stack([one["popularity"] for one in found])[alone]
    by_hand = torch.tensor([0.1, 1.2, 0.3, 0.4], dtype=torch.float64) / 2.0
    torch.testing.assert_close(popularity, by_hand.expand_as(popularity))


def test_swaps_are_of_neighbours_and_as_many_as_is_said() -> None:
    weights = (0.4, 0.1, 0.3, 0.15, 0.05)
    scenario = Scenario(num_users=1, num_services=5, popularity=weights)
    found = course(DriftingRequests(swaps_per_slot=0.1), world_of(scenario, 300), 100)
    rows = torch.stack([one["of_rank"] for one in found])
    assert rows[0].tolist() == [[0, 2, 3, 1, 4]] * 300
    changed = rows[1:] != rows[:-1]
    swapped = changed.any(dim=-1)
    # An even number of the same swap is none: of a Poisson number with mean 0.1 that is seldom.
    assert float(swapped.double().mean()) == pytest.approx(1 - math.exp(-0.1), rel=0.04)
    places = changed[changed.sum(dim=-1) == 2].nonzero()[:, 1].view(-1, 2)
    assert ((places[:, 1] - places[:, 0]) == 1).double().mean() > 0.99
    ranked = torch.tensor(sorted(weights, reverse=True), dtype=torch.float64)
    last = found[-1]
    torch.testing.assert_close(last["popularity"].gather(1, last["of_rank"]), ranked.expand(300, -1))


def test_half_of_the_services_peak_by_day_and_half_by_night() -> None:
    scenario = Scenario(num_users=1, num_services=4, popularity=(1, 2, 3, 4))
    process = DriftingRequests(day_amplitude=0.5, day_slots=8.0)
    world = world_of(scenario, 200)
    found = course(process, world, 9)
    clock = torch.stack([one["clock"] for one in found])
    assert float(clock[0].std()) == pytest.approx(8 / math.sqrt(12), rel=0.1)
    torch.testing.assert_close(clock[8], clock[0])
    for hour, swing in ((0.0, 0.5), (4.0, -0.5), (2.0, 0.0)):
        memory = {"clock": torch.full((200,), hour, dtype=torch.float64)}
        chances = process._by_cell(world, memory)[0, 0]
        weight = torch.tensor(
            [1 + swing, 2 * (1 - swing), 3 * (1 + swing), 4 * (1 - swing)], dtype=torch.float64
        )
        torch.testing.assert_close(chances, weight / weight.sum())


def test_users_ask_by_the_popularity_of_their_cell() -> None:
    scenario = Scenario(num_servers=2, num_users=2000, num_services=5, popularity=(0.5, 0.3, 0.2, 0.0, 0.0))
    world = world_of(scenario, 20)
    asked = {}
    for difference in (0.0, 0.5, 1.0):
        process = DriftingRequests(server_difference=difference, regimes=2, regime_slots=1e9)
        memory = process.initial(world, torch.Generator().manual_seed(3))
        chances = process._by_cell(world, memory)
        for row, requests in enumerate(memory["requests"]):
            for cell in range(2):
                own = requests[world.table.cells == cell]
                counts = torch.bincount(own, minlength=5) / len(own)
                expected = chances[row, min(cell, chances.shape[1] - 1)]
                torch.testing.assert_close(counts.double(), expected, rtol=0, atol=0.08)
                assert not counts[expected == 0].any()
        mean = torch.nn.functional.one_hot(memory["requests"], 5).double().mean(dim=(0, 1))
        torch.testing.assert_close(mean, memory["popularity"].mean(dim=0), rtol=0, atol=0.01)
        asked[difference] = chances
    base = asked[0.0].expand(-1, 2, -1)
    torch.testing.assert_close(asked[0.5], (base + asked[1.0]) / 2)
    torch.testing.assert_close(asked[1.0].sort().values, base.sort().values)
    assert not torch.equal(asked[1.0][:, 0], asked[1.0][:, 1])


def test_no_draw_however_close_to_1_leads_to_a_service_without_a_chance(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scenario = Scenario(num_users=3, num_services=4, popularity=(0.0, 0.5, 0.5, 0.0))
    process = DriftingRequests(bursts_per_slot=0.5)
    for draw in (0.0, 1 - 2**-53):
        monkeypatch.setattr(
            torch, "rand", lambda *size, draw=draw, **_: torch.full(_flat(size), draw).double()
        )
        asked = process.initial(world_of(scenario, 700), torch.Generator())["requests"]
        assert asked.unique().tolist() == [1 if draw == 0 else 2]


def _flat(size: tuple[Any, ...]) -> tuple[int, ...]:
    return tuple(size[0]) if isinstance(size[0], tuple) else size


def test_the_record_ends_where_the_episode_begins() -> None:
    scenario = Scenario(num_users=50, history_slots=400)
    lasting, brief = (
        network_of(
            replace(scenario, processes={"drifting_requests": {"regimes": 4, "regime_slots": slots}}), 40
        )
        for slots in (1e9, 2.0)
    )
    counts = lasting.caching_view().past_requests / (400 * 50)
    assert len(lasting.popularity.unique(dim=0)) == 4
    torch.testing.assert_close(counts.double(), lasting.popularity, rtol=0, atol=0.015)
    counts = brief.caching_view().past_requests.double() / (400 * 50)
    mean = brief.popularity.unique(dim=0).mean(dim=0)  # of the four regimes
    off = (counts - mean).abs()
    assert float(off.mean()) < 0.3 * float((brief.popularity - mean).abs().mean())
    assert (brief.caching_view().past_requests.sum(dim=1) == 400 * 50).all()
    again = network_of(brief.declared, 40)
    assert torch.equal(again.caching_view().past_requests, brief.caching_view().past_requests)


def test_references_know_demand_as_it_is_or_say_that_they_do_not() -> None:
    scenario = shipped("es3.yaml", "tight.yaml", "drift.yaml")
    assert not demand_is_known(scenario)
    assert demand_is_known(replace(scenario, processes={"slow_servers": {}}))
    assert optimal_hit_ratio_if_known(scenario) is None
    network = network_of(scenario, 6)
    cache = CACHING_POLICIES["popularity"](scenario, torch.Generator())(network)
    favourite = network.popularity.argmax(dim=1)
    assert len(favourite.unique()) > 1
    assert cache.all(dim=1).gather(1, favourite[:, None]).all()
    usual = network_of(replace(scenario, processes={}))
    assert torch.equal(usual.popularity, usual.exact.popularity)
    small = replace(
        scenario, num_servers=1, num_services=3, num_users=2, popularity="zipf", offload_thresholds=None
    )
    notes = References(small, "strict").notes
    assert any("holds the same caches all along" in note for note in notes)
    assert any("hits ÷ optimum is left out: demand changes" in note for note in notes)


# Servers that slow down ----------------------------------------------------------------------------------------------


def test_servers_are_slow_and_out_as_often_and_as_long_as_is_said() -> None:
    process = SlowServers(slow_part=0.3, out_part=0.1, slow_slots=6.0, out_slots=3.0)
    found = course(process, world_of(Scenario(num_servers=4), 300), 150)
    states = torch.stack([one["server_state"] for one in found])
    for rows in (states, states[:1]):
        share = torch.bincount(rows.flatten(), minlength=3) / rows.numel()
        torch.testing.assert_close(
            share, torch.tensor([0.6, 0.3, 0.1]), rtol=0, atol=0.01 if len(rows) > 1 else 0.04
        )
    before, after = states[:-1], states[1:]
    for state, length in ((1, 6.0), (2, 3.0)):
        left = after[before == state] != state
        assert float(left.double().mean()) == pytest.approx(1 / length, rel=0.04)
        assert (after[before == state][left] == 0).all()
    speeds = torch.stack([one["server_speed"] for one in found])
    assert torch.equal(speeds, torch.tensor([1.0, 0.1, 0.01])[states])


def twin(draws: list[list[float]], one: SlowServers) -> list[list[int]]:
    """The states of some servers slot by slot, in plain Python."""
    full = 1 - one.slow_part - one.out_part
    states: list[list[int]] = []
    for row in draws:
        now = []
        for server, draw in enumerate(row):
            if not states or states[-1][server] == 0:
                slow, out = one.slow_part, one.out_part
                if states:
                    slow, out = slow / one.slow_slots / full, out / one.out_slots / full
                now.append(1 if draw < slow else 2 if draw < slow + out else 0)
            else:
                length = one.slow_slots if states[-1][server] == 1 else one.out_slots
                now.append(0 if draw < 1 / length else states[-1][server])
        states.append(now)
    return states


@pytest.mark.parametrize("telemetry", ["used", "all", "none"])
def test_servers_that_slow_down_are_those_of_a_twin_in_plain_python(telemetry: str) -> None:
    chosen = {**SLOW, "telemetry": telemetry, "slow_part": 0.4, "slow_slots": 4.0, "slows_bandwidth": True}
    scenario = Scenario(num_servers=3, num_users=4, processes={"slow_servers": chosen})
    network = network_of(scenario, 1)
    process = network.unfolding.processes["slow_servers"]
    assert isinstance(process, SlowServers)
    slots = scenario.slots_per_episode
    generator = make_generator(0, Use.TEST_NETWORKS)
    stream = Unfolding(network.unfolding.world, generator)._streams["slow_servers"]
    draws, errors = [], []
    for _ in range(slots):
        draws.append(torch.rand(1, 3, generator=stream, dtype=torch.float64)[0].tolist())
        errors.append((0.1 * torch.randn(1, 3, generator=stream, dtype=torch.float64))[0].tolist())
    states, speeds = twin(draws, process), {0: 1.0, 1: 0.1, 2: 0.01}
    bits, cycles = scenario.input_bits, scenario.cycles
    slowdown, age = [1.0] * 3, [1000.0] * 3
    for slot in range(slots):
        view = network.offloading_view()
        assert view.slowdown[0].tolist() == pytest.approx(slowdown, rel=1e-5)  # type: ignore[attr-defined]
        assert view.slowdown_age[0].tolist() == age  # type: ignore[attr-defined]
        assert view.compute_hz.tolist() == [[torch.tensor(60e9).item()] * 3]
        assert view.bandwidth_hz.tolist() == [[200e6] * 3]
        assert network.caching_view().compute_hz.tolist() == [[torch.tensor(60e9).item()] * 3]
        if network.frame_over:
            network.begin_frame(torch.tensor([[[True] * 10, [False] * 10, [True] * 10]]))
        target = [slot % 3, (slot + slot // 7) % 3, slot % 3, 0 if slot % 5 else 1]
        asked = network.requests[0].tolist()
        service = network.step(equal_shares(scenario, torch.tensor([target]), torch.float32))
        speed = [speeds[state] for state in states[slot]]
        for user, server in enumerate(target):
            share, k = 1 / target.count(server), asked[user]
            sent = bits[k] / (share * 200e6 * speed[server] * float(service.spectral_efficiency[0, user]))
            if server != 1:
                done = cycles[k] / (share * 60e9 * speed[server])
            else:
                done = bits[k] / (4 * 1024**2) + cycles[k] / 4e9 + 0.1
            assert float(service.latency[0, user]) == pytest.approx(sent + done, rel=1e-4)
        for server in range(3):
            age[server] = min(age[server] + 1, 1000.0)
            if telemetry == "all" or (telemetry == "used" and server != 1 and server in target):
                slowdown[server] = math.exp(errors[slot][server]) / speed[server]
                age[server] = 0.0
    assert {state for row in states for state in row} == {0, 1, 2}


def test_worlds_tell_when_they_change() -> None:
    before, after = torch.tensor([[0, 1], [0, 1], [2, 0]]), torch.tensor([[0, 1], [1, 1], [0, 0]])
    slow = SlowServers().changed({"server_state": before}, {"server_state": after})
    assert slow.tolist() == [False, True, True]
    shares = torch.tensor([[0.5, 0.3, 0.2]]).expand(3, -1)
    moved = torch.tensor([[0.5, 0.2, 0.3], [0.45, 0.3, 0.25], [0.1, 0.3, 0.6]])  # by 0.1, 0.05 and 0.4
    drift = DriftingRequests().changed({"popularity": shares - 1e-4}, {"popularity": moved})
    assert drift.tolist() == [True, False, True]
    handed = torch.tensor([[False, False], [True, False]])
    assert Handover().changed({}, {"handed_over": handed}).tolist() == [False, True]
    network = network_of(Scenario(processes={"slow_servers": {"slow_slots": 2.0}}))
    states = []

    def policy(net: EdgeNetwork) -> Allocation:
        states.append(net.unfolding.memory["slow_servers"]["server_state"])
        return home_equal(net)

    for _ in range(2):
        changed = run_episode(network, _empty, policy).changed
        held = torch.stack(states)
        assert not changed[0].any()
        assert torch.equal(changed[1:], (held[1:] != held[:-1]).any(dim=2))
        assert changed.any()
        states.clear()
    assert not run_episode(network_of(Scenario()), _empty, home_equal).changed.any()


def test_the_best_known_decisions_know_which_servers_are_slow() -> None:
    processes = {"slow_servers": {**SLOW, "slow_part": 0.45}}
    scenario = Scenario(num_servers=3, num_users=12, processes=processes)
    network = network_of(scenario, 30)
    network.begin_frame(_full(network))
    speed = network.unfolding.slot.more["server_speed"]
    torch.testing.assert_close(network.present.compute_hz, 60e9 * speed.double())
    assert torch.equal(network.exact.compute_hz, torch.full((3,), 60e9, dtype=torch.float64))
    told = best_known_policy(network)
    untold = best_known_allocation(
        network.scenario, network.cache, network.requests, network.positions, table=network.exact
    )
    searched = OFFLOADING_POLICIES["genetic"](scenario, torch.Generator().manual_seed(0))(network)
    saved = network.state_dict()
    latency = []
    for allocation in (told, searched, untold):
        network.load_state_dict(saved)
        latency.append(float(network.step(allocation).latency.sum()))
    assert latency[0] < 0.6 * min(latency[1:])  # the search goes by what views show
    load = torch.zeros(30, 3).scatter_add_(1, told.server, torch.ones(30, 12))
    mixed = (speed == 1).any(dim=1) & (speed < 1).any(dim=1)
    fast, slow = (load[mixed][part[mixed]].mean() for part in (speed == 1, speed < 1))
    assert float(slow) < 0.5 * float(fast)


def test_caches_are_compared_with_servers_as_slow_as_they_are_in_the_long_run() -> None:
    scenario = Scenario(num_users=4, num_services=2, popularity=(1, 2), compute_hz=2e9)
    slow = replace(scenario, processes={"slow_servers": {**SLOW, "slow_part": 0.6}})
    full = torch.ones(2, 2, dtype=torch.bool)
    mean = [
        float(DrawnSlots(one, 64, torch.Generator().manual_seed(0), 10**9).decided(full).mean())
        for one in (slow, scenario)
    ]
    assert mean[0] > 1.5 * mean[1]


def test_constants_of_which_some_are_each_networks_own_are_taken_and_repeated_as_such() -> None:
    scenario = Scenario(num_servers=3, user_positions_m=((0.0, 0.0),) * 30)
    same = constants(scenario, CPU, torch.float64)
    own = same._replace(compute_hz=torch.arange(6.0).view(2, 3))
    assert own.rows(slice(1, 2)).compute_hz.tolist() == [[3.0, 4.0, 5.0]]
    assert own.repeated(2).compute_hz.tolist() == [[0.0, 1.0, 2.0]] * 2 + [[3.0, 4.0, 5.0]] * 2
    assert own.repeated(2).servers_m is same.servers_m
    assert own.rows(slice(1, 2)).user_positions_m is same.user_positions_m
    assert same.repeated(2) is same
    each = constants_of_each([scenario, replace(scenario, cloud_delay_s=0.5)], CPU, torch.float64)
    assert each.rows(slice(1, 2)).cloud_delay_s.tolist() == [[0.5]]
    assert each.repeated(2).servers_m.shape == (4, 3, 2)


# Both ----------------------------------------------------------------------------------------------------------------


@settings(max_examples=6, deadline=None, derandomize=True)
@given(st.permutations(range(5)), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_permuting_users_permutes_what_they_get(order: list[int], servers: int, seed: int) -> None:
    scenario = Scenario(num_servers=servers, num_users=5, processes=BOTH)
    choice = torch.Generator().manual_seed(seed)
    action = torch.rand(2, 3, 5, generator=choice) * 2 - 1
    found = []
    for index in (torch.arange(5), torch.tensor(order)):
        network = network_of(scenario, 2, seed)
        slot = network.unfolding.slot
        slot.requests, slot.positions = slot.requests[:, index], slot.positions[:, index]
        network._constants = network._constants._replace(cells=network._constants.cells[index])
        network.begin_frame(torch.rand(network.cache.shape, generator=torch.Generator().manual_seed(1)) < 0.7)
        network.unfolding.serve = lambda net=network, i=index: _fade(net, i)  # type: ignore[method-assign]
        service = network.step(decode_offloading(scenario, action[:, :, index].flatten(1)))
        assert service.latency.isfinite().all()
        found.append((service, network.offloading_view()))
    (one, seen), (other, seen_then) = found
    for name in ("latency", "hit", "energy", "on_time"):
        torch.testing.assert_close(getattr(one, name)[:, order], getattr(other, name))
    assert torch.equal(seen.slowdown, seen_then.slowdown)
    assert torch.equal(seen.slowdown_age, seen_then.slowdown_age)


def _fade(network: EdgeNetwork, index: Tensor) -> None:
    """A fading that goes with the user."""
    fading = torch.tensor([[0.5, 1.0, 1.5, 0.2, 0.9]]).expand(2, -1)
    network.unfolding.slot.fading = fading[:, index]


def test_a_world_in_which_both_move_goes_on_from_a_saved_state_to_the_bit() -> None:
    scenario = Scenario(num_servers=3, num_users=6, processes=BOTH, decisions_per_episode=4)
    here, there = network_of(scenario), network_of(scenario, seed=1)

    def frame(network: EdgeNetwork) -> list[Tensor]:
        network.begin_frame(_full(network))
        found = []
        while not network.frame_over:
            service = network.step(equal_shares(scenario, network.homes, torch.float32))
            found += [service.latency, network.requests, network.popularity, network.offloading_observation()]
        return found

    frame(here)
    there.load_state_dict(here.state_dict())
    for _ in range(3):
        for mine, theirs in zip(frame(here), frame(there), strict=True):
            assert torch.equal(mine, theirs)
    here.reset()
    there.reset()
    assert torch.equal(here.caching_view().past_requests, there.caching_view().past_requests)


def test_a_rank_that_simulates_some_of_the_networks_meets_what_they_meet_together() -> None:
    scenario = Scenario(num_servers=3, num_users=6, processes=BOTH)
    world = world_of(scenario, 4)
    whole, some = (
        Unfolding(world, torch.Generator().manual_seed(0), rows) for rows in (slice(None), slice(1, 3))
    )
    for unfolding in (whole, some):
        unfolding.begin(scenario, world.table)
        unfolding.past_requests()
        for _ in range(5):
            unfolding.serve()
            unfolding.advance()
    assert torch.equal(whole.slot.requests[1:3], some.slot.requests)
    for entry in ("popularity", "server_speed"):
        assert torch.equal(whole.slot.more[entry][1:3], some.slot.more[entry])


def test_worlds_move_in_networks_of_every_size() -> None:
    ranges: dict[str, Any] = {
        "num_servers": {"low": 1, "high": 5},
        "num_users": {"low": 1, "high": 9},
        "num_services": {"low": 3, "high": 6},
        "compute_hz": {"low": 1e9, "high": 9e10},
        "popularity": {"low": 0.1, "high": 1.0},
    }
    scenario = Scenario.from_dict({**ranges, "processes": BOTH, "decisions_per_episode": 2})
    network = network_of(scenario)
    for _ in range(2):
        episode = run_episode(network, _empty, home_equal)
        assert episode.latency.isfinite().all()
        assert (network.caching_view().past_requests.sum(dim=1) == 1000 * network.scenario.num_users).all()
        torch.testing.assert_close(network.popularity.sum(dim=-1), torch.ones(3).double())
        policy = CACHING_POLICIES["density"](scenario, torch.Generator())
        network.reset()
        assert policy(network).shape == network.cache.shape
        network.begin_frame(policy(network))
        assert best_known_policy(network).server.shape == network.requests.shape
        network.reset()


@pytest.mark.parametrize(("name", "physics"), [("es2.yaml", "published"), ("es5.yaml", "strict")])
def test_worlds_compose_with_every_scenario_and_are_met_by_all_policies_alike(
    name: str, physics: str
) -> None:
    scenario = shipped(name, "tight.yaml", "drift.yaml", "slowdowns.yaml")
    scenario = replace(scenario, decisions_per_episode=2)

    def spread(network: EdgeNetwork) -> Allocation:
        return equal_shares(scenario, network.requests % scenario.num_servers, network.dtype)

    one, other = (
        EdgeNetwork(scenario, physics, 3, generator=make_generator(0, Use.TEST_NETWORKS)) for _ in range(2)
    )
    first, second = run_episode(one, _empty, home_equal), run_episode(other, _empty, spread)
    assert torch.equal(first.requests, second.requests)
    assert torch.equal(first.positions, second.positions)
    for now, then in pairwise([one, other]):
        for entry in ("popularity", "server_speed"):
            assert torch.equal(now.unfolding.slot.more[entry], then.unfolding.slot.more[entry])


OUT_OF_RANGE = [
    ("drifting_requests", "regimes", 0, "must be from 1 to 1000, got 0"),
    ("drifting_requests", "regimes", 1.5, "must be a whole number, got 1.5"),
    ("drifting_requests", "regime_slots", 0.5, "must be from 1 to 1e+09, got 0.5"),
    ("drifting_requests", "swaps_per_slot", -1, "must be from 0 to 10, got -1"),
    ("drifting_requests", "day_amplitude", 1, "must be from 0 to 0.99, got 1"),
    ("drifting_requests", "day_slots", 1, "must be from 2 to 1e+09, got 1"),
    ("drifting_requests", "bursts_per_slot", -0.1, "must be from 0 to 1e+06, got -0.1"),
    ("drifting_requests", "burst_factor", 0.5, "must be from 1 to 1e+06, got 0.5"),
    ("drifting_requests", "burst_slots", 0, "must be from 1 to 1e+09, got 0"),
    ("drifting_requests", "server_difference", 2, "must be from 0 to 1, got 2"),
    ("slow_servers", "slow_factor", 0, "must be from 0.001 to 1, got 0"),
    ("slow_servers", "out_factor", 0.5, "must be at most slow_factor = 0.1, got 0.5"),
    ("slow_servers", "slow_part", -0.1, "must be from 0 to 1, got -0.1"),
    ("slow_servers", "slow_part", 0.99, "must leave a server time to be full: .* = -0.01, got 0.0535"),
    ("slow_servers", "slow_slots", 0.1, "must be from 1 to 1e+09, got 0.1"),
    ("slow_servers", "out_slots", 0, "must be from 1 to 1e+09, got 0"),
    ("slow_servers", "telemetry", "some", "must be one of used, all, none, got 'some'"),
    ("slow_servers", "telemetry_noise", float("nan"), "must be a number, got nan"),
    ("slow_servers", "slows_bandwidth", 1, "must be true or false, got 1"),
]


@pytest.mark.unchecked
@pytest.mark.parametrize(("name", "setting", "value", "told"), OUT_OF_RANGE)
def test_a_setting_out_of_range_is_refused_by_name(name: str, setting: str, value: Any, told: str) -> None:
    message = rf"^processes\.{name}\.{setting} {told.replace('+', '[+]')}$"
    with pytest.raises(HadrlError, match=message):
        EdgeNetwork(Scenario(processes={name: {setting: value}}))


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("services", "chosen", "told"),
    [
        (1, {"swaps_per_slot": 1}, "swaps_per_slot must be 0 where num_services is 1, got 1"),
        (1, {"server_difference": 0.5}, "server_difference must be 0 where num_services is 1, got 0.5"),
        (2, {"regimes": 3}, "regimes must be at most 2, the permutations of num_services = 2, got 3"),
        (2, {"bursts_per_slot": 3}, "bursts_per_slot must be at most num_services = 2, got 3"),
        (3, {"regimes": 6, "bursts_per_slot": 3, "swaps_per_slot": 1}, ""),
    ],
)
def test_demand_that_cannot_drift_so_is_refused(services: int, chosen: dict[str, Any], told: str) -> None:
    scenario = Scenario(num_services=services, popularity="zipf", processes={"drifting_requests": chosen})
    if not told:
        assert network_of(scenario).popularity.shape == (3, services)
        return
    with pytest.raises(HadrlError, match=rf"^processes\.drifting_requests: {told}$"):
        EdgeNetwork(scenario)
    sizes = {"num_services": {"low": services, "high": 9}, "processes": {"drifting_requests": chosen}}
    with pytest.raises(HadrlError, match=told):
        EdgeNetwork(Scenario.from_dict({"popularity": "zipf", **sizes}))


@pytest.mark.unchecked
def test_swaps_of_a_record_too_long_to_make_them_are_refused() -> None:
    swaps = {"drifting_requests": {"swaps_per_slot": 1}}
    told = "swaps_per_slot must be at most 0.32 with history_slots = 1000000, got 1"
    with pytest.raises(HadrlError, match=rf"^processes\.drifting_requests: {told}$"):
        EdgeNetwork(Scenario(history_slots=1_000_000, processes=swaps))


# Any two worlds together --------------------------------------------------------------------------------------------

OVERLAYS = {
    name: Scenario.from_config(f"{name}.yaml").processes
    for name in ("drift", "slowdowns", "mobile", "channel", "queues", "device", "hops")
}
OVERLAYS["battery"] = {"device": {**OVERLAYS["device"]["device"], "battery_j": 20.0, "charge_w": 0.5}}
OVERLAYS["late"] = {"queues": {**OVERLAYS["queues"]["queues"], "arrivals": "bursts", "late": "dropped"}}
PAIRS = [
    (one, other)
    for number, one in enumerate(OVERLAYS)
    for other in list(OVERLAYS)[number + 1 :]
    if not OVERLAYS[one].keys() & OVERLAYS[other].keys()
]
SIZES = {"num_servers": 3, "num_users": 7, "num_services": 5, "popularity": "zipf", "cache_bytes": 16e9}


def floats(value: Any) -> Any:
    """Whole numbers as real ones, but for those that count."""
    return {
        name: {
            key: one if key in ("regimes", "neighbours") else as_floats(one) for key, one in settings.items()
        }
        for name, settings in value.items()
    }


@pytest.mark.unchecked
@pytest.mark.parametrize("pair", PAIRS, ids=" and ".join)
@given(st.integers(0, 1000), st.integers(1, 3))
@settings(deadline=None, derandomize=True, max_examples=1)
def test_two_worlds_together_conserve_work_energy_and_shares_and_know_no_order_of_users(
    pair: tuple[str, str], seed: int, num_envs: int
) -> None:
    processes = floats(OVERLAYS[pair[0]]) | floats(OVERLAYS[pair[1]])
    scenario = Scenario(**SIZES, processes=processes, decisions_per_episode=2, slots_per_decision=2)
    network, draw = network_of(scenario, num_envs, seed), make_generator(seed, Use.EXPLORATION)
    turned = replace(scenario, processes=dict(reversed(processes.items())))
    other = network_of(turned, num_envs, seed)
    caching = CACHING_POLICIES["random"](scenario, draw)
    offloading = OFFLOADING_POLICIES["random"](scenario, draw)
    full_j = processes.get("device", {}).get("battery_j", 0.0)
    used = torch.zeros(num_envs, dtype=torch.float64)
    while not network.episode_over:
        if network.frame_over:
            cache = caching(network)
            network.begin_frame(cache)
            other.begin_frame(cache)
        allocation = offloading(network)
        _same_in_any_order(network, allocation)
        _same_alone(network, allocation)
        taken = allocation.server.new_zeros(num_envs, num_targets(scenario)).scatter(1, allocation.server, 1)
        for share in allocation[1:]:
            load = sum_per_server(share, allocation.server, num_targets(scenario))
            torch.testing.assert_close(load, taken.to(load.dtype))
        service = network.step(allocation)
        for mine, theirs in zip(service, other.step(allocation), strict=True):
            assert torch.equal(mine, theirs), "whichever is named first"
        left = other.state.tensors()
        assert all(torch.equal(value, left[name]) for name, value in network.state.tensors().items())
        assert bool(service.latency.isfinite().all())
        assert bool((service.latency[service.asked] > 0).all())
        assert bool((service.energy >= 0).all())
        assert not bool((service.hit & ~service.asked).any())
        assert float(service.bandwidth_load.max()) <= 1 + 1e-3
        used += service.energy.double().sum(dim=1)
        carried = network.state.carried
        if "queues" in carried:
            work = carried["queues"]
            left = work["admitted_cycles"] - work["served_cycles"]
            torch.testing.assert_close(work["backlog"].sum(dim=1), left, rtol=1e-9, atol=1.0)
            assert bool((work["arrived"] >= work["admitted"] + work["dropped"]).all())
        if full_j:
            held = carried["device"]["battery_j"].sum(dim=1)
            expected = full_j * 7 - used + carried["device"]["charged_j"].double()
            torch.testing.assert_close(held, expected, rtol=1e-4, atol=1e-3)


def _outcome(
    network: EdgeNetwork, allocation: Allocation, change: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    """What the coming slot would become, with all that is known of it changed alike."""
    unfolding = network.unfolding
    slot = unfolding.foreseen()
    more = {name: change(value) for name, value in slot.more.items()}
    assert slot.fading is not None
    own = Slot(change(slot.requests), change(slot.positions), change(slot.fading), more)
    state = NetworkState.of({name: change(value) for name, value in network.state.tensors().items()})
    cells = network.table.cells.expand(network.num_envs, -1)
    table = network.table._replace(cells=change(cells), published_homes=change(cells))
    decided = Allocation(*(change(value) for value in allocation))
    service, after, _ = served_slot(network.rules, unfolding.processes, table, state, own, decided)
    return {**service._asdict(), **after.tensors()}


def _same_in_any_order(network: EdgeNetwork, allocation: Allocation) -> None:
    users = network.scenario.num_users
    order = torch.randperm(users, generator=torch.Generator().manual_seed(int(network.slot)))

    def permuted(value: Tensor) -> Tensor:
        for axis in range(1, value.ndim):
            if value.shape[axis] == users:
                return value.index_select(axis, order)
        return value

    usual = _outcome(network, allocation, lambda value: value)
    for name, value in _outcome(network, allocation, permuted).items():
        torch.testing.assert_close(value, permuted(usual[name]), rtol=1e-4, atol=1e-4, msg=name)


def _same_alone(network: EdgeNetwork, allocation: Allocation) -> None:
    """One network at a time: what happens in one is of no concern to the others."""
    together = _outcome(network, allocation, lambda value: value)
    for row in range(network.num_envs):
        alone = _outcome(network, allocation, lambda value, row=row: value[row : row + 1])  # type: ignore[misc]
        for name, value in alone.items():
            torch.testing.assert_close(value, together[name][row : row + 1], rtol=1e-5, atol=1e-5, msg=name)

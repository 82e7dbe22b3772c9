"""Users' devices, the cloud's own cell and paths between servers: against arithmetic by hand and slow twins."""

import itertools
import math
from dataclasses import replace
from typing import Any

import gymnasium
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hadrl_lightning.agents import HADRL
from hadrl_lightning.agents.seen import ranges_of_view
from hadrl_lightning.baselines import OFFLOADING_POLICIES, best_known_policy, lower_bound
from hadrl_lightning.baselines.problem import expected_fading, offloading_problem, summed_latency
from hadrl_lightning.errors import HadrlError
from hadrl_lightning.play import home_equal, run_episode, task_cost
from hadrl_lightning.scenario import Scenario
from hadrl_lightning.simulator import (
    Allocation,
    EdgeNetwork,
    Service,
    Use,
    decode_offloading,
    equal_shares,
    make_generator,
    num_targets,
    offloading_view_of,
    to_vector,
    vector_size,
)

DEVICE = {"device_hz": 2e9, "kappa": 1e-27, "cloud_bandwidth_hz": 50e6}
SMALL: dict[str, Any] = {"num_servers": 2, "num_users": 3, "num_services": 4, "popularity": "zipf"}
check = settings(deadline=None, derandomize=True, max_examples=8)


def shipped(name: str) -> dict[str, Any]:
    """Processes of an overlay."""
    return Scenario.from_config(name).processes


def network_of(processes: dict[str, Any], seed: int = 1, num_envs: int = 2, **more: Any) -> EdgeNetwork:
    scenario = Scenario(**(SMALL | more), processes=processes)
    return EdgeNetwork(scenario, num_envs=num_envs, generator=make_generator(seed, Use.TEST_NETWORKS))


def half_cached(network: EdgeNetwork) -> Tensor:
    """Server 0 holds the services of even numbers, the others those of odd ones."""
    number = torch.arange(network.scenario.num_services)
    cache = torch.stack(
        [number % 2 == (0 if server == 0 else 1) for server in range(network.scenario.num_servers)]
    )
    return cache.expand_as(network.cache)


def served(network: EdgeNetwork, target: list[list[int]], shares: list[float] | None = None) -> Service:
    if network.frame_over:
        network.begin_frame(half_cached(network))
    server = torch.tensor(target)
    if shares is None:
        return network.step(equal_shares(network.scenario, server, network.dtype))
    share = torch.tensor(shares).expand(server.shape)
    return network.step(Allocation(server, share, share))


# Devices ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offloaded", [1.0, 0.6])
def test_tasks_on_the_device_at_a_server_and_in_the_cloud_take_what_they_take_by_hand(
    offloaded: float,
) -> None:
    network = network_of({"device": {**DEVICE, "offloaded_share": offloaded}}, num_envs=1)
    scenario, requests = network.scenario, network.requests[0].tolist()
    service = served(network, [[2, 0, 3]])
    power_w = 10 ** (scenario.transmit_power_dbm / 10) / 1000
    for user, target in enumerate((2, 0, 3)):
        bits, cycles = scenario.input_bits[requests[user]], scenario.cycles[requests[user]]
        efficiency = float(service.spectral_efficiency[0, user])
        if target == 2:
            latency, sending, at_home = cycles / 2e9, 0.0, cycles
        else:
            away = offloaded * bits, offloaded * cycles
            sending = away[0] / ((50e6 if target == 3 else scenario.bandwidth_hz) * efficiency)
            if target == 0 and requests[user] % 2 == 0:
                computing = away[1] / scenario.compute_hz
            else:
                computing = (
                    away[0] / scenario.cloud_rate_bit_per_s
                    + away[1] / scenario.cloud_compute_hz
                    + scenario.cloud_delay_s
                )
            at_home = cycles - away[1]
            latency = max(sending + computing, at_home / 2e9)
        energy = sending * power_w + at_home * 1e-27 * 2e9**2
        assert float(service.latency[0, user]) == pytest.approx(latency, rel=1e-5)
        assert float(service.energy[0, user]) == pytest.approx(energy, rel=1e-5)
        assert bool(service.hit[0, user]) == (target == 0 and requests[user] % 2 == 0)
        assert bool(service.on_time[0, user]) == (latency <= scenario.deadlines_s[requests[user]])
    assert service.bandwidth_load.tolist() == [[1.0, 0.0, 0.0, 1.0]]
    assert network.state.hit_counts.sum() == service.hit.sum()


def test_devices_need_no_share_and_the_clouds_cell_gives_no_more_than_it_has() -> None:
    network = network_of({"device": DEVICE}, num_envs=1)
    on_device = served(network, [[2, 2, 2]], [0.0, 1.0, 0.3]).latency[0]
    cycles = torch.tensor([network.scenario.cycles[k] for k in range(4)])
    assert bool((on_device[:, None] == cycles / 2e9).any(dim=1).all())
    with pytest.raises(ValueError, match=r"^bandwidth_share must sum to at most 1 on every server, got 2"):
        served(network, [[3, 3, 0]], [1.0, 1.0, 1.0])
    with pytest.raises(ValueError, match=r"^server must be from 0 to 3, got 0 to 4$"):
        served(network, [[4, 3, 0]], [0.1, 0.1, 0.1])


def test_an_action_is_read_as_one_of_all_targets() -> None:
    scenario = network_of({"device": DEVICE}).scenario
    assert num_targets(scenario) == 4
    action = torch.tensor([[-1.0, 0.2, 0.9, 0, 0, 0, 0, 0, 0]])
    assert decode_offloading(scenario, action).server.tolist() == [[0, 2, 3]]


def test_transmit_powers_of_users_are_those_of_their_links_and_energies() -> None:
    plain = network_of({"device": {**DEVICE}}, num_envs=1)
    louder = network_of({"device": {**DEVICE, "transmit_power_dbm": [20.0, 23.0, 10.0]}}, num_envs=1)
    one, other = (served(network, [[0, 0, 0]]) for network in (plain, louder))
    gain_db = torch.tensor([0.0, 3.0, -10.0])
    snr = (2**one.spectral_efficiency - 1) * 10 ** (gain_db / 10)
    torch.testing.assert_close(2**other.spectral_efficiency - 1, snr, rtol=1e-4, atol=0)
    sent = one.energy * one.spectral_efficiency * 10 ** (gain_db / 10)
    torch.testing.assert_close(other.energy * other.spectral_efficiency, sent, rtol=1e-4, atol=0)


@pytest.mark.parametrize("charge_w", [0.0, 0.05])
def test_what_batteries_give_is_what_tasks_take_and_what_was_charged(charge_w: float) -> None:
    device = {**DEVICE, "battery_j": 9.0, "charge_w": charge_w, "slot_s": 2.0, "empty_j": 0.5}
    network = network_of({"device": device}, decisions_per_episode=4)
    used, dropped, off = torch.zeros(2, 3), 0, 0
    while not network.episode_over:
        view: Any = network.offloading_view()
        empty = view.battery * 9.0 <= 0.5
        assert bool(((view.input_bits == 0) & (view.cycles == 0) == empty).all())
        service = served(network, [[2, 2, 0], [2, 2, 2]])
        assert bool((service.energy[empty] == 0).all())
        assert bool((service.latency[empty] == 10.0).all())
        assert not bool((service.on_time | service.hit)[empty].any())
        used, dropped, off = used + service.energy, dropped + int(empty.sum()), off + int(empty.any())
    carried = network.state.carried["device"]
    torch.testing.assert_close(
        carried["battery_j"].sum(dim=1),
        27.0 - used.double().sum(dim=1) + carried["charged_j"],
        rtol=1e-4,
        atol=1e-4,
    )
    assert int(carried["dropped"].sum()) == dropped > 0
    assert bool((carried["battery_j"] >= 0).all())
    if charge_w:
        assert off < 20  # they are on again in between
    else:
        assert float(carried["charged_j"].sum()) == 0


def test_devices_are_drawn_for_every_user_and_episode_and_seen() -> None:
    network = network_of({"device": {**DEVICE, "device_hz": {"low": 1e9, "high": 3e9}}})
    seen = []
    for _ in range(2):
        network.reset()
        view: Any = network.offloading_view()
        assert bool(((view.device_hz >= 1e9) & (view.device_hz <= 3e9)).all())
        seen.append(view.device_hz)
        assert view.is_device.int().tolist() == [[0, 0, 1, 0]] * 2
        assert view.is_cloud.int().tolist() == [[0, 0, 0, 1]] * 2
        assert view.cache.shape == (2, 4, 4)
    assert not torch.equal(*seen)
    kind = offloading_view_of(network.scenario)
    assert (
        to_vector(view).shape[1]
        == vector_size(kind, network.scenario)
        == 4 * 4 + 3 * 4 + 3 * 3 + 2 * 3 + 2 * 4
    )


def test_an_environment_with_devices_is_one() -> None:
    scenario = Scenario(**SMALL, processes=shipped("device.yaml") | shipped("hops.yaml"))
    for name in ("hadrl/ComputationOffloading-v0", "hadrl/EdgeNetwork-v0"):
        check_env(gymnasium.make(name, scenario=scenario).unwrapped, skip_render_check=True)


def test_devices_are_refused_where_the_physics_knows_servers_alone() -> None:
    scenario = Scenario(processes={"device": DEVICE})
    told = "^physics must be strict for tasks to go to the user's own device or the cloud, got published$"
    with pytest.raises(HadrlError, match=told):
        EdgeNetwork(scenario, "published")


@pytest.mark.parametrize("wanted", [{}, {"energy_j": 0.7}, {"latency_s": 0.2, "energy_j": 3.0}])
@pytest.mark.parametrize("split", [1.0, 0.5])
def test_the_best_known_decision_is_the_best_of_all(split: float, wanted: dict[str, float]) -> None:
    powers = {"low": 5.0, "high": 30.0}
    processes = {
        "device": {**DEVICE, "offloaded_share": split, "transmit_power_dbm": powers},
        "hops": {"delay_s": 0.2, "link_bit_per_s": 2e7},
    }
    sizes: dict[str, Any] = {"compute_hz": (3e9, 6e9), "bandwidth_hz": 5e6, "preferences": wanted}
    network = network_of(processes, num_envs=3, **sizes)
    network.begin_frame(half_cached(network))
    fading = expected_fading(network.scenario, network.positions, table=network.present)
    slot = (network.scenario, network.cache, network.requests, network.positions, fading)
    problem = offloading_problem(*slot, table=network.present)
    every = [
        summed_latency(problem, torch.tensor([one] * 3)) for one in itertools.product(range(4), repeat=3)
    ]
    least = torch.stack(every).amin(dim=0)
    found = best_known_policy(network)
    torch.testing.assert_close(summed_latency(problem, found.server), least)
    assert bool((lower_bound(*slot, table=network.present) <= least * (1 + 1e-6)).all())
    if split == 1:  # what the problem says is what is served, fading in expectation
        network.unfolding.serve = lambda: setattr(network.unfolding.slot, "fading", fading)  # type: ignore[method-assign]
        cost = task_cost(network.scenario.preferences, network.step(found)).sum(dim=1)
        torch.testing.assert_close(cost.double(), least, rtol=1e-4, atol=0)


# Paths --------------------------------------------------------------------------------------------------------------


def times(network: EdgeNetwork) -> Tensor:
    """Delay from every server to every other one, s."""
    delay = network.present.path_delay_s
    assert delay is not None
    return delay[0]


@pytest.mark.parametrize(
    ("topology", "hops"),
    [
        ("full", [0, 1, 1, 1, 1]),
        ("ring", [0, 1, 2, 2, 1]),
        ("line", [0, 1, 2, 3, 4]),
        ("star", [0, 1, 1, 1, 1]),
    ],
)
def test_paths_have_the_links_that_the_topology_leaves(topology: str, hops: list[int]) -> None:
    setting = {"topology": topology, "delay_s": 0.1, "delay_s_per_km": 0.0, "link_bit_per_s": 1e6}
    network = network_of({"hops": setting}, num_servers=5)
    torch.testing.assert_close(times(network)[0], torch.tensor(hops).double() * 0.1)
    each = network.present.path_s_per_bit
    assert each is not None
    torch.testing.assert_close(each[0, 0], torch.tensor(hops).double() * 1e-6)
    if topology == "star":
        assert float(times(network)[1, 2]) == pytest.approx(0.2)
    torch.testing.assert_close(times(network), times(network).T)


def test_the_nearest_servers_are_joined_and_what_is_apart_by_the_shortest_links() -> None:
    points = ((0.0, 0.0), (100.0, 0.0), (5000.0, 0.0), (5100.0, 0.0))
    setting = {"neighbours": 1, "delay_s": 0.0, "delay_s_per_km": 1.0}
    network = network_of({"hops": setting}, num_servers=4, server_positions_m=points)
    along = torch.tensor([0.0, 0.1, 5.0, 5.1]).double()
    torch.testing.assert_close(times(network), (along[:, None] - along).abs())


def test_listed_links_have_rates_and_delays_of_their_own_and_the_quicker_way_is_taken() -> None:
    links = [[0, 1, 1e9, 0.5], [1, 2], [0, 2, 1e3]]
    setting = {"links": links, "delay_s": 0.1, "delay_s_per_km": 0.0, "link_bit_per_s": 1e9}
    network = network_of({"hops": setting}, num_servers=3)
    expected = torch.tensor([[0.0, 0.5, 0.6], [0.5, 0.0, 0.1], [0.6, 0.1, 0.0]]).double()
    torch.testing.assert_close(times(network), expected)  # straight from 0 to 2 a task would take hours


@given(st.integers(1, 7), st.integers(1, 3), st.integers(0, 100))
@check
def test_paths_are_the_quickest_ones_of_a_slow_search(servers: int, neighbours: int, seed: int) -> None:
    draw = make_generator(seed, Use.TEST_NETWORKS)
    points = tuple(map(tuple, (2000 * torch.rand(servers, 2, generator=draw)).tolist()))
    setting = {"neighbours": neighbours, "delay_s": 0.01, "delay_s_per_km": 0.2}
    network = network_of({"hops": setting}, num_servers=servers, server_positions_m=points)
    found, process = times(network), network.unfolding.processes["hops"]
    metres = torch.cdist(torch.tensor(points).double()[None], torch.tensor(points).double()[None])
    joined = process._joined(metres)[0]  # type: ignore[attr-defined]
    each = (
        1
        / 1e9
        * sum(
            bits * chance
            for bits, chance in zip(
                network.scenario.input_bits, network.scenario.popularity_vector, strict=True
            )
        )
    )
    for start in range(servers):  # Bellman and Ford, link by link
        best = [0.0 if server == start else math.inf for server in range(servers)]
        delay = list(best)
        for _ in range(servers):
            for one, other in itertools.product(range(servers), repeat=2):
                if joined[one, other]:
                    own = 0.01 + 0.2 * float(metres[0, one, other]) / 1000
                    if best[one] + own + each < best[other] - 1e-12:
                        best[other], delay[other] = best[one] + own + each, delay[one] + own
        assert found[start].tolist() == pytest.approx(delay, abs=1e-5)


def test_a_task_that_is_served_elsewhere_takes_the_path_and_one_at_home_does_not() -> None:
    setting = {"delay_s": 0.25, "delay_s_per_km": 0.0, "link_bit_per_s": 1e8, "topology": "line"}
    plain, apart = (network_of(one, num_servers=3, num_envs=1) for one in ({}, {"hops": setting}))
    target, homes = [[0, 0, 0]], apart.homes[0].tolist()
    one, other = (served(network, target) for network in (plain, apart))
    view: Any = network_of({"hops": setting}, num_servers=3, num_envs=1).offloading_view()
    for user, home in enumerate(homes):
        bits = apart.scenario.input_bits[int(view.requests[0, user])]
        path = home * (0.25 + bits / 1e8)
        assert float(other.latency[0, user] - one.latency[0, user]) == pytest.approx(path, rel=1e-4, abs=1e-5)
        assert float(view.path_s[0, user, 0]) == pytest.approx(path, rel=1e-5)
    assert homes == [0, 1, 2]


def test_paths_begin_at_the_home_that_a_user_has_on_its_way() -> None:
    fast = {"moving_users": {"least_speed_m_per_s": 40.0, "largest_speed_m_per_s": 60.0, "pause_s": 0.0}}
    processes = {**shipped("mobile.yaml"), **fast, "hops": {"delay_s": 1.0}}
    network, changed = network_of(processes, num_servers=3, num_users=12), 0
    began = network.homes
    while not network.episode_over:
        if network.frame_over:
            network.begin_frame(half_cached(network))
        view: Any = network.offloading_view()
        at_home = view.path_s.gather(-1, network.homes.unsqueeze(-1))
        assert float(at_home.abs().max()) == 0
        assert int((view.path_s == 0).sum()) == network.homes.numel()
        changed += int((network.homes != began).sum())
        network.step(home_equal(network))
    assert changed > 0


def test_links_that_leave_a_server_apart_are_refused() -> None:
    told = r"^processes\.hops: links must join all servers, got no way from server 0 to server 2$"
    with pytest.raises(HadrlError, match=told):
        network_of({"hops": {"links": [[0, 1]]}}, num_servers=3)
    with pytest.raises(
        HadrlError, match=r"^processes\.hops: links must be of servers from 0 to 1, got \[0.0, 2.0\]$"
    ):
        network_of({"hops": {"links": [[0.0, 2.0]]}})


# Together -----------------------------------------------------------------------------------------------------------


def test_a_world_of_devices_and_paths_goes_on_from_a_saved_state_to_the_bit() -> None:
    processes = shipped("device.yaml") | shipped("hops.yaml")
    processes["device"] = {**processes["device"], "battery_j": 5.0, "charge_w": 0.5}
    here, there = (network_of(processes, seed=seed) for seed in (0, 1))

    def frame(network: EdgeNetwork) -> list[Tensor]:
        found = []
        for target in ([[2, 3, 1], [2, 2, 2]],) * 5:
            service = served(network, target)
            found += [service.latency, service.energy, network.offloading_observation()]
        return found

    frame(here)
    there.load_state_dict(here.state_dict())
    for mine, theirs in zip(frame(here), frame(there), strict=True):
        assert torch.equal(mine, theirs)


def test_users_in_another_order_get_the_same() -> None:
    hz, power = [1e9, 2e9, 3e9], [10.0, 20.0, 23.0]
    order = torch.tensor([2, 0, 1])

    def told(index: Tensor) -> dict[str, Any]:
        own = {"device_hz": [hz[i] for i in index], "transmit_power_dbm": [power[i] for i in index]}
        return {"device": {**DEVICE, **own, "offloaded_share": 0.7}, "hops": {"delay_s": 0.1}}

    points = [(10.0, 40.0), (250.0, 30.0), (320.0, -80.0)]
    target = torch.tensor([0, 3, 1])
    found = []
    for index in (torch.arange(3), order):
        placed = tuple(points[i] for i in index)
        network = network_of(told(index), num_envs=1, user_positions_m=placed)
        slot = network.unfolding.slot
        slot.requests = torch.tensor([[0, 2, 3]])[:, index]
        fading = torch.tensor([[0.5, 1.0, 1.5]])[:, index]
        network.unfolding.serve = lambda slot=slot, fading=fading: setattr(slot, "fading", fading)  # type: ignore[method-assign,misc]
        found.append(served(network, [target[index].tolist()]))
    for name in ("latency", "energy", "hit", "on_time"):
        one, other = (getattr(service, name) for service in found)
        torch.testing.assert_close(one[:, order], other)


def test_devices_and_paths_are_in_networks_of_every_size() -> None:
    ranges: dict[str, Any] = {
        "num_servers": {"low": 1, "high": 5},
        "num_users": {"low": 1, "high": 9},
        "num_services": {"low": 3, "high": 6},
        "popularity": {"low": 0.1, "high": 1.0},
        "decisions_per_episode": 1,
    }
    scenario = Scenario.from_dict({**ranges, "processes": shipped("device.yaml") | shipped("hops.yaml")})
    network = EdgeNetwork(scenario, num_envs=3, generator=make_generator(0, Use.TEST_NETWORKS))
    for seed in range(3):
        for name in ("random", "best_known", "least_loaded_sqrt", "all_cloud"):
            policy = OFFLOADING_POLICIES[name](scenario, make_generator(seed, Use.TEST_NETWORKS))
            episode = run_episode(network, half_cached, policy)
            assert episode.latency.isfinite().all()
            assert (episode.energy >= 0).all()


OUT_OF_RANGE = [
    ("device", "device_hz", 0, "must be at least 1000, got 0"),
    ("device", "device_hz", "fast", "must be a finite number, got 'fast'"),
    (
        "device",
        "device_hz",
        {"low": 2e9, "high": 1e9},
        "must have a high that is no less than its low, got .*",
    ),
    ("device", "device_hz", None, "must be a finite number, got None"),
    ("device", "device_hz", 10**400, "must be a finite number, got inf"),
    ("device", "transmit_power_dbm", {"low": 2}, "must be a range of a low and a high alone, got .*"),
    ("hops", "links", [[0, 1], [1, 0, 1e6]], "must join two servers once, got .1, 0, 1000000.0. as well"),
    ("hops", "links", [[0, 1, -1.0]], ".third number. must be at least 1, got -1"),
    ("device", "transmit_power_dbm", 500, "must be at most 200, got 500"),
    ("device", "kappa", -1, "must be at least 0, got -1"),
    ("device", "offloaded_share", 0, "must be at least 0.001, got 0"),
    ("device", "offloaded_share", 1.5, "must be at most 1, got 1.5"),
    ("device", "cloud_bandwidth_hz", 0, "must be at least 1, got 0"),
    ("device", "battery_j", 0.5, "must be 0 or more than empty_j = 1, got 0.5"),
    ("device", "charge_w", -1, "must be at least 0, got -1"),
    ("device", "slot_s", 0, "must be at least 1e-06, got 0"),
    ("device", "dropped_s", 0, "must be at least 1e-06, got 0"),
    ("hops", "topology", "tree", "must be one of nearest, full, ring, line, star, got 'tree'"),
    ("hops", "neighbours", 0, "must be at least 1, got 0"),
    ("hops", "link_bit_per_s", 0, "must be at least 1, got 0"),
    ("hops", "delay_s", -1, "must be at least 0, got -1"),
    ("hops", "delay_s_per_km", float("inf"), "must be a finite number, got inf"),
    ("hops", "links", [[0, 0]], "must be of two different servers, .*, got .0, 0."),
    ("hops", "links", [[0]], "must be of two different servers, .*, got .0."),
]


@pytest.mark.unchecked
@pytest.mark.parametrize(("name", "setting", "value", "told"), OUT_OF_RANGE)
def test_a_setting_out_of_range_is_refused_by_name(name: str, setting: str, value: Any, told: str) -> None:
    with pytest.raises(HadrlError, match=rf"^processes\.{name}\.{setting} {told}$"):
        EdgeNetwork(Scenario(processes={name: {setting: value}}))


def test_what_a_device_drops_is_not_delayed_by_a_handover_whichever_is_named_first() -> None:
    device = {"device": {**DEVICE, "battery_j": 1.5, "dropped_s": 7.0}}
    fast = {"moving_users": {"least_speed_m_per_s": 60.0, "largest_speed_m_per_s": 90.0, "pause_s": 0.0}}
    walk = {**fast, "handover": {"handover_s": 3.0, "hysteresis_db": 0.0}}
    found, on_device = [], torch.full((2, 12), 3)
    for processes in ({**device, **walk}, {**walk, **device}):
        network = network_of(processes, num_servers=3, num_users=12)
        episode = run_episode(
            network, half_cached, lambda network: equal_shares(network.scenario, on_device, network.dtype)
        )
        found.append(episode.latency)
    assert torch.equal(*found)
    assert bool((found[0] == 7.0).any())
    assert not bool((found[0] == 10.0).any())


def test_an_agent_believes_something_of_devices_too_and_places_by_what_it_believes_of_servers() -> None:
    agent = HADRL(Scenario(**SMALL, processes=shipped("device.yaml")))
    network = EdgeNetwork(agent.scenario, num_envs=2, generator=make_generator(0, Use.TEST_NETWORKS))
    for _ in range(6):
        if network.frame_over:
            network.begin_frame(agent.place(network.caching_view()))
        view = network.offloading_view()
        allocation = agent.decide(view)
        agent.learn(view, allocation, network.step(allocation).latency, adapt="heads")
    assert agent._adaptation is not None
    factor = agent._adaptation.log_factor(network.offloading_view())
    assert factor is not None
    assert factor.shape[:2] == (2, 4)
    assert ranges_of_view(network.offloading_view(), "strict")["num_servers"] == (2.0, 2.0)
    assert ranges_of_view(network.offloading_view(), "strict")["compute_hz"] == pytest.approx((60e9, 60e9))


@pytest.mark.unchecked
def test_an_agent_of_another_world_is_refused_by_what_it_does_not_see() -> None:
    told = "^weights must be an agent of this world, where views show path_s more and nothing less, got "
    with pytest.raises(HadrlError, match=told):
        HADRL(Scenario(**SMALL, processes=shipped("hops.yaml"))).load_weights("hadrl.ckpt")
    HADRL(Scenario(**SMALL, processes=shipped("drift.yaml"))).load_weights("hadrl.ckpt")


def test_paths_of_the_view_begin_where_the_physics_has_users_homes() -> None:
    scenario = replace(Scenario.from_config("es4.yaml"), processes={"hops": {"delay_s": 1.0}})
    network = EdgeNetwork(scenario, "published", generator=make_generator(0, Use.TEST_NETWORKS))
    view: Any = network.offloading_view()
    assert float(view.path_s.gather(-1, network.homes.unsqueeze(-1)).abs().max()) == 0
    assert not torch.equal(network.table.cells, network.table.published_homes)


def test_phones_report_by_their_power_from_the_first_slot_on() -> None:
    channel = {"correlated_channel": {"path_loss": "scenario", "speed_m_per_s": 0.0, "slot_s": 1.0}}
    points = tuple((100.0 + 40 * user, 60.0) for user in range(3))
    found = []
    for power in (-30.0, -10.0):
        device = {"device": {**DEVICE, "transmit_power_dbm": power}}
        network = network_of({**channel, **device}, user_positions_m=points)
        first: Any = network.offloading_view()
        served(network, [[0, 0, 0]] * 2)
        second: Any = network.offloading_view()
        assert torch.equal(first.spectral_efficiency, second.spectral_efficiency)  # nobody moves
        found.append(first.spectral_efficiency)
    assert bool((found[0] < found[1]).all())


def test_a_process_that_is_none_is_off() -> None:
    assert Scenario(processes={"hops": {}, "device": None}).processes == {"hops": {}}


def test_settings_that_are_listed_must_be_of_every_user() -> None:
    told = r"^processes\.device: device_hz must have num_users = 3 values, got 2$"
    with pytest.raises(HadrlError, match=told):
        network_of({"device": {**DEVICE, "device_hz": [1e9, 2e9]}})


def test_every_setting_changes_something() -> None:
    changes: dict[str, list[dict[str, Any]]] = {
        "device": [
            {"device_hz": 3e9},
            {"kappa": 1e-26},
            {"transmit_power_dbm": 10.0},
            {"offloaded_share": 0.5},
            {"cloud_bandwidth_hz": 1e6},
            {"battery_j": 40.0},
            {"charge_w": 5.0},
            {"slot_s": 5.0},
            {"empty_j": 5.0},
            {"dropped_s": 3.0},
        ],
        "hops": [
            {"topology": "star"},
            {"neighbours": 1},
            {"links": [[0, 1], [1, 2], [2, 3]]},
            {"link_bit_per_s": 1e7},
            {"delay_s": 0.3},
            {"delay_s_per_km": 0.5},
        ],
    }
    usual = {"device": {**DEVICE, "battery_j": 8.0, "charge_w": 0.2}, "hops": {"topology": "nearest"}}

    def played(processes: dict[str, Any]) -> tuple[float, float]:
        network = network_of(processes, num_servers=4, num_users=6, decisions_per_episode=3)
        target = torch.tensor([2, 1, 3, 0, 4, 5]).expand(2, -1)
        episode = run_episode(
            network, half_cached, lambda network: equal_shares(network.scenario, target, network.dtype)
        )
        return float(episode.latency.sum()), float(episode.energy.sum())

    before = played(usual)
    for name, settings_of in changes.items():
        for change in settings_of:
            assert played({**usual, name: {**usual[name], **change}}) != before, change

"""Users who move, handovers and a channel with memory; users' devices, the cloud's own cell and paths between servers:
against formulas, arithmetic by hand and slow twins.
"""

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
from hadrl_lightning.agents.seen import ranges_of_scenario, ranges_of_view
from hadrl_lightning.baselines import (
    OFFLOADING_POLICIES,
    best_known_policy,
    expected_fading,
    hindsight_policy,
    lower_bound,
)
from hadrl_lightning.baselines.problem import offloading_problem, summed_latency
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
    to_vector,
    vector_size,
)
from hadrl_lightning.simulator.constants import constants
from hadrl_lightning.simulator.fields import USER, fields_of
from hadrl_lightning.simulator.processes import CorrelatedChannel, MovingUsers, World, processes_of
from hadrl_lightning.simulator.processes.channel import (
    CQI_EFFICIENCY,
    quantised,
    sight_chance,
    tr38901_loss_db,
)
from hadrl_lightning.simulator.processes.moving import _mean_way
from hadrl_lightning.simulator.unfolding import offloading_view_of
from hadrl_lightning.simulator.views import OffloadingView
from hadrl_lightning.typed import as_floats

MOBILE = Scenario.from_config("mobile.yaml").processes
CHANNEL = {
    name: {setting: as_floats(value) for setting, value in chosen.items()}
    for name, chosen in Scenario.from_config("channel.yaml").processes.items()
}
FAST = {"moving_users": {"least_speed_m_per_s": 10.0, "largest_speed_m_per_s": 40.0, "pause_s": 2.0}}
WORLDS: dict[str, dict[str, Any]] = {
    "mobile": MOBILE | FAST,
    "markov": MOBILE | {"moving_users": {"model": "gauss_markov", "mean_speed_m_per_s": 20.0}},
    "alone": CHANNEL,
    "channel": CHANNEL | {"handover": MOBILE["handover"]},
    "both": MOBILE | FAST | CHANNEL,
}
OF_USERS = [one for one in fields_of(OffloadingView) if one.axes == (USER,)]
check = settings(deadline=None, derandomize=True, max_examples=6)


def network_of(processes: dict[str, Any], seed: int = 1, name: str = "es3.yaml", **more: Any) -> EdgeNetwork:
    physics, num_envs = more.pop("physics", "strict"), more.pop("num_envs", 2)
    scenario = replace(Scenario.from_config(name), processes=processes, **more)
    return EdgeNetwork(scenario, physics, num_envs, generator=make_generator(seed, Use.TEST_NETWORKS))


def world_of(scenario: Scenario, num_envs: int) -> World:
    cpu = torch.device("cpu")
    return World(scenario, constants(scenario, cpu, torch.float64), num_envs, cpu, torch.float64)


def correlation(one: Tensor, other: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1])


# Where users are ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pause_s", [0.0, 30.0])
def test_waypoints_begin_in_their_stationary_distribution_and_stay_in_it(pause_s: float) -> None:
    speeds = {"least_speed_m_per_s": 2.0, "largest_speed_m_per_s": 8.0}
    process = MovingUsers(slot_s=7.0, area_m=(0.0, 0.0, 300.0, 200.0), pause_s=pause_s, **speeds)
    world = world_of(Scenario(num_users=100), 100)
    generator = torch.Generator().manual_seed(0)
    memory = process.initial(world, generator)
    # A way takes E[length] E[1 / speed]; E[1 / speed] = ln(8 / 2) / (8 - 2); pauses are their share of all time.
    way_s = float(_mean_way(torch.tensor(300.0).double(), torch.tensor(200.0).double())) * math.log(4) / 6
    pausing = pause_s / (way_s + pause_s)
    # Where users are on the way, speeds have density ~ 1 / v on [2, 8]: the mean is 6 / ln 4.
    found = []
    for slot in range(9):
        speed, at = memory["speed"], memory["positions"]
        if slot in (0, 8):
            assert float((speed == 0).double().mean()) == pytest.approx(pausing, abs=0.015)
            assert float(speed[speed > 0].mean()) == pytest.approx(6 / math.log(4), rel=0.02)
            found.append((at - torch.tensor([150.0, 100.0])).square().mean(dim=(0, 1)))
        assert bool(((at >= 0) & (at <= torch.tensor([300.0, 200.0]))).all())
        before, memory = memory, process.advance(world, memory, generator)
        straight = (memory["positions"] - at).norm(dim=-1)
        assert bool((straight <= memory["path_m"] + 1e-3).all())
        assert float(memory["path_m"].max()) <= 7 * 8 + 1e-3
        assert not torch.equal(before["positions"], memory["positions"])
    torch.testing.assert_close(found[0], found[1], rtol=0.04, atol=0)
    assert pause_s or float(found[0][0]) < 0.8 * 300**2 / 12  # more in the middle than uniform


def test_the_mean_way_of_a_square_is_that_of_the_books() -> None:
    one = torch.ones(1, dtype=torch.float64)
    assert float(_mean_way(one, one)) == pytest.approx(
        (2 + math.sqrt(2) + 5 * math.log(1 + math.sqrt(2))) / 15
    )


def test_velocities_remember_themselves_as_they_are_set_to_and_places_stay_uniform() -> None:
    process = MovingUsers(
        model="gauss_markov",
        area_m=(-1e6, -1e6, 1e6, 1e6),
        memory=0.8,
        mean_speed_m_per_s=3.0,
        deviation_m_per_s=2.0,
    )
    world, generator = world_of(Scenario(num_users=100), 100), torch.Generator().manual_seed(0)
    memory = first = process.initial(world, generator)
    for _ in range(3):
        memory = process.advance(world, memory, generator)
    noise = [one["velocity"] - one["mean"] for one in (first, memory)]
    assert correlation(*noise) == pytest.approx(0.8**3, abs=0.02)
    assert float(noise[1].std()) == pytest.approx(2, rel=0.02)
    torch.testing.assert_close(memory["mean"].norm(dim=-1), torch.full((100, 100), 3.0))
    small = replace(process, area_m=(0.0, 0.0, 50.0, 40.0), slot_s=9.0)
    memory = small.initial(world, generator)
    for _ in range(4):
        memory = small.advance(world, memory, generator)
    at = memory["positions"].float()
    assert bool(((at >= 0) & (at <= torch.tensor([50.0, 40.0]))).all())
    torch.testing.assert_close(at.mean(dim=(0, 1)), torch.tensor([25.0, 20.0]), rtol=0.03, atol=0)
    torch.testing.assert_close(at.var(dim=(0, 1)), torch.tensor([50.0**2, 40.0**2]) / 12, rtol=0.03, atol=0)


# What the channel is ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "apart", "blocked", "expected"),
    [
        # 3.5 GHz (log10 0.544068, times 20: 10.88136), users at 1.5 m. UMi: servers at 10 m, d_BP = 4 * 9 * 0.5 * 3.5e9
        # / 3e8 = 210 m. At 100 m d_3D = sqrt(100^2 + 8.5^2) = 100.3606, log10 2.001563: 32.4 + 21 * 2.001563 + 10.88136
        ("umi", 100.0, False, 85.31419),
        # 22.4 + 35.3 * 2.001563 + 21.3 * 0.544068 - 0.3 * 0, above the line-of-sight loss
        ("umi", 100.0, True, 104.64383),
        # At 400 m d_3D = 400.0903, log10 2.602158: 32.4 + 40 * 2.602158 + 10.88136 - 9.5 * 4.645150, which is
        # log10(210^2 + 8.5^2)
        ("umi", 400.0, False, 103.23876),
        # UMa: servers at 25 m, d_BP = 4 * 24 * 0.5 * 3.5e9 / 3e8 = 560 m. At 100 m d_3D = sqrt(100^2 + 23.5^2) =
        # 102.7241, log10 2.011673: 28 + 22 * 2.011673 + 10.88136
        ("uma", 100.0, False, 83.13816),
        # 13.54 + 39.08 * 2.011673 + 10.88136 - 0.6 * 0
        ("uma", 100.0, True, 103.03752),
        # At 1 km d_3D = 1000.2761, log10 3.000120: 28 + 40 * 3.000120 + 10.88136 - 9 * 5.497140, which is
        # log10(560^2 + 23.5^2)
        ("uma", 1000.0, False, 109.41189),
    ],
)
def test_path_losses_are_those_of_the_standard_worked_out_by_hand(
    kind: Any, apart: float, blocked: bool, expected: float
) -> None:
    server_m = {"umi": 10.0, "uma": 25.0}[kind]
    given_ = torch.tensor([apart], dtype=torch.float64), torch.tensor([blocked])
    assert float(tr38901_loss_db(kind, *given_, 3.5e9, server_m, 1.5)) == pytest.approx(expected, abs=1e-5)


def test_line_of_sight_has_the_chance_of_the_standard() -> None:
    apart = torch.tensor([10.0, 18.0, 50.0, 100.0], dtype=torch.float64)
    # UMi, 50 m: 18/50 + exp(-50/36) (1 - 18/50) = 0.36 + 0.249352 * 0.64; UMa, 100 m: 0.18 + exp(-100/63) * 0.82
    umi, uma = sight_chance("umi", apart), sight_chance("uma", apart)
    assert umi[:2].tolist() == uma[:2].tolist() == [1.0, 1.0]
    assert float(umi[2]) == pytest.approx(0.519585, abs=1e-6)
    assert float(uma[3]) == pytest.approx(0.347671, abs=1e-6)


def bessel_j0(x: float) -> float:
    """By its integral, (1 / pi) int_0^pi cos(x sin t) dt."""
    steps = 2000
    return sum(math.cos(x * math.sin(math.pi * (i + 0.5) / steps)) for i in range(steps)) / steps


@pytest.mark.parametrize("path_m", [0.0, 0.02, 0.06])
def test_fading_is_rayleigh_and_remembers_by_the_way_over_the_wavelength(path_m: float) -> None:
    process = CorrelatedChannel(speed_m_per_s=path_m, slot_s=1.0)
    world = world_of(Scenario(num_users=100), 200)
    world = world._replace(brought={"positions": torch.zeros(200, 100, 2)})
    generator = torch.Generator().manual_seed(0)
    first = process.initial(world, generator)
    second = process.advance(world, first, generator)
    j0 = bessel_j0(2 * math.pi * path_m * 3.5e9 / 3e8)
    assert correlation(first["wave"], second["wave"]) == pytest.approx(j0, abs=0.02)
    for fading in (first["fading"], second["fading"]):
        assert float(fading.mean()) == pytest.approx(math.sqrt(math.pi / 2), rel=0.01)
        assert float(fading.square().mean()) == pytest.approx(2, rel=0.02)
    assert torch.equal(first["link_loss_db"], second["link_loss_db"])  # who stands still keeps the shadow


@pytest.mark.parametrize(("kind", "way_m"), [("scenario", 30.0), ("umi", 8.0), ("uma", 8.0)])
def test_shadows_remember_by_the_distance_and_sight_by_its_own(kind: Any, way_m: float) -> None:
    process = CorrelatedChannel(path_loss=kind, decorrelation_m=20.0, shadowing_db=6.0)
    world, generator = world_of(Scenario(num_users=100), 100), torch.Generator().manual_seed(0)
    at = torch.full((100, 100, 2), 60.0, dtype=torch.float64)
    first = process.initial(world._replace(brought={"positions": at}), generator)
    moved = at + torch.tensor([0.0, way_m])
    second = process.advance(world._replace(brought={"positions": moved}), first, generator)
    assert correlation(first["shadow"], second["shadow"]) == pytest.approx(math.exp(-way_m / 20), abs=0.02)
    assert correlation(first["clearance"], second["clearance"]) == pytest.approx(
        math.exp(-way_m / 50), abs=0.02
    )
    deviation = (first["link_loss_db"] - 6 * first["shadow"])[..., 0]
    losses = deviation.unique()
    losses = losses[torch.cat([torch.tensor([True]), losses.diff() > 1e-6])]
    if kind == "scenario":
        away = math.hypot(60 - 100, 60) / 1000
        assert losses.tolist() == pytest.approx([128.1 + 37.6 * math.log10(away)])
    else:  # in sight of the server, or not
        apart = torch.tensor([math.hypot(60 - 100, 60)], dtype=torch.float64)
        height = {"umi": 10.0, "uma": 25.0}[kind]
        both = [
            float(tr38901_loss_db(kind, apart, torch.tensor([state]), 3.5e9, height, 1.5))
            for state in (False, True)
        ]
        assert losses.tolist() == pytest.approx(both)
        share = float((deviation < sum(both) / 2).double().mean())
        assert share == pytest.approx(float(sight_chance(kind, apart)), abs=0.015)


def test_reports_are_the_indicators_of_the_table_rounded_down() -> None:
    # 16QAM 378/1024 * 4 = 1.4766; 64QAM 948/1024 * 6 = 5.5547 (TS 38.214, Table 5.2.2.1-2)
    rates = [78, 120, 193, 308, 449, 602]
    assert CQI_EFFICIENCY[1:7] == pytest.approx([2 * rate / 1024 for rate in rates], abs=5e-5)
    assert CQI_EFFICIENCY[7:10] == pytest.approx([4 * rate / 1024 for rate in (378, 490, 616)], abs=5e-5)
    last = [6 * rate / 1024 for rate in (466, 567, 666, 772, 873, 948)]
    assert CQI_EFFICIENCY[10:] == pytest.approx(last, abs=5e-5)
    shown = quantised(torch.tensor([1e-6, 0.16, 1.9141, 3.0, 40.0], dtype=torch.float64))
    assert shown.tolist() == pytest.approx([0.1523 / 2, 0.1523, 1.9141, 2.7305, 5.5547])


# What becomes of it --------------------------------------------------------------------------------------------------


def twin_latency(
    scenario: Scenario, network: EdgeNetwork, allocation: Allocation, before: dict[str, Any] | None
) -> list[list[float]]:
    """Latencies of the slot that was just drawn, by loops over plain numbers; `before`: of the slot before."""
    memory = network.unfolding.memory
    at, fading = memory["moving_users"]["positions"], memory["correlated_channel"]["fading"]
    loss, homes = memory["correlated_channel"]["link_loss_db"], memory["handover"]["homes"]
    channel, handover = (scenario.processes[name] for name in ("correlated_channel", "handover"))
    noise_mw = 10 ** (scenario.noise_dbm / 10)
    noise_mw *= 1 + channel["load"] * 10 ** (channel["interference_over_noise_db"] / 10)
    found = []
    for b in range(len(at)):
        row = []
        for u in range(scenario.num_users):
            links = [float(loss[b, u, s]) for s in range(scenario.num_servers)]
            best = min(range(scenario.num_servers), key=lambda s: links[s])
            home, changed = best, False
            if before is not None:
                home = int(before["homes"][b, u])
                if links[home] - links[best] > handover["hysteresis_db"]:
                    home, changed = best, True
            assert (home, changed) == (int(homes[b, u]), bool(memory["handover"]["handed_over"][b, u]))
            signal_mw = float(fading[b, u]) * 10 ** ((scenario.transmit_power_dbm - links[home]) / 10)
            server, k = int(allocation.server[b, u]), int(network.requests[b, u])
            rate = float(allocation.bandwidth_share[b, u]) * scenario.bandwidth_per_server_hz[server]
            seconds = scenario.input_bits[k] / (rate * math.log2(1 + signal_mw / noise_mw))
            share = float(allocation.compute_share[b, u])
            seconds += scenario.cycles[k] / (share * scenario.compute_per_server_hz[server])
            row.append(seconds + (handover["handover_s"] if changed else 0.0))
        found.append(row)
    return found


@pytest.mark.parametrize("physics", ["strict", "published"])
def test_a_scalar_twin_serves_users_who_move_through_a_channel_with_memory_alike(physics: Any) -> None:
    network = network_of(WORLDS["both"], name="es4.yaml", physics=physics)
    scenario = network.scenario
    network.begin_frame(torch.ones_like(network.cache))
    before, total = None, 0
    for _ in range(5):
        allocation = home_equal(network)
        assert torch.equal(allocation.server, network.unfolding.memory["handover"]["homes"])
        expected = twin_latency(scenario, network, allocation, before)
        before = dict(network.unfolding.memory["handover"])
        total += int(before["handed_over"].sum())
        latency = network.step(allocation).latency
        torch.testing.assert_close(latency, torch.tensor(expected), rtol=2e-4, atol=0)
    assert float(network.state.carried["handover"]["handovers"].sum()) == total > 0


def test_phones_report_the_slot_before_to_both_levels() -> None:
    network = network_of(WORLDS["both"])
    network.begin_frame(torch.ones_like(network.cache))
    for _ in range(3):
        network.step(home_equal(network))
        homes = network.homes
    service = network.step(home_equal(network))
    view = network.offloading_view()
    stays = network.homes == homes
    torch.testing.assert_close(
        view.spectral_efficiency[stays], quantised(service.spectral_efficiency)[stays], rtol=1e-4, atol=0
    )
    known = torch.tensor([*CQI_EFFICIENCY[1:], CQI_EFFICIENCY[1] / 2])
    assert bool((view.spectral_efficiency.unsqueeze(-1) - known).abs().amin(dim=-1).max() < 1e-6)
    harmonic = 30 / (1 / view.spectral_efficiency).sum(dim=1)
    torch.testing.assert_close(network.caching_view().spectral_efficiency, harmonic)
    assert torch.equal(view.home, network.homes)
    assert torch.equal(view.speed, network.unfolding.slot.more["speed"])


def test_every_yardstick_goes_by_the_links_and_homes_of_the_slot() -> None:
    network = network_of(WORLDS["both"], num_users=12)
    network.begin_frame(torch.ones_like(network.cache))
    for _ in range(4):
        network.step(home_equal(network))
    table = network.present
    fading = expected_fading(network.scenario, network.positions, table=table)
    found = {}
    saved = network.state_dict()
    for name in ("home_equal", "least_loaded_sqrt", "genetic", "best_known", "hindsight"):
        policy = OFFLOADING_POLICIES[name](network.scenario, torch.Generator().manual_seed(0))
        allocation = policy(network)
        expected = network.rules.serve(
            table, network.cache, network.requests, network.positions.double(), fading.double(), allocation
        )
        network.step(allocation)
        found[name] = float(expected.latency.sum())
        network.load_state_dict(saved)
    assert found["best_known"] <= 1.0001 * min(found.values())
    assert found["best_known"] < 0.9 * found["home_equal"]
    served = [network.step(best_known_policy(network)).latency.sum()]
    network.load_state_dict(saved)
    served.append(network.step(hindsight_policy(network)).latency.sum())
    assert served[1] < served[0]


def test_a_channel_of_the_scenarios_loss_without_shadow_changes_nothing_but_what_phones_report() -> None:
    plain = {"path_loss": "scenario", "shadowing_db": 0.0, "load": 0.0}
    with_channel, without = (
        network_of(MOBILE | processes) for processes in ({"correlated_channel": plain}, {})
    )
    for name in ("cells", "published_homes"):
        assert torch.equal(getattr(with_channel.present, name), getattr(without.present, name))
    assert torch.equal(with_channel.positions, without.positions)
    fading = torch.ones(2, 30, dtype=torch.float64)
    links = [
        network.rules.serve(
            network.present,
            network.cache,
            network.requests,
            network.positions.double(),
            fading,
            home_equal(network),
        ).spectral_efficiency
        for network in (with_channel, without)
    ]
    torch.testing.assert_close(links[0], links[1], rtol=1e-5, atol=0)


# Properties ----------------------------------------------------------------------------------------------------------


@check
@given(
    world=st.sampled_from(
        sorted(set(WORLDS) - {"alone"})
    ),  # whose homes are the users' cells, by their number
    name=st.sampled_from(["es2.yaml", "es3.yaml"]),
    seed=st.integers(0, 99),
)
def test_permuting_users_permutes_what_they_get_and_latencies_are_finite(
    world: str, name: str, seed: int
) -> None:
    order = torch.randperm(30, generator=torch.Generator().manual_seed(seed))
    results = []
    for permutation in (torch.arange(30), order):
        network = network_of(WORLDS[world], seed, name)
        holds = torch.rand(network.cache.shape, generator=torch.Generator().manual_seed(seed)) < 0.7
        network.begin_frame(holds)
        network.step(home_equal(network))
        memory = network.unfolding.memory
        for process, entries in memory.items():
            memory[process] = {entry: value[:, permutation] for entry, value in entries.items()}
        network.unfolding.slot = network.unfolding.slot_of(slice(None))
        network.unfolding.serve = lambda: None  # nothing more is drawn
        view = network.offloading_view()
        results.append(
            [network.step(home_equal(network)).latency, *(getattr(view, one.name) for one in OF_USERS)]
        )
    assert bool(results[0][0].isfinite().all())
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one[:, order], other)


@check
@given(
    world=st.sampled_from(sorted(WORLDS)),
    name=st.sampled_from(["es2.yaml", "es3.yaml"]),
    seed=st.integers(0, 99),
)
def test_a_saved_network_goes_on_to_the_bit(world: str, name: str, seed: int) -> None:
    here, there = network_of(WORLDS[world], seed, name), network_of(WORLDS[world], seed + 1, name)
    here.begin_frame(torch.ones_like(here.cache))
    here.step(home_equal(here))
    there.load_state_dict(here.state_dict())
    for _ in range(3):
        served = [network.step(home_equal(network)) for network in (here, there)]
        for one, other in zip(*served, strict=True):
            assert torch.equal(one, other)
        views = [network.offloading_view() for network in (here, there)]
        for (_, one), (_, other) in zip(*(view.tensors() for view in views), strict=True):
            assert torch.equal(one, other)


def test_networks_of_every_kind_move_too() -> None:
    scenario = replace(Scenario.from_config("any.yaml"), processes=WORLDS["both"])
    network = EdgeNetwork(scenario, num_envs=3, generator=make_generator(2, Use.TEST_NETWORKS))
    for _ in range(2):
        network.begin_frame(torch.zeros_like(network.cache))
        for name in ("genetic", "best_known", "least_loaded_equal"):
            policy = OFFLOADING_POLICIES[name](network.scenario, torch.Generator().manual_seed(0))
            assert bool(network.step(policy(network)).latency.isfinite().all())
        network.reset()


def test_a_controller_may_leave_out_what_phones_say_of_themselves() -> None:
    network = network_of(WORLDS["mobile"])
    kind = offloading_view_of(network.scenario)
    told = dict(network.offloading_view().tensors())
    usual = kind.of(
        **{name: value for name, value in told.items() if name in vars(OffloadingView.none(Scenario()))}
    )
    assert usual.home.dtype == torch.long
    assert usual.handed_over.dtype == torch.bool
    assert not usual.handed_over.any()


def test_how_far_homes_are_is_not_said_of_users_who_move() -> None:
    assert "distance to the home server" in ranges_of_scenario(Scenario(processes=CHANNEL))
    assert "distance to the home server" not in ranges_of_scenario(Scenario(processes=MOBILE))


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("process", "given_", "told"),
    [
        ("moving_users", {"slot_s": 0}, r"slot_s must be at least 1e-06, got 0"),
        (
            "moving_users",
            {"model": "brownian"},
            r"model must be one of random_waypoint, gauss_markov, got 'brownian'",
        ),
        ("moving_users", {"least_speed_m_per_s": 0}, r"least_speed_m_per_s must be at least 0\.001, got 0"),
        (
            "moving_users",
            {"least_speed_m_per_s": 3, "largest_speed_m_per_s": 2},
            r"largest_speed_m_per_s must be at least 3, got 2",
        ),
        ("moving_users", {"pause_s": -1}, r"pause_s must be at least 0, got -1"),
        ("moving_users", {"mean_speed_m_per_s": -1}, r"mean_speed_m_per_s must be at least 0, got -1"),
        ("moving_users", {"deviation_m_per_s": 1e9}, r"deviation_m_per_s must be at most 10000, got 1e\+09"),
        ("moving_users", {"memory": 1.5}, r"memory must be at most 1, got 1\.5"),
        ("moving_users", {"area_m": [0, 0, 1]}, r"area_m must be a list of 4 or none, got \[0, 0, 1\]"),
        (
            "moving_users",
            {"area_m": [5, 0, 1, 9]},
            r"area_m must be least x and y, .* got \[5.*, 0.*, 1.*, 9.*\]",
        ),
        ("moving_users", {"area_m": [0, 0, 1e9, 1]}, r"area_m must be at most 1e\+07, got 1e\+09"),
        ("handover", {"hysteresis_db": -1}, r"hysteresis_db must be at least 0, got -1"),
        ("handover", {"handover_s": "3dB"}, r"handover_s must be a number, in one of .*, got '3dB'"),
        (
            "correlated_channel",
            {"path_loss": "rma"},
            r"path_loss must be one of scenario, umi, uma, got 'rma'",
        ),
        ("correlated_channel", {"carrier_hz": 3.5}, r"carrier_hz must be at least 5e\+08, got 3\.5"),
        ("correlated_channel", {"server_height_m": 1}, r"server_height_m must be greater than 1, got 1"),
        ("correlated_channel", {"user_height_m": 1}, r"user_height_m must be at least 1\.5, got 1"),
        (
            "correlated_channel",
            {"path_loss": "uma", "user_height_m": 14},
            r"user_height_m must be at most 13, got 14",
        ),
        ("correlated_channel", {"shadowing_db": -1}, r"shadowing_db must be at least 0, got -1"),
        ("correlated_channel", {"decorrelation_m": 0}, r"decorrelation_m must be at least 0\.001, got 0"),
        ("correlated_channel", {"speed_m_per_s": -1}, r"speed_m_per_s must be at least 0, got -1"),
        ("correlated_channel", {"slot_s": 0}, r"slot_s must be at least 1e-06, got 0"),
        ("correlated_channel", {"load": 2}, r"load must be at most 1, got 2"),
        (
            "correlated_channel",
            {"interference_over_noise_db": 300},
            r"interference_over_noise_db must be at most 200",
        ),
    ],
)
def test_a_setting_out_of_range_is_one_line(process: str, given_: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=rf"^processes\.{process}\.{told}") as refused:
        processes_of(Scenario(processes={process: given_}))
    assert "\n" not in str(refused.value)


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("scenario", "processes", "told"),
    [
        (
            {"num_users": 1, "user_positions_m": [[100, 0]]},
            {"moving_users": {}},
            r"processes\.moving_users: user_positions_m must be none where users move, got fixed users",
        ),
        (
            {},
            {"moving_users": {"area_m": [500, 500, 600, 600]}},
            r"processes\.moving_users: area_m must have a server in it, got none in \[500",
        ),
        (
            {},
            {"moving_users": {"slot_s": "1h", "largest_speed_m_per_s": 100}},
            r"processes\.moving_users: slot_s must be so short .*, got 3600 s, in which it is 900 times",
        ),
        (
            {},
            {"moving_users": {}, "cell_positions": {}},
            r"processes must bring each entry once, got positions by moving_users and cell_positions",
        ),
        (
            {},
            {"correlated_channel": {}, "rayleigh_fading": {}},
            r"processes must bring each entry once, got fading by correlated_channel and rayleigh_fading",
        ),
    ],
)
def test_what_does_not_go_together_is_one_line(
    scenario: dict[str, Any], processes: dict[str, Any], told: str
) -> None:
    with pytest.raises(ValueError, match=f"^{told}") as refused:
        processes_of(Scenario(**scenario, processes=processes))
    assert "\n" not in str(refused.value)


def test_who_is_on_the_way_has_moved_before_the_first_slot_too_so_no_report_tells_the_fading_to_come() -> (
    None
):
    moving = {"pause_s": 0.0, "least_speed_m_per_s": 10.0, "largest_speed_m_per_s": 15.0}
    processes = {"moving_users": moving, "correlated_channel": {}}
    network = EdgeNetwork(
        Scenario(processes=processes), num_envs=20, generator=torch.Generator().manual_seed(0)
    )
    path = network.unfolding.slot.more["path_m"]
    assert 10.0 <= float(path.min()) <= float(path.max()) <= 15.0
    home = network.homes.unsqueeze(2)
    reported = network.unfolding.slot.more["reported_efficiency"].gather(2, home).flatten()
    pair = torch.stack((reported.log(), network.unfolding.slot.fading.flatten().log()))
    assert abs(float(torch.corrcoef(pair)[0, 1])) < 0.1


# --- devices and paths

DEVICE = {"device_hz": 2e9, "kappa": 1e-27, "cloud_bandwidth_hz": 50e6}
SMALL: dict[str, Any] = {"num_servers": 2, "num_users": 3, "num_services": 4, "popularity": "zipf"}
check_more = settings(deadline=None, derandomize=True, max_examples=8)


def shipped(name: str) -> dict[str, Any]:
    """Processes of an overlay."""
    return Scenario.from_config(name).processes


def small_network(processes: dict[str, Any], seed: int = 1, num_envs: int = 2, **more: Any) -> EdgeNetwork:
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
    network = small_network({"device": {**DEVICE, "offloaded_share": offloaded}}, num_envs=1)
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
    network = small_network({"device": DEVICE}, num_envs=1)
    on_device = served(network, [[2, 2, 2]], [0.0, 1.0, 0.3]).latency[0]
    cycles = torch.tensor([network.scenario.cycles[k] for k in range(4)])
    assert bool((on_device[:, None] == cycles / 2e9).any(dim=1).all())
    with pytest.raises(ValueError, match=r"^bandwidth_share must sum to at most 1 on every server, got 2"):
        served(network, [[3, 3, 0]], [1.0, 1.0, 1.0])
    with pytest.raises(ValueError, match=r"^server must be from 0 to 3, got 0 to 4$"):
        served(network, [[4, 3, 0]], [0.1, 0.1, 0.1])


def test_an_action_is_read_as_one_of_all_targets() -> None:
    scenario = small_network({"device": DEVICE}).scenario
    assert num_targets(scenario) == 4
    action = torch.tensor([[-1.0, 0.2, 0.9, 0, 0, 0, 0, 0, 0]])
    assert decode_offloading(scenario, action).server.tolist() == [[0, 2, 3]]


def test_transmit_powers_of_users_are_those_of_their_links_and_energies() -> None:
    plain = small_network({"device": {**DEVICE}}, num_envs=1)
    louder = small_network({"device": {**DEVICE, "transmit_power_dbm": [20.0, 23.0, 10.0]}}, num_envs=1)
    one, other = (served(network, [[0, 0, 0]]) for network in (plain, louder))
    gain_db = torch.tensor([0.0, 3.0, -10.0])
    snr = (2**one.spectral_efficiency - 1) * 10 ** (gain_db / 10)
    torch.testing.assert_close(2**other.spectral_efficiency - 1, snr, rtol=1e-4, atol=0)
    sent = one.energy * one.spectral_efficiency * 10 ** (gain_db / 10)
    torch.testing.assert_close(other.energy * other.spectral_efficiency, sent, rtol=1e-4, atol=0)


@pytest.mark.parametrize("charge_w", [0.0, 0.05])
def test_what_batteries_give_is_what_tasks_take_and_what_was_charged(charge_w: float) -> None:
    device = {**DEVICE, "battery_j": 9.0, "charge_w": charge_w, "slot_s": 2.0, "empty_j": 0.5}
    network = small_network({"device": device}, decisions_per_episode=4)
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
    network = small_network({"device": {**DEVICE, "device_hz": {"low": 1e9, "high": 3e9}}})
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
    network = small_network(processes, num_envs=3, **sizes)
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
    network = small_network({"hops": setting}, num_servers=5)
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
    network = small_network({"hops": setting}, num_servers=4, server_positions_m=points)
    along = torch.tensor([0.0, 0.1, 5.0, 5.1]).double()
    torch.testing.assert_close(times(network), (along[:, None] - along).abs())


def test_listed_links_have_rates_and_delays_of_their_own_and_the_quicker_way_is_taken() -> None:
    links = [[0, 1, 1e9, 0.5], [1, 2], [0, 2, 1e3]]
    setting = {"links": links, "delay_s": 0.1, "delay_s_per_km": 0.0, "link_bit_per_s": 1e9}
    network = small_network({"hops": setting}, num_servers=3)
    expected = torch.tensor([[0.0, 0.5, 0.6], [0.5, 0.0, 0.1], [0.6, 0.1, 0.0]]).double()
    torch.testing.assert_close(times(network), expected)  # straight from 0 to 2 a task would take hours


@given(st.integers(1, 7), st.integers(1, 3), st.integers(0, 100))
@check_more
def test_paths_are_the_quickest_ones_of_a_slow_search(servers: int, neighbours: int, seed: int) -> None:
    draw = make_generator(seed, Use.TEST_NETWORKS)
    points = tuple(map(tuple, (2000 * torch.rand(servers, 2, generator=draw)).tolist()))
    setting = {"neighbours": neighbours, "delay_s": 0.01, "delay_s_per_km": 0.2}
    network = small_network({"hops": setting}, num_servers=servers, server_positions_m=points)
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
    plain, apart = (small_network(one, num_servers=3, num_envs=1) for one in ({}, {"hops": setting}))
    target, homes = [[0, 0, 0]], apart.homes[0].tolist()
    one, other = (served(network, target) for network in (plain, apart))
    view: Any = small_network({"hops": setting}, num_servers=3, num_envs=1).offloading_view()
    for user, home in enumerate(homes):
        bits = apart.scenario.input_bits[int(view.requests[0, user])]
        path = home * (0.25 + bits / 1e8)
        assert float(other.latency[0, user] - one.latency[0, user]) == pytest.approx(path, rel=1e-4, abs=1e-5)
        assert float(view.path_s[0, user, 0]) == pytest.approx(path, rel=1e-5)
    assert homes == [0, 1, 2]


def test_paths_begin_at_the_home_that_a_user_has_on_its_way() -> None:
    fast = {"moving_users": {"least_speed_m_per_s": 40.0, "largest_speed_m_per_s": 60.0, "pause_s": 0.0}}
    processes = {**shipped("mobile.yaml"), **fast, "hops": {"delay_s": 1.0}}
    network, changed = small_network(processes, num_servers=3, num_users=12), 0
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
        small_network({"hops": {"links": [[0, 1]]}}, num_servers=3)
    with pytest.raises(
        HadrlError, match=r"^processes\.hops: links must be of servers from 0 to 1, got \[0.0, 2.0\]$"
    ):
        small_network({"hops": {"links": [[0.0, 2.0]]}})


# Together -----------------------------------------------------------------------------------------------------------


def test_a_world_of_devices_and_paths_goes_on_from_a_saved_state_to_the_bit() -> None:
    processes = shipped("device.yaml") | shipped("hops.yaml")
    processes["device"] = {**processes["device"], "battery_j": 5.0, "charge_w": 0.5}
    here, there = (small_network(processes, seed=seed) for seed in (0, 1))

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
        network = small_network(told(index), num_envs=1, user_positions_m=placed)
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
        network = small_network(processes, num_servers=3, num_users=12)
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
        network = small_network({**channel, **device}, user_positions_m=points)
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
        small_network({"device": {**DEVICE, "device_hz": [1e9, 2e9]}})


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
        network = small_network(processes, num_servers=4, num_users=6, decisions_per_episode=3)
        target = torch.tensor([2, 1, 3, 0, 4, 5]).expand(2, -1)
        episode = run_episode(
            network, half_cached, lambda network: equal_shares(network.scenario, target, network.dtype)
        )
        return float(episode.latency.sum()), float(episode.energy.sum())

    before = played(usual)
    for name, settings_of in changes.items():
        for change in settings_of:
            assert played({**usual, name: {**usual[name], **change}}) != before, change

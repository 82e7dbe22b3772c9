"""Scenarios: what they hold, read and refuse; and networks that are drawn from ranges of their numbers."""

import dataclasses
import math
import pickle
import warnings
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import Trainer

from hadrl_lightning.agents import HADRL
from hadrl_lightning.agents.seen import ranges_of_scenario
from hadrl_lightning.baselines import CACHING_POLICIES, OFFLOADING_POLICIES
from hadrl_lightning.baselines.learners import LearnerSettings, TwinDDPG
from hadrl_lightning.benchmark import PlanSettings, make_plan
from hadrl_lightning.callbacks import CEMPlanning
from hadrl_lightning.cli.checkpoints import check_settings
from hadrl_lightning.cli.mistakes import naming_settings
from hadrl_lightning.data import EpisodeStream, TransitionDataModule
from hadrl_lightning.envs import ServiceCachingEnv
from hadrl_lightning.envs.bounds import caching_bounds, offloading_bounds
from hadrl_lightning.errors import HadrlError, HadrlWarning
from hadrl_lightning.judge import optimal_hit_ratio
from hadrl_lightning.play import run_episode
from hadrl_lightning.process import quiet_trainer
from hadrl_lightning.scenario import GIB, KIB, MIB, Physics, Range, Scenario, limits
from hadrl_lightning.simulator import (
    Allocation,
    CachingView,
    EdgeNetwork,
    OffloadingView,
    ScenarioRange,
    SharedNetworks,
    Use,
    decode_caching,
    decode_offloading,
    equal_shares,
    make_generator,
    serve,
    switching_cost,
    vector_size,
)
from hadrl_lightning.simulator.constants import constants
from tests.helpers.twin import PUBLISHED


def test_the_defaults_are_the_published_es2():
    scenario = Scenario()
    assert (scenario.num_servers, scenario.num_users, scenario.num_services) == (2, 30, 10)
    assert scenario.input_bits[0] == 5_734_400  # 700 KiB
    assert scenario.input_bits[9] == 57_344_000
    assert scenario.storage_bits[0] == 16_777_216_000  # 2000 MiB
    assert scenario.storage_bits[9] == 167_772_160_000
    assert scenario.cycles[0] == pytest.approx(450 * 573_440)  # (400 + 50) a ten bit
    assert scenario.cycles[9] == pytest.approx(900 * 5_734_400)
    assert scenario.deadlines_s == pytest.approx([0.8 * k for k in range(1, 11)])
    assert scenario.compute_per_server_hz == (60e9, 60e9)
    assert scenario.bandwidth_per_server_hz == (200e6, 200e6)
    assert scenario.cache_per_server_bits == (200 * 1024**3 * 8,) * 2
    assert scenario.usable_cache_bits == pytest.approx((160 * 1024**3 * 8,) * 2)
    assert scenario.backhaul_bytes_per_s == 200 * 1024**2
    assert scenario.servers_m == ((100, 0), (300, 0))
    assert scenario.cells == (0,) * 15 + (1,) * 15
    assert scenario.slots_per_episode == 50
    assert scenario.offload_thresholds in (None, (0.0,))


def test_ten_services_need_107_gib():
    assert sum(Scenario().storage_bits) / 8 / GIB == pytest.approx(107.4, abs=0.05)


def test_the_decision_problems_of_es2_have_the_sizes_of_the_paper():
    scenario = Scenario()
    assert vector_size(CachingView, scenario) == 10 * (1 + 2 * 2) + 2
    assert scenario.caching_action_size == 20
    assert vector_size(OffloadingView, scenario) == 20 + 6 + 90
    assert scenario.offloading_action_size == 90


def test_the_published_popularity_gives_the_missing_mass_to_the_first_service():
    popularity = Scenario().popularity_vector
    assert math.fsum(popularity) == pytest.approx(1)
    assert popularity[9] == pytest.approx(0.21229198890532444)
    assert popularity[1] == pytest.approx(0.036604931484490705)
    assert popularity[0] == pytest.approx(0.033646012803007885 + 0.24315, abs=1e-5)


def test_zipf_falls_from_the_last_service_to_the_first():
    scenario = Scenario(num_services=3, popularity="zipf", zipf_exponent=2)
    total = 1 + 1 / 4 + 1 / 9
    assert scenario.popularity_vector == pytest.approx([1 / 9 / total, 1 / 4 / total, 1 / total])


def test_given_weights_are_normalised():
    assert Scenario(num_services=2, popularity=[3, 1]).popularity_vector == (0.75, 0.25)


def test_lists_take_the_place_of_the_formulas():
    scenario = Scenario(
        num_services=2,
        popularity="zipf",
        input_bytes=[1000, 500],
        storage_bytes=(8, 16),
        workload_cycles=[5e6, 7e6],
        deadline_s=[0.1, 2],
    )
    assert scenario.input_bits == (8000, 4000)
    assert scenario.storage_bits == (64, 128)
    assert scenario.cycles == (5e6, 7e6)
    assert scenario.deadlines_s == (0.1, 2)


def test_the_workload_formula_follows_given_inputs():
    scenario = Scenario(num_services=2, popularity="zipf", input_bytes=[1000, 500])
    assert scenario.cycles == pytest.approx((450 * 800, 500 * 400))


def test_servers_can_differ():
    scenario = Scenario(compute_hz=[1e9, 2e9], bandwidth_hz=(1e6, 3e6), cache_bytes=[10, 20])
    assert scenario.compute_per_server_hz == (1e9, 2e9)
    assert scenario.bandwidth_per_server_hz == (1e6, 3e6)
    assert scenario.usable_cache_bits == pytest.approx((64, 128))


@pytest.mark.parametrize(
    ("servers", "users", "homes"),
    [(1, 3, (0, 0, 0)), (3, 5, (0, 0, 1, 1, 2)), (4, 2, (0, 2)), (5, 5, (0, 1, 2, 3, 4))],
)
def test_users_are_spread_over_the_cells(servers, users, homes):
    assert Scenario(num_servers=servers, num_users=users).cells == homes


def test_fewer_users_than_servers_have_a_published_home_too():
    assert Scenario(num_servers=4, num_users=2).published_homes == (0, 1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_servers": 0}, "num_servers must be at least 1, got 0"),
        ({"num_users": -3}, "num_users must be at least 0, got -3"),
        ({"num_users": 2.5}, "num_users must be a whole number, got 2.5"),
        ({"num_services": True}, "num_services must be a whole number, got True"),
        ({"slots_per_decision": 0}, "slots_per_decision must be at least 1, got 0"),
        ({"decisions_per_episode": "ten"}, "decisions_per_episode must be a whole number, got 'ten'"),
        ({"cell_radius_m": 0}, "cell_radius_m must be at least 1, got 0"),
        ({"compute_hz": 0}, "compute_hz must be greater than 0, got 0"),
        ({"compute_hz": None}, "compute_hz must be a finite number, got None"),
        ({"bandwidth_hz": math.nan}, "bandwidth_hz must be a finite number, got nan"),
        ({"bandwidth_hz": "wide"}, "bandwidth_hz must be a finite number, got 'wide'"),
        ({"cache_bytes": [1, 2, 3]}, "cache_bytes must have one value for each of num_servers = 2, got 3"),
        ({"cache_bytes": [1, -2]}, "cache_bytes must be greater than 0, got -2"),
        ({"usable_cache_fraction": 1.5}, "usable_cache_fraction must be at most 1, got 1.5"),
        ({"share_floor": 0}, "share_floor must be greater than 0, got 0"),
        ({"free_share": -1}, "free_share must be greater than 0, got -1"),
        ({"cloud_delay_s": -0.1}, "cloud_delay_s must be at least 0, got -0.1"),
        ({"zipf_exponent": -1}, "zipf_exponent must be at least 0, got -1"),
        ({"backhaul_bytes_per_s": math.inf}, "backhaul_bytes_per_s must be a finite number, got inf"),
        ({"transmit_power_dbm": 1e6}, "transmit_power_dbm must be at most 60, got 1e+06"),
        ({"input_bytes": [1] * 9}, "input_bytes must have one value for each of num_services = 10, got 9"),
        ({"input_bytes": 5}, "input_bytes must be a list of one value for each of num_services = 10, got 5"),
        ({"deadline_s": [0] * 10}, "deadline_s must be greater than 0, got 0"),
        ({"num_services": 4}, "popularity must be zipf or a list of weights where num_services is not 10"),
        ({"popularity": "uniform"}, "popularity must be published, zipf or a list of weights, got 'uniform'"),
        ({"popularity": [1, 2]}, "popularity must have one weight for each of num_services = 10, got 2"),
        ({"popularity": [0] * 10}, "popularity must have a positive sum, got (0.0,"),
        ({"popularity": [-1] + [1] * 9}, "popularity must be at least 0, got -1"),
        (
            {"server_positions_m": [[0, 0]]},
            "server_positions_m must have one point for each of num_servers = 2",
        ),
        ({"server_positions_m": [[0, 0], [1]]}, "server_positions_m must hold pairs of x and y in metres"),
        ({"user_positions_m": [[0, math.nan]] * 30}, "user_positions_m must be a finite number, got nan"),
        ({"offload_thresholds": [2]}, "offload_thresholds must be at most 1, got 2"),
        ({"offload_thresholds": [0.5, -0.5]}, "offload_thresholds must increase, got"),
        ({"offload_thresholds": 0.5}, "offload_thresholds must be a list of numbers, got 0.5"),
        ({"user_positions_m": 5}, "user_positions_m must have one point for each of num_users = 30, got 5.0"),
        ({"compute_hz": 10**400}, "compute_hz must be a finite number, got inf"),
        ({"num_users": 10**400}, "num_users must be at most 100000, got inf"),
        ({"popularity": [1e308] * 10}, "popularity must be at most 1e+100, got 1e+308"),
        ({"input_step_bytes": 1e300}, "input_step_bytes must be at most 1e+12, got 1e+300"),
        ({"storage_bytes": [1e-30] * 10}, "storage_bytes must be at least 1, got 1e-30"),
        ({"bandwidth_hz": [1e9, 1e-9]}, "bandwidth_hz must be at least 1000, got 1e-09"),
        ({"share_floor": 1e-300}, "share_floor must be at least 1e-06, got 1e-300"),
    ],
)
def test_what_is_out_of_range_is_refused_by_name(fields, message):
    with pytest.raises(ValueError) as refusal:
        Scenario(**fields)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


BIG = {"num_services": 5000, "popularity": "zipf"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"num_servers": 10**6, "num_services": 10**9},
            "num_services must be as many as fit into memory with num_servers = 1e+06, got 1e+09: about 4.66e+07 GiB "
            "are needed, and this machine has 1",
        ),
        (
            {"num_servers": 10**400},
            "num_servers must be as many as fit into memory with num_services = 10, got inf",
        ),
        ({**BIG, "input_step_bytes": 1e12}, "input_step_bytes must be at most 2e+11, got 1e+12"),
        ({**BIG, "storage_step_bytes": 1e15}, "storage_step_bytes must be at most 2e+14, got 1e+15"),
        ({**BIG, "deadline_step_s": 1e12}, "deadline_step_s must be at most 2e+11, got 1e+12"),
        ({**BIG, "input_step_bytes": 2e11}, "workload_cycles by the formula must be at most 1e+20, got"),
    ],
)
def test_sizes_are_limited_by_memory_and_by_single_precision_alone(monkeypatch, fields, message):
    monkeypatch.setattr(limits, "memory_bytes", lambda: 2**30)
    with pytest.raises(ValueError) as refusal:
        Scenario(**fields)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_thousands_of_servers_and_of_services_are_played():
    for sizes in ({"num_servers": 2000}, BIG):
        scenario = Scenario(num_users=4, decisions_per_episode=1, slots_per_decision=1, **sizes)
        network = EdgeNetwork(scenario, num_envs=2)
        network.begin_frame(network.cache)
        service = network.step(equal_shares(scenario, torch.zeros(2, 4, dtype=torch.long), network.dtype))
        assert torch.isfinite(service.latency).all()
        assert network.caching_observation().shape == (2, vector_size(CachingView, scenario))


def test_more_networks_than_fit_into_memory_are_refused_before_they_are_made(monkeypatch):
    monkeypatch.setattr(limits, "memory_bytes", lambda: 2**30)
    EdgeNetwork(Scenario(), num_envs=2)
    with pytest.raises(
        ValueError, match=r"^networks in parallel must be .*, got 1e\+09: about 5.12e\+03 GiB are"
    ):
        EdgeNetwork(Scenario(), num_envs=10**9)


def test_numbers_of_numpy_are_numbers():
    scenario = Scenario(
        num_servers=np.int64(2),
        num_users=np.int32(3),
        bandwidth_hz=np.float32(1e8),
        compute_hz=np.array([1e9, 2e9]),
        cache_bytes=[np.int64(4 * 10**10), np.float64(8e10)],
        user_positions_m=np.array([[0, 0], [5, 1], [30, 7]]),
    )
    assert scenario == Scenario(
        num_servers=2,
        num_users=3,
        bandwidth_hz=1e8,
        compute_hz=[1e9, 2e9],
        cache_bytes=[4e10, 8e10],
        user_positions_m=[[0, 0], [5, 1], [30, 7]],
    )
    assert type(scenario.num_servers) is int


# Vienna: longitude and latitude, and the other way round.
DEGREES = [(16.37, 48.21), (16.38, 48.20), (16.36, 48.215)]


def test_an_exponent_that_changes_nothing_is_warned_of():
    for exponent in (0.4, {"low": 0.4, "high": 1.6}):
        with pytest.warns(HadrlWarning, match="^zipf_exponent changes nothing without popularity: zipf$"):
            Scenario(zipf_exponent=exponent)
    Scenario(popularity="zipf", zipf_exponent=0.4)  # and none here: warnings are errors


@pytest.mark.parametrize("points", [DEGREES, [point[::-1] for point in DEGREES]])
def test_positions_in_degrees_are_warned_of(points):
    with pytest.warns(HadrlWarning, match=r"^user_positions_m look like degrees, got \(.* give metres$"):
        Scenario(num_users=3, user_positions_m=points)
    servers = {"num_servers": 3, "server_positions_m": points, "offload_thresholds": None}
    with pytest.warns(HadrlWarning, match="^server_positions_m look like degrees"):
        Scenario(num_users=2, user_positions_m=[[0, 0], [50, 0]], **servers)


@pytest.mark.parametrize(
    "points",
    [
        [(0, 0), (0, 0), (0, 0)],  # no spread: all at one place
        [(0, 0), (1.5, 0), (0, 0)],  # metres
        [(481234.2, 5339000.1), (481234.7, 5339000.5), (481234.3, 5339000.2)],  # no degrees
        [(95, 100), (95.5, 100), (95, 100)],
    ],
)
def test_positions_in_metres_are_not_warned_of(points):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Scenario(num_users=3, user_positions_m=points)


def test_server_positions_that_change_nothing_are_said_to():
    positions = {"server_positions_m": [[0, 0], [300, 0]]}
    with pytest.warns(
        HadrlWarning,
        match="^server_positions_m, or places in data.sites, change nothing without user_positions_m, ",
    ) as said:
        apart = Scenario(**positions)
    assert len(said) == 1
    near, far = (
        EdgeNetwork(scenario, num_envs=3, generator=make_generator(1, Use.TEST_NETWORKS))
        for scenario in (Scenario(), apart)
    )
    for network in (near, far):
        network.begin_frame(network.cache)
    services = [
        network.step(equal_shares(network.scenario, network.requests % 2, network.dtype))
        for network in (near, far)
    ]
    assert torch.equal(services[0].latency, services[1].latency)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Scenario(num_users=2, user_positions_m=[[0, 0], [290, 5]], **positions)


def test_where_published_homes_are_not_the_cells_server_positions_change_nothing_under_strict_alone():
    uneven = {"num_servers": 3, "num_users": 4, "server_positions_m": [[0, 0], [300, 0], [0, 900]]}
    with pytest.warns(
        HadrlWarning,
        match="^server_positions_m, or places in data.sites, change nothing under physics strict without",
    ):
        Scenario(**uneven)


def test_a_warning_is_said_once_however_often_a_scenario_is_made():
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        for _ in range(3):
            dataclasses.replace(Scenario(server_positions_m=[[0, 0], [300, 0]]), num_users=20)
    assert len(said) == 1


def test_an_unknown_field_is_refused_by_name():
    with pytest.raises(ValueError, match="scenario has no field 'num_clouds'"):
        Scenario.from_dict({"num_users": 3, "num_clouds": 1})


def test_unknown_fields_of_any_type_are_refused():
    with pytest.raises(ValueError, match="scenario has no field '3'"):
        Scenario.from_dict({"num_clouds": 1, 3: 1})


@pytest.mark.parametrize("text", ["data: 5", "data: [1, 2]", "data: {scenario: 7}"])
def test_a_file_with_something_else_for_a_scenario_is_refused(tmp_path, text):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(
        ValueError, match=r"^data(\.scenario)? must be a group of settings, got .* in .*mine.yaml"
    ):
        Scenario.from_config(str(tmp_path / "mine.yaml"))


def test_the_worst_link_and_share_that_fields_allow_stay_in_single_precision():
    worst = Scenario(
        num_servers=1,
        num_services=1000,
        popularity="zipf",
        input_step_bytes=1e12,
        compute_hz=1,
        bandwidth_hz=1e3,
        cloud_rate_bit_per_s=1,
        cloud_compute_hz=1,
        transmit_power_dbm=60,
        cloud_delay_s=1e12,
    )
    largest = 3.4e38 / 100_000  # of one user, so that the sum over all is still a number
    for physics in ("strict", "published"):
        for cached in (True, False):
            service = serve(
                worst,
                torch.full((1, 1, 1000), cached),
                torch.full((1, 30), 999),
                torch.full((1, 30, 2), 1e7),
                torch.zeros(1, 30),
                Allocation(torch.zeros(1, 30, dtype=torch.long), torch.zeros(1, 30), torch.zeros(1, 30)),
                physics,
            )
            assert float(service.latency.max()) < largest
            assert float(service.energy.max()) < largest


def test_a_scenario_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Scenario().num_users = 4


RICH = Scenario(
    num_servers=2,
    num_users=2,
    num_services=3,
    popularity=[1, 2, 3],
    compute_hz=[1e9, 2e9],
    cache_bytes=40 * GIB,
    server_positions_m=[[0, 0], [50, 1]],
    user_positions_m=[[1, 2], [49, 3]],
    offload_thresholds=[0.1],
)


@pytest.mark.parametrize("scenario", [Scenario(), RICH])
def test_plain_values_bring_a_scenario_back(scenario):
    assert Scenario.from_dict(scenario.to_dict()) == scenario
    assert Scenario.from_dict(yaml.safe_load(yaml.safe_dump(as_lists(scenario.to_dict())))) == scenario
    assert pickle.loads(pickle.dumps(scenario)) == scenario
    assert hash(Scenario.from_dict(scenario.to_dict())) == hash(scenario)
    assert dataclasses.replace(scenario, num_services=scenario.num_services) == scenario


def as_lists(value):
    if isinstance(value, dict):
        return {name: as_lists(item) for name, item in value.items()}
    return [as_lists(item) for item in value] if isinstance(value, tuple) else value


def test_derived_values_follow_a_changed_field():
    scenario = Scenario()
    assert scenario.input_bits[0] == 700 * KIB * 8  # looked at before the change
    assert dataclasses.replace(scenario, input_step_bytes=500 * KIB).input_bits[0] == 500 * KIB * 8


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_shipped_configs_hold_the_published_scenarios(name):
    row = PUBLISHED[name]
    scenario = Scenario.from_config(f"{name.lower()}.yaml")
    assert (scenario.num_servers, scenario.num_users) == (row["servers"], row["users"])
    assert scenario.input_bits == tuple(row["input_kib"] * KIB * 8 * k for k in range(1, 11))
    assert scenario.storage_bits == tuple(2000 * MIB * 8 * k for k in range(1, 11))
    assert scenario.compute_per_server_hz == (row["ghz"] * 1e9,) * row["servers"]
    assert scenario.bandwidth_per_server_hz == (200e6,) * row["servers"]
    assert scenario.cache_per_server_bits == (200 * GIB * 8,) * row["servers"]
    assert scenario.usable_cache_fraction == 0.8
    assert scenario.free_share == row["free"]
    thresholds = scenario.offload_thresholds
    if thresholds is None:  # equal bins
        thresholds = [2 * s / row["servers"] - 1 for s in range(1, row["servers"])]
    assert thresholds == pytest.approx(row["thresholds"])
    assert scenario.popularity == "published"
    assert (scenario.decisions_per_episode, scenario.slots_per_decision) == (10, 5)


def test_a_config_file_of_ones_own_is_read(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("data:\n  scenario:\n    num_users: 7\n    bandwidth_hz: 20e6\n")
    assert Scenario.from_config(str(path)) == Scenario(num_users=7, bandwidth_hz=20e6)


@pytest.mark.parametrize("text", ["model: {}\n", "data:\n", "data:\n  scenario:\n", "{}", ""])
def test_a_config_without_a_scenario_is_refused(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"mine\.yaml has no data\.scenario"):
        Scenario.from_config(str(path))


def test_of_several_configs_the_later_ones_win(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("data:\n  scenario:\n    num_users: 7\n")
    expected = dataclasses.replace(Scenario.from_config("es3.yaml"), num_users=7, cache_bytes=40 * GIB)
    assert Scenario.from_config("es3.yaml", "tight.yaml", path) == expected
    with pytest.raises(ValueError, match=r"config published\.yaml, base\.yaml has no data\.scenario"):
        Scenario.from_config("published.yaml", "base.yaml")


def test_a_config_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match=r"es9\.yaml"):
        Scenario.from_config("es9.yaml")


VARIED = Scenario(
    num_servers=3,
    num_users=7,
    decisions_per_episode=2,
    slots_per_decision=2,
    compute_hz={"low": 5e9, "high": "80 GHz", "log": True},
    bandwidth_hz={"low": "5MHz", "high": "400MHz"},
    cache_bytes={"low": "20GiB", "high": "80GiB", "alike": True},
    storage_bytes={"low": 1e9, "high": "30GB"},
    input_step_bytes={"low": 3e5, "high": 8e5},
    popularity={"low": 0, "high": 1},
    cloud_delay_s={"low": "10ms", "high": "200ms"},
    backhaul_bytes_per_s={"low": 1e8, "high": 3e8},
    transmit_power_dbm={"low": 10, "high": 23},
    noise_dbm={"low": -120, "high": -100},
)
PLACED = replace(
    VARIED,
    server_positions_m={"low": -300, "high": 300},
    user_positions_m={"low": -300, "high": 300},
)


def networks(
    scenario: Scenario, physics: Physics = "strict", num_envs: int = 4, seed: int = 3
) -> EdgeNetwork:
    return EdgeNetwork(scenario, physics, num_envs, generator=make_generator(seed, Use.TEST_NETWORKS, 0))


def random_policies(physics: Physics):
    draws = torch.Generator().manual_seed(1)

    def slow(network: EdgeNetwork) -> torch.Tensor:
        action = 2 * torch.rand(network.num_envs, network.scenario.caching_action_size, generator=draws) - 1
        return decode_caching(network.scenario, action, network.cache, physics, network.exact)

    def fast(network: EdgeNetwork) -> Allocation:
        size = network.scenario.offloading_action_size
        action = 2 * torch.rand(network.num_envs, size, generator=draws) - 1
        return decode_offloading(network.scenario, action, physics)

    return slow, fast


# Ranges --------------------------------------------------------------------------------------------------------------


def test_a_field_that_is_a_range_is_its_middle_and_every_network_draws_its_own() -> None:
    assert VARIED.compute_hz == pytest.approx((5e9 * 80e9) ** 0.5)
    assert VARIED.bandwidth_hz == 202.5e6
    assert VARIED.storage_bytes == (15.5e9,) * 10
    drawn = ScenarioRange(VARIED, seed=4).draw(50)
    assert not any(one.ranges for one in drawn)
    compute = torch.tensor([one.compute_per_server_hz for one in drawn])
    assert compute.min() >= 5e9
    assert compute.max() <= 80e9
    assert (compute.std(dim=1) > 0).all()  # each server of its own
    assert torch.tensor([one.cache_per_server_bits for one in drawn]).std(dim=1).max() == 0  # alike
    assert (compute < 20e9).float().mean() == pytest.approx(0.5, abs=0.15)  # every factor as likely
    assert all(20 * GIB <= one.cache_per_server_bits[0] / 8 <= 80 * GIB for one in drawn)
    assert len({one.popularity for one in drawn}) == 50


def test_a_network_depends_on_no_other_network_field_or_episode() -> None:
    draw = ScenarioRange(VARIED, seed=4).draw
    assert draw(3) == draw(5)[:3]
    assert draw(3, episode=1) != draw(3)
    fewer = {name: one for name, one in VARIED.ranges.items() if name != "popularity"}
    without = replace(VARIED, popularity="published", ranges=fewer)
    assert [one.compute_hz for one in ScenarioRange(without, seed=4).draw(3)] == [
        one.compute_hz for one in draw(3)
    ]
    assert ScenarioRange(Scenario()).draw(2) == (Scenario(), Scenario())


def test_copies_keep_the_ranges_and_a_number_takes_the_place_of_one() -> None:
    assert Scenario.from_dict(VARIED.to_dict()) == VARIED
    assert VARIED.to_dict()["compute_hz"] == asdict(VARIED.ranges["compute_hz"])
    assert "ranges" not in VARIED.to_dict()
    larger = replace(PLACED, num_users=9, num_servers=2)
    assert larger.ranges == PLACED.ranges
    assert len(larger.user_positions_m or ()) == 9
    assert VARIED.resized(4, 7, 20).ranges == VARIED.ranges
    assert "compute_hz" not in replace(VARIED, compute_hz=7e9).ranges
    with pytest.warns(match=r"compute_hz is 60000000000\.0, which takes the place of its range"):
        assert replace(VARIED, compute_hz=60e9).ranges.keys() == VARIED.ranges.keys() - {"compute_hz"}
    assert replace(VARIED, bandwidth_hz={"low": 4e6, "high": 401e6}) != VARIED  # the same middle


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("compute_hz", {"low": 5e9}, "compute_hz must have low and high, and may have log and alike, got"),
        ("compute_hz", {"low": 5e9, "high": 4e9}, "compute_hz.high must be at least low = 5e+09, got 4e+09"),
        ("compute_hz", {"low": 0.5, "high": 4e9}, "compute_hz must be at least 1, got 0.5"),
        ("compute_hz", {"low": 5e9, "high": "fast"}, "compute_hz.high must be a finite number, got 'fast'"),
        ("noise_dbm", {"low": -9, "high": 1, "log": True}, "noise_dbm.low must be above 0 where log is true"),
        ("usable_cache_fraction", {"low": 0.5, "high": 2}, "usable_cache_fraction must be at most 1, got 2"),
        ("cache_bytes", {"low": "3GHz", "high": 1e12}, "cache_bytes must be a number, in one of B"),
        ("num_servers", {"low": 1, "high": 2.5}, "num_servers.high must be a whole number, got 2.5"),
        ("num_servers", {"low": 0, "high": 2}, "num_servers must be at least 1, got 0"),
        ("num_servers", {"low": 1, "high": 1e12}, "num_servers must be as many as fit into memory"),
        (
            "num_services",
            {"low": 4, "high": 9},
            "popularity must be zipf or a range where num_services is a range",
        ),
        ("slots_per_decision", {"low": 3, "high": 9}, "slots_per_decision must be the same for all networks"),
        ("share_floor", {"low": 0.1, "high": 0.2}, "share_floor must be the same for all networks"),
        ("popularity", {"low": -1, "high": 1}, "popularity must be at least 0, got -1"),
    ],
)
def test_a_range_that_is_not_allowed_gets_a_line(field: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("+", r"\+")):
        Scenario(**{field: value})


@pytest.mark.parametrize(
    ("field", "value", "count", "message"),
    [
        ("compute_hz", [1e9, 2e9], "num_servers", "compute_hz must be no list where num_servers is a range"),
        ("deadline_s", [1, 2], "num_services", "deadline_s must be no list where num_services is a range"),
        ("popularity", [1, 2], "num_services", "popularity must be zipf or a range where num_services is a"),
        ("server_positions_m", [[0, 0]], "num_servers", "server_positions_m must be a range where num_serve"),
        ("user_positions_m", [[0, 0]], "num_users", "user_positions_m must be a range where num_users is a"),
        ("offload_thresholds", [0.1], "num_servers", "offload_thresholds must be null where num_servers is"),
    ],
)
def test_what_is_listed_one_by_one_needs_a_fixed_count(
    field: str, value: object, count: str, message: str
) -> None:
    settings = {"popularity": "zipf", count: {"low": 1, "high": 2}, field: value}
    with pytest.raises(ValueError, match=rf"^{message}.*, got "):
        Scenario(**settings)  # type: ignore[arg-type]


@pytest.mark.unchecked
def test_a_wrong_end_of_a_range_is_named_by_the_field_that_is_one() -> None:
    with (
        pytest.raises(
            HadrlError, match=r"^data\.scenario\.compute_hz\.high must be at least low = 5, got 4$"
        ),
        naming_settings({"data": TransitionDataModule}),
    ):
        Scenario(compute_hz={"low": 5, "high": 4})  # type: ignore[arg-type]


def test_a_checkpoint_of_ranges_is_of_the_same_scenario_however_they_are_written() -> None:
    saved = {"hyper_parameters": {"scenario": asdict(Scenario(compute_hz=Range(low=5e9, high=8e10)))}}
    path = Path("last.ckpt")
    check_settings(path, saved, {"scenario": {"compute_hz": {"high": "80GHz", "low": "5GHz", "log": False}}})
    for other, told in (
        (
            {"low": 5e9, "high": 9e10},
            r"scenario\.compute_hz\.high is 80000000000\.0 there and 90000000000\.0 in",
        ),
        (
            42.5e9,
            r"scenario\.compute_hz is \{'low': 5000000000\.0, .*\} there and 42500000000\.0 in the settings",
        ),
    ):
        with pytest.raises(HadrlError, match=told):
            check_settings(path, saved, {"scenario": {"compute_hz": other}})


def test_constants_of_one_network_are_refused_for_a_range() -> None:
    with pytest.raises(ValueError, match=r"must be that of one network, got ranges of input_step_bytes"):
        constants(VARIED, torch.device("cpu"), torch.float32)


# Sizes ---------------------------------------------------------------------------------------------------------------

SIZED = replace(
    PLACED,
    num_servers={"low": 1, "high": 5},
    num_users={"low": 2, "high": 9},
    num_services={"low": 3, "high": 30, "log": True},
)


def test_sizes_lie_in_their_ranges_change_between_episodes_and_are_those_of_all_networks() -> None:
    assert SIZED.counts == {"num_servers": 3, "num_users": 6, "num_services": 9}  # the middles
    ranges = {name: SIZED.ranges[name] for name in SIZED.counts}
    bare = ScenarioRange(Scenario(popularity="zipf", **ranges), seed=4)
    sizes = [tuple(bare.sized(episode).counts.values()) for episode in range(200)]
    draw = ScenarioRange(SIZED, seed=4)
    for name, found in zip(SIZED.counts, zip(*sizes)):
        low, high = SIZED.ranges[name].low, SIZED.ranges[name].high
        assert (min(found), max(found)) == (low, high)
    assert sum(servers == 1 for servers, *_ in sizes) == pytest.approx(40, abs=20)  # each as likely
    assert sum(services < 9.5 for *_, services in sizes) == pytest.approx(100, abs=25)  # or every factor
    drawn = draw.draw(4, episode=7)
    assert {tuple(one.counts.values()) for one in drawn} == {sizes[7]}
    assert not any(one.ranges for one in drawn)
    assert len({one.compute_hz for one in drawn}) == 4
    sized = draw.sized(7)
    assert sized.ranges.keys() == PLACED.ranges.keys()
    assert draw.draw(2, 7) == ScenarioRange(sized, seed=4).draw(2, 7)  # sizes have a stream of their own


def test_a_scenario_of_several_sizes_is_copied_and_shows_its_ends() -> None:
    assert Scenario.from_dict(SIZED.to_dict()) == SIZED
    assert hash(Scenario.from_dict(asdict(SIZED))) == hash(SIZED)
    assert SIZED.to_dict()["num_users"] == {"low": 2, "high": 9, "log": False, "alike": False}
    corners = [one.counts for one in SIZED.corners()]
    assert {one["num_servers"] for one in corners} == {1, 5}
    assert {(one["num_users"], one["num_services"]) for one in corners} == {(2, 3), (9, 30)}
    assert ranges_of_scenario(SIZED)["num_services"] == (3, 30)
    assert "num_servers=1 to 5, num_users=2 to 9, num_services=3 to 30," in str(TransitionDataModule(SIZED))
    assert SIZED.resized(3, 6, 9).ranges.keys().isdisjoint(SIZED.counts)  # though these are the middles
    assert replace(SIZED, num_users=4).ranges.keys() == SIZED.ranges.keys() - {"num_users"}
    assert replace(SIZED, num_users={"low": 0, "high": 9}) != SIZED
    with pytest.raises(ValueError, match="num_users must be at least 1, got 0"):
        replace(SIZED, num_users={"low": 0, "high": 9}).require_users()


def test_what_acts_on_one_size_alone_refuses_several() -> None:
    refused = r"^num_servers must be one number for .*, got the range from 1 to 5$"
    several = {"num_servers": {"low": 1, "high": 5}, "offload_thresholds": None}
    settings = PlanSettings(overrides={"data": {"scenario": several}}, seeds=(0,))
    for make in (
        lambda: HADRL(SIZED, slow_level="flat"),
        lambda: HADRL(SIZED, fast_level="flat", slow_level="set"),
        lambda: TwinDDPG(networks(SIZED), LearnerSettings()),
        lambda: ServiceCachingEnv(SIZED),
        *(
            partial(make_plan, replace(settings, policies=(name,)))
            for name in ("twin-ddpg", "hadrl-published", "hadrl-no-planning")
        ),
    ):
        with pytest.raises(HadrlError, match=refused):
            make()


# Networks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("physics", ["strict", "published"])
@pytest.mark.parametrize("scenario", [VARIED, PLACED, SIZED])
def test_a_batch_of_different_networks_is_each_of_them_alone(scenario: Scenario, physics: Physics) -> None:
    network = networks(scenario, physics)
    slow, fast = random_policies(physics)
    network.reset()
    before = torch.zeros_like(network.cache)
    while not network.episode_over:
        if network.frame_over:
            view, cache = network.caching_view(), slow(network)
            switching = network.begin_frame(cache)
            for b, one in enumerate(network.scenarios):
                alone = switching_cost(one, before[b : b + 1], cache[b : b + 1])
                torch.testing.assert_close(switching[b : b + 1], alone)
                usable = torch.tensor(
                    one.usable_cache_bits if physics == "strict" else one.cache_per_server_bits
                )
                held = (
                    (before[b] * torch.tensor(one.storage_bits)).sum(dim=1) if physics == "published" else 0
                )
                torch.testing.assert_close(view.free_cache_bits[b], usable - held, rtol=1e-5, atol=1e5)
            before = cache
        view, asked, at = network.offloading_view(), network.requests, network.positions
        allocation, fading = fast(network), network.unfolding.foreseen().fading
        assert fading is not None
        service = network.step(allocation)
        for b, one in enumerate(network.scenarios):
            row = slice(b, b + 1)
            alone = serve(
                one,
                cache[row],
                asked[row],
                at[row],
                fading[row],
                Allocation(*(x[row] for x in allocation)),
                physics,
            )
            for whole, part in zip(service, alone, strict=True):
                torch.testing.assert_close(whole[row], part)
            torch.testing.assert_close(view.input_bits[b], torch.tensor(one.input_bits)[asked[b]])
            if physics == "strict":
                torch.testing.assert_close(view.compute_hz[b], torch.tensor(one.compute_per_server_hz))


def test_the_mean_of_requests_is_the_popularity_of_each_network() -> None:
    scenario = Scenario(num_users=2000, popularity={"low": 0, "high": 1})
    network = networks(scenario)
    for b, one in enumerate(network.scenarios):
        share = torch.bincount(network.requests[b], minlength=10) / 2000
        torch.testing.assert_close(share, torch.tensor(one.popularity_vector), rtol=0, atol=0.04)


def test_every_episode_has_other_networks_and_a_saved_state_goes_on_with_the_same() -> None:
    one = networks(VARIED)
    first = one.scenarios
    one.reset()
    assert one.scenarios != first
    saved = one.state_dict()
    other = networks(VARIED, seed=9)
    other.load_state_dict(saved)
    assert other.scenarios == one.scenarios
    torch.testing.assert_close(other.offloading_observation(), one.offloading_observation())
    one.reset(), other.reset()
    assert other.scenarios == one.scenarios
    assert torch.equal(one.requests, other.requests)
    assert torch.equal(one.positions, other.positions)
    one.set_seed(5), other.set_seed(5)
    one.reset(), other.reset()
    again = one.scenarios
    one.set_seed(5)
    one.reset()
    assert again == other.scenarios == one.scenarios


@pytest.mark.parametrize(("begun", "kind"), [(0, EdgeNetwork), (3, EdgeNetwork), (3, SharedNetworks)])
def test_networks_of_the_sizes_of_a_saved_episode_go_on_to_the_bit(begun: int, kind: type) -> None:
    one, other = (
        kind(SIZED, num_envs=4, generator=make_generator(seed, Use.TEST_NETWORKS, 0)) for seed in (3, 9)
    )
    slow, fast = random_policies("strict")
    for _ in range(begun):
        one.reset()
    one.begin_frame(slow(one))
    one.step(fast(one))
    other.load_state_dict(one.state_dict())
    assert other.scenario == one.scenario
    for _ in range(4):
        assert other.scenarios == one.scenarios
        for name, value in one.state_dict()["state"].items():
            assert torch.equal(value, other.state_dict()["state"][name])
        assert torch.equal(one.offloading_observation(), other.offloading_observation())
        if one.frame_over:
            cache = slow(one)
            assert torch.equal(one.begin_frame(cache), other.begin_frame(cache))
        decided = fast(one)
        assert torch.equal(one.step(decided).latency, other.step(decided).latency)
        if one.episode_over:
            one.reset(), other.reset()


def test_the_largest_networks_have_to_fit_into_memory() -> None:
    most = {"low": 1, "high": 1000}
    large = Scenario(num_servers=most, num_services=most, popularity="zipf")  # type: ignore[arg-type]
    with pytest.raises(
        HadrlError, match="networks in parallel must be as many as fit into memory, got 10000"
    ):
        EdgeNetwork(large, num_envs=10_000)
    apart = Scenario(num_servers=1000, num_users=1000, processes={"hops": {}})
    with pytest.raises(
        HadrlError, match="networks in parallel must be as many as fit into memory, got 10000"
    ):
        EdgeNetwork(apart, num_envs=10_000)  # 140 bytes a link: 1.3 TiB


@pytest.mark.unchecked
def test_a_training_over_sizes_resumes_to_the_bit(tmp_path: Path) -> None:
    scenario = replace(
        Scenario.from_config("any.yaml"),
        num_servers={"low": 1, "high": 3},
        num_users={"low": 2, "high": 5},
        num_services={"low": 2, "high": 9},
        slots_per_decision=2,
    )

    def trained(
        max_epochs: int, going_on_from: Path | None = None
    ) -> tuple[HADRL, TransitionDataModule, Trainer]:
        agent = HADRL(scenario)
        data = TransitionDataModule(
            scenario, num_envs=2, batch_size=4, samples_per_pass=12, passes_per_epoch=2, validation_episodes=2
        )
        planning = CEMPlanning(seed_decisions=3, decisions_per_epoch=3)
        trainer = quiet_trainer(
            max_epochs=max_epochs, limit_val_batches=1, callbacks=[planning], num_sanity_val_steps=0
        )
        trainer.fit(agent, datamodule=data, ckpt_path=going_on_from)
        return agent, data, trainer

    _, _, first = trained(1)
    first.save_checkpoint(tmp_path / "saved.ckpt")
    resumed, its, _ = trained(2, tmp_path / "saved.ckpt")
    straight, own, trainer = trained(2)
    assert len(own.offloading_buffer.parts) > 2
    for one, other in zip(own.offloading_buffer.parts, its.offloading_buffer.parts, strict=True):
        for (_, value), (_, found) in zip(one.contents().tensors(), other.contents().tensors(), strict=True):
            assert torch.equal(value, found)
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert trainer.callback_metrics["val/log_latency"].isfinite()


def test_ranges_change_no_draw_of_requests_and_fading() -> None:
    fixed = replace(VARIED, compute_hz=7e9, popularity=(1.0,) * 10)
    varied = networks(replace(VARIED, popularity=(1.0,) * 10))
    alone = networks(fixed)
    for network in (varied, alone):
        network.reset()
    assert torch.equal(varied.requests, alone.requests)
    fadings = [network.unfolding.foreseen().fading for network in (varied, alone)]
    assert torch.equal(*fadings)


@pytest.mark.parametrize("physics", ["strict", "published"])
def test_baselines_play_each_network_by_its_own_constants(physics: Physics) -> None:
    slow = CACHING_POLICIES["density"](VARIED, torch.Generator())
    latency = {}
    for name in ("best_known", "least_loaded_sqrt", "least_loaded_equal", "home_equal", "genetic"):
        draws = make_generator(0, Use.BASELINE_OFFLOADING)
        episode = run_episode(networks(VARIED, physics), slow, OFFLOADING_POLICIES[name](VARIED, draws))
        latency[name] = episode.latency.sum(dim=2).mean(dim=0)
    for name, value in latency.items():
        assert (latency["best_known"] <= value * 1.03).all(), name  # decided before the fading is known
    played = networks(VARIED, physics)
    played.reset()
    for b, one in enumerate(played.scenarios):  # what it places is what it would place there alone
        alone = CACHING_POLICIES["density"](one, torch.Generator())(EdgeNetwork(one, physics))
        assert torch.equal(slow(played)[b], alone[0])


def test_bounds_hold_for_every_network_that_can_be_drawn() -> None:
    for physics in ("strict", "published"):
        low, high = offloading_bounds(VARIED, physics)
        slow_low, slow_high = caching_bounds(VARIED, physics)
        for seed in range(5):
            network = networks(VARIED, physics, seed=seed)
            slow, fast = random_policies(physics)
            network.reset()
            while not network.episode_over:
                if network.frame_over:
                    seen = network.caching_observation()
                    assert (seen >= torch.tensor(slow_low)).all()
                    assert (seen <= torch.tensor(slow_high)).all()
                    network.begin_frame(slow(network))
                seen = network.offloading_observation()
                assert (seen >= torch.tensor(low)).all()
                assert (seen <= torch.tensor(high)).all()
                network.step(fast(network))


def test_what_an_agent_is_told_covers_every_network_that_can_be_drawn() -> None:
    for scenario in (VARIED, PLACED):
        told = ranges_of_scenario(scenario)
        for one in ScenarioRange(scenario, seed=2).draw(20):
            for name, (least, most) in ranges_of_scenario(one).items():
                slack = 1e-9 * abs(most)
                assert told[name][0] - slack <= least, name
                assert most <= told[name][1] + slack, name


def test_the_optimum_of_a_stream_is_the_mean_over_its_networks() -> None:
    stream = EpisodeStream(VARIED, "strict", 3, 2, 7, Use.TEST_NETWORKS)
    scenarios = stream.scenarios()
    assert len(scenarios) == 3
    played = []
    for network in stream:
        run_episode(network, *random_policies("strict"))
        played += network.scenarios
    assert tuple(played) == scenarios
    mean = sum(optimal_hit_ratio(one) for one in scenarios) / 3
    assert optimal_hit_ratio(*scenarios) == pytest.approx(mean)
    assert len(EpisodeStream(Scenario(), "strict", 3, 2, 7, Use.TEST_NETWORKS).scenarios()) == 1


def test_a_range_says_its_numbers() -> None:
    assert Range(low=2, high=8).number(0.5) == 5
    assert Range(low=2, high=8, log=True).number(0.5) == 4
    assert Range(low=2, high=8, alike=True).numbers([0.5, 0.9]) == (5, 5)
    assert Range(low=1e-3, high=1e3, log=True).number(1.0) == 1e3

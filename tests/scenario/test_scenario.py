"""The constants: derived values by hand, what is refused and how, and the way from and to plain values."""

import dataclasses
import math
import pickle
import warnings

import numpy as np
import pytest
import torch
import yaml

from hadrl_lightning.errors import HadrlWarning
from hadrl_lightning.scenario import GIB, KIB, MIB, Scenario, limits
from hadrl_lightning.simulator import (
    Allocation,
    CachingView,
    EdgeNetwork,
    OffloadingView,
    Use,
    equal_shares,
    make_generator,
    serve,
    vector_size,
)
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
        HadrlWarning, match="^server_positions_m changes nothing without user_positions_m: "
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
    with pytest.warns(HadrlWarning, match="^server_positions_m changes nothing under physics strict without"):
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

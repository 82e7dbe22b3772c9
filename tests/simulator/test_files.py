"""Networks from files: of every shape that people bring, against slow twins, and every mistake in one line."""

import gzip
import json
import math
import os
import re
import shlex
import sys
import warnings
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hadrl_lightning.baselines import CACHING_POLICIES, best_known_policy
from hadrl_lightning.benchmark.compute import compute
from hadrl_lightning.benchmark.plan import PlanSettings, make_plan
from hadrl_lightning.benchmark.training import build, resolved
from hadrl_lightning.callbacks import EpisodeEvaluation
from hadrl_lightning.cli import main
from hadrl_lightning.cli.checkpoints import check_settings
from hadrl_lightning.config_files import load_config, merged
from hadrl_lightning.data import EpisodeStream, TransitionDataModule
from hadrl_lightning.envs import EdgeNetworkVectorEnv
from hadrl_lightning.errors import HadrlError, HadrlWarning
from hadrl_lightning.move_files import MoveSettings
from hadrl_lightning.network_files import FILES
from hadrl_lightning.play import home_equal, run_episode
from hadrl_lightning.process import quiet_trainer
from hadrl_lightning.request_files import RequestSettings
from hadrl_lightning.scenario import Range, Scenario
from hadrl_lightning.simulator import EdgeNetwork, Use, make_generator
from hadrl_lightning.simulator.processes import demand_is_known, for_part
from hadrl_lightning.simulator.unfolding import offloading_view_of
from hadrl_lightning.table_files import Column, open_table
from hadrl_lightning.trace_files import IN_MEMORY, bounds_of, stored

pytestmark = pytest.mark.filterwarnings("ignore::hadrl_lightning.errors.HadrlWarning")
SHORT = Scenario(decisions_per_episode=2, slots_per_decision=3, history_slots=10, num_users=4)
check = settings(deadline=None, derandomize=True, max_examples=40)


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(folder: Path, name: str, *lines: str) -> str:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return str(path)


def of_eua(folder: Path) -> dict[str, Any]:
    draws = np.random.default_rng(0)
    at = [f"{-37.81 + 0.003 * a},{144.96 + 0.003 * b}" for a, b in draws.random((8, 2))]
    sites = write(
        folder, "site.csv", "SITE_ID,LATITUDE,LONGITUDE,NAME", *(f"{n},{at[n]},Tower" for n in range(3))
    )
    return {"sites": sites, "users": write(folder, "users.csv", "Latitude,Longitude", *at[3:])}


def of_telecom(folder: Path) -> dict[str, Any]:
    draws, rows = np.random.default_rng(1), []
    for n in range(600):
        start = datetime(2014, 6, 1, tzinfo=UTC) + timedelta(minutes=3 * n)
        site, user = draws.integers(3), draws.integers(8)
        end = start + timedelta(minutes=int(draws.integers(1, 60)))
        times = f"{start:%Y/%m/%d %H:%M},{end:%Y/%m/%d %H:%M}"
        rows.append(f"{times},{31.2 + 0.002 * site:.4f},{121.4 + 0.002 * (site % 2):.4f},u{user}")
    path = write(folder, "telecom.csv", "start time,end time,latitude,longitude,user id", *rows)
    columns = {"time_s": "start time", "user": "user id"}
    return {
        **dict.fromkeys(("sites", "requests", "moves"), path),
        "columns": {"requests": columns, "moves": columns},
        "scenario": {"processes": {"requests_of_file": {"slot_s": 600.0}}},
    }


def of_genai(folder: Path) -> dict[str, Any]:
    draws = np.random.default_rng(2)
    rows = [f"{0.5 * n},m{draws.integers(4)},{draws.random() + 0.1:.3f}" for n in range(400)]
    models = write(folder, "models.csv", "name,load_s", *(f"m{n},{20 + n}" for n in range(4)))
    return {
        "services": models,
        "requests": write(folder, "genai.csv", "time,model,exec_s", *rows),
        "columns": {
            "requests": {
                "time_s": "time",
                "service": "model",
                "cycles": {"column": "exec_s", "times": 1e9},
            }
        },
    }


def of_llm(folder: Path) -> dict[str, Any]:
    draws = np.random.default_rng(3)
    rows = [
        f"2023-11-16 18:{n // 60:02d}:{n % 60:02d}.9799600,{draws.integers(100, 4000)},{draws.integers(1, 500)}"
        for n in range(600)
    ]
    sizes = {
        "input_bytes": {"column": "ContextTokens", "times": 4.0},
        "cycles": {"column": "GeneratedTokens", "times": 1e7},
    }
    return {
        "requests": write(folder, "llm.csv", "TIMESTAMP,ContextTokens,GeneratedTokens", *rows),
        "columns": {"requests": {"time_s": "TIMESTAMP", **sizes}},
        "scenario": {"popularity": "zipf"},
    }


def of_movielens(folder: Path) -> dict[str, Any]:
    draws = np.random.default_rng(4)
    rows = [
        f"{draws.integers(1, 30)}\t{min(14, draws.zipf(1.5))}\t{draws.integers(1, 6)}\t{880000000 + 37 * n}"
        for n in range(500)
    ]
    return {
        "requests": write(folder, "u.data", *rows),
        "columns": {"requests": {"user": 0, "service": 1, "time_s": 3}},
    }


def of_kaist(folder: Path) -> dict[str, Any]:
    draws = np.random.default_rng(5)
    for walker in range(5):
        at = np.cumsum(draws.normal(size=(100, 2)) * 20, axis=0)
        rows = [f"   {30.0 * n:.7e}   {x:.7e}   {y:.7e}" for n, (x, y) in enumerate(at)]
        write(folder, f"kaist/KAIST_{walker:03d}.txt", *rows)
    return {
        "moves": str(folder / "kaist"),
        "columns": {"moves": {"time_s": 0, "x_m": 1, "y_m": 2}},
        "scenario": {"processes": {"moves_of_file": {"slot_s": 10.0}}},
    }


SHAPES = {one.__name__[3:]: one for one in (of_eua, of_telecom, of_genai, of_llm, of_movielens, of_kaist)}


def scenario_of(data: Mapping[str, Any], **fields: Any) -> Scenario:
    given = {"popularity": "zipf", **data.get("scenario", {}), **fields}
    return replace(SHORT, **given).with_files(
        {name: data[name] for name in (*FILES, "columns") if name in data}
    )


def network_of(scenario: Scenario, num_envs: int = 3, seed: int = 1) -> EdgeNetwork:
    return EdgeNetwork(scenario, num_envs=num_envs, generator=make_generator(seed, Use.TEST_NETWORKS))


def requests_file(folder: Path, *rows: str, header: str = "time_s,user,service") -> str:
    return write(folder, "requests.csv", header, *rows)


# Shapes ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_files_of_every_shape_are_played_in_each_part_of_their_time(shape: str, tmp_path: Path) -> None:
    scenario = scenario_of(SHAPES[shape](tmp_path))
    assert scenario.with_files({}) == scenario, "files are worked in once"
    assert Scenario.from_dict(json.loads(json.dumps(scenario.to_dict()))) == scenario
    for part in ("train", "validation", "test"):
        network = network_of(for_part(scenario, part))
        episode = run_episode(
            network, CACHING_POLICIES["popularity"](scenario, torch.Generator()), home_equal
        )
        assert bool((episode.latency >= 0).all())
        assert bool(episode.latency.isfinite().all())


def test_each_shape_becomes_what_it_says(tmp_path: Path) -> None:
    eua = scenario_of(of_eua(tmp_path))
    assert (eua.num_servers, eua.num_users) == (3, 5)
    assert eua.server_positions_m is not None
    assert math.fsum(x for x, _ in eua.server_positions_m) == pytest.approx(0, abs=1e-6)
    genai = scenario_of(of_genai(tmp_path))
    assert genai.fetch_s == pytest.approx((20, 21, 22, 23))
    assert genai.processes["requests_of_file"]["services"] == ["m0", "m1", "m2", "m3"]
    telecom = scenario_of(of_telecom(tmp_path))
    assert list(telecom.processes) == ["requests_of_file", "moves_of_file", "handover"]
    assert telecom.processes["moves_of_file"]["shares_clock"]
    assert telecom.processes["moves_of_file"]["users"] == telecom.processes["requests_of_file"]["users"]
    assert demand_is_known(telecom), "the file does not say what for"
    llm = network_of(scenario_of(of_llm(tmp_path))).present
    assert llm.task_bits is not None
    assert 4 * 8 * 100 <= float(llm.task_bits.min()) <= float(llm.task_bits.max()) < 4 * 8 * 4000
    kaist = scenario_of(of_kaist(tmp_path))
    assert kaist.processes["moves_of_file"]["users"] == [f"KAIST_{n:03d}" for n in range(4)]


def test_degrees_become_metres_around_the_mean_of_the_sites(tmp_path: Path) -> None:
    sites = write(tmp_path, "sites.csv", "lat,lon", "59.99,10", "60.01,10", "60,9.99", "60,10.01")
    users = write(tmp_path, "users.csv", "lat,lon", "60.01,10.01", "60,10", "60,10")
    scenario = SHORT.with_files({"sites": sites, "users": users})
    degree = math.radians(1) * 6_371_008.8
    assert scenario.num_users == 3, "users without names may share a place"
    assert scenario.user_positions_m is not None
    assert scenario.user_positions_m[0] == pytest.approx((0.01 * degree / 2, 0.01 * degree))
    assert scenario.user_positions_m[1] == pytest.approx((0, 0), abs=1e-6)


def test_a_projection_of_a_continent_is_said_to_be_off(tmp_path: Path) -> None:
    sites = write(tmp_path, "sites.csv", "lat,lon", "40,0", "50,0")
    with pytest.warns(HadrlWarning, match=r"sites of .* distances are off by 9.\d% after projection"):
        SHORT.with_files({"sites": sites})


# Requests -------------------------------------------------------------------------------------------------------------


def slow_slots(
    rows: list[tuple[float, int]], slot_s: float, users: int, waits: bool
) -> list[list[int | None]]:
    """Which row each place has in each slot, row by row."""
    rows = sorted(rows)
    number = math.floor((rows[-1][0] - rows[0][0]) / slot_s) + 1
    found: list[list[int | None]] = [[None] * users for _ in range(number)]
    for user in range(users):
        queue: deque[int] = deque()
        own = [
            (math.floor((time - rows[0][0]) / slot_s), n) for n, (time, who) in enumerate(rows) if who == user
        ]
        for slot in range(number):
            here = [n for at, n in own if at == slot]
            queue.extend(here)
            if queue:
                found[slot][user] = queue.popleft()
            if not waits:
                queue.clear()
    return found


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 2)), min_size=1, max_size=40), st.booleans())
@check
def test_requests_come_to_slots_as_a_slow_twin_has_them(rows: list[tuple[int, int]], waits: bool) -> None:
    path = Path.cwd() / f"twin-{abs(hash((*rows, waits)))}.csv"
    lines = [f"{time},{who},{n}" for n, (time, who) in enumerate(sorted(rows))]
    path.write_text("\n".join(["time_s,user,service", *lines]), encoding="utf-8")
    several = "next" if waits else "drop"
    names = tuple(map(str, range(3)))
    services = tuple(map(str, range(len(rows))))
    read = RequestSettings(
        file=str(path), slot_s=7.0, users=names, services=services, several=several, parts=(1.0, 0.0, 0.0)
    )
    found = read.load(3, len(rows))
    wanted = slow_slots([(float(time), who) for time, who in rows], 7.0, 3, waits)
    assert found.num_slots == len(wanted)
    slots = found.slots(np.arange(found.num_slots))
    got = [
        [int(k) if asks else None for k, asks in zip(*row)] for row in zip(slots["service"], slots["asks"])
    ]
    assert got == wanted


def test_without_a_slot_length_each_slot_takes_the_next_requests_in_time(tmp_path: Path) -> None:
    rows = [f"{time},u{time},s{time % 5}" for time in (3, 1, 2, 0, *range(4, 50))]
    file = requests_file(tmp_path, *rows)
    trace = RequestSettings(file=file, services=tuple(f"s{n}" for n in range(5))).load(4, 5)
    assert trace.num_slots == 12, "the last two requests fill no slot"
    assert trace.slots(np.array([0, 3]))["service"].tolist() == [[0, 1, 2, 3], [2, 3, 4, 0]]
    assert trace.times_s.tolist() == list(range(0, 48, 4))


def test_who_has_no_request_in_a_slot_is_idle_and_sizes_are_those_of_the_request(tmp_path: Path) -> None:
    rows = [
        f"{slot},{user},a,{100 + slot},," for slot in range(60) for user in "xy" if slot % 2 or user == "x"
    ]
    file = requests_file(tmp_path, *rows, header="time_s,user,service,input_bytes,cycles,deadline_s")
    scenario = scenario_of(
        {"requests": file},
        num_users=2,
        num_services=1,
        popularity="zipf",
        processes={"requests_of_file": {"slot_s": 1.0}},
    )
    network = network_of(scenario)
    for _ in range(2):
        network.begin_frame(torch.ones_like(network.cache))
        for _ in range(3):
            place = network.unfolding.memory["requests_of_file"]["place"]
            table, service = network.present, network.step(home_equal(network))
            assert table.task_bits is not None
            assert table.task_cycles is not None
            x, y = table.task_bits.unbind(-1)
            assert x.tolist() == [8.0 * (100 + at) for at in place.tolist()]
            odd = place % 2 == 1
            assert torch.equal(y > 0, odd)
            assert torch.equal(service.latency[:, 1] > 0, odd)
            assert table.task_cycles[0, 0] == scenario.cycles[0]


def test_the_slow_level_sees_tasks_as_they_usually_are(tmp_path: Path) -> None:
    """Users ask in 3 slots of 4; an own size is 4 KB of the first service, 2 KB of the second, or not said."""
    rows = [
        f"{n},{'xy'[n % 2]},{'ab'[n % 2]},{('4000', '2000')[n % 2] if n % 8 < 4 else ''},"
        for n in range(800)
        if n % 4
    ]
    file = requests_file(tmp_path, *rows, header="time_s,user,service,input_bytes,cycles")
    scenario = scenario_of(
        {"requests": file},
        num_users=2,
        num_services=2,
        history_slots=40,
        input_bytes=(8000.0, 2000.0),
        processes={"requests_of_file": {"slot_s": 1.0, "services": ("a", "b")}},
    )
    network = network_of(scenario, 30)
    usual = network.unfolding.processes["requests_of_file"].usual_tasks(network.exact, 2)
    assert usual is not None
    own = [row.split(",") for row in rows[: round(0.7 * len(rows))]]
    sizes = {"a": 8000, "b": 2000}
    mean = sum(float(size or sizes[service]) for _, _, service, size, _ in own)
    mean /= sum(sizes[service] for _, _, service, _, _ in own)
    assert float(usual.asking) == pytest.approx(3 / 8, abs=0.005)
    assert float(usual.bits) == pytest.approx(mean, abs=0.005)
    assert float(usual.cycles) == 1
    assert network.offloading_view().idle_users
    places = network.unfolding.memory["requests_of_file"]["place"]
    asked = [sum(n % 4 > 0 for n in range(max(0, int(at) - 40), int(at))) for at in places + 1]
    assert network.state.past_counts.sum(dim=1).tolist() == asked, "who told of tasks is not asked again"


@pytest.mark.parametrize("arrivals", ["poisson", "bernoulli"])
def test_queues_meet_their_load_with_what_requests_of_a_file_ask_for(arrivals: str, tmp_path: Path) -> None:
    """Of 4 users only one asks, for much at a service that needs little, or for what its service needs."""
    rows = [f"{n},{'wxyz'[n % 4]},{'ab'[n // 4 % 2]},{('9e9', '')[n // 4 % 2]}" for n in range(2000)]
    file = requests_file(tmp_path, *rows, header="time_s,user,service,cycles")
    scenario = scenario_of(
        {"requests": file},
        num_services=2,
        workload_cycles=(1e8, 6e9),
        processes={
            "requests_of_file": {"slot_s": 1.0, "services": ("a", "b")},
            "queues": {"load": 0.05, "arrivals": arrivals, "slot_s": 1.0},
        },
    )
    network, asked = network_of(scenario, 400), []
    for _ in range(2):
        network.begin_frame(torch.ones_like(network.cache))
        for _ in range(3):
            assert network.present.task_cycles is not None
            asked.append(float(network.present.task_cycles.sum(1).mean()))
            network.step(home_equal(network))
    compute = sum(scenario.compute_per_server_hz)
    assert sum(asked) / len(asked) / compute == pytest.approx(0.05, rel=0.06)


def test_parts_follow_one_another_and_no_episode_leaves_its_own(tmp_path: Path) -> None:
    data = of_movielens(tmp_path)
    scenario = scenario_of(data)
    trace_slots = 500 * 100 // 100 // 4
    ends = [bounds_of(trace_slots, (0.7, 0.15, 0.15), part) for part in ("train", "validation", "test")]
    assert ends[0][0] == 0
    assert ends[-1][1] == trace_slots
    assert all(one[1] == other[0] for one, other in pairwise(ends))
    seen: dict[str, set[int]] = {}
    for part, use in (("train", None), ("validation", Use.VALIDATION_NETWORKS), ("test", Use.TEST_NETWORKS)):
        if use is None:
            network = network_of(scenario, 40)
        else:
            network = EpisodeStream(scenario, "strict", 40, 40, 0, use).networks(0)
        places = set()
        for _ in range(2):
            network.begin_frame(torch.zeros_like(network.cache))
            for _ in range(3):
                network.step(home_equal(network))
                places |= set(network.unfolding.memory["requests_of_file"]["place"].tolist())
        seen[part] = places
    assert not seen["train"] & seen["validation"]
    assert not seen["validation"] & seen["test"]
    assert max(seen["train"]) < min(seen["validation"]) <= max(seen["validation"]) < min(seen["test"])


def test_the_record_is_what_the_part_has_before_the_episode(tmp_path: Path) -> None:
    rows = [f"{n},u,s{n % 5}" for n in range(400)]
    scenario = scenario_of({"requests": requests_file(tmp_path, *rows)}, num_services=5, history_slots=7)
    network = network_of(scenario, 20)
    names = scenario.processes["requests_of_file"]["services"]
    for place, counts in zip(
        network.unfolding.memory["requests_of_file"]["place"].tolist(), network.state.past_counts.tolist()
    ):
        asked = [f"s{n % 5}" for n in range(4 * max(0, place - 7), 4 * place)]
        assert counts == [asked.count(name) for name in names]


def test_services_are_ranked_by_demand_and_others_dropped_or_gathered(tmp_path: Path) -> None:
    asked = ["a"] * 50 + ["b"] * 30 + ["c"] * 15 + ["d"] * 5
    file = requests_file(tmp_path, *(f"{n},u,{asked[37 * n % 100]}" for n in range(100)))
    with pytest.warns(HadrlWarning, match=r"2 of 4 services of .* are dropped: 20.0% of its requests"):
        dropped = scenario_of({"requests": file}, num_services=2)
    assert dropped.processes["requests_of_file"]["services"] == ["b", "a"]
    with pytest.warns(HadrlWarning, match=r"2 of 4 services of .* are gathered in the service other: 20.0%"):
        gathered = scenario_of(
            {"requests": file}, num_services=3, processes={"requests_of_file": {"others": "gather"}}
        )
    assert gathered.processes["requests_of_file"]["services"] == ["other", "b", "a"]
    train = [asked[37 * n % 100] for n in range(round(0.7 * 25) * 4)]
    assert gathered.popularity == (
        float(sum(one in "cd" for one in train)),
        float(train.count("b")),
        float(train.count("a")),
    )


def test_all_users_can_be_gathered_on_the_places(tmp_path: Path) -> None:
    rows = [f"{10 * n},u{n % 6},a" for n in range(120)]
    read = RequestSettings(
        file=requests_file(tmp_path, *rows), slot_s=60.0, services=("a",), places="gather", several="drop"
    )
    trace = read.load(3, 1)
    assert bool(trace.slots(np.arange(trace.num_slots))["asks"].all())
    assert int(trace.starts[-1]) == 3 * trace.num_slots, "of 6 requests a slot 3 are dropped"


def test_streaming_is_the_same_as_reading_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draws = np.random.default_rng(0)
    rows = [
        f"{draws.integers(900)},u{draws.integers(9)},s{draws.integers(7)},{draws.integers(1, 99)}"
        for _ in range(500)
    ]
    file = requests_file(tmp_path, *rows, header="time_s,user,service,input_bytes")
    read = RequestSettings(file=file, slot_s=9.0)
    once = read.load(5, 7)
    monkeypatch.setattr("hadrl_lightning.trace_files.IN_MEMORY", 1000)
    parts = read.load(5, 7, rows=37)
    assert parts is not once
    for name in ("starts", "place", "service", "times_s"):
        assert np.array_equal(getattr(once, name), getattr(parts, name)), name
    assert np.array_equal(once.sizes["input_bytes"], parts.sizes["input_bytes"])
    chunks = [{"a": np.arange(9).reshape(3, 3)}, {"a": np.zeros((2, 3), dtype=np.int64)}] * 50
    assert IN_MEMORY > 1e9
    assert np.array_equal(stored(iter(chunks))["a"], np.concatenate([one["a"] for one in chunks]))


def test_parquet_says_the_same_as_csv(tmp_path: Path) -> None:
    rows = [(float(n), f"u{n % 6}", f"s{n % 7}") for n in range(300)]
    csv = requests_file(tmp_path, *(f"{time},{user},{service}" for time, user, service in rows))
    parquet = tmp_path / "requests.parquet"
    frame = pl.DataFrame(rows, schema=["time_s", "user", "service"], orient="row")
    frame.with_columns(
        pl.from_epoch((pl.col("time_s") * 1e6).cast(pl.Int64), "us").alias("time_s")
    ).write_parquet(parquet)
    one, other = (RequestSettings(file=str(file), slot_s=10.0).load(4, 7) for file in (csv, parquet))
    assert np.array_equal(one.starts, other.starts)
    assert np.array_equal(one.service, other.service)
    assert np.array_equal(one.times_s, other.times_s)


# Moves and gains ------------------------------------------------------------------------------------------------------


def test_users_walk_straight_between_the_times_of_the_file(tmp_path: Path) -> None:
    rows = ["0,a,0,0", "10,a,100,50", "5,b,7,7", "30,a,100,50", "25,b,27,-13", "0,b,7,7", "30,b,27,-13"]
    file = write(tmp_path, "moves.csv", "time_s,user,x_m,y_m", *rows)
    moves = MoveSettings(file=file, users=("b", "a")).load(2)
    times = np.array([-4.0, 0.0, 5.0, 15.0, 29.0, 99.0])
    wanted_a = [np.interp(times, [0, 10, 30], axis) for axis in ([0, 100, 100], [0, 50, 50])]
    wanted_b = [np.interp(times, [0, 5, 25, 30], axis) for axis in ([7, 7, 27, 27], [7, 7, -13, -13])]
    assert np.allclose(moves.at(times), np.stack([np.stack(wanted_b, -1), np.stack(wanted_a, -1)], axis=1))


def test_moves_and_gains_follow_the_clock_of_the_requests(tmp_path: Path) -> None:
    requests = requests_file(tmp_path, *(f"{1000 + n},{'xy'[n % 2]},s{n % 3}" for n in range(200)))
    moves = write(
        tmp_path, "m.csv", "time_s,user,x_m,y_m", *(f"{t},{u},{t},0" for t in (0, 5000) for u in "xy")
    )
    gains = [
        f"{t},{u},{s},{-80 - t / 100 - s}" for t in (1000, 1050, 1100, 1150) for u in "yx" for s in (0, 1)
    ]
    channel = write(tmp_path, "g.csv", "time_s,user,server,gain_db", *gains)
    scenario = scenario_of(
        {"requests": requests, "moves": moves, "channel": channel},
        num_users=2,
        num_services=3,
        processes={"requests_of_file": {"slot_s": 2.0}},
    )
    network = network_of(scenario)
    for _ in range(3):
        time = network.unfolding.slot.more["file_time_s"]
        assert torch.allclose(network.positions[:, 0, 0], time.float())
        step = 1000 + 50 * ((time - 1000) // 50)
        loss = network.present.link_loss_db
        assert loss is not None
        assert torch.allclose(loss[:, 1, 1], 81 + step / 100)
        if network.frame_over:
            network.begin_frame(torch.ones_like(network.cache))
        network.step(home_equal(network))


def test_gains_follow_the_clock_of_moves_where_there_are_no_requests(tmp_path: Path) -> None:
    walks = [f"{t},{u},{t},0" for t in (0, 300) for u in "xyzw"]
    gains = [f"{t},{u},{s},{-80 - t}" for t in range(0, 300, 10) for u in "xyzw" for s in (0, 1)]
    moves = write(tmp_path, "m.csv", "time_s,user,x_m,y_m", *walks)
    channel = write(tmp_path, "g.csv", "time_s,user,server,gain_db", *gains)
    scenario = scenario_of({"moves": moves, "channel": channel})
    assert scenario.processes["gains_of_file"]["shares_clock"]
    network = network_of(scenario)
    for _ in range(2):
        loss = network.present.link_loss_db
        assert loss is not None
        assert torch.equal(loss[..., 0].float(), 80 + 10 * (network.positions[..., 0] / 10).floor())
        network.unfolding.advance()


def test_users_who_are_numbers_have_the_places_of_these_numbers(tmp_path: Path) -> None:
    users = write(tmp_path, "users.csv", "x_m,y_m", *(f"{n},0" for n in range(12)))
    gains = [f"{user},{server},-{80 + user}" for user in reversed(range(12)) for server in (0, 1)]
    scenario = scenario_of(
        {"users": users, "channel": write(tmp_path, "g.csv", "user,server,gain_db", *gains)}
    )
    loss = network_of(scenario).present.link_loss_db
    assert loss is not None
    assert loss[0, :, 1].tolist() == [80 + n for n in range(12)]


def test_a_packed_file_says_the_same(tmp_path: Path) -> None:
    plain = requests_file(tmp_path, *(f"{0.1 * n:.1f},u{n % 4},s{n % 7}" for n in range(300)))
    packed = Path(f"{plain}.gz")
    packed.write_bytes(gzip.compress(Path(plain).read_bytes()))
    one, other = (RequestSettings(file=str(file), slot_s=0.1).load(4, 7) for file in (plain, packed))
    assert one.starts.tolist() == list(range(301)), "a request a slot"
    assert np.array_equal(one.starts, other.starts)
    assert np.array_equal(one.service, other.service)


def test_files_without_a_common_time_begin_each_at_times_of_its_own(tmp_path: Path) -> None:
    data = {**of_kaist(tmp_path), **of_movielens(tmp_path)}
    columns = {**of_kaist(tmp_path)["columns"], **data["columns"]}
    with pytest.warns(HadrlWarning, match="no time in common"):
        scenario = scenario_of({**data, "columns": columns, "scenario": {}})
    assert scenario.processes["moves_of_file"]["shares_clock"] is False
    network_of(scenario)


def test_permuting_users_of_files_permutes_the_world(tmp_path: Path) -> None:
    data = of_telecom(tmp_path)
    scenario = scenario_of({**data, "scenario": {"processes": {"requests_of_file": {"slot_s": 600.0}}}})
    names = scenario.processes["requests_of_file"]["users"]
    order = [2, 0, 3, 1]
    turned = {
        name: {**one, "users": [names[n] for n in order]} if "users" in one else one
        for name, one in scenario.processes.items()
    }
    one, other = network_of(scenario), network_of(replace(scenario, processes=turned))
    for name in ("task_cycles", "task_bits"):
        mine, theirs = getattr(one.present, name), getattr(other.present, name)
        assert torch.equal(mine[:, order] > 0, theirs > 0), name
    assert torch.equal(one.positions[:, order], other.positions)


def test_saved_networks_go_on_to_the_bit(tmp_path: Path) -> None:
    scenario = scenario_of(of_telecom(tmp_path))
    one, other = network_of(scenario, seed=1), network_of(scenario, seed=2)
    one.begin_frame(torch.ones_like(one.cache))
    one.step(home_equal(one))
    other.load_state_dict(one.state_dict())
    for _ in range(2):
        services = [network.step(home_equal(network)) for network in (one, other)]
        assert torch.equal(services[0].latency, services[1].latency)
        assert torch.equal(one.positions, other.positions)


@pytest.mark.unchecked
@pytest.mark.parametrize(
    "overlay", ["queues", "device", "hops", "slowdowns", "channel", "mobile channel slowdowns hops"]
)
def test_files_compose_with_every_overlay(overlay: str, tmp_path: Path) -> None:
    names = [f"{name}.yaml" for name in overlay.split()]
    processes = Scenario.from_config(*names).processes
    scenario = scenario_of(of_genai(tmp_path), processes=processes)
    network = network_of(for_part(scenario, "test"))
    assert network.present.task_cycles is not None
    episode = run_episode(
        network, CACHING_POLICIES["popularity"](scenario, torch.Generator()), best_known_policy
    )
    assert bool(episode.latency.isfinite().all())


# Mistakes -------------------------------------------------------------------------------------------------------------

GOOD = [f"{n},u{n % 5},s{n % 10}" for n in range(400)]
MISTAKES: dict[str, tuple[str | None, dict[str, Any], str]] = {
    "a time that is none": (
        "time_s,user,service\n1,a,b\nsoon,a,b",
        {},
        r"requests must have a number of seconds .* as time_s, got 'soon' in .*f.csv, row 3, column time_s",
    ),
    "an empty time": (
        "time_s,user\n,b",
        {},
        r"requests must have .* as time_s, got nothing in .*, row 2, column time_s",
    ),
    "a size below 0": (
        "time_s,input_bytes\n1,-2",
        {},
        r"requests must have a number from 0 to 1e\+12 as input_bytes, got '-2' in .*, row 2, column input_bytes",
    ),
    "more cells than columns": ("time_s,user\n1,2\n1,2,3", {}, r"row 3 has more than 2 columns, '1,2,3'"),
    "no user": (
        "time_s,user,service\n1,a,b\n2,,b",
        {},
        r"requests must have a name as user, got nothing in .*, row 3, column user",
    ),
    "a row that ends too soon": (
        "time_s,user,service\n1,a,b\n2,a",
        {},
        r"requests must have a name as service, got nothing in .*, row 3, column service",
    ),
    "a column twice": ("time_s,user,user\n1,a,b", {}, r"requests must have each column once, got user twice"),
    "a column twice in other letters": (
        "time_s,user,User\n1,a,b",
        {},
        r"requests must have each column once, got user twice",
    ),
    "times of no time": (
        "time_s\n1",
        {"columns": {"requests": {"time_s": {"column": "time_s", "times": 0}}}},
        r"columns.requests.time_s.times must be a finite number other than 0, got 0",
    ),
    "times that run backwards": (
        "time_s\n1",
        {"columns": {"requests": {"time_s": {"column": "time_s", "times": -1}}}},
        r"columns.requests.time_s.times must be above 0, got -1",
    ),
    "lines of an old Macintosh": (
        "time_s,user\r1,a\r2,b",
        {},
        r"files must have lines that end in a line feed, got carriage returns alone in .*f.csv",
    ),
    "nothing that is asked for": (
        "time_s,input_bytes,cycles\n" + "\n".join(f"{n},0,0" for n in range(99)),
        {},
        r"requests must ask for something, got 0 input_bytes and 0 cycles in each row of",
    ),
    "a listed service that is not there": (
        "\n".join(["time_s,user,service", *GOOD]),
        {"processes": {"requests_of_file": {"services": ("s1", "x")}}, "num_services": 2},
        r"processes.requests_of_file.services must be of those in .*, got 'x'",
    ),
    "a listed user who is not there": (
        "\n".join(["time_s,user,service", *GOOD]),
        {"processes": {"requests_of_file": {"slot_s": 1.0, "users": ("u1", "u2", "u3", "x")}}},
        r"processes.requests_of_file.users must be of those in .*, got 'x'",
    ),
    "a service listed twice": (
        "\n".join(["time_s,user,service", *GOOD]),
        {"processes": {"requests_of_file": {"services": ("s1", "s1")}}, "num_services": 2},
        r"processes.requests_of_file.services must have each name once, got 's1' twice",
    ),
    "no rows": ("time_s,user,service", {}, r"requests must have rows, got none in"),
    "an empty file": (None, {}, r"requests must have rows, got none in"),
    "no column of times": ("when,user\n1,2", {}, r"requests must have a column time_s .*, got when, user in"),
    "a column that is not there": (
        "time_s,user\n1,2",
        {"columns": {"requests": {"user": "uid"}}},
        r"columns.requests.user must be one of time_s, user, got uid for",
    ),
    "a number of a column that is not there": (
        "1\t2",
        {"columns": {"requests": {"time_s": 5}}},
        r"columns.requests.time_s must be from 0 to 1, got 5 for",
    ),
    "an unknown column of ours": (
        "time_s\n1",
        {"columns": {"requests": {"item": "x"}}},
        r"columns.requests must be of time_s, .*, got item",
    ),
    "columns of an unknown file": (
        "time_s\n1",
        {"columns": {"walks": {}}},
        r"columns must be of sites, .*, got walks",
    ),
    "columns of a file that is not given": (
        "time_s\n1",
        {"columns": {"moves": {}}},
        r"columns.moves must come with a file of moves, got none",
    ),
    "fewer services": (
        "time_s,service\n1,a\n2,b",
        {},
        r"num_services must be at most the 2 services of .*, got 10",
    ),
    "fewer users": (
        "time_s,user\n" + "\n".join(f"{n},u" for n in range(99)),
        {"processes": {"requests_of_file": {"slot_s": 1.0}}},
        r"num_users must be at most the 1 users of .*, got 4",
    ),
    "too many slots": (
        "time_s\n0\n1e9",
        {"processes": {"requests_of_file": {"slot_s": 1e-3}}},
        r"slot_s must make fewer than 1e\+08 slots of the 1e\+09 s of .*, got 0.001",
    ),
    "a trace shorter than an episode": (
        "\n".join(["time_s,user,service", *GOOD[:100]]),
        {},
        r"requests_of_file: file must have more slots in its validation part than an episode, 6, got 3 of the 25 slots",
    ),
    "a range of users": (
        "\n".join(["time_s,user,service", *GOOD]),
        {"num_users": Range(low=2, high=4)},
        r"num_users must be one number with a file of requests, got the range",
    ),
    "services of a file that names none": (
        "time_s\n1",
        {"processes": {"requests_of_file": {"services": ("a",)}}, "num_services": 1},
        r"requests must have a column service where services are named, got none in",
    ),
    "parts that are no shares": (
        "time_s\n0",
        {"processes": {"requests_of_file": {"parts": (0.5, 0.2, 0.2)}}},
        r"requests_of_file.parts must be shares of training, validation and test of sum 1, got \[0.5, 0.2, 0.2\]",
    ),
    "a setting of another type": (
        "time_s\n0",
        {"processes": {"requests_of_file": {"slot_s": "soon"}}},
        r"requests_of_file.slot_s must be a number or none, got 'soon'",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_requests_is_one_line(mistake: str, tmp_path: Path) -> None:
    text, fields, message = MISTAKES[mistake]
    path = tmp_path / "f.csv"
    path.write_text("" if text is None else text + "\n", encoding="utf-8")
    others = {name: value for name, value in fields.items() if name != "columns"}
    with pytest.raises(HadrlError, match=message) as error:
        network_of(scenario_of({"requests": str(path), "columns": fields.get("columns", {})}, **others))
    assert "\n" not in str(error.value)


PLACES = {
    "degrees for users, metres for sites": (
        {"sites": "x_m,y_m\n0,0\n9,9", "users": "lat,lon\n1,1"},
        r"users must have x_m and y_m, as sites have, got lat and lon",
    ),
    "degrees for moves without sites": (
        {"moves": "time_s,user,lat,lon\n1,a,1,1"},
        r"moves must have x_m and y_m, as servers without a file of sites have, got lat and lon",
    ),
    "both": (
        {"sites": "x_m,y_m,lat,lon\n0,0,1,1"},
        r"sites must have x_m and y_m, or lat and lon, got x_m, y_m, lat, lon",
    ),
    "half": ({"sites": "x_m,lon\n0,0"}, r"sites must have x_m and y_m, or lat and lon, got x_m, lon"),
    "neither": ({"sites": "x,y\n0,0"}, r"sites must have x_m and y_m, or lat and lon, got neither in"),
    "a latitude beyond the pole": (
        {"sites": "lat,lon\n91,0"},
        r"sites must have a number from -90 to 90 as lat, got '91'",
    ),
    "a hole": (
        {"sites": "x_m,y_m\n0,"},
        r"sites must have a number .* as y_m, got nothing in .*, row 2, column y_m",
    ),
    "a header alone": ({"sites": "x_m,y_m"}, r"sites must have rows, got none in"),
    "a service without cycles": (
        {"services": "name,cycles\na,1e9\nb,"},
        r"services must have a number .* as cycles, got nothing in .*, row 3, column cycles",
    ),
    "moves of others than ask": (
        {
            "requests": "time_s,user,service\n" + "\n".join(f"{n},u{n % 4},s{n % 10}" for n in range(99)),
            "moves": "time_s,user,x_m,y_m\n" + "\n".join(f"{t},{u},1,1" for t in (0, 99) for u in "abcd"),
        },
        r"moves must have all users who have a place, got none of u0 in .*moves.csv \(processes.moves_of_file.users",
    ),
    "two gains of a link": (
        {"channel": "user,server,gain_db\n" + "\n".join(f"{n % 4},{n // 4 % 2},-9{n}" for n in range(9))},
        r"channel must have one row of each user and server for each time, got 2 of user 0 and server 0 in",
    ),
    "moves and users": (
        {"users": "x_m,y_m\n0,0", "moves": "time_s,user,x_m,y_m\n1,a,1,1"},
        r"users must not be given beside moves",
    ),
    "storage twice": (
        {"services": "name,storage_bytes,load_s\na,1,1"},
        r"services must have storage_bytes or load_s, got both",
    ),
    "a service twice": ({"services": "name\na\na"}, r"services must have each name once, got 'a' twice in"),
    "too few movers": (
        {"moves": "time_s,user,x_m,y_m\n1,a,1,1"},
        r"num_users must be at most the 1 users of .*, got 4",
    ),
    "moves shorter than an episode": (
        {"moves": "time_s,user,x_m,y_m\n" + "\n".join(f"{t},{u},1,1" for t in (0, 20) for u in "abcd")},
        r"moves_of_file: file must have more slots in its validation part than an episode, 6, got 3 of the 21 slots",
    ),
    "gains of half the links": (
        {"channel": "user,server,gain_db\n" + "\n".join(f"{u},0,-90" for u in range(4))},
        r"channel must have a row of each user and server for each time, got none of user 0 and server 1 in",
    ),
    "gains twice": (
        {"channel": "user,server,gain_db,gain\n" + "\n".join(f"{u},0,-90,1e-9" for u in range(4))},
        r"channel must have either gain_db or gain",
    ),
    "no gain": (
        {"channel": "user,server\n" + "\n".join(f"{u},0" for u in range(4))},
        r"channel must have either gain_db or gain",
    ),
}


@pytest.mark.parametrize("mistake", PLACES)
def test_a_mistake_in_places_is_one_line(mistake: str, tmp_path: Path) -> None:
    texts, message = PLACES[mistake]
    files = {what: write(tmp_path, f"{what}.csv", text) for what, text in texts.items()}
    slots = {"processes": {"requests_of_file": {"slot_s": 1.0}}} if "requests" in texts else {}
    with pytest.raises(HadrlError, match=message) as error:
        network_of(scenario_of(files, **slots))
    assert "\n" not in str(error.value)


def test_a_folder_of_other_columns_text_in_another_encoding_and_truths_are_one_line(tmp_path: Path) -> None:
    write(tmp_path, "walks/a.csv", "time_s,x_m,y_m", "0,1,1")
    write(tmp_path, "walks/b.csv", "time_s,x,y", "0,1,1")
    with pytest.raises(
        HadrlError, match=r"moves must have the column x_m in each file, got time_s, x, y in .*b"
    ):
        scenario_of({"moves": str(tmp_path / "walks")})
    latin = tmp_path / "latin.csv"
    latin.write_bytes("time_s,user\n1,a\n2,Zoé\n".encode("latin-1"))
    with pytest.raises(HadrlError, match=r"requests must be a readable table, got .*: row 3 is not in UTF-8"):
        scenario_of({"requests": str(latin)}, processes={"requests_of_file": {"slot_s": 1.0}})
    pl.DataFrame({"time_s": [True, False]}).write_parquet(tmp_path / "r.parquet")
    with pytest.raises(HadrlError, match=r"requests must have a number of seconds .*, got true or false in"):
        network_of(scenario_of({"requests": str(tmp_path / "r.parquet")}))
    with pytest.raises(HadrlError, match="requests must be a file, a folder or a pattern of files, got ''"):
        scenario_of({"requests": ""})


def test_sessions_without_a_place_are_left_out_of_moves_and_sites_and_said(tmp_path: Path) -> None:
    rows = [f"{n},{u},{n % 3 or ''},7" for n in range(99) for u in "abcd"]
    file = write(tmp_path, "sessions.csv", "time_s,user,x_m,y_m", *rows)
    with pytest.warns(HadrlWarning, match=r"132 rows of .* without x_m or y_m are left out of moves"):
        scenario = scenario_of(
            {"sites": file, "requests": file, "moves": file},
            processes={"requests_of_file": {"slot_s": 1.0}},
        )
    assert scenario.server_positions_m == ((1.0, 7.0), (2.0, 7.0))
    assert network_of(scenario).positions[..., 0].min() >= 1
    with pytest.raises(HadrlError, match=r"sites must have .* as x_m, got nothing in .*, row 2, column x_m"):
        scenario_of({"sites": file})


def test_sites_on_both_sides_of_the_date_line_are_beside_one_another(tmp_path: Path) -> None:
    scenario = SHORT.with_files({"sites": write(tmp_path, "sites.csv", "lat,lon", "0,179.99", "0,-179.99")})
    assert scenario.server_positions_m is not None
    assert np.allclose(scenario.server_positions_m, [(-1111.95, 0), (1111.95, 0)], atol=0.01)


def test_what_listed_services_and_users_leave_out_is_said_once(tmp_path: Path) -> None:
    listed = {"slot_s": 1.0, "services": ("s1", "s2"), "users": ("u1", "u2", "u3", "u4")}
    file = requests_file(tmp_path, *GOOD)
    with pytest.warns(HadrlWarning) as said:
        scenario = scenario_of({"requests": file}, num_services=2, processes={"requests_of_file": listed})
    lines = [str(one.message) for one in said]
    assert any(
        re.match(r"8 services of .* that are not listed are dropped: 80.0% of its", one) for one in lines
    )
    assert any(re.match(r"4 of 5 users of .* have a place, with 80.0% of its requests", one) for one in lines)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert scenario.with_files({}) == scenario


def test_a_file_that_changes_after_the_scenario_was_made_is_said_wherever_it_is_played(
    tmp_path: Path,
) -> None:
    file = requests_file(tmp_path, *GOOD)
    scenario = scenario_of({"requests": file})
    os.utime(file, (1, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        network_of(scenario)
    moved = scenario_of({"requests": write(tmp_path, "moved.csv", "time_s,user,service", *GOOD)})
    requests_file(tmp_path, *reversed(GOOD))
    with pytest.warns(HadrlWarning, match="requests.csv has changed since the scenario was made"):
        network_of(scenario)
    settings = {name: one.to_dict() for name, one in (("then", scenario), ("moved", moved))}
    now = scenario_of({"requests": file}).to_dict()
    checkpoint = {"hyper_parameters": {"scenario": settings["then"]}}
    path = tmp_path / "last.ckpt"
    check_settings(path, checkpoint, {"scenario": settings["moved"]})
    with pytest.raises(
        HadrlError, match=r"the same scenario, got .*last.ckpt: .*requests.csv has changed since"
    ):
        check_settings(path, checkpoint, {"scenario": now})


def test_popularity_is_asked_for_only_where_no_file_says_it(tmp_path: Path) -> None:
    config = write(tmp_path, "few.yaml", json.dumps({"data": {"scenario": {"num_services": 5}}}))
    rows = [f"{n},u,s{n % 5}" for n in range(999)]
    file = write(tmp_path, "file.yaml", json.dumps({"data": {"requests": requests_file(tmp_path, *rows)}}))
    assert len(Scenario.from_config("es2.yaml", config, file).popularity) == 5
    with pytest.raises(ValueError, match="popularity must be zipf or a list"):
        Scenario.from_config("es2.yaml", config)


def test_a_file_that_is_not_there_and_no_polars_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        HadrlError, match=r"requests must be a file, a folder or a pattern of files, got .*none.csv"
    ):
        scenario_of({"requests": str(tmp_path / "none.csv")})
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(HadrlError, match=r"requests needs Polars: pip install 'hadrl-lightning\[files\]'"):
        open_table("requests", requests_file(tmp_path, "1,2,3"), {"time_s": Column("time")})


def test_metres_that_look_like_degrees_are_said_loudly(tmp_path: Path) -> None:
    rows = [f"{t},{u},{-37.8 + t / 1e5},{144.9 + t / 1e5}" for t in range(0, 2000, 100) for u in "abcd"]
    with pytest.warns(HadrlWarning, match="x_m and y_m of .* look like degrees"):
        network_of(scenario_of({"moves": write(tmp_path, "m.csv", "time_s,user,x_m,y_m", *rows)}))


# What uses them -------------------------------------------------------------------------------------------------------


def tiny(data: Mapping[str, Any]) -> dict[str, Any]:
    small = {
        "data": {
            "num_envs": 2,
            "passes_per_epoch": 1,
            "validation_episodes": 2,
            "test_episodes": 2,
            "scenario": {
                "decisions_per_episode": 2,
                "slots_per_decision": 3,
                "num_users": 4,
                "history_slots": 10,
            },
        },
        "planning": {"seed_decisions": 2, "decisions_per_epoch": 1},
        "trainer": {"max_epochs": 2},
    }
    files = [load_config(name) for name in ("base.yaml", "es2.yaml", "quick.yaml")]
    return resolved(merged(*files, small, {"data": dict(data)}))


def fitted(data: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    run = tiny(data)
    parts = build(run)
    evaluation = EpisodeEvaluation(references=False)
    trainer = quiet_trainer(
        max_epochs=2,
        accelerator="cpu",
        devices=1,
        callbacks=[parts.planning, evaluation],
        num_sanity_val_steps=0,
    )
    trainer.fit(parts.model, datamodule=parts.data)
    return trainer, parts.model, parts.data


@pytest.mark.unchecked
def test_an_agent_is_trained_tested_and_used_without_the_file(tmp_path: Path) -> None:
    data = of_movielens(tmp_path)
    trainer, model, module = fitted(data)
    assert model.scenario == module.scenario
    assert module.scenario.processes["requests_of_file"]["file"] == data["requests"]
    trainer.test(model, datamodule=module, verbose=False)
    assert math.isfinite(float(trainer.callback_metrics["test/latency"]))
    assert trainer.predict(model, datamodule=module)
    view = network_of(model.scenario).offloading_view()
    model.save_weights(tmp_path / "agent.ckpt")
    Path(data["requests"]).unlink()
    offloading_view_of.cache_clear()
    again = type(model).from_checkpoint(tmp_path / "agent.ckpt")
    assert again.scenario == model.scenario
    assert again.decide(view).server.shape == (3, 4)


@pytest.mark.unchecked
def test_a_benchmark_computes_anew_what_was_played_from_a_file_that_has_changed(tmp_path: Path) -> None:
    data = of_movielens(tmp_path)
    given_data = {name: data[name] for name in ("requests", "columns")}
    config = write(tmp_path, "lens.yaml", json.dumps({"data": given_data}))
    short = {"num_users": 4, "decisions_per_episode": 2}
    plan = PlanSettings(
        scenarios=("es2.yaml",),
        overlays=(config,),
        overrides={"data": {"scenario": short, "test_episodes": 2}},
        policies=("popularity+home_equal",),
        seeds=(0,),
    )
    cell = make_plan(plan).cells[0]
    assert make_plan(plan).cells[0].key == cell.key
    result = compute(cell)
    train = replace(
        cell, settings={**cell.settings, "scenario": with_part(cell.settings["scenario"], "train")}
    )
    assert compute(train).scores != result.scores, "it is judged in the test part"
    os.utime(data["requests"], (1, 1))
    assert make_plan(plan).cells[0].key != cell.key


def with_part(fields: dict[str, Any], part: str) -> dict[str, Any]:
    processes = {name: {**one, "part": part} for name, one in fields["processes"].items()}
    return {**fields, "processes": processes}


@pytest.mark.whole
@pytest.mark.unchecked
@pytest.mark.parametrize("shape", SHAPES)
def test_agents_are_trained_tested_and_predict_on_every_shape(shape: str, tmp_path: Path) -> None:
    trainer, model, module = fitted(SHAPES[shape](tmp_path))
    trainer.test(model, datamodule=module, verbose=False)
    assert math.isfinite(float(trainer.callback_metrics["test/latency"]))
    assert trainer.predict(model, datamodule=module)


def test_settings_of_files_say_the_same_everywhere(tmp_path: Path) -> None:
    data = of_movielens(tmp_path)
    given_data = {name: data[name] for name in ("requests", "columns")}
    config = write(
        tmp_path,
        "lens.yaml",
        json.dumps({"data": {**given_data, "scenario": {"num_users": 4, "decisions_per_episode": 2}}}),
    )
    scenario = Scenario.from_config("es2.yaml", config)
    assert scenario.processes["requests_of_file"]["file"] == data["requests"]
    base = replace(Scenario.from_config("es2.yaml"), num_users=4, decisions_per_episode=2)
    assert TransitionDataModule(base, requests="u.data", columns=data["columns"]).scenario == scenario
    assert (
        Scenario.from_dict(resolved(merged(load_config("es2.yaml"), load_config(config)))["data"]["scenario"])
        == scenario
    )
    env = EdgeNetworkVectorEnv(2, scenario=scenario)
    assert env.reset() is not None


DOCS = (Path(__file__).parents[2] / "docs" / "files.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^```bash\n(hadrl .*)\n```", DOCS, re.MULTILINE)


@pytest.mark.whole
@pytest.mark.unchecked
@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_of_the_tutorial_run(command: str, tmp_path: Path) -> None:
    for make in SHAPES.values():
        make(tmp_path)
    words = [
        *shlex.split(command.replace("num_services 100", "num_services 10"))[1:],
        "--config",
        "quick.yaml",
    ]
    words += ["--data.scenario.num_users", "4", "--data.scenario.decisions_per_episode", "2"]
    words += ["--data.test_episodes", "2", "--trainer.max_epochs", "1"]
    assert main(words) == 0


@pytest.mark.whole
@pytest.mark.unchecked
def test_the_command_line_fits_tests_and_predicts_with_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = of_telecom(tmp_path)
    words = ["--config", "es2.yaml", "--config", "quick.yaml", "--data.scenario.num_users", "4"]
    words += [
        "--data.scenario.decisions_per_episode",
        "2",
        "--data.test_episodes",
        "2",
        "--trainer.max_epochs",
        "2",
    ]
    words += ["--data.scenario.processes", json.dumps(data["scenario"]["processes"])]
    words += ["--data.columns", json.dumps(data["columns"])]
    for name in ("sites", "requests", "moves"):
        words += [f"--data.{name}", "telecom.csv"]
    assert main(["fit", *words]) == 0
    run = tmp_path / "checkpoints" / "es2-quick" / "version_0"
    assert f"requests: {data['requests']}" in (run / "config.yaml").read_text(encoding="utf-8")
    for command in ("validate", "test", "predict"):
        assert main([command, "--ckpt_path", str(run / "best.ckpt")]) == 0
    assert main(["fit", "--ckpt_path", str(run / "last.ckpt"), "--trainer.max_epochs", "3"]) == 0
    capsys.readouterr()
    assert main(["fit", *words, "--data.users", "none.csv"]) == 2
    assert "hadrl: error: data.users must" in capsys.readouterr().err

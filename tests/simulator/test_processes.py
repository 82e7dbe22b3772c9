"""What changes by itself: the usual processes, those that a user adds from outside the package; worlds that move."""

import csv
import math
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hadrl_lightning.agents import HADRL
from hadrl_lightning.agents.views import of_kind
from hadrl_lightning.baselines import (
    CACHING_POLICIES,
    OFFLOADING_POLICIES,
    best_known_allocation,
    best_known_policy,
)
from hadrl_lightning.baselines.cache_slots import DrawnSlots
from hadrl_lightning.callbacks.references import References
from hadrl_lightning.cli import main
from hadrl_lightning.cli.mistakes import naming_settings
from hadrl_lightning.config_files import load_config
from hadrl_lightning.data import TransitionDataModule
from hadrl_lightning.errors import HadrlError
from hadrl_lightning.judge import optimal_hit_ratio_if_known
from hadrl_lightning.play import MEASURED, Episode, home_equal, run_episode
from hadrl_lightning.scenario import Scenario
from hadrl_lightning.simulator import (
    Allocation,
    EdgeNetwork,
    OffloadingView,
    Use,
    decode_caching,
    decode_offloading,
    equal_shares,
    fields_of,
    from_vector,
    make_generator,
    num_targets,
    vector_size,
)
from hadrl_lightning.simulator.constants import constants, constants_of_each
from hadrl_lightning.simulator.decisions import sum_per_server
from hadrl_lightning.simulator.physics import rules
from hadrl_lightning.simulator.processes import (
    PROCESSES,
    DriftingRequests,
    Handover,
    SlowServers,
    World,
    demand_is_known,
    processes_of,
)
from hadrl_lightning.simulator.service import served_slot
from hadrl_lightning.simulator.state import NetworkState, Slot
from hadrl_lightning.simulator.unfolding import Unfolding, offloading_view_of
from hadrl_lightning.typed import as_floats

ROOT = Path(__file__).resolve().parents[2]
EXTENDING = (ROOT / "docs/extending.md").read_text(encoding="utf-8")


def example(kind: str, name: str) -> str:
    """The example of docs/extending.md of this name."""
    (body,) = re.findall(rf"^```{kind}\n# {re.escape(name)}.*?\n(.*?)^```", EXTENDING, re.M | re.S)
    return str(body)


TOYS = '''
from dataclasses import dataclass

import torch

from hadrl_lightning.simulator.processes import Process


@dataclass(frozen=True)
class Slowdown(Process):
    """Servers are at times slower; a hidden Markov chain."""

    factor: float = 0.1
    brings = ("speed",)

    def initial(self, world, generator):
        return {"speed": torch.ones(world.num_envs, world.scenario.num_servers, dtype=world.dtype)}

    def advance(self, world, memory, generator):
        changes = torch.rand(memory["speed"].shape, generator=generator) < 0.3
        other = torch.where(memory["speed"] == 1, self.factor, 1.0).to(memory["speed"])
        return {"speed": torch.where(changes, other, memory["speed"])}

    def adjusted(self, table, slot, carried):
        return table._replace(compute_hz=table.compute_hz * slot.more["speed"])


@dataclass(frozen=True)
class LatestFashion(Process):
    """All ask for one service, another one in every slot."""

    brings = ("requests",)

    def initial(self, world, generator):
        shape = (world.num_envs, world.scenario.num_users)
        return {"requests": torch.zeros(shape, dtype=torch.long), "clock": torch.zeros(world.num_envs)}

    def advance(self, world, memory, generator):
        next_one = (memory["requests"] + 1) % world.scenario.num_services
        return {"requests": next_one, "clock": memory["clock"] + 1}
'''


@pytest.fixture
def toys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "toy_world.py").write_text(example("python", "my_world.py") + TOYS)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "toy_world"
    sys.modules.pop("toy_world", None)


def played(scenario: Scenario, seed: int = 1, episodes: int = 2) -> list[Episode]:
    """Episodes by random decisions that depend on nothing that is drawn for the networks."""
    network = EdgeNetwork(scenario, num_envs=3, generator=make_generator(seed, Use.TEST_NETWORKS))
    choice = torch.Generator().manual_seed(seed)

    def draw(size: int) -> torch.Tensor:
        return torch.rand(3, size, generator=choice) * 2 - 1

    return [
        run_episode(
            network,
            lambda net: decode_caching(scenario, draw(scenario.caching_action_size), net.cache),
            lambda net: decode_offloading(scenario, draw(scenario.offloading_action_size)),
        )
        for _ in range(episodes)
    ]


def test_the_usual_processes_are_those_of_the_scenario() -> None:
    assert list(processes_of(Scenario())) == ["stationary_requests", "cell_positions", "rayleigh_fading"]
    fixed = Scenario(num_users=2, user_positions_m=((0.0, 1.0), (2.0, 300.0)))
    assert list(processes_of(fixed)) == ["stationary_requests", "fixed_positions", "rayleigh_fading"]
    assert PROCESSES.names()[:4] == [
        "stationary_requests",
        "cell_positions",
        "fixed_positions",
        "rayleigh_fading",
    ]


def test_a_process_of_ones_own_changes_nothing_that_others_draw(toys: str) -> None:
    usual = played(Scenario())
    slow = played(Scenario(processes={f"{toys}.Slowdown": {"factor": 0.01}}))
    for one, other in zip(usual, slow, strict=True):
        assert torch.equal(one.requests, other.requests)
        assert torch.equal(one.positions, other.positions)
        assert torch.equal(one.spectral_efficiency, other.spectral_efficiency)
        assert (other.latency >= one.latency).all()
        assert (other.latency > one.latency).any()


def test_a_process_takes_the_place_of_a_usual_one(toys: str) -> None:
    scenario = Scenario(processes={f"{toys}.LatestFashion": {}})
    assert list(processes_of(scenario)) == [f"{toys}.LatestFashion", "cell_positions", "rayleigh_fading"]
    first, second = played(scenario)
    asked = torch.arange(50)[:, None, None].expand(50, 3, 30) % 10
    assert torch.equal(first.requests, asked)
    assert torch.equal(second.requests, asked)  # begins anew with the episode


def test_work_that_is_left_waits_and_is_seen_by_itself(toys: str) -> None:
    scenario = Scenario(compute_hz=1e9, processes={f"{toys}.Backlog": {"slot_s": 0.5}})
    network = EdgeNetwork(scenario, num_envs=2, generator=make_generator(0, Use.TEST_NETWORKS))
    view = network.offloading_view()
    assert type(view) is offloading_view_of(scenario)
    assert isinstance(view, OffloadingView)
    assert [one.name for one in fields_of(type(view))][-1] == "backlog"
    assert view.backlog.tolist() == [[0.0, 0.0]] * 2  # type: ignore[attr-defined]
    before = network.offloading_observation()
    assert before.shape == (2, vector_size(OffloadingView, Scenario()) + 2)
    network.begin_frame(torch.ones(2, 2, 10, dtype=torch.bool))
    middle = torch.zeros(2, scenario.offloading_action_size)
    first = network.step(decode_offloading(scenario, middle))
    left = network.offloading_observation()[:, -2:] * 1e9
    cycles = torch.tensor(scenario.cycles)
    assert left[:, 0].tolist() == [0.0, 0.0]  # all went to server 1
    seen = from_vector(type(view), network.offloading_observation(), scenario)
    torch.testing.assert_close(seen.backlog, left)  # type: ignore[attr-defined]
    again = network.requests
    second = network.step(decode_offloading(scenario, middle))
    waits = left[:, 1:] / 1e9
    free = Scenario(compute_hz=1e9)
    other = EdgeNetwork(free, num_envs=2, generator=make_generator(0, Use.TEST_NETWORKS))
    other.begin_frame(torch.ones(2, 2, 10, dtype=torch.bool))
    torch.testing.assert_close(first.latency, other.step(decode_offloading(free, middle)).latency)
    undelayed = other.step(decode_offloading(free, middle)).latency
    torch.testing.assert_close(second.latency, undelayed + waits)
    total = cycles[other_requests(0)].sum(1) + cycles[again].sum(1) - 2 * 0.5 * 1e9
    torch.testing.assert_close(network.offloading_observation()[:, -1] * 1e9, total, rtol=1e-4, atol=1e3)


def other_requests(seed: int) -> torch.Tensor:
    """What is asked in the first slot."""
    return EdgeNetwork(Scenario(), num_envs=2, generator=make_generator(seed, Use.TEST_NETWORKS)).requests


def test_networks_with_processes_go_on_from_a_saved_state(toys: str) -> None:
    settings = {f"{toys}.Backlog": {}, f"{toys}.Slowdown": {}, f"{toys}.LatestFashion": {}}
    scenario = Scenario(compute_hz=2e9, processes=settings)

    def network(seed: int) -> EdgeNetwork:
        return EdgeNetwork(scenario, num_envs=2, generator=make_generator(seed, Use.TEST_NETWORKS))

    def on(one: EdgeNetwork) -> torch.Tensor:
        action = torch.linspace(-1, 1, 2 * scenario.offloading_action_size).view(2, -1)
        return torch.stack([one.step(decode_offloading(scenario, action)).latency for _ in range(2)])

    here, there = network(0), network(1)
    here.begin_frame(torch.ones(2, 2, 10, dtype=torch.bool))
    on(here)
    there.load_state_dict(here.state_dict())
    assert torch.equal(on(here), on(there))
    assert torch.equal(here.offloading_observation(), there.offloading_observation())
    usual = EdgeNetwork(Scenario(compute_hz=2e9), num_envs=2)
    with pytest.raises(ValueError, match=r"processes must be .*Backlog.*, got stationary_requests"):
        usual.load_state_dict({**here.state_dict(), "state": usual.state_dict()["state"]})


def test_an_environment_with_a_process_of_ones_own_is_one(toys: str) -> None:
    scenario = Scenario(num_users=4, compute_hz=2e9, processes={f"{toys}.Backlog": {}})
    env = gymnasium.make("hadrl/ComputationOffloading-v0", scenario=scenario)
    assert env.observation_space.shape == (2 * 10 + 3 * 2 + 3 * 4 + 2,)
    check_env(env.unwrapped)


@pytest.mark.parametrize(
    ("processes", "message"),
    [
        ({"nosuch": {}}, r"processes must be one of stationary_requests, .*, got nosuch"),
        (
            {"nosuch.Process": {}},
            r"processes must be a module path that can be imported, got nosuch\.Process",
        ),
        ({"torch.nn.Linear": {}}, r"processes must be a process, got torch\.nn\.Linear"),
        ({"rayleigh_fading": {"speed": 1}}, r"processes\.rayleigh_fading must be of no settings, got speed"),
        (
            {"cell_positions": {}, "fixed_positions": {}},
            r"processes must bring each entry once, got positions by cell_positions and fixed_positions",
        ),
        ([1], r"processes must be settings by the name of a process, got \[1\]"),
        ({"rayleigh_fading": 3}, r"processes must be settings by the name of a process"),
    ],
)
def test_processes_that_cannot_be_are_refused_in_one_line(processes: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EdgeNetwork(Scenario.from_dict({"processes": processes}))


def test_a_setting_of_a_process_out_of_range_is_refused_by_name(toys: str) -> None:
    for value, allowed in (
        (0, "above 0, got 0"),
        (float("nan"), "a number, got nan"),
        ("x", "a number, got 'x'"),
    ):
        told = rf"^data\.scenario\.processes\.toy_world\.Backlog\.slot_s must be {allowed}$"
        settings = naming_settings({"data": TransitionDataModule})
        with pytest.raises(HadrlError, match=told), settings:
            TransitionDataModule(Scenario(processes={f"{toys}.Backlog": {"slot_s": value}}))
    assert (
        processes_of(Scenario(processes={f"{toys}.Backlog": {"slot_s": "500ms"}}))[f"{toys}.Backlog"].slot_s
        == 0.5
    )


BROKEN = """
from dataclasses import dataclass
import torch
from hadrl_lightning.simulator.fields import SERVER, Field
from hadrl_lightning.simulator.processes import Process

@dataclass(frozen=True)
class Broken(Process):
    gives: str
    brings = ("requests", "fading", "down")
    fields = {"down": Field(axes=(SERVER,), text="server {} is down")}

    def initial(self, world, generator):
        users = 2 if self.gives == "few" else world.scenario.num_users
        asked = torch.full((world.num_envs, users), 99 if self.gives == "strange" else 0)
        fading = torch.full((world.num_envs, users), {"dead": -1.0, "endless": float("inf")}.get(self.gives, 1.0))
        usual = {"requests": asked, "fading": fading}
        return usual | ({} if self.gives == "less" else {"down": torch.zeros(world.num_envs, 2)})

    def shown(self, table, slot, carried):
        down = slot.more["down"]
        return {} if self.gives == "unseen" else {"down": down[:, :1] if self.gives == "narrow" else down}
"""


@pytest.mark.parametrize(
    ("gives", "told"),
    [
        ("less", "must give down, which it brings, got requests, fading"),
        ("few", r"must give requests of shape \[3, 30\], got \[3, 2\]"),
        ("strange", r"must give requests of whole numbers from 0 to 9, got 99 to 99, torch\.int64"),
        ("dead", "must give fading that is not negative, got -1"),
        ("endless", "must give fading that is finite, got inf"),
        ("unseen", "must show down, got nothing"),
        ("narrow", r"must show down of shape \[3, 2\], got \[3, 1\]"),
        ("right", ""),
    ],
)
def test_what_a_process_gives_is_checked_and_the_process_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gives: str, told: str
) -> None:
    (tmp_path / "broken_world.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(str(tmp_path))
    scenario = Scenario(processes={"broken_world.Broken": {"gives": gives}})
    if not told:
        assert EdgeNetwork(scenario, num_envs=3).offloading_view().down.shape == (3, 2)  # type: ignore[attr-defined]
        return

    def seen(data: TransitionDataModule) -> None:
        data.setup("fit")
        assert data.network is not None
        data.network.offloading_view()

    data = TransitionDataModule(scenario, num_envs=3)
    with pytest.raises(HadrlError, match=rf"^processes\.broken_world\.Broken {told}$"):
        seen(data)


def test_a_scenario_with_processes_is_a_value(toys: str) -> None:
    settings = {f"{toys}.Backlog": {"slot_s": 2.0}}
    one = Scenario(processes=settings)
    assert one == Scenario.from_dict(one.to_dict())
    assert hash(one) == hash(Scenario.from_dict(one.to_dict()))
    assert type(one.to_dict()["processes"]) is dict  # files of agents hold plain values alone
    assert one != Scenario()
    assert one.to_dict()["processes"] == settings
    assert vector_size(offloading_view_of(one), one) == 20 + 3 * 2 + 3 * 30 + 2


# The examples of docs/extending.md ---------------------------------------------------------------------------------

OWN = {
    "my_world": "backlog",
    "my_trace": "trace",
    "my_drift": "my_drift",
    "my_walk": "walk",
    "my_device": "stay",
    "my_agent": "worth",
    "my_measures": "mine",
}


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the examples, which is the working directory."""
    monkeypatch.chdir(tmp_path)
    for module, overlay in OWN.items():
        (tmp_path / f"{module}.py").write_text(example("python", f"{module}.py"))
        (tmp_path / f"{overlay}.yaml").write_text(example("yaml", f"{overlay}.yaml"))
    rows = np.arange(7 * 30).reshape(7, 30) + 3 * np.arange(7)[:, None]
    np.savetxt("requests.csv", rows % 10, fmt="%d", delimiter=",")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for module in OWN:
        sys.modules.pop(module, None)
    rules.cache_clear()


def own_processes(*names: str) -> dict[str, Any]:
    """The processes of some of these settings."""
    found: dict[str, Any] = {}
    for name in names:
        found |= load_config(f"{name}.yaml")["data"]["scenario"]["processes"]
    return found


def test_the_table_tells_what_each_change_takes() -> None:
    rows = re.findall(r"^\| [^|]+ \| `(\w+)\.py`, .* \| (\d+) \|$", EXTENDING, re.M)
    assert [module for module, _ in rows] == [
        *("my_world", "my_device", "my_trace", "my_drift", "my_walk", "my_agent", "my_model", "my_measures")
    ]
    for module, lines in rows:
        body = example("python", f"{module}.py")
        assert int(lines) == len([line for line in body.splitlines() if line.strip()]), module


def test_requests_of_a_file_come_in_their_order(own: Path) -> None:
    rows = torch.from_numpy(np.loadtxt("requests.csv", delimiter=",", dtype=np.int64))
    first, second = played(Scenario(processes=own_processes("trace")))
    for b in range(3):
        begin = int((rows == first.requests[0, b]).all(dim=1).nonzero()[0])
        for t, asked in enumerate(first.requests[:, b]):
            assert torch.equal(asked, rows[(begin + t) % 7])
    assert not torch.equal(first.requests, second.requests)


@pytest.mark.parametrize(
    ("file", "text", "told"),
    [
        ("none.csv", None, r"none\.csv not found"),
        (
            "few.csv",
            "0,1\n1,0\n",
            r"file must have num_users = 30 columns of services, got \[2, 2\] in few\.csv",
        ),
        ("words.csv", "a\n", "could not convert string 'a'"),
    ],
)
def test_a_file_that_does_not_fit_is_told_before_anything_is_played(
    own: Path, file: str, text: str | None, told: str
) -> None:
    if text is not None:
        Path(file).write_text(text)
    with (
        pytest.raises(HadrlError, match=rf"^data\.scenario\.processes\.my_trace\.Trace: {told}"),
        naming_settings({"data": TransitionDataModule}),
    ):
        TransitionDataModule(Scenario(processes={"my_trace.Trace": {"file": file}}))


def test_popularity_drifts_from_that_of_the_scenario(own: Path) -> None:
    process = processes_of(Scenario(num_users=500, processes={"my_drift.Drift": {"step": 0.2}}))[
        "my_drift.Drift"
    ]
    scenario = Scenario(num_users=500)
    table = constants(scenario, torch.device("cpu"), torch.float64)
    world = World(scenario, table, 40, torch.device("cpu"), torch.float32)
    generator = torch.Generator().manual_seed(0)
    memory = process.initial(world, generator)
    share = torch.bincount(memory["requests"].flatten(), minlength=10) / (40 * 500)
    torch.testing.assert_close(share, table.popularity.float(), rtol=0, atol=0.01)
    for _ in range(25):
        memory = process.advance(world, memory, generator)
    moved = memory["weights"] - table.popularity.log()
    assert float(moved.std()) == pytest.approx(0.2 * 5, rel=0.1)  # a random walk


def test_users_walk_from_home_to_home_and_pay_for_it(own: Path) -> None:
    scenario = Scenario(processes=own_processes("walk"))
    with_cost, without = (
        played(replace(scenario, processes={"my_walk.Walk": {"speed_m": 15, "handover_s": cost}}))[0]
        for cost in (0.5, 0.0)
    )
    steps = (with_cost.positions[1:] - with_cost.positions[:-1]).norm(dim=-1)
    torch.testing.assert_close(steps, torch.full_like(steps, 15.0), rtol=1e-3, atol=0)
    servers = torch.tensor(scenario.servers_m)
    nearest = torch.cdist(with_cost.positions, servers).argmin(dim=-1)
    handover = torch.zeros_like(nearest, dtype=torch.bool)
    handover[1:] = nearest[1:] != nearest[:-1]
    assert handover.any()
    paid = with_cost.latency - without.latency
    torch.testing.assert_close(paid, 0.5 * handover.float(), rtol=0, atol=1e-4)
    late = with_cost.latency > torch.tensor(scenario.deadlines_s)[with_cost.requests]
    assert torch.equal(with_cost.on_time, ~late)


def test_both_levels_see_links_to_the_homes_that_users_have_now(own: Path) -> None:
    scenario = Scenario(num_servers=5, num_users=5, processes=own_processes("walk"), cell_radius_m=500)
    network = EdgeNetwork(scenario, num_envs=3, generator=torch.Generator().manual_seed(0))
    network.begin_frame(torch.ones_like(network.cache))
    links = network.offloading_view().spectral_efficiency
    slot = network.unfolding.slot
    nearest = torch.cdist(slot.positions, torch.tensor(scenario.servers_m)).amin(dim=-1).clamp(min=1)
    snr = 10 ** ((20 + 114 - 128.1 - 37.6 * (nearest.double() / 1000).log10()) / 10)
    torch.testing.assert_close(links.double(), (1 + snr).log2(), rtol=1e-4, atol=0)
    assert (slot.more["nearest"] != torch.arange(5)).any()
    torch.testing.assert_close(network.caching_view().spectral_efficiency, 5 / (1 / links).sum(dim=1))


def test_a_view_without_the_fields_of_processes_is_told_how_to_have_them(own: Path) -> None:
    kind = offloading_view_of(Scenario(processes=own_processes("backlog")))
    told = r"^view must have backlog, as offloading_view_of\(agent\.scenario\)\.of\(…\) takes it, got cache, "
    with pytest.raises(HadrlError, match=told):
        of_kind(OffloadingView, kind, EdgeNetwork(Scenario()).offloading_view(), structured=True)


def test_further_fields_are_refused_where_models_see_them_and_left_out_where_they_do_not(own: Path) -> None:
    view = EdgeNetwork(Scenario(processes=own_processes("backlog"))).offloading_view()
    with pytest.raises(
        HadrlError, match=r"^view must be of the agent's world, which shows no backlog: train"
    ):
        of_kind(OffloadingView, OffloadingView, view, structured=True)
    weighed = EdgeNetwork(Scenario(preferences={"missed": 1.0}))
    plain = of_kind(OffloadingView, OffloadingView, weighed.offloading_view(), structured=True)
    assert type(plain) is OffloadingView
    often = {"missed": 1.0}
    idle = Scenario(preferences=often, processes={"queues": {}})
    view_of_idle = offloading_view_of(idle)
    own_kind = offloading_view_of(replace(idle, preferences={}))
    network = EdgeNetwork(idle)
    rebuilt = of_kind(OffloadingView, own_kind, network.offloading_view(), structured=True)
    assert view_of_idle.idle_users
    assert rebuilt.asking is not None
    agent = HADRL.from_checkpoint("es2.ckpt")
    agent.decide(weighed.offloading_view(), 0)
    with pytest.raises(HadrlError, match=r"^view must be of the agent's world"):
        agent.decide(view, 0)
    with pytest.raises(
        HadrlError, match=r"^scenario must be of the world that the agent was trained in, but "
    ):
        agent.for_scenario(Scenario(processes=own_processes("backlog")))
    with pytest.raises(
        HadrlError, match=r"^ckpt_path must be an agent of this world, where views show backlog more"
    ):
        HADRL.load_from_checkpoint("hadrl.ckpt", scenario=Scenario(processes=own_processes("backlog")))


def test_work_waits_at_servers_alone_where_tasks_can_stay_on_the_device(own: Path) -> None:
    scenario, physics = Scenario(processes=own_processes("backlog")), "my_device.Device"
    network = EdgeNetwork(scenario, physics, 2, generator=make_generator(0, Use.TEST_NETWORKS))
    network.begin_frame(torch.ones_like(network.cache))
    everyone_stays = torch.ones(2, 90)
    network.step(decode_offloading(scenario, everyone_stays, physics))
    assert not network.offloading_view().backlog.any()  # type: ignore[attr-defined]


def test_a_task_that_stays_on_the_device_takes_its_own_cpu(own: Path) -> None:
    scenario, physics = Scenario(), "my_device.Device"
    network = EdgeNetwork(scenario, physics, 2, generator=make_generator(0, Use.TEST_NETWORKS))
    network.begin_frame(torch.ones_like(network.cache))
    action = torch.zeros(2, 90)
    action[:, :10] = 1.0  # the last of three targets
    asked, allocation = network.requests, decode_offloading(scenario, action, physics)
    assert torch.equal(allocation.server[:, :10], torch.full((2, 10), 2))
    service = network.step(allocation)
    cycles = torch.tensor(scenario.cycles)[asked]
    torch.testing.assert_close(service.latency[:, :10], cycles[:, :10] / 2e9)
    torch.testing.assert_close(service.energy[:, :10], 1e-28 * 4e18 * cycles[:, :10])
    assert not service.hit[:, :10].any()
    assert service.hit[:, 10:].all()
    torch.testing.assert_close(service.bandwidth_load, torch.tensor([[0.0, 1.0]] * 2))
    assert float(network.state.hit_counts.sum()) == 2 * 20
    with pytest.raises(
        HadrlError, match=r"^fast_level must be flat or .* under physics my_device\.Device, got set"
    ):
        HADRL(scenario, physics)


SMALL = [
    *("--data.num_envs=2", "--data.passes_per_epoch=1", "--data.samples_per_pass=32"),
    *("--data.validation_episodes=1", "--data.test_episodes=1", "--data.scenario.decisions_per_episode=2"),
    *("--planning.seed_decisions=1", "--planning.decisions_per_epoch=1", "--trainer.max_epochs=2"),
    "--trainer.check_val_every_n_epoch=2",
]


@pytest.mark.unchecked
def test_a_training_with_a_process_an_agent_and_a_measure_from_outside(own: Path) -> None:
    names = ["es2", "quick", "backlog", "my_drift", "walk", "worth", "mine"]
    words = [word for name in names for word in ("--config", f"{name}.yaml")]
    assert main(["fit", *words, *SMALL]) == 0
    (run,) = own.glob("checkpoints/*/version_0")
    agent = HADRL.from_checkpoint(run / "last.ckpt")
    assert list(agent.scenario.processes) == ["my_world.Backlog", "my_drift.Drift", "my_walk.Walk"]
    assert type(agent.caching_agent).__module__ == "my_agent"
    assert "train/caching_agent/error" in (run / "metrics.csv").read_text()
    assert (
        main(["predict", "--ckpt_path", str(run / "last.ckpt"), "--data.scenario.decisions_per_episode=2"])
        == 0
    )


@pytest.mark.whole
@pytest.mark.unchecked
def test_a_training_in_a_physics_from_outside(own: Path) -> None:
    assert (
        main(["fit", "--config", "es2.yaml", "--config", "quick.yaml", "--config", "stay.yaml", *SMALL]) == 0
    )
    assert main(["predict", "--ckpt_path", "last"]) == 0
    (decisions,) = own.glob("checkpoints/**/decisions.csv")
    with decisions.open(newline="") as file:
        servers = {row["server"] for row in csv.DictReader(file)}
    assert servers <= {"0", "1", "2"}


# --- what is on record ---------------------------------------------------------------------------------------------


def test_what_was_asked_for_before_an_episode_is_drawn_by_popularity_and_changes_no_other_draw() -> None:
    popularity = (0.5, 0.0, 0.2, 0.3)
    scenario = Scenario(
        num_services=4, num_users=7, popularity=popularity, decisions_per_episode=1, slots_per_decision=3
    )
    network, unknown = (
        EdgeNetwork(
            replace(scenario, history_slots=slots), num_envs=5, generator=torch.Generator().manual_seed(3)
        )
        for slots in (1000, 0)
    )
    records = []
    for _ in range(2):
        records.append(network.caching_view().past_requests)
        assert not unknown.caching_view().past_requests.any()
        for one in (network, unknown):
            one.begin_frame(torch.zeros(5, 2, 4, dtype=torch.bool))
        idle = decode_offloading(scenario, torch.zeros(5, scenario.offloading_action_size))
        while not network.frame_over:
            assert torch.equal(network.requests, unknown.requests)
            ours, theirs = network.step(idle), unknown.step(idle)
            assert torch.equal(ours.spectral_efficiency, theirs.spectral_efficiency)  # positions and fading
            assert torch.equal(ours.latency, theirs.latency)
        assert torch.equal(network.caching_view().past_requests, records[-1])
        for one in (network, unknown):
            one.reset()
    assert torch.equal(network.requests, unknown.requests)
    counts = torch.cat(records)
    assert len(counts.unique(dim=0)) == 10
    assert (counts.sum(dim=1) == 7000).all()
    assert not counts[:, 1].any()
    chance = torch.tensor([(7000 * part * (1 - part)) ** 0.5 for part in popularity])
    off = counts - 7000 * torch.tensor(popularity)
    assert (off.abs() <= 4.5 * chance).all()
    assert (off.std(dim=0) > 0.4 * chance)[[0, 2, 3]].all()
    again = EdgeNetwork(scenario, num_envs=5, generator=torch.Generator().manual_seed(3)).caching_view()
    assert torch.equal(again.past_requests, records[0])


@pytest.mark.parametrize(
    ("counts", "told"),
    [
        ("torch.ones(2, 4)", r"must tell past requests of shape \[2, 10\], got \[2, 4\]"),
        ("-torch.ones(2, 10)", "must tell past requests that are finite and not negative, got -1 to -1"),
        ("torch.ones(2, 10) / 0", "must tell past requests that are finite and not negative, got inf to inf"),
        ("torch.full((2, 10), 7)", ""),
    ],
)
def test_a_record_that_a_process_keeps_is_checked_and_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counts: str, told: str
) -> None:
    record = f"""
    def past(self, world, memory, num_slots, generator):
        return {{"requests": {counts}}}
"""
    name = f"kept_{abs(hash(counts))}"
    (tmp_path / f"{name}.py").write_text("\n".join([TOYS.rstrip(), record]))
    monkeypatch.syspath_prepend(str(tmp_path))
    scenario = Scenario(processes={f"{name}.LatestFashion": {}})
    if told:
        with pytest.raises(HadrlError, match=rf"^processes\.{name}\.LatestFashion {told}$"):
            EdgeNetwork(scenario, num_envs=2)
        return
    assert EdgeNetwork(scenario, num_envs=2).caching_view().past_requests.tolist() == [[7.0] * 10] * 2


def test_what_nobody_keeps_is_not_on_record() -> None:
    nobody = EdgeNetwork(
        Scenario(num_users=0), num_envs=2, generator=torch.Generator().manual_seed(3)
    ).caching_view()
    assert nobody.past_requests.tolist() == [[0.0] * 10] * 2
    assert nobody.spectral_efficiency.isfinite().all()


# --- worlds

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

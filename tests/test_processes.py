"""What changes by itself: the usual processes, and those that a user adds from outside the package."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import gymnasium
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from hadrl_lightning.play import Episode, run_episode
from hadrl_lightning.scenario import Scenario
from hadrl_lightning.simulator import (
    EdgeNetwork,
    OffloadingView,
    Use,
    decode_caching,
    decode_offloading,
    fields_of,
    from_vector,
    make_generator,
    vector_size,
)
from hadrl_lightning.simulator.processes import PROCESSES, processes_of
from hadrl_lightning.simulator.unfolding import offloading_view_of

ROOT = Path(__file__).resolve().parent.parent

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

    def adjusted(self, table, slot):
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
    text = (ROOT / "docs/extending.md").read_text(encoding="utf-8")
    (backlog,) = re.findall(r"^```python\n# my_world.py\n(.*?)^```", text, re.M | re.S)
    (tmp_path / "toy_world.py").write_text(backlog + TOYS)
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
        ({"rayleigh_fading": {"speed": 1}}, r"processes\.rayleigh_fading: .*speed"),
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
    with pytest.raises(ValueError, match=r"processes\.toy_world\.Backlog: slot_s must be above 0, got 0"):
        EdgeNetwork(Scenario(processes={f"{toys}.Backlog": {"slot_s": 0}}))


def test_a_scenario_with_processes_is_a_value(toys: str) -> None:
    settings = {f"{toys}.Backlog": {"slot_s": 2.0}}
    one = Scenario(processes=settings)
    assert one == Scenario.from_dict(one.to_dict())
    assert hash(one) == hash(Scenario.from_dict(one.to_dict()))
    assert type(one.to_dict()["processes"]) is dict  # files of agents hold plain values alone
    assert one != Scenario()
    assert one.to_dict()["processes"] == settings
    assert vector_size(offloading_view_of(one), one) == 20 + 3 * 2 + 3 * 30 + 2

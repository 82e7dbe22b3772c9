"""What changes by itself: the usual processes, and those that a user adds from outside the package."""

import csv
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from hadrl_lightning.agents import HADRL
from hadrl_lightning.agents.views import check_kind
from hadrl_lightning.cli import main
from hadrl_lightning.cli.mistakes import naming_settings
from hadrl_lightning.config_files import load_config
from hadrl_lightning.data import TransitionDataModule
from hadrl_lightning.errors import HadrlError
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
from hadrl_lightning.simulator.constants import constants
from hadrl_lightning.simulator.physics import rules
from hadrl_lightning.simulator.processes import PROCESSES, World, processes_of
from hadrl_lightning.simulator.unfolding import offloading_view_of

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
    for module, settings in OWN.items():
        (tmp_path / f"{module}.py").write_text(example("python", f"{module}.py"))
        (tmp_path / f"{settings}.yaml").write_text(example("yaml", f"{settings}.yaml"))
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
        check_kind(OffloadingView, kind, EdgeNetwork(Scenario()).offloading_view())


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

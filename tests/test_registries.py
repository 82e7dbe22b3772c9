"""Things that settings name, of the package and of ones own; settings of a wrong type, refused in one line; consoles
and files that lack characters or columns, which lose nothing.
"""

import dataclasses
import io
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from math import nan
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np
import pytest
import torch
import yaml
from rich.box import SIMPLE_HEAD
from rich.table import Table

from hadrl_lightning import cli
from hadrl_lightning.agents import (
    HADRL,
    DDPGSettings,
    SetDDPGSettings,
    SetWorldModelSettings,
    WorldModelSettings,
)
from hadrl_lightning.baselines.genetic import GeneticSettings
from hadrl_lightning.baselines.learners import LearnerSettings
from hadrl_lightning.benchmark import PlanSettings, make_plan
from hadrl_lightning.benchmark.plan import Sweep, parse_sweep, parse_value
from hadrl_lightning.benchmark.training import named, own_modules
from hadrl_lightning.callbacks import CEMPlanning
from hadrl_lightning.characters import plain, use_plain_characters
from hadrl_lightning.cli import app, main
from hadrl_lightning.cli.checkpointing import Checkpointing
from hadrl_lightning.cli.help import OPENINGS, OURS, SETTINGS
from hadrl_lightning.cli.mistakes import naming_settings, resuming_from
from hadrl_lightning.cli.parser import HadrlParser
from hadrl_lightning.cli.studies import settings_of
from hadrl_lightning.config_files import load_config
from hadrl_lightning.console import make_console, show
from hadrl_lightning.data import TransitionDataModule
from hadrl_lightning.errors import HadrlError, HadrlWarning
from hadrl_lightning.files import load_tensors
from hadrl_lightning.messages import warnings_in_one_line
from hadrl_lightning.planning import PlannerSettings
from hadrl_lightning.planning.refine import RefinementSettings
from hadrl_lightning.plots.style import pyplot, save
from hadrl_lightning.registries import Registry
from hadrl_lightning.scenario import Scenario
from hadrl_lightning.simulator import EdgeNetwork, OffloadingView
from hadrl_lightning.typed import read_as
from hadrl_lightning.units import UNITS, read_unit, read_units, with_unit

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry[Callable[[], str]]:
    """A registry of one shape; an installed package has two more, one of them broken."""
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    info = tmp_path / "site" / "their_shapes-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-shapes\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[test.shapes]\nround = their_shapes:disc\nbroken = their_shapes:lost\n"
    )
    (tmp_path / "site" / "their_shapes.py").write_text("def disc():\n    return 'disc'\nAREA = 3\n")
    registry: Registry[Callable[[], str]] = Registry("shape", "test.shapes")

    @registry.register("square")
    def square() -> str:
        return "square"

    assert square() == "square"
    return registry


def test_a_short_name_stands_for_what_is_registered_or_what_an_installed_package_declares(
    shapes: Registry[Callable[[], str]],
) -> None:
    assert shapes.names() == ["square", "broken", "round"]
    assert [shapes.find(name, "shape")() for name in ("square", "round", "round")] == [
        "square",
        "disc",
        "disc",
    ]


def test_a_module_path_stands_for_what_a_module_of_the_working_directory_has(
    shapes: Registry[Callable[[], str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shapes_here.py").write_text("def oval():\n    return 'oval'\n")
    with pytest.raises(ValueError, match="No module named 'shapes_here'"):
        shapes.find("shapes_here.oval", "shape")
    monkeypatch.chdir(tmp_path)
    assert shapes.find("shapes_here.oval", "shape")() == "oval"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "sqare",
            "shape must be one of square, broken, round, or a shape of your own as module.name, got sqare",
        ),
        ("their_shapes.AREA", "shape must be a shape, got their_shapes.AREA, which is 3"),
        (
            "their_shapes.lost",
            "shape must be a module path that can be imported, got their_shapes.lost: "
            "AttributeError: module 'their_shapes' has no attribute 'lost'",
        ),
        (
            "nowhere.lost",
            "shape must be a module path that can be imported, got nowhere.lost: "
            "ModuleNotFoundError: No module named 'nowhere'",
        ),
        (
            "broken",
            "shape must be a shape that can be imported, got broken (their_shapes:lost): "
            "AttributeError: module 'their_shapes' has no attribute 'lost'",
        ),
    ],
)
def test_what_a_name_does_not_stand_for_is_said_in_one_line(
    shapes: Registry[Callable[[], str]], name: str, said: str
) -> None:
    with pytest.raises(ValueError, match=r"^shape must") as caught:
        shapes.find(name, "shape")
    assert str(caught.value) == said


def test_a_module_that_ends_the_program_while_it_is_imported_is_said_too(
    shapes: Registry[Callable[[], str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "shapes_that_end.py").write_text("raise SystemExit(4)")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"^shape must .* got shapes_that_end\.oval: SystemExit: 4$"):
        shapes.find("shapes_that_end.oval", "shape")


@pytest.mark.parametrize("name", ["square", "", "a.b"])
def test_a_short_name_is_new_and_has_no_dot(shapes: Registry[Callable[[], str]], name: str) -> None:
    with pytest.raises(ValueError, match=r"^name of a shape must be new and have no dot, got "):
        shapes.register(name)


def test_only_what_can_be_an_entry_is_registered(shapes: Registry[Callable[[], str]]) -> None:
    with pytest.raises(ValueError, match=r"^three must be a shape, got 3"):
        shapes.register("three")(3)


# --- levels of one's own -------------------------------------------------------------------------------------------

OWN: dict[str, Any] = {"slow_level": "my_agent.Worth", "fast_level": "my_model.Linear"}
TINY = [
    *("--config", "es2.yaml", "--config", "quick.yaml", "--config", "worth.yaml", "--config", "linear.yaml"),
    *("--data.num_envs=2", "--data.passes_per_epoch=1", "--data.validation_episodes=1"),
    *("--data.scenario.num_users=3", "--data.scenario.decisions_per_episode=2", "--data.test_episodes=1"),
    *(
        "--planning.seed_decisions=2",
        "--planning.decisions_per_epoch=2",
        "--planning.caching_warmup_epochs=0",
    ),
    "--trainer.check_val_every_n_epoch=1",
]


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The examples of docs/extending.md in a folder, which is the working directory, and installed by short names."""
    text = (ROOT / "docs/extending.md").read_text(encoding="utf-8")
    for kind, name in (("python", "my_agent.py"), ("python", "my_model.py"), ("yaml", "worth.yaml")):
        (tmp_path / name).write_text(example(text, kind, name))
    (tmp_path / "linear.yaml").write_text(example(text, "yaml", "linear.yaml"))
    info = tmp_path / "my_levels-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-levels\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[hadrl_lightning.caching_agents]\nworth = my_agent:Worth\n"
        "[hadrl_lightning.slot_models]\nlinear = my_model:Linear\n"
    )
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in ("my_agent", "my_model"):
        sys.modules.pop(name, None)


def example(text: str, kind: str, name: str) -> str:
    (body,) = re.findall(rf"^```{kind}\n# {re.escape(name)}.*?\n(.*?)^```", text, re.M | re.S)
    return str(body)


def agent(**settings: Any) -> HADRL:
    small = {
        "scenario": Scenario(num_users=3),
        "planner": PlannerSettings(planning_members=1, n_candidates=16),
    }
    return HADRL(**{**small, **OWN, **settings})


@pytest.mark.unchecked
def test_levels_of_ones_own_are_trained_saved_shown_and_loaded(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", *TINY, "--trainer.max_epochs=1"]) == 0
    (run,) = own.glob("checkpoints/*/version_0")
    best = run / "best.ckpt"
    logged = (run / "metrics.csv").read_text()
    assert all(name in logged for name in ("train/caching_agent/error", "train/world_model/latency_error"))
    capsys.readouterr()
    assert main(["inspect", str(best)]) == 0
    assert "fast level my_model.Linear, slow level my_agent.Worth" in capsys.readouterr().out
    trained = HADRL.from_checkpoint(best)
    assert type(trained.caching_agent).__name__ == "Worth"
    assert vars(trained.caching_agent.settings) == {"learning_rate": 0.02}  # type: ignore[call-overload]
    fresh = trained.from_settings(trained.settings_dict())
    worth, before = (one.state_dict()["caching_agent.worth"] for one in (trained, fresh))
    assert not torch.equal(worth, before)


@pytest.mark.slow
def test_a_training_of_levels_of_ones_own_resumes_exactly_and_is_tested(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def weights(run: Path) -> dict[str, Any]:
        state: dict[str, Any] = torch.load(run / "last.ckpt", weights_only=True)
        return {**state["state_dict"], "moments": state["optimizer_states"][1]["state"][0]["exp_avg"]}

    monkeypatch.syspath_prepend(str(own))  # as an installed package, by short names
    words = [*TINY, "--model.slow_level=worth", "--model.fast_level=linear"]
    assert main(["fit", *words, "--trainer.max_epochs=2"]) == 0
    assert main(["fit", *words, "--trainer.max_epochs=1"]) == 0
    whole, begun = sorted(own.glob("checkpoints/*/version_*"))
    assert main(["fit", *words, "--trainer.max_epochs=2", "--ckpt_path", str(begun / "last.ckpt")]) == 0
    resumed = sorted(own.glob("checkpoints/*/version_*"))[-1]
    assert main(["test", "--ckpt_path", str(resumed / "best.ckpt")]) == 0
    expected, found = weights(whole), weights(resumed)
    assert expected.keys() == found.keys()
    assert all(torch.equal(value, found[name]) for name, value in expected.items())


def test_levels_of_an_installed_package_go_by_their_short_names(own: Path) -> None:
    sys.path.insert(0, str(own))
    try:
        short = agent(slow_level="worth", fast_level="linear")
    finally:
        sys.path.remove(str(own))
    assert short.settings_dict()["slow_level"] == "worth"
    networks = EdgeNetwork(short.scenario, num_envs=2, generator=torch.Generator().manual_seed(0))
    caches = [one.place(networks.caching_view()) for one in (short, agent())]
    assert torch.equal(*caches)
    networks.begin_frame(caches[0])
    one, other = (which.decide(networks.offloading_view()) for which in (short, agent()))
    assert all(torch.equal(left, right) for left, right in zip(one, other, strict=True))


def test_what_a_benchmark_computed_hangs_on_the_modules_of_levels_of_ones_own(own: Path) -> None:
    assert list(own_modules(named({"model": OWN}))) == ["my_agent", "my_model"]


def test_a_file_says_what_it_needs_where_its_module_is_gone(own: Path) -> None:
    assert not HADRL.transfers(OWN)  # the model does, the caching agent knows its servers and services
    agent().save_weights(own / "own.ckpt")
    for name in ("my_agent", "my_model"):
        sys.modules.pop(name)
    (own / "my_agent.py").unlink()
    with pytest.raises(
        HadrlError, match=r"slow_level must be a module path that can be imported, got my_agent"
    ):
        HADRL.from_checkpoint(own / "own.ckpt")
    with pytest.raises(HadrlError, match=r"slow_level must be a module path .*, got my_agent"):
        HADRL.transfers(OWN)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"slow_level": "sett"},
            "slow_level must be one of .*flat, .*set, .*or a caching agent of your own .*, got sett",
        ),
        ({"slow_level": "my_model.Linear"}, "slow_level must be a caching agent, got my_model.Linear"),
        (
            {"slow_level": "hadrl_lightning.agents.CachingAgent"},
            "a caching agent that has act, configure_opt.*, Settings",
        ),
        ({"slow_settings": {"rate": 1}}, "slow_settings must be of learning_rate, got rate"),
        ({"slow_settings": {"learning_rate": 0.0}}, r"slow_settings\.learning_rate must be above 0, got 0"),
        (
            {"fast_settings": {"learning_rate": "x"}},
            r"fast_settings\.learning_rate must be a number, got 'x'",
        ),
        (
            {"slow_level": "set", "slow_settings": {}},
            "slow_settings must be null for a SetDDPG, whose settings are set_ddpg",
        ),
    ],
)
def test_levels_and_settings_that_cannot_be_are_refused_in_one_line(
    own: Path, settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        agent(**settings)


# --- types and units of settings -------------------------------------------------------------------------------------


SETTINGS_CLASSES = [
    PlannerSettings,
    RefinementSettings,
    WorldModelSettings,
    SetWorldModelSettings,
    DDPGSettings,
    SetDDPGSettings,
    LearnerSettings,
    GeneticSettings,
]
WRONG: list[tuple[Callable[..., Any], dict[str, Any], str]] = [
    (PlannerSettings, {"use_reward": "no"}, "use_reward must be true or false, got 'no'"),
    (PlannerSettings, {"planning_members": 2.5}, "planning_members must be a whole number or none, got 2.5"),
    (PlannerSettings, {"latency_scale_s": "30 GHz"}, "latency_scale_s must be a number, in one of ns, us, "),
    (PlannerSettings, {"latency_scale_s": nan}, "latency_scale_s must be a number, got nan"),
    (PlannerSettings, {"expl_scale": 10**400}, "expl_scale must be a number, got 1000"),
    (PlannerSettings, {"form": "nope"}, "form must be one of tschantz, gould, outcome, got 'nope'"),
    (SetWorldModelSettings, {"hidden_size": nan}, "hidden_size must be a whole number, got nan"),
    (
        SetDDPGSettings,
        {"hidden_sizes": [64, "x"]},
        "hidden_sizes must be a list of whole numbers, got [64, 'x']",
    ),
    (
        HADRL,
        {"physics": "nonsense"},
        "physics must be one of strict, published, or a physics of your own as module.name, got nonsense",
    ),
    (HADRL, {"fast_level": 1}, "fast_level must be a text, got 1"),
    (HADRL, {"slow_level": None}, "slow_level must be a text, got None"),
    (HADRL, {"scenario": "es2.yaml"}, "scenario must be a Scenario, got 'es2.yaml'"),
    (HADRL, {"planner": {"form": "outcome"}}, "planner must be a PlannerSettings, got {'form': 'outcome'}"),
    (TransitionDataModule, {"num_envs": "2"}, "num_envs must be a whole number, got '2'"),
    (TransitionDataModule, {"scenario": "es2.yaml"}, "scenario must be a Scenario, got 'es2.yaml'"),
    (CEMPlanning, {"caching_reward": "luck"}, "caching_reward must be one of "),
    (CEMPlanning, {"seed_decisions": 1.5}, "seed_decisions must be a whole number, got 1.5"),
    (Checkpointing, {"mode": "best"}, "mode must be one of min, max, got 'best'"),
    (EdgeNetwork, {"scenario": "es2.yaml"}, "scenario must be a Scenario, got 'es2.yaml'"),
    *(
        (
            EdgeNetwork,
            {"scenario": Scenario(), "num_envs": value},
            f"num_envs must be a whole number, got {value!r}",
        )
        for value in ("2", 1.5, True)
    ),
    (
        EdgeNetwork,
        {"scenario": Scenario(), "dtype": torch.int32},
        "dtype must be one of floating-point numbers",
    ),
]


@pytest.mark.parametrize(("make", "arguments", "message"), WRONG)
def test_an_argument_of_another_type_is_refused_in_one_line(
    make: Callable[..., Any], arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError) as refusal:
        make(**arguments)
    assert str(refusal.value).startswith(message)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 300


@pytest.mark.parametrize("arguments", [{"seed": "x"}, {"planner": {}}])
def test_an_argument_beside_the_files_of_an_agent_is_checked_too(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(arguments))} must be a "):
        HADRL.from_config("es2.yaml", **arguments)


@pytest.mark.parametrize("cls", SETTINGS_CLASSES)
def test_every_field_of_every_settings_class_is_checked(cls: type) -> None:
    assert dataclasses.fields(cls)
    for field in dataclasses.fields(cls):
        with pytest.raises(ValueError, match=f"^{field.name} must be .*, got <object"):
            cls(**{field.name: object()})


def test_units_lists_and_numbers_of_numpy_are_read() -> None:
    assert PlannerSettings(latency_scale_s="30ms").latency_scale_s == 0.03  # type: ignore[arg-type]
    assert DDPGSettings(hidden_sizes=[8, 8]).hidden_sizes == (8, 8)  # type: ignore[arg-type]
    settings = PlannerSettings(planning_members=np.int64(1), use_exploration=np.bool_(True))  # type: ignore[arg-type]
    assert type(settings.planning_members) is int
    assert settings.use_exploration is True
    scenario = Scenario(num_users=3)
    assert EdgeNetwork(scenario, "published", np.int64(2)).requests.shape == (2, 3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("hint", "right", "wrong"),
    [
        (bool, [True], [1, "true", None]),
        (int, [0, -3, 10**400], [1.0, True, "1", None]),
        (float, [1, 0.5, float("inf")], [True, "1", nan]),
        (int | None, [None, 3], ["none", 0.5]),
        (Literal["a", 1], ["a", 1], [True, "b", 1.0]),
        (tuple[float, ...], [(), (1, 2.5)], [1.0, (1, "x"), "12"]),
        (tuple[float, int], [(0.5, 1)], [(1,), (1, 2, 3), (1, 0.5)]),
        (tuple[tuple[int, int], ...], [((1, 2), (3, 4))], [(1, 2)]),
        (Any, [object, None, 1], []),
        (Callable[[int], int], [abs], []),
    ],
)
def test_a_type_takes_its_own_values_and_no_others(hint: Any, right: list[Any], wrong: list[Any]) -> None:
    for value in right:
        assert read_as("it", value, hint) == value
    for value in wrong:
        with pytest.raises(ValueError, match=r"^it must be "):
            read_as("it", value, hint)


def test_a_seed_and_a_number_of_networks_that_cannot_be_are_named_in_full() -> None:
    with (
        pytest.raises(HadrlError, match=r"^data.seed must be at least 0 and below 2\^64, got -1$"),
        naming_settings({"data": TransitionDataModule}),
    ):
        TransitionDataModule(seed=-1)
    with pytest.raises(HadrlError, match=r"^data.num_envs: networks in parallel must be as many as fit"):
        TransitionDataModule(num_envs=10**12).setup("fit")


# --- numbers with a unit ---------------------------------------------------------------------------------------------


GIB = 1024**3


@pytest.mark.parametrize(
    ("name", "text", "number"),
    [
        ("compute_hz", "20GHz", 20e9),
        ("compute_hz", "1.5 GHz", 1.5e9),
        ("data.scenario.bandwidth_hz", "200M", 200e6),
        ("cache_bytes", "20GiB", 20 * GIB),
        ("cache_bytes", "20 GB", 20e9),
        ("cache_bytes", ".5KiB", 512),
        ("backhaul_bytes_per_s", "200 MiB/s", 200 * 1024**2),
        ("cloud_rate_bit_per_s", "4Mibit/s", 4 * 1024**2),
        ("cloud_rate_bit_per_s", "10Mbit/s", 10e6),
        ("workload_cycles", "3 Gcycles", 3e9),
        ("input_bits", "8Mbit", 8e6),
        ("cloud_delay_s", "30ms", 0.03),
        ("cloud_delay_s", "0.1s", 0.1),
        ("deadline_s", "2 min", 120),
        ("cloud_delay_s", "3\u00b5s", 3e-6),
        ("cloud_delay_s", "3\u03bcs", 3e-6),
        ("min_distance_m", "0.03km", 30),
        ("transmit_power_dbm", "-20 dBm", -20),
        ("path_loss_constant_db", "128.1dB", 128.1),
        ("compute_hz", "1e400Hz", float("inf")),
        ("cloud_delay_s", "1e-99999999s", 0.0),
    ],
)
def test_a_unit_becomes_the_unit_of_the_name(name: str, text: str, number: float) -> None:
    assert read_unit(name, text) == number


@pytest.mark.parametrize("value", ["20", 20, 2.5, None, True, "zipf", "", "GHz", [1, "2"], {"a": 1}])
def test_what_has_no_unit_stays_as_it_is(value: object) -> None:
    assert read_unit("compute_hz", value) == value
    assert read_unit("num_users", "20GHz") == "20GHz"  # whoever reads it says what is wrong
    assert read_unit("mean_speed_m_per_s", "5 s") == "5 s", "a speed is no time"
    assert read_unit("rate_bit_per_s", "5 kbit/s") == 5000


@pytest.mark.parametrize(
    ("name", "text", "allowed"),
    [
        ("data.scenario.compute_hz", "20GiB", "Hz, kHz, MHz, GHz, THz"),
        ("cache_bytes", "20GHz", "B, kB, MB, GB, TB, KiB, MiB, GiB, TiB"),
        ("cloud_delay_s", "30m", "ns, us, µs, ms, s, min, h"),
        ("cell_radius_m", "30ms", "mm, cm, m, km"),
        ("noise_dbm", "1dB", "dBm"),
    ],
)
def test_a_unit_of_another_kind_is_refused(name: str, text: str, allowed: str) -> None:
    with pytest.raises(HadrlError) as caught:
        read_unit(name, [text])
    assert str(caught.value) == f"{name} must be a number, in one of {allowed} if it has a unit, got {text!r}"


def test_every_number_of_a_scenario_with_a_dimension_has_units() -> None:
    without = {field.name for field in fields(Scenario) if not field.name.endswith(tuple(UNITS))}
    assert without == {
        *("num_servers", "num_users", "num_services", "decisions_per_episode", "slots_per_decision"),
        "history_slots",
        *("popularity", "zipf_exponent", "usable_cache_fraction", "share_floor", "free_share"),
        *("offload_thresholds", "processes", "preferences", "ranges"),
    }


def test_python_reads_them_too() -> None:
    given = Scenario.from_dict(
        {
            "num_servers": 3,
            "compute_hz": ["60GHz", "30 GHz", 30e9],
            "cache_bytes": "20GiB",
            "cell_radius_m": "0.2km",
            "deadline_step_s": "800ms",
            "num_users": 1,
            "user_positions_m": [["50 m", 0]],
            "server_positions_m": [["0 m", "0 m"], ["0.1 km", 0], [200, 0]],
        }
    )
    assert given == Scenario(
        num_servers=3,
        compute_hz=(60e9, 30e9, 30e9),
        cache_bytes=20 * GIB,
        cell_radius_m=200,
        deadline_step_s=0.8,
        num_users=1,
        user_positions_m=((50, 0),),
        server_positions_m=((0, 0), (100, 0), (200, 0)),
    )
    with pytest.raises(ValueError, match=r"^compute_hz must be a number, in one of Hz.*got '20GiB'$"):
        Scenario.from_dict({"compute_hz": "20GiB"})
    with pytest.raises(ValueError, match=r"^cell_radius_m must be a whole number, got 0.5$"):
        Scenario.from_dict({"cell_radius_m": "50cm"})


def test_a_file_and_the_command_line_read_them(
    in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mine.yaml").write_text(
        "data: {scenario: {compute_hz: [60GHz, 30GHz], cache_bytes: 20GiB}}\n"
        "model: {planner: {latency_scale_s: 500ms}}\n"
        "trainer: {max_time: 00:01:00:00}\n",
        encoding="utf-8-sig",  # a mark in front, as some editors write it
    )
    flags = ["--data.scenario.bandwidth_hz", "[0.1GHz, 200 MHz]", "--data.scenario.noise_dbm", "-100dBm"]
    with pytest.raises(SystemExit):
        main(
            [
                "fit",
                *("--config", "es2.yaml", "--config", "mine.yaml"),
                *flags,
                "--planning.planner={latency_scale_s: 2s}",
                "--print_config",
            ]
        )
    settings = yaml.safe_load(capsys.readouterr().out)
    scenario = Scenario.from_dict(settings["data"]["scenario"])
    assert scenario.compute_hz == (60e9, 30e9)
    assert scenario.bandwidth_hz == (0.1e9, 200e6)
    assert scenario.cache_bytes == 20 * GIB
    assert scenario.noise_dbm == -100
    assert settings["model"]["planner"]["latency_scale_s"] == 0.5
    assert settings["planning"]["planner"]["latency_scale_s"] == 2
    assert load_config("mine.yaml")["data"]["scenario"] == {
        "compute_hz": [60e9, 30e9],
        "cache_bytes": 20 * GIB,
    }


def test_benchmark_reads_them_in_flags_and_sweeps() -> None:
    words = ["--data.scenario.compute_hz", "20GHz", "--data.num_envs=2k"]
    assert settings_of(words, "benchmark") == {"data": {"scenario": {"compute_hz": 20e9}, "num_envs": 2000}}
    assert parse_sweep("data.scenario.compute_hz=[60GHz,30GHz],20GHz").values == ((60e9, 30e9), 20e9)
    assert parse_sweep("data.scenario.cloud_delay_s=30ms,0.1").values == (0.03, 0.1)
    assert parse_value("data.scenario.popularity", "zipf") == "zipf"
    with pytest.raises(HadrlError, match=r"compute_hz must be .* got '20GiB'"):
        parse_sweep("data.scenario.compute_hz=20GiB")


@pytest.mark.parametrize("how", ["flag", "file", "sweep"])
def test_another_kind_ends_in_one_line(
    how: str, in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("bad.yaml").write_text("data: {scenario: {compute_hz: 20GiB}}")
    words = {
        "flag": ["fit", "--config=es2.yaml", "--data.scenario.compute_hz=20GiB"],
        "file": ["fit", "--config=bad.yaml"],
        "sweep": ["benchmark", "--sweep=data.scenario.compute_hz=20GiB"],
    }[how]
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("hadrl: error: data.scenario.compute_hz must be a number, in one of Hz, kHz,")
    assert line.endswith("if it has a unit, got '20GiB'")
    assert not Path("checkpoints").exists()


def test_nothing_is_changed_in_place() -> None:
    settings = {"data": {"scenario": {"compute_hz": ["1GHz"]}}, "trainer": {"period_s": "1 h"}}
    assert read_units(settings) == {
        "data": {"scenario": {"compute_hz": [10**9]}},
        "trainer": {"period_s": "1 h"},
    }
    assert settings["data"]["scenario"]["compute_hz"] == ["1GHz"]


# --- encodings of settings files

TEXT = "# Σ 边缘\ndata: {num_envs: 4}\n"


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        (TEXT.replace("Σ ", "").encode("gbk"), "another encoding"),
        ("# \u00e9t\u00e9\ndata: {num_envs: 4}\n".encode("latin-1"), "another encoding"),
        (TEXT.encode("utf-16"), "UTF-16"),
        (b"data: {num_envs: 4}\n".decode().encode("utf-16-be"), "UTF-16"),
    ],
)
def test_a_file_in_another_encoding_gets_one_line(
    content: bytes, encoding: str, in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mine.yaml").write_bytes(content)
    command = "fit" if encoding == "UTF-16" and content[:1] != b"\0" else "benchmark"  # the two readers
    assert main([command, "--config", "mine.yaml"]) == 2
    assert capsys.readouterr().err == (
        f"hadrl: error: config must be a text file in UTF-8, got mine.yaml in {encoding}\n"
    )


def test_a_mark_in_front_is_no_part_of_the_settings(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_bytes(TEXT.encode("utf-8-sig"))
    assert load_config(tmp_path / "mine.yaml") == {"data": {"num_envs": 4}}


@pytest.mark.slow
def test_a_system_in_another_encoding_reads_utf8(in_empty_folder: Path) -> None:
    Path("mine.yaml").write_bytes(TEXT.encode())
    run = [sys.executable, "-X", "utf8=0", "-m", "hadrl_lightning.cli"]
    done = subprocess.run(
        [*run, "fit", "--config=es2.yaml", "--config=mine.yaml", "--print_config"],
        capture_output=True,
        check=False,
        env={"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert b"num_envs: 4" in done.stdout


# --- consoles, help, warnings and errors


def results(num_policies: int = 2) -> Table:
    table = Table(title="100 test episodes, mean ± 95 % confidence", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("", no_wrap=True)
    for index in range(num_policies):
        table.add_column(f"policy {index}, same caches", justify="right")
    table.add_row("Σ latency (s)", *(f"{3589.45 + index:.2f}±48.73" for index in range(num_policies)))
    table.add_row("÷ best known", *(f"{1 + index / 1000:.3f}" for index in range(num_policies)))
    return table


def shown(table: Table, columns: int | None, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines of a table where there is room for so many columns, or for any number."""
    if columns is None:
        monkeypatch.delenv("COLUMNS", raising=False)
    else:
        monkeypatch.setenv("COLUMNS", str(columns))
    file = io.StringIO()
    show(table, file=file)
    return file.getvalue().splitlines()


def in_encoding(encoding: str) -> str:
    """What a file in an encoding gets of a table."""
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, write_through=True)
    show(results(), file=file)
    return raw.getvalue().decode(encoding)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "gbk", "utf-8"])
def test_a_table_is_shown_whole_in_any_encoding(encoding: str) -> None:
    text = in_encoding(encoding)
    sign = {"ascii": "+-"}.get(encoding, "±")
    assert f"3589.45{sign}48.73" in text
    assert f"3590.45{sign}48.73" in text
    assert ("/ best known" if encoding == "ascii" else "÷ best known") in text
    assert ("sum latency (s)" if encoding in ("ascii", "cp1252") else "Σ latency (s)") in text
    assert "\\" not in text
    assert "?" not in text


def test_columns_stay_in_line_where_a_character_becomes_several() -> None:
    rows = [line for line in in_encoding("ascii").splitlines() if "latency (s)" in line or "best" in line]
    assert len(rows) == 2
    assert len({len(row) for row in rows}) == 1


def test_every_character_has_something_plain_in_its_place() -> None:
    assert plain("Σ ÷ ± × − – … ≤ σ² é ﬁ", "ascii") == "sum / +- x - - ... <= sigma2 e fi"
    assert plain("Σ ÷ ±", "cp1252") == "sum ÷ ±"
    assert plain("日 \udcff", "ascii") == r"\u65e5 \udcff"
    assert plain("\udcff", "utf-8") == r"\udcff"  # a file's name that is no text


def test_a_stream_that_keeps_text_is_left_as_it_is() -> None:
    stream: Any = io.StringIO()
    use_plain_characters(stream)
    stream.write("Σ")
    assert stream.getvalue() == "Σ"


@pytest.mark.parametrize("columns", [20, 40, 80, 200])
def test_no_number_is_cut_on_a_terminal_that_is_too_narrow(
    columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = shown(results(8), columns, monkeypatch)
    text = "\n".join(lines)
    for index in range(8):
        assert f"{3589.45 + index:.2f}±48.73" in text
        assert f"{1 + index / 1000:.3f}" in text
    assert "…" not in text
    assert all(len(line) <= max(columns, 36) for line in lines)  # the first column and one more need 36
    assert sum("latency (s)" in line for line in lines) == {20: 8, 40: 8, 80: 3, 200: 1}[columns]


def test_a_file_has_the_whole_table_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = shown(results(40), None, monkeypatch)
    assert sum("latency (s)" in line for line in lines) == 1
    assert "3628.45±48.73" in "\n".join(lines)


def test_brackets_and_colons_are_shown_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table(title="mean [bold] :smile:", title_justify="left")
    table.add_column("policy")
    table.add_row("mine[0]:x:")
    text = "\n".join(shown(table, None, monkeypatch))
    assert "mine[0]:x:" in text
    assert "[bold] :smile:" in text
    assert make_console(io.StringIO()).width > 1000


# --- the command line


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_help_and_errors_come_in_any_encoding(encoding: str) -> None:
    run = [sys.executable, "-m", "hadrl_lightning.cli"]
    environment = {"PYTHONIOENCODING": encoding}
    helped = subprocess.run([*run, "--help"], capture_output=True, check=False, env=environment)
    assert helped.returncode == 0
    assert b"hadrl fit --config es2.yaml" in helped.stdout
    refused = subprocess.run([*run, "fΣ"], capture_output=True, check=False, env=environment)
    assert refused.returncode == 2
    (line,) = refused.stderr.decode(encoding).splitlines()
    assert line.startswith("hadrl: error: command must be one of fit, ")
    assert "got 'fsum'" in line


def test_a_reader_that_leaves_a_pipe_ends_the_command_without_a_word() -> None:
    read, write = os.pipe()
    os.close(read)
    run = [sys.executable, "-m", "hadrl_lightning.cli", "--help"]
    done = subprocess.run(run, stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_a_shell_completes_every_command(shell: str) -> None:
    parser = HadrlParser(prog="hadrl")
    parser.add_subcommands().add_subcommand("fit", HadrlParser())
    script = parser.get_completion_script(f"shtab-{shell}")
    for words in ("fit", *(("benchmark", "plot", "show", "inspect") if shell != "tcsh" else ())):
        assert words in script
    for option in ("--workers", "--no_figures", "--output"):
        assert option in script or option.lstrip("-") in script


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_the_tables_of_test_and_benchmark_come_in_any_encoding(encoding: str, in_empty_folder: Any) -> None:
    run = [sys.executable, "-m", "hadrl_lightning.cli"]
    environment = {"PYTHONIOENCODING": encoding, "OMP_NUM_THREADS": "1", "COLUMNS": "80"}
    small = ["--data.scenario.decisions_per_episode=1"]
    test = [*run, "test", "--ckpt_path=es2.ckpt", "--data.test_episodes=2", *small]
    policies = ["random+random", "popularity+home_equal"]
    benchmark = [*run, "benchmark", "--quick", "--no_figures", "--policies", *policies, *small]
    for command in (test, benchmark):
        done = subprocess.run(command, capture_output=True, check=False, env=environment)
        assert done.returncode == 0, done.stderr
        text = done.stdout.decode(encoding)
        assert "sum latency" in text or "sum lat" in text
        assert ("/ best known" if encoding == "ascii" else "÷ best known") in " ".join(text.split())
        assert "\\u" not in text
        assert "..." not in text


def test_a_warning_is_one_line_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def warn(words: Any, args: Any) -> int:
        for text in ("bandwidth_hz is new\nto this agent", "bandwidth_hz is new\nto this agent", "another"):
            warnings.warn(text, HadrlWarning, stacklevel=1)
        return 0

    monkeypatch.setattr(cli, "_main", warn)
    assert cli.main(["fit"]) == 0
    first, second = capsys.readouterr().err.splitlines()
    assert first == "hadrl: warning: bandwidth_hz is new to this agent"
    assert second == "hadrl: warning: another"


def test_other_warnings_stay_as_they_are() -> None:
    with pytest.warns(UserWarning, match="of a library"), warnings_in_one_line():
        warnings.warn("of a library", UserWarning, stacklevel=1)


def test_a_warning_is_no_error() -> None:
    assert issubclass(HadrlWarning, UserWarning)
    assert not issubclass(HadrlWarning, HadrlError)


# --- help


def fit_parser(*words: str) -> HadrlParser:
    """The parser of `hadrl fit` that a command line meets."""
    with pytest.MonkeyPatch.context() as patch:
        made: list[HadrlParser] = []

        def parse_args(self: HadrlParser, *_: Any, **__: Any) -> Any:
            made.append(self)
            raise HadrlError("no more is needed")

        patch.setattr(HadrlParser, "parse_args", parse_args)
        with pytest.raises(HadrlError, match="no more"):
            app.run(["fit", *words])
    return made[0]._subcommands_action._name_parser_map["fit"]


@pytest.fixture(scope="module")
def parser() -> HadrlParser:
    """The parser of `hadrl fit --help`."""
    return fit_parser("--help")


def test_what_a_command_changes_of_its_parser_no_later_one_sees() -> None:
    first = fit_parser()
    assert first.get_defaults()["data.seed"] == 0
    first.get_defaults()["data.scenario"]["num_users"] = 7
    first.set_defaults({"data.seed": 5})
    first.callback_keys.clear()
    assert first.get_defaults()["data.seed"] == 5
    assert first.get_defaults()["data.scenario"]["num_users"] != 7
    second = fit_parser()
    assert second is not first
    assert second.get_defaults()["data.seed"] == 0
    assert "planning" in second.callback_keys


def test_help_has_its_texts_where_an_earlier_command_needed_none() -> None:
    fit_parser()
    text = " ".join(fit_parser("--help").format_help().split())
    assert "S, the number of edge servers (at least 1)." in text


def test_help_opens_with_what_matters(parser: HadrlParser) -> None:
    first, _, rest = parser.format_help().partition("\n\noptions:\n")
    assert len(first.splitlines()) <= 40
    assert first.splitlines()[0] == "usage: hadrl fit [--config NAME] … [--KEY VALUE] …"
    for line in (
        "--data.scenario.num_users N        mobile users (30)",
        "--data.scenario.cache_bytes X      cache of a server (200 GiB)",
        "--data.scenario.compute_hz X       CPU cycles per second of a server (60 GHz)",
        "--trainer.max_epochs N             epochs; each collects caching decisions, then learns (12)",
    ):
        assert line in first
    for setting in (
        "--trainer.precision",
        "--data.scenario.cloud_delay_s",
        "--planning.latency_weight",
        "--ckpt_path",
    ):
        assert f"\n  {setting} " in rest


def test_every_setting_that_help_speaks_of_is_there(parser: HadrlParser) -> None:
    known = {action.dest for action in parser._actions}
    assert {name for name in OURS if name not in ("verbose", "return_predictions")} <= known
    assert set(OPENINGS["fit"].settings) <= known
    for about in OPENINGS.values():
        assert set(about.settings) <= set(SETTINGS)


def test_no_help_is_cut_or_of_something_else(parser: HadrlParser) -> None:
    text = " ".join(parser.format_help().split())
    assert ":paramref:" not in text
    assert "``" not in text
    assert "os.getcwd()" not in text
    assert "max_epochs = 1000" not in text
    assert "Default: 50" not in text
    assert "Model Registry" not in text
    for action in parser._actions:
        assert not str(action.help).rstrip().endswith((",", ":", " the", " a")), action.dest
    for words in ("see its grad_clip_norm.", "that of the newest run of the same configs"):
        assert words in text


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("cache_bytes", 200 * 1024**3, "200 GiB"),
        ("cache_bytes", 20e9, "20 GB"),
        ("compute_hz", 60e9, "60 GHz"),
        ("cloud_delay_s", 0.1, "100 ms"),
        ("noise_dbm", -114.0, "-114 dBm"),
        ("compute_hz", [60e9, 0.5e9], "[60 GHz, 500 MHz]"),
        ("cloud_delay_s", 0, "0 s"),
        ("num_users", 30, "30"),
        ("references", True, "true"),
    ],
)
def test_a_default_has_the_unit_that_makes_it_shortest(name: str, value: Any, text: str) -> None:
    assert with_unit(name, value) == text


# --- what can't be done is said in one line, where it is asked for ---------------------------------------------------


THREE = Scenario(num_users=3, decisions_per_episode=1, slots_per_decision=1)


@pytest.fixture(scope="module")
def untrained() -> HADRL:
    return HADRL(THREE)


def said_by(ask: Callable[[], Any]) -> str:
    """The one line of a refusal."""
    with pytest.raises((ValueError, RuntimeError)) as refusal:
        ask()
    text = str(refusal.value)
    assert "\n" not in text
    assert len(text) < 500
    return text


# Agents --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "form",
    [
        torch.Tensor.double,
        torch.Tensor.half,
        torch.Tensor.bfloat16,
        torch.Tensor.long,
        torch.Tensor.numpy,
        torch.Tensor.tolist,
    ],
)
def test_an_agent_reads_numbers_in_any_form(untrained: HADRL, form: Callable[[torch.Tensor], Any]) -> None:
    """Whole numbers below 256, which every format holds."""
    view = EdgeNetwork(THREE, generator=torch.Generator().manual_seed(0)).offloading_view()
    small = {name: value.clamp(max=255).ceil() for name, value in view.tensors() if value.dtype != torch.bool}
    other = {"cache": view.cache, **{name: form(value) for name, value in small.items()}}
    expected = untrained.decide(replace(view, **small))
    found = untrained.decide(OffloadingView.of(**other))
    assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))
    assert untrained.decide(view.to(dtype=torch.float64)).server.equal(untrained.decide(view).server)


def test_an_agent_plays_networks_in_double_precision_and_none_at_all(untrained: HADRL) -> None:
    assert untrained.play(EdgeNetwork(THREE, dtype=torch.float64)).latency.isfinite().all()
    nothing = untrained.decide(EdgeNetwork(THREE).offloading_view()[:0])
    assert [list(part.shape) for part in nothing] == [[0, 3]] * 3


@pytest.mark.unchecked
def test_an_agent_says_what_it_cannot_act_on(untrained: HADRL) -> None:
    known = {name: value.tolist() for name, value in EdgeNetwork(THREE).offloading_view().tensors()}
    text = "cycles must be an array of real numbers, got "
    for value, rest in ((torch.ones(3, dtype=torch.complex64), "torch.complex64"), (["x" * 5000], "")):
        changed = {**known, "cycles": value}
        assert said_by(lambda changed=changed: OffloadingView.of(**changed)).startswith(text + rest)  # type: ignore[misc]
    assert said_by(lambda: untrained.play(EdgeNetwork(THREE, "published"))) == (
        "network must have the physics of the agent (strict), got published"
    )
    assert said_by(lambda: untrained.for_scenario(None)) == "scenario must be a Scenario, got None"


# Files ---------------------------------------------------------------------------------------------------------------


class RunsCode:
    """Would run a command where it is loaded carelessly."""

    def __reduce__(self) -> Any:
        return os.system, ("true",)


def test_a_file_that_could_run_code_is_told_from_a_damaged_one(tmp_path: Path) -> None:
    torch.save({"a": RunsCode()}, tmp_path / "code.ckpt")
    assert "system, which could run code" in said_by(lambda: load_tensors(tmp_path / "code.ckpt"))
    (tmp_path / "damaged.ckpt").write_bytes(np.random.default_rng(0).bytes(1000))
    assert "must be an undamaged checkpoint" in said_by(lambda: load_tensors(tmp_path / "damaged.ckpt"))


def test_a_name_longer_than_any_file_has_is_none_of_an_agent() -> None:
    assert "(no such file)" in said_by(lambda: HADRL.from_checkpoint("x" * 5000))


def test_a_figure_that_cannot_be_saved_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    figure = pyplot().figure()
    assert "file/it.pdf can't be written: " in said_by(lambda: save(figure, tmp_path / "file" / "it"))
    pyplot().close(figure)


def test_a_checkpoint_of_an_earlier_state_lacks_something_by_its_name() -> None:
    def load_state_dict(state: dict[str, Any]) -> None:
        state["caching_fades"]

    def resume(load: Callable[[dict[str, Any]], None]) -> None:
        with resuming_from(Path("old.ckpt")):
            load({})

    assert said_by(lambda: resume(load_state_dict)).endswith("got old.ckpt without 'caching_fades'")
    with pytest.raises(KeyError):
        resume(lambda state: state["a bug of ours"])


# Scenario and data ---------------------------------------------------------------------------------------------------


@pytest.mark.unchecked
def test_a_scenario_of_nobody_may_say_where_nobody_is_and_needs_a_mapping() -> None:
    assert Scenario(num_users=0, user_positions_m=()).cells == ()
    text = "scenario must be a mapping of its fields, got None"
    assert said_by(lambda: Scenario.from_dict(None)) == text  # type: ignore[arg-type]


def test_data_say_in_words_what_they_are() -> None:
    data = TransitionDataModule(THREE, num_envs=2)
    data.setup("fit")
    assert str(data) == (
        "TransitionDataModule(num_envs=2, num_servers=2, num_users=3, num_services=10, physics=strict, slots=0)"
    )


# Benchmark -----------------------------------------------------------------------------------------------------------


def test_what_is_asked_for_twice_is_computed_and_counted_once() -> None:
    sweep = Sweep("data.scenario.num_users", (5, 5))
    settings = PlanSettings(scenarios=("es2.yaml",) * 2, sweeps=(sweep, sweep), policies=("random+random",))
    assert len(make_plan(settings).entries) == 2 * 5  # with the yardstick, of 5 seeds


def test_a_benchmark_reads_agents_and_seeds_before_anything_is_computed(tmp_path: Path) -> None:
    file = tmp_path / "cut-0.ckpt"
    file.write_bytes(b"PK")
    policies = (str(tmp_path / "cut-{seed}.ckpt"),)
    text = said_by(lambda: make_plan(PlanSettings(policies=policies, seeds=(0,))))
    assert text.startswith(f"policies must be an undamaged checkpoint, got {file}")
    text = said_by(lambda: PlanSettings(seeds=(2**70,)))
    assert text == f"seeds must be at least 0 and below 2^64, got {2**70}"


# Gymnasium -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ServiceCaching", "ComputationOffloading", "EdgeNetwork"])
def test_an_environment_asks_for_a_reset_first_and_for_real_numbers(name: str) -> None:
    env = gymnasium.make(f"hadrl/{name}-v0", scenario=THREE).unwrapped
    action = np.zeros(env.action_space.shape or (), np.float32)
    assert said_by(lambda: env.step(action)) == "step must follow reset: no episode has begun"
    env.reset(seed=0)
    assert said_by(lambda: env.step(action.astype(complex))).startswith(
        "action must be an array of numbers, got "
    )


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("name", "setting", "given"),
    [("ServiceCaching", "offloading_policy", None), ("ComputationOffloading", "caching_policy", "lru")],
)
def test_the_level_that_an_environment_leaves_out_needs_a_function(
    name: str, setting: str, given: Any
) -> None:
    text = said_by(lambda: gymnasium.make(f"hadrl/{name}-v0", scenario=THREE, **{setting: given}))
    assert text == f"{setting} must be a function of the network, got {given!r}"


def test_a_long_value_is_shown_by_its_two_ends() -> None:
    text = str(HadrlError(f"it must be short, got {'a' * 5000}z; be brief"))
    assert text.startswith("it must be short, got aaa")
    assert text.endswith("aaz; be brief")
    assert len(text) < 250

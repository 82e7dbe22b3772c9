"""Things that settings name, of the package and of ones own; and settings of a wrong type, refused in one line."""

import dataclasses
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from math import nan
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
import yaml

from hadrl_lightning.agents import (
    HADRL,
    DDPGSettings,
    SetDDPGSettings,
    SetWorldModelSettings,
    WorldModelSettings,
)
from hadrl_lightning.baselines.genetic import GeneticSettings
from hadrl_lightning.baselines.learners import LearnerSettings
from hadrl_lightning.benchmark.plan import parse_sweep, parse_value
from hadrl_lightning.benchmark.training import named, own_modules
from hadrl_lightning.callbacks import CEMPlanning
from hadrl_lightning.cli import main
from hadrl_lightning.cli.checkpointing import Checkpointing
from hadrl_lightning.cli.mistakes import naming_settings
from hadrl_lightning.cli.studies import settings_of
from hadrl_lightning.config_files import load_config
from hadrl_lightning.data import TransitionDataModule
from hadrl_lightning.errors import HadrlError
from hadrl_lightning.planning import PlannerSettings
from hadrl_lightning.planning.refine import RefinementSettings
from hadrl_lightning.registries import Registry
from hadrl_lightning.scenario import Scenario
from hadrl_lightning.simulator import EdgeNetwork
from hadrl_lightning.typed import read_as
from hadrl_lightning.units import UNITS, read_unit, read_units

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


SETTINGS = [
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


@pytest.mark.parametrize("cls", SETTINGS)
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
    assert settings_of(words, "benchmark", {}) == {
        "data": {"scenario": {"compute_hz": 20e9}, "num_envs": 2000}
    }
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

"""The shipped settings: every file builds, every key is explained, and all scenarios share one set of numbers."""

import inspect
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from hadrl_lightning.agents import HADRL, WorldModelSettings
from hadrl_lightning.callbacks import CEMPlanning
from hadrl_lightning.cli import main
from hadrl_lightning.config_files import find_config, load_config, shipped_configs
from hadrl_lightning.errors import HadrlError
from hadrl_lightning.planning import PlannerSettings
from hadrl_lightning.scenario import GIB, KIB, Scenario

SCENARIOS = ["es2.yaml", "es3.yaml", "es4.yaml", "es5.yaml"]
OVERLAYS = ["published.yaml", "tight.yaml", "quick.yaml"]


def test_the_shipped_files_are_the_documented_ones() -> None:
    assert set(shipped_configs()) == {*SCENARIOS, *OVERLAYS}


@pytest.mark.parametrize(
    "configs", [*[[name] for name in SCENARIOS], *[["es2.yaml", name] for name in OVERLAYS]]
)
def test_every_config_builds_an_agent_and_its_data(
    in_empty_folder: Path, configs: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word for name in configs for word in ("--config", name)]
    with pytest.raises(SystemExit) as stop:
        main(["fit", *words, "--print_config"])
    assert stop.value.code == 0
    settings = yaml.safe_load(capsys.readouterr().out)
    scenario = Scenario.from_dict(settings["data"]["scenario"])
    for group in ("ddpg", "set_ddpg"):  # YAML has lists for tuples
        settings["model"][group]["hidden_sizes"] = tuple(settings["model"][group]["hidden_sizes"])
    agent = HADRL.from_settings(
        {**settings["model"], "scenario": scenario.to_dict(), "physics": settings["data"]["physics"]}
    )
    assert agent.scenario == scenario
    assert agent.physics == ("published" if "published.yaml" in configs else "strict")


def test_published_overrides_whatever_a_scenario_sets_of_the_algorithm(
    in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["fit", "--config", "es5.yaml", "--config", "published.yaml", "--print_config"])
    settings = yaml.safe_load(capsys.readouterr().out)
    planner = settings["model"]["planner"]
    assert planner.pop("information_estimator") == "nearest_neighbour"
    expected = asdict(PlannerSettings())  # constructor defaults are the published table
    del expected["information_estimator"]
    del planner["max_rows"], expected["max_rows"]  # bounds the memory of a plan, changes no result
    assert planner == expected
    world_model = settings["model"]["world_model"]
    assert world_model.pop("normalise_reward") is False
    assert world_model == {
        key: value for key, value in asdict(WorldModelSettings()).items() if key in world_model
    }
    signature = inspect.signature(CEMPlanning.__init__).parameters
    assert settings["planning"] == {key: signature[key].default for key in settings["planning"]}


@pytest.mark.parametrize("name", [*SCENARIOS, *OVERLAYS])
def test_every_key_of_every_config_is_explained_by_a_comment(name: str) -> None:
    lines = find_config(name).read_text().splitlines()
    explained = False
    for line in lines:
        if not line.strip():
            explained = False
        elif line.lstrip().startswith("#"):
            explained = True
        elif re.match(r"\s*[\w-]+:\s*$", line):  # a group
            explained = False
        else:  # a comment may explain the keys right below it
            assert explained, f"{name}: {line}"


@pytest.mark.parametrize("name", SCENARIOS[1:])
def test_all_scenarios_share_one_set_of_hyper_parameters(name: str) -> None:
    first, other = load_config("es2.yaml"), load_config(name)
    assert first["data"].pop("scenario") != other["data"].pop("scenario")
    assert first == other


@pytest.mark.parametrize(
    ("name", "servers", "users", "input_kib", "compute_ghz", "free_share", "thresholds"),
    [
        ("es2.yaml", 2, 30, 700, 60, 0.2, (0.0,)),
        ("es3.yaml", 3, 30, 500, 20, 0.2, (-0.5, 0.5)),
        ("es4.yaml", 4, 30, 500, 20, 0.3, (-0.5, 0.0, 0.5)),
        ("es5.yaml", 5, 40, 500, 20, 0.3, (-0.6, -0.2, 0.2, 0.6)),
    ],
)
def test_the_scenarios_are_the_published_table(
    name: str,
    servers: int,
    users: int,
    input_kib: int,
    compute_ghz: int,
    free_share: float,
    thresholds: tuple[float, ...],
) -> None:
    scenario = Scenario.from_config(name)
    assert (scenario.num_servers, scenario.num_users, scenario.num_services) == (servers, users, 10)
    assert scenario.input_bits[9] == input_kib * KIB * 8 * 10
    assert scenario.compute_hz == compute_ghz * 1e9
    assert scenario.free_share == free_share
    assert scenario.offload_thresholds == thresholds
    assert scenario.cache_bytes == 200 * GIB


def test_published_holds_the_published_table_to_the_letter() -> None:
    settings: dict[str, Any] = load_config("published.yaml")
    model, data, planning = settings["model"], settings["data"], settings["planning"]
    assert (model["fast_level"], model["slow_level"], data["physics"]) == ("flat", "flat", "published")
    world_model = model["world_model"]
    assert (world_model["ensemble_size"], world_model["hidden_size"]) == (20, 400)
    assert (world_model["learning_rate"], world_model["adam_epsilon"]) == (1e-3, 1e-8)
    assert (world_model["grad_clip_norm"], world_model["min_log_var"], world_model["max_log_var"]) == (
        1000,
        -5,
        -1,
    )
    planner = model["planner"]
    assert (planner["plan_horizon"], planner["n_candidates"], planner["top_candidates"]) == (20, 700, 70)
    assert (planner["optimisation_iters"], planner["strategy"], planner["form"]) == (
        7,
        "information",
        "tschantz",
    )
    assert (planner["use_reward"], planner["use_exploration"]) == (True, True)
    assert (planner["expl_scale"], planner["reward_scale"]) == (0.1, 1.0)
    assert (data["passes_per_epoch"], data["batch_size"], data["caching_memory"]) == (60, 50, 500_000)
    assert (data["caching_batch_size"], data["caching_updates_per_epoch"], data["num_envs"]) == (64, 10, 1)
    ddpg = model["ddpg"]
    assert (ddpg["actor_learning_rate"], ddpg["critic_learning_rate"]) == (1e-3, 2e-3)
    assert (ddpg["discount"], ddpg["target_rate"], ddpg["hidden_sizes"]) == (0.95, 0.005, [256, 128])
    assert (planning["seed_decisions"], planning["decisions_per_epoch"]) == (20, 5)
    assert (planning["caching_noise_decay"], planning["offloading_noise_decay"]) == (0.9882, 0.9995)
    seeds, epochs, decisions = 1, 400, 5
    assert settings["trainer"]["max_epochs"] == seeds + epochs
    assert epochs * decisions == 200 * 10  # 200 episodes of 10 decisions


def test_a_name_too_long_for_a_file_is_refused_like_any_other() -> None:
    with pytest.raises(HadrlError, match=r"config must be a path or one of the shipped files"):
        find_config("x" * 5000)


@pytest.mark.parametrize(
    "text", ["a: 2026-99-99", "[" * 3000, "a: [", "\x00", "a: !!python/object:os.system {}"]
)
def test_text_that_is_no_yaml_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(HadrlError, match="config must be a readable YAML file") as refusal:
        load_config(tmp_path / "mine.yaml")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "setting"),
    [
        ("data: {num_envs: null}", "data.num_envs"),
        ("data: {scenario: {num_users: null}}", "data.scenario.num_users"),
        ("model: {set_ddpg: {actor_learning_rate: null}}", "model.set_ddpg.actor_learning_rate"),
        ("planning: {caching_noise: null}", "planning.caching_noise"),
        ("data: null", "data"),
        ("data: {scenario: null}", "data.scenario"),
        ("model: {planner: null}", "model.planner"),
        ("planning: {planner: {n_candidates: null}}", "planning.planner.n_candidates"),
    ],
)
def test_a_null_in_a_file_is_refused_where_the_setting_has_none(
    in_empty_folder: Path, capsys: pytest.CaptureFixture[str], text: str, setting: str
) -> None:
    Path("mine.yaml").write_text(text)
    assert main(["fit", "--config", "es2.yaml", "--config", "mine.yaml"]) == 2
    assert capsys.readouterr().err == f"hadrl: error: {setting} must not be null\n"


@pytest.mark.parametrize("given", ["1" + "0" * 400, "-1" + "0" * 400])
def test_a_whole_number_beyond_double_precision_is_refused_in_one_line(
    in_empty_folder: Path, capsys: pytest.CaptureFixture[str], given: str
) -> None:
    assert main(["fit", "--config", "es2.yaml", f"--data.scenario.cloud_compute_hz={given}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("hadrl: error: settings must be numbers of at most 1.8e308")
    assert error.count("\n") == 1

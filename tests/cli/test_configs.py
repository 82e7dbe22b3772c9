"""The shipped settings: every file builds, every key is explained, and all scenarios share one set of numbers."""

import inspect
import re
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from hadrl_lightning.agents import DDPG, HADRL, DDPGSettings, WorldModel, WorldModelSettings
from hadrl_lightning.benchmark import PlanSettings, make_plan
from hadrl_lightning.callbacks import CEMPlanning
from hadrl_lightning.cli import main
from hadrl_lightning.config_files import find_config, load_config, shipped_configs
from hadrl_lightning.data import TransitionDataModule
from hadrl_lightning.errors import HadrlError
from hadrl_lightning.network_files import SETTINGS
from hadrl_lightning.planning import PlannerSettings
from hadrl_lightning.scenario import GIB, KIB, Scenario

pytestmark = pytest.mark.unchecked

SCENARIOS = ["es2.yaml", "es3.yaml", "es4.yaml", "es5.yaml"]
OVERLAYS = [
    "published.yaml",
    "tight.yaml",
    "quick.yaml",
    "drift.yaml",
    "slowdowns.yaml",
    "mobile.yaml",
    "channel.yaml",
    "device.yaml",
    "hops.yaml",
    "queues.yaml",
]
OTHERS = ["base.yaml", *OVERLAYS]


def test_the_shipped_files_are_the_documented_ones() -> None:
    assert set(shipped_configs()) == {"any.yaml", *SCENARIOS, *OTHERS}


@pytest.mark.parametrize(
    "configs", [["any.yaml"], *[[name] for name in SCENARIOS], *[["es2.yaml", name] for name in OVERLAYS]]
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


def printed_settings(capsys: pytest.CaptureFixture[str], *configs: str) -> dict[str, Any]:
    """What `hadrl fit --config … --print_config` says."""
    with pytest.raises(SystemExit):
        main(["fit", *(word for name in configs for word in ("--config", name)), "--print_config"])
    return yaml.safe_load(capsys.readouterr().out)


def test_a_flag_of_a_process_is_added_to_what_files_name(
    in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    usual = printed_settings(capsys, "es3.yaml", "slowdowns.yaml", "hops.yaml")["data"]["scenario"]
    name = "--data.scenario.processes.slow_servers"
    flags = [
        f"{name}.slow_part=0.4",
        f"{name}.slow_slots",
        "7",
        "--data.scenario.processes.hops.delay_s",
        "2ms",
    ]
    files = ["--config", "es3.yaml", "--config", "slowdowns.yaml", "--config", "hops.yaml"]
    with pytest.raises(SystemExit):
        main(["fit", *files, *flags, "--print_config"])
    printed = yaml.safe_load(capsys.readouterr().out)
    changed = usual["processes"]
    changed["slow_servers"] |= {"slow_part": 0.4, "slow_slots": 7}
    changed["hops"] |= {"delay_s": 0.002}
    assert printed["data"]["scenario"] == usual


def plain(value: Any) -> Any:
    """Lists for tuples, as YAML has them, and dictionaries for dataclasses."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def defaults(cls: type) -> dict[str, Any]:
    return {name: plain(one.default) for name, one in inspect.signature(cls).parameters.items()}


def test_the_command_line_and_the_constructors_have_one_default_for_every_setting(
    in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = printed_settings(capsys)
    assert settings["data"] == defaults(TransitionDataModule)
    assert settings["planning"] == defaults(CEMPlanning)
    own = defaults(HADRL)
    assert settings["model"] == {name: own[name] for name in settings["model"]}
    trainer = load_config("base.yaml")["trainer"]
    assert {name: settings["trainer"][name] for name in trainer} == trainer
    assert trainer["max_epochs"] == 12


def test_a_scenario_file_is_the_dozen_lines_that_differ(
    in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fields = {"num_servers", "num_users", "input_step_bytes", "compute_hz", "free_share"}
    for name in SCENARIOS:
        assert load_config(name).keys() == {"data"}
        assert load_config(name)["data"].keys() == {"scenario"}
        assert load_config(name)["data"]["scenario"].keys() == {*fields, "offload_thresholds"}


@pytest.mark.parametrize("name", SCENARIOS)
def test_an_agent_of_a_scenario_is_the_agent_of_its_file(name: str) -> None:
    agent = HADRL(Scenario.from_config(name))
    assert agent.settings == HADRL.from_config(name).settings
    assert agent.hparams == agent.settings_dict()
    shipped = HADRL.from_checkpoint(name.replace("yaml", "ckpt"))
    assert (shipped.settings["fast_level"], shipped.settings["slow_level"]) == ("set", "lookahead")
    assert shipped.settings["planner"] == agent.settings["planner"]


def test_the_published_agent_is_asked_for_by_name() -> None:
    agent = HADRL.from_config("es5.yaml", "published.yaml", seed=7)
    published = load_config("published.yaml")["model"]
    assert agent.settings["planner"] == PlannerSettings(**published["planner"])
    assert (agent.physics, agent.seed, agent.reset_world_model) == ("published", 7, True)
    assert type(agent.world_model) is WorldModel
    assert type(agent.caching_agent) is DDPG
    assert agent.scenario == Scenario.from_config("es5.yaml")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("model: {planer: {n_candidates: 5}}", "planer"),
        ("model: {planner: {n_candidates: many}}", "n_candidates"),
        ("model: {planner: {n_candidates: null}}", "model.planner.n_candidates must not be null"),
        ("data: hello", r"data must be a group of settings, got 'hello' in .*mine.yaml"),
        ("model: [1]", r"model must be a group of settings, got \[1\] in .*mine.yaml"),
        ("data: {scenario: {num_users: -1}}", "num_users must be"),
    ],
)
def test_a_wrong_setting_of_an_agent_is_refused_in_python_too(
    tmp_path: Path, text: str, problem: str
) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(HadrlError, match=problem):
        HADRL.from_config("es2.yaml", tmp_path / "mine.yaml")


def test_an_argument_that_an_agent_has_not_is_refused_with_those_that_it_has() -> None:
    with pytest.raises(
        HadrlError, match=r"^settings must be some of scenario, physics, .*, seed, got num_users, a f"
    ):
        HADRL.from_config("es2.yaml", num_users=60)
    with pytest.raises(HadrlError, match=r", seed, got sede$"):
        HADRL.from_config("es2.yaml", sede=1)


def test_published_names_all_that_the_published_algorithm_has_otherwise(
    in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = printed_settings(capsys, "es5.yaml", "published.yaml")
    expected = {
        "plan_horizon": 20,
        "n_candidates": 700,
        "top_candidates": 70,
        "optimisation_iters": 7,
        "form": "tschantz",
        "strategy": "information",
        "information_estimator": "nearest_neighbour",
        "use_reward": True,
        "use_exploration": True,
        "expl_scale": 0.1,
        "reward_scale": 1.0,
        "proposal": "gaussian",
        "initial_std": 1.0,
        "min_std": 0.0,
        "clip_actions": True,
        "warm_start": False,
        "planning_members": None,
        "informed_candidates": 0,
        "share_steps": 0,
        "target_sweeps": 0,
    }
    planner = settings["model"]["planner"]
    assert {name: planner[name] for name in expected} == expected
    assert settings["model"]["world_model"] == {**plain(WorldModelSettings()), "normalise_reward": False}
    assert settings["model"]["ddpg"] == plain(DDPGSettings())
    of_planning = {**settings["planning"], "latency_weight": None}  # of another reward
    assert of_planning == {**load_config("published.yaml")["planning"], "latency_weight": None}
    unnamed = settings["data"].keys() - load_config("published.yaml")["data"].keys()
    rest = {
        "scenario",
        "seed",
        "validation_seed",
        "test_seed",
        "predict_episodes",
        "parallel_episodes",
        "memory_bytes",
    }
    assert unnamed == rest | set(SETTINGS), "those of files too"


@pytest.mark.parametrize("name", [*SCENARIOS, *OTHERS])
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
        ("planning: {planner: {n_candidates: null}}", "planning.planner.n_candidates"),
    ],
)
def test_a_null_in_a_file_is_refused_where_the_setting_has_none(
    in_empty_folder: Path, capsys: pytest.CaptureFixture[str], text: str, setting: str
) -> None:
    Path("mine.yaml").write_text(text)
    assert main(["fit", "--config", "es2.yaml", "--config", "mine.yaml"]) == 2
    assert capsys.readouterr().err == f"hadrl: error: {setting} must not be null\n"


NO_GROUP = {
    "data: hello": "data must be a group of settings, got 'hello' in mine.yaml",
    "data: {scenario: [1, 2]}": "data.scenario must be a group of settings, got [1, 2] in mine.yaml",
    "planning: {planner: hello}": "planning.planner must be a group of settings, got 'hello' in mine.yaml",
    "trainer: fast": "trainer must be a group of settings, got 'fast' in mine.yaml",
    "- data": "config must be a YAML mapping, got a list in mine.yaml",
    "data": "config must be a YAML mapping, got a str in mine.yaml",
    "data: {seed: 1, seed: 2}": "YAML file, got mine.yaml: seed stands twice in a group, in line 1",
    "data: &a {scenario: *a}": "YAML file, got mine.yaml: found unconstructable recursive node",
    f"data: {{scenario: {{num_users: {'9' * 5000}}}}}": "data.scenario.num_users must be a whole number or a "
    "range {low: …, high: …}, got inf",
    "data: {scenario: {compute_hz: 1e99999999999 GHz}}": "compute_hz must be a finite number, got inf",
    "data: {scenario: {cell: " + "x" * 5000 + "}}": "unknown setting data.scenario.cell",
}
"""What a file says that is no setting or no group, and what is said of it."""


@pytest.mark.parametrize("text", ["", "# nothing\n", "data:\n", "data:\n  scenario:\n", "{}"])
def test_a_file_or_a_group_that_is_empty_leaves_earlier_settings_as_they_are(
    in_empty_folder: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    Path("three.yaml").write_text("data: {scenario: {num_users: 3}}")
    Path("mine.yaml").write_text(text)
    assert HADRL.from_config("three.yaml", "mine.yaml").scenario.num_users == 3
    assert printed_settings(capsys, "three.yaml", "mine.yaml")["data"]["scenario"]["num_users"] == 3
    (cell, *_) = make_plan(
        PlanSettings(overlays=("three.yaml", "mine.yaml"), policies=("random+random",))
    ).cells
    assert cell.settings["scenario"]["num_users"] == 3


@pytest.mark.parametrize("text", NO_GROUP, ids=range(len(NO_GROUP)))
def test_what_is_no_group_of_settings_is_refused_in_the_same_words_everywhere(
    in_empty_folder: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    """Followed by a file that is right: merged over what is wrong, it would hide it."""
    Path("mine.yaml").write_text(text)
    Path("three.yaml").write_text("data: {scenario: {num_users: 3}}" if "inf" not in NO_GROUP[text] else "")
    names = ("es2.yaml", "mine.yaml", "three.yaml")
    assert main(["fit", *(word for name in names for word in ("--config", name))]) == 2
    by_fit = capsys.readouterr().err
    assert NO_GROUP[text] in by_fit
    assert by_fit.count("\n") == 1
    with pytest.raises(HadrlError) as by_benchmark:
        make_plan(PlanSettings(scenarios=names[:1], overlays=names[1:], policies=("random+random",)))
    assert NO_GROUP[text] in str(by_benchmark.value)
    assert max(len(by_fit), len(str(by_benchmark.value))) < 400
    if not text.startswith(("trainer", "planning")):
        with pytest.raises(HadrlError) as in_python:
            HADRL.from_config(*names)
        assert NO_GROUP[text] in str(in_python.value)


@pytest.mark.parametrize("given", ["1" + "0" * 400, "-1" + "0" * 400])
def test_a_whole_number_beyond_double_precision_is_refused_in_one_line(
    in_empty_folder: Path, capsys: pytest.CaptureFixture[str], given: str
) -> None:
    assert main(["fit", "--config", "es2.yaml", f"--data.scenario.cloud_compute_hz={given}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(
        "hadrl: error: data.scenario.cloud_compute_hz must be a number or a range {low: …, high: …}, got "
    )
    assert error.count("\n") == 1


@pytest.mark.slow
def test_the_published_algorithm_shrunk_trains_to_the_end(
    in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--config", "es2.yaml", "--config", "published.yaml", "--config", "quick.yaml"]
    assert main(["fit", *words]) == 0
    assert "10 test episodes" in capsys.readouterr().out


def test_quick_shrinks_the_published_algorithm_to_plans_of_one_slot() -> None:
    agent = HADRL.from_config("es2.yaml", "published.yaml", "quick.yaml")
    planner = agent.settings["planner"]
    assert (planner.plan_horizon, planner.n_candidates, planner.optimisation_iters) == (1, 32, 2)
    assert agent.num_members == 20

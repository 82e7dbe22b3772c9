import csv
import json
import linecache
import math
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hadrl_lightning.agents import SetDDPG
from hadrl_lightning.baselines.learners import LearnerSettings, TwinDDPG, joint_policies
from hadrl_lightning.benchmark import (
    LEARNERS,
    Cell,
    CellResult,
    Outcome,
    Plan,
    PlanSettings,
    compute,
    computed_cells,
    default_policies,
    groups,
    intervals,
    label_of,
    make_plan,
    records_of,
    result_table,
    run_cells,
    write_report,
)
from hadrl_lightning.benchmark.archive import judged
from hadrl_lightning.benchmark.cells import read_result, write_result
from hadrl_lightning.benchmark.plan import Sweep, nested, parse_sweep, parse_value
from hadrl_lightning.benchmark.report import result_rows
from hadrl_lightning.benchmark.training import merged, num_slots, resolved, validated_slots, with_slots
from hadrl_lightning.cli import main
from hadrl_lightning.cli.studies import QUICK, Progress
from hadrl_lightning.errors import HadrlError
from hadrl_lightning.judge import LEAST_KNOWN
from hadrl_lightning.play import run_episode
from hadrl_lightning.scenario import GIB, Scenario
from hadrl_lightning.simulator import EdgeNetwork
from tests.helpers import each_settings_once

pytestmark = [pytest.mark.usefixtures("each_settings_once"), pytest.mark.unchecked]

__all__ = ["each_settings_once"]

TINY = {
    "trainer": {"max_epochs": 2, "check_val_every_n_epoch": 1},
    "data": {
        "scenario": {
            "num_users": 4,
            "decisions_per_episode": 2,
            "slots_per_decision": 2,
            "cache_bytes": 20 * GIB,
        },
        "num_envs": 2,
        "passes_per_epoch": 1,
        "samples_per_pass": 16,
        "caching_updates_per_epoch": 2,
        "validation_episodes": 2,
        "test_episodes": 3,
    },
    "planning": {"seed_decisions": 4, "decisions_per_epoch": 4},
    "model": {
        "planner": {"n_candidates": 8, "top_candidates": 2, "optimisation_iters": 1},
        "lookahead": {"num_starts": 1, "num_finalists": 1},
    },
}
BUDGET = 2 * 2 * (4 + 4)  # networks * slots of a decision * decisions


def plan_of(*policies: str, **settings: object) -> Plan:
    options = {"seeds": (0, 1), "overrides": TINY, "published_size": "tiny", **settings}
    return make_plan(PlanSettings(policies=policies, **options))  # type: ignore[arg-type]


def cells_of(plan: Plan, policy: str) -> list[Cell]:
    return [cell for cell in plan.cells if cell.policy == policy]


# Cells ---------------------------------------------------------------------------------------------------------------


def test_a_cell_is_known_by_all_that_determines_it() -> None:
    cell = Cell(policy="ppo", settings={"a": 1, "b": [2]}, seed=0)
    assert cell.key == Cell(policy="ppo", settings={"b": [2], "a": 1}, seed=0).key
    others = [replace(cell, policy="sac"), replace(cell, seed=1), replace(cell, settings={"a": 1, "b": [3]})]
    assert len({cell.key, *(other.key for other in others)}) == 4


def test_a_result_is_read_as_it_was_written_and_a_damaged_file_is_none(tmp_path: Path) -> None:
    cell = Cell(policy="ppo", settings={}, seed=0)
    assert read_result(cell, tmp_path) is None
    result = CellResult(scores={"latency": 1.5}, episodes={"latency": [1.0, 2.0]}, slots=7)
    write_result(cell, result, tmp_path)
    assert read_result(cell, tmp_path) == result
    assert [file.name for file in (tmp_path / "cells").iterdir()] == [cell.file(tmp_path).name]
    cell.file(tmp_path).write_text(cell.file(tmp_path).read_text()[:-20])
    assert read_result(cell, tmp_path) is None


# Plans ---------------------------------------------------------------------------------------------------------------


def test_policies_that_do_not_draw_are_computed_once_for_all_seeds() -> None:
    plan = plan_of("density+home_equal", "random+random", seeds=(0, 1, 2))
    assert len(plan.entries) == 3 * 3  # the yardstick comes with them
    assert [len(cells_of(plan, name)) for name in ("density+home_equal", "random+random", LEAST_KNOWN)] == [
        1,
        3,
        1,
    ]


def test_every_learner_gets_the_same_slots_and_validations() -> None:
    here = [name for name in LEARNERS if name in default_policies()]
    plan = plan_of(*here, seeds=(0,))
    for name in here:
        (cell,) = cells_of(plan, name)
        assert (name, cell.settings["slots"]) == (name, BUDGET)
        config = cell.settings.get("config")
        own = LEARNERS[name].kind == "hadrl"
        due = validated_slots(config) if own else cell.settings["validation"]["slots"]
        assert (name, due) == (name, [BUDGET // 2, BUDGET])


@pytest.mark.whole
def test_a_seed_gives_the_same_numbers_by_fit_and_by_benchmark(in_empty_folder: Path) -> None:
    Path("tiny.yaml").write_text(json.dumps(merged(TINY, {"trainer": {"max_epochs": 3}})))
    words = ["--config", "es2.yaml", "--config", "tiny.yaml", "--data.seed", "7"]
    assert main(["fit", *words, "--evaluation.references", "false"]) == 0
    with open("checkpoints/es2-tiny/version_0/metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    validated = [(float(row["step"]), float(row["val/latency"])) for row in rows if row["val/latency"]]
    (tested,) = (float(row["test/latency"]) for row in rows if row["test/latency"])
    plan = make_plan(PlanSettings(overlays=("tiny.yaml",), policies=("hadrl",), seeds=(7,)))
    result = compute(cells_of(plan, "hadrl")[0])
    assert [point["slots"] for point in result.curve] == [slots for slots, _ in validated]
    latency = [value for _, value in validated]
    assert [point["latency"] for point in result.curve] == pytest.approx(latency, rel=1e-7)
    assert len(set(latency)) == 3
    assert result.scores["latency"] == pytest.approx(tested, rel=1e-7)


def test_slots_can_be_given_and_are_never_exceeded() -> None:
    settings = resolved(TINY)
    assert num_slots(settings) == BUDGET
    assert num_slots(with_slots(settings, 79)) == 64  # 16 in the first epoch, then 16 each
    with pytest.raises(HadrlError, match="slots must be at least 32 with these settings"):
        with_slots(settings, 31)


def test_variants_differ_from_hadrl_in_what_their_names_say() -> None:
    plan = plan_of(*LEARNERS, seeds=(0,))
    model = {
        name: cells_of(plan, name)[0].settings["config"]["model"]
        for name in LEARNERS
        if name.startswith("hadrl")
    }
    collecting = cells_of(plan, "hadrl-no-epistemic")[0].settings["config"]["planning"]["planner"]
    assert not collecting["use_exploration"]
    assert model["hadrl-no-law"]["set_world_model"]["encoder"] == "deep_sets"
    assert model["hadrl-one-member"]["set_world_model"]["ensemble_size"] == 1
    assert model["hadrl-horizon-5"]["planner"]["plan_horizon"] == 5
    assert model["hadrl-no-refinement"]["planner"]["target_sweeps"] == 0
    published = model["hadrl-published"]
    assert (published["fast_level"], published["slow_level"]) == ("flat", "flat")
    assert published["planner"]["n_candidates"] == 32
    settings = cells_of(plan, "hadrl-published")[0].settings
    # published: 10 updates every 5 decisions, so 16 for the 4 decisions of 2 networks
    assert settings["config"]["data"]["caching_updates_per_epoch"] == 16
    assert settings["physics"] == settings["config"]["data"]["physics"] == "strict"
    assert "tiny" in label_of("hadrl-published", "tiny")
    assert "size" not in label_of("hadrl-published", "full")


def test_the_published_algorithm_at_full_size_keeps_its_table() -> None:
    (cell,) = cells_of(
        plan_of("hadrl-published", published_size="full", seeds=(0,), slots=2000), "hadrl-published"
    )
    config = cell.settings["config"]
    assert config["model"]["world_model"]["ensemble_size"] == 20
    assert config["model"]["planner"]["n_candidates"] == 700
    assert config["data"]["num_envs"] == 1


def test_a_sweep_has_its_values_in_place_of_the_base() -> None:
    plan = plan_of("density+home_equal", sweeps=(Sweep("data.scenario.num_users", (3, 5)),), seeds=(0,))
    assert [(entry.sweep_value, entry.policy) for entry in plan.entries] == [
        (3, "density+home_equal"),
        (3, LEAST_KNOWN),
        (5, "density+home_equal"),
        (5, LEAST_KNOWN),
    ]
    assert [cell.settings["scenario"]["num_users"] for cell in plan.cells] == [3, 3, 5, 5]


def test_values_of_a_sweep_may_have_units() -> None:
    assert parse_sweep("data.scenario.cache_bytes=20GiB,1.5GiB") == (
        "data.scenario.cache_bytes",
        (20 * GIB, int(1.5 * GIB)),
    )
    assert [
        parse_value("data.scenario.bandwidth_hz", text)
        for text in ("200M", "0.5", "3", "1e3", "true", "zipf")
    ] == [
        200_000_000,
        0.5,
        3,
        1000.0,
        True,
        "zipf",
    ]
    assert nested("data.scenario.zipf_exponent", 1.2)["data"]["scenario"]["popularity"] == "zipf"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"policies": ("nobody",)}, "policies must be among hadrl"),
        ({"policies": ("lru+nobody",)}, "got 'lru"),
        ({"seeds": ()}, "seeds must be one or more"),
        ({"slots": 0}, "slots must be at least 1, got 0"),
        ({"published_size": "huge"}, "published_size must be one of tiny, small, medium, full"),
        ({"scenarios": ("es9.yaml",)}, "config must be a path"),
        ({"overrides": {"data": {"scenario": {"num_users": 0}}}}, "num_users must be at least 1, got 0"),
        ({"overrides": {"data": {"wrong": 1}}}, "wrong"),
        ({"overrides": {"data": 5}}, "data must be a group of settings, got 5"),
        ({"overrides": {"data": {"num_envs": None}}}, "data.num_envs must not be null"),
        (
            {"overrides": {"model": {"set_ddpg": {"actor_learning_rate": None}}}},
            "model.set_ddpg.actor_learning_rate must not be null",
        ),
        ({"overrides": {"data": {"scenario": 0}}}, "data.scenario must be a group of settings, got 0"),
        ({"overrides": {"model": {"planner": [1]}}}, r"model.planner must be a group of settings, got \[1\]"),
        ({"overrides": {"trainer": "fast"}}, "trainer must be a group of settings, got 'fast'"),
        ({"overrides": {"trainer": {"max_epochs": "x"}}}, "trainer.max_epochs must be a whole number"),
        ({"overrides": {"trainer": {"accelerator": []}}}, r"trainer.accelerator must be a name, got \[\]"),
    ],
)
def test_mistakes_are_told_before_anything_is_computed(settings: dict, message: str) -> None:
    with pytest.raises(HadrlError, match=message) as raised:
        make_plan(PlanSettings(**{"policies": ("random+random",), **settings}))
    assert "\n" not in str(raised.value)


def test_merging_replaces_values_and_joins_dictionaries() -> None:
    first = {"a": {"b": 1, "c": [1, 2]}, "d": {"e": 1}}
    assert merged(first, {"a": {"c": [3]}, "d": None}) == {"a": {"b": 1, "c": [3]}, "d": None}
    assert first["a"]["c"] == [1, 2]


# Computing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "policy",
    [
        pytest.param(one, marks=pytest.mark.whole if one.startswith("hadrl-") else [])
        for one in default_policies()
    ],
)
def test_every_policy_plays_the_test_episodes(policy: str) -> None:
    plan = plan_of(policy, seeds=(0,), overrides=merged(TINY, nested("data.scenario.num_users", 3)))
    (cell,) = cells_of(plan, policy)
    result = compute(cell)
    assert len(result.episodes["latency"]) == 3
    assert all(map(math.isfinite, result.scores.values()))
    json.dumps(result.scores)
    if policy in LEARNERS:
        assert 0 < result.slots <= BUDGET
        assert [point["slots"] for point in result.curve][-1] == result.slots
    if policy != "lower-bound":
        assert result.scores["latency"] >= result.scores["own_best_known"] * 0.95


@pytest.mark.parametrize("policy", ["random+random", "flat-ddpg"])
def test_a_cell_gives_the_same_scores_whenever_it_is_computed(policy: str) -> None:
    first, second = cells_of(plan_of(policy), policy)
    found = compute(first).episodes
    assert compute(first).episodes == found != compute(second).episodes


def test_all_policies_meet_the_same_requests_positions_and_fading() -> None:
    plan = plan_of("density+home_equal", "density+all_cloud", "density+random")
    own = [compute(cell).episodes["own_best_known"] for cell in plan.cells if cell.policy != LEAST_KNOWN]
    assert own[0] == own[1] == own[2] == own[3]


def test_the_joint_decision_of_a_frames_first_slot_is_one_for_both_levels() -> None:
    scenario = Scenario(num_users=3, decisions_per_episode=2, slots_per_decision=3)
    asked = []

    def act(observation: Tensor) -> Tensor:
        asked.append(observation)
        return torch.ones(len(observation), scenario.caching_action_size + scenario.offloading_action_size)

    episode = run_episode(EdgeNetwork(scenario, num_envs=2), *joint_policies(act))
    assert len(asked) == 6
    assert bool((episode.server == 1).all())


def test_hadrl_without_planning_keeps_the_structured_caching_agent() -> None:
    scenario = Scenario(num_users=3, decisions_per_episode=2, slots_per_decision=2)
    network = EdgeNetwork(scenario, num_envs=2, generator=torch.Generator().manual_seed(0))
    agent = SetDDPG(scenario, generator=torch.Generator().manual_seed(0))
    learner = TwinDDPG(network, LearnerSettings(batch_size=4), slow_agent=agent)
    before = {name: value.clone() for name, value in agent.state_dict().items()}
    assert sum(learner.advance(0.5) for _ in range(4)) == 16
    assert any(not torch.equal(value, before[name]) for name, value in agent.state_dict().items())
    with pytest.raises(ValueError, match="random_share must be from 0 to 1"):
        LearnerSettings(random_share=2.0)


# Running and reporting -----------------------------------------------------------------------------------------------


def test_finished_cells_are_used_again_and_a_failed_one_costs_only_itself(
    tmp_path: Path,
) -> None:
    plan = plan_of("density+home_equal", "random+random")
    computed = []

    def sometimes(cell: Cell) -> CellResult:
        computed.append(cell.policy)
        if cell.policy == "random+random" and cell.seed == 1:
            raise RuntimeError("out of luck")
        return compute(cell)

    outcomes = run_cells(plan.cells, tmp_path, compute=sometimes)
    failed = [outcome for outcome in outcomes.values() if outcome.result is None]
    assert [outcome.error for outcome in failed] == ["RuntimeError: out of luck"]
    assert len(computed) == 4
    computed.clear()
    again = run_cells(plan.cells, tmp_path, compute=sometimes)
    assert computed == ["random+random"]
    assert sum(outcome.reused for outcome in again.values()) == 3
    records = records_of(plan, again)
    rows = result_rows(records)
    assert len(rows) == 5  # of 3 policies x 2 seeds
    assert rows[0]["ratio_to_own_best_known"] >= 1
    write_report(records, tmp_path)
    assert len(result_table(records)) == 2  # and one of further figures


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_command_where_it_stands_and_costs_no_cell(
    signum: signal.Signals,
    in_empty_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    computed = []

    def interrupted(cell: Cell) -> CellResult:
        if computed:
            os.kill(os.getpid(), signum)
        computed.append(cell.policy)
        return compute(cell)

    monkeypatch.setattr("hadrl_lightning.benchmark.run_cells", partial(run_cells, compute=interrupted))
    Path("tiny.yaml").write_text(json.dumps(TINY))
    words = ["benchmark", "--config", "tiny.yaml", "--policies", "lru+home_equal", "none+all_cloud"]
    words += ["--seeds", "0", "--no_figures", "--output", "out"]
    assert main(words) == 128 + signum
    command = "hadrl " + " ".join(words)
    assert capsys.readouterr().err == f"hadrl: stopped by {signum.name}; start again with: {command}\n"
    assert [file.suffix for file in Path("out/cells").iterdir()] == [".json"]
    assert computed == ["lru+home_equal"]
    monkeypatch.undo()
    monkeypatch.chdir(in_empty_folder)
    assert main([*words, "--report_only"]) == 0
    assert "lru+home_equal" in Path("out/summary.csv").read_text()


@pytest.mark.whole
def test_worker_processes_compute_the_same_cells(tmp_path: Path) -> None:
    plan = plan_of("density+home_equal")
    done: list[Outcome] = []
    outcomes = run_cells(plan.cells, tmp_path, workers=2, on_done=done.append)
    assert len(done) == len(outcomes) == 2
    for cell in plan.cells:
        result = outcomes[cell.key].result
        assert result is not None
        assert result.episodes == compute(cell).episodes


def test_intervals_divide_by_the_yardstick_of_the_same_place(tmp_path: Path) -> None:
    plan = plan_of("density+home_equal", sweeps=(Sweep("data.scenario.num_users", (3, 5)),), seeds=(0,))
    outcomes = run_cells(plan.cells, tmp_path)
    for group in groups(records_of(plan, outcomes)):
        found = intervals(group)
        assert group.least is not None
        expected = found["latency_s"].mean / group.least.scores["latency"]
        assert found["ratio_to_least_known"].mean == pytest.approx(expected)
        assert (group.first.policy == LEAST_KNOWN) == (found["ratio_to_least_known"] == (1, 1, 1))


@pytest.mark.whole
def test_the_command_writes_tables_and_figures_and_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(json.dumps(TINY))
    words = ["benchmark", "--policies", "twin-ddpg", "lru+home_equal", "--seeds", "0", "1", "--output", "out"]
    words += ["--config", "tiny.yaml", "--data.scenario.num_users", "3", "--slots=40"]
    assert main(words) == 0
    output = capsys.readouterr().out
    assert "twin DDPG" in output
    assert "[4/4]" in output
    with open("out/results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["policy"], row["seed"]) for row in rows[:3]] == [
        ("twin-ddpg", "0"),
        ("twin-ddpg", "1"),
        ("lru+home_equal", "0"),
    ]
    assert {row["training_slots"] for row in rows} == {"40", "0"}
    names = {file.name for file in Path("out/figures").iterdir()}
    assert {"bars-es2-tiny.pdf", "bars-es2-tiny.png", "convergence-es2-tiny.pdf"} <= names
    assert Path("out/command.txt").read_text().startswith("hadrl benchmark --policies twin-ddpg")
    assert main(words) == 0
    again = capsys.readouterr().out.splitlines()
    assert again[0] == "[4/4] computed before"
    assert not any(line.startswith("[") for line in again[1:])


def test_cells_that_were_computed_before_are_counted_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    cells = plan_of("lru+home_equal", "density+home_equal", seeds=(0,)).cells
    result = CellResult(scores={"latency": 2.0}, episodes={})
    progress = Progress(len(cells))
    for cell, reused in zip(cells, (True, True, False), strict=True):
        progress(Outcome(cell, result, reused=reused))
    first, second = capsys.readouterr().out.splitlines()
    assert first == "[2/3] computed before"
    assert second.startswith("[3/3] ")
    assert progress.remark.startswith(" (2 cells were computed earlier by other versions")


def test_the_line_of_a_bound_of_what_is_weighed_says_the_cost(capsys: pytest.CaptureFixture[str]) -> None:
    (cell,) = cells_of(plan_of("lower-bound"), "lower-bound")
    Progress(1)(Outcome(cell, CellResult(scores={"cost": 2.0}, episodes={})))
    assert capsys.readouterr().out.startswith("[1/1] lower-bound: cost 2.00 (")


def test_a_lower_bound_of_what_ones_own_process_carries_is_refused_before_anything_is_computed(
    in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("own_world.py").write_text(
        "from hadrl_lightning.simulator.processes import SlowServers\n"
        "class Backlog(SlowServers):\n    carries_work = True\n"
    )
    words = ["--policies", "none+home_equal", "lower-bound", "--output", "out"]
    world = ["--data.scenario.processes", "{own_world.Backlog: {}}"]
    assert main(["benchmark", *words, *world]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "processes must be queues or device for lower-bound, got own_world.Backlog, which carries" in line
    assert not Path("out").exists()
    sys.modules.pop("own_world", None)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--wrong", "1"], "unknown argument --wrong"),
        (["--data.wrong", "1"], "unknown setting data.wrong"),
        (["--data.test_episode", "1"], "unknown setting data.test_episode; did you mean data.test_episodes?"),
        (["--data.seed"], "--data.seed needs a value"),
        (["--sweep", "num_users"], "sweep must have the form KEY=VALUE"),
        (["--sweep", "users=1,2"], "settings must begin with data."),
        (["--slots", "0"], "slots must be at least 1, got 0"),
        (["--episodes", "0"], "episodes must be at least 1, got 0"),
        (["--trainer.max_epochs", "0"], "trainer.max_epochs must be a whole number of at least 1, got 0"),
        (
            ["--data.scenario.num_users", "1e999k"],
            "data.scenario.num_users must be a whole number or a range {low: …, high: …}, got inf",
        ),
        (["--workers", "0"], "workers must be at least 1, got 0"),
        (["--seeds", "x"], "argument --seeds: invalid int value: 'x'"),
    ],
)
def test_mistakes_on_the_command_line_get_one_line_and_status_2(
    words: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["benchmark", "--policies", "random+random", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_under_published_physics_no_energy_is_called_one_in_joules(tmp_path: Path) -> None:
    overrides = merged(TINY, {"data": {"physics": "published"}})
    plan = plan_of("density+home_equal", overrides=overrides, seeds=(0,))
    records = records_of(plan, run_cells(plan.cells, tmp_path))
    table, _ = result_table(records)
    assert [column.header for column in table.columns if "energy" in column.header] == ["energy (dBm·s)"]
    assert [name for name in result_rows(records)[0] if "energy" in name] == ["energy_dbm_s"]
    assert [name for name in intervals(groups(records)[0]) if "energy" in name] == ["energy_dbm_s"]


def test_shares_and_times_have_possible_intervals_and_places_have_units(tmp_path: Path) -> None:
    sweep = Sweep("data.scenario.cache_bytes", (20 * GIB,))
    plan = plan_of("random+random", sweeps=(sweep,))
    records = records_of(plan, run_cells(plan.cells, tmp_path))
    table, _ = result_table(records)
    assert table.title.startswith("es2, data.scenario.cache_bytes = 20 GiB: ")
    for group in groups(records):
        for name, found in intervals(group).items():
            assert not found.low < 0, name
            assert not (name in ("hit_ratio", "on_time") and found.high > 1), name


def test_a_first_look_has_one_seed() -> None:
    assert QUICK["seeds"] == [0]


def test_all_missing_extras_are_named_at_once(
    in_empty_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in ("scipy.optimize", "matplotlib", "ray"):
        monkeypatch.setitem(sys.modules, module, None)
    assert main(["benchmark", "--quick", "--engine", "ray"]) == 2
    needed = "SciPy, Ray, matplotlib: pip install 'hadrl-lightning[baselines,ray,plots]'"
    assert capsys.readouterr().err == f"hadrl: error: benchmark needs {needed}\n"
    assert main(["benchmark", "--quick", "--no_figures"]) == 2
    assert "needs SciPy: pip install 'hadrl-lightning[baselines]'" in capsys.readouterr().err
    assert main(["benchmark", "--report_only"]) == 2
    assert "needs matplotlib: pip install 'hadrl-lightning[plots]'" in capsys.readouterr().err
    assert not list(in_empty_folder.iterdir())


def test_one_training_over_networks_serves_all_scenarios(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = {"num_users": {"low": 2, "high": 4}, "num_servers": {"low": 1, "high": 2}, "slots_per_decision": 2}
    monkeypatch.setattr("hadrl_lightning.benchmark.plan.ANY", str(tmp_path / "few.yaml"))
    (tmp_path / "few.yaml").write_text(json.dumps({"data": {"scenario": few, "num_envs": 2}}))
    sizes = Sweep("data.scenario.num_users", (3, 6))
    empty = merged(TINY, {"data": {"scenario": {"cache_bytes": 1}}})
    plan = plan_of("ppo-set", overrides=empty, sweeps=(sizes,), slots=16, episodes=1)
    cells = cells_of(plan, "ppo-set")
    assert len(cells) == 4
    assert len({cell.training_key for cell in cells}) == 2, "one of every seed"
    outcomes = run_cells(plan.cells, tmp_path)
    for cell in cells:
        result = outcomes[cell.key].result
        assert result is not None, outcomes[cell.key].error
        assert result.slots == 16
        assert result.scores["hit_ratio"] == 0
        assert result.scores["latency"] >= 0.99 * result.scores["own_best_known"]
    files = {file: file.stat().st_mtime_ns for file in (tmp_path / "trainings").iterdir()}
    assert len(files) == 2
    run_cells(cells[:1], tmp_path, refresh=True)
    assert len([file for file, time in files.items() if file.stat().st_mtime_ns != time]) == 1
    longer = cells_of(plan_of("ppo-set", overrides=empty, slots=32), "ppo-set")
    assert not {cell.training_key for cell in longer} & {cell.training_key for cell in cells}
    assert "ppo-set" not in default_policies()


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    with pytest.raises(HadrlError, match=r"pip install 'hadrl-lightning\[baselines\]'"):
        plan_of("ppo")
    with pytest.raises(HadrlError, match=r"Stable-Baselines3: pip install 'hadrl-lightning\[baselines\]'"):
        plan_of("ppo-set")
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(HadrlError, match=r"SciPy: pip install 'hadrl-lightning\[baselines\]'"):
        plan_of("random+random")


def test_a_report_of_what_is_computed_leaves_the_rest_out(tmp_path: Path) -> None:
    plan = make_plan(PlanSettings(policies=("random+random",), overrides=TINY, seeds=(0, 1), episodes=2))
    run_cells([cell for cell in plan.cells if cell.seed != 1], tmp_path)
    outcomes = computed_cells(plan.cells, tmp_path)
    assert {outcome.cell.seed for outcome in outcomes.values() if outcome.result is None} == {1}
    write_report(records_of(plan, outcomes), tmp_path)
    with (tmp_path / "summary.csv").open(newline="") as file:
        seeds = {row["policy"]: row["seeds"] for row in csv.DictReader(file)}
    assert seeds == {"random+random": "1", LEAST_KNOWN: "2"}


@pytest.mark.whole
def test_the_commands_for_a_folder_are_noted_once_each_and_the_newest_last(
    in_empty_folder: Path,
) -> None:
    words = ["benchmark", "--quick", "--policies", "none+all_cloud", "--no_figures", "--output", "out"]
    for further in (["--seeds", "0"], [], ["--report_only"], ["--seeds", "0"]):
        assert main([*words, *further]) == 0
    lines = Path("out/command.txt").read_text().splitlines()
    assert lines == [" ".join(["hadrl", *words]), " ".join(["hadrl", *words, "--seeds", "0"])]


# Policies of a user's own --------------------------------------------------------------------------------------------

OWN = """
import sys

import torch
from hadrl_lightning.simulator import Allocation, equal_shares

def caching(network):
    return torch.zeros_like(network.cache)

def offloading(network):
    return equal_shares(network.scenario, network.homes, network.dtype)

class Pair:
    def __init__(self, scenario, generator):
        self.caching, self.offloading = caching, offloading

def pair(scenario, generator): return caching, offloading
def slow(scenario, generator): return caching
def fast(scenario, generator): return offloading
number = 3
def one_policy(scenario, generator): return caching
def no_policy(scenario, generator): return None
def raising(scenario, generator): raise KeyError("not\\nhere")
def list_caches(scenario, generator): return lambda network: [0]
def wrong_shape(scenario, generator): return lambda network: network.cache[:, :, :1]
def too_full(scenario, generator): return lambda network: torch.ones_like(network.cache)
def all_shares(scenario, generator):
    return lambda network: offloading(network)._replace(bandwidth_share=torch.ones(network.requests.shape))
def half_a_share_more(scenario, generator):
    return lambda network: offloading(network)._replace(compute_share=torch.full(network.requests.shape, 1.5))
def nowhere(scenario, generator):
    return lambda network: offloading(network)._replace(server=torch.full_like(network.requests, 2))
def not_a_number(scenario, generator):
    return lambda network: offloading(network)._replace(compute_share=torch.full(network.requests.shape, torch.nan))
def plain_tuple(scenario, generator): return lambda network: tuple(offloading(network))
def failing(scenario, generator): return lambda network: network.nothing
def peeping(scenario, generator): return lambda network: network.cache.fill_(True) & False
def asking(scenario, generator): return lambda network: (network.requests.zero_(), offloading(network))[1]
def playing(scenario, generator): return lambda network: (network.step(offloading(network)), offloading(network))[1]
def leaving(scenario, generator): raise SystemExit(4)
def leaving_later(scenario, generator): return lambda network: sys.exit(4)
"""


@pytest.fixture
def own(in_empty_folder: Path) -> Iterator[str]:
    """Name of a module in the working directory."""
    Path("own_policies.py").write_text(OWN)
    yield "own_policies"
    sys.modules.pop("own_policies", None)


def test_policies_of_ones_own_are_named_by_their_module(own: str) -> None:
    names = (
        f"{own}.Pair",
        f"{own}.pair",
        f"{own}.slow+{own}.fast",
        f"none+{own}.fast",
        f"{own}.slow+home_equal",
    )
    found = [
        compute(cells_of(plan_of(name), name)[0]).episodes["latency"] for name in ("none+home_equal", *names)
    ]
    assert found[1:] == [found[0]] * len(names)
    cell = cells_of(plan_of(names[0], seeds=(0,)), names[0])[0]
    assert list(cell.settings["modules"]) == [own]
    assert label_of(names[0]) == names[0]


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (
            "nowhere_module.Policy",
            "policies must be a module path that can be imported, got nowhere_module.Policy",
        ),
        (
            "own_policies.absent",
            "policies must be a module path that can be imported, got own_policies.absent",
        ),
        (
            "own_policies.number",
            "policies must be a policy of both levels, got own_policies.number, which is 3",
        ),
        ("lru+own_policies.number", "policies must be a policy of offloading, got own_policies.number"),
    ],
)
def test_a_policy_that_is_not_there_is_told_before_anything_is_computed(
    policy: str, message: str, own: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["benchmark", "--policies", "none+home_equal", policy]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert [one.name for one in Path().iterdir() if one.name != "__pycache__"] == ["own_policies.py"]


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (
            "own_policies.one_policy",
            "must give a pair (caching, offloading) of policies, called with (scenario, generator), got <function",
        ),
        (
            "own_policies.no_policy",
            "got None; an offloading policy alone is named CACHING+own_policies.no_policy",
        ),
        ("none+own_policies.no_policy", "must give a policy, a function of the networks, got None"),
        ("own_policies.raising", "KeyError: 'not\\nhere'"),
        ("own_policies.list_caches+home_equal", "cache must be a tensor, got list"),
        (
            "own_policies.wrong_shape+home_equal",
            "cache must be bool of shape [3, 2, 10], got torch.bool of shape [3, 2, 1]",
        ),
        ("own_policies.too_full+home_equal", "cache must fit into the usable cache, got 6.71 times as much"),
        ("none+own_policies.all_shares", "bandwidth_share must sum to at most 1 on every server, got 2"),
        ("none+own_policies.half_a_share_more", "compute_share must be at most 1, got 1.5"),
        ("none+own_policies.nowhere", "server must be from 0 to 1, got 2 to 2"),
        ("none+own_policies.not_a_number", "compute_share must be finite, got 12 values that are not"),
        ("none+own_policies.plain_tuple", "decision must be an Allocation of tensors, got (tensor("),
        ("none+own_policies.failing", "AttributeError: 'EdgeNetwork' object has no attribute 'nothing'"),
        (
            "own_policies.peeping+home_equal",
            "must not change the networks that it decides for, but cache is another",
        ),
        (
            "none+own_policies.asking",
            "must not change the networks that it decides for, but requests is another",
        ),
        ("none+own_policies.playing", "must not play the networks that it decides for"),
        ("own_policies.leaving", "SystemExit: 4"),
        ("none+own_policies.leaving_later", "SystemExit: 4"),
    ],
)
def test_a_policy_that_decides_what_can_not_be_costs_its_own_cell_and_one_line(
    policy: str, message: str, own: str, tmp_path: Path
) -> None:
    plan = plan_of(policy, "none+home_equal", seeds=(0,))
    outcomes = run_cells([*cells_of(plan, policy), *cells_of(plan, "none+home_equal")], tmp_path / "out")
    failed, done = (outcomes[cells_of(plan, name)[0].key] for name in (policy, "none+home_equal"))
    assert failed.result is None
    assert failed.error.startswith("policy ")
    assert message in failed.error
    assert done.result is not None


@pytest.mark.whole
def test_heuristics_and_learners_play_in_all_worlds_at_once(own: str) -> None:
    worlds = ("tight", "drift", "slowdowns", "mobile", "channel", "queues", "device", "hops")
    heuristics = (
        *("gdsf+shortest_queue", "sieve+two_choices", "lru+drift_plus_penalty"),
        *("lfu+local_only", "gdsf+home_sqrt", f"{own}.Pair", f"sieve+{own}.fast"),
    )
    learners = ("ppo-recurrent", "flat-ddpg")
    wrong = f"none+{own}.all_shares"
    plan = plan_of(
        *(*heuristics, *learners, wrong), seeds=(0,), overlays=tuple(f"{name}.yaml" for name in worlds)
    )
    cells = [cell for cell in plan.cells if cell.policy != LEAST_KNOWN]
    outcomes = {one.cell.policy: one for one in run_cells(cells, Path("out")).values()}
    failed = {policy: one.error for policy, one in outcomes.items() if one.result is None}
    assert list(failed) == [wrong]
    assert "bandwidth_share must sum to at most 1" in failed[wrong]
    for policy in (*heuristics, *learners):
        result = outcomes[policy].result
        assert result is not None
        assert math.isfinite(result.scores["latency"])


def test_the_text_of_ones_own_physics_counts_in_cells_trainings_and_in_what_is_compared(
    in_empty_folder: Path,
) -> None:
    text = "from hadrl_lightning.simulator.physics.strict import Strict\nclass Mine(Strict):\n    pass\n"
    Path("own_rules.py").write_text(text)

    def cell() -> Cell:
        physics = {"data": {"physics": "own_rules.Mine"}}
        plan = make_plan(PlanSettings(policies=("none+home_equal",), seeds=(0,), overrides=physics))
        return plan.cells[0]

    def training_key(cell: Cell) -> str | None:
        return replace(cell, settings={**cell.settings, "training": {}}).training_key

    first = cell()
    assert list(first.settings["modules"]) == list(first.settings["world"]) == ["own_rules"]
    Path("own_rules.py").write_text(text + "    more = 1\n")
    linecache.clearcache()
    second = cell()
    assert first.key != second.key
    assert judged(first) != judged(second)
    assert training_key(first) != training_key(second)
    sys.modules.pop("own_rules", None)


def test_scenarios_of_the_same_name_that_differ_are_refused(in_empty_folder: Path) -> None:
    for folder, users in (("a", 5), ("b", 9)):
        Path(folder).mkdir()
        Path(folder, "net.yaml").write_text(f"data: {{scenario: {{num_users: {users}}}}}\n")
    with pytest.raises(
        HadrlError, match=r"^scenarios must be files of different names, got a/net.yaml and b/net"
    ):
        make_plan(PlanSettings(scenarios=("a/net.yaml", "b/net.yaml"), policies=("none+home_equal",)))
    make_plan(PlanSettings(scenarios=("a/net.yaml", "./a/net.yaml"), policies=("none+home_equal",)))


@pytest.mark.parametrize(("chosen", "used"), [({}, "set"), ({"slow_level": "flat"}, "flat")])
def test_the_learner_without_planning_has_a_caching_agent_that_learns_by_itself(
    chosen: dict[str, str], used: str
) -> None:
    overrides = {"model": chosen} if chosen else {}
    plan = make_plan(PlanSettings(policies=("hadrl-no-planning",), seeds=(0,), overrides=overrides))
    (cell,) = cells_of(plan, "hadrl-no-planning")
    assert cell.settings["config"]["model"]["slow_level"] == used

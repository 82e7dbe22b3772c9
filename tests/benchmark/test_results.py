"""The compact file of a benchmark folder, what is reported of it, policies that a user registers, and suites."""

import csv
import functools
import hashlib
import json
import linecache
import math
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hadrl_lightning.agents import HADRL
from hadrl_lightning.baselines import CACHING_POLICIES, OFFLOADING_POLICIES
from hadrl_lightning.benchmark import (
    LEARNERS,
    MAX_RETRIES,
    Archive,
    Cell,
    CellResult,
    Engine,
    Outcome,
    Plan,
    PlanSettings,
    Record,
    compute,
    make_plan,
    records_of,
    run_cells,
    write_report,
)
from hadrl_lightning.benchmark.archive import judged
from hadrl_lightning.benchmark.plan import parse_sweep
from hadrl_lightning.benchmark.records import _middle_mean, _probability, aggregate, early_bests, groups
from hadrl_lightning.benchmark.report import result_rows, result_table
from hadrl_lightning.benchmark.spread import (
    agents_of,
    place_cells,
    slow_places,
    spreads,
    suite_of,
)
from hadrl_lightning.benchmark.suites import SUITES, find_suite
from hadrl_lightning.cli import main
from hadrl_lightning.errors import HadrlError
from hadrl_lightning.judge import LEAST_KNOWN
from hadrl_lightning.plots import draw
from hadrl_lightning.scenario import GIB, Scenario
from tests.helpers import by_seed, each_settings_once, trials

pytestmark = [pytest.mark.usefixtures("each_settings_once"), pytest.mark.unchecked]

__all__ = ["each_settings_once"]

ROOT = Path(__file__).resolve().parents[2]


def plan_of(*policies: str, episodes: int = 2, seeds: tuple[int, ...] = (0, 1), **more: object) -> Plan:
    return make_plan(PlanSettings(policies=policies, episodes=episodes, seeds=seeds, **more))  # type: ignore[arg-type]


def made_up(plan: Plan, latency: float = 10.0) -> dict[str, Outcome]:
    """An outcome of every cell without computing it."""
    found = {}
    for number, cell in enumerate(plan.cells):
        episodes = {"latency": [latency + number, latency + number + 1], "hit_ratio": [0.5, 0.6]}
        scores = {name: sum(values) / 2 for name, values in episodes.items()}
        found[cell.key] = Outcome(
            cell, CellResult(scores={**scores, "optimal_hit_ratio": 1.0}, episodes=episodes)
        )
    return found


# The archive ---------------------------------------------------------------------------------------------------------


def test_an_archive_holds_what_all_commands_computed(tmp_path: Path) -> None:
    first, second = plan_of("density+home_equal"), plan_of("random+random", seeds=(0,))
    for plan in (first, second):
        archive = Archive(tmp_path)
        archive.note(plan)
        archive.finish(made_up(plan))
    found = Archive(tmp_path).records()
    assert {(one.policy, one.seed) for one in found} == {
        ("density+home_equal", 0),
        ("density+home_equal", 1),
        ("random+random", 0),
        (LEAST_KNOWN, 0),
        (LEAST_KNOWN, 1),
    }
    assert [file.name for file in tmp_path.iterdir()] == ["cells.json.xz"]
    expected = records_of(first, made_up(first))[0]
    assert expected in found


def test_results_on_other_episodes_take_the_place_of_the_old_ones(tmp_path: Path) -> None:
    old, new = plan_of("density+home_equal", "random+random"), plan_of("density+home_equal", episodes=3)
    for plan in (old, new):
        archive = Archive(tmp_path)
        archive.note(plan)
        archive.finish(made_up(plan))
    assert {one.policy for one in Archive(tmp_path).records()} == {"density+home_equal", LEAST_KNOWN}


def test_results_stay_until_a_newer_command_has_some(tmp_path: Path) -> None:
    old, new = plan_of("density+home_equal"), plan_of("random+random", episodes=3)
    archive = Archive(tmp_path)
    archive.note(old)
    archive.finish(made_up(old))
    later = Archive(tmp_path)
    later.note(new)  # and is interrupted
    assert len(Archive(tmp_path).records()) == len(old.entries)
    later.finish(made_up(new))
    assert {one.policy for one in Archive(tmp_path).records()} == {"random+random", LEAST_KNOWN}
    assert all(outcome.reused for outcome in run_cells(old.cells, tmp_path).values())


def test_two_commands_at_once_leave_the_results_of_both(tmp_path: Path) -> None:
    plans = plan_of("density+home_equal"), plan_of("random+random")
    archives = [Archive(tmp_path) for _ in plans]
    for archive, plan in zip(archives, plans, strict=True):
        archive.note(plan)
    for archive, plan in zip(archives, plans, strict=True):
        archive.finish(made_up(plan))
    found = {one.policy for one in Archive(tmp_path).records()}
    assert found == {"density+home_equal", "random+random", LEAST_KNOWN}
    one, other = Archive(tmp_path), Archive(tmp_path)
    elsewhere, anew = (
        plan_of("density+home_equal", scenarios=("es3.yaml",)),
        plan_of("random+random", episodes=3),
    )
    one.note(elsewhere)
    other.note(anew)
    other.finish(made_up(anew, latency=7.0))
    one.finish(made_up(elsewhere))
    shown = {(record.scenario, record.policy) for record in Archive(tmp_path).records()}
    newest = {"es3": ("density+home_equal", LEAST_KNOWN), "es2": ("random+random", LEAST_KNOWN)}
    assert shown == {(place, policy) for place, policies in newest.items() for policy in policies}
    again, last = Archive(tmp_path), Archive(tmp_path)
    again.note(anew)
    again.finish(made_up(anew, latency=5.0))
    last.note(elsewhere)
    last.finish({})
    assert min(min(record.result.episodes["latency"]) for record in Archive(tmp_path).records()) == 5.0


def test_results_of_episodes_that_were_drawn_otherwise_are_not_compared_with_new_ones() -> None:
    (cell, *_) = plan_of("density+home_equal").cells
    assert judged(cell, 1) != judged(cell)


def test_what_is_archived_is_not_computed_again(tmp_path: Path) -> None:
    plan = plan_of("density+home_equal")
    archive = Archive(tmp_path)
    archive.note(plan)
    archive.finish(made_up(plan))
    outcomes = run_cells(plan.cells, tmp_path)
    assert all(outcome.reused for outcome in outcomes.values())


def test_a_failure_leaves_nothing_old_in_the_archive(tmp_path: Path) -> None:
    plan = plan_of("density+home_equal")
    archive = Archive(tmp_path)
    archive.note(plan)
    archive.finish(made_up(plan))
    archive.finish({key: outcome._replace(result=None) for key, outcome in made_up(plan).items()})
    assert Archive(tmp_path).records() == []


def test_a_damaged_archive_is_told_in_one_line(
    in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("out").mkdir()
    Path("out/cells.json.xz").write_bytes(b"no archive")
    assert main(["benchmark", "--report_only", "--no_figures", "--output", "out"]) == 2
    assert "out/cells.json.xz must be an undamaged archive of results" in capsys.readouterr().err


def test_a_page_is_made_again_of_its_archive_alone(
    in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("page").mkdir()
    shutil.copy(ROOT / "docs/results/tuned/cells.json.xz", "page")
    assert main(["benchmark", "--report_only", "--no_figures", "--output", "page"]) == 0
    shown = capsys.readouterr().out
    assert "÷ least known" in shown
    with open("page/results.csv", newline="") as file:
        assert {row["seed"] for row in csv.DictReader(file)} >= {"0", "3"}
    assert not Path("page/command.txt").exists()
    words = ["benchmark", "--report_only", "--no_figures", "--output", "page", "--seeds"]
    assert main([*words, "3"]) == 0
    with open("page/results.csv", newline="") as file:
        assert {row["seed"] for row in csv.DictReader(file)} == {"3"}
    assert main([*words, "77"]) == 2
    assert "report_only needs results of what is asked for" in capsys.readouterr().err


# Many places ---------------------------------------------------------------------------------------------------------


def records(policy: str, latencies: list[list[float]]) -> list[Record]:
    """Results of a policy by place and seed."""
    return [
        Record(f"es{place}", "", None, policy, policy, seed, f"{policy}-{place}-{seed}", result_of(latency))
        for place, seeds in enumerate(latencies)
        for seed, latency in enumerate(seeds)
    ]


def result_of(latency: float) -> CellResult:
    return CellResult(scores={"latency": latency}, episodes={"latency": [latency]}, slots=100)


def test_many_places_are_summed_up_by_the_middle_half_and_the_odds_of_winning() -> None:
    ours = [[2.0, 4.0], [3.0, 3.0]]
    theirs = [[3.0, 5.0], [3.0, 9.0]]
    found = aggregate(
        [*records("hadrl", ours), *records("ppo", theirs), *records(LEAST_KNOWN, [[2.0], [1.0]])]
    )
    ratios = {one.policy: one.ratio.mean for one in found}
    assert ratios["hadrl"] == pytest.approx(2.5)  # of 1, 2, 3, 3 the middle half: 2 and 3
    odds = {one.policy: one.behind for one in found}
    # place 0: 2 < 3, 2 < 5, 4 > 3, 4 < 5; place 1: 3 = 3 twice, 3 < 9 twice
    assert odds["ppo"] is not None
    assert odds["ppo"].mean == pytest.approx((3 / 4 + 3 / 4) / 2)
    assert odds["hadrl"] is None


def test_a_value_at_the_quartile_counts_in_part() -> None:
    # of 1 … 6 the middle half is three values wide: 3, 4 and half of 2 and of 5
    assert _middle_mean(np.array([[1.0, 2.0, 3.0, 4.0, 5.0, 60.0]]))[0] == pytest.approx(
        (1 + 3 + 4 + 2.5) / 3
    )
    same = [np.array([[1.0, 1.0]])]
    assert _probability([same, same])[0] == 0.5


def test_a_policy_with_one_training_has_no_interval_over_seeds() -> None:
    found = aggregate([*records("hadrl", [[2.0], [3.0, 4.0]]), *records(LEAST_KNOWN, [[1.0], [1.0]])])
    assert found[0].ratio.half != found[0].ratio.half


@pytest.mark.parametrize(("policy", "known"), [("random+random", False), ("popularity+home_equal", True)])
def test_an_interval_over_seeds_takes_seeds_or_a_policy_that_draws_nothing(policy: str, known: bool) -> None:
    played = [
        one._replace(result=replace(one.result, slots=0))
        for one in records(policy, [[2.0], [3.0]])
        if one.result
    ]
    (ours, _) = aggregate([*played, *records(LEAST_KNOWN, [[1.0], [1.0]])])
    assert math.isfinite(ours.ratio.low) is known


def test_a_table_may_begin_with_a_bound_of_what_is_weighed() -> None:
    bound = CellResult(scores={"cost": 2.0}, episodes={"cost": [2.0, 2.0]})
    (first,) = records("lower-bound", [[1.0]])
    (table,) = result_table([first._replace(result=bound)])
    assert "es0: 2 test episodes" in str(table.title)


def test_the_course_of_a_training_by_preferences_has_costs() -> None:
    curve = [
        {"slots": 100.0 * n, "latency": latency, "cost": cost, "hit_ratio": 0.5, "on_time": 0.5}
        for n, latency, cost in ((1, 3.0, 9.0), (2, 4.0, 8.0))
    ]
    (one,) = records("hadrl", [[4.0]])
    found = replace(one.result, curve=curve, scores={"latency": 4.0, "cost": 8.0})
    (row,) = result_rows([one._replace(result=found)])
    assert (row["best_slots"], row["best_validation_s"], row["best_validation_cost"]) == (200.0, 4.0, 8.0)


def test_a_best_validation_of_before_the_caches_were_learnt_is_told() -> None:
    curve = [
        {
            "slots": 100.0,
            "latency": 3.0,
            "hit_ratio": 0.5,
            "on_time": 0.5,
            "epoch": 1,
            "caching_learnt": False,
        },
        {
            "slots": 200.0,
            "latency": 4.0,
            "hit_ratio": 0.5,
            "on_time": 0.5,
            "epoch": 2,
            "caching_learnt": True,
        },
    ]
    (one, other) = records("hadrl", [[2.0, 3.0]])
    scores = {"latency": 2.0, "optimal_hit_ratio": 0.9}
    early = one._replace(
        result=CellResult(scores=scores, episodes={"latency": [2.0]}, slots=200, curve=curve)
    )
    late = other._replace(
        result=CellResult(scores=scores, episodes={"latency": [3.0]}, slots=200, curve=curve[1:])
    )
    (text,) = early_bests(groups([early, late]))
    assert "seed 0: the best validation was made before the caching agent had learnt anything" in text
    (table,) = result_table([early, late])
    cells = {str(column.header): next(iter(column.cells)) for column in table.columns}
    assert cells["best validation after (slots)"] == "100 to 200"
    assert cells["last ÷ best validation"] == "1.000 to 1.333"
    assert cells["Σ latency (s) of every seed"] == "2.0 2.0"


# Joining in ----------------------------------------------------------------------------------------------------------


def example(name: str) -> str:
    """A program of docs/benchmark.md."""
    text = (ROOT / "docs/benchmark.md").read_text(encoding="utf-8")
    (found,) = [one for one in re.findall(r"^```python\n(.*?)^```", text, re.M | re.S) if f"# {name}" in one]
    return found


WORDS = ["--seeds", "0", "--episodes", "1", "--output", "out", "--no_figures"]


@pytest.fixture
def own(in_empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the programs of docs/benchmark.md; what they register is gone afterwards."""
    Path("mine.py").write_text(example("mine.py"))
    Path("compare.py").write_text(example("compare.py").replace(', "hadrl-two-members"', ", *sys.argv[1:]"))
    monkeypatch.syspath_prepend(str(in_empty_folder))
    yield in_empty_folder
    sys.modules.pop("mine", None)
    CACHING_POLICIES.pop("least_popular", None)
    OFFLOADING_POLICIES.pop("first_server", None)
    LEARNERS.pop("hadrl-two-members", None)


@pytest.mark.whole
def test_policies_of_ones_own_are_compared_and_computed_anew_when_their_code_changes(
    own: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def compare(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["compare.py", *WORDS, *words])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path("compare.py", run_name="__main__")
        assert ended.value.code == 0
        return capsys.readouterr().out

    assert "least_popular + first_server" in compare()
    assert "] least_popular" not in compare()
    assert "least_popular + first_server" in compare("--report_only")
    Path("mine.py").write_text(example("mine.py").replace("-popularity", "popularity"))
    linecache.clearcache()
    assert "] least_popular+first_server, seed 0: hits" in compare()
    plan = plan_of("hadrl-two-members")
    cell = next(cell for cell in plan.cells if cell.policy == "hadrl-two-members")
    assert cell.settings["config"]["model"]["set_world_model"]["ensemble_size"] == 2


@pytest.mark.slow
def test_worker_processes_know_policies_of_ones_own(own: Path) -> None:
    program = [sys.executable, "compare.py", *WORDS, "--workers", "2"]
    done = subprocess.run(program, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "least_popular + first_server" in done.stdout


def test_quick_keeps_its_own_files_beneath_those_of_the_user(in_empty_folder: Path) -> None:
    words = ["benchmark", "--quick", "--config", "tight.yaml", "--policies", "none+all_cloud", "--no_figures"]
    words += ["--data.scenario.num_users=4"]
    assert main([*words, "--seeds", "0", "--output", "out"]) == 0
    (record, *_) = Archive(Path("out")).records()
    assert record.scenario == "es2-tight-quick"
    assert len(record.result.episodes["latency"]) == 5


def test_what_the_user_says_goes_before_what_quick_and_a_suite_say(in_empty_folder: Path) -> None:
    words = [
        "benchmark",
        "--quick",
        "--policies",
        "none+all_cloud",
        "--no_figures",
        "--seeds",
        "0",
        "--output",
        "out",
    ]
    (in_empty_folder / "mine.yaml").write_text(
        "data: {scenario: {decisions_per_episode: 2}, test_episodes: 3}"
    )
    assert main([*words, "--config", "mine.yaml"]) == 0
    file, *_ = (in_empty_folder / "out" / "cells").glob("none+all_cloud*.json")
    settings = json.loads(file.read_text())["cell"]["settings"]
    assert (settings["test"]["episodes"], settings["scenario"]["decisions_per_episode"]) == (3, 2)
    common = {"policies": ("none+all_cloud",), "seeds": (0,), "suite": "unseen", "places": ("one-user",)}
    for settings, episodes in (({}, find_suite("unseen").episodes), ({"data": {"test_episodes": 7}}, 7)):
        plan = make_plan(PlanSettings(**common, overrides=settings))  # type: ignore[arg-type]
        assert {cell.settings["test"]["episodes"] for cell in plan.cells} == {episodes}


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"trainer": {"max_epoch": 2}}, "settings of the trainer must be among max_epochs, "),
        ({"trainer": {"gradient_clip_val": 1.0}}, "in a benchmark, got gradient_clip_val"),
        ({"data": {"seed": 3}}, "data.seed must be left to --seeds"),
        (
            {"model": {"planner": {"plan_horizon": 2}}},
            "model.planner must come with a policy that is trained",
        ),
    ],
)
def test_settings_that_nothing_follows_are_refused(settings: dict[str, Any], line: str) -> None:
    with pytest.raises(HadrlError, match=re.escape(line)):
        plan_of("es2.ckpt", "density+home_equal", overrides=settings)


def test_an_agent_of_a_file_adapts_where_asked_to_and_is_called_so(tmp_path: Path) -> None:
    still, adapting = (
        plan_of("hadrl.ckpt", seeds=(0,), overrides={"model": {"adapt": adapt}}) for adapt in ("off", "heads")
    )
    usual = plan_of("hadrl.ckpt", seeds=(0,))
    assert "adapt" not in usual.cells[0].settings  # what the file says
    assert [one.cells[0].settings["adapt"] for one in (still, adapting)] == ["off", "heads"]
    assert still.entries[0].label == usual.entries[0].label
    assert adapting.entries[0].label == f"{still.entries[0].label}, adapting"
    saved = HADRL.from_checkpoint("hadrl.ckpt")
    HADRL(**{**saved.settings, "adapt": "heads"}).save_weights(tmp_path / "mine.ckpt")
    by_file = plan_of(str(tmp_path / "mine.ckpt"), seeds=(0,))
    assert by_file.entries[0].label.endswith(", adapting")


@pytest.mark.parametrize(
    ("process", "shown"), [("queues", "backlog_s"), ("device", "device_hz, .*targets beyond the servers")]
)
def test_an_actor_over_sets_is_refused_before_its_training_where_views_show_more(
    process: str, shown: str
) -> None:
    with pytest.raises(HadrlError, match=f"policy ppo-set must be left out where views show {shown}"):
        plan_of("ppo-set", overrides={"data": {"scenario": {"processes": {process: {}}}}})


def test_learners_that_pay_for_fetching_are_computed_anew() -> None:
    settings = {"data": {"scenario": {"preferences": {"switching_s": 1.0}}}}
    assert "fetching" in plan_of("flat-ddpg", seeds=(0,), overrides=settings).cells[-1].settings
    assert "fetching" not in plan_of("flat-ddpg", seeds=(0,)).cells[-1].settings


def test_results_with_other_settings_are_no_seeds_of_the_same_policy(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    for plan in (
        plan_of("twin-ddpg", seeds=(0, 1, 2), slots=4000),
        plan_of("twin-ddpg", seeds=(0,), slots=2000),
    ):
        archive.note(plan)
        archive.finish(made_up(plan))
    learnt = [one for one in groups(Archive(tmp_path).records()) if one.first.policy == "twin-ddpg"]
    assert [one.seeds for one in learnt] == [[0]]


def test_an_archive_gives_back_the_lists_of_a_sweep(tmp_path: Path) -> None:
    sweep = parse_sweep("data.scenario.compute_hz=[60GHz,30GHz],[30GHz,30GHz]")
    plan = plan_of("random+random", seeds=(0,), sweeps=(sweep,))
    archive = Archive(tmp_path)
    archive.note(plan)
    archive.finish(made_up(plan))
    found = groups(Archive(tmp_path).records())
    assert {one.first.sweep_value for one in found} == {(60e9, 30e9), (30e9, 30e9)}


# Engines --------------------------------------------------------------------------------------------------------------

SMALL: dict[str, Any] = {
    "trainer": {"max_epochs": 2},
    "data": {
        "scenario": {"num_users": 3, "decisions_per_episode": 2, "slots_per_decision": 2},
        "num_envs": 2,
        "validation_episodes": 1,
        "test_episodes": 2,
    },
    "planning": {"seed_decisions": 2, "decisions_per_epoch": 2},
}
CLOCKS = ("training_s", "evaluation_s", "wall_s")


def results(folder: Path) -> dict[str, Any]:
    """The result files of a benchmark folder by name, without what a clock says."""
    found = {file.name: json.loads(file.read_text()) for file in (folder / "cells").iterdir()}
    for content in found.values():
        for clock in CLOCKS:
            assert content["result"].pop(clock) >= 0
    return found


@pytest.mark.slow
def test_ray_writes_the_same_files_as_processes_and_either_goes_on_where_the_other_was(
    in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ray")
    Path("small.yaml").write_text(json.dumps(SMALL))
    words = ["benchmark", "--config", "small.yaml", "--policies", "twin-ddpg", "random+random"]
    words += ["--seeds", "0", "1", "--no_figures"]
    assert main([*words, "--output", "a"]) == 0
    assert main([*words, "--output", "b", "--workers", "1", "--engine", "ray"]) == 0
    assert len(results(Path("a"))) == 5
    assert results(Path("a")) == results(Path("b"))
    progress = capsys.readouterr().out
    assert progress.count("[5/5]") == 2
    assert main([*words, "--output", "a", "--engine", "ray"]) == 0
    assert "[5/5] computed before" in capsys.readouterr().out


@pytest.mark.parametrize(
    "engine",
    [pytest.param("processes", marks=pytest.mark.whole), pytest.param("ray", marks=pytest.mark.slow)],
)
def test_a_cell_whose_worker_dies_is_tried_again_and_costs_no_other(engine: Engine, tmp_path: Path) -> None:
    if engine == "ray":
        pytest.importorskip("ray")
    plan = make_plan(PlanSettings(policies=("random+random",), seeds=(0, 1, 2, 3), overrides=SMALL))
    folder, tried = tmp_path / "benchmark", tmp_path / "tried"
    tried.mkdir()
    outcomes = run_cells(plan.cells, folder, 2, engine=engine, compute=functools.partial(by_seed, tried))
    assert trials(tried) == {
        "random+random-0": 2,
        "random+random-1": 1 + MAX_RETRIES,
        "random+random-2": 1,
        "random+random-3": 1,
        f"{LEAST_KNOWN}-None": 1,
    }
    by_name = {(outcome.cell.policy, outcome.cell.seed): outcome for outcome in outcomes.values()}
    failed = {seed: outcome.error for (_, seed), outcome in by_name.items() if outcome.result is None}
    assert sorted(failed) == [1, 2]
    assert failed[2] == "RuntimeError: out of luck"
    lost = "its process died 3 times, at last with exit code 7"
    assert (lost if engine == "processes" else "WorkerCrashedError") in failed[1]
    file = by_name["random+random", 1].cell.file(folder)
    assert not file.exists()
    assert file.with_suffix(".failed.txt").read_text().strip().endswith(failed[1])


def test_a_cell_that_failed_before_leaves_no_trace_of_it_once_it_is_computed(tmp_path: Path) -> None:
    plan = make_plan(PlanSettings(policies=(LEAST_KNOWN,), seeds=(0,), overrides=SMALL))
    (cell,) = plan.cells

    def fail(cell: Any) -> Any:
        raise RuntimeError("out of luck")

    run_cells([cell], tmp_path, compute=fail)
    assert [file.suffix for file in (tmp_path / "cells").iterdir()] == [".txt"]
    run_cells([cell], tmp_path)
    assert [file.suffix for file in (tmp_path / "cells").iterdir()] == [".json"]
    run_cells([cell], tmp_path, compute=fail, refresh=True)
    assert [file.suffix for file in (tmp_path / "cells").iterdir()] == [".txt"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--ray_address", "auto"], "ray_address must come with --engine ray, got --engine processes"),
        (["--engine", "slurm"], "argument --engine: invalid choice: 'slurm'"),
        (["--engine", "ray", "--workers", "0"], "workers must be at least 1, got 0"),
    ],
)
def test_mistakes_about_engines_get_one_line_and_status_2(
    words: list[str], message: str, in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["benchmark", "--policies", LEAST_KNOWN, *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_without_ray_the_extra_is_named_before_anything_is_computed(
    in_empty_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["benchmark", "--policies", LEAST_KNOWN, "--engine", "ray"]) == 2
    assert "pip install 'hadrl-lightning[ray]'" in capsys.readouterr().err
    assert not list(in_empty_folder.iterdir())


@pytest.mark.parametrize("address", ["nowhere", "http://127.0.0.1:1"])
def test_an_address_without_a_cluster_is_refused_in_one_line(
    address: str, in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ray")
    words = ["benchmark", "--policies", LEAST_KNOWN, "--seeds", "0", "--episodes", "1", "--no_figures"]
    assert main([*words, "--engine", "ray", "--ray_address", address]) == 2
    error = capsys.readouterr().err
    assert f"ray_address must be of a cluster, got '{address}'" in error
    assert error.count("\n") == 1


# Suites of frozen networks, and how policies are spread over them ----------------------------------------------------

UNSEEN = SUITES["unseen"]


def record(place: str, policy: str, latency: float, own: float, seed: int = 0, hits: float = 0.5) -> Record:
    """A result in a network whose best caches reach half of all hits, or none where there is no cache."""
    optimum = 0.0 if place == "no-cache" else 0.5
    scores = {"latency": latency, "own_best_known": own, "hit_ratio": hits, "optimal_hit_ratio": optimum}
    fields = UNSEEN.places[place].fields
    held = [[1.0] * fields["num_services"] for _ in range(fields["num_servers"])]
    result = CellResult(
        scores=scores,
        episodes={"latency": [latency], "own_best_known": [own], "hit_ratio": [hits]},
        wall_s=12.0,
        held=held,
    )
    key = f"{place}-{policy}-{latency}"
    return Record(f"unseen/{place}", "", None, policy, policy, seed, key, result)


RECORDS = [
    record("one-user", LEAST_KNOWN, 10.0, 10.0),
    record("one-user", "a.ckpt", 12.0, 11.0),
    record("one-user", "b-{seed}.ckpt", 10.05, 10.0, seed=0, hits=0.4),
    record("one-user", "b-{seed}.ckpt", 10.3, 10.0, seed=1, hits=0.5),
    record("one-user", "none+all_cloud", 50.0, 50.0, hits=0.0),
    record("no-cache", LEAST_KNOWN, 20.0, 20.0, hits=0.0),
    record("no-cache", "a.ckpt", 20.1, 20.0, hits=0.0),
    record("no-cache", "b-{seed}.ckpt", 20.0, 20.0, seed=0, hits=0.0),
    record("no-cache", "b-{seed}.ckpt", 30.0, 20.0, seed=1, hits=0.0),
    record("no-cache", "none+all_cloud", 20.0, 20.0, hits=0.0),
]


def test_the_networks_of_unseen_are_the_same_for_good() -> None:
    numbers = [[place.name, place.fields] for place in UNSEEN.places.values()]
    text = json.dumps(numbers, sort_keys=True)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "cf4cfc20945710f5"


def test_unseen_has_twelve_networks_by_hand_and_forty_drawn_ones_that_all_build() -> None:
    places = list(UNSEEN.places.values())
    assert [place.name for place in places[12:]] == [f"drawn-{index:02d}" for index in range(40)]
    scenarios = [Scenario.from_dict(place.fields) for place in places]
    assert all(place.why for place in places)
    for one in scenarios[12:]:
        assert 1 <= one.num_servers <= 12
        assert 5 <= one.num_users <= 100
        assert 4 <= one.num_services <= 60
        assert all(0.499 * GIB <= bits / 8 <= 400.5 * GIB for bits in one.cache_per_server_bits)
        assert 0 <= one.zipf_exponent <= 1.6
    assert {one.num_servers for one in scenarios} >= {1, 12}


def test_the_huge_service_fits_the_largest_cache_alone_and_is_the_most_popular() -> None:
    one = Scenario.from_dict(UNSEEN.places["one-huge-service"].fields)
    huge = max(one.storage_bits)
    assert [huge <= usable for usable in one.usable_cache_bits] == [False, False, True]
    assert one.popularity_vector[one.storage_bits.index(huge)] == max(one.popularity_vector)


def test_every_network_is_a_scenario_of_the_plan_with_the_numbers_of_the_suite() -> None:
    plan = make_plan(
        PlanSettings(
            suite="unseen", places=("drawn-03", "one-spot"), policies=("none+all_cloud",), seeds=(0,)
        )
    )
    found = {
        entry.scenario: entry.cell.settings for entry in plan.entries if entry.policy == "none+all_cloud"
    }
    assert list(found) == ["unseen/one-spot", "unseen/drawn-03"]
    given = Scenario.from_dict(UNSEEN.places["drawn-03"].fields)
    assert Scenario(**found["unseen/drawn-03"]["scenario"]) == given
    assert found["unseen/one-spot"]["test"]["episodes"] == UNSEEN.episodes


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--suite", "seen"], "suite must be among unseen, got 'seen'"),
        (["--suite", "unseen", "--places", "nowhere"], "got 'nowhere'"),
        (["--places", "one-user"], "places must come with a suite, got one-user without"),
        (["--suite", "unseen", "--scenarios", "es2.yaml"], "suite must stand without --scenarios"),
        (["--suite", "unseen", "--sweep", "data.num_envs=1,2"], "suite must stand without --sweep"),
        (["--suite", "unseen", "--quick"], "suite must stand without --quick"),
        (
            ["--suite", "unseen", "--data.scenario.num_users", "3"],
            "data.scenario must be left to the suite unseen, got num_users",
        ),
    ],
)
def test_mistakes_about_suites_get_one_line_and_status_2(
    words: list[str], message: str, in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["benchmark", "--policies", "none+all_cloud", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(in_empty_folder.iterdir())


def test_a_spread_is_over_networks_and_seeds_and_of_every_seed() -> None:
    found = {(one.policy, one.seed, one.measure): one for one in spreads(RECORDS)}
    assert found["a.ckpt", None, "least"].values == pytest.approx([1.2, 1.005])
    both = found["b-{seed}.ckpt", None, "least"]
    assert both.values == pytest.approx([1.005, 1.03, 1.0, 1.5])
    assert both.row == pytest.approx(
        {
            "mean": 1.13375,
            "first_quartile": 1.00375,
            "median": 1.0175,
            "third_quartile": 1.1475,
            "worst": 1.5,
            "within_1_percent": 0.5,
            "within_2_percent": 0.5,
            "within_5_percent": 0.75,
        }
    )
    assert found["b-{seed}.ckpt", 1, "least"].values == pytest.approx([1.03, 1.5])
    assert (LEAST_KNOWN, None, "least") not in found
    hits = found["b-{seed}.ckpt", None, "hits"]
    assert hits.values == pytest.approx([0.8, 1.0])  # where nothing can be held there is no share
    assert hits.row["worst"] == pytest.approx(0.8)
    assert hits.row["within_5_percent"] == 0.5
    assert found["a.ckpt", None, "decided_hits"].values == [1.0]  # the cloud is 5 × slower in one-user alone


def test_a_loss_is_split_into_that_of_the_caches_and_that_of_the_fast_level() -> None:
    own = agents_of(RECORDS)["a.ckpt"]
    assert [visit.place.name for visit in own] == ["one-user", "no-cache"]
    (loss,) = own[0].losses
    assert (loss.least, loss.caches, loss.own) == pytest.approx((1.2, 1.1, 12 / 11))
    heads, rows = place_cells(own)
    assert dict(zip(heads, rows[0], strict=True)) == {
        "network": "one-user",
        "S": "3",
        "U": "1",
        "K": "10",
        "÷ least known": "1.200",
        "by caches": "1.100",
        "by the fast level": "1.091",
        "hits ÷ optimum": "1.000",
        "what is special": UNSEEN.places["one-user"].why,
    }
    assert rows[1][-2] == "–"
    heads, rows = place_cells(agents_of(RECORDS)["b-{seed}.ckpt"])
    assert [row[4:6] for row in rows] == [["1.250", "1.500"], ["1.018", "1.030"]]


def test_only_results_of_one_suite_are_spread() -> None:
    assert suite_of(RECORDS) == "unseen"
    assert suite_of([*RECORDS, RECORDS[0]._replace(scenario="es2")]) == ""
    assert suite_of([]) == ""
    assert slow_places(RECORDS[:3], 20) == [("unseen/one-user", 36.0)]


def test_a_result_says_what_was_held_and_how_long_all_of_it_took() -> None:
    fields = {"num_users": 2, "decisions_per_episode": 2, "slots_per_decision": 1, "cache_bytes": 40 * GIB}
    test = {"episodes": 2, "parallel": 2, "seed": 0}
    settings = {"scenario": fields, "physics": "strict", "test": test}
    full, none = (
        compute(Cell(policy=f"{caching}+home_equal", settings=settings, seed=None))
        for caching in ("popularity", "none")
    )
    assert none.held == [[0.0] * 10] * 2
    assert full.held == [[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0]] * 2  # 31.25 of 32 GiB
    assert full.wall_s > full.evaluation_s > 0
    assert len(full.task_quantiles) == 101
    assert full.task_quantiles == sorted(full.task_quantiles)
    assert sum(full.task_quantiles) / 101 * 2 == pytest.approx(full.scores["latency"], rel=0.3)
    assert set(full.decision_ms) == {"offloading_ms", "offloading_ms_p95", "caching_ms"}
    assert min(full.decision_ms.values()) > 0
    assert not full.around_changes
    moved = {**settings, "scenario": {**fields, "processes": {"slow_servers": {"slow_slots": 1.0}}}}
    changed = compute(Cell(policy="popularity+home_equal", settings=moved, seed=None))
    assert set(changed.around_changes) == {"own_ratio", "level_ratio", "changes"}
    assert len(changed.episodes["recovery_slots"]) == 2
    table = "".join(map(str, result_rows([RECORDS[0]._replace(result=changed), RECORDS[0]])))
    assert "recovery_slots" in table


def test_yardsticks_are_called_costs_where_they_are() -> None:
    latency = CellResult(scores={"latency": 2.0, "own_best_known": 1.0}, episodes={"latency": [2.0]})
    cost = CellResult(scores={**latency.scores, "cost": 4.0}, episodes={"latency": [2.0], "cost": [4.0]})
    first, second = result_rows([RECORDS[0]._replace(result=one) for one in (latency, cost)])
    assert (first["own_best_known_s"], first["own_best_known_cost"]) == (1.0, None)
    assert (second["own_best_known_s"], second["own_best_known_cost"]) == (None, 1.0)
    assert list(first) == list(second)


@pytest.mark.slow
def test_a_tiny_run_writes_tables_and_figures_and_its_report_is_made_again(
    in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["benchmark", "--suite", "unseen", "--places", "no-cache", "one-user", "--output", "out"]
    words += ["--policies", "popularity+home_equal", "--episodes", "1"]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "unseen/one-user, popularity+home_equal: hits" in shown
    assert "unseen, ÷ least known, over 2 networks" in shown
    with Path("out/distribution.csv").open(newline="") as file:
        rows = {(row["policy"], row["measure"]): row for row in csv.DictReader(file)}
    assert float(rows["popularity+home_equal", "least"]["worst"]) > 1
    assert rows["popularity+home_equal", "hits"]["values"] == "1"
    assert sorted(file.name for file in Path("out/figures").iterdir()) == [
        "distribution-unseen.pdf",
        "distribution-unseen.png",
    ]
    first = Path("out/places.json").read_bytes()
    assert main([*words, "--report_only", "--no_figures"]) == 0
    assert Path("out/places.json").read_bytes() == first
    held = Archive(Path("out")).records()[0].result.held
    assert [len(held), len(held[0])] == [3, 10]


def test_the_worst_networks_of_every_agent_are_drawn(tmp_path: Path) -> None:
    write_report([one for one in RECORDS if one.policy != "a.ckpt"], tmp_path)
    names = [file.name for file in draw(tmp_path, worst=1) if file.suffix == ".png"]
    assert names == ["distribution-unseen.png", "worst-unseen-b.png"]
    (tmp_path / "places.json").write_text("{}")
    with pytest.raises(HadrlError, match=r"places\.json must be written by hadrl benchmark --suite"):
        draw(tmp_path)

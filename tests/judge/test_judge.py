"""Intervals, yardsticks, the rule that keeps the best weights, and what the tables say of them."""

import csv
import math
import multiprocessing
import os
import signal
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hadrl_lightning.agents import HADRL
from hadrl_lightning.baselines import CACHING_POLICIES, best_known_policy, least_latency
from hadrl_lightning.callbacks import second_process
from hadrl_lightning.callbacks.references import LEAST, OWN, References
from hadrl_lightning.callbacks.results import Weights, result_table
from hadrl_lightning.callbacks.second_process import SecondProcess
from hadrl_lightning.cli import main
from hadrl_lightning.console import show
from hadrl_lightning.data import EpisodeStream
from hadrl_lightning.judge import (
    AFTER,
    BEFORE,
    OF_CHANGES,
    TIMES,
    Interval,
    KeepBest,
    Scoreboard,
    Validation,
    around_changes,
    best_and_last,
    compared_by,
    convergence_text,
    improves,
    interval,
    least_known_policies,
    optimal_hit_ratio,
    possible,
    recovery,
    student,
)
from hadrl_lightning.judge.intervals import t_quantile
from hadrl_lightning.judge.tables import cell
from hadrl_lightning.play import Episode, run_episode
from hadrl_lightning.scenario import GIB, Scenario
from hadrl_lightning.simulator import EdgeNetwork, Use
from tests.helpers.logs import rows_without_times

pytestmark = pytest.mark.unchecked

SMALL = Scenario(num_users=4, decisions_per_episode=2, slots_per_decision=2, cache_bytes=20 * GIB)


def test_an_interval_ends_where_a_figure_cannot_go_on() -> None:
    # mean 0.9, Student's half width 12.7062 * 0.1 / sqrt(2) / sqrt(2) * sqrt(2)
    hits = interval([0.8, 1.0])
    assert (hits.low, hits.high) == pytest.approx((-0.37062, 2.17062), rel=1e-3)
    assert possible("hit_ratio", hits) == (pytest.approx(0.9), 0.0, 1.0)
    assert possible("latency", hits) == (pytest.approx(0.9), 0.0, hits.high)
    assert all(map(math.isnan, possible("on_time", interval([0.5]))[1:]))
    assert cell(possible("hit_ratio", hits), "{:.3f}") == "0.900 (0.000 to 1.000)"
    assert cell(Interval(2.0, 1.5, 2.5), "{:.1f}") == "2.0 ± 0.5"


# Intervals -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("probability", "degrees", "quantile"),  # of printed tables
    [
        (0.975, 1, 12.7062),
        (0.975, 2, 4.3027),
        (0.975, 4, 2.7764),
        (0.95, 9, 1.8331),
        (0.975, 100_000, 1.9600),
    ],
)
def test_quantiles_are_those_of_students_tables(probability: float, degrees: int, quantile: float) -> None:
    assert t_quantile(probability, degrees) == pytest.approx(quantile, abs=6e-5)


def test_students_interval_of_an_estimate_is_its_error_times_the_quantile() -> None:
    found = student(10.0, 2.0, degrees=4)
    assert found == pytest.approx((10.0, 10 - 2 * 2.7764, 10 + 2 * 2.7764), abs=2e-4)


def test_an_interval_over_seeds_is_students() -> None:
    found = interval([194.0, 219.0, 195.0, 216.0, 194.0])
    assert found.mean == pytest.approx(203.6)
    assert found.half == pytest.approx(2.7764 * 12.740 / math.sqrt(5), rel=1e-3)  # t of 4 degrees, s = 12.740


def test_with_one_seed_the_interval_is_over_episodes() -> None:
    found = interval([[0.0, 1.0] * 50])
    assert found.half == pytest.approx(1.9842 * 0.50252 / 10, rel=1e-3)  # t of 99 degrees
    assert all(map(math.isnan, interval([4.0])[1:]))


def test_episodes_without_a_value_are_left_out_of_a_mean() -> None:
    found = interval([[1.0, math.nan, 2.0], [3.0, math.nan, 4.0]])
    assert found == interval([[1.0, 2.0], [3.0, 4.0]])
    assert found.mean == 2.5
    assert interval([[2.0, math.nan]], [[1.0, 5.0]]).mean == 2.0
    assert all(map(math.isnan, interval([[math.nan, math.nan]])))
    assert math.isnan(interval([[1.0, math.nan], [1.0, 1.0]]).mean)  # a seed lacks what another has


# Changes of the world ------------------------------------------------------------------------------------------------


def columns(*of_each_network: list[float]) -> torch.Tensor:
    return torch.tensor(of_each_network).T


def test_recovery_by_hand() -> None:
    best = torch.full((6, 4), 10.0)
    changed = columns([0, 1, 0, 0, 0, 0], [0, 1, 0, 0, 1, 0], [1, 0, 0, 0, 0, 1], [0] * 6).bool()
    cost = columns(
        [50.0, 30.0, 12.0, 11.0, 90.0, 90.0],  # back after two slots, what comes then is of no change
        [10.0, 30.0, 30.0, 30.0, 10.5, 10.0],  # ended by the next change after three, then back at once
        [10.0, 90.0, 90.0, 90.0, 10.0, 30.0],  # at once; then ended by the end of the episode after one
        [90.0] * 6,
    )
    slots, share = recovery(changed, cost, best)
    assert slots.tolist() == pytest.approx([2, 1.5, 0.5, math.nan], nan_ok=True)
    assert share.tolist() == pytest.approx([1, 0.5, 0.5, math.nan], nan_ok=True)
    nothing = torch.zeros(1, 1)  # a slot without a task costs nothing, which is what it can cost
    assert recovery(nothing == 0, nothing, nothing) == (torch.zeros(1), torch.ones(1))


def made_episode(cost: torch.Tensor, changed: torch.Tensor) -> Episode:
    """One of a user in every network."""
    nothing = cost.unsqueeze(-1)
    usual = dict.fromkeys(Episode._fields, nothing)
    return Episode(**{**usual, "latency": nothing, "changed": changed})


def test_slots_around_changes_by_hand() -> None:
    # In one network a change in slot 2, in the other one in slot 1: slot by slot they count together.
    changed = columns([0, 0, 1, 0], [0, 1, 0, 0]).bool()
    cost, best = columns([2.0, 4.0, 9.0, 6.0], [6.0, 3.0, 2.0, 2.0]), columns([2.0] * 4, [1.0] * 4)
    found = around_changes([made_episode(cost, changed)], [made_episode(best, changed)])
    assert found is not None
    around = {slot: number for number, slot in enumerate(range(-BEFORE, AFTER + 1))}
    own = {-2: 2 / 2, -1: (4 + 6) / 3, 0: (9 + 3) / 3, 1: (6 + 2) / 3, 2: 2 / 1}
    level = (2 + 4 + 6) / 3
    means = {-2: 2, -1: (4 + 6) / 2, 0: (9 + 3) / 2, 1: (6 + 2) / 2, 2: 2}
    for name, expected in (("own_ratio", own), ("level_ratio", {k: v / level for k, v in means.items()})):
        values = getattr(found, name)
        assert len(values) == 31
        assert {slot: values[at] for slot, at in around.items() if not math.isnan(values[at])} == (
            pytest.approx(expected)
        )
    there = {slot: found.changes[at] for slot, at in around.items() if found.changes[at]}
    assert there == {-2: 1, -1: 2, 0: 2, 1: 2, 2: 1}
    still = made_episode(cost, torch.zeros_like(changed))
    assert around_changes([still], [still]) is None


def test_a_scoreboard_tells_times_and_changes_beside_scores_and_leaves_out_what_is_none() -> None:
    episode = run_episode(EdgeNetwork(SMALL, num_envs=2), *least_known_policies(SMALL))
    board = Scoreboard("")
    board.add(episode, episode)
    assert not set(OF_CHANGES) & (set(board.values()) | set(board.episodes()))
    changed = torch.zeros_like(episode.changed)
    changed[0, 0] = True
    slots, frames = (torch.zeros_like(one) for one in (episode.offloading_s, episode.caching_s))
    episode = episode._replace(changed=changed, offloading_s=slots + 0.002, caching_s=frames + 0.5)
    board = Scoreboard("")
    board.add(episode, episode)
    assert board.episodes()["recovery_slots"] == pytest.approx([0.0, math.nan], nan_ok=True)
    assert (float(board.values()["recovery_slots"]), float(board.values()["recovered"])) == (0, 1)
    times = {name: float(value) for name, value in board.times().items()}
    assert times == pytest.approx({"offloading_ms": 2, "offloading_ms_p95": 2, "caching_ms": 500})
    assert not set(TIMES) & set(board.values())


def test_shares_are_means_over_episodes_however_many_tasks_each_has() -> None:
    scenario = replace(SMALL, processes={"queues": {"tasks_per_slot": 0.3, "load": None}})
    episode = run_episode(EdgeNetwork(scenario, num_envs=3), *least_known_policies(scenario))
    board = Scoreboard("")
    board.add(episode)
    assert len({int(one) for one in episode.asked.sum(dim=(0, 2))}) > 1
    for name in ("hit_ratio", "on_time"):
        assert float(board.values()[name]) == pytest.approx(board.interval(name).mean, rel=1e-6)


def test_a_ratio_is_paired_by_episode_and_a_mean_over_seeds() -> None:
    reference = np.random.default_rng(1).uniform(1, 2, (2, 20))
    values = np.array([[2.0], [4.0]]) * reference
    found = interval(values, reference)
    assert found.mean == pytest.approx(3)
    assert found.half == pytest.approx(
        12.7062 * 1, rel=1e-4
    )  # s = 1.4142, of two seeds; nothing of the episodes
    assert interval(2 * reference, reference) == pytest.approx((2, 2, 2))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="values must not be empty"):
        interval([])
    with pytest.raises(ValueError, match=r"reference must have the shape of values \[2, 1\], got \[3, 1\]"):
        interval([1.0, 2.0], [1.0, 2.0, 3.0])


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize(
    ("of_seeds", "of_episodes", "of_both"), [(1, 1, 1), (1, 0, 3), (0.1, 3, 1), (1, 5, 5), (1, 0, 0)]
)
def test_ninety_five_percent_of_the_intervals_hold_the_mean(
    seeds: int, of_seeds: float, of_episodes: float, of_both: float
) -> None:
    random = np.random.default_rng(0)
    trials, episodes = 1000, 50
    tables = of_seeds * random.standard_normal((trials, seeds, 1))
    tables = tables + of_episodes * random.standard_normal((trials, 1, episodes))
    tables = tables + of_both * random.standard_normal((trials, seeds, episodes))
    covered = [found.low <= 0 <= found.high for found in map(interval, tables)]
    assert np.mean(covered) >= 0.93


@pytest.mark.parametrize("seeds", [3, 5])
def test_ninety_five_percent_of_the_intervals_hold_the_ratio(seeds: int) -> None:
    random = np.random.default_rng(0)
    covered = []
    for _ in range(1000):
        luck = random.lognormal(0, 0.2, (1, 50))  # of an episode, for all alike
        values = luck * (
            1.1 + 0.05 * random.standard_normal((seeds, 1)) + 0.05 * random.standard_normal((seeds, 50))
        )
        found = interval(values, luck)
        covered.append(found.low <= 1.1 <= found.high)
    assert np.mean(covered) >= 0.93


def test_a_cell_of_a_table_has_half_of_the_interval_where_there_is_one() -> None:
    assert cell(Interval(1.5, 1.25, 1.75), "{:.2f}") == "1.50 ± 0.25"
    assert cell(Interval(3589.45, math.nan, math.nan), "{:.2f}") == "3589.45"
    assert cell(Interval(1.0, 1.0, 1.0), "{:.3f}") == "1.000"
    assert cell(None, "{:.2f}") == "–"


# The best weights ----------------------------------------------------------------------------------------------------


def course(*latency: float, learnt_from: int = 0) -> list[Validation]:
    return [
        Validation(100.0 * (n + 1), value, 0.5, 0.5, n + 1, n >= learnt_from)
        for n, value in enumerate(latency)
    ]


def test_the_least_latency_is_kept_and_the_earlier_one_of_equals() -> None:
    found = best_and_last(course(40.0, 35.0, math.nan, 35.0, 42.0))
    assert found is not None
    assert (found.best.slots, found.last.slots) == (200, 500)
    assert found.rise == pytest.approx(0.2)
    assert best_and_last(course(math.nan)) is None
    assert improves(2.0, 1.0, "max")
    keep = KeepBest()
    for validation, weights in zip(course(2.0, 1.0, 1.0, math.nan), (["a"], ["b"], ["c"], ["d"])):
        keep(validation, lambda weights=weights: weights)
    assert keep.kept == ["b"]


def test_where_networks_differ_validations_are_compared_by_the_mean_of_logarithms() -> None:
    assert compared_by(Scenario()) == "latency"
    assert compared_by(Scenario(compute_hz={"low": 1e9, "high": 9e9})) == "log_latency"  # type: ignore[arg-type]
    slow, fast = (one._replace(log_latency=log) for one, log in zip(course(40.0, 35.0), (1.0, 2.0)))
    found = best_and_last([slow, fast])
    assert found is not None
    assert found.best is slow
    keep = KeepBest()
    keep(fast, lambda: "fast")
    keep(slow, lambda: "slow")
    assert keep.kept == "slow"
    board = Scoreboard("")
    board.add(run_episode(EdgeNetwork(SMALL, num_envs=3), *least_known_policies(SMALL)))
    expected = torch.tensor(board.episodes()["latency"]).log().mean()
    differing = Scenario(compute_hz={"low": 1e9, "high": 9e9})  # type: ignore[arg-type]
    assert board.compared(differing) == pytest.approx(float(expected))
    played = run_episode(EdgeNetwork(SMALL, num_envs=1), *least_known_policies(SMALL))
    no = torch.zeros_like(played.hit)
    board.add(
        played._replace(latency=torch.zeros_like(played.latency), hit=no, on_time=no)
    )  # nobody has a task
    assert board.episodes()["latency"][-1] == 0
    assert board.compared(differing) == pytest.approx(float(expected))


def test_a_last_validation_without_a_task_has_no_rise() -> None:
    found = best_and_last(course(0.0, 0.0))
    assert found is not None
    assert math.isnan(found.rise)


def test_the_best_and_the_last_validation_are_told_with_their_slots() -> None:
    found = best_and_last(course(40.0, 35.0, 42.0))
    assert found is not None
    after = "best validation after 2 epochs (200 slots): 35.00 s; last after 3 epochs (300 slots): 42.00 s, +20.0 %"
    assert convergence_text(found) == f"Σ latency: {after}"


def test_where_networks_differ_validations_are_told_by_what_they_are_compared_by() -> None:
    # the second has the larger mean and the smaller geometric mean, which decides
    one, other = (
        Validation(slots, mean, 0.5, 1.0, epoch, log_latency=math.log(geometric))
        for slots, mean, epoch, geometric in ((100, 50.0, 1, 30.0), (200, 60.0, 2, 20.0))
    )
    found = best_and_last([one, other])
    assert found is not None
    assert found.best is other
    text = "Σ latency, geometric mean over networks: best validation after 2 epochs (200 slots): 20.00 s"
    assert convergence_text(found) == f"{text}; it is the last one"


# Yardsticks ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def boards() -> list[Scoreboard]:
    """An agent that caches what is popular, and its references, on the same episodes."""
    stream = EpisodeStream(SMALL, "strict", 6, 4, 5, Use.TEST_NETWORKS)
    agent = Scoreboard("HADRL")
    others = References(SMALL, "strict")
    caching = CACHING_POLICIES["popularity"](SMALL, torch.Generator())
    for index, networks in enumerate(stream):
        episode = run_episode(networks, caching, best_known_policy)
        agent.add(episode)
        others.play(stream, index, episode)
    return [agent, *others.boards]


def test_the_least_known_is_the_best_known_decision_under_latency_optimal_caches(
    boards: list[Scoreboard],
) -> None:
    agent, *others = boards
    by_name = {board.name: board for board in others}
    assert agent.ratio(by_name[OWN]) == pytest.approx((1, 1, 1))
    stream = EpisodeStream(SMALL, "strict", 6, 4, 5, Use.TEST_NETWORKS)
    expected = Scoreboard("")
    for networks in stream:
        expected.add(run_episode(networks, *least_known_policies(SMALL)))
    assert by_name[LEAST].episodes() == expected.episodes()
    assert agent.ratio(by_name[LEAST]).mean > 1.01  # own caches hide what they lose


@pytest.mark.whole
def test_a_least_latency_that_a_search_found_says_so() -> None:
    assert References(SMALL, "strict").notes == []
    many = Scenario(num_servers=5, num_users=4, offload_thresholds=None, cache_bytes=40 * GIB)
    assert not least_latency(many).exact
    (note,) = References(many, "strict").notes
    assert "the best that a search found" in note


@pytest.mark.whole
@pytest.mark.parametrize("dies", [False, True])
def test_a_second_process_plays_every_other_batch_to_the_same_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    played: list[int] = []
    play = HADRL.play

    def counted(self: HADRL, network: EdgeNetwork) -> Episode:
        played.append(network.num_envs)
        return play(self, network)

    monkeypatch.setattr(HADRL, "play", counted)
    if dies:
        monkeypatch.setattr(SecondProcess, "_ask", lambda self: self._process.kill())
    else:  # Ctrl+C of a terminal goes to both processes, and it is the first one that decides what ends
        start = SecondProcess.__init__

        def interrupted(self: SecondProcess) -> None:
            start(self)
            os.kill(self._process.pid or 0, signal.SIGINT)

        monkeypatch.setattr(SecondProcess, "__init__", interrupted)
    results = {}
    for second in ("true", "false"):
        played.clear()
        episodes = ["--data.test_episodes", "5", "--data.parallel_episodes", "2"]
        main(["test", "--ckpt_path", "es2.ckpt", *episodes, "--evaluation.second_process", second])
        results[second] = rows_without_times(next(tmp_path.rglob("test*.csv"))), list(played)
        assert not multiprocessing.active_children()
    assert results["true"][0] == results["false"][0]
    assert results["false"][1] == [2, 2, 1]
    assert results["true"][1] == ([2, 2, 1] if dies else [2, 1])


@pytest.mark.parametrize("cause", ["stream", "disk"])
def test_what_a_second_process_cannot_be_given_is_played_by_the_first(
    monkeypatch: pytest.MonkeyPatch, cause: str
) -> None:
    pipe, _ = multiprocessing.Pipe()
    monkeypatch.setattr(second_process, "start_worker", lambda answer: (None, pipe))
    stream = EpisodeStream(SMALL, "strict", 4, 2, 5, Use.TEST_NETWORKS)
    if cause == "stream":
        monkeypatch.setattr(stream, "networks", lambda batch: None)  # which does not pickle
    else:
        monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    second = SecondProcess()
    second.begin(HADRL(SMALL), stream, references=False)
    assert second.batch(1) is None


def test_an_agent_takes_what_was_played_elsewhere_once() -> None:
    agent, network = HADRL(SMALL), EdgeNetwork(SMALL)
    played = agent.play(EdgeNetwork(SMALL))
    agent.played_elsewhere = played
    assert agent.test_step(network, 0) is played
    assert agent.test_step(network, 1) is not played


def test_without_scipy_a_line_says_which_column_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    optimal_hit_ratio.cache_clear()
    try:
        (note,) = References(SMALL, "strict").notes
    finally:
        optimal_hit_ratio.cache_clear()
    assert note.startswith("hits ÷ optimum is left out: it needs SciPy")


def test_the_energy_of_the_published_code_is_in_no_table_in_joules(boards: list[Scoreboard]) -> None:
    agent, *others = boards
    for physics, heading in (("strict", "energy (J)"), ("published", "energy (dBm·s)")):
        table, _ = result_table("a title", [SMALL], agent, others, physics)
        assert [column.header for column in table.columns if "energy" in column.header] == [heading]


def test_the_table_has_both_yardsticks_and_the_unit_of_switching(boards: list[Scoreboard]) -> None:
    agent, *others = boards
    table, _ = result_table("a title", [SMALL], agent, others)
    headings = [str(column.header) for column in table.columns]
    assert headings[1:6] == [
        "hit ratio",
        "Σ latency (s)",
        "÷ least known",
        "÷ best known, own caches",
        "hits ÷ optimum",
    ]
    assert "switching (s/decision)" in headings
    least, own = ([str(cell) for cell in table.columns[index].cells] for index in (3, 4))
    assert own[:3] == ["1.000", "1.000", "–"]
    assert least[2] == "1.000"
    assert "±" in least[0]


def test_on_80_columns_every_number_of_the_table_is_whole(
    boards: list[Scoreboard], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, *others = boards
    table, _ = result_table("a title", [SMALL], agent, others)
    monkeypatch.setenv("COLUMNS", "80")
    show(table)
    shown = capsys.readouterr().out
    lines = shown.splitlines()
    assert max(map(len, lines)) <= 80
    rules = [number for number, line in enumerate(lines) if line.startswith("──")]
    ends = [0, *(rule + len(boards) for rule in rules)]  # the last line of each part
    assert all(
        rule - end <= 3 for rule, end in zip(rules, ends, strict=False)
    )  # two lines of headers at most
    head = " ".join(lines[1 : rules[0]])
    assert all(word in head for word in ("policy", "hit ratio", "Σ latency", "÷ least known"))
    for column in table.columns[1:]:
        for text in column.cells:
            assert f" {text} " in shown


# What a table is about -----------------------------------------------------------------------------------------------


WORDS = [
    "--config=es2.yaml",
    "--config=tight.yaml",
    "--config=quick.yaml",
    "--data.scenario.decisions_per_episode=2",
    "--data.num_envs=2",
    "--data.passes_per_epoch=1",
    "--data.validation_episodes=2",
    "--data.test_episodes=2",
    "--planning.seed_decisions=2",
    "--planning.decisions_per_epoch=2",
    "--trainer.check_val_every_n_epoch=1",
    "--evaluation.references=false",
]


@pytest.mark.whole
def test_a_table_tells_the_epoch_of_its_weights_and_warns_of_untrained_caches(
    in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(
            [
                "fit",
                *WORDS,
                "--trainer.max_epochs=2",
                "--planning.caching_warmup_epochs=2",
                "--model.slow_level=set",
            ]
        )
        == 0
    )
    shown = capsys.readouterr()
    with open("checkpoints/es2-tight-quick/version_0/metrics.csv", newline="") as file:
        latency = [float(row["val/latency"]) for row in csv.DictReader(file) if row["val/latency"]]
    best = 1 + latency.index(min(latency))
    run = "checkpoints/es2-tight-quick/version_0"
    assert f"weights of {run}/best.ckpt, after {best} epoch" in shown.out
    assert f"best validation after {best} epoch" in shown.out
    assert f"these weights are those after {best} epoch" in shown.err
    assert ("last after 2 epochs (" in shown.out) == (best == 1)
    assert main(["test", *WORDS, "--ckpt_path=last"]) == 0
    shown = capsys.readouterr()
    assert f"weights of {run}/last.ckpt, after 2 epochs" in shown.out
    assert f"Outputs: {run}/test-last.csv\n" in shown.out
    assert "untrained" not in shown.out
    assert main(["test", *WORDS, "--model.set_world_model.hidden_size=31"]) == 0  # of no kind that ships
    shown = capsys.readouterr()
    assert (
        "hadrl: warning: weights: none, the agent is untrained; ckpt_path names a trained one\n" in shown.err
    )
    assert "\n HADRL, untrained " in shown.out
    with open("checkpoints/es2-tight-quick/untrained/test-1.csv", newline="") as file:
        row = next(csv.DictReader(file))
    assert "test/published_caching_reward" in row
    assert row["data.test_episodes"] == "2"


def weights_of(tmp_path: Path, validations: list[Validation], epochs: int) -> Weights:
    file = tmp_path / "best.ckpt"
    progress = {"epoch_progress": {"current": {"processed": epochs}}}
    stored = {"validations": [one._asdict() for one in validations]}
    torch.save({"loops": {"fit_loop": progress}, "callbacks": {"EpisodeEvaluation": stored}}, file)
    return Weights(file, [], "EpisodeEvaluation")


def test_weights_of_trained_caches_or_of_caches_that_hold_all_need_no_warning(tmp_path: Path) -> None:
    known = course(30.0, 40.0, learnt_from=1)
    assert "learnt nothing" in weights_of(tmp_path, known[:1], 1).warning(SMALL)
    assert weights_of(tmp_path, known, 2).warning(SMALL) == ""
    roomy = replace(SMALL, cache_bytes=200 * GIB)
    assert weights_of(tmp_path, known[:1], 1).warning(roomy) == ""

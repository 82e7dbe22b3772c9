"""Episodes as they are played and scored, and the figures that are drawn of results."""

import csv
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as multiprocessing
from PIL import Image
from torch import Tensor
from torchmetrics import MetricCollection

import hadrl_lightning
from hadrl_lightning.benchmark import default_policies
from hadrl_lightning.cli import main
from hadrl_lightning.errors import HadrlError
from hadrl_lightning.metrics import (
    BandwidthOverSubscription,
    CacheHitRatio,
    ComputeOverSubscription,
    DeadlineSatisfaction,
    ServiceLatency,
    SwitchingCost,
    TransmitEnergy,
    slot_metrics,
)
from hadrl_lightning.play import (
    Decider,
    Frame,
    FrameScores,
    by_policy,
    caching_agent,
    caching_objective,
    caching_reward,
    decided,
    episode_scores,
    offloading_agent,
    offloading_objective,
    offloading_reward,
    play_frame,
    run_episode,
    slot_scores,
    task_cost,
)
from hadrl_lightning.play.scores import fairness, task_quantile
from hadrl_lightning.plots import draw
from hadrl_lightning.plots.benchmark import (
    ONE_TRAINING,
    OVER_BOTH,
    OVER_EPISODES,
    OVER_SEEDS,
    _bars,
    _change,
    _convergence,
    _sweep,
)
from hadrl_lightning.plots.style import axis, colour, family, look, read_rows, style
from hadrl_lightning.scenario import Physics, Preferences, Scenario
from hadrl_lightning.simulator import (
    Allocation,
    CachingView,
    EdgeNetwork,
    OffloadingView,
    Rows,
    Service,
    decode_caching,
    decode_offloading,
    equal_shares,
)
from hadrl_lightning.viewer import OUTCOMES, Picture, Scene, Watcher, write_gif, write_replay

SCENARIO = Scenario(num_users=6, decisions_per_episode=2, slots_per_decision=3)


def networks(physics: Physics = "strict", seed: int = 1, scenario: Scenario = SCENARIO) -> EdgeNetwork:
    return EdgeNetwork(scenario, physics, 2, generator=torch.Generator().manual_seed(seed))


def fills(view: CachingView) -> Tensor:
    """An action that wants the services asked for least so far."""
    return (0.5 - view.demand).repeat(1, SCENARIO.num_servers)


def spreads(view: OffloadingView) -> Tensor:
    """An action by what users ask for."""
    target = view.requests / SCENARIO.num_services * 2 - 1
    return torch.cat([target, -target, target / 2], dim=1)


def same(one: Rows, other: Rows) -> bool:
    pairs = zip(one.tensors(), other.tensors(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


# The loop ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("physics", ["strict", "published"])
def test_a_frame_tells_what_was_seen_decided_served_and_seen_next(physics: Physics) -> None:
    played, twin = networks(physics), networks(physics)
    for _ in range(SCENARIO.decisions_per_episode):
        frame = play_frame(played, caching_agent(fills), offloading_agent(spreads))
        view = twin.caching_view()
        assert same(frame.seen, view)
        assert torch.equal(frame.act, fills(view))
        cache = decode_caching(SCENARIO, fills(view), twin.cache, physics)
        assert torch.equal(frame.cache, cache)
        assert torch.equal(frame.switching, twin.begin_frame(cache))
        for slot in frame.slots:
            assert same(slot.seen, twin.offloading_view())
            assert torch.equal(slot.requests, twin.requests)
            assert torch.equal(slot.positions, twin.positions)
            assert torch.equal(slot.act, spreads(slot.seen))
            allocation = decode_offloading(SCENARIO, slot.act, physics)
            assert all(map(torch.equal, slot.allocation, allocation))
            assert all(map(torch.equal, slot.service, twin.step(allocation)))
            assert same(slot.seen_next, twin.offloading_view())
        assert same(frame.seen_next, twin.caching_view())
        assert torch.equal(frame.hit, torch.stack([slot.service.hit for slot in frame.slots]))
        assert torch.equal(frame.latency, torch.stack([slot.service.latency for slot in frame.slots]))
    assert played.episode_over


def test_a_slot_is_given_before_the_next_one_is_decided() -> None:
    told = []

    def notes(view: OffloadingView) -> Tensor:
        told.append("decided")
        return spreads(view)

    frame = Frame(networks(), caching_agent(fills))
    for _ in frame.slots(offloading_agent(notes)):
        told.append("given")
    assert told == ["decided", "given"] * SCENARIO.slots_per_decision


def test_a_level_looks_once_more_than_there_are_slots() -> None:
    looks = []

    def look(network: EdgeNetwork) -> int:
        looks.append(network.slot)
        return network.slot

    def read(network: EdgeNetwork, seen: int, act: int) -> Allocation:
        return equal_shares(SCENARIO, network.requests % 2, network.dtype)

    fast = Decider(look, lambda slot: slot, read)
    frame = play_frame(networks(), caching_agent(fills), fast)
    assert looks == [0, 1, 2, 3]
    assert [(slot.seen, slot.act, slot.seen_next) for slot in frame.slots] == [
        (0, 0, 1),
        (1, 1, 2),
        (2, 2, 3),
    ]


def test_a_frame_is_finished_after_its_last_slot_and_no_slot_is_beyond_it() -> None:
    network = networks()
    frame = Frame(network, decided(torch.zeros_like(network.cache)))
    home = by_policy(lambda one: equal_shares(SCENARIO, one.requests % 2, one.dtype))
    frame.serve(home)
    with pytest.raises(RuntimeError, match="finish must follow the last slot of the frame"):
        frame.finish()
    assert len(list(frame.slots(home))) == 2
    assert len(frame.finish().slots) == 3
    with pytest.raises(RuntimeError, match="step must follow begin_frame"):
        frame.serve(home)


def test_nobody_else_plays_frames() -> None:
    package = Path(hadrl_lightning.__file__).parent
    files = [*package.rglob("*.py"), *(package.parent / "callbacks").glob("*.py")]
    ours = {file for folder in ("simulator", "play") for file in (package / folder).rglob("*.py")}
    assert not [
        str(file) for file in files if file not in ours and ".begin_frame(" in file.read_text("utf-8")
    ]


def test_an_episode_has_its_slots_and_decisions_and_starts_empty():
    scenario = Scenario(decisions_per_episode=3, slots_per_decision=2)
    network = EdgeNetwork(scenario, num_envs=2)
    home = torch.tensor(scenario.cells).expand(2, -1)
    episode = run_episode(
        network,
        lambda n: torch.ones_like(n.cache),
        lambda n: equal_shares(n.scenario, home, n.dtype),
    )
    assert episode.latency.shape == (6, 2, 30)
    assert episode.cache.shape == (3, 2, 2, 10)
    # 2 servers · 55 · 2000 MiB at 200 MiB/s, fetched once
    torch.testing.assert_close(episode.switching, torch.tensor([[1100.0] * 2, [0.0] * 2, [0.0] * 2]))
    assert episode.hit.all()
    torch.testing.assert_close(episode.bandwidth_load, torch.ones(6, 2, 2))
    network.reset()
    assert not network.cache.any()
    assert network.caching_observation()[:, :50].abs().sum() == 0


# Scores and rewards --------------------------------------------------------------------------------------------------


def test_rewards_by_hand() -> None:
    # 7 hits a slot, 25 s: 0.07 + 1/125 = 0.078. Latencies 10 and 15 s: 10^4 / 25 = 400.
    assert caching_reward(torch.tensor([7.0]), torch.tensor([25.0])).item() == pytest.approx(0.078)
    latency = torch.tensor([[10.0, 15.0]])
    assert offloading_reward(latency).item() == pytest.approx(400)
    assert offloading_objective("published", latency).item() == pytest.approx(400)
    assert offloading_objective("latency", latency).item() == -12.5


def test_caching_objectives_by_hand() -> None:
    frame = FrameScores(*(torch.tensor([value]) for value in (15.0, 0.5, 2.0, 100.0)))
    expected = {"published": 15 / 100 + 1 / 200, "hits": 0.5, "latency": -2.0, "hits_and_latency": 0.2}
    for name, value in expected.items():
        assert caching_objective(name, frame).tolist() == pytest.approx([value])
    assert caching_objective("hits_and_latency", frame, latency_weight=0.2).tolist() == pytest.approx([0.1])
    with pytest.raises(ValueError, match=r"latency_weight must be at least 0 and finite, got -1"):
        caching_objective("hits", frame, latency_weight=-1.0)


def outcomes(**fields: list[list[float]]) -> Service:
    """What two users of one network got."""
    given = {name: torch.tensor(values) for name, values in fields.items()}
    no, nothing = torch.zeros(1, 3, dtype=torch.bool), torch.zeros(1, 3)
    usual = dict.fromkeys(("hit", "on_time", "dropped", "handover"), no)
    usual |= {name: nothing for name in Service._fields if name not in usual}
    return Service(**{**usual, **{name: value.to(usual[name].dtype) for name, value in given.items()}})


def test_costs_of_tasks_by_hand() -> None:
    # Of who is served in time, of who has no task but a new home, of who is dropped and so misses its deadline too.
    got = outcomes(
        latency=[[2, 0, 4]],
        energy=[[1, 0, 3]],
        on_time=[[1, 0, 0]],
        dropped=[[0, 0, 1]],
        handover=[[0, 1, 0]],
    )
    assert task_cost(Preferences(), got).tolist() == [[2, 0, 4]]
    wanted = Preferences(latency_s=0.5, energy_j=2.0, missed=5.0, dropped=7.0, handovers=3.0)
    assert task_cost(wanted, got).tolist() == [[1 + 2, 3, 2 + 6 + 5 + 7]]
    assert offloading_objective("latency", task_cost(wanted, got), got.latency).tolist() == [-26 / 2]


def test_fairness_and_tails_by_hand() -> None:
    # Users' mean latencies 1 and 3 s, and one who never has a task: 4² / (2 · (1 + 9)).
    latency = torch.tensor([[[1.0, 2.0, 0.0]], [[0.0, 4.0, 0.0]]])
    assert fairness(latency).tolist() == pytest.approx([0.8])
    assert fairness(torch.zeros(2, 1, 3)).isnan().all()
    many = torch.arange(1.0, 101.0).view(10, 1, 10)
    assert task_quantile(many, 0.95).tolist() == pytest.approx([95.05])  # 1 + 0.95 · 99
    assert task_quantile(torch.zeros(2, 2, 3), 0.95).isnan().all()
    uneven = torch.tensor([[[4.0, 0.0, 1.0]], [[0.0, 2.0, 0.0]]])  # 0: no task
    assert task_quantile(uneven, 0.75).tolist() == [3.0]
    assert task_quantile(torch.zeros(3, 2, 0), 0.95).isnan().tolist() == [True, True]
    large = torch.ones(1, 1, 2**24 + 3)
    assert task_quantile(large, 0.99).tolist() == [1.0]


@pytest.mark.parametrize(
    ("weights", "text"),
    [
        ({"energy": 2}, "preferences must be of latency_s, energy_j, missed, .*, got 'energy'"),
        ({"missed": -1}, "preferences.missed must be at least 0, got -1"),
        ({"energy_j": float("nan")}, "preferences.energy_j must be a finite number, got nan"),
        ({"latency_s": 0}, "preferences.latency_s must be above 0 where energy_j is 0: .*, got 0"),
        ([1, 2], r"preferences must be weights by the names of outcomes, got \[1, 2\]"),
    ],
)
def test_preferences_that_make_no_sense_are_refused(weights: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Scenario(preferences=weights)
    scenario = Scenario(preferences={"missed": 5})  # type: ignore[arg-type]
    assert Scenario.from_dict(scenario.to_dict()) == scenario != Scenario()


def test_scores_of_a_slot_by_hand() -> None:
    false = torch.zeros(2, 2, dtype=torch.bool)
    rest = {"dropped": false, "handover": false, "device_energy": torch.zeros(2, 2)}
    fields = {**slot(1), "spectral_efficiency": torch.ones(2, 2), **rest}
    del fields["server"]
    scores = slot_scores(Service(**fields), torch.tensor([70.0, 0.0]))
    expected = {
        "hits": [1, 2],
        "hit_ratio": [0.5, 1],
        "latency": [5, 9],
        "on_time": [1, 0],
        "energy": [0.3, 0.7],
        "bandwidth_over_subscription": [0, 0],
        "compute_over_subscription": [1.5, 0],
        "switching": [70, 0],
    }
    assert list(scores._fields) == list(expected)
    for name, values in expected.items():
        assert getattr(scores, name).tolist() == pytest.approx(values), name


@pytest.mark.parametrize("physics", ["strict", "published"])
def test_slots_episodes_and_metrics_agree_on_every_score(physics: Physics) -> None:
    def caching(network: EdgeNetwork) -> Tensor:
        return decode_caching(SCENARIO, fills(network.caching_view()), network.cache, physics)

    def offloading(network: EdgeNetwork) -> Allocation:
        return decode_offloading(SCENARIO, spreads(network.offloading_view()), physics)

    episode = run_episode(networks(physics), caching, offloading)
    metrics, slots = slot_metrics(), []
    for number in range(len(episode.latency)):
        service = Service(*(getattr(episode, name)[number] for name in Service._fields))
        metrics.update(**service._asdict())
        decision, first = divmod(number, SCENARIO.slots_per_decision)
        slots.append(slot_scores(service, episode.switching[decision] * (first == 0)))
    means = {
        name: torch.stack([getattr(one, name) for one in slots]).mean(dim=0) for name in slots[0]._fields
    }
    means["switching"] *= SCENARIO.slots_per_decision
    scores = episode_scores(episode)._asdict()
    for name in means.keys() & scores.keys():
        torch.testing.assert_close(scores[name], means[name])
    for name, value in metrics.compute().items():
        if name != "latency_p95":
            torch.testing.assert_close(value, scores[name].mean())
    assert len(means.keys() & scores.keys()) == 7
    frames = episode.hit.sum(dim=2).float().unflatten(0, (2, 3)).mean(dim=1)
    expected = (frames / 100 + 1 / (episode.switching + 100)).mean(dim=0)
    torch.testing.assert_close(scores["published_caching_reward"], expected)
    torch.testing.assert_close(scores["offloading_reward"], (1e4 / episode.latency.sum(dim=2)).mean(dim=0))


# Metrics -------------------------------------------------------------------------------------------------------------


def slot(number: int) -> dict[str, torch.Tensor]:
    """Two networks, two users, one server; slot `number` adds it to every latency."""
    return {
        "server": torch.zeros(2, 2, dtype=torch.int64),  # other fields of a slot are passed over
        "hit": torch.tensor([[True, number == 0], [True, True]]),
        "latency": torch.tensor([[1.0, 2.0], [3.0, 4.0]]) + number,
        "on_time": torch.tensor([[True, True], [number == 0, False]]),
        "energy": torch.tensor([[0.1, 0.2], [0.3, 0.4]]),
        "bandwidth_load": torch.tensor([[0.5], [1.0]]),
        "compute_load": torch.tensor([[1.5], [0.0]]) + number,
    }


EXPECTED = {  # of slots 0 and 1
    "hit_ratio": 7 / 8,
    "latency": (3 + 7 + 5 + 9) / 4,
    "latency_p95": 7 + (9 - 7) * 0.85,  # sums 3, 5, 7, 9; position 0.95·3 = 2.85
    "on_time": 5 / 8,
    "energy": (0.3 + 0.7) / 2,
    "bandwidth_over_subscription": 0.0,
    "compute_over_subscription": (0.5 + 0 + 1.5 + 0) / 4,
}


def as_floats(values: dict[str, torch.Tensor]) -> dict[str, float]:
    return {name: value.item() for name, value in values.items()}


def test_a_collection_of_slots_gives_the_values_worked_out_by_hand() -> None:
    metrics = slot_metrics()
    for number in (0, 1):
        metrics.update(**slot(number))
    assert as_floats(metrics.compute()) == pytest.approx(EXPECTED)
    metrics.reset()
    metrics.update(**slot(0))
    assert metrics.compute()["latency"] == 5.0


def test_switching_cost_is_the_mean_over_decisions() -> None:
    metric = SwitchingCost()
    metric.update(torch.tensor([10.0, 0.0]))
    metric.update(torch.tensor([5.0, 1.0]))
    assert metric.compute() == 4.0


def test_over_subscription_never_cancels_against_spare_capacity() -> None:
    metric = BandwidthOverSubscription()
    metric.update(torch.tensor([[0.0, 3.0]]))
    assert metric.compute() == 1.0  # (0 + 2) / 2


def test_a_slot_counts_by_its_networks() -> None:
    metric = CacheHitRatio()
    metric.update(torch.ones(3, 1, dtype=torch.bool))
    metric.update(torch.zeros(1, 1, dtype=torch.bool))
    assert metric.compute() == 0.75


def test_metrics_that_agree_at_first_are_not_merged_by_a_collection() -> None:
    metrics = MetricCollection(
        [
            CacheHitRatio(),
            DeadlineSatisfaction(),
            BandwidthOverSubscription(),
            ComputeOverSubscription(),
            TransmitEnergy(),
        ]
    )
    for value in (1, 0):
        yes = torch.ones(1, 1, dtype=torch.bool)
        metrics.update(
            hit=yes,
            on_time=yes if value else ~yes,
            energy=torch.ones(1, 1),
            bandwidth_load=torch.ones(1, 1),
            compute_load=torch.ones(1, 1) * (2 - value),
        )
    values = as_floats(metrics.compute())
    assert values["CacheHitRatio"] == 1.0
    assert values["DeadlineSatisfaction"] == 0.5
    assert values["BandwidthOverSubscription"] == 0.0
    assert values["ComputeOverSubscription"] == 0.5


def test_the_quantile_agrees_with_torch() -> None:
    latency = torch.rand(37, 5, generator=torch.Generator().manual_seed(0))
    for quantile in (0.0, 0.3, 0.95, 1.0):
        metric = ServiceLatency(quantile=quantile)
        metric.update(latency[:10])
        metric.update(latency[10:])
        assert torch.allclose(metric.compute(), torch.quantile(latency.sum(dim=1), quantile))


@pytest.mark.filterwarnings("ignore:The ``compute`` method:UserWarning")
def test_without_slots_there_is_no_value() -> None:
    for metric in (CacheHitRatio(), ServiceLatency(), ServiceLatency(quantile=0.5)):
        assert metric.compute().isnan()


@pytest.mark.parametrize(
    ("metric", "name", "values"),
    [
        (CacheHitRatio(), "hit", torch.ones(3, dtype=torch.bool)),
        (DeadlineSatisfaction(), "on_time", torch.ones(3, dtype=torch.bool)),
        (ServiceLatency(), "latency", torch.ones(1, 2, 3)),
        (TransmitEnergy(), "energy", torch.ones(3)),
        (SwitchingCost(), "switching", torch.ones(3, 1)),
        (BandwidthOverSubscription(), "bandwidth_load", torch.ones(3)),
        (ComputeOverSubscription(), "compute_load", torch.ones(3)),
    ],
)
def test_a_wrong_shape_is_refused_by_name(metric, name: str, values: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=rf"{name} must have shape \[batch"):
        metric.update(values)


def test_a_quantile_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match=r"quantile must lie in \[0, 1\], got 95.0"):
        ServiceLatency(quantile=95.0)


def _one_slot_per_process(rank: int, address: str, results) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    metrics = slot_metrics()
    metrics.update(**slot(rank))
    results[rank] = as_floats(metrics.compute())
    torch.distributed.destroy_process_group()


@pytest.mark.whole
@pytest.mark.skipif(os.name == "nt", reason="gloo over a file")
def test_two_processes_agree_on_the_values_of_all_their_slots(tmp_path) -> None:
    with multiprocessing.get_context("spawn").Manager() as manager:
        results = manager.dict()
        multiprocessing.spawn(_one_slot_per_process, (f"file://{tmp_path}/meeting", results), nprocs=2)
        for rank in (0, 1):
            assert results[rank] == pytest.approx(EXPECTED)


HEAD = {"label": "a label", "scenario": "es2", "sweep_key": "", "sweep_value": ""}


def write(path: Path, rows: list[dict]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def summary(policy: str, metric: str, mean: float, **head: object) -> dict:
    trainings = 0 if "+" in policy else 1 if policy == "ppo" else 5
    interval = {"mean": mean, "low": mean * 0.9, "high": mean * 1.1, "seeds": 5, "trainings": trainings}
    return {"policy": policy, **HEAD, **head, "metric": metric, **interval}


@pytest.fixture
def benchmark(tmp_path: Path) -> Path:
    policies = ("hadrl", "hadrl-horizon-5", "ppo", "latency_optimal+best_known")
    metrics = ("hit_ratio", "latency_s", "on_time", "energy_j", "switching_s", "ratio_to_least_known")
    write(tmp_path / "summary.csv", [summary(policy, name, 0.5) for policy in policies for name in metrics])
    curves = [
        {**summary(policy, name, value), "slots": slots}
        for policy in policies[:3]
        for name in ("hit_ratio", "latency")
        for slots, value in ((100, 0.4), (200, 0.6))
    ]
    write(tmp_path / "curves.csv", curves)
    return tmp_path


@pytest.mark.unchecked
def test_a_benchmark_has_bars_and_convergence_as_pdf_and_png(benchmark: Path) -> None:
    files = draw(benchmark)
    names = [f"{name}-es2.{kind}" for name in ("bars", "convergence", "ablations") for kind in ("pdf", "png")]
    assert [file.name for file in files] == names
    for file in files:
        assert file.parent == benchmark / "figures"
        assert file.read_bytes().startswith(b"%PDF" if file.suffix == ".pdf" else b"\x89PNG")


@pytest.mark.unchecked
def test_tasks_and_changes_are_drawn_where_there_are_any(benchmark: Path) -> None:
    head = {"policy": "hadrl", **HEAD, "seeds": 1}
    write(benchmark / "tasks.csv", [{**head, "part": part, "latency_s": 1 + part} for part in (0, 0.5, 1)])
    slots = [
        {**head, "of": "latency", "metric": metric, "slot": slot, "mean": mean}
        for metric in ("own_ratio", "level_ratio")
        for slot, mean in ((-1, 1.0), (0, 9.0), (1, "nan"))
    ]
    counts = [{**slots[0], "metric": "changes", "slot": slot, "mean": 12.0 - slot} for slot in (-1, 0, 1)]
    write(benchmark / "changes.csv", slots + counts)
    (benchmark / "curves.csv").unlink()
    write(benchmark / "summary.csv", [summary("ppo", "latency_s", 0.5)])
    assert {file.stem for file in draw(benchmark)} == {"bars-es2", "cdf-es2", "change-es2"}
    with style() as plt:
        for rows, label in (
            (slots, "slots after the change"),
            (slots + counts, "slots after one of 13 changes"),
        ):
            figure = _change(plt, [{name: str(value) for name, value in row.items()} for row in rows])
            assert {axes.get_ylabel() for axes in figure.axes} == {"Σ latency of a slot, ratio, logarithmic"}
            assert {axes.get_xlabel() for axes in figure.axes} == {label}
            plt.close(figure)


@pytest.mark.unchecked
def test_the_same_results_give_the_same_files(benchmark: Path) -> None:
    (benchmark / "curves.csv").unlink()
    write(benchmark / "summary.csv", [summary("ppo", "latency_s", 0.5)])
    first = [file.read_bytes() for file in draw(benchmark, benchmark / "one")]
    assert first == [file.read_bytes() for file in draw(benchmark, benchmark / "two")]


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("key", "values"), [("data.scenario.cache_bytes", [2**34, 2**38]), ("model.fast_level", ["flat", "set"])]
)
def test_a_sweep_is_drawn_over_numbers_and_over_words(tmp_path: Path, key: str, values: list) -> None:
    rows = [
        summary(policy, metric, 0.5, sweep_key=key, sweep_value=value)
        for policy in ("hadrl", "ppo")
        for metric in ("latency_s",)
        for value in values
    ]
    write(tmp_path / "summary.csv", rows)
    names = [file.name for file in draw(tmp_path)]
    short = key.rpartition(".")[2]
    assert names[0] == f"sweep-es2-{short}.pdf"
    assert f"bars-es2-{short}-{'16' if 'cache' in key else 'flat'}.png" in names


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("key", "values", "label", "ticks"),
    [
        (
            "data.scenario.cache_bytes",
            ["21474836480", "214748364800"],
            "cache per server (GiB)",
            ["20", "200"],
        ),
        ("data.scenario.cloud_delay_s", ["0.1", "0.02"], "cloud delay (ms)", ["100", "20"]),
        ("data.scenario.cloud_rate_bit_per_s", ["4194304"], "cloud rate (Mibit/s)", ["4"]),
        ("data.scenario.noise_dbm", ["-114", "-90.5"], "noise (dBm)", ["-114", "-90.5"]),
        ("data.scenario.cell_radius_m", ["0", "1500"], "cell radius (km)", ["0", "1.5"]),
        ("data.scenario.num_users", ["20", "30"], "users", ["20", "30"]),
        ("planning.planner.horizon", ["1", "5"], "horizon", ["1", "5"]),
        ("data.scenario.compute_hz", ["(60000000000.0, 5e8)"], "compute per server", ["[60 GHz, 500 MHz]"]),
        ("model.fast_level", ["flat", "set"], "fast level", ["flat", "set"]),
    ],
)
def test_an_axis_has_the_name_of_any_setting_and_its_unit(
    key: str, values: list[str], label: str, ticks: list[str]
) -> None:
    shown = axis(key, values)
    assert shown.label == label
    assert [shown.short(value) for value in values] == ticks


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("largest", "label"), [(2**35, "cache per server (GiB)"), (2**38, "cache per server (GiB), logarithmic")]
)
def test_a_logarithmic_axis_says_so(largest: int, label: str) -> None:
    key = "data.scenario.cache_bytes"
    rows = [
        {name: str(value) for name, value in summary("ppo", "latency_s", 0.5, sweep_value=value).items()}
        for value in (2**34, largest)
    ]
    with style() as plt:
        figure = _sweep(plt, rows, key)
        assert figure.axes[0].get_xlabel() == label
        plt.close("all")


@pytest.mark.unchecked
def test_with_one_seed_no_figure_speaks_of_an_interval_over_seeds() -> None:
    row = {name: str(value) for name, value in summary("hadrl", "latency_s", 0.5).items()}
    row |= {"seeds": "1", "trainings": "1"}
    curve = {**row, "metric": "hit_ratio", "slots": "100", "low": "nan", "high": "nan"}
    with style() as plt:
        bars, sweep = _bars(plt, [row]), _sweep(plt, [{**row, "sweep_value": "5"}], "data.scenario.num_users")
        lines = _convergence(plt, [curve], [row])
        texts = [
            [text.get_text() for text in figure.legends[0].get_texts()] for figure in (bars, sweep, lines)
        ]
        plt.close("all")
    assert texts == [
        [OVER_EPISODES, ONE_TRAINING],
        ["a label (one training)", OVER_EPISODES],
        ["a label (one training)"],
    ]


@pytest.mark.unchecked
def test_the_energy_has_the_panel_of_its_unit(benchmark: Path) -> None:
    rows = read_rows(benchmark / "summary.csv", ())
    for row in rows:
        row["metric"] = row["metric"].replace("energy_j", "energy_dbm_s")
    with style() as plt:
        labels = [panel.get_xlabel() for panel in _bars(plt, rows).axes]
        plt.close("all")
    assert [label for label in labels if "energy" in label] == ["energy (dBm·s)\nlower is better"]


@pytest.mark.unchecked
def test_a_run_has_learning_curves_although_rows_have_gaps(tmp_path: Path) -> None:
    rows = [
        {"step": 100, "collect/latency": 5.0, "val/latency": "", "train/caching_agent/critic": 1.0},
        {"step": 200, "collect/latency": "", "val/latency": 4.0, "train/caching_agent/critic": "nan"},
    ]
    write(tmp_path / "metrics.csv", rows)
    assert [file.name for file in draw(tmp_path)] == ["learning-curves.pdf", "learning-curves.png"]


@pytest.mark.unchecked
def test_a_policy_looks_the_same_everywhere_and_unlike_the_others() -> None:
    names = [*default_policies(), "ppo-set"]
    looks = {
        name: (look(name)["color"], look(name)["marker"], str(look(name)["linestyle"])) for name in names
    }
    assert len(set(looks.values())) == len(names)
    learners = [name for name in names if family(name) in ("HADRL", "ablation", "learner")]
    assert len({colour(name) for name in learners}) == len(learners)
    assert look("mine+home_equal") == look("mine+home_equal")


@pytest.mark.unchecked
def test_ours_is_above_all_other_lines() -> None:
    others = [name for name in default_policies() if name != "hadrl"]
    assert look("hadrl")["zorder"] > max(look(name)["zorder"] for name in others)
    assert look("agents/es2-{seed}.ckpt")["zorder"] == look("hadrl")["zorder"]


@pytest.mark.unchecked
def test_figures_say_what_is_better_what_bands_are_and_what_is_of_one_training(benchmark: Path) -> None:
    rows = read_rows(benchmark / "summary.csv", ())
    curves = read_rows(benchmark / "curves.csv", ())
    with style() as plt:
        bars, lines = _bars(plt, rows), _convergence(plt, curves, rows)
        texts = {
            figure: {text.get_text() for text in figure.legends[0].get_texts()} for figure in (bars, lines)
        }
        assert texts[bars] == {OVER_BOTH, ONE_TRAINING}
        assert OVER_SEEDS in texts[lines]
        assert "a label (one training)" in texts[lines]
        hatches = [patch.get_hatch() for patch in bars.axes[0].patches]
        assert hatches == [None, None, "////", None]  # ppo has one
        axes = [panel.get_xlabel() for panel in bars.axes] + [panel.get_title() for panel in lines.axes]
        assert all("lower is better" in text or "higher is better" in text for text in axes)
        plt.close("all")


@pytest.mark.unchecked
def test_policies_are_sorted_into_families() -> None:
    names = {
        "hadrl": "HADRL",
        "hadrl-one-member": "ablation",
        "hadrl-published": "learner",
        "sac": "learner",
        "lru+least_loaded_equal": "heuristic",
        "density+least_loaded_sqrt": "knows the physics",
        "lower-bound": "knows the physics",
    }
    assert {name: family(name) for name in names} == names


@pytest.mark.unchecked
def test_a_folder_without_results_is_told_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plot", str(tmp_path / "none")]) == 2
    assert "no such folder" in capsys.readouterr().err
    assert main(["plot", str(tmp_path)]) == 2
    assert "summary.csv (of a benchmark) or metrics.csv (of a run)" in capsys.readouterr().err
    write(tmp_path / "summary.csv", [{"policy": "hadrl"}])
    assert main(["plot", str(tmp_path)]) == 2
    assert "must have a column label" in capsys.readouterr().err


@pytest.mark.unchecked
def test_the_command_prints_what_it_drew(benchmark: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (benchmark / "curves.csv").unlink()
    assert main(["plot", str(benchmark), "--output", str(benchmark / "here")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


@pytest.mark.unchecked
def test_a_missing_matplotlib_is_told_with_its_extra(
    benchmark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(HadrlError, match=r"pip install 'hadrl-lightning\[plots\]'"):
        draw(benchmark)


# An episode as a picture that moves


def watched(
    scenario: Scenario, target: int | None = None, slots: int = 3
) -> tuple[list[Scene], EdgeNetwork, Tensor]:
    """Slots in which all go home, or to one target, with service 0 in all caches; and the cost of the decision."""
    network = EdgeNetwork(scenario)
    network.set_seed(0)
    network.reset()
    watcher = Watcher(network)
    cache = torch.zeros_like(network.cache)
    cache[:, :, 0] = True
    frame = Frame(network, decided(cache))

    def all_there(network: EdgeNetwork) -> Allocation:
        server = network.homes if target is None else torch.full_like(network.homes, target)
        return equal_shares(network.scenario, server, network.dtype)

    scenes = [watcher.served(frame.serve(by_policy(all_there))) for _ in range(slots)]
    return scenes, network, frame.switching


def test_a_scene_has_what_became_of_every_user() -> None:
    (first, second, _), _, switching = watched(Scenario(num_users=6))
    users = first.users
    kinds = [OUTCOMES[one] for one in users.outcome]
    assert kinds == ["hit" if service == 0 else "cloud" for service in users.service]
    assert set(kinds) == {"hit", "cloud"}
    assert users.target.tolist() == users.home.tolist() == [0, 0, 0, 1, 1, 1]
    assert first.numbers["hits"] == kinds.count("hit")
    assert first.numbers["latency"] == pytest.approx(users.latency_s.sum())
    assert (first.numbers["switching"], second.numbers["switching"]) == (switching.item(), 0.0)
    assert first.servers.new[:, 0].all()
    assert not second.servers.new.any()
    assert first.servers.tasks.sum(axis=1).tolist() == [3, 3]


def test_a_scene_tells_users_who_move_and_servers_that_slow_down() -> None:
    fast = {"least_speed_m_per_s": 10.0, "largest_speed_m_per_s": 20.0, "pause_s": 0.0}
    processes = {"moving_users": fast, "handover": {}, "slow_servers": {}, "hops": {}}
    scenario = Scenario(num_servers=3, processes=processes)
    scenes, network, _ = watched(scenario, slots=5)
    first, second = scenes[:2]
    assert first.moves
    assert (second.users.before_m == first.users.at_m).all()
    assert (second.users.at_m != first.users.at_m).any()
    speeds = {float(one) for scene in (first, second) for one in scene.servers.speed}  # type: ignore[union-attr]
    assert all(min(abs(one - part) for part in (1, 0.1, 0.01)) < 1e-6 for one in speeds)
    assert first.links == ((0, 1), (0, 2), (1, 2))
    handovers = network.state.carried["handover"]["handovers"].item()
    assert sum(scene.numbers["handovers"] for scene in scenes) == handovers


def test_a_scene_tells_what_is_dropped_what_waits_and_who_has_no_task() -> None:
    queues = {"queues": {"load": 10.0, "buffer_s": 1.0}}
    scenario = Scenario(num_servers=1, num_users=20, popularity=[1.0] + [0.0] * 9, processes=queues)
    scenes, network, _ = watched(scenario)
    carried = network.state.carried["queues"]
    dropped = sum(scene.numbers["dropped"] for scene in scenes)
    assert dropped == carried["dropped"].item() > 0
    assert scenes[-1].buffer_s == 1.0
    left_s = carried["backlog"].item() / 60e9
    assert scenes[-1].servers.backlog_s.tolist() == [pytest.approx(left_s)]  # type: ignore[union-attr]
    idle = sum((scene.users.outcome == OUTCOMES.index("idle")).sum() for scene in scenes)
    assert idle + sum(scene.numbers["tasks"] for scene in scenes) == 60


def test_a_scene_tells_tasks_that_stay_on_devices_or_go_past_the_servers() -> None:
    scenario = Scenario.from_config("es3.yaml", "device.yaml")
    for target, kind in ((3, "device"), (4, "cloud")):
        scenes, _, _ = watched(scenario, target)
        assert {OUTCOMES[one] for one in scenes[0].users.outcome} == {kind}
        assert not scenes[0].servers.tasks.any()


def test_a_replay_is_one_page_with_all_numbers_in_it(tmp_path: Path) -> None:
    scenes, _, _ = watched(Scenario(num_users=4))
    write_replay(tmp_path / "there" / "page.html", scenes, "a </script> & b")
    page = (tmp_path / "there" / "page.html").read_text(encoding="utf-8")
    assert "<title>a &lt;/script&gt; &amp; b</title>" in page
    assert re.search(r"https?:|src=|@import", page) is None
    (found,) = re.findall(r'<script id="data" type="application/json">(.*?)</script>', page, re.S)
    data = json.loads(found)
    assert data["title"] == "a </script> & b"
    assert [slot["slot"] for slot in data["slots"]] == [0, 1, 2]
    second = data["slots"][1]
    assert second["users"]["service"] == scenes[1].users.service.tolist()
    assert second["users"]["latency_s"] == pytest.approx(scenes[1].users.latency_s.tolist(), rel=1e-3)
    assert second["cache"] == [[0], [0]]


def test_a_task_that_stays_on_the_device_is_no_line_to_the_cloud() -> None:
    scenario = Scenario(num_users=6, processes={"device": {"battery_j": 1.0, "empty_j": 0.99}})
    scenes, *_ = watched(scenario, target=scenario.num_servers)
    assert (scenes[-1].users.outcome == OUTCOMES.index("dropped")).any()
    picture = Picture()
    picture.image(scenes[-1])
    assert picture._parts[0].lines["dropped"].get_segments() == []


def test_a_scene_tells_the_cost_where_preferences_weigh_more_than_latency() -> None:
    (scene, *_), *_ = watched(Scenario(num_users=6))
    (weighed, *_), *_ = watched(Scenario(num_users=6, preferences={"latency_s": 2.0}))
    assert "cost" not in scene.shown_numbers()
    assert weighed.numbers["cost"] == pytest.approx(2 * scene.numbers["latency"])
    assert weighed.shown_numbers()["cost"] == f"{weighed.numbers['cost']:.2f}"


def test_a_film_has_a_picture_a_slot(tmp_path: Path) -> None:
    scenes, _, _ = watched(Scenario(num_users=4))
    write_gif(tmp_path / "film.gif", scenes, "")
    with Image.open(tmp_path / "film.gif") as film:
        assert (film.n_frames, film.size, film.info["duration"]) == (3, (1280, 720), 250)


@pytest.mark.unchecked
@pytest.mark.parametrize("name", ["watched_policy.Pair", "none+watched_policy.stay", "none+clairvoyant"])
def test_ones_own_policies_are_shown_as_heuristics_are(name: str, in_empty_folder: Path) -> None:
    Path("watched_policy.py").write_text(
        "import torch\n"
        "from hadrl_lightning.play import home_equal\n"
        "def stay(scenario, generator): return home_equal\n"
        "def Pair(scenario, generator): return lambda network: torch.zeros_like(network.cache), home_equal\n"
    )
    words = ["--config", "es2.yaml", "--slots", "1", "--format", "html", "--output", "out"]
    assert main(["show", "--policies", name, *words]) == 0
    page = Path("out/episode.html").read_text(encoding="utf-8")
    (found,) = re.findall(r'<script id="data" type="application/json">(.*?)</script>', page, re.S)
    (slot,) = json.loads(found)["slots"]
    assert slot["cache"] == [[], []]
    sys.modules.pop("watched_policy", None)


@pytest.mark.unchecked
def test_an_infeasible_decision_of_ones_own_policy_gets_a_line_where_it_is_shown(
    in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("greedy_policy.py").write_text(
        "import torch\n"
        "def everything(scenario, generator): return lambda network: torch.ones_like(network.cache)\n"
    )
    assert main(["show", "--policies", "greedy_policy.everything+home_equal", "--config", "tight.yaml"]) == 2
    line = "policy greedy_policy.everything+home_equal: cache must fit into the usable cache"
    assert capsys.readouterr().err.startswith(f"hadrl: error: {line}")
    assert os.listdir() == ["greedy_policy.py"]
    sys.modules.pop("greedy_policy", None)


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--format avi", "format must be among gif, html, mp4, got 'avi'"),
        ("--format mp4", "format mp4 needs the program ffmpeg, got none: install it, or leave mp4 out"),
        ("--policies nobody", "policies must be CACHING.OFFLOADING of {none, .*, got 'nobody'; .*"),
        ("--policies lru+random --ckpt_path es3.ckpt", "policies must stand without --ckpt_path, .*"),
        (
            "--config es3.yaml --config queues.yaml --ckpt_path es3.ckpt",
            "scenario must be of the world that the agent was trained in, but views show backlog_s more .*",
        ),
        ("--slots 0", "slots must be at least 1, got 0"),
        ("--slots 51", "slots must be from 1 to 50, those of an episode, got 51"),
        (
            "--output file/here",
            "output must be a folder that can be written to, got 'file/here': .*file is none",
        ),
        ("--model.seed 1", "settings must be of data, such as --data.scenario.num_users, got --model"),
        ("--data.scenario.num_user 3", "unknown setting data.scenario.num_user; .*"),
    ],
)
def test_what_cannot_be_shown_gets_one_line_and_nothing_is_written(
    words: str,
    message: str,
    in_empty_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PATH", "")
    Path("file").touch()
    assert main(["show", *words.split()]) == 2
    assert re.fullmatch(f"hadrl: error: {message}\n", capsys.readouterr().err)
    assert os.listdir() == ["file"]


@pytest.mark.unchecked
def test_showing_without_matplotlib_names_its_extra(
    in_empty_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["show"]) == 2
    assert capsys.readouterr().err == (
        "hadrl: error: show needs matplotlib: pip install 'hadrl-lightning[plots]'\n"
    )


@pytest.mark.whole
@pytest.mark.unchecked
def test_the_command_shows_an_episode(in_empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "--config", "es3.yaml", "--config", "queues.yaml", "--slots", "7"]) == 0
    folder = "checkpoints/es3-queues/show-popularity+best_known"
    assert capsys.readouterr().out.splitlines() == [f"{folder}/episode.gif", f"{folder}/episode.html"]
    assert (
        main(["show", "--ckpt_path", "es3.ckpt", "--slots", "7", "--format", "html", "--output", "here"]) == 0
    )
    assert os.listdir("here") == ["episode.html"]


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('for last; do true; done; cat > "$last"', None),
        ("echo no codec >&2; exit 1", "format mp4 needs an ffmpeg that makes videos, got no codec"),
    ],
)
def test_an_encoder_gets_one_picture_after_the_other_or_says_why_not(
    body: str, message: str | None, in_empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("bin").mkdir()
    Path("bin/ffmpeg").write_text(f"#!/bin/sh\n{body}\n")
    Path("bin/ffmpeg").chmod(0o755)
    monkeypatch.setenv("PATH", f"bin{os.pathsep}{os.environ['PATH']}")
    words = ["show", "--config", "es2.yaml", "--slots", "2", "--format", "mp4", "--output", "out"]
    assert main(words) == (2 if message else 0)
    if message is None:
        assert Path("out/episode.mp4").stat().st_size == 2 * 1280 * 720 * 3
    else:
        assert not list(Path().rglob("*.mp4"))

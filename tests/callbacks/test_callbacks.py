"""Numbers that break stop the run or are skipped; scores follow from predictions; what the progress bar says."""

import csv
import io
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from rich.console import Console
from torch import Tensor

from hadrl_lightning.agents import DDPG, HADRL, SetWorldModel
from hadrl_lightning.agents.actor_critic import ActorCritic
from hadrl_lightning.callbacks import (
    CEMPlanning,
    EpisodeEvaluation,
    FiniteNumbers,
    TrainingProgress,
    progress,
)
from hadrl_lightning.callbacks.predictions import UNFINISHED, finish_decisions, tables, write_decisions
from hadrl_lightning.callbacks.references import random_policies
from hadrl_lightning.callbacks.resuming import RandomState
from hadrl_lightning.cli import main
from hadrl_lightning.data import EpisodeStream, TransitionDataModule
from hadrl_lightning.errors import HadrlWarning, NonFiniteError, OutputError
from hadrl_lightning.files import load_tensors
from hadrl_lightning.judge import Scoreboard
from hadrl_lightning.planning import CEMPlanner, PlannerSettings
from hadrl_lightning.play import Episode, episode_scores, home_equal, run_episode
from hadrl_lightning.process import quiet_trainer
from hadrl_lightning.scenario import Physics, Scenario
from hadrl_lightning.simulator import (
    Allocation,
    EdgeNetwork,
    Use,
    decode_caching,
    decode_offloading,
    fill_caches,
    rules,
)
from tests.helpers import published_collection, published_planner, torchrun

NAN, INF = float("nan"), float("inf")
SCENARIO = Scenario(num_users=4, decisions_per_episode=2)
NUM_ENVS = 3

Inject = Callable[[pytest.MonkeyPatch], None]


def at_call(number: int, owner: type, method: str, spoil: Callable[[Any], Any]) -> Inject:
    """Spoils the result of the `number`-th call (from 0) of a method."""

    def inject(patch: pytest.MonkeyPatch) -> None:
        inner, calls = getattr(owner, method), iter(range(10**9))

        def spoilt(*args: Any, **kwargs: Any) -> Any:
            result = inner(*args, **kwargs)
            return spoil(result) if next(calls) == number else result

        patch.setattr(owner, method, spoilt)

    return inject


def one(value: float, row: int = 1) -> Callable[[Tensor], Tensor]:
    """Puts a value into one row of a tensor."""

    def spoil(tensor: Tensor) -> Tensor:
        tensor = tensor.clone()
        tensor[row].flatten()[-1:] = value
        if tensor.ndim == 1:
            tensor[row] = value
        return tensor

    return spoil


def infinite_gradient(loss: Any) -> Any:
    """The same loss with a gradient that is infinite."""

    class Explode(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, value: Tensor) -> Tensor:
            return value.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            return gradient * INF

    return loss._replace(total=Explode.apply(loss.total))


LOSS = at_call(1, SetWorldModel, "loss", lambda loss: loss._replace(total=loss.total * NAN))
CRITIC_LOSS = at_call(2, ActorCritic, "critic_loss", lambda loss: loss + INF)
GRADIENT = at_call(1, SetWorldModel, "loss", infinite_gradient)
PLAN = at_call(3, CEMPlanner, "plan", lambda plan: plan._replace(action=one(NAN)(plan.action)))
CANDIDATES = at_call(
    0,
    CEMPlanner,
    "plan",
    lambda plan: plan._replace(free_energy=plan.free_energy._replace(total=one(NAN)(plan.free_energy.total))),
)
CACHING = at_call(3, DDPG, "explore", one(NAN))
# Views: at the start of a frame and after each slot of it; the one after slot 4, the last of its frame, is asked again.
VIEW = at_call(
    5, EdgeNetwork, "offloading_view", lambda view: replace(view, compute_hz=one(INF)(view.compute_hz))
)
LATENCY = at_call(4, EdgeNetwork, "step", lambda service: service._replace(latency=one(NAN)(service.latency)))


SWITCHING = at_call(1, EdgeNetwork, "begin_frame", one(NAN))  # a cost that the slow level pays


def train(
    finite: FiniteNumbers, epochs: int = 2, **settings: Any
) -> tuple[HADRL, TransitionDataModule, Trainer]:
    planner = published_planner(
        plan_horizon=2, n_candidates=8, top_candidates=2, optimisation_iters=1, warm_start=True
    )
    module = HADRL(SCENARIO, slow_level="flat", planner=planner, **settings)
    data = TransitionDataModule(
        SCENARIO,
        num_envs=NUM_ENVS,
        passes_per_epoch=2,
        samples_per_pass=32,
        batch_size=16,
        caching_batch_size=4,
        caching_updates_per_epoch=4,
    )
    trainer = quiet_trainer(
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=[published_collection(seed_decisions=2, decisions_per_epoch=2), finite],
    )
    trainer.fit(module, datamodule=data)
    return module, data, trainer


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("inject", "line"),
    [
        (LOSS, "loss of world_model must be finite, got nan in epoch 0, batch 0"),
        (CRITIC_LOSS, "loss of caching_agent.critic must be finite, got inf in epoch 0, batch 1"),
        (
            GRADIENT,
            r"gradient of world_model\.\S+ must be finite, got (nan|-?inf) \(\d+ of \d+\) in epoch 0, batch 0",
        ),
        (PLAN, "offloading plan must be finite, got nan in network 1, in slot 3 of epoch 1"),
        (
            CANDIDATES,
            "free energy of all candidates must be finite, got nan in network 1, in slot 0 of epoch 1",
        ),
        (CACHING, "caching decision must be finite, got nan in network 1, in slot 5 of epoch 1"),
        (
            VIEW,
            "offloading next_view.compute_hz must be finite, got inf in network 1, in slot 4 of epoch 0",
        ),
        (LATENCY, "offloading reward must be finite, got nan in network 1, in slot 4 of epoch 0"),
    ],
)
def test_stop_names_the_quantity_where_and_when(
    monkeypatch: pytest.MonkeyPatch, inject: Inject, line: str
) -> None:
    inject(monkeypatch)
    with pytest.raises(NonFiniteError, match=line):
        train(FiniteNumbers())


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("inject", "kind", "count"),
    [
        (LOSS, "loss", 1),
        (CRITIC_LOSS, "loss", 1),
        (GRADIENT, "gradient", 1),
        (PLAN, "plan", 1),
        (CANDIDATES, "plan", 1),
        (CACHING, "plan", 1),
        (VIEW, "transition", 1),
        (LATENCY, "transition", 1),
        (SWITCHING, "transition", 1),
    ],
)
def test_skip_goes_on_with_finite_numbers_and_counts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], inject: Inject, kind: str, count: int
) -> None:
    inject(monkeypatch)
    finite = FiniteNumbers("skip")
    module, data, trainer = train(finite)
    assert {name: number for name, number in finite.totals.items() if number} == {kind: count}
    assert capsys.readouterr().out.strip().endswith(f"Skipped because they were not finite: {count} {kind}")
    assert all(bool(value.isfinite().all()) for _, value in module.named_parameters())
    stored = (data.offloading_buffer.contents(), data.caching_buffer.contents())
    assert all(bool(value.isfinite().all()) for rows in stored for _, value in rows.tensors())
    slots, decisions = 2 * 2 * SCENARIO.slots_per_decision * NUM_ENVS, 2 * 2 * NUM_ENVS
    broken = kind == "transition"
    assert len(data.offloading_buffer) == slots - (broken and inject is not SWITCHING)
    assert len(data.caching_buffer) == decisions - (inject is SWITCHING)
    assert trainer.callback_metrics[f"nonfinite/{kind}"] == (
        count if kind == "plan" else 0
    )  # of the last epoch
    logged = {name: value for name, value in trainer.callback_metrics.items() if name != "step"}
    assert all(bool(value.isfinite()) for value in logged.values()), logged


@pytest.mark.unchecked
def test_an_update_that_is_skipped_leaves_weights_and_moments_as_they_were(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before: dict[str, Any] = {}
    after: dict[str, Any] = {}

    def copied(state: Any) -> Any:
        if isinstance(state, dict):
            return {key: copied(value) for key, value in state.items()}
        return state.clone() if isinstance(state, Tensor) else state

    class Watch(FiniteNumbers):
        def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
            if after == {} and before:
                after.update(look(pl_module))
            skipped = sum(self.counts.values())
            state = look(pl_module)
            super().on_after_backward(trainer, pl_module)
            if sum(self.counts.values()) > skipped:
                before.update(state)

    def look(module: HADRL) -> dict[str, Any]:
        optimizers = module._optimizers()
        moments = {str(key): copied(value) for key, value in enumerate(optimizers[0].state.values())}
        return {"weights": copied(dict(module.world_model.named_parameters())), "moments": moments}

    GRADIENT(monkeypatch)
    train(Watch("skip"), epochs=1)
    assert before["moments"]
    for part in ("weights", "moments"):
        flat = [torch.utils._pytree.tree_leaves(state[part]) for state in (before, after)]
        assert all(torch.equal(first, second) for first, second in zip(*flat, strict=True))


@pytest.mark.unchecked
def test_a_broken_plan_becomes_the_middle_of_the_action_space(monkeypatch: pytest.MonkeyPatch) -> None:
    PLAN(monkeypatch)
    _, data, _ = train(FiniteNumbers("skip"))
    planned = data.offloading_buffer.contents().action[2 * SCENARIO.slots_per_decision * NUM_ENVS :]
    noise = 0.9995 ** (2 * SCENARIO.slots_per_decision + 3)
    assert planned[3 * NUM_ENVS + 1].abs().mean() < noise  # only exploration
    assert bool(planned.isfinite().all())


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("strategy", "stored"),
    [
        pytest.param(
            "ensemble_parallel", [(99, 19), (99, 19)], marks=pytest.mark.whole
        ),  # the ranks remember the same
        pytest.param("ddp_find_unused_parameters_true", [(100, 20), (99, 19)], marks=pytest.mark.whole),
    ],
)
def test_ranks_skip_together_what_breaks_on_one_of_them(strategy: str, stored: list[tuple[int, int]]) -> None:
    counts = {"loss": 2, "gradient": 0, "plan": 1, "transition": 2}
    assert torchrun(2, "ranks.py", "break", strategy).splitlines()[-1] == f"{counts} {stored}"


@pytest.mark.unchecked
def test_a_broken_parameter_never_enters_a_checkpoint_whatever_was_chosen(
    in_empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, _, trainer = train(FiniteNumbers("skip"), epochs=1)
    trainer.save_checkpoint("good.ckpt")
    with torch.no_grad():
        next(module.caching_agent.actor.parameters()).view(-1)[0] = INF
    name = next(name for name, value in module.named_parameters() if not bool(value.isfinite().all()))
    with pytest.raises(NonFiniteError, match=f"parameter {name} must be finite, after epoch 1"):
        trainer.save_checkpoint("bad.ckpt")
    assert not Path("bad.ckpt").exists()


# --- on the command line

WORDS = [
    *("fit", "--config", "es2.yaml", "--config", "quick.yaml"),
    "--data.scenario.decisions_per_episode=2",
    "--data.num_envs=2",
    "--data.passes_per_epoch=2",
    "--data.samples_per_pass=32",
    "--data.caching_updates_per_epoch=0",
    "--data.test_episodes=1",
    "--planning.seed_decisions=1",
    "--planning.decisions_per_epoch=1",
    "--trainer.limit_val_batches=0",
    "--trainer.max_epochs=2",
    "--evaluation.references=false",
]


@pytest.mark.unchecked
def test_the_command_line_stops_with_the_last_good_checkpoint_and_status_3(
    in_empty_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    at_call(0, CEMPlanner, "plan", lambda plan: plan._replace(action=one(NAN)(plan.action)))(monkeypatch)
    assert main(WORDS) == 3
    (line,) = capsys.readouterr().err.strip().splitlines()
    path = "checkpoints/es2-quick/version_0/last.ckpt"
    assert line.startswith(
        "hadrl: error: offloading plan must be finite, got nan in network 1, in slot 0 of epoch 1"
    )
    assert line.endswith(f"; the last good checkpoint is {path} (after 1 epoch)")
    assert load_tensors(path)["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"] == 1


@pytest.mark.unchecked
def test_the_command_line_skips_and_logs(
    in_empty_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    at_call(0, CEMPlanner, "plan", lambda plan: plan._replace(action=one(NAN)(plan.action)))(monkeypatch)
    assert main([*WORDS, "--nonfinite.action=skip"]) == 0
    assert "Skipped because they were not finite: 1 plan" in capsys.readouterr().out
    with Path("checkpoints/es2-quick/version_0/metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["nonfinite/plan"]]
    assert [row["nonfinite/plan"] for row in rows] == ["0.0", "1.0"]


@pytest.mark.unchecked
def test_a_broken_plan_stops_a_test_in_one_line_too(
    in_empty_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    at_call(0, CEMPlanner, "plan", lambda plan: plan._replace(action=one(NAN, 0)(plan.action)))(monkeypatch)
    assert main(["test", *WORDS[1:], "--nonfinite.action=skip"]) == 3
    *before, line = capsys.readouterr().err.splitlines()
    assert all("the agent is untrained" in one for one in before)
    assert line == "hadrl: error: offloading plan must be finite, got nan in network 0"


@pytest.mark.unchecked
def test_an_unknown_action_is_refused_in_one_line(
    in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*WORDS, "--nonfinite.action=go"]) == 2
    assert capsys.readouterr().err == "hadrl: error: nonfinite.action must be stop or skip, got go\n"


UNEVEN = Scenario(
    num_servers=4,
    num_users=6,
    compute_hz=(60e9, 20e9, 5e9, 10e9),
    bandwidth_hz=(200e6, 100e6, 50e6, 20e6),
    cache_bytes=40 * 1024**3,
    decisions_per_episode=3,
    slots_per_decision=2,
)


def networks(physics: Physics, num_envs: int = 2) -> EdgeNetwork:
    return EdgeNetwork(UNEVEN, physics, num_envs, generator=torch.Generator().manual_seed(2))


def played(physics: Physics, num_envs: int = 2) -> Episode:
    """An episode of random decisions."""
    generator = torch.Generator().manual_seed(1)

    def draw(size: int) -> torch.Tensor:
        return 2 * torch.rand(num_envs, size, generator=generator) - 1

    def caching(network: EdgeNetwork) -> torch.Tensor:
        return decode_caching(UNEVEN, draw(UNEVEN.caching_action_size), network.cache, physics)

    def offloading(network: EdgeNetwork) -> Allocation:
        return decode_offloading(UNEVEN, draw(UNEVEN.offloading_action_size), physics)

    return run_episode(networks(physics, num_envs), caching, offloading)


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("physics", ["strict", "published"])
def test_every_row_can_be_computed_again_from_the_files(physics: Physics, tmp_path: Path) -> None:
    episode = played(physics)
    write_decisions(tmp_path, episode, networks(physics))
    scenario = Scenario.from_config(str(tmp_path / "scenario.yaml"))
    assert scenario == UNEVEN
    held = {
        (row["episode"], row["decision"], row["server"]): set(map(int, row["services"].split()))
        for row in read(tmp_path / "caches.csv")
    }
    rows = read(tmp_path / "decisions.csv")
    assert len(rows) == 2 * 6 * 6
    power = 10 ** (scenario.transmit_power_dbm / 10) / 1000 if physics == "strict" else 20
    for row in rows:
        service, server = int(row["service"]), int(row["server"])
        bits, cycles = scenario.input_bits[service], scenario.cycles[service]
        bandwidth = float(row["bandwidth_share"]) * scenario.bandwidth_per_server_hz[server]
        compute = float(row["compute_share"]) * scenario.compute_per_server_hz[server]
        assert float(row["bandwidth_hz"]) == pytest.approx(bandwidth, rel=1e-6)
        assert float(row["compute_hz"]) == pytest.approx(compute, rel=1e-6)
        hit = service in held[row["episode"], row["decision"], row["server"]]
        assert row["hit"] == str(int(hit))
        transmission = bits / (bandwidth * float(row["spectral_efficiency"]))
        cloud = (
            bits / scenario.cloud_rate_bit_per_s + cycles / scenario.cloud_compute_hz + scenario.cloud_delay_s
        )
        latency = transmission + (cycles / compute if hit else cloud)
        assert float(row["latency_s"]) == pytest.approx(latency, rel=1e-5)
        assert float(row[rules(physics).energy_column]) == pytest.approx(power * transmission, rel=1e-5)
        assert float(row["deadline_s"]) == pytest.approx(scenario.deadlines_s[service], rel=1e-6)
        assert row["on_time"] == str(int(float(row["latency_s"]) <= float(row["deadline_s"])))
        home = int(row["home"])
        assert home == networks(physics).homes[0, int(row["user"])]
        x, y = scenario.servers_m[scenario.cells[int(row["user"])]]
        assert -100 <= float(row["x_m"]) - x < 100
        assert -100 <= float(row["y_m"]) - y < 100


def test_rows_say_what_truly_held_in_their_slot(tmp_path: Path) -> None:
    fast = {"least_speed_m_per_s": 30.0, "largest_speed_m_per_s": 60.0, "pause_s": 0.0}
    processes = {
        "slow_servers": {"slow_part": 0.4, "slows_bandwidth": True},
        "moving_users": fast,
        "handover": {"handover_s": 0.0},
        "queues": {"buffer_s": 1e5},
    }
    scenario = replace(UNEVEN, processes=processes, cloud_delay_s=0.0)
    network = EdgeNetwork(scenario, num_envs=2, generator=torch.Generator().manual_seed(3))
    full = fill_caches(scenario, torch.ones(2, scenario.num_servers, scenario.num_services).double())
    episode = run_episode(network, lambda network: full, home_equal)
    write_decisions(tmp_path, episode, network)
    rows = read(tmp_path / "decisions.csv")
    for column, values in {"handover": episode.handover, "dropped": episode.dropped}.items():
        told = values.transpose(0, 1)[episode.asked.transpose(0, 1)].int().tolist()  # by episode, slot, user
        assert [int(row[column]) for row in rows] == told
    assert episode.handover.any()
    compute: set[int] = set()
    homes: dict[tuple[str, str], set[str]] = {}
    waited = 0
    for row in rows:
        homes.setdefault((row["episode"], row["user"]), set()).add(row["home"])
        bits, cycles, hz = (float(row[name]) for name in ("input_bits", "cycles", "compute_hz"))
        sending = bits / (float(row["bandwidth_hz"]) * float(row["spectral_efficiency"]))
        if row["hit"] == "0":
            rest = bits / scenario.cloud_rate_bit_per_s + cycles / scenario.cloud_compute_hz
            assert float(row["latency_s"]) == pytest.approx(sending + rest, rel=1e-5)
            continue
        compute.add(round(hz / float(row["compute_share"]) / 1e6))
        latency = sending + cycles / hz
        assert float(row["latency_s"]) >= latency * (1 - 1e-5)
        waited += float(row["latency_s"]) > latency * (1 + 1e-5)
        assert row["home"] == row["server"]
    assert max(map(len, homes.values())) > 1
    assert len(compute) > len(set(scenario.compute_per_server_hz))
    assert 0 < waited < len(rows)


def test_a_distance_and_a_fading_make_the_link(tmp_path: Path) -> None:
    write_decisions(tmp_path, played("strict"), networks("strict"))
    squares = []
    for row in read(tmp_path / "decisions.csv"):
        x, y = UNEVEN.servers_m[int(row["home"])]
        distance = math.hypot(float(row["x_m"]) - x, float(row["y_m"]) - y) or 30
        snr_db = 20 + 114 - 128.1 - 37.6 * math.log10(distance / 1000)
        snr = 2 ** float(row["spectral_efficiency"]) - 1
        squares.append((snr / 10 ** (snr_db / 10)) ** 2)
    assert sum(squares) / len(squares) == pytest.approx(2, rel=0.3)  # E[f^2] of Rayleigh(1)


def test_switching_stands_once_a_decision_and_follows_from_the_caches(tmp_path: Path) -> None:
    episode = played("strict")
    write_decisions(tmp_path, episode, networks("strict"))
    caches = read(tmp_path / "caches.csv")
    switching = read(tmp_path / "switching.csv")
    assert len(caches) == 2 * 3 * 4
    assert len(switching) == 2 * 3
    for row in switching:
        number = int(row["decision"])
        new = 0.0
        for server in range(4):
            now, before = (
                {
                    service
                    for one in caches
                    if (one["episode"], one["decision"], one["server"])
                    == (row["episode"], str(d), str(server))
                    for service in one["services"].split()
                }
                for d in (number, number - 1)
            )
            new += sum(UNEVEN.storage_bits[int(service)] / 8 for service in now - before)
        assert float(row["switching_s"]) == pytest.approx(new / UNEVEN.backhaul_bytes_per_s, rel=1e-5)


def test_the_scores_of_the_episodes_follow_from_the_rows(tmp_path: Path) -> None:
    episode = played("strict")
    write_decisions(tmp_path, episode, networks("strict"))
    scores, slots = episode_scores(episode), UNEVEN.slots_per_episode
    rows = read(tmp_path / "decisions.csv")
    for number in (0, 1):
        own = [row for row in rows if row["episode"] == str(number)]
        latency = sum(float(row["latency_s"]) for row in own) / slots
        assert latency == pytest.approx(float(scores.latency[number]), rel=1e-5)
        assert sum(float(row["energy_j"]) for row in own) / slots == pytest.approx(
            float(scores.energy[number])
        )
        assert sum(row["hit"] == "1" for row in own) / len(own) == pytest.approx(
            float(scores.hit_ratio[number])
        )


@pytest.mark.parametrize(("physics", "energy"), [("strict", "energy_j"), ("published", "energy_dbm_s")])
def test_a_second_batch_is_appended_and_every_column_explained(
    tmp_path: Path, physics: str, energy: str
) -> None:
    episode = played(physics)
    files = write_decisions(tmp_path, episode, networks(physics))
    assert sorted(file.name for file in files) == sorted(file.name for file in tmp_path.iterdir())
    write_decisions(tmp_path, episode, networks(physics), first_episode=2)
    columns = tables(physics)
    assert list(columns["decisions.csv"])[-1] == energy
    for name in ("decisions.csv", "caches.csv", "switching.csv"):
        rows = read(tmp_path / name)
        assert {row["episode"] for row in rows} == {"0", "1", "2", "3"}
        assert list(rows[0]) == list(columns[name])
    explained = (tmp_path / "columns.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+)` \| \S", explained, re.MULTILINE)) == {
        column for names in columns.values() for column in names
    }
    assert f"`{energy}` = transmit power in {'W' if physics == 'strict' else 'dBm'} ×" in explained


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"file/below/decisions\.csv can't be written: Not a directory"):
        write_decisions(tmp_path / "file/below", played("strict"), networks("strict"))


# --- what the progress bar says at every moment ----------------------------------------------------------------------


SHORT = Scenario(num_users=2, decisions_per_episode=2, slots_per_decision=1)


class Watch(Callback):
    """Notes what the bar shows at every hook that does something."""

    def __init__(self, bar: TrainingProgress) -> None:
        self.bar = bar
        self.seen: list[str] = []
        self.figures: set[str] = set()

    def look(self, trainer: Trainer, *_: Any) -> None:
        look = self.bar.look(trainer)
        if not self.seen or self.seen[-1] != look.doing:
            self.seen.append(look.doing)
        self.figures.add(re.sub(r"\d+(\.\d+)?", "N", look.figures))

    on_frame_end = on_train_batch_end = on_validation_batch_start = on_validation_batch_end = look
    on_test_batch_start = on_predict_batch_start = on_train_epoch_end = look


def watched(max_epochs: int = 2) -> tuple[Trainer, Watch, HADRL, TransitionDataModule]:
    planner = PlannerSettings(n_candidates=4, top_candidates=2, optimisation_iters=1)
    module = HADRL(SHORT, slow_level="flat", planner=planner)
    data = TransitionDataModule(
        SHORT, num_envs=1, passes_per_epoch=2, validation_episodes=3, test_episodes=3, parallel_episodes=2
    )
    bar = TrainingProgress()
    watch = Watch(bar)
    callbacks = [CEMPlanning(seed_decisions=1, decisions_per_epoch=2), EpisodeEvaluation(), bar, watch]
    wanted: dict[str, Any] = {
        "enable_progress_bar": True,
        "limit_val_batches": 1.0,
        "num_sanity_val_steps": 0,
    }
    trainer = quiet_trainer(max_epochs=max_epochs, accelerator="cpu", callbacks=callbacks, **wanted)
    return trainer, watch, module, data


def test_a_training_says_in_which_epoch_it_does_what() -> None:
    trainer, watch, module, data = watched()
    trainer.fit(module, datamodule=data)
    epoch = [
        "learning 1/2 steps",
        "learning 2/2 steps",
        "validating 0/3 episodes, slot 0/2",
        "validating 2/3 episodes",
        "validating 2/3 episodes, slot 0/2",
        "validating 3/3 episodes",
        "learning 2/2 steps",
    ]
    first, second = ([f"epoch {number}/2, {one}" for one in epoch] for number in (1, 2))
    collected = ["epoch 2/2, collecting 1/2 decisions", "epoch 2/2, collecting 2/2 decisions"]
    assert watch.seen == ["epoch 1/2, collecting 1/1 decisions", *first, *collected, *second]
    collecting, speed = "Σ latency N s, hits N (collecting)", "N slots/s (collecting)"
    validation = "Σ latency N s, hits N (validation)"
    assert watch.figures == {
        "",
        f"{collecting}, {speed}",
        f"{collecting}, {validation}, {speed}",
    }


def test_an_agent_that_was_only_tested_is_saved_by_its_trainer(tmp_path: Path) -> None:
    trainer, _, module, data = watched()
    trainer.test(module, datamodule=data, verbose=False)
    trainer.save_checkpoint(tmp_path / "tested.ckpt")
    stored = torch.load(tmp_path / "tested.ckpt", weights_only=True)
    assert "CEMPlanning" not in stored["callbacks"]
    assert stored["hadrl"]["training"] == {}
    HADRL.from_checkpoint(tmp_path / "tested.ckpt")


def test_a_test_says_which_episodes_are_played_and_which_reference_plays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trainer, watch, module, data = watched()
    add = Scoreboard.add

    def added(self: Scoreboard, *episodes: Any) -> None:
        watch.look(trainer)
        add(self, *episodes)

    monkeypatch.setattr(Scoreboard, "add", added)
    with pytest.warns(HadrlWarning, match="the agent is untrained"):
        trainer.test(module, datamodule=data, verbose=False)
    references = [
        f"reference: {name}"
        for name in (
            "best known, same caches",
            "least known",
            "home, equal, same caches",
            "random, both levels",
        )
    ]
    assert watch.seen == [
        "testing 0/3 episodes, slot 0/2",
        *references,
        "testing 0/3 episodes, slot 2/2",
        "testing 2/3 episodes, slot 0/2",
        *references,
        "testing 2/3 episodes, slot 2/2",
    ]


def test_the_bar_is_drawn_on_a_terminal_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer, _, module, data = watched(max_epochs=1)
    trainer.fit(module, datamodule=data)
    assert capsys.readouterr().out == ""
    file = io.StringIO()
    monkeypatch.setattr(progress, "make_console", lambda: Console(file=file, force_terminal=True, width=80))
    trainer, _, module, data = watched(max_epochs=1)
    trainer.fit(module, datamodule=data)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.getvalue())
    assert "epoch 1/1, learning 2/2 steps" in text  # drawn for the last time as it ends
    assert "(validation)" in text
    assert all(len(line) <= 80 for line in re.split(r"[\r\n]+", text))


def test_networks_of_several_sizes_are_written_each_with_its_own_constants(tmp_path: Path) -> None:
    scenario = Scenario(
        num_servers={"low": 1, "high": 4},  # type: ignore[arg-type]
        num_users={"low": 2, "high": 9},  # type: ignore[arg-type]
        compute_hz={"low": 5e9, "high": 8e10},  # type: ignore[arg-type]
        decisions_per_episode=1,
        slots_per_decision=2,
    )
    users = []
    for network in EpisodeStream(scenario, "strict", 5, 2, 7, Use.TEST_NETWORKS):
        episode = run_episode(network, *random_policies("strict"))
        write_decisions(tmp_path, episode, network, first_episode=len(users))
        users += [network.scenario.num_users] * network.num_envs
    assert len(set(users)) == 3
    assert Scenario.from_config(tmp_path / "scenario.yaml") == scenario
    rows = list(csv.DictReader((tmp_path / "decisions.csv").open()))
    for number, count in enumerate(users):
        its = Scenario.from_config(tmp_path / f"scenario-{number}.yaml")
        own = [row for row in rows if row["episode"] == str(number)]
        assert (its.num_users, len(own)) == (count, 2 * count)
        for row in own:
            share = float(row["compute_hz"]) / its.compute_per_server_hz[int(row["server"])]
            assert share == pytest.approx(float(row["compute_share"]), rel=1e-5)


def test_decisions_of_all_batches_take_the_place_of_earlier_ones_at_once(tmp_path: Path) -> None:
    (tmp_path / "decisions.csv").write_text("those before")
    episode, unfinished = played("strict"), tmp_path / UNFINISHED
    for first in (0, len(episode.switching[0])):
        write_decisions(unfinished, episode, networks("strict"), first_episode=first)
        assert (tmp_path / "decisions.csv").read_text() == "those before"
    files = finish_decisions(unfinished, tmp_path)
    assert all(file.is_file() for file in files)
    assert len(read(tmp_path / "decisions.csv")) == 2 * 2 * 6 * 6
    assert not unfinished.exists()


def test_each_rank_goes_on_with_the_global_draws_that_it_had() -> None:
    states = []
    for _ in range(2):
        states += RandomState().state_dict()["ranks"]
        torch.rand(1)
    for kept in ({"ranks": states}, states[1]):  # once there was that of rank 0 alone
        callback, drawn = RandomState(), []
        for rank in (0, 1):
            callback.load_state_dict(kept)
            callback.on_train_start(SimpleNamespace(global_rank=rank), None)  # type: ignore[arg-type]
            drawn.append(float(torch.rand(1)))
        torch.set_rng_state(states[1]["torch"])
        assert drawn[1 if "ranks" in kept else 0] == float(torch.rand(1))

"""The trained agents that ship with the package: what their README says of them, and using them by name."""

import hashlib
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hadrl_lightning.agent_files import find_agent, shipped_agents
from hadrl_lightning.agents import HADRL
from hadrl_lightning.benchmark import PlanSettings, compute, label_of, make_plan
from hadrl_lightning.cli import main
from hadrl_lightning.errors import HadrlError
from hadrl_lightning.scenario import Scenario
from hadrl_lightning.simulator import EdgeNetwork, episode_scores

SCENARIOS = ["es2", "es3", "es4", "es5"]
SMALL = ["--data.test_episodes", "1", "--evaluation.references", "false"]


def test_there_is_an_agent_for_every_scenario() -> None:
    assert shipped_agents() == tuple(f"{name}.ckpt" for name in SCENARIOS)


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_readme_knows_size_and_hash_of_every_agent(root: Path, name: str) -> None:
    contents = (root / "checkpoints" / f"{name}.ckpt").read_bytes()
    (row,) = re.findall(rf"^\| {name}\.ckpt .*$", (root / "checkpoints/README.md").read_text(), re.M)
    assert row.endswith(f"| {len(contents)} | `{hashlib.sha256(contents).hexdigest()}` |")
    assert len(contents) < 5e6


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_shipped_agent_is_weights_alone_for_the_scenario_of_its_name(name: str) -> None:
    contents = torch.load(find_agent(f"{name}.ckpt"), weights_only=True)
    assert set(contents) == {"state_dict", "hyper_parameters", "pytorch-lightning_version", "hadrl"}
    agent = HADRL.from_checkpoint(f"{name}.ckpt")
    assert agent.scenario == Scenario.from_config(f"{name}.yaml")
    assert agent.physics == "strict"


def test_weights_that_are_saved_make_the_same_agent(tmp_path: Path) -> None:
    agent = HADRL.from_checkpoint("es2.ckpt")
    agent.save_weights(tmp_path / "mine.ckpt")
    again = HADRL.from_checkpoint(tmp_path / "mine.ckpt")
    assert again.settings == agent.settings
    for name, value in agent.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_a_name_that_is_no_file_and_no_agent_is_refused_with_the_names_that_are(
    in_empty_folder: Path,
) -> None:
    with pytest.raises(HadrlError, match=r"es2.ckpt, es3.ckpt.*got 'es9.ckpt' \(no such file\)"):
        find_agent("es9.ckpt")
    Path("es2.ckpt").write_bytes(b"")
    assert find_agent("es2.ckpt") == Path("es2.ckpt")  # a path goes before a name


def test_a_shipped_agent_is_tested_by_its_name_from_any_folder(
    in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["test", "--ckpt_path", "es2.ckpt", *SMALL]) == 0
    assert "HADRL" in capsys.readouterr().out
    assert Path("checkpoints/es2/shipped/test-es2.csv").is_file()


def test_training_does_not_go_on_from_weights_alone(
    in_empty_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", "--config", "es2.yaml", "--ckpt_path", "es2.ckpt"]) == 2
    assert "which holds weights alone" in capfd.readouterr().err
    assert list(in_empty_folder.iterdir()) == []


def plan(policy: str, **settings: object) -> PlanSettings:
    overrides = {"data": {"scenario": {"num_users": 4, "decisions_per_episode": 1}}}
    return PlanSettings(policies=(policy,), overrides=overrides, episodes=2, **settings)  # type: ignore[arg-type]


def test_a_benchmark_judges_a_trained_agent_in_a_scenario_of_another_size() -> None:
    entries = [entry for entry in make_plan(plan("es2.ckpt")).entries if entry.policy == "es2.ckpt"]
    assert len({entry.cell.key for entry in entries}) == 1  # it draws nothing: one cell for all seeds
    result = compute(entries[0].cell)
    assert result.scores["hit_ratio"] == 1.0
    assert 1.0 <= result.scores["latency"] / result.scores["own_best_known"] < 1.15
    assert label_of("agents/es2-{seed}.ckpt") == "HADRL, trained as es2"


def test_a_benchmark_takes_an_agent_for_every_seed(tmp_path: Path) -> None:
    for seed in (0, 1):
        HADRL.from_checkpoint(f"es{seed + 2}.ckpt").save_weights(tmp_path / f"a-{seed}.ckpt")
    made = make_plan(plan(f"{tmp_path}/a-{{seed}}.ckpt", seeds=(0, 1)))
    files = [entry.cell.settings["agent"]["file"] for entry in made.entries if "agent" in entry.cell.settings]
    assert files == [f"{tmp_path}/a-0.ckpt", f"{tmp_path}/a-1.ckpt"]
    with pytest.raises(HadrlError, match=r"a-2\.ckpt"):
        make_plan(plan(f"{tmp_path}/a-{{seed}}.ckpt", seeds=(2,)))


def test_a_benchmark_refuses_an_agent_of_other_physics() -> None:
    overrides = {"data": {"physics": "published"}}
    made = make_plan(PlanSettings(policies=("es2.ckpt",), overrides=overrides, episodes=1))
    with pytest.raises(HadrlError, match="physics must be that of the agent, strict, got published"):
        compute(made.entries[0].cell)


@pytest.mark.parametrize(("num_services", "hits"), [(5, 1.0), (20, 0.78)])
def test_an_agent_plays_with_another_number_of_services(num_services: int, hits: float) -> None:
    agent = HADRL.from_checkpoint("es2.ckpt")
    other = replace(agent.scenario, num_services=num_services, popularity="zipf", decisions_per_episode=4)
    network = EdgeNetwork(other, num_envs=4, generator=torch.Generator().manual_seed(3))
    scores = episode_scores(agent.for_scenario(other).play(network))
    assert float(scores.hit_ratio.mean()) == pytest.approx(hits, abs=0.03)


def test_the_command_line_tests_an_agent_with_another_number_of_services(
    in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    others = ["--data.scenario.num_services", "12", "--data.scenario.popularity", "zipf"]
    assert main(["test", "--config", "es2.yaml", "--ckpt_path", "es2.ckpt", *others, *SMALL]) == 0
    assert "hit ratio" in capsys.readouterr().out


class Subclass(HADRL):
    """An agent of a user's own."""


def test_a_subclass_stays_one_in_another_scenario() -> None:
    agent = Subclass.from_checkpoint("es2.ckpt")
    assert type(agent) is Subclass
    other = agent.for_scenario(replace(agent.scenario, num_users=3))
    assert type(other) is Subclass
    assert other.scenario.num_users == 3

"""What the repository says of itself is so: the README's commands and programs, docs/model.md, what is installed, and
the trained agents that ship with the package.
"""

import doctest
import hashlib
import inspect
import math
import random
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import warnings
from collections.abc import Callable
from dataclasses import fields, replace
from itertools import pairwise
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger

from hadrl_lightning import Scenario, __version__, decode_offloading
from hadrl_lightning.agent_files import (
    RECORD,
    SHIPPED_NAMES,
    find_agent,
    is_shipped,
    read_agent,
    recorded,
    stored_file,
)
from hadrl_lightning.agents import HADRL, WorldModelSettings
from hadrl_lightning.agents.seen import SeenRanges
from hadrl_lightning.benchmark import PlanSettings, compute, label_of, make_plan
from hadrl_lightning.benchmark.training import resolved
from hadrl_lightning.callbacks import CEMPlanning, FiniteNumbers
from hadrl_lightning.cli import main
from hadrl_lightning.cli.app import HadrlCLI
from hadrl_lightning.cli.checkpoints import AtomicCheckpointIO
from hadrl_lightning.config_files import load_config
from hadrl_lightning.data import TransitionDataModule
from hadrl_lightning.errors import HadrlError, HadrlWarning
from hadrl_lightning.network_files import SETTINGS
from hadrl_lightning.play import episode_scores
from hadrl_lightning.process import quiet_trainer
from hadrl_lightning.scenario import GIB, Physics
from hadrl_lightning.simulator import EdgeNetwork
from tests.helpers import published_planner

pytestmark = pytest.mark.unchecked

README = (Path(__file__).parents[2] / "README.md").read_text()
SHRUNK = [
    "--data.scenario.decisions_per_episode=2",
    "--data.num_envs=2",
    "--data.passes_per_epoch=2",
    "--data.samples_per_pass=64",
    "--data.validation_episodes=1",
    "--data.test_episodes=2",
    "--planning.seed_decisions=2",
    "--planning.decisions_per_epoch=2",
    "--trainer.check_val_every_n_epoch=1",
]
"""Flags that make any training end in seconds."""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.M | re.S)


def commands() -> list[str]:
    lines = [line for block in blocks("bash") for line in block.splitlines() if line.strip()]
    return [part.strip() for line in lines for part in line.split("&&")]


def hadrl_commands() -> list[str]:
    in_tables = re.findall(r"^\| `(hadrl [^`]+)` \|", README, re.M)
    return list(dict.fromkeys([*(one for one in commands() if one.startswith("hadrl ")), *in_tables]))


def shrunk(command: str) -> list[str]:
    words = shlex.split(command)[1:]
    if words[0] == "fit":
        epochs = 2 if "--ckpt_path" in words else 1
        return [*words, *SHRUNK, f"--trainer.max_epochs={epochs}"]
    if words[0] in ("test", "validate"):
        episodes = [flag for flag in SHRUNK if "_episodes" in flag]
        # without settings files the scenario is that of the run
        return [*words, *episodes, *([SHRUNK[0]] if "--config" in words else [])]
    return words


def test_the_first_two_commands_are_the_promised_ones() -> None:
    first, second = blocks("bash")[:2]
    assert first.strip() == "pip install -c constraints.txt -e . && hadrl fit --config es2.yaml"
    assert second.strip() == 'pip install -c constraints.txt -e ".[dev]" && pytest'


def runnable() -> list[str]:
    """Commands that are cheap once they are shrunk."""
    return [one for one in hadrl_commands() if "published" not in one and "--help" not in one]


def needs_a_run(command: str) -> bool:
    return re.search(r"--ckpt_path (last|best|PATH)", command) is not None


def run(command: str) -> None:
    words = shrunk(command.replace("--ckpt_path PATH", "--ckpt_path last"))
    if "--trainer.devices" in words:
        program = [sys.executable, "-m", "hadrl_lightning.cli", *words]
        done = subprocess.run(program, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    elif words[0] in ("fit", "test", "validate", "predict"):
        assert main(words) == 0, command


MAIN = "hadrl fit --config es2.yaml"


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(one, marks=[] if one == MAIN else pytest.mark.whole)
        for one in runnable()
        if not needs_a_run(one)
    ],
)
def test_a_command_of_the_readme_runs(in_empty_folder: Path, command: str) -> None:
    written_examples()
    run(command)


@pytest.mark.whole
def test_the_commands_that_go_on_from_a_run_do_so(in_empty_folder: Path) -> None:
    following = [one for one in runnable() if needs_a_run(one)]
    assert len(following) >= 4
    run("hadrl fit --config es2.yaml")
    for command in following:
        run(command)
    assert list(Path().rglob("decisions.csv"))


def test_the_help_explains_every_setting_with_its_unit(
    in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["fit", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for words in ("Uplink bandwidth of a server, in Hz", "Members", "Cache of a server in bytes"):
        assert words.lower() in text.lower()


@pytest.mark.parametrize("program", blocks("python"))
def test_the_programs_of_the_readme_run(in_empty_folder: Path, program: str) -> None:
    for number in ("max_epochs", "test_episodes", "num_envs"):
        program = re.sub(rf"{number}=\d+", f"{number}=1", program)
    program = program.replace(
        "test_episodes=1)", "test_episodes=1, num_envs=2, passes_per_epoch=1, samples_per_pass=32)"
    ).replace("CEMPlanning()", "CEMPlanning(seed_decisions=2)")
    exec(compile(program, "README.md", "exec"), {"__name__": "readme"})


@pytest.mark.whole
def test_the_example_of_a_scenario_of_ones_own_is_valid(in_empty_folder: Path) -> None:
    for name in written_examples():
        words = ["fit", "--config", "es2.yaml", "--config", name, *SHRUNK, "--trainer.max_epochs=1"]
        assert main(words) == 0


def written_examples() -> list[str]:
    """The README's settings files, each written under the name in its first line."""
    names = []
    for example in blocks("yaml"):
        names.append(example.split()[1].rstrip(":"))
        Path(names[-1]).write_text(example)
    assert names == ["campus.yaml", "three.yaml"]
    return names


# --- docs/model.md -----


@pytest.fixture(scope="module")
def page(root: Path) -> str:
    return (root / "docs/model.md").read_text(encoding="utf-8")


def test_the_examples_of_the_page_run(root: Path) -> None:
    found = doctest.testfile(str(root / "docs/model.md"), module_relative=False, encoding="utf-8")
    assert found.attempted > 5
    assert found.failed == 0


def test_the_figures_by_hand_are_those_of_the_equations(page: str) -> None:
    bits, cycles = 8 * 700 * 1024, 450 * 8 * 700 * 1024 / 10
    snr = 10 ** ((20 + 114 - (128.1 + 37.6 * math.log10(0.1))) / 10)
    efficiency = math.log2(1 + snr)
    sending = bits / 200e6 / efficiency
    hit, miss = sending + cycles / 60e9, sending + bits / (4 * 1024**2) + cycles / 4e9 + 0.1
    for figure in (
        f"= {snr:.0f}$",
        rf"\eta = {efficiency:.2f}$ bit/s/Hz",
        f"{bits / 1e6:.2f} Mbit",
        f"t = {sending * 1e3:.2f}$ ms",
        f"{cycles / 1e6:.0f} million cycles {cycles / 60e9 * 1e3:.2f} ms",
        f"60 GHz: {hit * 1e3:.2f} ms",
        f"{sending * 1e3:.2f} ms + {bits / 4 / 1024**2:.3f} s + {cycles / 4e9:.4f} s + 0.1 s = {miss:.3f} s",
        f"{0.1 * sending * 1e3:.3f} mJ",
    ):
        assert figure in page, figure


def test_every_setting_that_the_page_names_is_one(page: str) -> None:
    names = {field.name for field in fields(Scenario)}
    for name in set(re.findall(r"`(\w+_m)`", page)):
        assert name in names
    planning = resolved(load_config("es2.yaml"))["planning"]
    assert planning["latency_weight"] == 0.15
    assert planning["caching_reward"] == "hits_and_latency"
    scenario = Scenario()
    assert (scenario.decisions_per_episode, scenario.slots_per_decision) == (10, 5)


def test_requests_positions_and_fading_are_drawn_anew_in_every_slot() -> None:
    network = EdgeNetwork(Scenario(), num_envs=1, generator=torch.Generator().manual_seed(0))
    network.begin_frame(torch.ones(1, 2, 10, dtype=torch.bool))
    seen = []
    for _ in range(3):
        requests, positions = network.requests, network.positions
        service = network.step(decode_offloading(network.scenario, torch.zeros(1, 90)))
        seen.append((requests, positions, service.spectral_efficiency))
    for first, second in pairwise(seen):
        for before, after in zip(first, second):
            assert not torch.equal(before, after)


def test_the_server_that_serves_makes_no_link_better(page: str) -> None:
    network = EdgeNetwork(Scenario(), num_envs=1, generator=torch.Generator().manual_seed(0))
    network.begin_frame(torch.ones(1, 2, 10, dtype=torch.bool))
    state = network.state_dict()
    latencies, links = [], []
    for target in (-0.5, 0.5):
        network.load_state_dict(state)
        action = torch.zeros(1, 90)
        action[:, :30] = target
        service = network.step(decode_offloading(network.scenario, action))
        latencies.append(service.latency)
        links.append(service.spectral_efficiency)
    assert torch.equal(*links)
    assert torch.equal(*latencies)  # all on one server or all on the other: the same, however far it is


def test_no_observation_tells_where_a_user_is() -> None:
    observations = []
    for seed in (0, 1):
        network = EdgeNetwork(
            Scenario(num_services=1, popularity="zipf"), generator=torch.Generator().manual_seed(seed)
        )
        network.begin_frame(torch.ones(1, 2, 1, dtype=torch.bool))
        network.step(decode_offloading(network.scenario, torch.zeros(1, 90)))
        observations.append(
            (network.positions, network.offloading_observation(), network.caching_observation())
        )
    (here, *first), (there, *second) = observations
    assert not torch.equal(here, there)
    assert all(torch.equal(*pair) for pair in zip(first, second))


# What is installed is what lies in the repository, and every layer imports only from those below it -----------------

PLACES = {
    "hadrl_lightning": "hadrl_lightning",
    "callbacks": "hadrl_lightning.callbacks",
    "checkpoints": "hadrl_lightning.checkpoints",
    "configs": "hadrl_lightning.configs",
}


@pytest.fixture(scope="module")
def project(root: Path) -> dict:
    return tomllib.loads((root / "pyproject.toml").read_text())


def packages_on_disk(root: Path) -> set[str]:
    """Every folder with a module in it, by the name it is imported under."""
    found = set()
    for folder, package in PLACES.items():
        for path in (root / folder).rglob("*.py"):
            inner = path.parent.relative_to(root / folder).parts
            found.add(".".join([package, *inner]))
    return found


def test_every_package_on_disk_is_installed(root: Path, project: dict) -> None:
    assert sorted(project["tool"]["setuptools"]["packages"]) == sorted(packages_on_disk(root))


def test_every_package_has_an_init_file(root: Path) -> None:
    missing = {path.parent for folder in PLACES for path in (root / folder).rglob("*.py")}
    assert [folder for folder in missing if not (folder / "__init__.py").is_file()] == []


def test_settings_and_types_are_installed(root: Path, project: dict) -> None:
    data = project["tool"]["setuptools"]["package-data"]
    assert (root / "hadrl_lightning" / data["hadrl_lightning"][0]).name == "py.typed"
    assert list((root / "configs").glob(data["hadrl_lightning.configs"][0]))
    assert (root / "hadrl_lightning/py.typed").is_file()


def test_constraints_pin_every_direct_dependency(root: Path, project: dict) -> None:
    pinned = dict(
        line.split("==")
        for line in (root / "constraints.txt").read_text().splitlines()
        if line and line[0] != "#"
    )
    wanted = list(project["project"]["dependencies"])
    for extra in project["project"]["optional-dependencies"].values():
        wanted += extra
    names = {re.split(r"[\[>=<]", requirement)[0] for requirement in wanted} - {"hadrl-lightning"}
    assert names == set(pinned)


def test_callbacks_are_imported_as_what_they_are_once_installed(root: Path) -> None:
    for place in PLACES:
        for path in (root / place).rglob("*.py"):
            assert not re.search(r"^\s*(from|import) callbacks\b", path.read_text(), re.M), path


def test_no_output_of_a_run_is_under_version_control(root: Path) -> None:
    if not (root / ".git").exists() or shutil.which("git") is None:
        pytest.skip("needs a git clone")
    ignored = subprocess.run(
        ["git", "check-ignore", "checkpoints/es2/version_0/last.ckpt"], cwd=root, capture_output=True
    )
    assert ignored.returncode == 0


def test_every_layer_imports_only_from_those_below_it(root: Path, tmp_path: Path) -> None:
    """import-linter sees the package as it is installed."""
    ignore = shutil.ignore_patterns("__pycache__")
    for folder, package in PLACES.items():
        shutil.copytree(root / folder, tmp_path / package.replace(".", "/"), ignore=ignore)
    code = (
        "import sys; sys.path.insert(0, '.'); from importlinter.cli import lint_imports; "
        "sys.exit(lint_imports(sys.argv[1], no_cache=True))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(root / "pyproject.toml")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr


DECIDING = """
import sys
import hadrl_lightning as h

def loaded(*names):
    return [name for name in names if name in sys.modules]

h.EdgeNetwork, h.CEMPlanner, h.best_known
print(loaded("lightning", "torchmetrics", "scipy", "hadrl_lightning.agents"))
agent = h.HADRL.from_checkpoint("es2.ckpt")
network = h.EdgeNetwork(agent.scenario)
network.begin_frame(agent.place(network.caching_view()))
agent.decide(network.offloading_view(), seed=0)
ours = ("callbacks", "cli", "baselines.learners", "benchmark", "judge", "plots", "envs", "ensemble_parallel")
print(loaded("tensorboard", "jsonargparse", *(f"hadrl_lightning.{name}" for name in ours)))
"""


@pytest.mark.whole
def test_who_simulates_imports_no_lightning_and_who_decides_nothing_that_only_training_needs() -> None:
    done = subprocess.run([sys.executable, "-c", DECIDING], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("[]\n[]\n", 0), done.stderr


def test_the_repository_is_light(root: Path) -> None:
    if not (root / ".git").exists():
        pytest.skip("not a checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=True)
    files = [name for name in listed.stdout.split("\0") if name]
    assert len(files) < 300
    results = [root / name for name in files if name.startswith("docs/results/")]
    assert sum(file.stat().st_size for file in results if file.is_file()) < 5e6


# --- the trained agents that ship with the package

SCENARIOS = ["es2", "es3", "es4", "es5"]
WEIGHT = "world_model.resources.heads.0.weight"
SMALL = ["--data.test_episodes", "1", "--evaluation.references", "false"]


def test_one_agent_ships_by_its_own_name_and_by_that_of_every_scenario(root: Path) -> None:
    assert (*(f"{name}.ckpt" for name in SCENARIOS), "hadrl.ckpt") == SHIPPED_NAMES
    assert [file.name for file in (root / "checkpoints").glob("*.ckpt")] == ["hadrl.ckpt"]
    for name in SHIPPED_NAMES:
        found = find_agent(name)
        assert (found.name, find_agent(found)) == (name, found)
        assert stored_file(found) == find_agent("hadrl.ckpt")


def test_a_file_of_ones_own_is_no_shipped_agent_whatever_its_name(in_empty_folder: Path) -> None:
    Path("es2.ckpt").write_bytes(b"mine")
    assert stored_file("es2.ckpt") == Path("es2.ckpt")
    assert not is_shipped(Path("es2.ckpt"))


def test_a_trainer_reads_the_agent_by_the_name_of_a_scenario(in_empty_folder: Path) -> None:
    plain, named = (
        AtomicCheckpointIO().load_checkpoint(find_agent(name)) for name in ("hadrl.ckpt", "es2.ckpt")
    )
    assert plain["hadrl"] == named["hadrl"]


def test_the_readme_knows_size_and_hash_of_the_agent(root: Path) -> None:
    contents = (root / "checkpoints" / "hadrl.ckpt").read_bytes()
    (row,) = re.findall(r"^\| hadrl\.ckpt .*$", (root / "checkpoints/README.md").read_text(), re.M)
    assert row.endswith(f"| {len(contents)} | `{hashlib.sha256(contents).hexdigest()}` |")
    assert len(contents) < 5e6


@pytest.mark.parametrize(
    ("name", "config"), [*((name, f"{name}.yaml") for name in SCENARIOS), ("hadrl", "any.yaml")]
)
def test_a_shipped_agent_is_weights_alone_for_the_scenario_of_its_name(name: str, config: str) -> None:
    contents = torch.load(stored_file(find_agent(f"{name}.ckpt")), weights_only=True)
    assert set(contents) == {"state_dict", "hyper_parameters", "pytorch-lightning_version", "hadrl"}
    agent = HADRL.from_checkpoint(f"{name}.ckpt")
    assert agent.scenario == Scenario.from_config(config)
    assert agent.physics == "strict"


@pytest.mark.parametrize(
    ("words", "shipped"),
    [
        ([], True),
        (["--config", "tight.yaml"], True),
        (["--model.planner.share_steps", "2"], True),
        (["--data.physics", "published"], False),
        (["--model.slow_level", "set"], False),
        (["--model.set_world_model.hidden_size", "8"], False),
    ],
)
def test_a_test_without_a_checkpoint_is_of_the_shipped_agent_where_it_is_of_the_kind_asked_for(
    in_empty_folder: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], shipped: bool
) -> None:
    met: list[Path | None] = []
    monkeypatch.setattr(
        HadrlCLI, "instantiate_classes", lambda cli: (met.append(cli.checkpoint_file), sys.exit(0))
    )
    with pytest.raises(SystemExit):
        main(["test", *words])
    assert met == [find_agent("hadrl.ckpt") if shipped else None]


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


@pytest.mark.whole
def test_a_shipped_agent_is_tested_by_its_name_from_any_folder(
    in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["test", "--ckpt_path", "es2.ckpt", *SMALL]) == 0
    assert "HADRL" in capsys.readouterr().out
    assert Path(
        "checkpoints/es2/shipped/test-es2-1.csv"
    ).is_file()  # fewer episodes than its own settings have


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
    assert label_of("agents/es2-{seed}.ckpt") == "HADRL, es2.ckpt"


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


@pytest.mark.parametrize(("num_services", "hits"), [(5, 1.0), (20, 0.76)])
def test_an_agent_plays_with_another_number_of_services(num_services: int, hits: float) -> None:
    """Those of the caches of least latency, which are not the caches of most hits."""
    agent = HADRL.from_checkpoint("es2.ckpt")
    other = replace(agent.scenario, num_services=num_services, popularity="zipf", decisions_per_episode=4)
    network = EdgeNetwork(other, num_envs=4, generator=torch.Generator().manual_seed(3))
    scores = episode_scores(agent.for_scenario(other).play(network))
    assert float(scores.hit_ratio.mean()) == pytest.approx(hits, abs=0.03)


@pytest.mark.whole
def test_the_command_line_tests_an_agent_with_another_number_of_services(
    in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    others = ["--data.scenario.num_services", "12", "--data.scenario.popularity", "zipf"]
    assert main(["test", "--config", "es2.yaml", "--ckpt_path", "es2.ckpt", *others, *SMALL]) == 0
    assert "hit ratio" in capsys.readouterr().out
    (line, row) = Path("checkpoints/es2/shipped/test-es2-1.csv").read_text().splitlines()
    cells = dict(zip(line.split(","), row.split(","), strict=True))
    assert (cells["data.scenario.num_services"], cells["data.scenario.popularity"]) == ("12", "zipf")


class Subclass(HADRL):
    """An agent of a user's own."""


def test_a_subclass_stays_one_in_another_scenario() -> None:
    agent = Subclass.from_checkpoint("es2.ckpt")
    assert type(agent) is Subclass
    other = agent.for_scenario(replace(agent.scenario, num_users=3))
    assert type(other) is Subclass
    assert other.scenario.num_users == 3


# --- what a file must be


def rewritten(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A copy of hadrl.ckpt with other contents, and digests of those."""
    contents = torch.load(find_agent("hadrl.ckpt"), weights_only=True)
    change(contents)
    record = contents.pop(RECORD, None)
    if record is not None and "state_dict" in contents:
        made = recorded(contents, record["data"], record["training"], record["scores"])
        contents = {**made, RECORD: {**made[RECORD], "format": record["format"]}}
    torch.save(contents, path)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(HadrlError) as caught:
        HADRL.from_checkpoint(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda one: one["hadrl"].update(format=99), "of a newer version"),
        (lambda one: one["hadrl"].update(format=0), "of an older version"),
        (lambda one: one.pop("hadrl"), "of an older version"),
        (lambda one: one.pop("state_dict"), "which holds no agent"),
        (lambda one: one["state_dict"].pop("seen.least"), "Missing key"),
        (lambda one: one["state_dict"].update(more=torch.ones(1)), "Unexpected key"),
        (lambda one: one["state_dict"].update({"seen.least": torch.ones(3)}), "size mismatch"),
        (lambda one: one["hyper_parameters"].pop("physics") and one["hyper_parameters"].update(a=1), "'a'"),
        (lambda one: one["hyper_parameters"]["planner"].update(telepathy=True), "telepathy"),
        (lambda one: one["hyper_parameters"]["planner"].update(n_candidates=0), "n_candidates must be"),
        (lambda one: one.update(hyper_parameters=3), "settings"),
        (lambda one: one["state_dict"][WEIGHT].view(-1)[0].fill_(nan), "finite weights"),
        (lambda one: one["state_dict"][WEIGHT].view(-1)[0].fill_(inf), "finite weights"),
    ],
)
def test_a_file_of_another_version_or_with_other_keys_is_refused_in_one_line(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], line: str
) -> None:
    assert line in refusal(rewritten(tmp_path / "mine.ckpt", change))


def test_no_flipped_bit_loads_other_weights(tmp_path: Path) -> None:
    whole = find_agent("hadrl.ckpt").read_bytes()
    expected = read_agent(find_agent("hadrl.ckpt"))["state_dict"]
    draw, path, refused = random.Random(4), tmp_path / "mine.ckpt", 0
    for _ in range(60):
        broken, bit = bytearray(whole), draw.randrange(8 * len(whole))
        broken[bit // 8] ^= 1 << bit % 8
        path.write_bytes(broken)
        try:
            found = read_agent(path)["state_dict"]
        except HadrlError as error:
            refused += "\n" not in str(error)
        else:  # a bit that means nothing
            assert found.keys() == expected.keys()
            assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert refused >= 45  # each in one line


def test_a_truncated_file_is_refused_in_one_line(tmp_path: Path) -> None:
    whole = find_agent("hadrl.ckpt").read_bytes()
    for length in (0, 1, 100, len(whole) // 2, len(whole) - 1000, len(whole) - 1):
        (tmp_path / "mine.ckpt").write_bytes(whole[:length])
        assert "must be an undamaged checkpoint" in refusal(tmp_path / "mine.ckpt")
        assert "()" not in refusal(tmp_path / "mine.ckpt")


def test_lightning_loads_the_agent_that_from_checkpoint_makes() -> None:
    agent, again = HADRL.from_checkpoint("es2.ckpt"), HADRL.load_from_checkpoint("es2.ckpt")
    assert again.settings == agent.settings
    assert again.training is agent.training is False
    for name, value in agent.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    assert again.hparams == agent.settings_dict()
    assert again.hparams.scenario["num_users"] == 30
    seven = HADRL.load_from_checkpoint("es2.ckpt", map_location="cpu", seed=7)
    assert (seven.seed, seven.hparams.seed) == (7, 7)
    with pytest.raises(HadrlError, match=r"settings of HADRL, got .*'sede'"):
        HADRL.load_from_checkpoint("es2.ckpt", sede=7)


class Kept(Logger):
    """Keeps the hyper-parameters that it gets."""

    name, version = "kept", 0

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        self.params = params

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        pass


def trained_for_a_slot(agent: HADRL, logger: Logger | bool = False, **more: Any) -> Trainer:
    data = TransitionDataModule(agent.scenario, num_envs=1, passes_per_epoch=1, caching_updates_per_epoch=1)
    planning = CEMPlanning(seed_decisions=1, decisions_per_epoch=1)
    trainer = quiet_trainer(
        max_epochs=1, accelerator="cpu", logger=logger, callbacks=[planning, FiniteNumbers()]
    )
    trainer.fit(agent, datamodule=data, **more)
    return trainer


TINY = Scenario(num_users=3, decisions_per_episode=1, slots_per_decision=1)


def test_a_checkpoint_of_a_trainer_says_what_it_was_made_by_and_is_checked(tmp_path: Path) -> None:
    logger = Kept()
    agent = HADRL(TINY)
    trainer = trained_for_a_slot(agent, logger)
    assert logger.params["scenario"]["num_users"] == 3
    path = tmp_path / "mine.ckpt"
    trainer.save_checkpoint(path)
    contents = read_agent(path)
    record = contents[RECORD]
    assert record["version"] == __version__
    assert record["training"] == {"epochs": 1, "slots": 1}
    assert record["data"]["num_envs"] == 1
    arguments = set(inspect.signature(TransitionDataModule).parameters)
    of_scenario = {"scenario", "physics", *SETTINGS}  # what files say is part of the scenario
    assert record["data"].keys() == arguments - of_scenario
    again = HADRL.from_checkpoint(path)
    assert again.origin == record
    assert again.seen.ranges()["num_users"] == (3.0, 3.0)
    contents["optimizer_states"][0]["param_groups"][0]["lr"] += 1e-9  # a bit of the training alone
    torch.save(contents, path)
    with pytest.raises(HadrlError, match="digest"):
        read_agent(path)
    contents["state_dict"]["seen.least"][0] += 1
    torch.save(contents, path)
    with pytest.raises(HadrlError, match="digest"):
        trained_for_a_slot(HADRL(TINY), ckpt_path=path)


def test_what_was_seen_is_shown_in_units() -> None:
    seen = SeenRanges()
    assert repr(seen) == "SeenRanges(nothing)"
    seen.include({"num_users": (3.0, 30.0), "compute_hz": (60e9, 60e9)})
    assert repr(seen) == "SeenRanges(\n  num_users: 3 to 30\n  compute_hz: 60 GHz\n)"


@pytest.mark.parametrize("slow_level", ["lookahead", "set"])
def test_what_an_agent_has_learnt_can_be_trained_on_from_in_another_scenario(
    tmp_path: Path, slow_level: str
) -> None:
    shipped = HADRL.from_checkpoint("es2.ckpt")
    first = HADRL(shipped.scenario, slow_level=slow_level)
    learnt = {
        name: value for name, value in shipped.state_dict().items() if not name.startswith("caching_agent.")
    }
    first.load_state_dict({**first.state_dict(), **learnt})
    counter, kept = ("num_explored", 7) if slow_level == "lookahead" else ("num_updates", 0)
    getattr(first.caching_agent, counter).add_(7)
    first.save_weights(tmp_path / "first.ckpt")
    agent = HADRL(replace(TINY, num_services=4, popularity="zipf", num_servers=3), slow_level=slow_level)
    agent.load_weights(tmp_path / "first.ckpt")
    own, theirs = agent.state_dict(), first.state_dict()
    for name in (WEIGHT, "world_model.server_normaliser.running_mean"):
        assert torch.equal(own[name], theirs[name])
    assert own["world_model.best_reward"] == -inf
    assert own[f"caching_agent.{counter}"] == kept  # nothing is drawn at random by who has learnt already
    assert own["world_model.begins_trained"]
    demand = "demand" if slow_level == "lookahead" else "critic"
    assert own[f"caching_agent.{demand}.usual_demand"].tolist() == [0.25] * 4
    trained_for_a_slot(agent)
    assert agent.seen.ranges()["num_users"] == (3.0, 100.0)


def test_weights_of_other_levels_and_files_that_are_not_there_are_refused() -> None:
    shipped = HADRL.from_checkpoint("es2.ckpt")
    agent = HADRL(TINY, slow_level=shipped.settings["slow_level"])
    agent.load_weights("es2.ckpt")
    flat = HADRL(TINY, slow_level="flat")
    with pytest.raises(HadrlError, match=r"weights must fit the models of these settings, got .*es2\.ckpt: "):
        flat.load_weights("es2.ckpt")
    with pytest.raises(HadrlError, match="weights must be an existing file or one of the shipped agents"):
        agent.load_weights("nowhere.ckpt")


# --- where an agent was never trained


def outside(agent: HADRL, **changes: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        scenario = replace(agent.scenario, decisions_per_episode=1, slots_per_decision=1, **changes)
        agent.for_scenario(scenario).play(EdgeNetwork(scenario))
    return [str(one.message) for one in told if one.category is HadrlWarning]


def test_an_agent_says_once_where_it_was_never_trained() -> None:
    agent = HADRL.from_checkpoint("es3.ckpt")
    assert outside(agent) == []
    assert outside(agent, cache_bytes=40 * GIB, num_users=60) == []
    assert outside(agent, compute_hz=(20e9, 20e9, 0.2e9), bandwidth_hz=2e8) == [
        "the agent acts where it was not trained: compute_hz is 0.2 to 20 GHz here, 5 to 80 GHz in training"
    ]
    (large,) = outside(agent, cache_bytes=4000 * GIB)
    assert "usable cache of a server is 3200 GiB here, 0.4 to 320 GiB in training" in large
    sizes = {"num_users": 200, "input_step_bytes": 1e8}
    (many,) = outside(agent, **sizes, noise_dbm=-90.0, cloud_delay_s=2.0)
    assert many.count("in training") == 4
    assert many.endswith("; and 1 more")
    assert "\n" not in many


def test_an_agent_says_where_an_observation_is_none_that_it_was_trained_on() -> None:
    agent = HADRL.from_checkpoint("es3.ckpt")
    slow = EdgeNetwork(replace(agent.scenario, compute_hz=1e9, slots_per_decision=2))
    caching, offloading = agent.policies()  # for a network of the scenario it was trained in
    slow.begin_frame(caching(slow))
    with pytest.warns(HadrlWarning, match="compute_hz is 1 GHz here, 5 to 80 GHz in training"):
        slow.step(offloading(slow))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        slow.step(offloading(slow))


def test_an_agent_says_where_a_controller_tells_of_a_cloud_that_it_was_not_trained_with() -> None:
    agent = HADRL.from_checkpoint("es2.ckpt")
    network = EdgeNetwork(agent.scenario)
    for decide, view in ((agent.place, network.caching_view()), (agent.decide, network.offloading_view())):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            decide(view)
    far = replace(network.offloading_view(), cloud_delay_s=torch.tensor([30.0]))
    with pytest.warns(HadrlWarning, match=r"cloud_delay_s is 30 s here, 0\.01 to 0\.5 s in training"):
        agent.decide(far)


def test_an_untrained_agent_has_seen_nothing_to_be_outside_of() -> None:
    assert outside(HADRL(TINY), num_users=9) == []


# --- on the command line


@pytest.mark.parametrize("physics", ["strict", "published"])
def test_a_checkpoint_alone_is_judged_in_its_own_scenario(
    in_empty_folder: Path, capsys: pytest.CaptureFixture[str], physics: Physics
) -> None:
    own = replace(TINY, num_servers=3, offload_thresholds=(-0.5, 0.25), compute_hz=20e9)
    level = "set" if physics == "strict" else "flat"
    planner = replace(HADRL().settings["planner"], n_candidates=8, share_steps=0, target_sweeps=0)
    models = {}
    if physics == "published":
        models["world_model"] = WorldModelSettings(ensemble_size=2, hidden_size=8)
        planner = published_planner(plan_horizon=1, n_candidates=8, top_candidates=2, optimisation_iters=1)
    agent = HADRL(own, physics, level, level, **models, planner=planner)  # type: ignore[arg-type]
    agent.save_weights("moved.ckpt")
    assert main(["test", "--ckpt_path", "moved.ckpt", *SMALL]) == 0
    out, err = capsys.readouterr()
    assert "hit ratio" in out
    assert err == ""
    with pytest.raises(SystemExit):
        main(["test", "--ckpt_path", "moved.ckpt", "--data.scenario.num_users", "4", "--print_config"])
    settings = yaml.safe_load(capsys.readouterr().out)
    assert settings["data"]["physics"] == physics
    assert settings["data"]["scenario"]["offload_thresholds"] == [-0.5, 0.25]
    assert settings["data"]["scenario"]["num_users"] == 4
    assert settings["model"]["planner"]["n_candidates"] == 8


def test_inspect_shows_what_a_file_was_made_by_on_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "hadrl.ckpt"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    record = read_agent(find_agent("hadrl.ckpt"))[RECORD]
    for text in (record["version"], record["made"], record["digests"]["agent"], "any.yaml"):
        assert text in out
    assert "es3/latency" in out
    assert "test_episodes 48" in out
    assert re.search(r"^  compute_hz +5 to 80 GHz$", out, re.M)


def test_inspect_shows_a_range_by_its_ends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "varied.ckpt"
    HADRL(Scenario(compute_hz={"low": "5GHz", "high": "80GHz", "log": True})).save_weights(path)  # type: ignore[arg-type]
    assert main(["inspect", str(path)]) == 0
    words = " ".join(capsys.readouterr().out.split())
    assert "compute_hz 5000000000 to 8e+10 log" in words
    assert "Range(" not in words


def test_inspect_refuses_what_is_no_agent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken.ckpt").write_bytes(b"x" * 1000)
    for words in (["inspect"], ["inspect", str(tmp_path / "broken.ckpt")], ["inspect", "es9.ckpt"]):
        assert main(words) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"hadrl-lightning {__version__}\n"


def test_what_another_training_was_paid_is_forgotten_when_beginning_with_its_weights(tmp_path: Path) -> None:
    trained = HADRL(Scenario(), slow_level="set")
    trained.caching_agent.rewards.update(torch.full((8, 1), 5.0))
    trained.caching_agent.num_updates += 3
    trained.save_weights(tmp_path / "trained.ckpt")
    begun = HADRL(Scenario(), slow_level="set", seed=1)
    begun.load_weights(tmp_path / "trained.ckpt")
    assert begun.caching_agent.num_updates == 0
    fresh = HADRL(Scenario(), slow_level="set").caching_agent.rewards.state_dict()
    assert all(
        torch.equal(value, fresh[name]) for name, value in begun.caching_agent.rewards.state_dict().items()
    )
    assert torch.equal(
        begun.caching_agent.critic.layers[0].weight, trained.caching_agent.critic.layers[0].weight
    )

"""What the repository says of itself is so: the README's commands and programs, docs/model.md, what is installed."""

import doctest
import math
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from dataclasses import fields
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from hadrl_lightning import Scenario, decode_offloading
from hadrl_lightning.benchmark.training import resolved
from hadrl_lightning.cli import main
from hadrl_lightning.config_files import load_config
from hadrl_lightning.simulator import EdgeNetwork

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
    return (
        [*words, *(flag for flag in SHRUNK if "_episodes" in flag)]
        if words[0] in ("test", "validate")
        else words
    )


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

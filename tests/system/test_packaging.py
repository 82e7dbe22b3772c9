"""What is installed is what lies in the repository, and every layer imports only from those below it."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

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

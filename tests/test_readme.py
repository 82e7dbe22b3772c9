"""The README's commands and programs do what they say."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from hadrl_lightning.cli import main

README = (Path(__file__).parent.parent / "README.md").read_text()
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


@pytest.mark.parametrize("command", [one for one in runnable() if not needs_a_run(one)])
def test_a_command_of_the_readme_runs(in_empty_folder: Path, command: str) -> None:
    run(command)


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
    for number in ("max_epochs", "test_episodes"):
        program = re.sub(rf"{number}=\d+", f"{number}=1", program)
    exec(compile(program, "README.md", "exec"), {"__name__": "readme"})


def test_the_example_of_a_scenario_of_ones_own_is_valid(in_empty_folder: Path) -> None:
    (example,) = blocks("yaml")
    Path("campus.yaml").write_text(example)
    words = ["fit", "--config", "es2.yaml", "--config", "campus.yaml", *SHRUNK, "--trainer.max_epochs=1"]
    assert main(words) == 0

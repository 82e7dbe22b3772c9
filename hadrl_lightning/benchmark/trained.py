"""Trained agents as policies of a benchmark: `es2.ckpt`, or `agents/es2-{seed}.ckpt` for one of every seed."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hadrl_lightning.agent_files import SUFFIX, find_agent, read_agent
from hadrl_lightning.agents import HADRL
from hadrl_lightning.benchmark.judge import Player
from hadrl_lightning.errors import HadrlError
from hadrl_lightning.scenario import Physics, Scenario

SEED = "{seed}"
"""What stands for the seed in the name of a file."""


def is_trained(policy: str) -> bool:
    """Whether the policy is the file of a trained agent."""
    return policy.endswith(SUFFIX)


def label_of_trained(policy: str) -> str:
    """What a table calls the agent: its file without folder and seed."""
    name = Path(policy).name.removesuffix(SUFFIX)
    return f"HADRL, trained as {name.replace(SEED, '').rstrip('-_. ')}"


def agent_contents(policy: str, seed: int) -> dict[str, Any]:
    """What determines the agent of a cell: its file, and a hash of what is in it.

    Raises:
        HadrlError: there is no such file.
    """
    file = find_agent(policy.replace(SEED, str(seed)))
    return {"file": str(file), "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}


def check_files(policy: str, seeds: Sequence[int]) -> None:
    """Read the files of an agent, of all seeds, before hours are spent on others.

    Raises:
        HadrlError: there is no such file, or it is damaged or of another version.
    """
    for name in dict.fromkeys(policy.replace(SEED, str(seed)) for seed in seeds):
        read_agent(find_agent(name, "policies"), "policies")


def trained_player(agent: dict[str, Any], scenario: Scenario, physics: Physics) -> Player:
    """Plays by the agent of a file; the scenario may have other sizes than it was trained on if its models are sets.

    Raises:
        HadrlError: it was trained under other physics, or does not fit the scenario.
    """
    trained = HADRL.from_checkpoint(agent["file"])
    if trained.physics != physics:
        raise HadrlError(
            f"physics must be that of the agent, {trained.physics}, got {physics}: {agent['file']}"
        )
    return trained.for_scenario(scenario).play

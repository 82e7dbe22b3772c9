"""What plays test episodes: policies, learners that are validated while they train, and trained agents as policies,
`es2.ckpt`, or `agents/es2-{seed}.ckpt` for one of every seed.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from hadrl_lightning.agent_files import SUFFIX, find_agent, read_agent, stored_file
from hadrl_lightning.agents import HADRL
from hadrl_lightning.data import EpisodeStream
from hadrl_lightning.errors import HadrlError
from hadrl_lightning.judge import KeepBest, Scoreboard, Validation, validated
from hadrl_lightning.play import Episode, Policies, run_episode
from hadrl_lightning.scenario import Physics, Scenario
from hadrl_lightning.simulator import EdgeNetwork

Player = Callable[[EdgeNetwork], Episode]
"""Plays an episode of networks; `HADRL.play` is one."""


def player(policies: Policies) -> Player:
    """Plays by a policy for each level."""
    return lambda network: run_episode(network, *policies)


def play(stream: EpisodeStream, play_one: Player) -> list[Episode]:
    """The episodes of a stream, played by the same policies, batch by batch."""
    with torch.no_grad():
        return [play_one(network) for network in stream]


class Judge:
    """Validates a learner on the same episodes again and again, and keeps the best weights it has seen.

    Every learner is judged by the rule and on the episodes that `hadrl fit` goes by: the weights of the least
    validation latency are the ones that are tested.

    Args:
        stream: the validation episodes.
        due: slots of training after which they are played.
    """

    def __init__(self, stream: EpisodeStream, due: Sequence[int]) -> None:
        self.validations: list[Validation] = []
        """Those made so far."""
        self._stream = stream
        self._due = sorted(due)
        self._keep = KeepBest()

    @property
    def best(self) -> Any:
        """Snapshot at the best validation; None without one."""
        return self._keep.kept

    def is_due(self, slots: int) -> bool:
        """Whether a validation is due after `slots` slots of training; it counts as made then."""
        reached = [one for one in self._due if one <= slots + 0.5]
        self._due = self._due[len(reached) :]
        return bool(reached)

    def __call__(self, slots: int, policies: Policies, snapshot: Callable[[], Any]) -> None:
        """Validate after `slots` slots of training, and keep a copy of `snapshot()` if it is the best so far."""
        board = Scoreboard("", self._stream.scenario.preferences)
        for episode in play(self._stream, player(policies)):
            board.add(episode)
        self.validations.append(validated(board, self._stream.scenario, float(slots)))
        self._keep(self.validations[-1], snapshot)


# Trained agents -------------------------------------------------------------------------------------------------------

SEED = "{seed}"
"""What stands for the seed in the name of a file."""


def is_trained(policy: str) -> bool:
    """Whether the policy is the file of a trained agent."""
    return policy.endswith(SUFFIX)


def label_of_trained(policy: str) -> str:
    """What a table calls the agent: its file without folder and seed."""
    name = Path(policy).name.removesuffix(SUFFIX)
    return f"HADRL, {name.replace(SEED, '').rstrip('-_. ')}{SUFFIX}"


def agent_contents(policy: str, seed: int) -> dict[str, Any]:
    """What determines the agent of a cell: its file, and a hash of what is in it.

    Raises:
        HadrlError: there is no such file.
    """
    file = find_agent(policy.replace(SEED, str(seed)))
    return {"file": str(file), "sha256": hashlib.sha256(stored_file(file).read_bytes()).hexdigest()}


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

"""`SecondProcess`: plays every second batch of a test on a core that the first process leaves idle."""

import io
import os
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from hadrl_lightning.agents import HADRL
from hadrl_lightning.callbacks.references import References
from hadrl_lightning.data import EpisodeStream
from hadrl_lightning.play import Episode
from hadrl_lightning.process import one_thread, start_worker


class PlayedBatch(NamedTuple):
    """A batch of episodes."""

    agent: Episode
    others: dict[str, Episode]
    """Those of the reference policies by their names; empty where none were asked for."""


class _Job(NamedTuple):
    """What the process is asked for."""

    agent: Path
    stream: EpisodeStream
    batch: int
    references: bool


class SecondProcess:
    """Plays batches 1, 3, 5, … of a test while this process plays the others, to the same numbers.

    Episodes depend on agent, stream and batch alone, so it does not matter who plays them. Whatever goes wrong there,
    this process plays the batch itself.
    """

    def __init__(self) -> None:
        self._process, self._pipe = start_worker(_played)
        self._folder: TemporaryDirectory[str] | None = None
        self._jobs: list[_Job] = []

    @staticmethod
    def serves(trainer: Trainer, module: Any) -> bool:
        """Whether there is a core for it, and it would play as this one does."""
        alone = trainer.world_size == 1 and trainer.strategy.root_device.type == "cpu"
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return alone and cores > 1 and isinstance(module, HADRL) and trainer.precision == "32-true"

    def begin(self, module: HADRL, stream: EpisodeStream, references: bool) -> None:
        """Begin to play every second batch.

        Args:
            module: the agent, with the weights of now.
            stream: the batches.
            references: whether the reference policies play too.
        """
        try:
            self._folder = TemporaryDirectory(prefix="hadrl-", ignore_cleanup_errors=True)
            agent = Path(self._folder.name) / "agent.pt"
            adapts = {"adapt": module.adapt} if "adapt" in module.settings else {}
            torch.save((type(module), {**module.settings, **adapts}, module.lasting_weights()), agent)
        except Exception:  # no room on the disk, a class that does not pickle
            return
        self._jobs = [_Job(agent, stream, batch, references) for batch in range(1, len(stream), 2)]
        self._ask()

    def batch(self, index: int) -> PlayedBatch | None:
        """The batch when it is played; None where this process has to."""
        if not self._jobs or self._jobs[0].batch != index:
            return None
        try:
            answer = self._pipe.recv()
        except (EOFError, OSError):  # it has died
            self._jobs = []
            return None
        self._jobs = self._jobs[1:]
        self._ask()
        if answer is None:
            return None
        episodes = {name: _episode(data) for name, data in answer.items()}
        return PlayedBatch(episodes.pop(""), episodes)

    def close(self) -> None:
        """End the process."""
        self._jobs = []
        self._process.terminate()
        self._process.join()
        self._pipe.close()
        if self._folder is not None:
            self._folder.cleanup()

    def _ask(self) -> None:
        """One batch at a time: neither process then waits for the other to read."""
        try:
            if self._jobs:
                self._pipe.send(self._jobs[0])
        except Exception:  # it has died, or what is to be played does not pickle
            self._jobs = []


def _played(job: _Job) -> dict[str, bytes] | None:
    """In the second process: the episodes by name, the agent's by none; None where anything goes wrong."""
    with one_thread():
        return _episodes(job)


def _episodes(job: _Job) -> dict[str, bytes] | None:
    try:
        kind, settings, state = torch.load(job.agent, weights_only=False)  # our own file
        agent = kind(**settings)
        agent.load_state_dict(state)
        agent.eval().keep_quiet()
        with torch.no_grad():
            episode = agent.play(job.stream.networks(job.batch))
        episodes = {"": episode}
        if job.references:
            others = References(job.stream.scenario, job.stream.physics)
            episodes |= others.episodes(job.stream, job.batch, episode)
        return {name: _bytes(one) for name, one in episodes.items()}
    except Exception:  # the first process meets it again, and says what it is
        return None


def _bytes(episode: Sequence[Tensor]) -> bytes:
    file = io.BytesIO()
    torch.save(list(episode), file)
    return file.getvalue()


def _episode(data: bytes) -> Episode:
    return Episode(*torch.load(io.BytesIO(data)))

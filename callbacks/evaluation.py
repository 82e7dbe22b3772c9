"""`EpisodeEvaluation`: judges the episodes of validate, test and predict, and shows or writes the result."""

import math
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.box import SIMPLE_HEAD
from rich.table import Table
from torch import Tensor

from ..console import show
from ..data import EpisodeStream, TransitionDataModule
from ..metrics import SwitchingCost, slot_metrics
from ..simulator import Episode, EpisodeScores, Service, episode_scores, run_episode
from .predictions import write_decisions
from .references import reference_policies

_ROWS = {
    "hit_ratio": ("hit ratio", "{:.3f}"),
    "latency": ("Σ latency (s)", "{:.2f}"),
    "latency_p95": ("  95th pct. (s)", "{:.1f}"),
    "on_time": ("deadlines met", "{:.3f}"),
    "energy": ("energy (J)", "{:.3f}"),
    "switching": ("switching (s)", "{:.1f}"),
    "bandwidth_over_subscription": ("band over", "{:.2f}"),
    "compute_over_subscription": ("CPU over", "{:.2f}"),
}
"""Label and form of every figure that is shown."""


class EpisodeEvaluation(Callback):
    """Judges episodes that the agent plays without exploration.

    Validation logs `val/hit_ratio`, `val/latency` (summed over users, mean over slots, s), `val/latency_p95`,
    deadlines, energy, switching cost, over-subscription and the rewards of both levels. Test logs the same as
    `test/...` and shows a table with 95 % confidence intervals over episodes, beside reference policies on the same
    requests, positions and fading. Predict writes the decisions: `decisions.csv`, one row a user and slot, and
    `caches.csv`.

    Args:
        references: whether test shows the reference policies.
        output_dir: folder of what predict writes; that of the run's logs where not given.
    """

    def __init__(self, references: bool = True, output_dir: str | None = None) -> None:
        self.references = references
        self.output_dir = output_dir
        self._agent = Scoreboard("HADRL")
        self._others: dict[str, Scoreboard] = {}
        self._predicted = 0

    # Hooks ---------------------------------------------------------------------------------------------------------

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the episodes of the validation before."""
        self._agent = Scoreboard("HADRL")

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        """Score the episodes of a batch."""
        self._agent.add(outputs)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the scores."""
        self._log(trainer, pl_module, "val")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the scores where validation is all that was asked for."""
        if trainer.state.fn == "validate":
            self._show(trainer, f"{self._agent.num_episodes} validation episodes")

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the episodes of the test before."""
        self._agent = Scoreboard("HADRL")
        self._others = {}

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        """Score the episodes of a batch, and let the references play the same ones."""
        self._agent.add(outputs)
        if not self.references or not trainer.is_global_zero:
            return
        stream = _data(trainer).test_dataloader()
        for name, episode in reference_episodes(stream, batch_idx, outputs):
            self._others.setdefault(name, Scoreboard(name)).add(episode)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the scores."""
        self._log(trainer, pl_module, "test")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the table."""
        self._show(trainer, f"{self._agent.num_episodes} test episodes")

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin a new file."""
        self._predicted = 0

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        """Write the decisions of a batch."""
        folder = self.output_dir or trainer.log_dir or trainer.default_root_dir  # asks all ranks
        if trainer.is_global_zero:
            write_decisions(folder, outputs, first_episode=self._predicted)
        self._predicted += outputs.latency.shape[1]

    # Results -------------------------------------------------------------------------------------------------------

    def _log(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        for name, value in self._agent.values().items():
            module.log(f"{stage}/{name}", value, batch_size=1, sync_dist=True)
        if trainer.state.fn == "fit":
            data = _data(trainer)
            module.log("step", float(data.slots * data.num_collectors), batch_size=1, sync_dist=True)

    def _show(self, trainer: Trainer, what: str) -> None:
        if not trainer.is_global_zero or trainer.sanity_checking:
            return
        show(result_table(f"{what}, mean ± 95 % confidence", [self._agent, *self._others.values()]))


class Scoreboard:
    """Scores of one policy over episodes, as values with confidence intervals.

    Every rank plays the same episodes, so nothing is gathered from the others.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._slots = slot_metrics(sync_on_compute=False)
        self._switching = SwitchingCost(sync_on_compute=False)
        self._scores: list[EpisodeScores] = []

    @property
    def num_episodes(self) -> int:
        """Episodes scored so far."""
        return sum(len(scores.latency) for scores in self._scores)

    def add(self, episode: Episode) -> None:
        """Score the B episodes of a batch."""
        episode = Episode(*(value.cpu() for value in episode))
        for t in range(len(episode.latency)):
            fields = {name: getattr(episode, name)[t] for name in Service._fields}
            self._slots.update(**fields)
        for switching in episode.switching:
            self._switching.update(switching)
        self._scores.append(episode_scores(episode))

    def values(self) -> dict[str, Tensor]:
        """Every figure over all episodes."""
        values = {**self._slots.compute(), "switching": self._switching.compute()}
        for name in ("offloading_reward", "caching_reward"):
            values[name] = self._column(name).mean()
        return {name: value.float() for name, value in values.items()}

    def half_width(self, name: str) -> float | None:
        """Half of the 95 % confidence interval of a mean over episodes (normal); none for a percentile or 1 episode."""
        if name not in EpisodeScores._fields or self.num_episodes < 2:
            return None
        column = self._column(name)
        return 1.96 * float(column.std()) / math.sqrt(len(column))

    def _column(self, name: str) -> Tensor:
        return torch.cat([getattr(scores, name) for scores in self._scores])


def reference_episodes(stream: EpisodeStream, index: int, agent: Episode) -> list[tuple[str, Episode]]:
    """The reference policies on the episodes of a batch that the agent has played."""
    episodes = []
    for name, policies in reference_policies(stream.scenario, stream.physics, agent).items():
        episodes.append((name, run_episode(stream.networks(index), *policies)))
    return episodes


def result_table(title: str, boards: list[Scoreboard]) -> Table:
    """One column a policy; where there are several, the last one is the yardstick that latencies are divided by."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1))
    table.add_column("", no_wrap=True)
    for board in boards:
        table.add_column(board.name, justify="right")
    values = [board.values() for board in boards]
    for name, (label, form) in _ROWS.items():
        table.add_row(label, *(_cell(board, name, form) for board in boards))
        if name == "latency" and len(boards) > 1:
            ratios = (float(value["latency"] / values[-1]["latency"]) for value in values)
            table.add_row(f"÷ {boards[-1].name.partition(',')[0]}", *(f"{ratio:.3f}" for ratio in ratios))
    return table


def _cell(board: Scoreboard, name: str, form: str) -> str:
    half = board.half_width(name) if name in ("hit_ratio", "latency", "on_time") else None
    return form.format(float(board.values()[name])) + ("" if half is None else f"±{form.format(half)}")


def _data(trainer: Trainer) -> TransitionDataModule:
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    if not isinstance(data, TransitionDataModule):
        raise TypeError("EpisodeEvaluation needs a TransitionDataModule")
    return data

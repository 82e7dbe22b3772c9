"""`EpisodeEvaluation`: judges the episodes of validate, test and predict, and shows or writes the result."""

import os
import shutil
import warnings
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from hadrl_lightning.agents import HADRL, progress
from hadrl_lightning.callbacks.planning import CEMPlanning
from hadrl_lightning.callbacks.predictions import UNFINISHED, finish_decisions, write_decisions
from hadrl_lightning.callbacks.references import References
from hadrl_lightning.callbacks.results import Weights, result_table
from hadrl_lightning.callbacks.second_process import PlayedBatch, SecondProcess
from hadrl_lightning.console import show
from hadrl_lightning.data import TransitionDataModule
from hadrl_lightning.errors import HadrlWarning
from hadrl_lightning.judge import OF_CHANGES, Scoreboard, Validation, compared_by, validated

NAME = "HADRL"
"""The agent's, in tables."""


class EpisodeEvaluation(Callback):
    """Judges episodes that the agent plays without exploration.

    Validation logs `val/hit_ratio`, `val/latency` (summed over users, mean over slots, s), `val/latency_p95`,
    deadlines, energy, switching cost (s, mean over caching decisions), over-subscription and the published rewards of
    both levels, how latency is spread over tasks and users, what was dropped, wall times of decisions in ms, and by
    preferences of the scenario's own the cost; where the scenario has ranges also `val/log_latency`, the mean over
    networks of the logarithm of their latency. Test logs the same as `test/...` and shows a table with 95 % confidence
    intervals over episodes, beside reference policies on the same requests, positions and fading: the best known
    decisions under the agent's own caches, and the least latency known (the same decisions under the caches of least
    expected latency). Beside the former it logs how soon the agent gets over changes of the world, where there are any.
    It says after which epoch the weights were saved, and how the best and the last validation differ. Predict writes,
    and says where, the decisions: `decisions.csv`, a row a user and slot, `caches.csv`, `switching.csv`, columns.md.

    Args:
        references: whether test shows the reference policies.
        output_dir: folder of what predict writes, over what is there; where not given, that of the trainer's logs, on
            the command line a folder beside the agent for each agent and its settings.
        second_process: whether a second process plays every other batch of `parallel_episodes` of a test, on a CPU with
            a core to spare; the results are the same. Only for programs that guard their start with
            `if __name__ == "__main__"`, as the command line does, where it is the default.
    """

    def __init__(
        self, references: bool = True, output_dir: str | None = None, second_process: bool = False
    ) -> None:
        self.references = references
        self.output_dir = output_dir
        self.second_process = second_process
        self._second: SecondProcess | None = None
        self._played: PlayedBatch | None = None
        self.validations: list[Validation] = []
        """Those of the training so far."""
        self._agent = Scoreboard(NAME)
        self._others: References | None = None
        self._predicted = 0
        self._folder: Path | None = None
        self._stage = "fit"

    @property
    def state_key(self) -> str:
        """Key of this callback's state in a checkpoint; independent of its settings."""
        return "EpisodeEvaluation"

    def state_dict(self) -> dict[str, Any]:
        """The validations so far."""
        return {"validations": [one._asdict() for one in self.validations]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint. One that is tested at the end of a training does not undo what that has found."""
        if self._stage != "fit" and self.validations:
            return
        self.validations = [Validation(**one) for one in state_dict["validations"]]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Note what is asked for, and have a second process get ready for a test."""
        self._stage = stage
        tested = stage in ("fit", "test") and self.second_process and SecondProcess.serves(trainer, pl_module)
        if tested and self._second is None and len(_data(trainer).test_dataloader()) > 1:
            self._second = SecondProcess()

    # Hooks ---------------------------------------------------------------------------------------------------------

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say so where the agent has learnt nothing."""
        if trainer.state.fn == "validate":
            _warn_of_untrained(trainer, pl_module)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the episodes of the validation before."""
        self._agent = Scoreboard(_name(trainer, pl_module), _data(trainer).scenario.preferences)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        """Score the episodes of a batch."""
        self._agent.add(outputs)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the scores, and remember them if a training asked for them."""
        self._log(trainer, pl_module, "val")
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.validations.append(self._validation(trainer, pl_module))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the scores where validation is all that was asked for."""
        if trainer.state.fn == "validate":
            self._show(trainer, "validation")

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say so where the agent has learnt nothing."""
        _warn_of_untrained(trainer, pl_module)
        if self._second is not None and isinstance(pl_module, HADRL):
            self._second.begin(pl_module, _data(trainer).test_dataloader(), self.references)

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        """Take what the second process has played of the batch."""
        self._played = self._second.batch(batch_idx) if self._second is not None else None
        if isinstance(pl_module, HADRL):
            pl_module.played_elsewhere = self._played.agent if self._played is not None else None

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the episodes of the test before."""
        self._agent = Scoreboard(_name(trainer, pl_module), _data(trainer).scenario.preferences)
        self._others = None
        if self.references and trainer.is_global_zero:
            data = _data(trainer)
            self._others = References(data.test_dataloader().scenario, data.physics)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        """Let the references play the episodes of a batch, and score them."""
        if self._others is not None and self._played is not None:
            self._others.add(self._played.others)
        elif self._others is not None:
            self._others.play(_data(trainer).test_dataloader(), batch_idx, outputs)
        self._agent.add(outputs, self._others.same_caches if self._others is not None else None)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the scores."""
        self._log(trainer, pl_module, "test")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the table."""
        self._end_second_process()
        self._show(trainer, "test")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave no process behind, and no files of some episodes."""
        self._end_second_process()
        if trainer.is_global_zero:
            self._drop_unfinished()

    def _drop_unfinished(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder / UNFINISHED, ignore_errors=True)

    def _end_second_process(self) -> None:
        if self._second is not None:
            self._second.close()
        self._second = self._played = None

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin new files; say so where the agent has learnt nothing."""
        _warn_of_untrained(trainer, pl_module)
        self._predicted, self._folder = 0, None

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        """Write the decisions of a batch."""
        self._folder = Path(self.output_dir or trainer.log_dir or trainer.default_root_dir)  # asks all ranks
        if trainer.is_global_zero:
            if not self._predicted:
                self._drop_unfinished()
            write_decisions(self._folder / UNFINISHED, outputs, batch, first_episode=self._predicted)
        self._predicted += outputs.latency.shape[1]

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the files of all batches in place of earlier ones, and say whose the decisions are, and where."""
        if self._folder is not None and trainer.is_global_zero:
            written = finish_decisions(self._folder / UNFINISHED, self._folder)
            source = Weights(trainer.ckpt_path, [], self.state_key).source
            outputs = f"Outputs: {', '.join(os.path.relpath(file) for file in written)}"
            show(*filter(None, (source, outputs)))

    @property
    def reference(self) -> str:
        """Name of the reference policy that plays the test's episodes now; empty where none does."""
        return self._others.playing if self._others is not None else ""

    # Results -------------------------------------------------------------------------------------------------------

    def _log(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        for name, value in (self._agent.values() | self._agent.times()).items():
            alone = name in OF_CHANGES  # held against references, which play on rank 0
            module.log(
                f"{stage}/{name}", value.float(), batch_size=1, sync_dist=not alone, rank_zero_only=alone
            )
        scenario = _data(trainer).scenario
        if scenario.ranges:
            compared = self._agent.compared(scenario)
            module.log(f"{stage}/{compared_by(scenario)}", compared, batch_size=1, sync_dist=True)
        judged = self._judged(trainer, module)
        if "slots" in judged:
            module.log("step", float(judged["slots"]), batch_size=1, sync_dist=True)
        if (
            trainer.state.fn != "fit" and "epochs" in judged
        ):  # counted as rows of a training count them: from 0
            module.log("epoch", float(max(judged["epochs"] - 1, 0)), batch_size=1, sync_dist=True)

    def _judged(self, trainer: Trainer, module: LightningModule) -> dict[str, int]:
        """Epochs and slots that the agent has learnt from: of its file, or here; empty where nothing says so."""
        trained_here = trainer.ckpt_path is None and _data(trainer).network is not None
        if trained_here or trainer.state.fn == "fit":
            return progress(trainer)
        origin: dict[str, Any] = getattr(module, "origin", {})
        return origin.get("training", {})

    def _validation(self, trainer: Trainer, module: LightningModule) -> Validation:
        data = _data(trainer)
        planning = next((one for one in _callbacks(trainer) if isinstance(one, CEMPlanning)), None)
        epoch = trainer.current_epoch + 1
        warmup = planning.exploration.caching_warmup_epochs if planning is not None else 0
        if isinstance(module, HADRL) and not module.caching_agent.learns_from_frames:
            warmup = 0
        slots = data.slots * data.num_collectors
        return validated(self._agent, data.scenario, float(slots), epoch=epoch, caching_learnt=epoch > warmup)

    def _show(self, trainer: Trainer, what: str) -> None:
        if not trainer.is_global_zero or trainer.sanity_checking:
            return
        data = _data(trainer)
        played = data.val_dataloader() if what == "validation" else data.test_dataloader()
        weights = Weights(trainer.ckpt_path, self.validations, self.state_key)
        number = self._agent.num_episodes
        title = f"{number} {what} episode{'s' * (number > 1)}"
        if number > 1:
            title += ", mean ± 95 % interval over episodes (not over trainings)"
        others, notes = (self._others.boards, self._others.notes) if self._others is not None else ([], [])
        show(
            *result_table(title, played.scenarios(), self._agent, others, data.physics),
            *notes,
            *filter(None, [weights.text]),
        )
        warning = weights.warning(data.scenario)
        if warning:
            warnings.warn(warning, HadrlWarning, stacklevel=2)


def _name(trainer: Trainer, module: LightningModule) -> str:
    name = NAME if _is_trained(trainer, module) else f"{NAME}, untrained"
    adapts = isinstance(module, HADRL) and module.adapt != "off"
    return f"{name}, adapting {module.adapt}" if adapts else name


def _is_trained(trainer: Trainer, module: LightningModule) -> bool:
    """Whether the weights are from a file, or training has shown the agent anything."""
    return trainer.ckpt_path is not None or not isinstance(module, HADRL) or bool(module.seen.ranges())


def _warn_of_untrained(trainer: Trainer, module: LightningModule) -> None:
    if not _is_trained(trainer, module):
        text = "weights: none, the agent is untrained; ckpt_path names a trained one"
        warnings.warn(text, HadrlWarning, stacklevel=2)


def _callbacks(trainer: Trainer) -> list[Callback]:
    return trainer.callbacks  # type: ignore[attr-defined]


def _data(trainer: Trainer) -> TransitionDataModule:
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    if not isinstance(data, TransitionDataModule):
        raise TypeError("EpisodeEvaluation needs a TransitionDataModule")
    return data

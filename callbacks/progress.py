"""`TrainingProgress`: one bar for what the Trainer does, what that is just now, and how it goes."""

from collections.abc import Callable
from typing import Any, NamedTuple

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from hadrl_lightning.callbacks.evaluation import EpisodeEvaluation
from hadrl_lightning.callbacks.planning import CEMPlanning
from hadrl_lightning.characters import plain
from hadrl_lightning.console import make_console
from hadrl_lightning.simulator import EdgeNetwork


class Look(NamedTuple):
    """What the bar shows at a moment."""

    done: float
    doing: str
    """Such as `epoch 4/12, collecting 3/10 decisions`."""
    figures: str = ""
    """How the training goes; the line below the bar."""


class TrainingProgress(ProgressBar):
    """One Rich bar: over all steps of a training, or over the episodes of a validation, test or prediction.

    Beside it stands what is being done: collecting, learning, validating, testing, or which reference plays. Below a
    training stand the summed latency and the hit ratio of what was last collected and validated, and the slots a
    second of collecting (TensorBoard's `time/slots_per_second`). Where the output is no terminal, nothing is shown.
    """

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._display: _Display | None = None
        self._episodes = Episodes()
        self._figures = ""

    def disable(self) -> None:
        """Show nothing."""
        self._enabled = False

    def enable(self) -> None:
        """Show the bar again."""
        self._enabled = True

    def look(self, trainer: Trainer) -> Look:
        """What there is to show. Called from the thread that draws, so it only reads what others keep."""
        if trainer.state.fn != "fit":
            reference = _reference(trainer)
            doing = f"reference: {reference}" if reference else self._episodes.text
            return Look(self._episodes.done, doing)
        epoch, epochs = trainer.current_epoch + 1, trainer.max_epochs
        head = f"epoch {min(epoch, epochs)}/{epochs}" if epochs not in (None, -1) else f"epoch {epoch}"
        steps = float(trainer.fit_loop.total_batch_idx + 1)
        return Look(steps, f"{head}, {self._step(trainer)}", self._figures)

    def _step(self, trainer: Trainer) -> str:
        """What an epoch of training is doing."""
        planning = _first(trainer, CEMPlanning)
        collecting = planning.collecting if planning is not None else None
        if collecting is not None:
            return "collecting {}/{} decisions".format(*collecting)
        if trainer.validating:
            return self._episodes.text
        return f"learning {trainer.fit_loop.batch_idx + 1}/{trainer.num_training_batches} steps"

    # Hooks of training ---------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the bar where training stands."""
        epochs = trainer.max_epochs or -1
        self._open(trainer, epochs * int(trainer.num_training_batches) if epochs != -1 else None)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the figures of what the epoch collected; callbacks before this one have collected it."""
        self._note_figures(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the figures of the epoch."""
        self._note_figures(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the bar."""
        self._close()

    def _note_figures(self, trainer: Trainer) -> None:
        metrics, planning = trainer.callback_metrics, _first(trainer, CEMPlanning)
        parts = []
        for prefix, when in (("collect", "collecting"), ("val", "validation")):
            if f"{prefix}/latency" in metrics and f"{prefix}/hit_ratio" in metrics:
                latency, hits = (float(metrics[f"{prefix}/{name}"]) for name in ("latency", "hit_ratio"))
                parts.append(f"Σ latency {latency:.1f} s, hits {hits:.3f} ({when})")
        if planning is not None and planning.slots_per_second is not None:
            parts.append(f"{planning.slots_per_second:.0f} slots/s (collecting)")
        self._figures = ", ".join(parts)

    # Hooks of episodes ---------------------------------------------------------------------------------------------

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin with the validation's episodes; in a bar of their own where they are all that was asked for."""
        self._begin(trainer, "validating", trainer.val_dataloaders, trainer.num_val_batches)
        if trainer.state.fn == "validate":
            self._open(trainer, self._episodes.total)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open a bar for the test's episodes and those of the references."""
        self._begin(trainer, "testing", trainer.test_dataloaders, trainer.num_test_batches)
        self._open(trainer, self._episodes.total)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open a bar for the episodes whose decisions are written."""
        self._begin(trainer, "predicting", trainer.predict_dataloaders, trainer.num_predict_batches)
        self._open(trainer, self._episodes.total)

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Note which networks play."""
        self._episodes.network = batch

    on_test_batch_start = on_predict_batch_start = on_validation_batch_start

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count the episodes that were played."""
        self._episodes.end(batch)

    on_test_batch_end = on_predict_batch_end = on_validation_batch_end

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the figures of a validation within a training."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._note_figures(trainer)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the bar before the results are shown, if it is one of episodes alone."""
        if trainer.state.fn != "fit":
            self._close()

    on_test_epoch_end = on_predict_epoch_end = on_validation_epoch_end

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Close the bar before the error is shown."""
        self._close()

    # The bar -------------------------------------------------------------------------------------------------------

    def _begin(self, trainer: Trainer, verb: str, loader: Any, batches: Any) -> None:
        number = int(sum(batches) if isinstance(batches, list) else batches)
        self._episodes = Episodes(
            verb, number, getattr(loader, "parallel", 1), getattr(loader, "num_episodes", number)
        )

    def _open(self, trainer: Trainer, total: int | None) -> None:
        if self._enabled and trainer.is_global_zero and (console := make_console()).is_terminal:
            self._display = _Display(console, lambda: self.look(trainer), total, trainer.state.fn != "fit")
            self._display.start()

    def _close(self) -> None:
        if self._display is not None:
            self._display.stop()
            self._display = None


class Episodes:
    """Episodes that are played in batches, and how far they are.

    Args:
        verb: what is done, such as `testing`.
        batches: how many are played.
        parallel: episodes of a batch at most.
        num_episodes: of all batches there are.
    """

    def __init__(self, verb: str = "", batches: int = 0, parallel: int = 1, num_episodes: int = 0) -> None:
        self.verb = verb
        self.total = min(num_episodes, batches * parallel)
        self.network: Any = None
        """What plays now."""
        self._over = 0

    def end(self, batch: Any) -> None:
        """The episodes of a batch are over."""
        self._over += getattr(batch, "num_envs", 1)
        self.network = None

    @property
    def done(self) -> float:
        """Episodes so far; of those that are being played, the share of their slots."""
        network = self.network
        if not isinstance(network, EdgeNetwork):
            return float(self._over)
        return self._over + network.num_envs * network.slot / network.scenario.slots_per_episode

    @property
    def text(self) -> str:
        """Such as `testing 0/100 episodes, slot 12/50`: those of a batch are played side by side."""
        network = self.network
        text = f"{self.verb} {self._over}/{self.total} episodes"
        if not isinstance(network, EdgeNetwork):
            return text
        return f"{text}, slot {network.slot}/{network.scenario.slots_per_episode}"


class _Display(Progress):
    """A bar that asks what to show whenever it is drawn, and a line of figures below it."""

    def __init__(self, console: Console, look: Callable[[], Look], total: int | None, passing: bool) -> None:
        columns = BarColumn(bar_width=10), TimeElapsedColumn(), TimeRemainingColumn()
        doing = TextColumn("{task.fields[doing]}", markup=False)
        self._look = look  # before the base class draws
        super().__init__(*columns, doing, console=console, refresh_per_second=4, transient=passing)
        self.add_task("", total=total, doing="")

    def get_renderables(self) -> Any:
        """The bar, and the figures in as many lines as they take."""
        look = self._look()
        for task in self.task_ids:
            self.update(task, completed=look.done, doing=look.doing)
        figures: list[RenderableType] = (
            [Text(plain(look.figures, self.console.encoding))] if look.figures else []
        )
        return [*super().get_renderables(), *figures]


def _reference(trainer: Trainer) -> str:
    """Name of the reference policy that plays; empty where none does."""
    evaluation = _first(trainer, EpisodeEvaluation)
    return evaluation.reference if evaluation is not None else ""


def _first(trainer: Trainer, kind: type[Any]) -> Any:
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return next((one for one in callbacks if isinstance(one, kind)), None)

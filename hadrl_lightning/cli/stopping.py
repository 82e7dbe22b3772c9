"""Ends before the end: a stop where a training can be resumed from, on all ranks at once, or the loss of a rank."""

import os
import re
import shlex
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import distributed

from hadrl_lightning.cli.checkpoints import LAST, last_good
from hadrl_lightning.cli.signals import Stopped, StopSignals
from hadrl_lightning.distributed import largest_of_ranks
from hadrl_lightning.errors import HadrlError, NonFiniteError, OutputError
from hadrl_lightning.files import DISK_ERRORS, unwritable

_LOST = re.compile(r"gloo|nccl|TCPStore|(?i:connection (closed|reset|refused)|broken pipe|timed out)")
"""What the messages of torch.distributed's backends have in common."""


class GracefulStop(Callback):
    """Ends what the Trainer does when a signal asks for it.

    Training ends after the batch or the collected frame at hand; a validation within it, a test or a prediction ends at
    once, with several ranks after the batch at hand. All ranks agree before they stop, whichever got the signal.

    Lightning's own answer to SIGTERM is put aside: it broadcasts from within the signal handler, where other ranks
    don't listen, and ends without a checkpoint.

    Args:
        signals: Notes the signals.
    """

    def __init__(self, signals: StopSignals) -> None:
        self.signals = signals
        self.signum = 0
        """The signal that all ranks stop for; 0 while they go on."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Put Lightning's handler aside; it calls the one that was there before, which is ours."""
        connector: Any = trainer._signal_connector
        connector._sigterm_notifier_fn = lambda signum, frame: None

    def on_frame_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop while collecting."""
        self._stop_if_agreed(trainer)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Have Lightning stop when it has logged the batch; after the last one of an epoch, at the epoch's end."""
        if self._agreed(trainer):
            trainer._signal_connector.received_sigterm = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Have Lightning stop when it has logged the epoch."""
        if self._agreed(trainer):
            trainer._signal_connector.received_sigterm = True

    def on_validation_batch_start(self, trainer: Trainer, *_: Any) -> None:
        """Stop before the episodes are played, or while they are."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._stop_if_agreed(trainer)
        self._abandon(trainer)

    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """The rest of a training is worth keeping."""
        self.signals.keep()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing of a test is kept."""
        self._abandon(trainer)

    def on_test_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Stop a test of several ranks."""
        self._stop_if_agreed(trainer)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing of a prediction is kept."""
        self._abandon(trainer)

    def on_predict_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Stop a prediction of several ranks."""
        self._stop_if_agreed(trainer)

    def _abandon(self, trainer: Trainer) -> None:
        if trainer.world_size == 1:  # another rank might wait for this one
            self.signals.abandon()

    def _stop_if_agreed(self, trainer: Trainer) -> None:
        if self._agreed(trainer):
            raise Stopped(self.signum)

    def _agreed(self, trainer: Trainer) -> bool:
        """Whether any rank was asked to stop; all ranks have to call."""
        self.signum = largest_of_ranks(self.signals.requested, trainer.strategy.root_device)
        return self.signum != 0


@contextmanager
def ending_in_one_line(
    stop: GracefulStop, words: Sequence[str], folder: Callable[[], Path | None]
) -> Iterator[None]:
    """Within, what ends a training from outside is told with the checkpoint to go on from.

    Rank 0 speaks for all ranks that end together; the others end quietly, and with status 0: a launcher may kill rank 0
    when another rank fails.

    Args:
        stop: Ends the training.
        words: The command line.
        folder: Gives the folder of the checkpoints; None where nothing is trained.

    Raises:
        Stopped: a signal came; with the command that goes on.
        OutputError, NonFiniteError: with the last good checkpoint.
    """
    shown = threading.excepthook
    threading.excepthook = _unless_of_the_disk
    try:
        yield
    except (Stopped, SIGTERMException) as error:
        _end_quietly()
        signum = error.signum if isinstance(error, Stopped) else stop.signum
        raise Stopped(signum or signal.SIGTERM, resuming(words, folder())) from None
    except (OutputError, NonFiniteError) as error:
        _end_quietly()
        at = folder()
        raise type(error)(f"{error}; {last_good(at)}" if at is not None else str(error)) from error
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        at = folder()
        raise unwritable(error, f"; {last_good(at)}" if at is not None else "") from error
    finally:
        threading.excepthook = shown


def _unless_of_the_disk(problem: threading.ExceptHookArgs) -> None:
    """Show what a thread died of; what the disk refused, TensorBoard's thread hands over to the main thread."""
    if not (isinstance(problem.exc_value, OSError) and problem.exc_value.errno in DISK_ERRORS):
        threading.__excepthook__(problem)


def _end_quietly() -> None:
    if getattr(rank_zero_only, "rank", 0):
        raise SystemExit(0)


def resuming(words: Sequence[str], folder: Path | None) -> str:
    """How to go on: the command line `words` with last.ckpt in `folder`; as it is where there is none."""
    checkpoint = folder / LAST if folder is not None else None
    if checkpoint is None or not checkpoint.is_file():
        return f"start again with: {shlex.join(['hadrl', *words])}"
    kept, rest = [], list(words)
    while rest:
        word = rest.pop(0)
        if word in ("--ckpt_path", "--weights") and rest:
            rest.pop(0)
        elif not word.startswith(("--ckpt_path=", "--weights=")):
            kept.append(word)
    shown = os.path.relpath(checkpoint)
    return f"resume with: {shlex.join(['hadrl', *kept, '--ckpt_path', shown])}"


class RankLost(HadrlError):
    """Another rank ended or stopped answering: no mistake of the user."""

    status = 1


@contextmanager
def naming_lost_ranks(advice: Callable[[], str]) -> Iterator[None]:
    """Turn the failure of an exchange between ranks into a `RankLost` that says what to do.

    Args:
        advice: how to go on.
    """
    try:
        yield
    except RuntimeError as error:
        if not _is_of_exchange(error):
            raise
        raise RankLost(
            f"another rank ended or does not answer; {advice()} ({_who()} saw: {_reason(error)})"
        ) from error


def _met() -> bool:
    """Whether the ranks have found each other."""
    return distributed.is_available() and distributed.is_initialized()


def _who() -> str:
    if not _met():
        return "the ranks had not all met; this one"
    return f"rank {distributed.get_rank()} of {distributed.get_world_size()}"


def _is_of_exchange(error: RuntimeError) -> bool:
    if distributed.is_available() and isinstance(error, distributed.DistError):
        return True
    return _met() and distributed.get_world_size() > 1 and _LOST.search(str(error)) is not None


def _reason(error: RuntimeError) -> str:
    """What the backend says, without the place in its source."""
    text = " ".join(str(error).split())
    return re.sub(r"^\[[^]]*\] *", "", text).partition(". ")[0][:120]

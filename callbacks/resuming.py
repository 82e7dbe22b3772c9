"""What Lightning leaves out of a checkpoint, so that a resumed run ends as the first would have ended.

`RandomState`: the global generators. `EpochMetrics`: what an unfinished epoch has logged so far.
"""

import random
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import ParallelStrategy

from hadrl_lightning.distributed import of_each_rank


class RandomState(Callback):
    """Stores the states of torch's, Python's and numpy's global generators in the checkpoint.

    The package itself draws from generators of its own, stored by their owners; this is for what a user adds.
    Lightning stores no generator. The state is restored when training starts, after everything else that may draw.
    """

    def __init__(self) -> None:
        self._restored: list[dict[str, Any]] = []

    def state_dict(self) -> dict[str, Any]:
        """States of each rank as tensors and plain numbers, which load with `weights_only`."""
        return {"ranks": of_each_rank(self._own())}

    @staticmethod
    def _own() -> dict[str, Any]:
        name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # noqa: NPY002 (to store it)
        return {
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "python": random.getstate(),
            "numpy": (name, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, cached),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the states until training starts."""
        self._restored = list(state_dict.get("ranks", [state_dict]))  # once there was that of rank 0 alone

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the states; a rank that had none before keeps its own."""
        ranks, self._restored = self._restored, []
        if trainer.global_rank >= len(ranks):
            return
        state = ranks[trainer.global_rank]
        torch.set_rng_state(state["torch"].cpu())
        if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all([one.cpu() for one in state["cuda"]])
        version, internal, gauss = state["python"]
        random.setstate((version, tuple(internal), gauss))
        name, keys, position, has_gauss, cached = state["numpy"]
        np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002


_LOGGED_AS = ("prog_bar", "logger", "on_step", "on_epoch", "add_dataloader_idx", "metric_attribute")


class EpochMetrics(Callback):
    """Stores in the checkpoint, of every rank, the means that the epoch has accumulated.

    Lightning doesn't: resumed in mid-epoch, it would log the means of the rest of the epoch only, and nothing of what
    was logged at its start. Only values are kept, not metric objects that were logged. One rank does not tell what
    several would reduce: resumed on several, all of it is.
    """

    def __init__(self) -> None:
        self._restored: list[dict[str, Any]] = []

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add what is logged of an unfinished epoch."""
        epochs: Any = trainer.fit_loop.epoch_progress.current
        if epochs.started == epochs.processed:  # none is under way
            return
        distributed = isinstance(trainer.strategy, ParallelStrategy)
        metrics = trainer.fit_loop.epoch_loop._results.values()
        own = [{**_state(metric), "distributed": distributed} for metric in metrics if metric.is_tensor]
        checkpoint["epoch_metrics"] = of_each_rank(own)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep it until training starts."""
        ranks = checkpoint.get("epoch_metrics", [])
        self._restored = ranks[min(trainer.global_rank, len(ranks) - 1)] if ranks else []  # ranks log alike

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on accumulating."""
        restored, self._restored = self._restored, []
        if not restored:
            return
        for state in restored:
            _restore(trainer, state)
        # The batch that comes is not the first one of its epoch, for which Lightning would start anew.
        trainer._logger_connector._first_loop_iter = True


def _state(metric: Any) -> dict[str, Any]:
    meta = metric.meta
    return {
        **{name: getattr(meta, name) for name in ("fx", "name", *_LOGGED_AS)},
        "reduce_fx": meta.reduce_fx.__name__,
        "sync_dist": meta.sync.should,
        "value": metric.value.detach().cpu(),
        "batches": metric.cumulated_batch_size.cpu() if meta.is_mean_reduction else None,
    }


def _restore(trainer: Trainer, state: dict[str, Any]) -> None:
    results, device = trainer.fit_loop.epoch_loop._results, trainer.strategy.root_device
    distributed = isinstance(trainer.strategy, ParallelStrategy)
    value = state["value"].to(device)
    results.log(
        state["fx"],
        state["name"],
        value,
        **{name: state[name] for name in _LOGGED_AS},
        reduce_fx=getattr(torch, state["reduce_fx"]),
        sync_dist=distributed and (state["sync_dist"] or not state["distributed"]),
        sync_dist_fn=trainer.strategy.reduce,
        batch_size=1,
    )
    metric: Any = results[f"{state['fx']}.{state['name']}"]
    metric.value = value
    if state["batches"] is not None:
        metric.cumulated_batch_size = state["batches"].to(device)

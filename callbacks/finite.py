"""`FiniteNumbers`: what becomes of numbers that are infinite or not a number."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from jaxtyping import Bool
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn import Parameter

from hadrl_lightning.distributed import largest_of_ranks, of_each_rank
from hadrl_lightning.errors import NonFiniteError

KINDS = ("loss", "gradient", "plan", "transition")
"""What is counted."""


class FiniteNumbers(Callback):
    """Stops the training where a number is not finite, or skips what it would spoil and counts it.

    Looked at are the loss and the gradient of every update, before gradients are clipped; every plan and caching
    decision while collecting; observations, rewards and latencies before they enter a replay buffer; and the parameters
    before they enter a checkpoint.

    `stop` raises an error that names the quantity, the parameter or the network, and when. Nothing broken gets into the
    models or a checkpoint. `skip` leaves out the update, with weights and the optimizer's moments as they were; takes
    the middle of the action space for the plan; does not store the transition. What is skipped in an epoch is logged as
    `nonfinite/loss`, `gradient`, `plan` and `transition`, and shown at the end. A parameter that is not finite always
    stops. Ranks decide together.

    Args:
        action: `stop` or `skip`.

    Raises:
        ValueError: another action.
    """

    def __init__(self, action: Literal["stop", "skip"] = "stop") -> None:
        if action not in ("stop", "skip"):
            raise ValueError(f"action must be stop or skip, got {action!r}")
        self.action = action
        self.counts = dict.fromkeys(KINDS, 0)
        """Skipped in this epoch, on this rank."""
        self.totals = dict.fromkeys(KINDS, 0)
        """Skipped in the epochs before, on this rank."""
        self._parameters: list[Parameter] = []
        self.counts_networks = True
        """Whether this rank counts what is broken in networks: one of all ranks that collect as one does."""
        self._loss: Tensor | None = None
        self._restored: list[dict[str, Any]] = []

    @staticmethod
    def of(trainer: Trainer) -> "FiniteNumbers":
        """The one among the callbacks of a Trainer; without any, one that stops."""
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        return next((one for one in callbacks if isinstance(one, FiniteNumbers)), FiniteNumbers())

    # Updates -------------------------------------------------------------------------------------------------------

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Keep the loss until its gradient is there too."""
        self._loss = loss

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop, or leave the update out: parameters without a gradient are passed over by the optimizer."""
        assert self._loss is not None
        loss, self._loss = self._loss, None
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        if self._is_scaled(trainer):
            gradients = []  # scaled: there the scaler looks for what overflows, and skips
        numbers = torch.cat([loss.detach().view(1), *(gradient.reshape(-1) for gradient in gradients)])
        own = 0
        if bool((numbers * 0).sum() != 0):  # 0·∞ and 0·NaN are NaN
            own = 1 if bool(loss.isfinite()) else 2
        worst = largest_of_ranks(own, loss.device)
        if worst == 0:
            return
        kind = ("gradient", "loss")[worst - 1]  # the loss of one rank spoils the gradient of all
        when = f"in epoch {trainer.current_epoch}, batch {trainer.fit_loop.batch_idx}"
        self._stop_or_skip(own == worst, lambda: f"{_broken_update(kind, loss, pl_module)} {when}")
        self.counts[kind] += int(trainer.is_global_zero)  # one update of all ranks
        scaled = self._is_scaled(trainer)
        for parameter in self._parameters:
            if scaled and parameter.grad is not None:
                parameter.grad.fill_(
                    float("nan")
                )  # the scaler skips it; it would not bear an update without gradients
            else:
                parameter.grad = None

    # Collecting ----------------------------------------------------------------------------------------------------

    def broken(
        self, fields: Mapping[str, Tensor], when: str, kind: str | None = None
    ) -> Bool[Tensor, " networks"] | None:
        """Which networks have a number that is not finite; None where none has.

        Args:
            fields: tensors [networks, ...] by the name that an error shall give them; on one device.
            when: for the error.
            kind: counts each such network under this name.

        Raises:
            NonFiniteError: there is one, on any rank, and the action is `stop`.
        """
        rows = {
            name: value.flatten(1) if value.ndim > 1 else value[:, None] for name, value in fields.items()
        }
        finite = torch.cat(list(rows.values()), dim=1).isfinite().all(dim=1)
        own = not bool(finite.all())
        if self.action == "stop" and largest_of_ranks(own, finite.device):
            self._stop_or_skip(own, lambda: f"{_broken_field(rows)}, {when}")
        if not own:
            return None
        if kind is not None:
            self.counts[kind] += int((~finite).sum()) * self.counts_networks
        return ~finite

    # Results -------------------------------------------------------------------------------------------------------

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log what was skipped."""
        if self.action == "stop":
            return
        for kind in KINDS:
            count = float(self.counts[kind])
            pl_module.log(f"nonfinite/{kind}", count, batch_size=1, sync_dist=True, reduce_fx="sum")
            self.totals[kind] += self.counts[kind]
            self.counts[kind] = 0

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show what was skipped."""
        totals = torch.tensor([self.totals[kind] for kind in KINDS], device=trainer.strategy.root_device)
        totals = trainer.strategy.reduce(totals, reduce_op="sum")
        if trainer.is_global_zero and int(totals.sum()):
            parts = [f"{int(n)} {kind}" for kind, n in zip(KINDS, totals, strict=True) if int(n)]
            print(f"Skipped because they were not finite: {', '.join(parts)}")  # noqa: T201 (a result)

    # Checkpoints ---------------------------------------------------------------------------------------------------

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep parameters that are not finite out of the files.

        Raises:
            NonFiniteError: there is one, on any rank.
        """
        names = [name for name, value in pl_module.named_parameters() if not bool(value.isfinite().all())]
        if largest_of_ranks(bool(names), trainer.strategy.root_device):
            text = _of_first_rank(f"parameter {names[0]} must be finite" if names else "")
            raise NonFiniteError(
                f"{text}, after epoch {trainer.current_epoch}, batch {trainer.fit_loop.batch_idx}"
            )

    def state_dict(self) -> dict[str, Any]:
        """What was skipped, by rank."""
        return {"ranks": of_each_rank({"counts": self.counts, "totals": self.totals})}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the counts until training starts."""
        self._restored = state_dict["ranks"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on counting; note what is trained."""
        self._parameters = [one for one in pl_module.parameters() if one.requires_grad]
        ranks, self._restored = self._restored, []
        if trainer.global_rank < len(ranks):
            own = ranks[trainer.global_rank]
            self.counts, self.totals = dict(own["counts"]), dict(own["totals"])

    @staticmethod
    def _is_scaled(trainer: Trainer) -> bool:
        return getattr(trainer.precision_plugin, "scaler", None) is not None

    def _stop_or_skip(self, own: bool, describe: Callable[[], str]) -> None:
        if self.action == "stop":
            raise NonFiniteError(_of_first_rank(describe() if own else ""))


def _broken_update(kind: str, loss: Tensor, module: LightningModule) -> str:
    """The loss by the part of the model that it trains, or the first parameter whose gradient is not finite."""
    if kind == "loss":
        return f"loss{_trained(loss, module)} must be finite, got {float(loss.detach())}"
    gradients = ((name, value.grad) for name, value in module.named_parameters() if value.grad is not None)
    for name, gradient in gradients:
        bad = gradient[~gradient.isfinite()]
        if len(bad):
            return (
                f"gradient of {name} must be finite, got {float(bad[0])} ({len(bad)} of {gradient.numel()})"
            )
    raise AssertionError("there is one")


def _trained(loss: Tensor, module: LightningModule) -> str:
    """of world_model, of caching_agent.actor, …: the part whose parameters the loss depends on."""
    names: dict[Any, str] = {value: name for name, value in module.named_parameters()}
    seen, nodes = set(), [loss.grad_fn]
    while nodes:
        node: Any = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        name = names.get(getattr(node, "variable", None))
        if name is not None:
            parts = name.split(".")[:-1]
            return f" of {'.'.join(parts[: 2 if parts[:1] == ['caching_agent'] else 1])}" if parts else ""
        nodes += [function for function, _ in node.next_functions]
    return ""


def _broken_field(rows: Mapping[str, Tensor]) -> str:
    for name, value in rows.items():
        bad = ~value.isfinite()
        if bool(bad.any()):
            network = int(bad.any(dim=1).nonzero()[0])
            return f"{name} must be finite, got {float(value[bad][0])} in network {network}"
    raise AssertionError("there is one")


def _of_first_rank(text: str) -> str:
    """The text of the first rank that has one."""
    texts = of_each_rank(text)
    rank = next(rank for rank, one in enumerate(texts) if one)
    return texts[rank] + (f", on rank {rank}" if len(texts) > 1 else "")

"""`EnsembleParallelStrategy`: the members of an ensemble spread over ranks, the rest data-parallel."""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy, StrategyRegistry
from torch import Tensor, nn
from torch.optim import Optimizer

from hadrl_lightning.agents import HADRL
from hadrl_lightning.distributed.collectives import ActingAsOne, Share, gathered_on_root, summed, this_rank
from hadrl_lightning.distributed.members import (
    MemberWise,
    MergedOverRanks,
    SharesRows,
    member_parameters,
    members_held,
)
from hadrl_lightning.ensemble_parallel.planning import plan_on_ranks
from hadrl_lightning.errors import HadrlError

NAME = "ensemble_parallel"


class EnsembleParallelStrategy(ActingAsOne, DDPStrategy):
    """Each rank holds, trains and stores only its share of the members of an ensemble (`MemberWise`).

    All ranks have to train on the same data, and losses are parts that add up over ranks: so do the gradients of
    parameters that all ranks hold, when `backward` returns. A rank's optimizer knows its members only. Checkpoints are
    whole, as one process would write them, and resume on any number of ranks: rank 0 puts them together on the CPU,
    parameter by parameter. After training, the module keeps the members of its rank; load a checkpoint for all.

    Args:
        timeout_s: seconds after which a rank that waits for another one gives up. A rank that ends is noticed at once;
            this is for one that hangs. It has to be longer than what rank 0 does alone, such as playing the reference
            policies of a test.
        arguments: of `DDPStrategy`.

    Raises:
        ValueError: a timeout that is not above 0.
        HadrlError: more ranks than members, a module without an ensemble, or one whose plans weigh what ranks can't.
    """

    strategy_name = NAME

    def __init__(self, timeout_s: float = 1800.0, **arguments: Any) -> None:
        if not 0 < timeout_s < float("inf"):
            raise ValueError(f"timeout_s must be above 0 and finite, got {timeout_s}")
        super().__init__(timeout=timedelta(seconds=timeout_s), **arguments)
        self.timeout_s = timeout_s
        self._hooks: list[Any] = []

    # --- setting up ------------------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer) -> None:
        """Give up the members of other ranks, before optimizers are made, and tell the agent's parts of their ranks."""
        module = self._module()
        spread_members(module)
        # Where nothing is trained, DDP gives all ranks the parameters of rank 0, but for those that are named so.
        names: Any = [name for name, _ in member_parameters(module)]
        module._ddp_params_and_buffers_to_ignore = names
        super().setup(trainer)
        if this_rank().ranks > 1:
            own = {id(parameter) for _, parameter in member_parameters(module)}
            shared = [one for one in module.parameters() if one.requires_grad and id(one) not in own]
            self._hooks = [parameter.register_hook(summed) for parameter in shared]

    def configure_ddp(self) -> None:
        """No wrapper: gradients of the members are nobody else's, and those of the rest are summed by hooks."""

    def teardown(self) -> None:
        """Leave the module without hooks."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        super().teardown()

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        """Checkpoints are whole: each rank takes its members once it knows them."""
        return True

    @classmethod
    def register_strategies(cls, strategy_registry: Any) -> None:
        """Make the name known to `Trainer`."""
        if NAME not in strategy_registry:
            strategy_registry.register(NAME, cls, description="members of an ensemble spread over ranks")

    # --- checkpoints -----------------------------------------------------------------------------------------------

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The weights of all members on rank 0, on the CPU; those held here elsewhere."""
        module = self._module()
        state = module.state_dict()
        for name, parameter in member_parameters(module):
            whole = gathered_on_root(parameter, self._shares())
            if whole is not None:
                state[name] = whole
        return state

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The state for all members on rank 0, on the CPU; for those held here elsewhere."""
        saved: dict[str, Any] = super().optimizer_state(optimizer)
        entries = {index: dict(entry) for index, entry in saved["state"].items()}
        for index, shape in self._member_wise(optimizer).items():
            for name, value in entries.get(index, {}).items():
                if isinstance(value, Tensor) and value.shape == shape:
                    whole = gathered_on_root(value, self._shares())
                    entries[index][name] = value if whole is None else whole
        return {**saved, "state": entries}

    def load_checkpoint(
        self, checkpoint_path: str | Path, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """The checkpoint, mapped from its file: a rank holds no more of it than it keeps, but reads all to check it."""
        if not Path(checkpoint_path).is_file():  # remote storage
            return super().load_checkpoint(checkpoint_path, weights_only)
        return torch.load(
            str(checkpoint_path), map_location="cpu", mmap=True, weights_only=weights_only is not False
        )

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Take this rank's members from a whole checkpoint."""
        module = self._module()
        state, items = dict(checkpoint["state_dict"]), self._held().items
        for name, _ in member_parameters(module):
            state[name] = state[name][items]
        module.load_state_dict(state, strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Take the state for this rank's members from a whole checkpoint."""
        held, states = self._held(), []
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            entries = {index: dict(entry) for index, entry in saved["state"].items()}
            for index, shape in self._member_wise(optimizer).items():
                for name, value in entries.get(index, {}).items():
                    if isinstance(value, Tensor) and value.shape == (held.total, *shape[1:]):
                        entries[index][name] = value[held.items].clone()
            states.append({**saved, "state": entries})
        super().load_optimizer_state_dict({"optimizer_states": states})

    # --- what is where ---------------------------------------------------------------------------------------------

    def _module(self) -> LightningModule:
        assert self.lightning_module is not None
        return self.lightning_module

    def _held(self) -> Share:
        held = members_held(self._module())
        assert held is not None
        return held

    def _shares(self) -> list[Share]:
        ranks = this_rank().ranks
        return [Share.fair(self._held().total, rank, ranks) for rank in range(ranks)]

    def _member_wise(self, optimizer: Optimizer) -> dict[int, torch.Size]:
        """Shapes of the member-wise parameters of an optimizer, by their index in its state dict."""
        own = {id(parameter) for _, parameter in member_parameters(self._module())}
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        return {index: one.shape for index, one in enumerate(parameters) if id(one) in own}


def require_members(module: nn.Module, ranks: int) -> Share:
    """The members that a module holds.

    Raises:
        HadrlError: more ranks than members, a module without an ensemble, or one whose plans weigh what ranks can't.
    """
    held = members_held(module)
    if held is None:
        raise HadrlError(
            f"trainer.strategy {NAME} needs a model with an ensemble, got {type(module).__name__}"
        )
    if ranks > held.total:
        raise HadrlError(
            f"trainer.devices x trainer.num_nodes must be at most the members of the ensemble ({held.total}) for "
            f"trainer.strategy {NAME}, got {ranks}"
        )
    if ranks > 1 and any(getattr(part, "weighs_beyond_sums", False) for part in module.modules()):
        raise HadrlError(
            f"preferences.missed and preferences.dropped must be 0 under trainer.strategy {NAME}, whose plans go by "
            "sums alone: another strategy plans by them"
        )
    return held


def spread_members(module: nn.Module) -> None:
    """Has a module learn and plan as one of the ranks that share its ensemble.

    It keeps this rank's members, takes the gradient of this rank's rows of other batches, merges nothing that all ranks
    see alike, and plans with the members of all ranks.

    Raises:
        HadrlError: what `require_members` refuses, or a module that is spread over other ranks.
    """
    own = this_rank()
    held = require_members(module, own.ranks)
    share = Share.fair(held.total, *own)
    if not held.is_whole and held != share:
        raise HadrlError(f"the model must hold all {held.total} members to be spread anew, got {held.count}")
    for part in module.modules():
        if isinstance(part, MemberWise) and part.held != share:
            part.hold(share)
        if isinstance(part, MergedOverRanks):
            part.same_on_all_ranks = own.ranks > 1
        if isinstance(part, SharesRows):
            part.data_share = own
        if isinstance(part, HADRL) and own.ranks > 1:
            part.plan_by = plan_on_ranks


EnsembleParallelStrategy.register_strategies(StrategyRegistry)

"""Adam, as the agents use it."""

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor
from torch.optim import Adam


class ResumedAdam(Adam):
    """Adam in one call for all parameters; it goes on with the moments of a state it loads, but by its own settings.

    PyTorch's takes learning rate, epsilon and all from the state, so that a run resumed with others would ignore them.

    Args:
        parameters: what to train.
        lr: the learning rate.
        eps: Adam's epsilon.
    """

    def __init__(self, parameters: Iterable[Tensor], lr: float, eps: float = 1e-8) -> None:
        super().__init__(parameters, lr=lr, eps=eps, fused=True)
        # A gradient scaler would leave it to a fused step to undo the scale, after gradients were clipped.
        self._step_supports_amp_scaling = False

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes moments and steps, and no settings."""
        own = [{name: group[name] for name in group if name != "params"} for group in self.param_groups]
        groups = [{**saved, **mine} for saved, mine in zip(state_dict["param_groups"], own, strict=True)]
        # by which it also puts steps where a fused step needs them
        super().load_state_dict({**state_dict, "param_groups": groups})


class DecayingAdam(ResumedAdam):
    """Adam whose learning rate rises over the first steps and then falls as 1/(1 + step/decay).

    The rate follows from the steps that the parameters have taken, as Adam's state counts them: it is restored with a
    checkpoint, and it starts anew where the state is cleared. No scheduler is needed, so manual optimisation will do.

    Args:
        parameters: what to train.
        learning_rate: the largest rate, or what tells it when it is due: a model may know only from the checkpoint that
            it resumes how fast it shall learn.
        decay_steps: steps after the warm-up in which the rate falls to half; None: it stays.
        warmup_steps: steps in which the rate rises from 0.
        epsilon: Adam's epsilon.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        learning_rate: float | Callable[[], float],
        decay_steps: float | None = None,
        warmup_steps: int = 100,
        epsilon: float = 1e-8,
    ) -> None:
        self._told = learning_rate if callable(learning_rate) else lambda: learning_rate
        self._largest: float | None = None
        super().__init__(parameters, lr=self._told(), eps=epsilon)
        self.decay_steps = decay_steps
        self.warmup_steps = warmup_steps
        self._taken = 0

    @property
    def num_steps(self) -> int:
        """Steps taken since the state was empty."""
        return self._taken if self.state else 0

    def step(self, closure: Any = None) -> Any:
        """One step at the rate that is due."""
        taken = self.num_steps
        self._set_rate(taken)
        moves = any(one.grad is not None for group in self.param_groups for one in group["params"])
        result = super().step(closure)
        self._taken = taken + moves  # counted here: the state's own count may lie on a GPU
        return result

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes moments and steps; the rate is that of the last step taken, by the settings at hand."""
        super().load_state_dict(state_dict)
        self._largest = None
        self._taken = max((int(state["step"]) for state in self.state.values() if "step" in state), default=0)
        if self.num_steps:
            self._set_rate(self.num_steps - 1)

    def _set_rate(self, taken: int) -> None:
        """The rate of the step after so many."""
        rate = self._largest = self._told() if self._largest is None else self._largest
        if self.decay_steps is not None:
            late = max(0, taken - self.warmup_steps)
            rate *= min(1.0, (taken + 1) / max(1, self.warmup_steps)) / (1 + late / self.decay_steps)
        for group in self.param_groups:
            group["lr"] = rate

"""What a planner asks of a model, and rolling candidates through it."""

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from hadrl_lightning.simulator import Seen

Members = Int[Tensor, " m"] | None
"""Members of an ensemble; None: all."""
ROWS_AT_ONCE = 16_384
"""Rows (networks × candidates × members) that a model predicts at once, where nothing else is said."""
PAIRS_AT_ONCE = 8192
"""Pairs of a user and a server, of all networks, that are described at once, where nothing else is said."""


class Prediction(NamedTuple):
    """What each member expects of one step of each row. Rows are networks × candidates, network-major."""

    mean: Float[Tensor, "member rows dim"]
    """Mean of what the model predicts: the normalised change of a vector, or every user's log latency."""

    log_var: Float[Tensor, "member rows dim"]
    """Log-variance of it."""

    reward_mean: Float[Tensor, "member rows"]
    """Mean of the reward of the state before the step and its action, in units of the reward."""

    reward_log_var: Float[Tensor, "member rows"]
    """Log-variance of that reward."""


@runtime_checkable
class PlanningModel(Protocol):
    """A model of one step, by an ensemble of members. Anything that has these three names can be planned with."""

    @property
    def num_members(self) -> int:
        """Members E of the ensemble."""

    def start(self, view: Seen, num_candidates: int, members: Members) -> Any:
        """The state, of a kind only the model knows, of `num_candidates` rows for every network, network-major.

        Args:
            view: what is seen of each network at present; planners pass it through and only take some of its rows.
            num_candidates: rows a network.
            members: those that will be asked; None: all.
        """

    def step(
        self, state: Any, action: Float[Tensor, "rows action"], members: Members
    ) -> tuple[Prediction, Any]:
        """What the members (None: all) predict of the action in the state, and the state that follows."""


def rollout(
    model: PlanningModel,
    view: Seen,
    action: Float[Tensor, "networks candidates horizon action"],
    members: Members = None,
) -> Iterator[Prediction]:
    """Predictions of the steps 0 … horizon − 1, one at a time so that only one is in memory.

    The prediction number t is of the pair (s_t, a_t): the first is of the present state and the first action.

    Args:
        model: the model of a step.
        view: what is seen of each network at present.
        action: candidate sequences.
        members: members to use; None: all.
    """
    num_networks, num_candidates, horizon, action_size = action.shape
    state = model.start(view, num_candidates, members)
    for t in range(horizon):
        rows = action[:, :, t].reshape(num_networks * num_candidates, action_size)
        prediction, state = model.step(state, rows, members)
        yield prediction


def in_parts(
    model: PlanningModel,
    action: Float[Tensor, "networks candidates action"],
    members: Members,
    max_rows: int,
) -> tuple[Float[Tensor, "networks part action"], ...]:
    """The candidates split so that no more than `max_rows` rows are predicted at once, one at a time at least."""
    num_members = model.num_members if members is None else len(members)
    return action.split(max(1, max_rows // (num_members * len(action))), dim=1)


def require_outcomes(prediction: Prediction, num_users: int) -> None:
    """Raises a ValueError unless one outcome is predicted for each user."""
    found = prediction.mean.shape[-1]
    if found != num_users:
        raise ValueError(f"the model must predict one outcome for each of {num_users} users, got {found}")

"""What a step would teach: measures of the epistemic value, one function and one line of the registry each.

Every form of the free energy uses them, and the setting `strategy` names them. One of your own is named by its module
path, `my_module.my_measure`, or by an entry point of the group `hadrl_lightning.measures`:

    def my_measure(prediction, moment):
        return prediction.mean.var(dim=0).sum(dim=-1)  # one number a row, more is better
"""

from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor

from hadrl_lightning.errors import HadrlError
from hadrl_lightning.planning.information import Estimator, information_gain
from hadrl_lightning.planning.model import Prediction
from hadrl_lightning.registries import Registry
from hadrl_lightning.simulator import Use, make_generator
from hadrl_lightning.typed import typed


class Draws(NamedTuple):
    """Random numbers of one scoring, drawn before rows are split into chunks so that chunks can't change a result."""

    seed: int = 0
    """Of the samples of the nearest-neighbour estimator; the same for all rows."""

    uniform: Float[Tensor, "rows horizon"] | None = None
    """For measures that need them, such as `random`."""


NO_DRAWS = Draws()


class Moment(NamedTuple):
    """What a measure can use besides the prediction."""

    step: int = 0
    """Number of the step in the horizon."""

    seed: int = 0
    """For draws that are the same for all rows: `make_generator(seed, use, step)`."""

    uniform: Float[Tensor, " rows"] | None = None
    """A uniform number for each row, for a measure that `needs_uniform`; None for others."""

    estimator: Estimator = "bounded"
    """The setting `information_estimator`."""


Measure = Callable[[Prediction, Moment], Float[Tensor, " rows"]]
"""Of a step's prediction by all members, in single precision, the value of what each row would teach; more is better.
Where plans are refined it is followed along its slope, by autograd."""


def _is_measure(found: Any) -> bool:
    """Whether it can be called with a prediction and a moment."""
    try:
        signature(found).bind(None, None)
    except (TypeError, ValueError):
        return False
    return True


MEASURES: Registry[Measure] = Registry("measure", "hadrl_lightning.measures", _is_measure)
"""By the names that the setting `strategy` has for them."""


def needs_uniform(measure: Measure) -> Measure:
    """Mark a measure as one that needs `Moment.uniform`. It has no slope: plans can't be refined by it."""
    measure.needs_uniform = True  # type: ignore[attr-defined]
    return measure


@MEASURES.register("posterior")
@MEASURES.register("information")
def information(prediction: Prediction, moment: Moment) -> Float[Tensor, " rows"]:
    """Information gain about the member that is right, nats, by the estimator that is set."""
    generator = None
    if moment.estimator == "nearest_neighbour":
        generator = make_generator(moment.seed, Use.NEIGHBOUR_SAMPLES, moment.step)
    return information_gain(prediction.mean, prediction.log_var, moment.estimator, generator)


@MEASURES.register("variance")
def variance(prediction: Prediction, moment: Moment) -> Float[Tensor, " rows"]:
    """Predicted variance, summed over dimensions, mean over members (the published code adds the members up)."""
    return prediction.log_var.exp().sum(dim=-1).mean(dim=0)


@MEASURES.register("disagreement")
def disagreement(prediction: Prediction, moment: Moment) -> Float[Tensor, " rows"]:
    """Variance of the means between members, summed over dimensions."""
    return prediction.mean.var(dim=0, unbiased=False).sum(dim=-1)


@MEASURES.register("random")
@needs_uniform
def random(prediction: Prediction, moment: Moment) -> Float[Tensor, " rows"]:
    """A uniform number."""
    assert moment.uniform is not None, "who scores gives what a measure needs"
    return moment.uniform


@MEASURES.register("none")
def none(prediction: Prediction, moment: Moment) -> Float[Tensor, " rows"]:
    """0."""
    return prediction.mean.new_zeros(prediction.mean.shape[1])


@typed
@dataclass(frozen=True, kw_only=True)
class Exploration:
    """Value of what a step would teach, per row.

    Raises:
        ValueError: an estimator that is none, a strategy that names no measure.
    """

    strategy: str = "information"
    """Name of the measure: one of `MEASURES`, or a module path."""

    estimator: Estimator = "bounded"
    """Of the information gain: `bounded` is right within [0, ln members]; `nearest_neighbour` is the published one."""

    def __post_init__(self) -> None:
        MEASURES.find(self.strategy, "strategy")

    @property
    def needs_uniform(self) -> bool:
        """Whether the measure needs uniform numbers."""
        return getattr(MEASURES.find(self.strategy, "strategy"), "needs_uniform", False)

    def measure(self, prediction: Prediction, draws: Draws, t: int) -> Float[Tensor, " rows"]:
        """The measure of step t.

        Raises:
            ValueError: there are no uniform numbers for a measure that needs them.
            HadrlError: the measure gives something else than one number a row.
        """
        if self.needs_uniform and draws.uniform is None:
            raise ValueError(f"draws.uniform must be given for the strategy {self.strategy}, got None")
        single = Prediction(*(field.float() for field in prediction))
        uniform = None if draws.uniform is None else draws.uniform[:, t].to(single.mean)
        moment = Moment(t, draws.seed, uniform, self.estimator)
        found = MEASURES.find(self.strategy, "strategy")(single, moment)
        rows = single.mean.shape[1:2]
        if not isinstance(found, Tensor) or found.shape != rows:
            raise HadrlError(
                f"strategy must be a measure that gives one number a row, {list(rows)}, got {self.strategy}, "
                f"which gives {list(found.shape) if isinstance(found, Tensor) else type(found).__name__}"
            )
        return found

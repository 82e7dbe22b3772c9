"""What the two levels of `HADRL` can be: a caching agent (slow) and a slot model (fast), each a class and a short name.

This file says what one has to have. `CACHING_AGENTS` and `SLOT_MODELS` find those of this package, of others' entry
points and of modules by the names that the settings `slow_level` and `fast_level` have for them.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from math import inf
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from hadrl_lightning.agents.refusals import check_finite, check_item
from hadrl_lightning.data.transitions import CachingTransitions, Lessons, OffloadingTransitions
from hadrl_lightning.distributed import Share, SharesRows, clip_gradients, largest, members_held, summed
from hadrl_lightning.nn.normaliser import RunningNormaliser
from hadrl_lightning.planning.free_energy import Form
from hadrl_lightning.planning.model import Prediction
from hadrl_lightning.registries import Registry
from hadrl_lightning.scenario import Physics, Scenario
from hadrl_lightning.simulator import CachingView, Seen

if TYPE_CHECKING:
    from typing import Self
else:  # a type checker at run time meets the annotations of methods apart from their class
    Self = Any


@runtime_checkable
class Steps(Protocol):
    """What an update does with an optimizer, of PyTorch or of Lightning."""

    def zero_grad(self) -> Any:
        """Forget the gradients."""

    def step(self) -> Any:
        """Take a step."""


class Level(nn.Module, ABC):
    """What both kinds have in common: how one is made."""

    Settings: ClassVar[type]
    """The dataclass of its settings, all of which have defaults."""
    settings_group: ClassVar[str | None] = None
    """The setting of `HADRL` that holds its settings; None: `slow_settings` or `fast_settings`."""
    transfers: ClassVar[bool] = False
    """Whether its weights act on any number of servers, users and services."""

    @classmethod
    @abstractmethod
    def made_for(
        cls, scenario: Scenario, physics: Physics, settings: Any, generator: torch.Generator
    ) -> Self:
        """An untrained one for the networks of a scenario.

        Args:
            scenario: of the networks.
            physics: how actions are read and what views show there.
            settings: a `Settings`.
            generator: the only source of the initial weights.
        """


class CachingAgent(SharesRows, Level):
    """The slow level: decides what every server holds in the coming frame, and learns from the frames that were played.

    What it decides by is its own, or what the fast level's model predicts (`look_through`).

    An action is one number in [−1, 1] for every pair of a server and a service, server-major, `[B, S K]`. `strict`
    physics takes the services with numbers above 0 in falling order while they fit; `published` takes all above 0.

    Where ranks share the batches of a training, `data_share` says which rows of a batch are this rank's; losses are
    parts that add up over ranks (`of_all_rows`). An agent that takes no notice of it trains on one rank.
    """

    looks_through: ClassVar[bool] = False
    """Whether it decides by the fast level's model (`look_through`)."""
    learns_from_frames: ClassVar[bool] = True
    """Whether it learns from what frames earned (`update`), in the reward that the setting `caching_reward` names."""

    @abstractmethod
    def act(
        self, view: CachingView, generator: torch.Generator | None = None
    ) -> Float[Tensor, "batch action"]:
        """The decision without exploration, one row for each network; no gradient is kept.

        Args:
            view: shares of requests and hits so far, caches in bit; of B networks.
            generator: of an agent that draws; the same for all rows, so that no decision depends on the rows beside it.
        """

    @abstractmethod
    def explore(
        self, view: CachingView, noise: float, generator: torch.Generator
    ) -> Float[Tensor, "batch action"]:
        """The decision with exploration, while experience is collected.

        Args:
            view: as for `act`.
            noise: how much to explore, such as the standard deviation of noise on the action; it fades from frame to
                frame by the settings of `CEMPlanning`.
            generator: the only source of randomness.
        """

    @abstractmethod
    def update(
        self, batch: CachingTransitions, optimizers: Sequence[Steps], backward: Callable[[Tensor], None]
    ) -> Any:
        """One update.

        Args:
            batch: rows `[b]`: the views before and after a frame, the action, the cache that it decoded to, and the
                reward, in the unit of the setting `caching_reward`.
            optimizers: those of `configure_optimizers`, in that order.
            backward: in place of `loss.backward()`, which would not know of mixed precision.

        Returns:
            A NamedTuple of losses, detached scalars; `train/caching_agent/NAME` logs their means.
        """

    @abstractmethod
    def configure_optimizers(self) -> Any:
        """A list of the optimizers that `update` uses."""

    def look_through(self, model: "SlotModel") -> None:
        """Takes note of the fast level's model, by what it will predict when a decision is due.

        It is called once, before anything is decided, and whoever takes note keeps the model out of its own parameters.

        Raises:
            HadrlError: the model can't tell what is asked of it.
        """

    def expected_latency(
        self, view: CachingView, cache: Bool[Tensor, "batch server service"]
    ) -> Float[Tensor, " batch"] | None:
        """Mean latency of a task in s that it expects of a frame with what was asked for in the last one.

        Args:
            view: of the networks, whose recent requests count.
            cache: what every server holds.

        Returns:
            None: it expects nothing.
        """
        return None

    def observe(self, transitions: OffloadingTransitions) -> None:
        """Takes new slots, each once, into statistics of its own; every rank has to call.

        Args:
            transitions: rows `[n]`, as the fast level gets them.
        """


class SlotModel(Level):
    """The fast level: predicts what a slot brings, and learns from every slot. A planner decides by it.

    It is a `PlanningModel`: `num_members`, `start` and `step` are what a planner asks. An offloading action has three
    blocks of U numbers in [−1, 1]: targets, bandwidth shares, compute shares, `[…, 3 U]`.

    The base keeps the best reward seen, and merges every `RunningNormaliser` among the modules over ranks. Where ranks
    share the members of an ensemble (modules that are `MemberWise`), losses are *parts*: of the members held here, to
    be added up over ranks; losses named `…_error` are roots of parts of a mean square (`of_all_members`).
    """

    predicts_latencies: ClassVar[bool] = False
    """Whether `Prediction.mean` and `log_var` are of the users' log latencies, ln s, as the form `outcome` needs."""
    targets_in_bins: ClassVar[bool] = False
    """Whether targets of actions are read as equal bins of [−1, 1], one a server, whatever the physics makes of them:
    it is given the action that stands for the same servers (`Rules.in_its_bins`)."""
    shares_in_logarithms: ClassVar[bool] = False
    """Whether shares of actions are logarithms of weights (`weighted_shares`), where the physics takes any shares: so
    no user has to get more than is best."""
    best_reward: Float[Tensor, ""]
    """The largest reward seen."""
    begins_trained: Bool[Tensor, ""]
    """Whether its training began with weights that another one had taught: then it has nothing to try at random, and
    its first steps are short."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("best_reward", torch.tensor(-torch.inf))
        self.register_buffer("begins_trained", torch.zeros((), dtype=torch.bool))

    # Planning ------------------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def num_members(self) -> int:
        """Members of the ensemble held here; 1 of a single model."""

    @abstractmethod
    def start(self, view: Seen, num_candidates: int, members: Int[Tensor, " m"] | None = None) -> Any:
        """The state, of a kind only the model knows, of `num_candidates` rows for every network, network-major.

        Args:
            view: the `OffloadingView` of each network at present, in SI units.
            num_candidates: rows a network.
            members: those that will be asked; None: all.
        """

    @abstractmethod
    def step(
        self, state: Any, action: Float[Tensor, "rows action"], members: Int[Tensor, " m"] | None = None
    ) -> tuple[Prediction, Any]:
        """What the members (None: all) predict of the actions in the state, and the state that follows.

        `Prediction.reward_mean` and `reward_log_var` are of the reward, 10⁴ / Σ latency in s.
        """

    def check_planner(self, form: Form, plan_horizon: int) -> None:
        """Raises a ValueError that begins with the setting's name where a planner asks what the model can't tell."""
        if form == "outcome" and not self.predicts_latencies:
            raise ValueError(
                f"form must not be outcome with a {type(self).__name__}, which predicts no latencies, got {form}"
            )

    # Learning ------------------------------------------------------------------------------------------------------

    def prepared(self, transitions: OffloadingTransitions) -> Lessons:
        """What `loss` takes of transitions, made once where many batches are drawn of the same: rows as they are."""
        return transitions

    @abstractmethod
    def loss(self, transitions: Any) -> Any:
        """The losses of a batch: a NamedTuple of scalars.

        The first, `total`, carries the gradient; `train/world_model/NAME` logs the means of all.

        Args:
            transitions: `OffloadingTransitions` `[b, …]`, or `[members, b, …]` where members learn from batches of
                their own: the views before and after a slot, the action, every user's latency in s, the reward, and
                weights of rows or None; or rows of what `prepared` made of such.

        Raises:
            ValueError: fields of other shapes.
        """

    @abstractmethod
    def observe(self, transitions: OffloadingTransitions, synchronise: bool = True) -> None:
        """Takes new transitions `[…, n, …]`, each once, into statistics and the best reward (`keep_best_reward`).

        Args:
            transitions: new ones only: what was observed before still counts.
            synchronise: combine with what the other ranks of `torch.distributed` bring; every rank then has to call.
        """

    @abstractmethod
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws all weights anew; what was observed stays. Optimizers are the caller's."""

    @abstractmethod
    def configure_optimizers(self) -> Any:
        """The optimizer of all parameters."""

    def check_rows(self, transitions: OffloadingTransitions) -> None:
        """Raises a ValueError for transitions that `loss` would refuse."""

    def observe_first(self, batches: Iterable[OffloadingTransitions]) -> None:
        """Observes these batches, if nothing was observed before; every rank has to call.

        Raises:
            HadrlError: an item is no `OffloadingTransitions`, or holds a number that is none.
        """
        if self.best_reward.isfinite() or any(normaliser.count > 0 for normaliser in self.normalisers):
            return
        for batch in batches:
            check_item(batch, OffloadingTransitions)
            check_finite(batch)
            self.check_rows(batch)
            self.observe(batch.to(self.best_reward.device), synchronise=False)
        self.synchronise()

    # Over ranks ----------------------------------------------------------------------------------------------------

    @property
    def held(self) -> Share:
        """The members of the ensemble held here."""
        return members_held(self) or Share.whole(self.num_members)

    def of_all_members(self, name: str, parts: Float[Tensor, "*batches"]) -> Float[Tensor, "*batches"]:
        """A field of the losses for all members, from the parts of those held here; every rank has to call it."""
        if self.held.is_whole:
            return parts
        return summed(parts.square()).sqrt() if name.endswith("_error") else summed(parts)

    def mean_over_members(self, own: Float[Tensor, "m ..."]) -> Float[Tensor, "..."]:
        """Mean over all members of what those held here say, without a gradient; every rank has to call it."""
        if self.held.is_whole:
            return own.detach().mean(dim=0)
        return summed(own.sum(dim=0)) / self.held.total

    @property
    def grad_clip_norm(self) -> float:
        """Norm that the gradient of all parameters together is clipped to."""
        return inf

    def clip_gradients_of_all(self) -> Tensor:
        """Clips the gradient of all members, wherever they are, to `grad_clip_norm`; returns its norm before."""
        return clip_gradients(self, self.grad_clip_norm)

    @property
    def normalisers(self) -> list[RunningNormaliser]:
        """All running statistics."""
        return [module for module in self.modules() if isinstance(module, RunningNormaliser)]

    def synchronise(self) -> None:
        """Merges what every rank observed alone (`observe(synchronise=False)` from the start on)."""
        for normaliser in self.normalisers:
            normaliser.synchronise()
        self.share_best_reward()

    def keep_best_reward(self, reward: Float[Tensor, "*rows"], synchronise: bool) -> None:
        """Raises the best reward seen to the largest of these, on all ranks if they are synchronised."""
        if reward.numel():
            best = reward.max().to(self.best_reward)
            self.best_reward.copy_(torch.maximum(self.best_reward, best))
        if synchronise:
            self.share_best_reward()

    def share_best_reward(self) -> None:
        """Gives every rank the best reward of all."""
        self.best_reward.copy_(largest(self.best_reward))


CACHING_AGENTS: Registry[type[CachingAgent]] = Registry(
    "caching agent",
    "hadrl_lightning.caching_agents",
    lambda found: isinstance(found, type) and issubclass(found, CachingAgent),
)
"""What `model.slow_level` can name."""
SLOT_MODELS: Registry[type[SlotModel]] = Registry(
    "slot model",
    "hadrl_lightning.slot_models",
    lambda found: isinstance(found, type) and issubclass(found, SlotModel),
)
"""What `model.fast_level` can name."""

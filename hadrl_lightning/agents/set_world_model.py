"""The structured world model of the fast level: users as tokens, outcomes as latencies."""

from dataclasses import dataclass
from math import inf
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hadrl_lightning.agents.derived_reward import derived_reward
from hadrl_lightning.agents.levels import SLOT_MODELS
from hadrl_lightning.agents.optimisers import DecayingAdam
from hadrl_lightning.agents.transition_model import TransitionModel, over_members
from hadrl_lightning.data.transitions import Lessons, OffloadingTransitions
from hadrl_lightning.distributed import summed
from hadrl_lightning.errors import HadrlError
from hadrl_lightning.nn.deep_sets import DeepSets
from hadrl_lightning.nn.ensemble import gaussian_nll
from hadrl_lightning.nn.normaliser import RunningNormaliser
from hadrl_lightning.nn.set_encoder import SetChange, SharedResources, compressed
from hadrl_lightning.nn.tokens import Numbers, TokenFields
from hadrl_lightning.planning.free_energy import Form
from hadrl_lightning.planning.model import PAIRS_AT_ONCE, Prediction
from hadrl_lightning.scenario import Physics, Scenario
from hadrl_lightning.simulator import (
    CachingView,
    Field,
    OffloadingView,
    Seen,
    View,
    bin_index,
    offloading_view_of,
    rules,
)
from hadrl_lightning.typed import typed

Encoder = Literal["shared_resources", "deep_sets"]

MIN_LATENCY_S = 1e-6
"""Measured latencies count as at least this, so that their logarithm is finite."""
CHANGE_ROWS = 4
"""How views change is learnt from every so many rows of a batch: that suffices for what is mostly drawn anew."""


@typed
@dataclass(frozen=True, kw_only=True)
class SetWorldModelSettings:
    """Settings of the structured world model; one set for all scenarios."""

    ensemble_size: int = 5
    """Models in the ensemble; at least 1."""

    encoder: Encoder = "shared_resources"
    """How users affect each other. `shared_resources`: by the law of sharing, demand × pooled weight ÷ own weight, with
    learnt demands and weights (`SharedResources`). `deep_sets`: by sums over the users of a server and plain layers,
    which know no law (`DeepSets`); to measure what the law is worth."""

    hidden_size: int = 32
    """Width of the two hidden layers that describe a user at a server, and of those of the outcome of `deep_sets`; at
    least 1."""

    weight_size: int = 16
    """Width of the hidden layer of the weights by which users share a resource, or numbers in a message of `deep_sets`;
    at least 1."""

    num_resources: int = 3
    """Encoder `shared_resources` only: resources that the users of a server share; at least 1."""

    num_common_resources: int = 0
    """Encoder `shared_resources` only: resources that all users share, whatever their server; 0 or more."""

    learning_rate: float = 2e-2
    """Adam's learning rate at its largest; above 0."""

    decay_steps: float | None = 300.0
    """Steps, after the first 100, in which the learning rate falls to half, to a third in as many again, and so on;
    above 0. None: it stays, from the first step on."""

    adam_epsilon: float = 1e-8
    """Adam's epsilon; above 0."""

    grad_clip_norm: float = 10.0
    """Norm that the gradient of all parameters together is clipped to; above 0."""

    change_weight: float = 0.1
    """Weight of the likelihood of the next view beside that of the latencies; 0 leaves it unlearnt, which does for
    plans of one slot."""

    def __post_init__(self) -> None:
        for name in ("ensemble_size", "hidden_size", "weight_size", "num_resources"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.num_common_resources < 0:
            raise ValueError(f"num_common_resources must be at least 0, got {self.num_common_resources}")
        if self.encoder == "deep_sets":
            for name in ("num_resources", "num_common_resources"):
                value, default = getattr(self, name), type(self).__dataclass_fields__[name].default
                if value != default:
                    raise ValueError(
                        f"{name} must be {default} unless encoder is shared_resources, got {value}"
                    )
        for name in ("learning_rate", "adam_epsilon", "grad_clip_norm"):
            if not 0 < getattr(self, name) < inf:
                raise ValueError(f"{name} must be above 0 and finite, got {getattr(self, name)}")
        if self.decay_steps is not None and not 0 < self.decay_steps < inf:
            raise ValueError(f"decay_steps must be above 0 and finite, got {self.decay_steps}")
        if not 0 <= self.change_weight < inf:
            raise ValueError(f"change_weight must be at least 0 and finite, got {self.change_weight}")


@dataclass(eq=False)
class SlotLessons(Lessons):
    """What the model learns from slots, in its own scales: rows of transitions."""

    token: Float[Tensor, "*rows user number"]
    """Every user at its target server."""
    server: Float[Tensor, "*rows server own"]
    target: Int[Tensor, "*rows user"]
    share: Float[Tensor, "*rows user 2"]
    log_latency: Float[Tensor, "*rows user"]
    """ln s"""
    change_of_user: Float[Tensor, "*rows user of_user"]
    change_of_server: Float[Tensor, "*rows server of_server"]


class SetWorldModelLoss(NamedTuple):
    """Losses of one batch. Only `total` carries a gradient worth following; the others are detached."""

    total: Float[Tensor, ""]
    """latency + change_weight · change."""

    latency: Float[Tensor, ""]
    """Gaussian negative log-likelihood of the users' log latencies, mean over batch and users, sum over members."""

    change: Float[Tensor, ""]
    """The same of the normalised changes of the users' and servers' numbers."""

    latency_error: Float[Tensor, ""]
    """Root mean squared error of the log latency: about the relative error of a latency."""


class SetRolloutState(NamedTuple):
    """Where the rows of a plan are. The step to what is seen next is only made when it is asked for."""

    seen: Numbers
    """Of `[members or 1, rows or networks]`."""
    num_candidates: int
    """Rows that share what is seen in turn."""
    action: Float[Tensor, "1 rows action"] | None
    """The action whose effect on what is seen is still to come."""
    description: Float[Tensor, "members tokens description"]
    """Of every (row or network, user, server)."""


@SLOT_MODELS.register("set")
class SetWorldModel(TransitionModel):
    """Predicts every user's latency, and the next view, from view and action: an ensemble over users.

    The outcome of a slot is what is measured anyway: each user's latency. `Prediction.mean` and `log_var` are
    of the users' *log latencies* in ln s (latency: a log-normal), and the reward is derived from them. The same weights
    act on any number of users and servers.

    What is built in: users are exchangeable, so are servers, users of a server affect each other and no one else, and
    with the encoder `shared_resources` the law by which they do: what a user waits for is its demand times the weights
    of all who share a resource over its own weight (see `SharedResources`). That is the form of the physics of the
    problem, in which users split bandwidth and compute in proportion to weights; demands and weights are learnt. The
    encoder `deep_sets` leaves the law out.

    Trains alone with a plain `Trainer` on a loader of `OffloadingTransitions`, `[b, …]` for all members or `[members,
    b, …]`, or as a child of `HADRL`, which calls `observe` and `loss`; only the root module logs. Is a `PlanningModel`.

    What is known of a user and of a server is what the view declares of them (`TokenFields`), in the scale of vectors.

    Args:
        settings: hyper-parameters.
        view: the kind of view that it sees.
        generator: source of the initial parameters; None: the global one.

    Raises:
        ValueError: a view that no tokens can be made of.
    """

    Settings = SetWorldModelSettings
    settings_group = "set_world_model"
    transfers = True
    predicts_latencies = True
    targets_in_bins = True
    settings: SetWorldModelSettings

    def __init__(
        self,
        settings: SetWorldModelSettings = SetWorldModelSettings(),
        *,
        view: type[View] = OffloadingView,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.settings = settings
        self.fields = TokenFields.of(view)
        token, user, server = self.fields.token_size, len(self.fields.user), len(self.fields.server)
        self.resources: SharedResources | DeepSets
        sizes = (settings.ensemble_size, token, settings.hidden_size, settings.weight_size)
        if settings.encoder == "shared_resources":
            resources = (settings.num_resources, settings.num_common_resources)
            self.resources = SharedResources(*sizes, *resources, generator)
        else:
            self.resources = DeepSets(*sizes, generator)
        self.change = SetChange(
            settings.ensemble_size, token, user, server, settings.weight_size, generator=generator
        )
        self.user_normaliser = RunningNormaliser(user)
        self.server_normaliser = RunningNormaliser(server)
        self.user_change_normaliser = RunningNormaliser(user)
        self.server_change_normaliser = RunningNormaliser(server)
        self.latency_normaliser = RunningNormaliser(1)

    @classmethod
    def made_for(
        cls, scenario: Scenario, physics: Physics, settings: SetWorldModelSettings, generator: torch.Generator
    ) -> "SetWorldModel":
        """See `Level`.

        Raises:
            HadrlError: the physics has targets that are no servers.
        """
        if rules(physics).num_targets(scenario.num_servers) != scenario.num_servers:
            raise HadrlError(
                f"fast_level must be flat or a slot model of your own under physics {physics}, got set: "
                "it knows servers alone, and there tasks can go elsewhere"
            )
        return cls(settings, view=offloading_view_of(scenario), generator=generator)

    @property
    def num_members(self) -> int:
        """Members of the ensemble held here."""
        return len(self.change.user.weight)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws all weights anew; what was observed (normalisers, best reward) stays. Optimisers are the caller's."""
        self.rescale()
        self.resources.reset_parameters(generator)
        self.change.reset_parameters(generator)

    def check_planner(self, form: Form, plan_horizon: int) -> None:
        """Raises a ValueError where a planner looks beyond the slot that alone is learnt."""
        super().check_planner(form, plan_horizon)
        if plan_horizon > 1 and self.settings.change_weight == 0:
            raise ValueError(
                f"plan_horizon must be 1 with a change_weight of 0, by which no next observation is learnt, "
                f"got {plan_horizon}"
            )

    # --- what was seen -------------------------------------------------------------------------------------------

    @torch.no_grad()
    def observe(self, transitions: OffloadingTransitions, synchronise: bool = True) -> None:
        """Takes transitions, `[…, n, …]`, into the normalisers and the best reward seen; each transition once.

        Args:
            transitions: new ones only: what was observed before still counts.
            synchronise: combine with what the other ranks of `torch.distributed` bring; every rank then has to call.

        Raises:
            ValueError: wrong sizes, or values that are not finite.
        """
        before, after = self.fields.read(transitions.view), self.fields.read(transitions.next_view)
        latency = transitions.latency.clamp(min=MIN_LATENCY_S).log()
        self.user_normaliser.update(compressed(before.user), synchronise)
        self.server_normaliser.update(compressed(before.server), synchronise)
        self.user_change_normaliser.update(after.user - before.user, synchronise)
        self.server_change_normaliser.update(after.server - before.server, synchronise)
        self.latency_normaliser.update(latency[..., None], synchronise)
        self.keep_best_reward(transitions.reward, synchronise)

    # --- learning ------------------------------------------------------------------------------------------------

    def prepared(self, transitions: OffloadingTransitions) -> "SlotLessons":
        """What of transitions does not depend on the weights, made once for all batches that are drawn of them."""
        self.check_rows(transitions)
        self.keep_scale()
        with torch.no_grad():
            return self._lessons(transitions)

    def _lessons(self, transitions: OffloadingTransitions) -> "SlotLessons":
        before, after = self.fields.read(transitions.view), self.fields.read(transitions.next_view)
        target, share = _read_action(transitions.action, before.server.shape[-2])
        return SlotLessons(
            token=self._tokens_at(before, target),
            server=self._normal_server(before),
            target=target,
            share=share,
            log_latency=transitions.latency.clamp(min=MIN_LATENCY_S).log(),
            change_of_user=self.user_change_normaliser.normalise(after.user - before.user),
            change_of_server=self.server_change_normaliser.normalise(after.server - before.server),
            weight=transitions.weight,
        )

    def loss(self, transitions: "OffloadingTransitions | SlotLessons") -> SetWorldModelLoss:
        """Negative log-likelihood of what was measured, constants left out, each transition times its weight if given.

        Args:
            transitions: fields `[b, …]`, the same for all members, or `[members, b, …]`; as they are or `prepared`.

        Raises:
            ValueError: fields of other shapes.
        """
        batch = transitions if isinstance(transitions, SlotLessons) else self.prepared(transitions)
        batch = batch if batch.target.ndim == 3 else batch[None]
        num_servers = batch.server.shape[-2]
        description = self.resources.describe(batch.token.flatten(1, 2))
        share, target = batch.share.flatten(1, 2), batch.target
        mean, log_var = self.resources.combine(description, share, target, num_servers)
        mean = mean + self._latency_offset(mean)
        latency = over_members(gaussian_nll(mean, log_var, batch.log_latency), batch.weight)
        change = latency.new_zeros(())
        if self.settings.change_weight > 0:
            change = self._change_loss(batch[:, ::CHANGE_ROWS])
        with torch.no_grad():
            error = (self.held.fraction * (mean - batch.log_latency).square().mean()).sqrt()
        total = latency + self.settings.change_weight * change
        return SetWorldModelLoss(total, latency.detach(), change.detach(), error)

    def _change_loss(self, batch: "SlotLessons") -> Float[Tensor, ""]:
        predicted = self.change(batch.token, batch.share, batch.server, batch.target)
        user = gaussian_nll(predicted[0], predicted[1], batch.change_of_user)
        server = gaussian_nll(predicted[2], predicted[3], batch.change_of_server)
        return over_members(user, batch.weight) + over_members(server, batch.weight)

    def check_rows(self, transitions: OffloadingTransitions) -> None:
        """Rows have to be `[members, b]`, or `[b]` for a batch that all members share."""
        lead, num_users = list(transitions.reward.shape), transitions.latency.shape[-1]
        members = [] if len(lead) == 1 else [self.num_members]
        sizes = {"action": [3 * num_users], "latency": [num_users]}
        for part in ("view", "next_view"):
            sizes |= {f"{part}.{field.name}": [num_users] for field in self.fields.user}
        for name, value in transitions.tensors():
            found = list(value.shape)
            own = sizes.get(name, found[len(lead) :])
            if len(lead) not in (1, 2) or lead[:-1] != members or found != [*lead, *own]:
                raise ValueError(
                    f"transitions must have shape [b, …] or [{self.num_members}, b, …] with {name} {own} for "
                    f"{num_users} users, got {name} {found}, reward {lead}"
                )

    # --- reading ---------------------------------------------------------------------------------------------------

    def _normal_server(self, seen: Numbers) -> Float[Tensor, "*rows server number"]:
        return self.server_normaliser.normalise(compressed(seen.server))

    def _tokens(self, seen: Numbers) -> Float[Tensor, "*rows user server number"]:
        """Every user at every server."""
        holds = self.fields.holds(seen)
        user = self.user_normaliser.normalise(compressed(seen.user)).unsqueeze(-2)
        server = self._normal_server(seen).unsqueeze(-3)
        both = [numbers.expand(*holds.shape, numbers.shape[-1]) for numbers in (user, server)]
        return torch.cat((*both, holds.unsqueeze(-1) - 0.5), dim=-1)

    def _tokens_at(
        self, seen: Numbers, target: Int[Tensor, "*rows user"]
    ) -> Float[Tensor, "*rows user number"]:
        """Every user at its target server."""
        user = self.user_normaliser.normalise(compressed(seen.user))
        server = self._normal_server(seen)
        server = server.gather(-2, target.unsqueeze(-1).expand(*target.shape, server.shape[-1]))
        return torch.cat((user, server, self.fields.holds_at(seen, target).unsqueeze(-1) - 0.5), dim=-1)

    def _latency_offset(self, like: Tensor) -> Tensor:
        """The mean log latency seen, so that the models start near what they have to predict."""
        return self.latency_normaliser.centre.to(like.dtype)

    # --- planning ------------------------------------------------------------------------------------------------

    def start(
        self, view: Seen, num_candidates: int, members: Int[Tensor, " m"] | None = None
    ) -> SetRolloutState:
        """The state of `num_candidates` rows for every network, network-major."""
        return self._arrive(self.fields.read(view)[None], num_candidates, members)

    def _arrive(
        self, seen: Numbers, num_candidates: int, members: Int[Tensor, " m"] | None
    ) -> SetRolloutState:
        token = self._tokens(seen).flatten(1, 3)
        return SetRolloutState(seen, num_candidates, None, self.resources.describe(token, members))

    def step(
        self,
        state: SetRolloutState,
        action: Float[Tensor, "rows action"],
        members: Int[Tensor, " m"] | None = None,
    ) -> tuple[Prediction, SetRolloutState]:
        """What the members (None: all) predict of the actions in the state, and where each gets to."""
        if state.action is not None:
            state = self._arrive(self._next(state, members), 1, members)
        num_servers = state.seen.server.shape[-2]
        target, share = _read_action(action, num_servers)
        rows, num_users = target.shape
        start = torch.arange(rows, device=action.device).div(state.num_candidates, rounding_mode="floor")
        user = torch.arange(num_users, device=action.device)
        index = (start[:, None] * num_users + user) * num_servers + target
        description = state.description.index_select(1, index.flatten())
        prediction = self.predicted(description, share, target, num_servers, members)
        return prediction, state._replace(action=action[None])

    def predicted(
        self,
        description: Float[Tensor, "m tokens description"],
        share: Float[Tensor, "rows user 2"],
        target: Int[Tensor, "rows user"],
        num_servers: int,
        members: Int[Tensor, " m"] | None,
    ) -> Prediction:
        """What the members expect of users who are described at their targets, tokens = rows × users."""
        mean, log_var = self.resources.combine(
            description, share.flatten(0, 1)[None], target[None], num_servers, members
        )
        mean = mean + self._latency_offset(mean)
        return Prediction(mean, log_var, *derived_reward(mean, log_var))

    @property
    def knows_sharing(self) -> bool:
        """Whether latencies are sums over what the users of a server share (see `planning.sums`)."""
        return isinstance(self.resources, SharedResources) and not self.resources.num_common

    def pair_demands(
        self,
        view: Seen,
        members: Int[Tensor, " m"] | None = None,
        pairs_at_once: int = PAIRS_AT_ONCE,
    ) -> Float[Tensor, "m networks resource_and_base user server"]:
        """Demand of every user at every server on each resource, and last what it waits for alone.

        In a unit of its own that is the same for all, and squashed as it was learnt.
        """
        assert isinstance(self.resources, SharedResources)
        seen = self.fields.read(view)
        user = self.user_normaliser.normalise(compressed(seen.user))
        holds = self.fields.holds(seen) - 0.5
        return self.resources.pair_demands(user, self._normal_server(seen), holds, members, pairs_at_once)

    def service_demands(
        self, view: CachingView
    ) -> Float[Tensor, "member batch held resource_and_base service server"]:
        """See `planning.frames.FrameModel`. What a caching view does not show of users and servers is as usual.

        A part of a latency is a log-normal: its mean is its median times exp(σ² / 2).
        """
        assert isinstance(self.resources, SharedResources)
        services = torch.arange(view.storage_bits.shape[-1], device=view.device).expand_as(view.storage_bits)
        shown = {
            "requests": services,
            "input_bits": view.input_bits,
            "cycles": view.cycles,
            "bandwidth_hz": view.bandwidth_hz,
            "compute_hz": view.compute_hz,
        }
        user = _shown(self.fields.user, shown, self.user_normaliser)
        server = _shown(self.fields.server, shown, self.server_normaliser)
        shape = (len(view), 2, user.shape[1], server.shape[1])
        token = torch.cat(
            (
                user[:, None, :, None].expand(*shape, -1),
                server[:, None, None].expand(*shape, -1),
                torch.tensor([-0.5, 0.5], device=user.device)[:, None, None, None].expand(*shape, 1),
            ),
            dim=-1,
        )
        demand = self.resources.expected_demands(token.flatten(0, 3)[None]) * self._latency_offset(user).exp()
        found = demand.view(-1, *shape, demand.shape[-1]).movedim(-1, 3)
        if self.held.is_whole:
            return found
        every = found.new_zeros(self.held.total, *found.shape[1:])
        every[self.held.items] = found
        return summed(every)

    def at_targets(
        self, view: Seen, target: Int[Tensor, "networks user"], members: Int[Tensor, " m"] | None = None
    ) -> "UsersAtTargets":
        """The users at one target each."""
        assert isinstance(self.resources, SharedResources)
        seen = self.fields.read(view)
        token = self._tokens_at(seen, target)
        described = self.resources.describe(token.flatten(0, 1)[None], members)
        return UsersAtTargets(self, described, target, seen.server.shape[-2], members)

    def _next(self, state: SetRolloutState, members: Int[Tensor, " m"] | None) -> Numbers:
        """Each member's own trajectory: what is seen + mean change, the caches as they are."""
        assert state.action is not None
        before = state.seen.map(lambda value: value.repeat_interleave(state.num_candidates, dim=1))
        target, share = _read_action(state.action, before.server.shape[-2])
        target = target.expand(len(before), -1, -1)
        token = self._tokens_at(before, target)
        change = self.change(
            token, share.expand(len(before), -1, -1, -1), self._normal_server(before), target, members
        )
        user = before.user + self.user_change_normaliser.denormalise(change[0])
        server = before.server + self.server_change_normaliser.denormalise(change[2])
        return Numbers(user, server, before.cache.expand(len(user), -1, -1, -1))

    def configure_optimizers(self) -> Any:
        """Adam over all parameters, its rate falling with the steps taken."""
        settings = self.settings
        return DecayingAdam(
            self.parameters(),
            settings.learning_rate,
            settings.decay_steps,
            epsilon=settings.adam_epsilon,
        )


class UsersAtTargets:
    """The users of some networks at their targets, as members of a model see them: `planning.sums.AtTargets`."""

    def __init__(
        self,
        model: SetWorldModel,
        described: Float[Tensor, "m tokens description"],
        target: Int[Tensor, "networks user"],
        num_servers: int,
        members: Int[Tensor, " m"] | None,
    ) -> None:
        self._model, self._described, self._members = model, described, members
        self._target, self._num_servers = target, num_servers
        resources = model.resources
        assert isinstance(resources, SharedResources)
        self._resources = resources
        demand = resources.demands(described)[..., :-1].unflatten(1, target.shape)
        self.demand: Float[Tensor, "m networks resource user"] = demand.permute(0, 1, 3, 2)

    def slopes(
        self, share: Float[Tensor, "networks user 2"]
    ) -> tuple[Float[Tensor, "m networks resource user"], Float[Tensor, "m networks resource 2 user"]]:
        """Each user's weight on every resource, and the slopes of its logarithm along its two share actions."""
        found = self._resources.weight_slopes(self._described, share.flatten(0, 1), self._members)
        weight, slope = (value.unflatten(-1, self._target.shape) for value in found)
        return weight.transpose(1, 2), slope.movedim(3, 1)

    def predict(self, share: Float[Tensor, "networks user 2"]) -> Prediction:
        """What is expected of the slot, rows are networks."""
        known = (self._described, share, self._target, self._num_servers, self._members)
        return self._model.predicted(*known)


def _shown(
    fields: tuple[Field, ...], shown: dict[str, Tensor], normaliser: RunningNormaliser
) -> Float[Tensor, "batch entry number"]:
    """Normalised numbers of users or servers of which some fields are shown; the others are as usual, 0."""
    known = {name: value for name, value in shown.items() if name in {field.name for field in fields}}
    like = next(value for value in known.values() if value.is_floating_point())
    columns = [
        field.scaled(known[field.name], like.dtype) if field.name in known else torch.zeros_like(like)
        for field in fields
    ]
    usual = torch.tensor([field.name not in known for field in fields], device=like.device)
    return normaliser.normalise(compressed(torch.stack(columns, dim=-1))).masked_fill(usual, 0.0)


def _read_action(action: Float[Tensor, "*rows action"], num_servers: int) -> tuple[Tensor, Tensor]:
    """Target server [.., U] and the two share actions [.., U, 2]."""
    target, *shares = action.clamp(-1, 1).chunk(3, dim=-1)
    server = bin_index(target.nan_to_num(-1), num_servers)
    return server, torch.stack(shares, dim=-1)

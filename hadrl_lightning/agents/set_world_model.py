"""The structured world model of the fast level: users as tokens, outcomes as latencies; how it learns."""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hadrl_lightning.agents.carried import STEP_S, CarriedLessons
from hadrl_lightning.agents.levels import SLOT_MODELS
from hadrl_lightning.agents.optimisers import DecayingAdam
from hadrl_lightning.agents.set_predictions import SetPredictions, deadlines, read_action
from hadrl_lightning.agents.settings import SetWorldModelSettings
from hadrl_lightning.agents.transition_model import over_members
from hadrl_lightning.data.transitions import Lessons, OffloadingTransitions
from hadrl_lightning.errors import HadrlError
from hadrl_lightning.nn.perceptrons import gaussian_nll
from hadrl_lightning.nn.set_encoder import SharedResources, compressed
from hadrl_lightning.nn.tokens import Numbers
from hadrl_lightning.planning.free_energy import Form
from hadrl_lightning.scenario import Physics, Scenario
from hadrl_lightning.simulator import offloading_view_of, rules

MIN_LATENCY_S = 1e-6
"""Measured latencies count as at least this, so that their logarithm is finite."""
TUNING = 0.05
"""Part of the learning rate that a model learns by which began with weights."""
CHANGE_ROWS = 4
"""How views change is learnt from every so many rows of a batch: that suffices for what is mostly drawn anew."""


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
    energy: Float[Tensor, "*rows user"] | None
    """J, where preferences weigh it."""
    dropped: Bool[Tensor, "*rows user"] | None
    """The same of drops."""
    change_of_user: Float[Tensor, "*rows user of_user"]
    change_of_server: Float[Tensor, "*rows server of_server"]
    asks: Bool[Tensor, "*rows user"] | None
    """Who has a task; None: everybody."""
    goes_on: Bool[Tensor, "*rows user"] | None
    """Who has one in the next slot too."""
    carried: CarriedLessons | None
    """What was left at servers, where that is learnt."""


class SetWorldModelLoss(NamedTuple):
    """Losses of one batch. Only `total` carries a gradient worth following; the others are detached."""

    total: Float[Tensor, ""]
    """latency + change_weight · change."""

    latency: Float[Tensor, ""]
    """Gaussian negative log-likelihood of the users' log latencies, mean over batch and users, sum over members; with
    that of further outcomes where preferences weigh them."""

    change: Float[Tensor, ""]
    """The same of the normalised changes of the users' and servers' numbers."""

    latency_error: Float[Tensor, ""]
    """Root mean squared error of the log latency: about the relative error of a latency."""


@SLOT_MODELS.register("set")
class SetWorldModel(SetPredictions):
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
        preferences: what outcomes count: those beyond latency are learnt where they are weighed.
        generator: source of the initial parameters; None: the global one.

    Raises:
        ValueError: a view that no tokens can be made of.
    """

    Settings = SetWorldModelSettings
    settings_group = "set_world_model"
    transfers = True
    predicts_latencies = True
    targets_in_bins = True
    shares_in_logarithms = True

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
        view, wanted = offloading_view_of(scenario), scenario.preferences
        try:
            return cls(settings, view=view, preferences=wanted, generator=generator)
        except ValueError as error:
            raise HadrlError(f"set_world_model.{error}") from error

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws all weights anew; what was observed (normalisers, best reward) stays. Optimisers are the caller's."""
        self.rescale()
        self.resources.reset_parameters(generator)
        self.change.reset_parameters(generator)
        for further in (self.outcomes, self.carried):
            if further is not None:
                further.reset_parameters(generator)

    def check_planner(self, form: Form, plan_horizon: int) -> None:
        """Raises a ValueError where a planner looks beyond the slot that alone is learnt."""
        super().check_planner(form, plan_horizon)
        if plan_horizon > 1 and self.settings.change_weight == 0:
            raise ValueError(
                f"plan_horizon must be 1 with a change_weight of 0, by which no next observation is learnt, "
                f"got {plan_horizon}"
            )

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
        asks, goes_on = before.asks, _both(before.asks, after.asks)
        self.user_normaliser.update(_chosen(compressed(before.user), asks), synchronise)
        self.server_normaliser.update(compressed(before.server), synchronise)
        if before.pair is not None and self.pair_normaliser is not None:
            self.pair_normaliser.update(_chosen(compressed(before.pair), asks), synchronise)
        self.user_change_normaliser.update(_chosen(after.user - before.user, goes_on), synchronise)
        self.server_change_normaliser.update(after.server - before.server, synchronise)
        self.latency_normaliser.update(_chosen(latency, asks)[..., None], synchronise)
        if self.outcomes is not None:
            self.outcomes.observe(transitions.energy, asks, synchronise)
        self.keep_best_reward(transitions.reward, synchronise)

    def prepared(self, transitions: OffloadingTransitions) -> "SlotLessons":
        """What of transitions does not depend on the weights, made once for all batches that are drawn of them."""
        self.check_rows(transitions)
        self.keep_scale()
        with torch.no_grad():
            return self._lessons(transitions)

    def _lessons(self, transitions: OffloadingTransitions) -> "SlotLessons":
        before, after = self.fields.read(transitions.view), self.fields.read(transitions.next_view)
        target, share = read_action(transitions.action, before.server.shape[-2])
        return SlotLessons(
            token=self._tokens_at(before, target),
            server=self._normal_server(before),
            target=target,
            share=share,
            log_latency=transitions.latency.clamp(min=MIN_LATENCY_S).log(),
            energy=transitions.energy,
            dropped=transitions.dropped,
            change_of_user=self.user_change_normaliser.normalise(after.user - before.user),
            change_of_server=self.server_change_normaliser.normalise(after.server - before.server),
            asks=before.asks,
            goes_on=_both(before.asks, after.asks),
            carried=self._carried_lessons(transitions, before, after, target),
            weight=transitions.weight,
        )

    def _carried_lessons(
        self, transitions: OffloadingTransitions, before: Numbers, after: Numbers, target: Tensor
    ) -> CarriedLessons | None:
        if self.carried is None:
            return None
        column = self.carried.backlog
        longer = before.server.clone()
        longer[..., column] += STEP_S
        return CarriedLessons(
            before.server[..., column],
            after.server[..., column],
            self._normal_server(after),
            self._tokens_at(replace(before, server=longer), target),
            deadlines(transitions.view) if self.preferences.missed else None,
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
        described = self._described(batch.token.flatten(1, 2), None)
        description, further = self._of_latency(described)
        share, target = batch.share.flatten(1, 2), batch.target
        mean, log_var = self.resources.combine(description, share, target, num_servers, asks=batch.asks)
        mean = mean + self._latency_offset(mean)
        latency = over_members(gaussian_nll(mean, log_var, batch.log_latency), batch.weight, batch.asks)
        if self.outcomes is not None:
            assert isinstance(self.resources, SharedResources)
            measured = (batch.energy, batch.dropped)
            known = (self.resources, further, share, target, num_servers, measured, batch.asks)
            for one in self.outcomes.losses(*known):
                latency = latency + over_members(one, batch.weight, batch.asks)
        if batch.carried is not None:
            latency = latency + over_members(
                self._carried_loss(batch, batch.carried, described.detach()), batch.weight
            )
        change = latency.new_zeros(())
        if self.settings.change_weight > 0:
            change = self._change_loss(batch[:, ::CHANGE_ROWS])
        with torch.no_grad():
            off = over_members((mean - batch.log_latency).square(), None, batch.asks)
            error = (off / self.held.total).sqrt()
        total = latency + self.settings.change_weight * change
        return SetWorldModelLoss(total, latency.detach(), change.detach(), error)

    def _carried_loss(
        self,
        batch: "SlotLessons",
        carried: CarriedLessons,
        described: Float[Tensor, "member tokens description"],
    ) -> Float[Tensor, "member rows server loss"]:
        """Of what is left at servers, and of the prices of that."""
        assert self.carried is not None
        num_servers = batch.server.shape[-2]
        known = (batch.share.flatten(1, 2), batch.target, num_servers, None, batch.asks)
        costs = []
        with torch.no_grad():
            longer = self._described(carried.token.flatten(1, 2), None)
            for users in (described, longer):
                mean, log_var = self.log_costs(users, known, carried.deadline_s)
                costs.append((mean + log_var.exp() / 2).exp())
        dearer = costs[1] - costs[0]
        dearer = dearer if batch.asks is None else dearer * batch.asks
        return self.carried.losses(carried, batch.token, batch.server, batch.target, batch.asks, dearer)

    def _change_loss(self, batch: "SlotLessons") -> Float[Tensor, ""]:
        predicted = self.change(batch.token, batch.share, batch.server, batch.target, asks=batch.asks)
        user = gaussian_nll(predicted[0], predicted[1], batch.change_of_user)
        server = gaussian_nll(predicted[2], predicted[3], batch.change_of_server)
        return over_members(user, batch.weight, batch.goes_on) + over_members(server, batch.weight)

    def check_rows(self, transitions: OffloadingTransitions) -> None:
        """Rows have to be `[members, b]`, or `[b]` for a batch that all members share."""
        lead, num_users = list(transitions.reward.shape), transitions.latency.shape[-1]
        members = [] if len(lead) == 1 else [self.num_members]
        sizes = {"action": [3 * num_users], "latency": [num_users]}
        for part in ("view", "next_view"):
            sizes |= {f"{part}.{field.name}": [num_users] * len(field.axes) for field in self.fields.user}
            sizes[f"{part}.{self.fields.request.name}"] = [num_users]
        for name, value in transitions.tensors():
            found = list(value.shape)
            own = sizes.get(name, found[len(lead) :])
            if len(lead) not in (1, 2) or lead[:-1] != members or found != [*lead, *own]:
                raise ValueError(
                    f"transitions must have shape [b, …] or [{self.num_members}, b, …] with {name} {own} for "
                    f"{num_users} users, got {name} {found}, reward {lead}"
                )

    def configure_optimizers(self) -> Any:
        """Adam over all parameters, its rate falling with the steps taken."""
        settings = self.settings
        return DecayingAdam(
            self.parameters(),
            lambda: settings.learning_rate * (TUNING if self.begins_trained else 1),
            settings.decay_steps,
            epsilon=settings.adam_epsilon,
        )


def _both(one: Tensor | None, other: Tensor | None) -> Bool[Tensor, "*rows user"] | None:
    """Who has a task in both of two slots."""
    return None if one is None or other is None else one & other


def _chosen(value: Tensor, asks: Bool[Tensor, "*rows user"] | None) -> Tensor:
    """Of users who have a task alone."""
    return value if asks is None else value[asks]

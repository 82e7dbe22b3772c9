"""What the structured world model says of a slot: every user's latency, and what planners ask beside it."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hadrl_lightning.agents.belief import parted
from hadrl_lightning.agents.carried import BACKLOG, CarriedWorkModel
from hadrl_lightning.agents.outcomes import Outcomes
from hadrl_lightning.agents.settings import SetWorldModelSettings
from hadrl_lightning.agents.transition_model import TransitionModel, derived_reward
from hadrl_lightning.distributed import summed
from hadrl_lightning.nn.deep_sets import DeepSets
from hadrl_lightning.nn.normaliser import RunningNormaliser
from hadrl_lightning.nn.set_encoder import (
    LOG_BOUND,
    LOG_VAR_RANGE,
    SetChange,
    SharedResources,
    compressed,
)
from hadrl_lightning.nn.tokens import Numbers, TokenFields
from hadrl_lightning.planning.carried import CarriedWork
from hadrl_lightning.planning.model import PAIRS_AT_ONCE, Prediction
from hadrl_lightning.planning.rounds import Slopes
from hadrl_lightning.scenario import Preferences
from hadrl_lightning.scenario.preferences import USUAL
from hadrl_lightning.simulator import CachingView, Field, OffloadingView, Seen, View, bin_index
from hadrl_lightning.simulator.fields import SERVER
from hadrl_lightning.simulator.views import OF_THE_CLOUD

DISCOUNT = 0.95
"""Of later slots in the price of work left at servers, where settings say nothing and tasks can go elsewhere."""
NO_WEIGHT = 1e-12
"""Weight of a user who has no task, beside 1: its demand of 0 can be divided by it."""


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
    deadline_s: Float[Tensor, "networks user"] | None
    """Of the users' tasks, where preferences ask for it."""


class SetPredictions(TransitionModel):
    """The networks of the structured world model, over users and servers as tokens, and what they tell.

    It is a `PlanningModel`, one with sums where users share resources alone (`planning.sums`), and a `FrameModel`. How
    it learns is for its subclass, `SetWorldModel`, which says what its arguments are.
    """

    settings: SetWorldModelSettings

    def __init__(
        self,
        settings: SetWorldModelSettings = SetWorldModelSettings(),  # noqa: B008 (frozen)
        *,
        view: type[View] = OffloadingView,
        preferences: Preferences = USUAL,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.settings = settings
        self.preferences = preferences
        self.fields = TokenFields.of(view)
        token, user, server = self.fields.token_size, len(self.fields.user), len(self.fields.server)
        pair = len(self.fields.pair)
        self.resources: SharedResources | DeepSets
        sizes = (settings.ensemble_size, token, settings.hidden_size, settings.weight_size)
        if settings.encoder == "shared_resources":
            resources = (settings.num_resources, settings.num_common_resources, settings.num_waits)
            self.resources = SharedResources(*sizes, *resources, generator)
        else:
            self.resources = DeepSets(*sizes, generator)
        self.change = SetChange(
            settings.ensemble_size, token, user, server, settings.weight_size, generator=generator
        )
        self.user_normaliser = RunningNormaliser(user)
        self.server_normaliser = RunningNormaliser(server)
        self.pair_normaliser = RunningNormaliser(pair) if pair else None
        self.user_change_normaliser = RunningNormaliser(user)
        self.server_change_normaliser = RunningNormaliser(server)
        self.latency_normaliser = RunningNormaliser(1)
        self.outcomes: Outcomes | None = None
        if not preferences.latency_alone:
            if settings.encoder != "shared_resources":
                raise ValueError(
                    "encoder must be shared_resources where preferences weigh more than latency, "
                    f"got {settings.encoder}"
                )
            self.outcomes = Outcomes(preferences, (*sizes[:3], *resources), generator)
        self.carried: CarriedWorkModel | None = None
        shown = [field.name for field in self.fields.server]
        discount = settings.discount
        if discount is None:
            discount = DISCOUNT if view.beyond else 0.0
        if discount and BACKLOG in shown and self.knows_sharing:
            column, width = shown.index(BACKLOG), settings.weight_size
            self.carried = CarriedWorkModel(*sizes[:2], server, column, width, discount, generator)

    @property
    def num_members(self) -> int:
        """Members of the ensemble held here."""
        return len(self.change.user.weight)

    # --- reading

    def _normal_server(self, seen: Numbers) -> Float[Tensor, "*rows server number"]:
        return self.server_normaliser.normalise(compressed(seen.server))

    def _pairs(self, seen: Numbers) -> Float[Tensor, "*rows user server number"]:
        """What is known of every user and server together, last whether the one holds what the other asks for."""
        holds = self.fields.holds(seen).unsqueeze(-1) - 0.5
        if seen.pair is None or self.pair_normaliser is None:
            return holds
        return torch.cat((self.pair_normaliser.normalise(compressed(seen.pair)), holds), dim=-1)

    def _tokens(self, seen: Numbers) -> Float[Tensor, "*rows user server number"]:
        """Every user at every server."""
        pair = self._pairs(seen)
        user = self.user_normaliser.normalise(compressed(seen.user)).unsqueeze(-2)
        server = self._normal_server(seen).unsqueeze(-3)
        both = [numbers.expand(*pair.shape[:-1], numbers.shape[-1]) for numbers in (user, server)]
        return torch.cat((*both, pair), dim=-1)

    def _tokens_at(
        self, seen: Numbers, target: Int[Tensor, "*rows user"]
    ) -> Float[Tensor, "*rows user number"]:
        """Every user at its target server."""
        user = self.user_normaliser.normalise(compressed(seen.user))
        server = self._normal_server(seen)
        server = server.gather(-2, target.unsqueeze(-1).expand(*target.shape, server.shape[-1]))
        known = [user, server]
        if seen.pair is not None and self.pair_normaliser is not None:
            place = target[..., None, None].expand(*target.shape, 1, seen.pair.shape[-1])
            known.append(self.pair_normaliser.normalise(compressed(seen.pair.gather(-2, place).squeeze(-2))))
        return torch.cat((*known, self.fields.holds_at(seen, target).unsqueeze(-1) - 0.5), dim=-1)

    def _latency_offset(self, like: Tensor) -> Tensor:
        """The mean log latency seen, so that the models start near what they have to predict."""
        return self.latency_normaliser.centre.to(like.dtype)

    def unit_s(self, like: Tensor) -> Tensor:
        """The latency of a demand of 1 in s, in the format of another tensor."""
        return self._latency_offset(like).exp()

    # --- what planners ask

    def start(
        self, view: Seen, num_candidates: int, members: Int[Tensor, " m"] | None = None
    ) -> SetRolloutState:
        """The state of `num_candidates` rows for every network, network-major."""
        return self._arrive(self.fields.read(view)[None], num_candidates, members, deadlines(view))

    def _arrive(
        self,
        seen: Numbers,
        num_candidates: int,
        members: Int[Tensor, " m"] | None,
        deadline_s: Tensor | None,
    ) -> SetRolloutState:
        token = self._tokens(seen).flatten(1, 3)
        return SetRolloutState(seen, num_candidates, None, self._described(token, members), deadline_s)

    def _described(
        self, token: Tensor, members: Int[Tensor, " m"] | None
    ) -> Float[Tensor, "m tokens number"]:
        """What does not depend on shares: of latency, and behind it of further outcomes."""
        found = self.resources.describe(token, members)
        if self.outcomes is None:
            return found
        return torch.cat((found, *self.outcomes.describe(token, members)), dim=-1)

    def _of_latency(self, description: Tensor) -> tuple[Tensor, Tensor]:
        """Of what is described what is of latency, and what is of further outcomes."""
        if self.outcomes is None:
            return description, description[..., :0]
        assert isinstance(self.resources, SharedResources)
        latency, further = description.tensor_split([2 * self.resources.num_parts], dim=-1)
        return latency, further

    def step(
        self,
        state: SetRolloutState,
        action: Float[Tensor, "rows action"],
        members: Int[Tensor, " m"] | None = None,
    ) -> tuple[Prediction, SetRolloutState]:
        """What the members (None: all) predict of the actions in the state, and where each gets to."""
        if state.action is not None:
            deadline = state.deadline_s
            if deadline is not None:
                deadline = deadline.repeat_interleave(state.num_candidates, dim=0)
            state = self._arrive(self._next(state, members), 1, members, deadline)
        num_servers = state.seen.server.shape[-2]
        target, share = read_action(action, num_servers)
        rows, num_users = target.shape
        start = torch.arange(rows, device=action.device).div(state.num_candidates, rounding_mode="floor")
        user = torch.arange(num_users, device=action.device)
        index = (start[:, None] * num_users + user) * num_servers + target
        description = state.description.index_select(1, index.flatten())
        asks = None if state.seen.asks is None else state.seen.asks.index_select(1, start)
        deadline = None if state.deadline_s is None else state.deadline_s[start]
        known = (description, share, target, num_servers, members, asks)
        prediction = self.predicted(*known, deadline_s=deadline)
        return prediction, state._replace(action=action[None])

    def _next(self, state: SetRolloutState, members: Int[Tensor, " m"] | None) -> Numbers:
        """Each member's own trajectory: what is seen + mean change; pairs, requests and caches as they are.

        Who has a task goes on having one, and who has none goes on without.
        """
        assert state.action is not None
        before = state.seen.map(lambda value: value.repeat_interleave(state.num_candidates, dim=1))
        target, share = read_action(state.action, before.server.shape[-2])
        target = target.expand(len(before), -1, -1)
        token = self._tokens_at(before, target)
        shares = share.expand(len(before), -1, -1, -1)
        change = self.change(token, shares, self._normal_server(before), target, members, before.asks)
        user = before.user + self.user_change_normaliser.denormalise(change[0])
        server = before.server + self.server_change_normaliser.denormalise(change[2])
        rest = before.map(lambda value: value.expand(len(user), *value.shape[1:]))
        return Numbers(user, server, rest.pair, rest.request, rest.cache, rest.asks)

    def predicted(
        self,
        description: Float[Tensor, "m tokens description"],
        share: Float[Tensor, "rows user 2"],
        target: Int[Tensor, "rows user"],
        num_servers: int,
        members: Int[Tensor, " m"] | None,
        asks: Bool[Tensor, "m_or_1 rows user"] | None = None,
        deadline_s: Float[Tensor, "rows user"] | None = None,
        latency_alone: bool = False,
    ) -> Prediction:
        """What the members expect of users who are described at their targets, tokens = rows × users.

        Of users without a task (`asks`) all of them expect next to no latency, and of a slot of these alone no reward.
        Where preferences weigh more than latency, it is the log costs of tasks that are expected in place of their log
        latencies, unless `latency_alone` is asked for.
        """
        known = (share.flatten(0, 1)[None], target[None], num_servers, members, asks)
        mean, log_var = self.log_costs(description, known, deadline_s, latency_alone)
        if asks is None:
            return Prediction(mean, log_var, *derived_reward(mean, log_var))
        mean, log_var = torch.where(asks, mean, -LOG_BOUND), torch.where(asks, log_var, LOG_VAR_RANGE[0])
        reward, reward_log_var = derived_reward(mean, log_var)
        anybody = asks.any(dim=-1)
        reward = torch.where(anybody, reward, 0.0)
        return Prediction(mean, log_var, reward, torch.where(anybody, reward_log_var, LOG_VAR_RANGE[0]))

    def log_costs(
        self,
        description: Float[Tensor, "m tokens description"],
        known: tuple[Tensor, Tensor, int, Int[Tensor, " m"] | None, Tensor | None],
        deadline_s: Float[Tensor, "*m_or_1 rows user"] | None,
        latency_alone: bool = False,
    ) -> tuple[Float[Tensor, "m rows user"], Float[Tensor, "m rows user"]]:
        """Means and log-variances of the log costs of tasks; `known` is what `combine` takes behind a description."""
        latency, further = self._of_latency(description)
        mean, log_var = self.resources.combine(latency, *known)
        mean = mean + self._latency_offset(mean)
        if self.outcomes is None or latency_alone:
            return mean, log_var
        described, dropping = self.outcomes.parted(further)
        energy = None
        if described is not None:
            found, spread = self.resources.combine(described, *known)
            energy = found + self.outcomes.energy_unit_j.log().to(found), spread
        logits = None
        if self.outcomes.drops is not None and dropping is not None:
            logits = self.outcomes.drops.combine(dropping, *known[1:])
        return self.outcomes.log_costs(mean, log_var, energy, logits, deadline_s), log_var

    @property
    def knows_sharing(self) -> bool:
        """Whether latencies are sums over what the users of a server share (see `planning.sums`)."""
        return isinstance(self.resources, SharedResources) and not self.resources.num_common

    def pair_demands(
        self,
        view: Seen,
        members: Int[Tensor, " m"] | None = None,
        pairs_at_once: int = PAIRS_AT_ONCE,
        weight: Float[Tensor, "networks user"] | None = None,
    ) -> Float[Tensor, "m networks resource_and_base user server"]:
        """Demand of every user at every server on each resource, and last what it waits for alone.

        In a unit of its own that is the same for all, and squashed as it was learnt. By preferences other than the
        usual ones it is what latency and energy cost; `weight` is what a second of each user's latency does, where that
        is not the same for all.
        """
        assert isinstance(self.resources, SharedResources)
        view, log_factor = parted(view)
        seen = self.fields.read(view)
        user = self.user_normaliser.normalise(compressed(seen.user))
        pair = self._pairs(seen)
        found = self.resources.pair_demands(user, self._normal_server(seen), pair, members, pairs_at_once)
        if seen.asks is not None:
            found.mul_(seen.asks[:, None, :, None])
        if log_factor is not None:
            found.mul_(log_factor.exp().to(found).mT.unsqueeze(2))
        if self.outcomes is None and self.carried is None:
            return found
        found.mul_(self._weight(weight, seen.request, found)[None, :, None, :, None])
        if self.outcomes is not None and self.outcomes.energy is not None:
            energy = self.outcomes.energy.pair_demands(
                user, self._normal_server(seen), pair, members, pairs_at_once
            )
            energy.mul_((self.preferences.energy_j * self.outcomes.energy_unit_j).to(found))
            found.add_(energy if seen.asks is None else energy.mul_(seen.asks[:, None, :, None]))
        return found

    def _weight(self, weight: Tensor | None, like: Tensor, unit: Tensor) -> Float[Tensor, "networks user"]:
        """What the latency of a demand of 1 costs of each user."""
        if weight is None:
            weight = torch.full(like.shape, self.preferences.latency_s, device=unit.device)
        return weight.to(unit) * self.unit_s(unit)

    def service_demands(
        self, view: CachingView, log_factor: Float[Tensor, "batch server part"] | None = None
    ) -> Float[Tensor, "member batch held resource_and_base service server"]:
        """See `planning.frames.FrameModel`. What a caching view does not show of users and servers is as usual.

        A part of a latency is a log-normal: its mean is its median times exp(σ² / 2). Servers are believed to demand
        exp(`log_factor`) times as much as the model says; energy is no matter of theirs.
        """
        assert isinstance(self.resources, SharedResources)
        of_network = ("spectral_efficiency", *OF_THE_CLOUD)
        shown = {name: getattr(view, name).unsqueeze(-1).expand_as(view.cycles) for name in of_network} | {
            name: getattr(view, name) for name in ("input_bits", "cycles", "bandwidth_hz", "compute_hz")
        }
        user = _shown(self.fields.user, shown, self.user_normaliser)
        server = _shown(self.fields.server, shown, self.server_normaliser)
        shape = (len(view), 2, user.shape[1], server.shape[1])
        token = torch.cat(
            (
                user[:, None, :, None].expand(*shape, -1),
                server[:, None, None].expand(*shape, -1),
                user.new_zeros(*shape, len(self.fields.pair)),
                torch.tensor([-0.5, 0.5], device=user.device)[:, None, None, None].expand(*shape, 1),
            ),
            dim=-1,
        )
        token = token.flatten(0, 3)[None]
        found = self.resources.expected_demands(token) * self.unit_s(user)
        found = found.view(-1, *shape, found.shape[-1]).movedim(-1, 3)
        if log_factor is not None:
            found = found * log_factor.exp().to(found).mT[:, None, :, None]
        if self.outcomes is not None:
            found = self.preferences.latency_s * found
            if self.outcomes.energy is not None:
                unit = (self.preferences.energy_j * self.outcomes.energy_unit_j).to(found)
                energy = unit * self.outcomes.energy.expected_demands(token)
                found = found + energy.view(-1, *shape, energy.shape[-1]).movedim(-1, 3)
        if self.held.is_whole:
            return found
        every = found.new_zeros(self.held.total, *found.shape[1:])
        every[self.held.items] = found
        return summed(every)

    @property
    def weighs_beyond_sums(self) -> bool:
        """Whether preferences weigh what is no sum over shares: missed deadlines, or drops."""
        return bool(self.preferences.missed or self.preferences.dropped)

    def slopes(
        self,
        view: Seen,
        target: Int[Tensor, "networks user"],
        share: Float[Tensor, "networks user 2"],
        members: Int[Tensor, " m"] | None,
        round_: int,
    ) -> Slopes | None:
        """How the cost of a plan changes beside what sums tell; None where these tell all of it.

        Of drops it is each user's own chance at every server; what it adds to the others' there is left out.

        Args:
            view: of the networks.
            target: the server of each user.
            share: its share actions.
            members: those that are asked; None: all.
            round_: how often it was asked before for these networks.
        """
        outcomes = self.outcomes
        if outcomes is None or not self.weighs_beyond_sums:
            return None
        users = self.at_targets(view, target, members)
        latency = users.predict(share, latency_alone=True)
        weight = outcomes.weights(latency.mean, latency.log_var, users.deadline_s, round_)
        extra = None
        if outcomes.drops is not None:
            seen = self.fields.read(parted(view)[0])
            described = outcomes.drops.describe(self._tokens(seen).flatten(0, 2)[None], members)
            known = (target[None], seen.server.shape[-2], members, seen.asks)
            extra = self.preferences.dropped * outcomes.drops.at_all(described, *known)
            extra = extra if seen.asks is None else extra * seen.asks.unsqueeze(-1)
        return Slopes(weight, extra)

    def carried_work(
        self, view: Seen, members: Int[Tensor, " m"] | None = None, pairs_at_once: int = PAIRS_AT_ONCE
    ) -> CarriedWork | None:
        """What is known of the work that is carried over; None where nothing is, or plans look at their slot alone."""
        if self.carried is None:
            return None
        seen = self.fields.read(parted(view)[0])
        token, server = self._tokens(seen), self._normal_server(seen)
        backlog = seen.server[..., self.carried.backlog]
        known = (token.flatten(0, 2)[None], server[None], backlog, seen.asks)
        return self.carried.carried(*known, members, pairs_at_once)

    def at_targets(
        self,
        view: Seen,
        target: Int[Tensor, "networks user"],
        members: Int[Tensor, " m"] | None = None,
        weight: Float[Tensor, "networks user"] | None = None,
    ) -> "UsersAtTargets":
        """The users at one target each; `weight` as of `pair_demands`."""
        assert isinstance(self.resources, SharedResources)
        view, log_factor = parted(view)
        seen = self.fields.read(view)
        token = self._tokens_at(seen, target)
        described = self._described(token.flatten(0, 1)[None], members)
        if log_factor is not None:
            factor = log_factor.exp().to(described)
            own = factor.gather(1, target.unsqueeze(-1).expand(*target.shape, factor.shape[-1])).flatten(0, 1)
            described = torch.cat((described[..., : len(own.T)] * own, described[..., len(own.T) :]), dim=-1)
        known = (described, target, seen.server.shape[-2], members, seen.asks)
        return UsersAtTargets(self, *known, weight=weight, deadline_s=deadlines(view))


class UsersAtTargets:
    """The users of some networks at their targets, as members of a model see them: `planning.sums.AtTargets`."""

    def __init__(
        self,
        model: SetPredictions,
        described: Float[Tensor, "m tokens description"],
        target: Int[Tensor, "networks user"],
        num_servers: int,
        members: Int[Tensor, " m"] | None,
        asks: Bool[Tensor, "networks user"] | None = None,
        weight: Float[Tensor, "networks user"] | None = None,
        deadline_s: Float[Tensor, "networks user"] | None = None,
    ) -> None:
        self._model, self._described, self._members = model, described, members
        self._target, self._num_servers = target, num_servers
        self._asks = asks
        resources = model.resources
        assert isinstance(resources, SharedResources)
        self._resources = resources
        self.deadline_s = deadline_s
        latency, further = model._of_latency(described)
        demand = resources.demands(latency)[..., :-1].unflatten(1, target.shape)
        if model.outcomes is not None:
            demand = demand * model._weight(weight, target, demand).unsqueeze(-1)
            energy, _ = model.outcomes.parted(further)
            if energy is not None:
                unit = (model.preferences.energy_j * model.outcomes.energy_unit_j).to(demand)
                demand = demand + unit * resources.demands(energy)[..., :-1].unflatten(1, target.shape)
        self.demand: Float[Tensor, "m networks resource user"] = demand.permute(0, 1, 3, 2)
        if asks is not None:
            self.demand = self.demand * asks.unsqueeze(1)

    def slopes(
        self, share: Float[Tensor, "networks user 2"]
    ) -> tuple[Float[Tensor, "m networks resource user"], Float[Tensor, "m networks resource 2 user"]]:
        """Each user's weight on every resource, and the slopes of its logarithm along its two share actions.

        A user without a task has next to no weight.
        """
        found = self._resources.weight_slopes(share.flatten(0, 1), self._members)
        weight, slope = (value.unflatten(-1, self._target.shape) for value in found)
        if self._asks is not None:
            weight = torch.where(self._asks, weight, NO_WEIGHT)
        return weight.transpose(1, 2), slope.movedim(3, 1)

    def parts(
        self, share: Float[Tensor, "networks user 2"]
    ) -> Float[Tensor, "m networks user resource_and_base"]:
        """What each user waits for on every resource, and last alone, in the unit of demands."""
        found = self._resources.parts(
            self._model._of_latency(self._described)[0],
            share.flatten(0, 1)[None],
            self._target[None],
            self._num_servers,
            self._members,
            self._asked,
        )
        return found.mT.unflatten(1, self._target.shape)

    def predict(self, share: Float[Tensor, "networks user 2"], latency_alone: bool = False) -> Prediction:
        """What is expected of the slot, rows are networks; see `SetPredictions.predicted`."""
        known = (self._described, share, self._target, self._num_servers, self._members, self._asked)
        return self._model.predicted(*known, deadline_s=self.deadline_s, latency_alone=latency_alone)

    @property
    def _asked(self) -> Bool[Tensor, "1 networks user"] | None:
        """Who has a task, of all members alike."""
        return None if self._asks is None else self._asks[None]


def deadlines(view: Seen) -> Float[Tensor, "networks user"] | None:
    """Of the users' tasks, s, where a view has them; idle users' do not matter."""
    found: Tensor | None = getattr(parted(view)[0], "deadline_s", None)
    return found


def _shown(
    fields: tuple[Field, ...], shown: dict[str, Tensor], normaliser: RunningNormaliser
) -> Float[Tensor, "batch entry number"]:
    """Normalised numbers of users or servers of which some fields are shown; the others are as usual, 0.

    No flag of a target holds of a server, such as that it is a device.
    """
    known = {name: value for name, value in shown.items() if name in {field.name for field in fields}}
    like = next(iter(known.values()))
    columns = [
        field.scaled(known[field.name], like.dtype) if field.name in known else torch.zeros_like(like)
        for field in fields
    ]
    flags = [field.dtype == torch.bool and field.axes == (SERVER,) for field in fields]
    usual = [field.name not in known and not flag for field, flag in zip(fields, flags, strict=True)]
    return normaliser.normalise(compressed(torch.stack(columns, dim=-1))).masked_fill(
        torch.tensor(usual, device=like.device), 0.0
    )


def read_action(action: Float[Tensor, "*rows action"], num_servers: int) -> tuple[Tensor, Tensor]:
    """Target server [.., U] and the two share actions [.., U, 2]."""
    target, *shares = action.clamp(-1, 1).chunk(3, dim=-1)
    server = bin_index(target.nan_to_num(-1), num_servers)
    return server, torch.stack(shares, dim=-1)

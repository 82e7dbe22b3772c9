"""The structured caching agent: DDPG that knows a cache is a set of services on a set of servers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from hadrl_lightning.agents.actor_critic import ActorCritic, ActorCriticLosses, ActorCriticSettings
from hadrl_lightning.agents.cache_search import CacheSearch, all_fits, as_action, filled, normal
from hadrl_lightning.agents.levels import CACHING_AGENTS, Steps
from hadrl_lightning.agents.views import check_caching_view
from hadrl_lightning.data.transitions import Transitions
from hadrl_lightning.nn.cache_encoder import CacheInputs, SetActor, SetCritic
from hadrl_lightning.nn.normaliser import RunningNormaliser
from hadrl_lightning.scenario import Physics, Scenario
from hadrl_lightning.simulator import (
    CachingView,
    Seen,
    Use,
    check_seed,
    make_generator,
    rules,
)
from hadrl_lightning.typed import typed

_EXPLORATION = ("explore_proposals", "explore_rounds")


@typed
@dataclass(frozen=True, kw_only=True)
class SetDDPGSettings(ActorCriticSettings):
    """Settings of the structured caching agent."""

    discount: float = 0.0
    """Weight of the next decision's value; 0 or more and below 1. What a cache earns does not depend on the caches
    before it, but for the switching cost, so 0 learns fastest."""

    target_rate: float = 0.02
    """Share by which the target models follow the trained ones each update; above 0, at most 1. Decisions are made by
    the target critic, whose weights are an average over the last 1 / `target_rate` updates."""

    hidden_sizes: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers of the critic's model of a service; each at least 1."""

    actor_width: int = 32
    """Width of the actor's layers; at least 1."""

    num_proposals: int = 128
    """Caches around the actor's action that a decision begins with; at least 1 (1: the actor decides alone, and neither
    `num_starts` nor `hysteresis` matters)."""

    num_starts: int = 16
    """The best of these caches, each of which is changed pair by pair until no change is worth more; the best one is
    the decision. With several, decisions hang less on what was drawn. At least 1, and at most `num_proposals` count."""

    explore_proposals: int = 64
    """Caches that are compared in a round while experience is collected and the actor is taught; at least 1."""

    explore_rounds: int = 2
    """Such rounds while experience is collected: first around the actor's action, then each around the best so far; at
    least 1."""

    hysteresis: float = 0.1
    """By how much a decision must be worth more than the caches held now, filled up, to replace them, in standard
    deviations of the reward; at least 0. Without it decisions follow the noise of requests, and switch for nothing."""

    sees_switching: bool = False
    """Whether the critic sees which services a decision fetches: for a caching reward that counts the switching cost
    (`published`). Of the others it can only learn an accident from it."""

    use_actor: bool = True
    """Start from the actor's action; else from nothing."""

    actor_rows: int = 16
    """Observations of a batch for which better caches than the actor's are sought, to teach it; at least 1."""

    seed: int = 0
    """Of the proposals made without a generator; at least 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("actor_width", "num_proposals", "num_starts", *_EXPLORATION, "actor_rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.use_actor:
            for name in ("num_proposals", "explore_proposals"):
                if getattr(self, name) == 1:
                    raise ValueError(
                        f"{name} must be at least 2 without use_actor, got 1: the actor decides alone"
                    )
        check_seed("seed", self.seed)
        if not 0 <= self.hysteresis < inf:
            raise ValueError(f"hysteresis must be at least 0 and finite, got {self.hysteresis}")


@CACHING_AGENTS.register("set")
class SetDDPG(ActorCritic):
    """DDPG with the structure of the caching problem in it.

    It departs so far from the published one that little but the order of an update is left. By default the discount is
    0: the critic learns what a frame earns and no future. The actor learns by cross-entropy, not by a policy gradient.
    A decision is the best of many proposals. In detail:

    The critic learns from the caches that were executed, not from the raw actions, and sees coverage and copies of
    each service (`SetCritic`). A decision is the target critic's best of many feasible caches: the actor's, the one
    held now filled up, and disturbed ones, the best of which are changed until no change of a pair helps; what is held
    stays unless the best is worth more by a margin. The actor (`SetActor`) learns by cross-entropy to make the decision
    that a search ends with, in place of following the critic's slope, which knows nothing of what fits. Rewards are
    normalised by their running mean and standard deviation after the rare outliers are cut (latencies have a long
    tail), so any caching reward will do.

    Weights do not depend on the number of users, servers or services, and what is to be packed is read from the view:
    every row may be of another network.
    Everything is deterministic: draws come from the given generator, else from one seeded by `settings.seed`. Those
    of a decision without exploration are the same for every row, so it does not depend on the rows beside it.

    Args:
        scenario: gives the services whose usual demand is learnt, and what views don't show.
        settings: hyper-parameters.
        physics: what views show.
        generator: source of the initial parameters; None: the global one.
    """

    Settings = SetDDPGSettings
    settings_group = "set_ddpg"
    transfers = True
    settings: SetDDPGSettings
    actor: SetActor
    critic: SetCritic
    num_updates: Int64[Tensor, ""]

    def __init__(
        self,
        scenario: Scenario,
        settings: SetDDPGSettings = SetDDPGSettings(),
        *,
        physics: Physics = "strict",
        generator: torch.Generator | None = None,
    ) -> None:
        services = scenario.num_services
        super().__init__(
            settings,
            actor=SetActor(services, settings.actor_width, generator),
            critic=SetCritic(services, settings.hidden_sizes, settings.sees_switching, generator),
        )
        self.scenario = scenario
        self.physics: Physics = physics
        self.rewards = RunningNormaliser(1)
        self.register_buffer("num_updates", torch.zeros((), dtype=torch.int64))

    @classmethod
    def made_for(
        cls, scenario: Scenario, physics: Physics, settings: SetDDPGSettings, generator: torch.Generator
    ) -> "SetDDPG":
        """See `Level`."""
        return cls(scenario, settings, physics=physics, generator=generator)

    # Deciding ------------------------------------------------------------------------------------------------------

    def read(self, seen: Seen) -> CacheInputs:
        """What actor and critic take of a view: sets of servers and services, with their sizes.

        Raises:
            ValueError: it is no caching view.
        """
        if not isinstance(seen, CachingView):
            raise ValueError(
                f"a structured caching agent decides on a CachingView, got a {type(seen).__name__}"
            )
        return CacheInputs.of(seen, rules(self.physics).usable_bits(self.scenario, seen))

    def forward(self, seen: Seen) -> Float[Tensor, "..."]:
        """As `act`; a decision has no gradient."""
        return self.act(seen)

    @torch.no_grad()
    def act(self, seen: Seen, generator: torch.Generator | None = None) -> Float[Tensor, "..."]:
        """The decision without exploration on a `CachingView` `[...]`, server-major: 1 where held and −1 elsewhere.

        Args:
            seen: as `EdgeNetwork.caching_view` gives it.
            generator: of the proposals, the same for all rows. With others each time, decisions that follow each other
                search in new directions, which an episode gains from; None: one of the setting `seed`.

        Raises:
            ValueError: something else than a caching view.
            NonFiniteError: a number of it is infinite or none.
            HadrlError: a number that no network shows.
        """
        if isinstance(seen, CachingView):
            check_caching_view(seen, self.scenario, self.physics)
        return self.decide(self.read(seen), self.actor, self.target_critic, generator)

    @torch.no_grad()
    def explore(self, seen: Seen, noise: float, generator: torch.Generator) -> Float[Tensor, "batch action"]:
        """The best of some proposals, with Gaussian noise of deviation `noise` on its ±1, made feasible and filled up.

        Before the first update, whose critic knows nothing and would have all networks hold about the same, the caches
        are drawn at random; where everything fits, about half of it, so that the critic sees what a miss costs.

        Returns:
            1 where a service is held and −1 elsewhere: `decode_caching` gives this very cache.
        """
        inputs = self.read(seen)
        if self.num_updates == 0:
            wish = normal(tuple(inputs.cache.shape), generator, inputs.demand)
            drawn = filled(inputs, wish, (wish > 0) | ~all_fits(inputs)[:, None, None])
            return as_action(drawn, inputs.dtype).flatten(-2)
        search = self._search(inputs, self.actor, self.target_critic)
        best = search.best(self.settings.explore_proposals, self.settings.explore_rounds, generator)
        if noise > 0:
            drawn = normal(best.shape, generator, inputs.demand)
            best = filled(inputs, as_action(best, inputs.dtype) + noise * drawn)
        return as_action(best, inputs.dtype).flatten(-2)

    @torch.no_grad()
    def decide(
        self,
        inputs: CacheInputs,
        actor: nn.Module,
        critic: nn.Module,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "*rows action"]:
        """The best cache found by the critic around the actor's action, 1 where held and −1 elsewhere.

        What is held now stays, filled up, where that is worth nearly as much (`hysteresis`).
        """
        rows = inputs.demand.shape[:-1]
        search = self._search(
            inputs.map(lambda value: value.reshape(-1, *value.shape[len(rows) :])), actor, critic
        )
        settings = self.settings
        if settings.num_proposals == 1:
            cache = search.of_actor()
        else:
            generator = generator or make_generator(settings.seed, Use.CACHING_DECISIONS)
            best = search.settled(settings.num_proposals, settings.num_starts, generator)
            cache = search.worth_switching(best, settings.hysteresis)
        return as_action(cache, inputs.dtype).reshape(*rows, -1)

    def _search(self, inputs: CacheInputs, actor: nn.Module, critic: nn.Module) -> CacheSearch:
        return CacheSearch(inputs, actor if self.settings.use_actor else None, critic)

    # Learning ------------------------------------------------------------------------------------------------------

    def value(self, batch: Any) -> Float[Tensor, " own"]:
        """Of the cache that was executed."""
        return self.critic(self.read(batch.view), batch.cache)

    @torch.no_grad()
    def target_value(self, batch: Transitions) -> Float[Tensor, " own"]:
        """Normalised r + discount·Q′(s′, c′); c′ is Q′'s best of a few caches around the target actor's."""
        own = self.data_share.rows(batch)
        reward = self.rewards.normalise(own.reward.unsqueeze(-1)).squeeze(-1)
        discount = self.settings.discount
        if discount == 0:
            return reward
        few = max(1 if self.settings.use_actor else 2, self.settings.explore_proposals // 8)
        among = self.data_share.of(len(batch.reward))
        inputs = self.read(own.next_view)
        search = self._search(inputs, self.target_actor, self.target_critic)
        cache = search.best(few, 1, self._learn_generator(Use.CACHING_TARGETS), among)
        return reward + discount * self.target_critic(inputs, cache)

    def actor_loss(self, batch: Transitions) -> Float[Tensor, ""]:
        """Cross-entropy between the actor's wishes and the caches that a search around them finds."""
        inputs = self.read(batch.view)[: self.settings.actor_rows]
        among, weight = self.data_share.of(len(inputs)), self.data_share.weight(len(inputs))
        inputs = inputs[among.items]
        search = self._search(inputs, self.actor, self.target_critic)
        generator = self._learn_generator(Use.CACHING_LESSONS)
        better = search.best(self.settings.explore_proposals, 1, generator, among)
        logits = self.actor.logits(inputs)
        return weight * binary_cross_entropy_with_logits(2 * logits, better.to(inputs.dtype))

    def update(
        self, batch: Transitions, optimizers: Sequence[Steps], backward: Callable[[Tensor], None]
    ) -> ActorCriticLosses:
        """One gradient update of critic, actor and target models (see `ActorCritic.update`)."""
        batch = replace(batch, reward=without_outliers(batch.reward))
        self.rewards.update(batch.reward.unsqueeze(-1))
        for model in () if self.scenario.demands_differ else (self.actor, self.critic):
            model.watch_shares(self.read(batch.view).demand)
        losses = super().update(batch, optimizers, backward)
        self.num_updates += 1
        return losses

    def _learn_generator(self, use: Use) -> torch.Generator:
        return make_generator(self.settings.seed, use, int(self.num_updates))


def without_outliers(reward: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """Cuts what lies further from the middle 90 % of the rewards than twice their span; all are kept if that is 0."""
    low, high = torch.quantile(reward, reward.new_tensor([0.05, 0.95]))
    span = high - low
    return reward.clamp(low - 2 * span, high + 2 * span) if span > 0 else reward

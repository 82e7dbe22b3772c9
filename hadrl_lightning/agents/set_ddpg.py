"""The structured caching agent: DDPG that knows a cache is a set of services on a set of servers."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import torch
from jaxtyping import Bool, Float, Int64
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.optim import Optimizer

from hadrl_lightning.agents.cache_proposals import normal, propose_caches, settle
from hadrl_lightning.agents.ddpg import DDPG, DDPGLosses, DDPGSettings
from hadrl_lightning.agents.views import check_caching_view
from hadrl_lightning.data.transitions import CachingTransitions
from hadrl_lightning.distributed import Share
from hadrl_lightning.nn.cache_encoder import SetActor, SetCritic, read_caching_observation
from hadrl_lightning.nn.normaliser import RunningNormaliser
from hadrl_lightning.scenario import Scenario
from hadrl_lightning.simulator import Use, check_seed, fill_caches, make_generator
from hadrl_lightning.typed import typed

VALUE_DECIMALS = 5
"""Values are compared to so many digits, so that the order among equal caches does not hang on rounding."""

_EXPLORATION = ("explore_proposals", "explore_rounds")


@typed
@dataclass(frozen=True, kw_only=True)
class SetDDPGSettings(DDPGSettings):
    """Settings of the structured caching agent."""

    discount: float = 0.0
    """Weight of the next decision's value; 0 or more and below 1. What a cache earns does not depend on the caches
    before it, but for the switching cost, so 0 learns fastest."""

    target_rate: float = 0.02
    """Share by which the target networks follow the trained ones each update; above 0, at most 1. Decisions are made by
    the target critic, whose weights are an average over the last 1 / `target_rate` updates."""

    hidden_sizes: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers of the critic's network of a service; each at least 1."""

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


class SetDDPG(DDPG):
    """DDPG with the structure of the caching problem in it.

    It departs so far from the published one that little of DDPG is left. By default the discount is 0: the critic
    learns what a frame earns and no future. The actor learns by cross-entropy, not by a policy gradient. A decision is
    the best of many proposals. In detail:

    The critic learns from the caches that were executed, not from the raw actions, and sees coverage and copies of
    each service (`SetCritic`). A decision is the target critic's best of many feasible caches: the actor's, the one
    held now filled up, and disturbed ones, the best of which are changed until no change of a pair helps; what is held
    stays unless the best is worth more by a margin. The actor (`SetActor`) learns by cross-entropy to make the decision
    that a search ends with, in place of following the critic's slope, which knows nothing of what fits. Rewards are
    normalised by their running mean and standard deviation after the rare outliers are cut (latencies have a long
    tail), so any caching reward will do.

    Weights do not depend on the number of users, servers or services: `for_scenario` takes them to another network.
    Everything is deterministic: draws come from the given generator, else from one seeded by `settings.seed`. Those
    of a decision without exploration are the same for every row, so it does not depend on the rows beside it.

    Args:
        scenario: gives S, K, storage and usable caches, which decoding a decision needs anyway.
        settings: hyper-parameters.
        generator: source of the initial parameters; None: the global one.
    """

    settings: SetDDPGSettings
    actor: SetActor
    critic: SetCritic
    num_updates: Int64[Tensor, ""]

    def __init__(
        self,
        scenario: Scenario,
        settings: SetDDPGSettings = SetDDPGSettings(),
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        sizes = (scenario.storage_bits, scenario.usable_cache_bits)
        super().__init__(
            scenario.caching_observation_size,
            scenario.caching_action_size,
            settings,
            actor=SetActor(*sizes, settings.actor_width, generator),
            critic=SetCritic(*sizes, settings.hidden_sizes, settings.sees_switching, generator),
        )
        self.scenario = scenario
        self.rewards = RunningNormaliser(1)
        self.register_buffer("num_updates", torch.zeros((), dtype=torch.int64))

    def for_scenario(self, scenario: Scenario) -> "SetDDPG":
        """A copy with the same weights for another network; any number of users, servers and services."""
        other = type(self)(scenario, self.settings, generator=torch.Generator().manual_seed(0))
        other.load_state_dict(self.state_dict())
        return other.to(self.device).train(self.training)

    # Deciding ------------------------------------------------------------------------------------------------------

    def forward(self, observation: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """As `act`; a decision has no gradient."""
        return self.act(observation)

    @torch.no_grad()
    def act(
        self, observation: Float[Tensor, "..."], generator: torch.Generator | None = None
    ) -> Float[Tensor, "..."]:
        """The decision without exploration at observation `[..., observation_size]`, 1 where held and −1 elsewhere.

        Args:
            observation: as `EdgeNetwork.caching_observation` gives it.
            generator: of the proposals, the same for all rows. With others each time, decisions that follow each other
                search in new directions, which an episode gains from; None: one of the setting `seed`.

        Raises:
            ValueError: an observation of another size, or of caches of another size than the scenario's.
            NonFiniteError: a number of it is infinite or none.
        """
        self._check(observation)
        check_caching_view(observation, self.scenario)
        return self.decide(observation, self.actor, self.target_critic, generator)

    def _check(self, observation: Tensor) -> None:
        if observation.ndim == 0 or observation.shape[-1] != self.observation_size:
            found = list(observation.shape)
            raise ValueError(f"observation must have shape [..., {self.observation_size}], got {found}")

    @torch.no_grad()
    def explore(
        self, observation: Float[Tensor, "batch observation"], noise: float, generator: torch.Generator
    ) -> Float[Tensor, "batch action"]:
        """The best of some proposals, with Gaussian noise of deviation `noise` on its ±1, made feasible and filled up.

        Before the first update, whose critic knows nothing and would have all networks hold about the same, the caches
        are drawn at random; where everything fits, about half of it, so that the critic sees what a miss costs.

        Returns:
            1 where a service is held and −1 elsewhere: `decode_caching` gives this very cache.
        """
        rounds = self.settings.explore_rounds
        few = self.settings.explore_proposals
        if self.num_updates == 0:
            shape = (len(observation), self.scenario.num_servers, self.scenario.num_services)
            wish = normal(shape, generator, observation)
            drawn = fill_caches(self.scenario, wish, wish > 0 if self._all_fits else None)
            return _as_action(drawn, observation).flatten(-2)
        best = self._search(observation, self.actor, self.target_critic, generator, few, rounds)
        if noise > 0:
            drawn = normal(best.shape, generator, observation)
            best = fill_caches(self.scenario, _as_action(best, observation) + noise * drawn)
        return _as_action(best, observation).flatten(-2)

    @torch.no_grad()
    def decide(
        self,
        observation: Float[Tensor, "*rows observation"],
        actor: nn.Module,
        critic: nn.Module,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "*rows action"]:
        """The best cache found by the critic around the actor's action, 1 where held and −1 elsewhere.

        What is held now stays, filled up, where that is worth nearly as much (`hysteresis`).
        """
        rows = observation.reshape(-1, self.observation_size)
        if self.settings.num_proposals == 1:
            cache = fill_caches(self.scenario, self._wish(rows, actor))
        else:
            generator = generator or make_generator(self.settings.seed, Use.CACHING_DECISIONS)
            cache = self._worth_switching(rows, self._settled(rows, actor, critic, generator), critic)
        action = _as_action(cache, observation)
        return action.reshape(*observation.shape[:-1], self.action_size)

    def propose(
        self,
        wish: Float[Tensor, "batch server service"],
        num_proposals: int,
        generator: torch.Generator,
        shared: bool = False,
        among: Share | None = None,
    ) -> Bool[Tensor, "batch proposal server service"]:
        """Feasible caches around a wish (see `propose_caches`)."""
        return propose_caches(self.scenario, wish, num_proposals, generator, shared, among)

    @torch.no_grad()
    def _search(
        self,
        observation: Float[Tensor, "batch observation"],
        actor: nn.Module,
        critic: nn.Module,
        generator: torch.Generator,
        num_proposals: int,
        rounds: int,
        among: Share | None = None,
    ) -> Bool[Tensor, "batch server service"]:
        """The best of some rounds of proposals."""
        wish = self._wish(observation, actor)
        if num_proposals == 1:
            return fill_caches(self.scenario, wish)
        best = fill_caches(self.scenario, self._held(observation))  # full, as all that the critic learns from
        for _ in range(rounds):
            proposed = self.propose(wish, num_proposals, generator, among=among)
            caches = torch.cat((proposed, best.unsqueeze(1)), dim=1)
            value = self._values(observation, caches, critic)
            best = caches[torch.arange(len(caches), device=caches.device), value.argmax(dim=1)]
            wish = _as_action(best, observation)
        return best

    @torch.no_grad()
    def _settled(
        self,
        observation: Float[Tensor, "batch observation"],
        actor: nn.Module,
        critic: nn.Module,
        generator: torch.Generator,
    ) -> Bool[Tensor, "batch server service"]:
        """The best of where the changes of the best proposals end; the same proposals for all rows."""
        wish, count = self._wish(observation, actor), self.settings.num_proposals
        proposed = self.propose(wish, count, generator, shared=True)
        starts = self._values(observation, proposed, critic).topk(min(self.settings.num_starts, count), dim=1)
        row = torch.arange(len(proposed), device=proposed.device)
        held = fill_caches(self.scenario, self._held(observation))
        begun = torch.cat((proposed[row[:, None], starts.indices], held.unsqueeze(1)), dim=1)
        ends = settle(
            self.scenario, begun, lambda rows, caches: self._values(observation[rows], caches, critic)
        )
        return ends[row, self._values(observation, ends, critic).argmax(dim=1)]

    @property
    def _all_fits(self) -> bool:
        """Whether every server could hold every service: full caches are then all the same."""
        return sum(self.scenario.storage_bits) <= min(self.scenario.usable_cache_bits)

    def _wish(
        self, observation: Float[Tensor, "batch observation"], actor: nn.Module
    ) -> Float[Tensor, "batch server service"]:
        """The actor's action, or none without `use_actor`."""
        shape = (len(observation), self.scenario.num_servers, self.scenario.num_services)
        if not self.settings.use_actor:
            return observation.new_zeros(shape)
        return actor(observation).to(observation.dtype).view(shape)

    def _values(
        self,
        observation: Float[Tensor, "batch observation"],
        caches: Bool[Tensor, "batch proposal server service"],
        critic: nn.Module,
    ) -> Float[Tensor, "batch proposal"]:
        """What a critic thinks of some caches of every row, to so many digits as decide; none is worse than −inf."""
        flat = caches.flatten(2).to(observation.dtype)
        seen = observation.unsqueeze(1).expand(-1, flat.shape[1], -1)
        return critic(seen, flat).float().round(decimals=VALUE_DECIMALS).nan_to_num(nan=-inf)

    def _held(self, observation: Float[Tensor, "batch observation"]) -> Float[Tensor, "batch server service"]:
        return read_caching_observation(
            observation, self.scenario.num_servers, self.scenario.num_services
        ).cache

    def _worth_switching(
        self,
        observation: Float[Tensor, "batch observation"],
        best: Bool[Tensor, "batch server service"],
        critic: nn.Module,
    ) -> Bool[Tensor, "batch server service"]:
        """The best caches where they are worth more than those held now by more than `hysteresis`."""
        held = self._held(observation)
        kept = fill_caches(self.scenario, held)
        caches = torch.stack((best, kept), dim=1).flatten(2).to(observation.dtype)
        value = critic(observation.unsqueeze(1).expand(-1, 2, -1), caches).float()
        stays = (value[:, 0] - value[:, 1] <= self.settings.hysteresis) & (held > 0).any(dim=(1, 2))
        return torch.where(stays[:, None, None], kept, best)

    # Learning ------------------------------------------------------------------------------------------------------

    def executed(self, batch: CachingTransitions) -> Float[Tensor, "batch action"]:
        """The cache that was executed."""
        return batch.cache

    @torch.no_grad()
    def target_value(self, batch: CachingTransitions) -> Float[Tensor, " own"]:
        """Normalised r + discount·Q′(s′, c′); c′ is Q′'s best of a few caches around the target actor's."""
        own = self.data_share.rows(batch)
        reward = self.rewards.normalise(own.reward.unsqueeze(-1)).squeeze(-1)
        discount = self.settings.discount
        if discount == 0:
            return reward
        few = max(1, self.settings.explore_proposals // 8)
        networks = (self.target_actor, self.target_critic)
        among = self.data_share.of(len(batch.reward))
        generator = self._learn_generator(Use.CACHING_TARGETS)
        cache = self._search(own.next_observation, *networks, generator, few, 1, among)
        following = self.target_critic(own.next_observation, cache.flatten(1).to(reward.dtype))
        return reward + discount * following

    def actor_loss(self, batch: CachingTransitions) -> Float[Tensor, ""]:
        """Cross-entropy between the actor's wishes and the caches that a search around them finds."""
        observation = batch.observation[: self.settings.actor_rows]
        among, weight = self.data_share.of(len(observation)), self.data_share.weight(len(observation))
        observation = observation[among.items]
        few = self.settings.explore_proposals
        networks = (self.actor, self.target_critic)
        generator = self._learn_generator(Use.CACHING_LESSONS)
        better = self._search(observation, *networks, generator, few, 1, among)
        return weight * binary_cross_entropy_with_logits(
            2 * self.actor.logits(observation), better.flatten(1).to(observation.dtype)
        )

    def update(
        self,
        batch: CachingTransitions,
        actor_optimizer: Optimizer | LightningOptimizer,
        critic_optimizer: Optimizer | LightningOptimizer,
        backward: Callable[[Tensor], None],
    ) -> DDPGLosses:
        """One gradient update of critic, actor and target networks (see `DDPG.update`)."""
        batch = batch._replace(reward=without_outliers(batch.reward))
        self.rewards.update(batch.reward.unsqueeze(-1))
        for network in (self.actor, self.critic):
            network.watch(batch.observation)
        losses = super().update(batch, actor_optimizer, critic_optimizer, backward)
        self.num_updates += 1
        return losses

    def _learn_generator(self, use: Use) -> torch.Generator:
        return make_generator(self.settings.seed, use, int(self.num_updates))


def without_outliers(reward: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """Cuts what lies further from the middle 90 % of the rewards than twice their span; all are kept if that is 0."""
    low, high = torch.quantile(reward, reward.new_tensor([0.05, 0.95]))
    span = high - low
    return reward.clamp(low - 2 * span, high + 2 * span) if span > 0 else reward


def _as_action(cache: Tensor, like: Tensor) -> Tensor:
    return cache.to(like.dtype) * 2 - 1

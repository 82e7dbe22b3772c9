"""The caching agent that looks ahead through the fast level's model: what frames would cost under other caches."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hadrl_lightning.agents.cache_choice import CacheChoice
from hadrl_lightning.agents.cache_search import as_action, normal
from hadrl_lightning.agents.levels import CACHING_AGENTS, CachingAgent, SlotModel, Steps
from hadrl_lightning.agents.settings import LookaheadSettings
from hadrl_lightning.agents.views import check_caching_view
from hadrl_lightning.data.transitions import CachingTransitions, OffloadingTransitions
from hadrl_lightning.distributed import summed, this_rank
from hadrl_lightning.errors import HadrlError
from hadrl_lightning.nn.demand import UsualDemand
from hadrl_lightning.planning.cache_descent import Room
from hadrl_lightning.planning.frames import FrameModel, Frames
from hadrl_lightning.scenario import Physics, Scenario
from hadrl_lightning.simulator import CachingView, Use, make_generator, offloading_view_of, rules
from hadrl_lightning.simulator.rows import kinds_of
from hadrl_lightning.simulator.views import OF_THE_CLOUD

FLAT = (
    "model: {slow_level: set, planner: {form: gould, informed_candidates: 0, share_steps: 0, target_sweeps: 0}}, "
    "planning: {planner: null}"
)
"""What goes with a flat fast level."""
QUALITY_STEP = 0.1
"""Logarithms of the links' quality are rounded to this: so much of it is where users happen to stand in a slot."""


class NothingToLearn(NamedTuple):
    """Losses of an agent without weights."""


@CACHING_AGENTS.register("lookahead")
class LookaheadCaching(CachingAgent):
    """Holds what the fast level's model expects the least latency of, under demand as it is now.

    It has no weights. What a frame costs under a cache is told by the model that plans the slots, if it knows sharing
    (`planning.frames`): with users as shares of a crowd while caches are searched (`Descent`), then with users by name
    in drawn slots to choose among the best. So what the fast level learns of latencies, the slow level knows at once,
    of caches too that were never tried.

    Demand is the usual one of all training, unless what was asked for in the episode differs by more than chance, and
    that in turn unless the last frame does (`UsualDemand.now`). What is held stays unless more is expected to be saved
    than fetching costs, by the setting `switching_weight`.

    Learning is rehearsing (`update`): one cache is remembered as the best under the usual demand, and compared with
    others nearly as good on slots that are drawn anew each time. A decision begins from it too. Where networks differ
    (the scenario has ranges) nothing is remembered of demand and caches: what is on record of each network tells.

    While experience is collected, each decision follows one member of the model's ensemble, drawn at random, as the
    fast level's plans do: where members disagree, more is tried, and nothing where they agree (posterior sampling).

    The same agent acts on any number of servers, services and users; every row may be of another network. Draws of a
    decision without exploration are the same for every row, so it does not depend on the rows beside it.

    Args:
        scenario: gives the number of slots of a frame, and what views don't show.
        settings: hyper-parameters.
        physics: what views show.
    """

    Settings = LookaheadSettings
    settings_group = "lookahead"
    transfers = True
    looks_through = True
    learns_from_frames = False

    def __init__(
        self,
        scenario: Scenario,
        settings: LookaheadSettings = LookaheadSettings(),  # noqa: B008 (frozen)
        *,
        physics: Physics = "strict",
    ) -> None:
        super().__init__()
        self.scenario = scenario
        self.settings = settings
        self.physics: Physics = physics
        self.demand = UsualDemand(scenario.num_services)
        self.num_explored: Tensor
        self.register_buffer("num_explored", torch.zeros((), dtype=torch.int64))
        shape = (scenario.num_servers, scenario.num_services)
        self.remembered: Bool[Tensor, "server service"]
        self.num_rehearsed: Tensor
        self.register_buffer("remembered", torch.zeros(shape, dtype=torch.bool))
        self.register_buffer("num_rehearsed", torch.zeros((), dtype=torch.int64))
        self.register_load_state_dict_pre_hook(_without_caches_of_other_sizes)
        self._seen_through: tuple[Any, ...] = ()  # in a tuple, since it is no part of this agent

    @classmethod
    def made_for(
        cls, scenario: Scenario, physics: Physics, settings: LookaheadSettings, generator: torch.Generator
    ) -> "LookaheadCaching":
        """See `Level`."""
        return cls(scenario, settings, physics=physics)

    def look_through(self, model: SlotModel) -> None:
        """See `CachingAgent`.

        Raises:
            HadrlError: the model does not tell what tasks cost at servers.
        """
        if not isinstance(model, FrameModel) or not model.knows_sharing:
            raise HadrlError(
                f"slow_level must be set or flat with a {type(model).__name__} that knows no law of sharing (lookahead "
                "needs fast_level set with encoder shared_resources and num_common_resources 0), got lookahead; for "
                f"fast_level flat: {FLAT}"
            )
        self._seen_through = (model,)

    @property
    def _model(self) -> Any:
        """The fast level's model.

        Raises:
            RuntimeError: there is none yet.
        """
        if not self._seen_through:
            raise RuntimeError(
                "look_through must be called before a decision: the fast level's model tells what frames cost"
            )
        return self._seen_through[0]

    # Deciding ------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def act(
        self,
        view: CachingView,
        generator: torch.Generator | None = None,
        log_factor: Float[Tensor, "batch server part"] | None = None,
    ) -> Float[Tensor, "..."]:
        """The decision without exploration on a `CachingView` `[...]`, server-major: 1 where held and −1 elsewhere.

        Args:
            view: as `EdgeNetwork.caching_view` gives it.
            generator: of what is drawn, the same for all rows; None: one of the setting `seed`.
            log_factor: by which factors servers are believed to demand more than the model says (`Belief`); None: 1.

        Raises:
            ValueError: something else than a caching view.
            NonFiniteError: a number of it is infinite or none.
            HadrlError: a number that no network shows.
        """
        if not isinstance(view, CachingView):
            raise ValueError(f"a caching agent decides on a CachingView, got a {type(view).__name__}")
        check_caching_view(view, self.scenario, self.physics)
        rows = view.demand.shape[:-1]
        flat = view.map(lambda value: value.reshape(-1, *value.shape[len(rows) :]))
        generator = generator or make_generator(self.settings.seed, Use.CACHING_DECISIONS)
        cache = self._decide(flat, None, generator, log_factor)
        return as_action(cache, view.dtype).reshape(*rows, -1)

    @torch.no_grad()
    def explore(
        self, view: CachingView, noise: float, generator: torch.Generator
    ) -> Float[Tensor, "batch action"]:
        """The decision by a member of the model drawn for each row, with noise of deviation `noise` on its ±1.

        The first `random_decisions` are drawn at random: full caches, or about half of everything where all of it fits.

        Returns:
            1 where a service is held and −1 elsewhere: `decode_caching` gives this very cache.
        """
        room = self._room(view)
        row = torch.arange(len(view), device=view.device)
        self.num_explored += 1
        if self.num_explored <= self.settings.random_decisions:
            wish = normal(tuple(view.cache.shape), generator, view.demand)
            wanted = (wish > 0) | ~room.fits_all[:, None, None]
            return as_action(room.filled(row, wish, wanted), view.dtype).flatten(1)
        member = torch.randint(
            self._model.held.total, (len(view),), generator=generator, device=generator.device
        )
        cache = self._decide(view, member.to(view.device), generator)
        if noise > 0:
            wish = as_action(cache, view.dtype) + noise * normal(tuple(cache.shape), generator, view.demand)
            dear = room.fits_all & ~room.holds_all  # to hold everything is a choice there
            cache = room.filled(row, wish, (wish > 0) | ~dear[:, None, None])
        return as_action(cache, view.dtype).flatten(1)

    @torch.no_grad()
    def expected_latency(
        self, view: CachingView, cache: Bool[Tensor, "batch server service"]
    ) -> Float[Tensor, " batch"]:
        """See `CachingAgent`."""
        asked = view.recent_requests / view.recent_requests.sum(dim=1, keepdim=True).clamp(min=1)
        row = torch.arange(len(view), device=view.device)
        return self.frames(view, asked).best_parts(row, cache).cost / self._users(view).clamp(min=1)

    def _decide(
        self,
        view: CachingView,
        member: Tensor | None,
        generator: torch.Generator,
        log_factor: Tensor | None = None,
    ) -> Bool[Tensor, "batch server service"]:
        """The caches of all rows; what rows have in common is decided once.

        Args:
            view: of the networks.
            member: which member of the model each row follows; None: all of them.
            generator: of what is drawn, alike for all rows.
            log_factor: see `act`.
        """
        if not len(view):
            return view.cache
        quality = (view.spectral_efficiency.log() / QUALITY_STEP).round() * QUALITY_STEP
        view = replace(view, spectral_efficiency=quality.exp())
        users = self._users(view)
        if bool((users != users[0]).any()):
            cache, drawn = torch.empty_like(view.cache), generator.get_state()
            for number in users.unique():
                some = users == number
                generator.set_state(drawn)
                parts = [None if one is None else one[some] for one in (member, log_factor)]
                cache[some] = self._decide(view[some], parts[0], generator, parts[1])
            return cache
        demand = self.demand.now(view)
        servers = (view.cache, view.free_cache_bits, view.bandwidth_hz, view.compute_hz)
        services = (view.storage_bits, view.fetch_s, view.input_bits, view.cycles, demand)
        network = [getattr(view, name) for name in ("spectral_efficiency", *OF_THE_CLOUD)]
        further = [one for one in (member, log_factor) if one is not None]
        first, kind = kinds_of([one.to(demand) for one in (*servers, *services, *network, *further)])
        view, demand = view[first], demand[first]
        parts = [None if one is None else one[first] for one in (member, log_factor)]
        room = self._room(view)
        choice = self._choice(self.frames(view, demand, *parts), room, int(users[0]), generator)
        ready, known = self._known(view, room)
        return choice.best(view.cache, ready, known, exploring=member is not None)[kind]

    @torch.no_grad()
    def frames(
        self,
        view: CachingView,
        demand: Float[Tensor, "batch service"],
        member: Tensor | None = None,
        log_factor: Tensor | None = None,
    ) -> Frames:
        """The slots to come of each row, as the fast level's model sees them.

        Args:
            view: of the networks.
            demand: what part of requests is for each service.
            member: which member of the model each row follows; None: all of them.
            log_factor: see `act`.
        """
        beliefs = () if log_factor is None else (log_factor,)  # of models that have them
        tasks, users = self._model.service_demands(view, *beliefs), self._users(view)
        if member is not None:
            tasks = tasks[member, torch.arange(len(view), device=view.device)].unsqueeze(0)
        return Frames(tasks, demand * users[:, None], users)

    def _choice(self, frames: Frames, room: Room, num_users: int, generator: torch.Generator) -> CacheChoice:
        idle = offloading_view_of(self.scenario).idle_users
        return CacheChoice(frames, room, num_users, self.settings, generator, idle)

    def _users(self, view: CachingView) -> Float[Tensor, " batch"]:
        """Users of each network; as many as the scenario has where the view does not tell."""
        return torch.where(view.users > 0, view.users, self.scenario.num_users).to(view.demand)

    def _known(
        self, view: CachingView, room: Room
    ) -> tuple[Bool[Tensor, "batch server service"], Bool[Tensor, " batch"]]:
        """What is remembered, and for which rows it is of use: it has their sizes and fits."""
        if not self.num_rehearsed or self.remembered.shape != view.cache.shape[1:]:
            return view.cache, torch.zeros(len(view), dtype=torch.bool, device=view.device)
        cache = self.remembered.expand_as(view.cache)
        return cache, room.allows(cache)

    def _room(self, view: CachingView) -> Room:
        """What caches hold, and what it costs to fetch what is not held now, spread over the slots of a frame."""
        usable = rules(self.physics).usable_bits(self.scenario, view)
        wanted = self.scenario.preferences
        weight = self.settings.switching_weight * wanted.latency_s + wanted.switching_s
        fetched = weight * view.fetch_s / self.scenario.slots_per_decision
        rent = torch.where(view.cache, 0.0, fetched.unsqueeze(1))
        return Room(view.storage_bits.double(), usable, rent)

    # Learning ------------------------------------------------------------------------------------------------------

    def observe(self, transitions: OffloadingTransitions) -> None:
        """Takes what was asked for in new slots into the usual demand; networks that differ have none in common."""
        view: Any = transitions.view
        if not self.scenario.demands_differ:
            self.demand.watch(view.requests if view.asking is None else view.requests[view.asking])

    @torch.no_grad()
    def update(
        self, batch: CachingTransitions, optimizers: Sequence[Steps], backward: Callable[[Tensor], None]
    ) -> NothingToLearn:
        """Rehearse: compare what is remembered as best under the usual demand with caches that are nearly as good.

        That is done on drawn slots, and what is plainly better is remembered in its place. Where networks differ there
        is nothing to remember, nor where everything fits.

        Args:
            batch: its first view says what the networks are like.
            optimizers: none.
            backward: not used, there is no gradient.
        """
        if self.scenario.ranges:
            return NothingToLearn()
        view: Any = batch.view
        view = view[:1]
        room = self._room(view)
        if bool(room.holds_all):
            return NothingToLearn()
        usual = self.demand.usual(view.requests.shape[1], view.demand).unsqueeze(0)
        free = room._replace(rent=torch.zeros_like(room.rent))
        generator = make_generator(self.settings.seed, Use.CACHING_LESSONS, int(self.num_rehearsed))
        choice = self._choice(self.frames(view, usual), free, int(self._users(view)), generator)
        found = choice.rehearsed(*self._known(view, room))[0].int()
        self.remembered = summed(
            found if this_rank().rank == 0 else torch.zeros_like(found)
        ).bool()  # a resume has it
        self.num_rehearsed += 1
        return NothingToLearn()

    def configure_optimizers(self) -> list[Any]:
        """None."""
        return []


def _without_caches_of_other_sizes(
    agent: LookaheadCaching, state_dict: dict[str, Any], prefix: str, *_: Any
) -> None:
    """Before `load_state_dict`: what was best in another network is nothing to begin from in this one."""
    known = state_dict.get(f"{prefix}remembered")
    if known is not None and known.shape != agent.remembered.shape:
        state_dict[f"{prefix}remembered"] = torch.zeros_like(agent.remembered)
        state_dict[f"{prefix}num_rehearsed"] = torch.zeros_like(agent.num_rehearsed)

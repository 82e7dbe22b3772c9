"""The caching agent that looks ahead through the fast level's model: what frames would cost under other caches."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hadrl_lightning.agents.cache_search import as_action, normal
from hadrl_lightning.agents.levels import CACHING_AGENTS, CachingAgent, SlotModel, Steps
from hadrl_lightning.agents.views import check_caching_view
from hadrl_lightning.data.transitions import CachingTransitions, OffloadingTransitions
from hadrl_lightning.errors import HadrlError
from hadrl_lightning.nn.demand import UsualDemand
from hadrl_lightning.planning.cache_descent import MIN_GAIN, Descent, Room
from hadrl_lightning.planning.frames import FrameModel, Frames
from hadrl_lightning.scenario import Physics, Scenario
from hadrl_lightning.simulator import CachingView, Use, check_seed, make_generator, rules
from hadrl_lightning.typed import typed

MOST_SLOT_PAIRS = 2**17
"""Pairs of a user and a server, of all slots and caches, that the last look of a decision draws at most."""
LIKELY = 2.0
"""What another cache than the remembered saves on drawn slots must be so many standard errors of that."""
SURE = 3.0
"""What a change saves on these slots must be so many standard errors of that: the best of several always seems to."""
LEAST_SAVED = 1e-3
"""And more than this part of the cost: about what the searches leave open."""
NUM_TRIED, NUM_TRIED_ON = 3, 16
"""Caches that a rehearsal compares with what is remembered, and slots that it does so on."""
DISTURBANCE = 1.0
"""Standard deviation of the disturbance of what is remembered, ±1 a pair, from which they are found."""
MOST_START_CELLS = 2**13
"""Services × servers of all starts of a network beyond the first; the largest have no other."""
LEAST_SLOTS = 2
"""With fewer there is no last look: among so many users chance matters little."""


@typed
@dataclass(frozen=True, kw_only=True)
class LookaheadSettings:
    """Settings of the caching agent that looks ahead."""

    num_starts: int = 4
    """Random caches from which the search goes downhill, beside what is held now and one that is filled by what each
    service saves per bit; 0 or more."""

    num_finalists: int = 5
    """The best ends of the search that are compared on drawn slots; 0 or more, 0 and 1 leave this out. With many more
    there are fewer slots, and at last none."""

    num_slots: int = 32
    """Slots that they are compared on; at least 1. Large networks, in which chance matters less, get fewer."""

    switching_weight: float = 0.0
    """What a second of fetching counts beside a second of latency, summed over users and slots of a frame; at least 0,
    where fetching costs nothing. Caches change when more is expected to be saved, by more than chance explains."""

    random_decisions: int = 5
    """Caching decisions at first, while experience is collected, that are drawn at random: so that every server is seen
    with and without every service; 0 or more."""

    seed: int = 0
    """Of the draws made without a generator; at least 0."""

    def __post_init__(self) -> None:
        for name in ("num_starts", "num_finalists", "random_decisions"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        if self.num_slots < 1:
            raise ValueError(f"num_slots must be at least 1, got {self.num_slots}")
        if not 0 <= self.switching_weight < inf:
            raise ValueError(f"switching_weight must be at least 0 and finite, got {self.switching_weight}")
        check_seed("seed", self.seed)


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
    others nearly as good on slots that are drawn anew each time. A decision begins from it too.

    While experience is collected, each decision follows one member of the model's ensemble, drawn at random, as the
    fast level's plans do: where members disagree, more is tried, and nothing where they agree (posterior sampling).

    The same agent acts on any number of servers, services and users; every row may be of another network. Draws of a
    decision without exploration are the same for every row, so it does not depend on the rows beside it.

    Args:
        scenario: gives the number of users, of slots of a frame, and what views don't show.
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
        settings: LookaheadSettings = LookaheadSettings(),
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
                "needs fast_level set with encoder shared_resources and num_common_resources 0), got lookahead"
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
    def act(self, view: CachingView, generator: torch.Generator | None = None) -> Float[Tensor, "..."]:
        """The decision without exploration on a `CachingView` `[...]`, server-major: 1 where held and −1 elsewhere.

        Args:
            view: as `EdgeNetwork.caching_view` gives it.
            generator: of what is drawn, the same for all rows; None: one of the setting `seed`.

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
        cache = self._decide(flat, None, generator)
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
            wanted = (wish > 0) | ~room.holds_all[:, None, None]
            return as_action(room.filled(row, wish, wanted), view.dtype).flatten(1)
        member = torch.randint(
            self._model.held.total, (len(view),), generator=generator, device=generator.device
        )
        cache = self._decide(view, member.to(view.device), generator)
        if noise > 0:
            wish = as_action(cache, view.dtype) + noise * normal(tuple(cache.shape), generator, view.demand)
            cache = room.filled(row, wish)
        return as_action(cache, view.dtype).flatten(1)

    @torch.no_grad()
    def expected_latency(
        self, view: CachingView, cache: Bool[Tensor, "batch server service"]
    ) -> Float[Tensor, " batch"]:
        """See `CachingAgent`."""
        asked = view.recent_requests / view.recent_requests.sum(dim=1, keepdim=True).clamp(min=1)
        row = torch.arange(len(view), device=view.device)
        return self._frames(view, asked).best_parts(row, cache).cost / max(1, self.scenario.num_users)

    @torch.no_grad()
    def expected(
        self,
        view: CachingView,
        caches: Bool[Tensor, "cache server service"],
        num_slots: int,
        generator: torch.Generator,
    ) -> tuple[Float[Tensor, " cache"], Float[Tensor, " cache"]]:
        """Latency summed over users in s, mean over slots, that is expected under each of some caches of one network.

        Args:
            view: of that network, `[1]`; what is expected to be asked for counts.
            caches: what every server holds.
            num_slots: slots to draw.
            generator: draws them, on the CPU.

        Returns:
            With users as shares of a crowd, and with users in the drawn slots.
        """
        frames = self._frames(view, self.demand.now(view))
        row = torch.zeros(len(caches), dtype=torch.int64, device=caches.device)
        uniform = torch.rand(num_slots, self.scenario.num_users, generator=generator).to(view.demand)
        return frames.best_parts(row, caches).cost, frames.on_slots(row, caches, uniform).mean(dim=1)

    def _decide(
        self, view: CachingView, member: Tensor | None, generator: torch.Generator
    ) -> Bool[Tensor, "batch server service"]:
        """The caches of all rows; what rows have in common is decided once.

        Args:
            view: of the networks.
            member: which member of the model each row follows; None: all of them.
            generator: of what is drawn, alike for all rows.
        """
        if not len(view):
            return view.cache
        demand = self.demand.now(view)
        servers = (view.cache, view.free_cache_bits, view.bandwidth_hz, view.compute_hz)
        services = (view.storage_bits, view.fetch_s, view.input_bits, view.cycles, demand)
        followed = [] if member is None else [member.to(demand)[:, None]]
        key = torch.cat([part.to(demand).flatten(1) for part in (*servers, *services)] + followed, dim=1)
        _, kind = torch.unique(key, dim=0, return_inverse=True)
        first = torch.full((int(kind.max()) + 1,), len(view), device=kind.device)
        first = first.scatter_reduce(0, kind, torch.arange(len(view), device=kind.device), "amin")
        frames = self._frames(view[first], demand[first], None if member is None else member[first])
        descent = Descent(frames, self._room(view[first]))
        full = descent.room.holds_all
        found = torch.ones_like(view.cache[first])
        if not bool(full.all()):
            found = self._best(view[first], descent, member is not None, generator)
        row = full.nonzero().squeeze(1)
        if len(row):  # a service is missing only where the cloud outdoes servers that hold it
            found[row], _ = descent.settled(row, torch.ones_like(found[row]))
        return found[kind]

    def _best(
        self, view: CachingView, descent: Descent, exploring: bool, generator: torch.Generator
    ) -> Bool[Tensor, "batch server service"]:
        """The caches of least expected cost of each row; what is held, filled up, unless others plainly save more."""
        row = torch.arange(len(view), device=view.device)
        held = descent.filled_up(row, view.cache)
        ready, known = self._known(view, descent.room)
        if not bool(known.all()):
            ready = torch.where(known[:, None, None], ready, descent.greedy())
        starts = [ready, *self._further_starts(held, descent, exploring, generator)]
        ends, cost = descent.settled(row.repeat(len(starts)), torch.cat(starts))
        ends = ends.view(len(starts), *view.cache.shape).transpose(0, 1)
        cost = _first_of_equals(ends, cost.view(len(starts), -1).T)
        count = min(max(1, self.settings.num_finalists), len(starts))
        cost, which = cost.topk(count, dim=1, largest=False)
        ends = ends[row[:, None], which]
        last_look = not exploring and self.settings.num_finalists > 1
        uniform = self._uniform(2 + count, view, generator) if last_look else None
        if uniform is None:
            best = ends[:, 0]
            plain = descent.cost(row, held) - cost[:, 0] > MIN_GAIN * cost[:, 0].abs()
        else:
            ready = torch.where(known[:, None, None], ready, ends[:, 0])
            compared = torch.cat((held.unsqueeze(1), ready.unsqueeze(1), ends), dim=1)
            chosen, plain = _chosen(descent.on_slots(row, compared, uniform))
            best = compared[row, chosen]
        changes = plain | ~view.cache.any(dim=2).any(dim=1)
        return torch.where(changes[:, None, None], best, held)

    def _further_starts(
        self,
        held: Bool[Tensor, "batch server service"],
        descent: Descent,
        exploring: bool,
        generator: torch.Generator,
    ) -> list[Bool[Tensor, "batch server service"]]:
        """What is held, and random caches, the same for all rows; fewer in large networks."""
        most = MOST_START_CELLS // held[0].numel()
        count = 0 if exploring else min(self.settings.num_starts, most)
        if not count:
            return [held][:most]
        row = torch.arange(len(held), device=held.device)
        wish = normal((1, count, *held.shape[1:]), generator, descent.room.rent)
        return [held, *descent.room.filled(row, wish.expand(len(held), -1, -1, -1)).unbind(dim=1)]

    def _frames(
        self, view: CachingView, demand: Float[Tensor, "batch service"], member: Tensor | None = None
    ) -> Frames:
        """The slots to come of each row.

        Args:
            view: of the networks.
            demand: what part of requests is for each service.
            member: which member of the model each row follows; None: all of them.
        """
        tasks, users = self._model.service_demands(view), self.scenario.num_users
        if member is not None:
            tasks = tasks[member, torch.arange(len(view), device=view.device)].unsqueeze(0)
        return Frames(tasks, demand * users, users)

    def _known(
        self, view: CachingView, room: Room
    ) -> tuple[Bool[Tensor, "batch server service"], Bool[Tensor, " batch"]]:
        """What is remembered, and for which rows it is of use: it has their sizes and fits."""
        if not self.num_rehearsed or self.remembered.shape != view.cache.shape[1:]:
            return view.cache, torch.zeros(len(view), dtype=torch.bool, device=view.device)
        cache = self.remembered.expand_as(view.cache)
        return cache, room.allows(cache)

    def _uniform(
        self, num_caches: int, view: CachingView, generator: torch.Generator
    ) -> Float[Tensor, "slot user"] | None:
        """Draws for the slots that some caches of every row are compared on; None if there are none."""
        users = max(1, self.scenario.num_users)
        most = MOST_SLOT_PAIRS // (num_caches * users * view.cache.shape[1])
        slots = min(self.settings.num_slots, most)
        if slots < LEAST_SLOTS:
            return None
        return torch.rand(slots, users, generator=generator, device=generator.device).to(view.demand)

    def _room(self, view: CachingView) -> Room:
        """What caches hold, and what it costs to fetch what is not held now, spread over the slots of a frame."""
        usable = rules(self.physics).usable_bits(self.scenario, view)
        fetched = self.settings.switching_weight * view.fetch_s / self.scenario.slots_per_decision
        rent = torch.where(view.cache, 0.0, fetched.unsqueeze(1))
        return Room(view.storage_bits.double(), usable, rent)

    # Learning ------------------------------------------------------------------------------------------------------

    def observe(self, transitions: OffloadingTransitions) -> None:
        """Takes what was asked for in new slots into the usual demand."""
        view: Any = transitions.view
        if not self._differs:
            self.demand.watch(view.requests)

    @torch.no_grad()
    def update(
        self, batch: CachingTransitions, optimizers: Sequence[Steps], backward: Callable[[Tensor], None]
    ) -> NothingToLearn:
        """Rehearse: compare what is remembered as best under the usual demand with caches that are nearly as good.

        That is done on drawn slots, and what is plainly better is remembered in its place. Where networks differ in
        size or in what is asked for there is nothing to remember.

        Args:
            batch: its first view says what the networks are like.
            optimizers: none.
            backward: not used, there is no gradient.
        """
        if self._differs:
            return NothingToLearn()
        view: Any = batch.view
        view = view[:1]
        generator = make_generator(self.settings.seed, Use.CACHING_LESSONS, int(self.num_rehearsed))
        row = torch.zeros(1, dtype=torch.int64, device=view.device)
        room = self._room(view)
        if bool(room.holds_all.all()):
            return NothingToLearn()
        usual = self.demand.usual(view.requests.shape[1], view.demand).unsqueeze(0)
        frames = self._frames(view, usual)
        descent = Descent(frames, room._replace(rent=torch.zeros_like(room.rent)))
        best, known = self._known(view, room)
        if not bool(known):
            best, _ = descent.settled(row, descent.greedy())
        noise = normal((1, NUM_TRIED, *best.shape[1:]), generator, view.demand)
        starts = room.filled(row, as_action(best, view.dtype).unsqueeze(1) + DISTURBANCE * noise)
        ends, _ = descent.settled(row.expand(NUM_TRIED), starts[0])
        compared = torch.cat((best, ends)).unsqueeze(0)
        uniform = self._uniform(compared.shape[1], view, generator)
        if uniform is not None:
            saved, doubt = _saved(descent.on_slots(row, compared, uniform[:NUM_TRIED_ON]), of=0)
            best = compared[row, (saved - LIKELY * doubt).argmax(dim=1)]
        self.remembered = best[0].clone()
        self.num_rehearsed += 1
        return NothingToLearn()

    @property
    def _differs(self) -> bool:
        """Whether there is no usual demand: networks have services of their own."""
        return self.scenario.sizes_vary or "popularity" in self.scenario.ranges

    def configure_optimizers(self) -> list[Any]:
        """None."""
        return []


def _chosen(
    slots: Float[Tensor, "batch cache slot"],
) -> tuple[Int[Tensor, " batch"], Bool[Tensor, " batch"]]:
    """Which of some caches is best by what they cost on drawn slots, and whether it is plainly better than the first.

    The first is held, the second at hand: others must save more than that one, beyond what chance explains.
    """
    row = torch.arange(len(slots), device=slots.device)
    saved, doubt = _saved(slots, of=1)
    chosen = (saved - LIKELY * doubt).argmax(dim=1)
    saved, doubt = (value[row, chosen] for value in _saved(slots, of=0))
    return chosen, saved > SURE * doubt + LEAST_SAVED * slots[:, 0].mean(dim=1)


def _saved(
    slots: Float[Tensor, "batch cache slot"], of: int
) -> tuple[Float[Tensor, "batch cache"], Float[Tensor, "batch cache"]]:
    """What each cache costs less than one of them on the same slots, and the standard error of that."""
    difference = slots[:, of : of + 1] - slots
    return difference.mean(dim=2), difference.std(dim=2) / slots.shape[2] ** 0.5


def _first_of_equals(
    caches: Bool[Tensor, "batch cache server service"], cost: Float[Tensor, "batch cache"]
) -> Float[Tensor, "batch cache"]:
    """The costs, infinite for caches that are the same as one before."""
    flat = caches.flatten(2)
    same = (flat.unsqueeze(2) == flat.unsqueeze(1)).all(dim=3).tril(diagonal=-1)
    return cost.masked_fill(same.any(dim=2), torch.inf)


def _without_caches_of_other_sizes(
    agent: LookaheadCaching, state_dict: dict[str, Any], prefix: str, *_: Any
) -> None:
    """Before `load_state_dict`: what was best in another network is nothing to begin from in this one."""
    known = state_dict.get(f"{prefix}remembered")
    if known is not None and known.shape != agent.remembered.shape:
        state_dict[f"{prefix}remembered"] = torch.zeros_like(agent.remembered)
        state_dict[f"{prefix}num_rehearsed"] = torch.zeros_like(agent.num_rehearsed)

"""Which caches are the best for some networks: a search from several starts, and a choice among its ends.

With users as shares of a crowd the search goes downhill (`Descent`). The best ends are compared on slots that are
drawn, with users by name, in which they go downhill once more; and what is held or remembered stays unless others save
more than chance explains.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hadrl_lightning.agents.cache_search import as_action, normal
from hadrl_lightning.agents.settings import LookaheadSettings
from hadrl_lightning.planning.cache_descent import MIN_GAIN, Descent, Room
from hadrl_lightning.planning.frames import Frames
from hadrl_lightning.planning.named_slots import NamedSlots, users_are_few

MOST_SLOT_PAIRS = 2**17
"""Pairs of a user and a server, of all slots and caches, that the last look of a decision draws at most."""
LIKELY = 2.0
"""What another cache than the remembered saves on drawn slots must be so many standard errors of that."""
SURE = 3.0
"""What a change saves on these slots must be so many standard errors of that: the best of several always seems to."""
LEAST_SAVED = 1e-3
"""And more than this part of the cost: about what the searches leave open."""
MORE_LOOKS = 3
"""How often what seems to save something, but not plainly, is looked at once more, each time on four times the slots
of the time before."""
NUM_TRIED, NUM_TRIED_ON = 3, 16
"""Caches that a rehearsal compares with what is remembered, and slots that it does so on."""
DISTURBANCE = 1.0
"""Standard deviation of the disturbance of what is remembered, ±1 a pair, from which they are found."""
REQUESTS_A_SERVICE = 64
"""Requests for each service, on average, of slots that are drawn where users are few."""
POLISHED_ON = 32
"""Slots at least in which the best ends go downhill once more, with users by name."""
MOST_POLISHED_CELLS = 2**18
"""Those slots × users × servers × ends at most; large networks, in which a slot is much like any other, do without."""
NUM_ROUNDS, NUM_CHANGED = 3, 6
"""Among few users the search goes on from changes of the best caches: so many times, from so many at once."""
KEPT = 10.0
"""Priority of what such a change keeps, beside noise of deviation 1."""
MOST_START_CELLS = 2**13
"""Services × servers of all starts of a network beyond the first; the largest have no other."""
LEAST_SLOTS = 2
"""With fewer there is no last look: among so many users chance matters little."""


class CacheChoice:
    """Chooses caches for the rows of a search, which are networks of as many users each.

    Args:
        frames: what slots to come of each row cost.
        room: what caches of each row hold.
        num_users: of each network.
        settings: how much is searched.
        generator: of what is drawn, alike for all rows.
        idle_users: whether it is left to chance who of all users asks: slots of just so many users by name then say no
            more than a crowd does.
    """

    def __init__(
        self,
        frames: Frames,
        room: Room,
        num_users: int,
        settings: LookaheadSettings,
        generator: torch.Generator,
        idle_users: bool = False,
    ) -> None:
        self.frames, self.room = frames, room
        self.idle_users = idle_users
        self.descent = Descent(frames, room)
        self.num_users = max(1, num_users)
        self.settings = settings
        self.generator = generator

    def best(
        self,
        held: Bool[Tensor, "batch server service"],
        ready: Bool[Tensor, "batch server service"],
        known: Bool[Tensor, " batch"],
        exploring: bool,
    ) -> Bool[Tensor, "batch server service"]:
        """The caches of least expected cost of each row; what is held, filled up, unless others plainly save more.

        Where everything fits, a service is missing only where the cloud outdoes servers that hold it.

        Args:
            held: what is held now.
            ready: what is remembered as the best.
            known: of which rows something is.
            exploring: whether one start and no last look will do.
        """
        full = self.room.holds_all
        found = torch.ones_like(held)
        if not bool(full.all()):
            found = self._least(held, ready, known, exploring)
        row = full.nonzero().squeeze(1)
        if len(row):
            found[row], _ = self.descent.settled(row, torch.ones_like(found[row]))
        return self.descent.filled_up(torch.arange(len(found), device=found.device), found)

    def rehearsed(
        self, ready: Bool[Tensor, "1 server service"], known: Bool[Tensor, " 1"]
    ) -> Bool[Tensor, "1 server service"]:
        """What is remembered for one network, or what is plainly better of some caches that are nearly as good.

        Args:
            ready: what is remembered as the best.
            known: whether something is; else the search begins from nothing.
        """
        row = torch.zeros_like(known, dtype=torch.int64)
        best = ready if bool(known) else self.descent.settled(row, self.descent.greedy())[0]
        rent = self.room.rent
        noise = self._noise((1, NUM_TRIED, *best.shape[1:]))
        starts = self.room.filled(row, as_action(best, rent.dtype).unsqueeze(1) + DISTURBANCE * noise)
        ends, _ = self.descent.settled(row.expand(NUM_TRIED), starts[0])
        compared = torch.cat((best, ends)).unsqueeze(0)
        uniform = self._uniform(compared.shape[1], NUM_TRIED_ON)
        if uniform is None:
            return best
        saved, doubt = _saved(self._on_slots(row, compared, uniform), of=0)
        return compared[row, (saved - LIKELY * doubt).argmax(dim=1)]

    def _least(
        self, holds: Tensor, ready: Tensor, known: Tensor, exploring: bool
    ) -> Bool[Tensor, "batch server service"]:
        """As `best`, where not everything fits."""
        descent, row = self.descent, torch.arange(len(holds), device=holds.device)
        held = descent.filled_up(row, holds)
        if not bool(known.all()):
            ready = torch.where(known[:, None, None], ready, descent.greedy())
        starts = [ready, *self._further_starts(held, exploring)]
        ends, cost = descent.settled(row.repeat(len(starts)), torch.cat(starts))
        ends = ends.view(len(starts), *held.shape).transpose(0, 1)
        cost = _first_of_equals(ends, cost.view(len(starts), -1).T)
        count = min(max(1, self.settings.num_finalists), len(starts))
        cost, which = cost.topk(count, dim=1, largest=False)
        ends = ends[row[:, None], which]
        last_look = not exploring and self.settings.num_finalists > 1
        polished = self._polished(ends, cost) if last_look else ends
        uniform = self._uniform(2 + ends.shape[1] + polished.shape[1]) if last_look else None
        if uniform is None:
            best = ends[:, 0]
            plain = descent.cost(row, held) - cost[:, 0] > MIN_GAIN * cost[:, 0].abs()
        else:
            ready = torch.where(known[:, None, None], ready, ends[:, 0])
            first = torch.stack((held, ready), dim=1)
            best, plain = self._last_look(torch.cat((first, ends, polished), dim=1), uniform)
        changes = plain | ~holds.any(dim=2).any(dim=1)
        return torch.where(changes[:, None, None], best, held)

    def _last_look(
        self, compared: Bool[Tensor, "batch cache server service"], uniform: Float[Tensor, "slot user"]
    ) -> tuple[Bool[Tensor, "batch server service"], Bool[Tensor, " batch"]]:
        """The best on drawn slots of some caches, and whether plainly (`_chosen`)."""
        row = torch.arange(len(compared), device=compared.device)
        slots = self._on_slots(row, compared, uniform)
        chosen, plain = _chosen(slots)
        best = compared[row, chosen]
        return best, plain | self._plain_after_all(torch.stack((compared[:, 0], best), dim=1))

    def _plain_after_all(self, pair: Bool[Tensor, "batch 2 server service"]) -> Bool[Tensor, " batch"]:
        """Whether the second of two caches plainly saves something, on more and more slots until chance is small."""
        row = torch.arange(len(pair), device=pair.device)
        number = self._num_slots
        plain = torch.zeros_like(row, dtype=torch.bool)
        left = row[(pair[:, 0] != pair[:, 1]).flatten(1).any(dim=1)]
        for _ in range(MORE_LOOKS):
            uniform = self._uniform(2, number) if len(left) else None
            if uniform is None or len(uniform) < number:
                break
            slots = self._on_slots(left, pair[left], uniform)
            saved, doubt = (value[:, 1] for value in _saved(slots, of=0))
            sure = _sure(saved, doubt, slots[:, 0])
            plain[left[sure]] = True
            left = left[~sure & _sure(saved, torch.zeros_like(doubt), slots[:, 0])]
            number *= 4
        return plain

    def _further_starts(
        self, held: Bool[Tensor, "batch server service"], exploring: bool
    ) -> list[Bool[Tensor, "batch server service"]]:
        """What is held, and random caches, the same for all rows; fewer in large networks."""
        most = MOST_START_CELLS // held[0].numel()
        count = 0 if exploring else min(self.settings.num_starts, most)
        if not count:
            return [held][:most]
        room = self.room
        row = torch.arange(len(held), device=held.device)
        wish = self._noise((1, count, *held.shape[1:]))
        return [held, *room.filled(row, wish.expand(len(held), -1, -1, -1)).unbind(dim=1)]

    def _polished(
        self, ends: Bool[Tensor, "batch end server service"], cost: Float[Tensor, "batch end"]
    ) -> Bool[Tensor, "batch polished server service"]:
        """Where the best of some ends go downhill in drawn slots: as many as are worth the work, of which some repeat.

        Among few users it matters who meets whom, and the search before knows that on average alone.

        Args:
            ends: best first.
            cost: of each; infinite where it is the same as another.
        """
        slots = max(POLISHED_ON, self._requests_of_all)
        many = MOST_POLISHED_CELLS // (slots * self.num_users * ends.shape[2])
        if not many:
            return ends[:, :0]
        asked, found = self.frames.asked(self._drawn(slots)), []
        noise = self._noise((NUM_ROUNDS, NUM_CHANGED, *ends.shape[2:]))
        for row in range(len(ends)):
            begun = ends[row, :many][cost[row, :many].isfinite()]
            room = Room(*(value[row : row + 1] for value in self.room))
            search = Descent(NamedSlots.of(self.frames, row, asked[row]), room)
            polished = _searched_around(search, begun, noise if self._few_users else noise[:0])
            found.append(polished[torch.arange(min(many, ends.shape[1])) % len(polished)])
        return torch.stack(found)

    @property
    def _few_users(self) -> bool:
        """Whether it matters so much who meets whom that a crowd's caches are not even near the best."""
        return not self.idle_users and users_are_few(self.num_users, self.room.rent.shape[1])

    def _noise(self, shape: tuple[int, ...]) -> Tensor:
        return normal(shape, self.generator, self.room.rent)

    def _on_slots(
        self,
        row: Int[Tensor, " n"],
        cache: Bool[Tensor, "n cache server service"],
        uniform: Float[Tensor, "slot user"],
    ) -> Float[Tensor, "n cache slot"]:
        """What some caches of some rows cost in drawn slots (`Frames.on_slots`), with what it costs to hold them."""
        each, flat = row.repeat_interleave(cache.shape[1]), cache.flatten(0, 1)
        slots = self.frames.on_slots(each, flat, uniform)
        return (slots + self.room.holding(each, flat).unsqueeze(1)).view(*cache.shape[:2], -1)

    @property
    def _requests_of_all(self) -> int:
        """Slots in which every service is asked for often enough."""
        return REQUESTS_A_SERVICE * self.room.rent.shape[2] // self.num_users

    @property
    def _num_slots(self) -> int:
        """Slots that caches are compared on, where that is not too much work."""
        return max(self.settings.num_slots, self._requests_of_all)

    def _uniform(self, num_caches: int, num_slots: int | None = None) -> Float[Tensor, "slot user"] | None:
        """Draws for the slots that some caches of every row are compared on; None if there are none."""
        most = MOST_SLOT_PAIRS // (num_caches * self.num_users * self.room.rent.shape[1])
        slots = min(self._num_slots if num_slots is None else num_slots, most)
        return None if slots < LEAST_SLOTS else self._drawn(slots)

    def _drawn(self, num_slots: int) -> Float[Tensor, "slot user"]:
        """Draws by which the users of some slots ask for services: as many of every part of [0, 1) as of any other.

        So each service is asked for about as often as expected, and chance is left to decide who meets whom.
        """
        generator, shape = self.generator, (num_slots, self.num_users)
        total = num_slots * self.num_users
        place = torch.randperm(total, generator=generator, device=generator.device)
        within = torch.rand(total, generator=generator, device=generator.device)
        return ((place + within) / total).clamp(max=1 - 2**-24).view(shape).to(self.room.rent)


def _searched_around(
    search: Descent,
    begun: Bool[Tensor, "begun server service"],
    noise: Float[Tensor, "round changed server service"],
) -> Bool[Tensor, "ended server service"]:
    """Where some caches go downhill, best first; and then the best of them with others on one server, time and again.

    Args:
        search: in one network.
        begun: its caches.
        noise: by which the changes are drawn, for every server in turn.
    """

    def settled(cache: Tensor) -> tuple[Tensor, Tensor]:
        return search.settled(torch.zeros(len(cache), dtype=torch.int64, device=cache.device), cache)

    ends, cost = settled(begun)
    server = torch.arange(noise.shape[2], device=noise.device)
    for turn, drawn in enumerate(noise):
        best = ends[cost.argmin()]
        turns = turn * len(drawn) + torch.arange(len(drawn), device=server.device)
        emptied = server == turns[:, None] % len(server)
        priority = drawn + torch.where(emptied.unsqueeze(2), 0.0, KEPT * best)
        changed = search.room.filled(
            torch.zeros(1, dtype=torch.int64, device=cost.device), priority.unsqueeze(0)
        )[0]
        further, theirs = settled(changed)
        ends, cost = torch.cat((ends, further)), torch.cat((cost, theirs))
    return ends[cost.argsort(stable=True)]


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
    return chosen, _sure(saved, doubt, slots[:, 0])


def _sure(
    saved: Float[Tensor, " n"], doubt: Float[Tensor, " n"], held: Float[Tensor, "n slot"]
) -> Bool[Tensor, " n"]:
    """Whether what a change saves is more than chance explains, and than the searches leave open of what is held."""
    return saved > SURE * doubt + LEAST_SAVED * held.mean(dim=1)


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

"""`EdgeNetwork`: B parallel networks that are played frame by frame and slot by slot."""

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hadrl_lightning.errors import HadrlError
from hadrl_lightning.scenario import Physics, Scenario
from hadrl_lightning.scenario.limits import beyond_memory, network_bytes
from hadrl_lightning.simulator.actions import num_targets
from hadrl_lightning.simulator.constants import OF_LINKS, Constants, constants, constants_of_each
from hadrl_lightning.simulator.decisions import Allocation
from hadrl_lightning.simulator.fields import SERVER, fields_of, to_vector
from hadrl_lightning.simulator.physics import Rules, rules
from hadrl_lightning.simulator.processes import World, check_shown, targets_beyond, usual_tasks_of
from hadrl_lightning.simulator.randomness import (
    ScenarioRange,
    Use,
    make_generator,
    restore_generator,
    seed_aside,
)
from hadrl_lightning.simulator.service import (
    ServedSlot,
    adjusted,
    check_allocation,
    check_loads,
    served_slot,
    switching_cost,
)
from hadrl_lightning.simulator.state import NetworkState, Service, empty_state
from hadrl_lightning.simulator.unfolding import Unfolding, offloading_view_of
from hadrl_lightning.simulator.views import CachingView, OffloadingView
from hadrl_lightning.typed import as_floats, typed


@typed
class EdgeNetwork:
    """`num_envs` independent networks of one scenario.

    Where the scenario has ranges, every network has constants of its own, and other ones in every episode
    (`scenarios`). Where numbers of servers, users or services are ranges, all networks have the same in an episode:
    `scenario` then is that of these sizes, with the ranges of everything else, and `declared` the one that was given.

    An episode: `reset`, then for every caching decision `begin_frame(cache)` and for every slot of it
    `step(allocation)`. Requests and positions of a slot are known before its decision, fading is drawn after it. What
    is drawn never depends on what was decided, so two policies with the same seed meet the same requests, positions
    and fading.

    Args:
        scenario: the constants.
        physics: `strict` (feasible decisions), `published` (the published arithmetic), or one of your own.
        num_envs: B, at least 1.
        device: where the tensors live; CPU by default.
        generator: source of all draws, on the CPU whatever `device` is; by default one with a seed of its own choice.
        dtype: number format of the physics.

    Raises:
        ValueError: an argument is of another type, `num_envs` or `physics` is out of range, `dtype` is one of whole
            numbers, or the generator is not on the CPU.
        HadrlError: the physics can't be applied to the scenario, or so many networks do not fit into memory.
    """

    def __init__(
        self,
        scenario: Scenario,
        physics: Physics = "strict",
        num_envs: int = 1,
        device: torch.device | str | None = None,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, got {num_envs}")
        if not dtype.is_floating_point:
            raise ValueError(f"dtype must be one of floating-point numbers, got {dtype}")
        self.rules = rules(physics)
        self.rules.check_scenario(scenario)
        check_targets(self.rules, scenario, physics)
        require_memory(scenario, num_envs)
        self.declared = scenario
        """The scenario that was given."""
        self.scenario = scenario
        """That of the sizes which the networks have in this episode."""
        self.physics: Physics = physics
        self.num_envs = num_envs
        self.device = torch.device(device or "cpu")
        self.dtype = dtype
        if generator is None:
            generator = torch.Generator()
            generator.seed()
        if generator.device.type != "cpu":
            raise ValueError(f"generator must be on the CPU, got one on {generator.device}")
        self.generator = generator
        self._begun = 0
        self._draw_from(seed_aside(generator))
        world = World(scenario, self.table, num_envs, self.device, dtype)
        self.unfolding = Unfolding(world, generator, self._rows)
        self.reset()

    @property
    def cache(self) -> Bool[Tensor, "batch server service"]:
        """Services cached now, bool [B, S, K]."""
        return self.state.cache

    @property
    def requests(self) -> Int[Tensor, "batch user"]:
        """Service asked by each user in the coming slot, long [B, U]."""
        return self.unfolding.slot.requests

    @property
    def positions(self) -> Float[Tensor, "batch user 2"]:
        """(x, y) of the users in the coming slot in metres, [B, U, 2]."""
        return self.unfolding.slot.positions

    @property
    def changed(self) -> Bool[Tensor, " batch"]:
        """Where the world of the coming slot is another one than that of the slot before (`Process.changed`), [B]."""
        return self.unfolding.changed

    @property
    def homes(self) -> Int[Tensor, "batch user"]:
        """The server whose radio each user uses, long [B, U]."""
        return self.rules.homes(self.present).expand(self.num_envs, -1)

    @property
    def present(self) -> Constants:
        """The constants that truly hold in the coming slot, of all networks in double precision: for references."""
        return self._now(seen=False)

    @property
    def shown(self) -> Constants:
        """The same, as far as views may show it: for policies that know no more."""
        return self._now(seen=True)

    def _now(self, seen: bool) -> Constants:
        if not self.scenario.processes:  # the usual ones change none
            return self.exact
        processes, slot = self.unfolding.processes, self.unfolding.slot_of(slice(None))
        return adjusted(processes, self.exact, slot, self._carried_by_all, seen)

    @property
    def popularity(self) -> Float[Tensor, "... service"]:
        """How likely users truly ask for each service in the coming slot, in double precision: for references.

        Of all networks, [K], or of each, [B, K]: the mean over users where these differ. That of the scenario, where
        the process of requests brings none.
        """
        return self.unfolding.slot_of(slice(None)).more.get("popularity", self.exact.popularity)

    @property
    def frame_over(self) -> bool:
        """A caching decision is due (at the start too)."""
        return self.slot == self.decision * self.scenario.slots_per_decision

    @property
    def episode_over(self) -> bool:
        """All slots of the episode are served (a truncation: the network itself goes on)."""
        return self.slot == self.scenario.slots_per_episode

    def set_seed(self, seed: int) -> None:
        """Seed the draws from here on.

        Raises:
            HadrlError: the seed is not from 0 to 2^64 - 1.
        """
        self.generator.set_state(make_generator(seed, Use.ENVIRONMENTS).get_state())
        self._begun = 0
        self._draw_from(seed_aside(self.generator))
        self.unfolding.spawn()

    def reset(self) -> None:
        """Start a new episode: empty caches, nothing counted, new requests and positions; in ranges new constants."""
        self.decision = 0
        """Caching decisions made in this episode."""
        self.slot = 0
        """Slots served in this episode."""
        self.held: Constants = self._constants
        """The constants that held in the slot served last."""
        if self.declared.ranges:
            self._begun += 1
            self._take_constants()
        self._begin()

    def _begin(self) -> None:
        self.unfolding.begin(self.scenario, self.table)
        batch = len(self.unfolding.slot.requests)
        self.state: NetworkState = empty_state(self.scenario, batch, self.device, self.dtype)
        past = self.unfolding.past_requests()
        if past is not None:
            self.state.past_counts = past[self._rows]
        for name, process in self.unfolding.processes.items():
            carried = process.carried(self._constants, batch)
            if carried:
                self.state.carried[name] = dict(carried)

    def begin_frame(self, cache: Bool[Tensor, "..."]) -> Float[Tensor, " batch"]:
        """Apply a caching decision, bool [B, S, K], and return its switching cost in seconds, [B].

        Raises:
            ValueError: a wrong shape or type, or (`strict`) more services than fit into the usable cache.
            RuntimeError: the frame before it is not over, or the episode is.
        """
        if self.episode_over or not self.frame_over:
            raise RuntimeError("begin_frame must follow reset or the last slot of the frame before")
        self._check_cache(cache)
        switching = switching_cost(self.scenario, self.state.cache, cache, self._constants)
        self.state.cache = cache.clone()
        self.state.counts_before = self.state.request_counts
        self.state.taken_bits.zero_()
        self.state.taken_cycles.zero_()
        self.decision += 1
        return switching

    def step(self, allocation: Allocation) -> Service:
        """Serve a slot and draw the requests and positions of the next one.

        Raises:
            ValueError: the allocation has a wrong shape, an index out of range, or values that are not finite.
            RuntimeError: no caching decision holds: `begin_frame` is due.
        """
        if self.frame_over:
            raise RuntimeError("step must follow begin_frame: a caching decision is due")
        shape = list(self.unfolding.slot.requests.shape)
        check_allocation(allocation, shape, num_targets(self.scenario, self.physics))
        unfolding = self.unfolding
        unfolding.serve()
        service, self.state, self.held = self._served(allocation)
        unfolding.advance()
        self.slot += 1
        return service

    def _served(self, allocation: Allocation) -> ServedSlot:
        """What becomes of the slot.

        Raises:
            ValueError: servers give away more than the physics allows.
        """
        slot = self.unfolding.slot
        served = served_slot(
            self.rules, self.unfolding.processes, self._constants, self.state, slot, allocation
        )
        check_loads(self.rules, served.service)
        return served

    def caching_view(self) -> CachingView:
        """What the slow level sees: the constants of the networks, and links to the homes that users have now."""
        slot = self.unfolding.slot
        now = adjusted(self.unfolding.processes, self._constants, slot, self.state.carried, seen=True)
        table = self._constants._replace(**{name: getattr(now, name) for name in OF_LINKS})
        view = self.rules.caching_view(table, self.state, slot)
        found = usual_tasks_of(self.unfolding.processes, self._constants, self.scenario.num_users)
        for usual in found.values():
            asking, bits, cycles = (one.to(self.device, self.dtype) for one in usual)
            users = (view.users * asking.flatten()).round().clamp(min=1).minimum(view.users)
            sizes = {"input_bits": view.input_bits * bits, "cycles": view.cycles * cycles}
            view = replace(view, users=users, **sizes)
        return view

    def offloading_view(self) -> OffloadingView:
        """What the fast level sees, of the class `offloading_view_of(scenario)`."""
        slot = self.unfolding.slot
        table = adjusted(self.unfolding.processes, self._constants, slot, self.state.carried, seen=True)
        view = self.rules.offloading_view(table, self.state, slot)
        kind = offloading_view_of(self.scenario)
        if kind is OffloadingView and not self.scenario.processes:  # the usual ones show nothing
            return view
        seen = table._replace(cells=self.rules.homes(table))
        further: dict[str, Tensor] = {}
        if self.scenario.preferences.missed:
            further["deadline_s"] = table.deadlines_asked(slot.requests)
        for name, process in self.unfolding.processes.items():
            shown = process.shown(seen, slot, self.state.carried.get(name, {}))
            check_shown(name, process, shown, self.scenario, len(view), kind.beyond)
            further.update(shown)
        if kind is OffloadingView:
            return view
        return kind(**_beyond(kind, {**dict(view.tensors()), **further}, self.scenario))

    def caching_observation(self) -> Float[Tensor, "batch caching"]:
        """The view of the slow level as a vector, [B, K (1 + 2 S) + S]."""
        return to_vector(self.caching_view())

    def offloading_observation(self) -> Float[Tensor, "batch offloading"]:
        """The view of the fast level as a vector, [B, S K + 3 S + 3 U]."""
        return to_vector(self.offloading_view())

    def state_dict(self) -> dict[str, Any]:
        """State, counters, what processes remember, and generators, as tensors and numbers."""
        return {
            "state": {name: value.clone() for name, value in self.state.tensors().items()},
            "decision": self.decision,
            "slot": self.slot,
            "generator": self.generator.get_state(),
            "processes": self.unfolding.state_dict(),
            "networks": {"seed": self._networks.seed, "begun": self._begun},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a saved state.

        Raises:
            ValueError: the state belongs to networks of another size, or with other processes.
        """
        networks = state_dict["networks"]
        if self.declared.sizes_vary:  # those of the saved episode come first
            self._begun = networks["begun"]
            self._draw_from(networks["seed"])
            self._begin()
        for name, value in self.state.tensors().items():
            saved = state_dict["state"][name]
            if saved.shape != value.shape:
                raise ValueError(f"{name} must have shape {list(value.shape)}, got {list(saved.shape)}")
        self._begun = networks["begun"]
        self._draw_from(networks["seed"])
        self.unfolding.world = self.unfolding.world._replace(table=self.table)
        self.unfolding.load_state_dict(state_dict["processes"])
        self.state = NetworkState.of(
            {name: value.to(self.device, copy=True) for name, value in state_dict["state"].items()}
        )
        self.decision, self.slot = state_dict["decision"], state_dict["slot"]
        restore_generator(self.generator, state_dict["generator"])

    def _draw_from(self, seed: int) -> None:
        """Draw the networks of this and the coming episodes from a seed."""
        self._networks = ScenarioRange(self.declared, seed)
        self._take_constants()

    def _take_constants(self) -> None:
        """The constants of the networks of this episode."""
        self.scenarios: tuple[Scenario, ...] = self._networks.draw(self.num_envs, self._begun)
        """The scenario of every network in this episode, B of them."""
        self.scenario = self._networks.sized(self._begun)
        if self.scenario.ranges:
            exact = constants_of_each(self.scenarios, self.device, torch.float64)
        else:
            exact = constants(self.scenario, self.device, torch.float64)
        self.exact: Constants = exact
        """The constants of all networks in double precision."""
        self.table: Constants = exact.to(self.device, self.dtype)
        """The constants of all networks in their number format."""
        self._constants = self.table.rows(self._rows)

    @property
    def _carried_by_all(self) -> dict[str, dict[str, Tensor]]:
        """What processes carry, of all networks."""
        return self.state.carried

    @property
    def _rows(self) -> slice:
        """The networks that are simulated here, of all that are drawn for."""
        return slice(None)

    def _check_cache(self, cache: Tensor) -> None:
        shape = list(self.state.cache.shape)
        if list(cache.shape) != shape or cache.dtype != torch.bool:
            raise ValueError(
                f"cache must be bool of shape {shape}, got {cache.dtype} of shape {list(cache.shape)}"
            )
        self.rules.check_cache(self.exact.rows(self._rows), cache)


def check_targets(laws: Rules, scenario: Scenario, physics: Physics) -> None:
    """Refuse processes that bring targets beyond the servers where the physics knows none, and preferences of what is
    no energy.

    Raises:
        HadrlError: they do.
    """
    targets = targets_beyond(scenario)
    if targets and targets != laws.serves_beyond:
        raise HadrlError(f"physics must be strict for tasks to go to {' or '.join(targets)}, got {physics}")
    if scenario.preferences.energy_j and laws.energy_unit != "J":
        raise HadrlError(
            f"preferences.energy_j must be 0 under physics {physics}, whose energies are in no joules, "
            f"got {scenario.preferences.energy_j:g}"
        )


def _beyond(kind: type[OffloadingView], values: dict[str, Tensor], scenario: Scenario) -> dict[str, Tensor]:
    """Fields of a view, of further targets too: as usual there, or 0."""
    made = {}
    for field in fields_of(kind):
        value = values[field.name]
        if field.beyond and SERVER in field.axes:
            place = 1 + field.axes.index(SERVER)
            lacking = scenario.num_servers + field.beyond - value.shape[place]
            if lacking:
                shape = [*value.shape[:place], lacking, *value.shape[place + 1 :]]
                value = torch.cat((value, value.new_full(shape, field.usual or 0)), dim=place)
        made[field.name] = value
    return made


def require_memory(scenario: Scenario, num_envs: int) -> None:
    """Refuse more networks than this machine can hold.

    Raises:
        HadrlError: there are.
    """
    lacking = beyond_memory(
        network_bytes(**scenario.largest_counts, num_envs=num_envs, links=bool(scenario.processes))
    )
    if lacking:
        raise HadrlError(
            f"networks in parallel must be as many as fit into memory, got {as_floats(num_envs):g}: {lacking}"
        )

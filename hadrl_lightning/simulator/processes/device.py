"""Users' devices: tasks that stay there or are split, energy, batteries, and the cloud as a choice of its own."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from hadrl_lightning.scenario import Scenario
from hadrl_lightning.scenario.checks import check_number
from hadrl_lightning.simulator.constants import DEVICE_TARGETS, Constants
from hadrl_lightning.simulator.decisions import Allocation
from hadrl_lightning.simulator.fields import SERVER, USER, Field
from hadrl_lightning.simulator.processes.process import Memory, Process, World
from hadrl_lightning.simulator.state import Service, Slot

OfUsers = float | tuple[float, ...] | Mapping[str, float]
"""One number for all users, one for each, or `{low: …, high: …}`: drawn evenly for every user at the start of an
episode."""
LIMITS = {
    "device_hz": (1e3, 1e15),
    "kappa": (0.0, 1e-15),
    "transmit_power_dbm": (-200.0, 200.0),
    "offloaded_share": (1e-3, 1.0),
    "cloud_bandwidth_hz": (1.0, 1e15),
    "battery_j": (0.0, 1e12),
    "empty_j": (0.0, 1e12),
    "charge_w": (0.0, 1e9),
    "slot_s": (1e-6, 1e6),
    "dropped_s": (1e-6, 1e6),
}
"""Least and largest value of each setting."""


LEAST_J = 1e-30
"""What no energy that is divided by falls below."""
ENERGY = torch.float64
"""Number format of what batteries hold, whatever that of the networks: nothing is lost of small energies."""


@dataclass(frozen=True)
class Device(Process):
    """A task may stay on the user's device, go to a server, or to the cloud past the servers.

    Targets behind the servers are the user's own device and the cloud by a cell of its own
    (`physics.strict.served_with_devices`). A device takes κ f² joules for a cycle, with f its cycles per second, and
    its radio the transmit power while it sends. A device whose battery is empty neither computes nor sends: its user's
    task is dropped.
    """

    device_hz: OfUsers = 1e9
    """CPU cycles per second of a device, Hz."""
    kappa: float = 1e-27
    """Effective switched capacitance κ: a cycle takes κ f² joules."""
    transmit_power_dbm: OfUsers | None = None
    """Transmit power of each user, dBm; none: that of the scenario."""
    offloaded_share: float = 1.0
    """What part of a task that leaves the device does leave it; the device works on the rest meanwhile. 1: all."""
    cloud_bandwidth_hz: float = 100e6
    """Bandwidth of the cell by which tasks reach the cloud past the servers, Hz."""
    battery_j: float = 0.0
    """What a full battery holds, J, as all are at the start of an episode; 0: devices have no need of one."""
    empty_j: float = 1.0
    """A device is off while its battery holds no more, J. The last task before that takes no more than there is."""
    charge_w: float = 0.0
    """Power by which batteries are charged, W."""
    slot_s: float = 1.0
    """Length of a slot, s: how long batteries are charged in one."""
    dropped_s: float = 10.0
    """What a dropped task counts as, s."""

    brings = ("device_hz", "user_power_db")
    order = 1  # what an empty battery leaves undone is not delayed, and comes to no queue
    draws_first = True  # what phones report goes by their power
    targets = DEVICE_TARGETS
    fields = {
        "device_hz": Field(axes=(USER,), text="compute of the device of user {}", unit="Hz", scale=1e9),
        "battery": Field(
            axes=(USER,), text="battery of user {}, as a part of a full one", high=1.0, usual=1.0
        ),
        "is_device": Field(axes=(SERVER,), text="whether target {} is the device", dtype=torch.bool),
        "is_cloud": Field(axes=(SERVER,), text="whether target {} is the cloud", dtype=torch.bool),
    }

    def __post_init__(self) -> None:
        for name, (low, high) in LIMITS.items():
            value = getattr(self, name)
            if isinstance(value, Mapping):
                _check_range(name, value)
                value = tuple(value.values())
            if value is not None or name != "transmit_power_dbm":
                for one in value if isinstance(value, tuple) else (value,):
                    check_number(name, one, least=low, most=high)
        if 0 < self.battery_j <= self.empty_j:
            raise ValueError(
                f"battery_j must be 0 or more than empty_j = {self.empty_j:g}, got {self.battery_j:g}"
            )

    @property
    def carries_work(self) -> bool:  # type: ignore[override]
        """Batteries carry over."""
        return self.battery_j > 0

    @property
    def sets_tasks(self) -> bool:
        """Those of users whose battery is empty."""
        return self.battery_j > 0

    def check(self, scenario: Scenario) -> None:
        """Values that are listed must be of every user."""
        for name in ("device_hz", "transmit_power_dbm"):
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) != scenario.num_users:
                raise ValueError(
                    f"{name} must have num_users = {scenario.num_users} values, got {len(value)}"
                )

    # What is drawn ---------------------------------------------------------------------------------------------------

    def initial(self, world: World, generator: torch.Generator) -> Memory:
        """What devices are like in this episode."""
        hz = _of_users(self.device_hz, world, generator)
        memory = {"device_hz": hz.to(world.device, world.dtype)}
        power = torch.zeros_like(hz)
        if self.transmit_power_dbm is not None:
            own = world.table.transmit_power_dbm.cpu().double()
            power = _of_users(self.transmit_power_dbm, world, generator) - own
        memory["user_power_db"] = power.to(world.device, world.dtype)
        return memory

    # What follows from it --------------------------------------------------------------------------------------------

    def adjusted(self, table: Constants, slot: Slot, carried: Memory) -> Constants:
        """Devices, what users send with, and no tasks of users whose battery is empty."""
        like = table.compute_hz
        hz, power_db = (slot.more[name].to(like.dtype) for name in ("device_hz", "user_power_db"))
        if self.battery_j:
            table = table._replace(off=carried["battery_j"] <= self.empty_j)
        return table._replace(
            device_hz=hz,
            device_j_per_cycle=self.kappa * hz.square(),
            offloaded_share=like.new_full((len(hz), 1), self.offloaded_share),
            cloud_bandwidth_hz=like.new_full((len(hz), 1), self.cloud_bandwidth_hz),
            power_over_noise_db=table.power_over_noise_db + power_db,
            transmit_power_w=table.transmit_power_w * 10 ** (power_db / 10),
            transmit_power_dbm=table.transmit_power_dbm + power_db,
        )

    def carried(self, table: Constants, batch: int) -> Memory:
        """What batteries hold, J, [B, U]; what was charged, J, and how many tasks were dropped, [B]."""
        full = table.compute_hz.new_full((batch, table.cells.shape[-1]), self.battery_j, dtype=ENERGY)
        nothing = full.new_zeros(batch)
        return {"battery_j": full, "charged_j": nothing, "dropped": nothing}

    def served(
        self, table: Constants, slot: Slot, carried: Memory, allocation: Allocation, service: Service
    ) -> tuple[Memory, Service]:
        """Batteries after the slot; the last task of one takes no more than it holds."""
        if table.off is None:
            return carried, service
        held, without = carried["battery_j"], table.without_task(slot.requests)
        energy = torch.minimum(service.energy.to(ENERGY), held)
        left = held - energy
        after = (left + self.charge_w * self.slot_s).clamp(max=self.battery_j)
        dropped = table.off if without is None else table.off & ~without
        part = energy / service.energy.to(ENERGY).clamp(min=LEAST_J)
        service = service._replace(
            energy=energy.to(service.energy.dtype),
            device_energy=(service.device_energy * part).to(service.energy.dtype),
            dropped=service.dropped | dropped,
            latency=service.latency.masked_fill(dropped, self.dropped_s),
            on_time=service.on_time & ~dropped,
        )
        return {
            "battery_j": after,
            "charged_j": carried["charged_j"] + (after - left).sum(dim=-1),
            "dropped": carried["dropped"] + dropped.sum(dim=-1),
        }, service

    def shown(self, table: Constants, slot: Slot, carried: Memory) -> Memory:
        """What devices are like, and which targets are no servers."""
        servers = table.compute_hz.shape[-1]
        place = torch.arange(servers + 2, device=table.compute_hz.device).expand(len(slot.requests), -1)
        return {
            "device_hz": slot.more["device_hz"],
            "battery": self._part(carried, table),
            "is_device": place == servers,
            "is_cloud": place == servers + 1,
        }

    def _part(self, carried: Memory, table: Constants) -> Float[Tensor, "batch user"]:
        """What is left of a full battery; all where there is none."""
        left = carried["battery_j"]
        return (left / self.battery_j if self.battery_j else torch.ones_like(left)).to(table.compute_hz.dtype)


def _of_users(value: OfUsers, world: World, generator: torch.Generator) -> Float[Tensor, "batch user"]:
    """Of every user, in double precision; nothing is drawn where nothing is left to chance."""
    shape = (world.num_envs, world.scenario.num_users)
    if isinstance(value, Mapping):
        draws = torch.rand(shape, generator=generator, dtype=torch.float64)
        return value["low"] + (value["high"] - value["low"]) * draws
    return torch.as_tensor(value, dtype=torch.float64).expand(shape)


def _check_range(name: str, value: Mapping[str, float]) -> None:
    if set(value) != {"low", "high"}:
        raise ValueError(f"{name} must be a range of a low and a high alone, got {dict(value)}")
    for end, number in value.items():
        check_number(f"{name}.{end}", number)
    if value["low"] > value["high"]:
        raise ValueError(f"{name} must have a high that is no less than its low, got {dict(value)}")

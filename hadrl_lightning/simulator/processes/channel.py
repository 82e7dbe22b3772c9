"""A channel with memory: path loss of 3GPP TR 38.901, shadowing, fading, interference, and what phones report."""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hadrl_lightning.scenario.checks import check_number
from hadrl_lightning.simulator.constants import Constants
from hadrl_lightning.simulator.processes.process import STATE, Memory, Process, World
from hadrl_lightning.simulator.radio import efficiency_of, losses_db, squared_distances_m2
from hadrl_lightning.simulator.state import Slot

LIGHT_M_PER_S = 3.0e8
"""Speed of light as TR 38.901 takes it for the breakpoint distance, m/s."""
LEAST_DISTANCE_M = 10.0
"""Horizontal; below it the formulas of TR 38.901 are not defined, so nearer users count as that far."""
LOS_DECORRELATION_M = 50.0
"""Correlation distance of line of sight, UMi and UMa (TR 38.901, Table 7.6.3.1-2)."""
CQI_EFFICIENCY = (
    *(0.0, 0.1523, 0.2344, 0.3770, 0.6016, 0.8770, 1.1758, 1.4766),
    *(1.9141, 2.4063, 2.7305, 3.3223, 3.9023, 4.5234, 5.1152, 5.5547),
)
"""bit/s/Hz of the channel quality indicators 0 to 15 (3GPP TS 38.214, Table 5.2.2.1-2)."""
OUT_OF_RANGE = CQI_EFFICIENCY[1] / 2
"""bit/s/Hz that indicator 0 (`out of range`) counts as: between nothing and the least rate that there is."""


class Site(NamedTuple):
    """What a kind of place is like: with line of sight, and without."""

    height_m: float
    """Of the servers' antennas."""
    largest_user_m: float
    """Height of users up to which the formulas below hold."""
    deviation_db: tuple[float, float]
    """Standard deviation of the shadowing (TR 38.901, Table 7.4.1-1)."""
    decorrelation_m: tuple[float, float]
    """Correlation distance of the shadowing (TR 38.901, Table 7.5-6)."""


SITES = {
    "scenario": Site(
        25.0, math.inf, (8.0, 8.0), (50.0, 50.0)
    ),  # the scenario's slope is that of TR 36.814's case 1
    "umi": Site(10.0, 22.5, (4.0, 7.82), (10.0, 13.0)),
    "uma": Site(25.0, 13.0, (4.0, 6.0), (37.0, 50.0)),
}


@dataclass(frozen=True)
class CorrelatedChannel(Process):
    """Links of every user to every server that remember where the user was, and fading that remembers how fast it is.

    Shadowing in dB is normal, correlated over the way by exp(-distance / decorrelation) (Gudmundson, Electronics
    Letters 27(23), 1991). Small-scale fading is the size of a complex normal number of unit variance on each axis, a
    Rayleigh(1) factor as without this process, correlated from slot to slot by J0(2 pi * way / wavelength) (Jakes).
    Phones report the indicator of the slot before; nobody is told the fading of the slot to come,
    which is the same for who stands still.
    """

    path_loss: Literal["scenario", "umi", "uma"] = "umi"
    """The scenario's own, urban micro or urban macro."""
    carrier_hz: float = 3.5e9
    """Carrier frequency, 0.5 to 100 GHz."""
    server_height_m: float | None = None
    """Of the servers' antennas; none: 10 m (umi) or 25 m (uma)."""
    user_height_m: float = 1.5
    """Of the users' antennas, from 1.5 m."""
    shadowing_db: float | None = None
    """Standard deviation of the shadowing; none: 4 dB in line of sight, else 7.82 (umi) or 6 (uma); scenario 8."""
    decorrelation_m: float | None = None
    """On which shadowing is correlated by 1/e; none: 10 or 13 m (umi), 37 or 50 m (uma), scenario 50 m."""
    speed_m_per_s: float = 1.5
    """Of users whose process of positions tells no `path_m`, for the fading alone."""
    slot_s: float = 1.0
    """Length of a slot, for users whose process of positions tells no `path_m`."""
    load: float = 0.0
    """Share of the band that other cells use, 0 to 1."""
    interference_over_noise_db: float = 30.0
    """What is received of other cells at full load over the noise, dB."""

    brings = ("fading", "link_loss_db", "reported_efficiency")

    def __post_init__(self) -> None:
        check_number("carrier_hz", self.carrier_hz, least=0.5e9, most=100e9)
        check_number("user_height_m", self.user_height_m, least=1.5, most=self._site.largest_user_m)
        if self.server_height_m is not None:
            check_number("server_height_m", self.server_height_m, above=1.0, most=1000.0)
        if self.shadowing_db is not None:
            check_number("shadowing_db", self.shadowing_db, least=0.0, most=50.0)
        if self.decorrelation_m is not None:
            check_number("decorrelation_m", self.decorrelation_m, least=1e-3, most=1e7)
        check_number("speed_m_per_s", self.speed_m_per_s, least=0.0, most=1e4)
        check_number("slot_s", self.slot_s, least=1e-6, most=1e6)
        check_number("load", self.load, least=0.0, most=1.0)
        check_number("interference_over_noise_db", self.interference_over_noise_db, least=-100.0, most=200.0)

    @property
    def rise_db(self) -> float:
        """By how much interference raises the noise, dB."""
        return 10 * math.log10(1 + self.load * 10 ** (self.interference_over_noise_db / 10))

    def initial(self, world: World, generator: torch.Generator) -> Memory:
        """Links of the first slot; what is reported there is a slot before it in the same place."""
        users = (world.num_envs, world.scenario.num_users)
        links = (*users, world.scenario.num_servers)
        at = _exact(world.brought["positions"])
        shadow, clearance, wave = (_normal(shape, generator) for shape in (links, links, (*users, 2)))
        loss, blocked = self._losses(world, at, shadow, clearance)
        report = self._reported(world, loss, _size(wave))
        wave = _followed(wave, self._wave_correlation(world), generator)
        state = {"shadow": shadow, "clearance": clearance, "blocked": blocked, "wave": wave, "at": at}
        return _memory(world, state, loss, report)

    def advance(self, world: World, memory: Memory, generator: torch.Generator) -> Memory:
        """Links a slot later."""
        before = {name: _exact(value) for name, value in memory.items()}
        at = _exact(world.brought["positions"])
        way = _size(at - before["at"]).unsqueeze(-1)
        clear, behind = (torch.exp(-way / length) for length in self._decorrelation)
        correlation = torch.lerp(clear, behind, before["blocked"])
        fresh = torch.lerp(_fresh(clear), _fresh(behind), before["blocked"])
        shadow = correlation * before["shadow"] + fresh * _normal(tuple(before["shadow"].shape), generator)
        clearance = _followed(before["clearance"], torch.exp(-way / LOS_DECORRELATION_M), generator)
        wave = _followed(before["wave"], self._wave_correlation(world), generator)
        loss, blocked = self._losses(world, at, shadow, clearance)
        report = self._reported(world, before["link_loss_db"], before["fading"])
        state = {"shadow": shadow, "clearance": clearance, "blocked": blocked, "wave": wave, "at": at}
        return _memory(world, state, loss, report)

    def adjusted(self, table: Constants, slot: Slot, carried: Memory) -> Constants:
        """Links, what is reported of them, and the noise with interference in it."""
        links = ("link_loss_db", "reported_efficiency")
        return table._replace(
            power_over_noise_db=table.power_over_noise_db - self.rise_db,
            **{name: slot.more[name].to(table.power_over_noise_db.dtype) for name in links},
        )

    # Links -----------------------------------------------------------------------------------------------------------

    def _losses(
        self, world: World, at: Tensor, shadow: Tensor, clearance: Tensor
    ) -> tuple[Float[Tensor, "batch user server"], Bool[Tensor, "batch user server"]]:
        """Path loss and shadowing in dB, and which links have no line of sight."""
        clear_db, behind_db = self._deviation_db
        if self.path_loss == "scenario":
            table = world.table.to(torch.device("cpu"), STATE)
            return losses_db(table, at) + clear_db * shadow, torch.zeros_like(shadow, dtype=torch.bool)
        apart = squared_distances_m2(_exact(world.table.servers_m), at).sqrt_()
        blocked = torch.special.ndtr(clearance) >= sight_chance(self.path_loss, apart)
        mean = tr38901_loss_db(
            self.path_loss, apart, blocked, self.carrier_hz, self._height_m, self.user_height_m
        )
        return mean + (clear_db + (behind_db - clear_db) * blocked.to(STATE)) * shadow, blocked

    def _wave_correlation(self, world: World) -> Float[Tensor, "#batch #user 1"]:
        """Of the complex gain of each user with that of the slot before."""
        path = world.brought.get("path_m")
        path = torch.full((1, 1), self.speed_m_per_s * self.slot_s) if path is None else path
        turns = 2 * math.pi * self.carrier_hz / LIGHT_M_PER_S * _exact(path)
        return torch.special.bessel_j0(turns).unsqueeze(-1)

    def _reported(self, world: World, loss: Tensor, fading: Tensor) -> Float[Tensor, "batch user server"]:
        """The efficiency of the largest indicator that the link of a slot carries."""
        power = _exact(world.table.power_over_noise_db)
        power = power.unsqueeze(-1) if power.ndim else power
        if "user_power_db" in world.brought:
            power = power + _exact(world.brought["user_power_db"]).unsqueeze(-1)
        return quantised(efficiency_of(power - self.rise_db - loss, fading.unsqueeze(-1)))

    @property
    def _deviation_db(self) -> tuple[float, float]:
        given = self.shadowing_db
        return self._site.deviation_db if given is None else (given, given)

    @property
    def _decorrelation(self) -> tuple[float, float]:
        given = self.decorrelation_m
        return self._site.decorrelation_m if given is None else (given, given)

    @property
    def _site(self) -> Site:
        return SITES[self.path_loss]

    @property
    def _height_m(self) -> float:
        return self._site.height_m if self.server_height_m is None else self.server_height_m


def tr38901_loss_db(
    kind: Literal["umi", "uma"],
    apart_m: Float[Tensor, "*links"],
    blocked: Bool[Tensor, "*links"],
    carrier_hz: float,
    server_m: float,
    user_m: float,
) -> Float[Tensor, "*links"]:
    """Path loss in dB of 3GPP TR 38.901, Table 7.4.1-1, UMi street canyon or UMa, for users up to 13 m in UMa.

    Args:
        kind: of place.
        apart_m: horizontal distance.
        blocked: whether there is no line of sight.
        carrier_hz: carrier frequency.
        server_m: height of the server's antenna.
        user_m: height of the user's antenna.
    """
    flat = apart_m.clamp(min=LEAST_DISTANCE_M)
    distance = (flat.square() + (server_m - user_m) ** 2).log10() / 2
    carrier = math.log10(carrier_hz / 1e9)
    breakpoint_m = 4 * (server_m - 1) * (user_m - 1) * carrier_hz / LIGHT_M_PER_S
    beyond = math.log10(breakpoint_m**2 + (server_m - user_m) ** 2)
    if kind == "umi":
        near = 32.4 + 21 * distance + 20 * carrier
        far = 32.4 + 40 * distance + 20 * carrier - 9.5 * beyond
        behind = 22.4 + 35.3 * distance + 21.3 * carrier - 0.3 * (user_m - 1.5)
    else:
        near = 28.0 + 22 * distance + 20 * carrier
        far = 28.0 + 40 * distance + 20 * carrier - 9 * beyond
        behind = 13.54 + 39.08 * distance + 20 * carrier - 0.6 * (user_m - 1.5)
    clear = torch.lerp(far, near, (flat <= breakpoint_m).to(flat))  # a fraction of the time of `where`
    return torch.lerp(clear, torch.maximum(clear, behind), blocked.to(flat))


def sight_chance(kind: str, apart_m: Float[Tensor, "*links"]) -> Float[Tensor, "*links"]:
    """Probability of line of sight of 3GPP TR 38.901, Table 7.4.2-1, for users up to 13 m; 1 by the scenario's loss."""
    if kind == "scenario":
        return torch.ones_like(apart_m)
    away = apart_m.clamp(min=18)
    near = 18 / away
    return near + torch.exp(-away / {"umi": 36.0, "uma": 63.0}[kind]) * (1 - near)


def quantised(efficiency: Float[Tensor, "*links"]) -> Float[Tensor, "*links"]:
    """The efficiency of the largest channel quality indicator that is not above one, in bit/s/Hz."""
    index = torch.zeros_like(efficiency, dtype=torch.uint8)
    for step in CQI_EFFICIENCY[1:]:  # a search for each takes several times as long
        index += (efficiency >= step).view(torch.uint8)
    shown = torch.tensor((OUT_OF_RANGE, *CQI_EFFICIENCY[1:]), dtype=efficiency.dtype)
    return shown.index_select(0, index.flatten().int()).view(efficiency.shape)


def _exact(value: Tensor) -> Tensor:
    """On the CPU in the format that the channel is worked out in."""
    return value.cpu().to(STATE)


def _size(vector: Float[Tensor, "*rows 2"]) -> Float[Tensor, "*rows"]:
    x, y = vector.unbind(-1)
    return torch.addcmul(x * x, y, y).sqrt_()


def _normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=STATE)


def _fresh(correlation: Tensor) -> Tensor:
    """What is new of normal numbers that are so much correlated with those before."""
    return (1 - correlation.square()).sqrt()


def _followed(before: Tensor, correlation: Tensor, generator: torch.Generator) -> Tensor:
    """Normal numbers of variance 1, so much correlated with those before."""
    return correlation * before + _fresh(correlation) * _normal(tuple(before.shape), generator)


def _memory(world: World, state: dict[str, Tensor], loss: Tensor, report: Tensor) -> Memory:
    brought = {"fading": _size(state["wave"]), "link_loss_db": loss, "reported_efficiency": report}
    given = {name: value.to(world.dtype).to(world.device) for name, value in brought.items()}
    return given | {name: value.to(world.device) for name, value in state.items()}

"""Frozen lists of networks to judge by, each a scenario of its own: `unseen`, which no training has met."""

import math
from collections.abc import Callable, Sequence
from functools import cache, cached_property
from typing import Any, NamedTuple

import torch

from hadrl_lightning.errors import HadrlError
from hadrl_lightning.judge import LEAST_KNOWN
from hadrl_lightning.scenario import GIB, MIB

MBIT, MHZ, GHZ = 1e6, 1e6, 1e9

Fields = dict[str, Any]
"""Of a `Scenario`; the others have their defaults."""


class SuitePlace(NamedTuple):
    """A network of a suite."""

    name: str
    why: str
    """What is special about it, one sentence."""
    fields: Fields


class Suite:
    """A named list of networks, and what is asked of them where nothing else is said.

    Args:
        name: what `--suite` calls it.
        make: its networks.
        episodes: test episodes of each.
        policies: those that play.
    """

    def __init__(
        self, name: str, make: Callable[[], Sequence[SuitePlace]], episodes: int, policies: Sequence[str]
    ) -> None:
        self.name = name
        self.episodes = episodes
        self.policies = tuple(policies)
        self._make = make

    @cached_property
    def places(self) -> dict[str, SuitePlace]:
        """Its networks by their names."""
        return {place.name: place for place in self._make()}

    def label(self, place: str) -> str:
        """What results call one of its networks: no settings file has a slash in its name."""
        return f"{self.name}/{place}"

    def chosen(self, names: Sequence[str] = ()) -> list[SuitePlace]:
        """The networks of these names; all without any.

        Raises:
            HadrlError: there is none of a name.
        """
        for name in names:
            if name not in self.places:
                allowed = ", ".join(self.places)
                raise HadrlError(f"places must be among {allowed} with --suite {self.name}, got {name!r}")
        return [place for name, place in self.places.items() if name in (names or self.places)]


def find_suite(name: str) -> Suite:
    """The suite of that name.

    Raises:
        HadrlError: there is none.
    """
    if name not in SUITES:
        raise HadrlError(f"suite must be among {', '.join(SUITES)}, got {name!r}")
    return SUITES[name]


def place_of(scenario: str) -> SuitePlace | None:
    """The network of a suite that results call `scenario`; None for a scenario of settings files."""
    suite, slash, name = scenario.partition("/")
    return SUITES[suite].places.get(name) if slash and suite in SUITES else None


# Drawn ---------------------------------------------------------------------------------------------------------------

SEED = 1_702_611
"""No training has it: those take small ones, and draw with the streams of the simulator."""
NUM_DRAWN = 40


@cache
def drawn_place(index: int) -> SuitePlace:
    """Network `index` of the drawn ones, whatever the others are."""
    draw = _Draw(SEED + index)
    servers, users, services = (draw.whole(*ends) for ends in ((1, 12), (5, 100), (4, 60)))
    fields = {
        "num_servers": servers,
        "num_users": users,
        "num_services": services,
        "compute_hz": draw.logs(5 * GHZ, 80 * GHZ, servers),
        "bandwidth_hz": draw.logs(5 * MHZ, 400 * MHZ, servers),
        "cache_bytes": draw.logs(0.5 * GIB, 400.0 * GIB, servers),
        "storage_bytes": draw.logs(0.2 * GIB, 20.0 * GIB, services),
        "input_bytes": draw.logs(50e3, 20e6, services),
        "workload_cycles": draw.logs(5e7, 2e10, services),
        "popularity": "zipf",
        "zipf_exponent": draw.even(0.0, 1.6),
        "transmit_power_dbm": draw.even(5.0, 30.0),
        "cloud_rate_bit_per_s": draw.logs(1 * MBIT, 100 * MBIT, 1)[0],
        "cloud_compute_hz": draw.logs(1 * GHZ, 40 * GHZ, 1)[0],
        "cloud_delay_s": draw.logs(0.01, 0.5, 1)[0],
    }
    return SuitePlace(f"drawn-{index:02d}", "drawn from wide ranges, each server and service its own", fields)


class _Draw:
    """Numbers that depend on the seed alone: in double precision on the CPU, rounded to three digits."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def whole(self, low: int, high: int) -> int:
        """A whole number, log-uniform: of n there is as much as log (n + 1) / n."""
        return min(high, math.floor(low * ((high + 1) / low) ** self._part()))

    def even(self, low: float, high: float) -> float:
        return _rounded(low + (high - low) * self._part())

    def logs(self, low: float, high: float, number: int) -> list[float]:
        """Log-uniform numbers."""
        return [_rounded(low * (high / low) ** self._part()) for _ in range(number)]

    def _part(self) -> float:
        return torch.rand((), generator=self._generator, dtype=torch.float64).item()


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")


# By hand -------------------------------------------------------------------------------------------------------------


def _network(servers: int, users: int, services: int, **other: Any) -> Fields:
    """Equal servers of 20 GHz and 200 MHz that hold 40 GiB; services in a fixed order that is none of their sizes."""
    order = [(7 * k + 3) % services for k in range(services)]
    part = [(one + 0.5) / services for one in order]
    return {
        "num_servers": servers,
        "num_users": users,
        "num_services": services,
        "compute_hz": 20 * GHZ,
        "bandwidth_hz": 200 * MHZ,
        "cache_bytes": 40 * GIB,
        "storage_bytes": [round(2 * GIB * 10**one) for one in part],
        "input_bytes": [round(0.5 * MIB * 10**one) for one in reversed(part)],
        "workload_cycles": [round(3e8 * 20**one) for one in part],
        "popularity": "zipf",
        "zipf_exponent": 0.8,
        **other,
    }


def _by_hand() -> list[SuitePlace]:
    """Networks at the edges."""
    huge = _network(3, 30, 10, cache_bytes=[20 * GIB, 40 * GIB, 200 * GIB])
    huge["storage_bytes"] = [*huge["storage_bytes"][:-1], 150 * GIB]
    spot = {
        "server_positions_m": [(100.0 + 200.0 * s, 0.0) for s in range(4)],
        "user_positions_m": [(130.0, 40.0)] * 30,
    }
    near = {"compute_hz": 5 * GHZ, "cloud_rate_bit_per_s": 100 * MBIT, "cloud_compute_hz": 40 * GHZ}
    unequal = [0.5 * GIB, 2 * GIB, 8 * GIB, 32 * GIB, 128 * GIB, 400 * GIB]
    listed = {
        "one-user": ("one user, who has a whole server", _network(3, 1, 10)),
        "more-servers-than-users": ("12 servers for 5 users: nobody has to share", _network(12, 5, 20)),
        "one-huge-service": (
            "the most popular service takes 150 GiB, which only the largest of three caches holds",
            huge,
        ),
        "no-cache": (
            "caches of one byte, the least there is: all go to the cloud",
            _network(3, 30, 10, cache_bytes=1),
        ),
        "cache-for-all": ("every server holds every service", _network(3, 40, 20, cache_bytes=400 * GIB)),
        "slow-server": (
            "one of three servers computes a tenth as fast as the others",
            _network(3, 30, 10, compute_hz=[20 * GHZ, 20 * GHZ, 2 * GHZ]),
        ),
        "narrow-band": (
            "2 MHz for each server: the radio decides",
            _network(3, 30, 10, bandwidth_hz=2 * MHZ),
        ),
        "one-spot": (
            "all users stand in one place, with the same server as home",
            _network(4, 30, 10, **spot),
        ),
        "crowded-server": ("100 users at one server", _network(1, 100, 20)),
        "unequal-caches": ("six caches from 0.5 to 400 GiB", _network(6, 50, 30, cache_bytes=unequal)),
        "flat-popularity": (
            "60 services that are asked for alike, of which a cache holds few",
            _network(4, 60, 60, zipf_exponent=0.0),
        ),
        "near-cloud": (
            "a cloud that is faster than the servers, and near",
            _network(3, 40, 20, cloud_delay_s=0.01, **near),
        ),
    }
    return [SuitePlace(name, why, fields) for name, (why, fields) in listed.items()]


def _unseen() -> list[SuitePlace]:
    return [*_by_hand(), *map(drawn_place, range(NUM_DRAWN))]


RIVALS = (
    "random+random",
    "none+all_cloud",
    "popularity+home_equal",
    "lru+least_loaded_equal",
    "density+least_loaded_sqrt",
    "hit_optimal+best_known",
    LEAST_KNOWN,
)
"""One heuristic of every kind, and the yardstick."""
SUITES = {suite.name: suite for suite in (Suite("unseen", _unseen, 4, ("hadrl.ckpt", *RIVALS)),)}
"""Suites by name."""

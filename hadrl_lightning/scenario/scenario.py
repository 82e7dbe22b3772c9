"""The constants of an edge network: one frozen, validated dataclass."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hadrl_lightning.config_files import load_config, merged
from hadrl_lightning.errors import HadrlError, shown
from hadrl_lightning.network_files import SETTINGS, with_files
from hadrl_lightning.scenario.checks import (
    check_beside_sizes,
    check_counts,
    check_fields,
    check_number,
    warn_of_values,
)
from hadrl_lightning.scenario.limits import (
    COUNTS,
    LISTS,
    POINTS,
    PUBLISHED_POPULARITY,
    SIZES,
    with_popularity,
)
from hadrl_lightning.scenario.preferences import USUAL, Preferences
from hadrl_lightning.scenario.ranges import CAPACITIES, RANGED, Range, is_range, middle, ranges_given
from hadrl_lightning.typed import as_floats, plain
from hadrl_lightning.units import read_unit

Physics = str
"""Name of the arithmetic that the simulator follows: `strict` obeys the constraints, `published` repeats the paper's
code, `module.Class` is one of your own."""

KIB, MIB, GIB = 1024, 1024**2, 1024**3
BITS_PER_BYTE = 8

Count = int
Number = float
PerServer = float | tuple[float, ...]
ByName = dict[str, dict[str, Any]]
PerService = tuple[float, ...] | None
Popularity = Literal["published", "zipf"] | tuple[float, ...]
Points = tuple[tuple[float, float], ...]
Positions = Points | None
if not TYPE_CHECKING:
    ByName = dict[str, dict[str, Any] | None]  # none: off, whatever was said of it before
if not TYPE_CHECKING:  # what may be given for them too: a range, which `Scenario` keeps in `ranges`
    Count, Number, PerServer, PerService, Popularity, Positions = (
        one | dict[str, float | bool | str]
        for one in (Count, Number, PerServer, PerService, Popularity, Positions)
    )


NO_NUMBERS = ("processes", "preferences", "ranges")
"""Fields of settings that have names of their own."""


def _by_name(settings: Any) -> dict[str, dict[str, Any]]:
    """Settings of some things by their names; what is none is off.

    Raises:
        ValueError: they are something else.
    """
    try:
        return {str(name): dict(one) for name, one in dict(settings or {}).items() if one is not None}
    except (TypeError, ValueError) as error:
        raise ValueError(f"processes must be settings by the name of a process, got {settings!r}") from error


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A mobile edge network: servers, users, services, radio and episode length.

    The defaults are the published scenario ES2 (two servers, thirty users). Indices are 0-based: service ``k`` of
    the paper (1...K) is index ``k - 1`` here. Values "per server" are one number for all or a tuple of ``num_servers``.
    Numbers are in the unit that the name says; a text with another unit of that kind, ``"20GiB"``, is read too.

    Raises:
        ValueError: a field is out of its range or a list has the wrong length; the message names the field, what is
            allowed and the value.
    """

    num_servers: Count = 2
    """S, the number of edge servers (at least 1)."""
    num_users: Count = 30
    """U, the number of mobile users (at least 1; 0 for an agent that decides on a slot without any)."""
    num_services: Count = 10
    """K, the number of services (at least 1)."""

    input_step_bytes: Number = 700 * KIB
    """Input of service k (k = 0...K-1) in bytes is this times k + 1 (700 KiB in ES2, 500 KiB in ES3-ES5)."""
    input_bytes: PerService = None
    """Input of every service in bytes, in place of the formula."""
    storage_step_bytes: Number = 2000 * MIB
    """Storage of service k in bytes is this times k + 1."""
    storage_bytes: PerService = None
    """Storage of every service in bytes, in place of the formula."""
    workload_cycles: PerService = None
    """CPU cycles of a task of every service, in place of the published (450 + 50 k) * input bits / 10."""
    deadline_step_s: Number = 0.8
    """Deadline of service k in seconds is this times k + 1."""
    deadline_s: PerService = None
    """Deadline of every service in seconds, in place of the formula."""

    popularity: Popularity = "published"
    """Request probabilities: `published` (10 services), `zipf`, or one weight per service (normalised to sum 1)."""
    zipf_exponent: Number = 0.8
    """Exponent of `popularity: zipf`: the r-th most popular service has weight r ** -exponent. As in the published
    law the most popular service is the last (largest) one."""

    compute_hz: PerServer = 60e9
    """CPU cycles per second of a server, in Hz."""
    bandwidth_hz: PerServer = 200e6
    """Uplink bandwidth of a server, in Hz."""
    cache_bytes: PerServer = 200 * GIB
    """Cache of a server in bytes."""
    usable_cache_fraction: Number = 0.8
    """Share of the cache that may be filled, in (0, 1]."""
    backhaul_bytes_per_s: Number = 200 * MIB
    """Rate at which a newly cached service reaches a server, in bytes per second."""

    cloud_rate_bit_per_s: Number = 4 * MIB
    """Rate from a server to the cloud, in bit/s."""
    cloud_compute_hz: Number = 4e9
    """CPU cycles per second that the cloud gives a task, in Hz."""
    cloud_delay_s: Number = 0.1
    """Fixed delay to the cloud and back, in seconds."""

    transmit_power_dbm: Number = 20.0
    """Transmit power of a user, in dBm."""
    noise_dbm: Number = -114.0
    """Noise power over the band, in dBm."""
    path_loss_constant_db: Number = 128.1
    """Path loss at 1 km, in dB."""
    path_loss_slope_db: Number = 37.6
    """Path loss per decade of distance, in dB."""
    min_distance_m: Number = 30.0
    """Distance in metres that replaces a distance of exactly 0."""
    cell_radius_m: int = 100
    """Users are drawn over the integers from -radius to radius - 1 metres around their server, on both axes."""
    server_positions_m: Positions = None
    """(x, y) of every server in metres, in place of the published line x = (2 s + 1) * 100, y = 0. It matters beside
    `user_positions_m`, and where a process moves users: else users are drawn around the server they belong to, whose
    link they use, wherever it stands (only `published` physics can associate a user with another server than that of
    its cell)."""
    user_positions_m: Positions = None
    """(x, y) of every user in metres: fixed users, each with the nearest server as home, in place of the cells."""

    share_floor: float = 0.05
    """Smallest weight of a user in the `strict` shares, in (0, 1]."""
    free_share: float = 0.2
    """`published` physics only: the share that a user left with exactly zero gets for nothing."""
    offload_thresholds: tuple[float, ...] | None = None
    """`published` physics only: the S - 1 increasing thresholds between servers in [-1, 1]; equal bins if not given."""

    processes: ByName = field(default_factory=dict, hash=False)
    """What changes by itself beyond the usual, or in its place: the settings of each process by its name (a registered
    one, or `module.Class`), such as `{my_module.Backlog: {limit_bits: 1e9}}`."""

    preferences: Preferences = USUAL
    """What is wanted: what each outcome counts, such as `{latency_s: 1, energy_j: 2, missed: 5}`."""

    ranges: dict[str, Range] = field(default_factory=dict, hash=False)
    """What every network draws for itself, by the name of its field. A range is given in the field itself, as
    `{low: …, high: …}`; it is kept here, and the field then holds the middle of it."""

    decisions_per_episode: int = 10
    """Caching decisions (frames) an episode."""
    slots_per_decision: int = 5
    """Offloading slots that a caching decision holds."""
    history_slots: int = 1000
    """Slots before an episode of which it is on record how often each service was asked for; 0: nothing is known."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "processes", _by_name(self.processes))
        object.__setattr__(self, "preferences", Preferences.of(self.preferences))
        self._keep_ranges()
        for name, value in self._numbers().items():
            value = read_unit(name, value)
            object.__setattr__(self, name, plain(value) if name in COUNTS else as_floats(value))
        check_counts(self)
        if self.ranges:
            self._check_ranges()
        check_fields(self)
        if not self.ranges:
            warn_of_values(self)

    @classmethod
    def from_config(cls, *names: str | Path) -> "Scenario":
        """Read the scenario of settings files: paths, or names of shipped ones such as ``es2.yaml``; later ones win.

        Raises:
            ValueError: no such file and no shipped config of that name, or none of them has a ``data.scenario``, an
                unknown field, or a value out of range.
        """
        settings = merged(*(load_config(name, {"data": False, "data.scenario": False}) for name in names))
        data = settings.get("data", {})
        files = {name: data[name] for name in SETTINGS if name in data}
        if data.get("scenario") is None and not files:
            raise ValueError(f"config {', '.join(map(str, names)) or 'of no file'} has no data.scenario")
        return cls.from_data(data)

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> "Scenario":
        """Build the scenario of plain settings of the data, with what the files say that these name.

        Raises:
            ValueError: an unknown field, a value out of range, or a file that can't be read or does not fit.
        """
        fields = data.get("scenario") or {}
        if isinstance(fields, Mapping):
            fields = with_popularity(fields, data)
        return cls.from_dict(fields).with_files({name: data[name] for name in SETTINGS if name in data})

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Scenario":
        """Build a scenario from plain values, as `to_dict` gives them.

        Raises:
            ValueError: an unknown field, or a value out of range.
        """
        if not isinstance(fields, Mapping):
            raise ValueError(f"scenario must be a mapping of its fields, got {shown(fields)}")
        unknown = sorted(map(str, set(fields) - set(cls.__dataclass_fields__)))
        if unknown:
            raise ValueError(f"scenario has no field {unknown[0]!r}")
        return cls(**fields)

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain numbers, strings and tuples, a range as a mapping where its numbers stand."""
        values = asdict(self)
        ranges = values.pop("ranges")
        return {**values, **ranges}

    def with_files(self, files: Mapping[str, Any]) -> "Scenario":
        """The scenario with what files say of it; files of its own processes count too.

        Args:
            files: paths of `sites`, `users`, `services`, `requests`, `moves` and `channel`, and `columns`: what columns
                are called there, by these names.

        Raises:
            HadrlError: a file can't be read, or does not fit the others or the scenario.
        """
        fields = self.to_dict()
        made = with_files(fields, files)
        return self if made == fields else type(self).from_dict(made)

    def resized(self, num_servers: int, num_users: int, num_services: int) -> "Scenario":
        """The scenario with other counts; what is listed one by one for a count that changes has its default.

        Ranges of counts are gone, all others stay.
        """
        same = self.counts == dict(zip(SIZES, (num_servers, num_users, num_services), strict=True))
        return self if same and not self.sizes_vary else _resized(self, num_servers, num_users, num_services)

    def _with_sizes(self, counts: dict[str, int]) -> "Scenario":
        changed = {name for name, count in counts.items() if count != getattr(self, name)}
        lists = {**LISTS, "offload_thresholds": "num_servers", "popularity": "num_services"}
        reset = [
            name for name, of in lists.items() if of in changed and isinstance(getattr(self, name), tuple)
        ]
        if changed & {"num_servers", "num_users"}:
            reset += ["server_positions_m", "user_positions_m"]
        defaults = {name: type(self).__dataclass_fields__[name].default for name in reset}
        other: dict[str, Any] = {**counts, **{name: self.ranges.get(name, defaults[name]) for name in reset}}
        published = other.get("popularity", self.popularity) == "published"
        if published and counts["num_services"] != len(PUBLISHED_POPULARITY):
            other["popularity"] = "zipf"
        ranges = {name: range_ for name, range_ in self.ranges.items() if name not in SIZES}
        return replace(self, ranges=ranges, **other)

    def require_users(self) -> None:
        """Refuse a network of nobody, where there is nothing to learn or to judge.

        Raises:
            ValueError: there are no users, or a network can be drawn that has none.
        """
        least = self.least_counts["num_users"]
        if least < 1:
            raise ValueError(f"num_users must be at least 1, got {least}")

    # Services ------------------------------------------------------------------------------------------------------

    @cached_property
    def input_bits(self) -> tuple[float, ...]:
        """Input of each service in bit, [K]."""
        sizes = self.input_bytes or tuple(self.input_step_bytes * k for k in self._ordinals)
        return tuple(size * BITS_PER_BYTE for size in sizes)

    @cached_property
    def storage_bits(self) -> tuple[float, ...]:
        """Storage of each service in bit, [K]."""
        sizes = self.storage_bytes or tuple(self.storage_step_bytes * k for k in self._ordinals)
        return tuple(size * BITS_PER_BYTE for size in sizes)

    @cached_property
    def fetch_s(self) -> tuple[float, ...]:
        """Seconds that it takes to bring each service to a server, [K]."""
        return tuple(bits / (self.backhaul_bytes_per_s * BITS_PER_BYTE) for bits in self.storage_bits)

    @cached_property
    def cycles(self) -> tuple[float, ...]:
        """CPU cycles of a task of each service, [K]."""
        formula = (
            (400 + 50 * k) * bits / 10 for k, bits in zip(self._ordinals, self.input_bits, strict=True)
        )
        return self.workload_cycles or tuple(formula)

    @cached_property
    def deadlines_s(self) -> tuple[float, ...]:
        """Deadline of each service in seconds, [K]."""
        return self.deadline_s or tuple(self.deadline_step_s * k for k in self._ordinals)

    @cached_property
    def popularity_vector(self) -> tuple[float, ...]:
        """Probability that a user requests each service in a slot, [K]; sums to 1."""
        if self.popularity == "published":
            weights = list(reversed(PUBLISHED_POPULARITY))
            weights[0] += 1.0 - sum(weights)
        elif self.popularity == "zipf":
            weights = [k**-self.zipf_exponent for k in reversed(self._ordinals)]
        else:
            weights = list(self.popularity)
        total = math.fsum(weights)
        return tuple(weight / total for weight in weights)

    # Servers and geometry ------------------------------------------------------------------------------------------

    @property
    def compute_per_server_hz(self) -> tuple[float, ...]:
        """Compute of each server in Hz, [S]."""
        return self._per_server(self.compute_hz)

    @property
    def bandwidth_per_server_hz(self) -> tuple[float, ...]:
        """Uplink bandwidth of each server in Hz, [S]."""
        return self._per_server(self.bandwidth_hz)

    @property
    def cache_per_server_bits(self) -> tuple[float, ...]:
        """Cache of each server in bit, [S]."""
        return tuple(size * BITS_PER_BYTE for size in self._per_server(self.cache_bytes))

    @property
    def usable_cache_bits(self) -> tuple[float, ...]:
        """The part of each server's cache that may be filled, in bit, [S]."""
        return tuple(size * self.usable_cache_fraction for size in self.cache_per_server_bits)

    @cached_property
    def servers_m(self) -> Points:
        """(x, y) of each server in metres, [S, 2]."""
        return self.server_positions_m or tuple(((2 * s + 1) * 100.0, 0.0) for s in range(self.num_servers))

    @cached_property
    def cells(self) -> tuple[int, ...]:
        """The server around which each user is drawn (the nearest one where positions are given), [U]."""
        if self.user_positions_m is not None:
            return tuple(self._nearest_server(point) for point in self.user_positions_m)
        return tuple(user * self.num_servers // self.num_users for user in range(self.num_users))

    @property
    def published_homes(self) -> tuple[int, ...]:
        """The published association of users with servers, floor(i / floor(U / S)) capped at S - 1, [U].

        In ES4 it is not the user's cell. Where positions are given, it is the nearest server.
        """
        if self.user_positions_m is not None:
            return self.cells
        users_per_server = max(self.num_users // self.num_servers, 1)
        return tuple(min(user // users_per_server, self.num_servers - 1) for user in range(self.num_users))

    # Sizes of the decision problems --------------------------------------------------------------------------------

    @property
    def caching_action_size(self) -> int:
        """S K."""
        return self.num_servers * self.num_services

    @property
    def offloading_action_size(self) -> int:
        """3 U."""
        return 3 * self.num_users

    @property
    def slots_per_episode(self) -> int:
        """Slots of an episode."""
        return self.decisions_per_episode * self.slots_per_decision

    # Ranges --------------------------------------------------------------------------------------------------------

    def at(self, parts: Mapping[str, Sequence[float]]) -> "Scenario":
        """The scenario of one network: in place of every range the numbers that are such parts of the way.

        Args:
            parts: by the name of the field numbers from 0 (`low`) to 1 (`high`): for each server or service one, for
                positions x and y of each, else a single one. Where counts are ranges, there is one for each of as
                many servers or services as these parts make of the counts.
        """
        drawn: dict[str, Any] = {}
        for name, range_ in self.ranges.items():
            if name in SIZES:
                drawn[name] = range_.whole(parts[name][0])
                continue
            numbers = range_.numbers(parts[name])
            if name in POINTS:
                drawn[name] = tuple(zip(numbers[::2], numbers[1::2], strict=True))
            else:
                drawn[name] = numbers if RANGED[name] else numbers[0]
        return replace(self, ranges={}, **drawn)

    def numbers_drawn(self, counts: Mapping[str, int] | None = None) -> dict[str, int]:
        """How many numbers a network draws of every range, by the name of the field.

        Args:
            counts: of servers, users and services, in place of the scenario's.
        """
        sizes = self.counts if counts is None else counts
        count = {name: sizes[RANGED[name]] if RANGED[name] else 1 for name in self.ranges}
        return {name: number * (2 if name in POINTS else 1) for name, number in count.items()}

    @property
    def counts(self) -> dict[str, int]:
        """Numbers of servers, users and services, by their names; the middle ones where they are ranges."""
        return {name: getattr(self, name) for name in SIZES}

    @property
    def least_counts(self) -> dict[str, int]:
        """The least numbers of servers, users and services, by their names."""
        return self._counts_at(0.0)

    @property
    def largest_counts(self) -> dict[str, int]:
        """The largest numbers of servers, users and services, by their names."""
        return self._counts_at(1.0)

    @property
    def sizes_vary(self) -> bool:
        """Whether a number of servers, users or services is a range."""
        return any(name in self.ranges for name in SIZES)

    @property
    def demands_differ(self) -> bool:
        """Whether networks have services, or a popularity, of their own, so that no demand is usual for all of them."""
        return self.sizes_vary or bool({"popularity", "zipf_exponent"} & set(self.ranges))

    def _counts_at(self, part: float) -> dict[str, int]:
        counts = self.counts
        return counts | {name: self.ranges[name].whole(part) for name in SIZES if name in self.ranges}

    def corners(self) -> tuple["Scenario", ...]:
        """The scenarios at the ends of the ranges: all numbers least, all largest, much asked of little, and little of
        much; of a scenario without ranges itself.
        """
        if not self.ranges:
            return (self,)
        ends = ((0.0, 0.0), (1.0, 1.0), (0.0, 1.0), (1.0, 0.0))
        return tuple(self._corner(capacity, asked) for capacity, asked in ends)

    def _corner(self, capacity: float, asked: float) -> "Scenario":
        parts = {}
        counts = self.counts
        for name in (name for name in SIZES if name in self.ranges):
            counts[name] = self.ranges[name].whole(capacity if name in CAPACITIES else asked)
        for name, number in self.numbers_drawn(counts).items():
            part = 0.5 if name == "popularity" else capacity if name in CAPACITIES else asked
            parts[name] = [part] * number
        return self.at(parts)

    def require_one_network(self) -> None:
        """Refuse ranges, where the constants of one network are needed.

        Raises:
            ValueError: there are ranges.
        """
        if self.ranges:
            raise ValueError(f"scenario must be that of one network, got ranges of {', '.join(self.ranges)}")

    def require_fixed_sizes(self, what: str) -> None:
        """Refuse ranges of counts, for what acts on networks of one size alone.

        Args:
            what: does so, in words.

        Raises:
            HadrlError: there are such ranges.
        """
        for name in SIZES:
            if name in self.ranges:
                low, high = self.ranges[name].low, self.ranges[name].high
                raise HadrlError(
                    f"{name} must be one number for {what}, got the range from {low:g} to {high:g}"
                )

    def _numbers(self) -> dict[str, Any]:
        """The fields that hold numbers, or ranges of numbers."""
        return {name: value for name, value in vars(self).items() if name not in NO_NUMBERS}

    def _keep_ranges(self) -> None:
        """Put what is given as a range into `ranges`, and its default in its place."""
        values = self._numbers()
        defaults = {name: type(self).__dataclass_fields__[name].default for name in values}
        object.__setattr__(self, "ranges", ranges_given(self.ranges, values, defaults))
        for name, value in values.items():
            if is_range(value):
                object.__setattr__(self, name, defaults[name])

    def _check_ranges(self) -> None:
        """Put their middles into the fields; what networks can draw must be allowed."""
        check_beside_sizes(self)
        for name, range_ in sorted(self.ranges.items(), key=lambda one: one[0] not in SIZES):  # counts first
            number = getattr(self, RANGED[name]) if RANGED[name] else 1
            object.__setattr__(self, name, middle(name, range_, number))
        if "popularity" in self.ranges:
            check_number("popularity", self.ranges["popularity"].low, least=0.0)
        self.corners()  # a scenario each, which is checked

    @property
    def _ordinals(self) -> range:
        return range(1, self.num_services + 1)

    def _per_server(self, value: PerServer) -> tuple[float, ...]:
        return value if isinstance(value, tuple) else (float(value),) * self.num_servers

    def _nearest_server(self, point: tuple[float, float]) -> int:
        return min(range(self.num_servers), key=lambda server: math.dist(point, self.servers_m[server]))


@lru_cache(maxsize=256)
def _resized(scenario: Scenario, num_servers: int, num_users: int, num_services: int) -> Scenario:
    return scenario._with_sizes(dict(zip(SIZES, (num_servers, num_users, num_services), strict=True)))


# The class checks its own arguments, with messages for users, and takes what YAML gives (whole numbers, lists):
# a run-time type checker in front of it would only hide them.
setattr(Scenario.__init__, "__no_type_check__", True)  # noqa: B010

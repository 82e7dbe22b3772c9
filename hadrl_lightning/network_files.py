"""A network from files: what sites, users, services, requests, moves and gains say of a scenario."""

import json
import os
import warnings
from collections.abc import Collection, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hadrl_lightning.errors import HadrlError, HadrlWarning, shown
from hadrl_lightning.move_files import GainSettings, MoveSettings
from hadrl_lightning.request_files import RequestSettings
from hadrl_lightning.table_files import Cells, Column, open_table
from hadrl_lightning.trace_files import (
    KINDS,
    OTHER,
    PLACE,
    bounds_of,
    chosen_services,
    digest,
    in_degrees,
    projected,
    stamp,
    survey,
    told,
    twice,
)
from hadrl_lightning.typed import read_settings

FILES = ("sites", "users", "services", "requests", "moves", "channel")
"""Settings of the data that name a file."""
SETTINGS = (*FILES, "columns")
"""All settings of the data about files."""
PROCESSES = {"requests": "requests_of_file", "moves": "moves_of_file", "channel": "gains_of_file"}
"""Files that are played slot by slot, and by which process."""
_CLASSES = {"requests": RequestSettings, "moves": MoveSettings, "channel": GainSettings}

FARTHEST_OFF = 0.02
"""Of a distance, by the projection; more is said."""
SITES = {
    **PLACE,
    "name": Column("text", whole=True),
    "compute_hz": Column(least=1, most=1e18, whole=True),
    "bandwidth_hz": Column(least=1e3, most=1e18, whole=True),
    "cache_bytes": Column(least=1, most=1e18, whole=True),
}
USERS = {**PLACE, "user": Column("text", whole=True)}
SERVICES = {
    "name": Column("text", needed=True),
    "storage_bytes": Column(least=1, most=1e15, whole=True),
    "load_s": Column(least=1e-9, most=1e12, whole=True),
    "input_bytes": Column(least=1, most=1e12, whole=True),
    "cycles": Column(least=1, most=1e20, whole=True),
    "deadline_s": Column(least=1e-9, most=1e12, whole=True),
    "weight": Column(least=0, most=1e100, whole=True),
}
FIELDS = {
    "storage_bytes": "storage_bytes",
    "input_bytes": "input_bytes",
    "cycles": "workload_cycles",
    "deadline_s": "deadline_s",
    "weight": "popularity",
}
"""Columns of services, and the fields of a scenario that they are."""


def names_files(data: Mapping[str, Any]) -> bool:
    """Whether settings of the data name a file that says something of the scenario."""
    processes = (data.get("scenario") or {}).get("processes") or {}
    return any(data.get(name) not in (None, {}) for name in SETTINGS) or bool(
        set(PROCESSES.values()) & set(processes)
    )


def played_files(processes: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, int, int]]:
    """The files that processes play: path, time of the last change in ns, and bytes."""
    played = [processes[name]["file"] for name in PROCESSES.values() if name in processes]
    return [one for file in played for one in stamp(file)]


class Sites(NamedTuple):
    """What a file of sites or of users says."""

    rows: Cells
    points: tuple[tuple[float, float], ...]
    names: tuple[str, ...]
    origin_deg: tuple[float, float] | None
    """Latitude and longitude of (0, 0); none of files in metres."""


def with_files(fields: Mapping[str, Any], files: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a scenario with what files say of it.

    Files win over what the fields say of the same: sites over the number of servers and where they are, users over the
    number of users and their places, services over all that there is of services. A file of requests says how popular
    services are, by its training part. Requests, moves and gains become settings of processes, with absolute paths.

    Args:
        fields: all fields of the scenario as plain values.
        files: paths by the names in `FILES`, and `columns`: what columns are called, by these names.

    Raises:
        HadrlError: a file that can't be read or does not fit; the line begins with the setting that is wrong.
    """
    processes = {name: dict(one or {}) for name, one in dict(fields.get("processes") or {}).items()}
    paths = {
        what: files.get(what) or processes.get(PROCESSES.get(what, ""), {}).get("file") for what in FILES
    }
    for what in FILES:
        if files.get(what) == "":
            raise HadrlError(f"{what} must be a file, a folder or a pattern of files, got ''")
    given = {what: os.path.abspath(path) for what, path in paths.items() if path}
    columns = _columns(files.get("columns") or {}, given)
    if not given:
        return dict(fields)
    ours: dict[str, dict[str, Any]] = {}
    new: set[str] = set()
    for what, process in PROCESSES.items():
        if what in given:
            told_columns = {"columns": columns[what]} if what in columns else {}
            settings = {**processes.pop(process, {}), "file": given[what], **told_columns}
            if "digest" not in settings:
                new.add(what)
            if what in new or files.get(what):
                settings["digest"] = digest(given[what])
            read: Any = read_settings(_CLASSES[what], settings, f"processes.{process}")
            ours[process] = {name: getattr(read, name) for name in settings}
    made = _Made({**fields, "processes": {**ours, **processes}}, given, columns, new).fields
    for process in ours:  # as a settings file would have them
        told_settings = made["processes"][process].items()
        made["processes"][process] = {
            n: list(one) if isinstance(one, tuple) else one for n, one in told_settings
        }
    return made


def _columns(columns: Any, given: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    if not isinstance(columns, Mapping):
        raise HadrlError(f"columns must be of {', '.join(FILES)}, got {shown(columns)}")
    for name, one in columns.items():
        if name not in FILES:
            raise HadrlError(f"columns must be of {', '.join(FILES)}, got {name}")
        if name not in given:
            raise HadrlError(f"columns.{name} must come with a file of {name}, got none")
        if not isinstance(one, Mapping):
            raise HadrlError(f"columns.{name} must be columns by our names, got {shown(one)}")
    return {name: dict(one) for name, one in columns.items()}


class _Made:
    """The fields of a scenario, while files are worked into them one after the other."""

    def __init__(
        self,
        fields: dict[str, Any],
        given: Mapping[str, str],
        columns: Mapping[str, Mapping[str, Any]],
        new: Collection[str],
    ) -> None:
        self.fields, self.given, self.columns = fields, given, columns
        self.new = new
        """Files that are played and were not worked in before."""
        self.origin_deg: tuple[float, float] | None = None
        self.sites: tuple[str, ...] = ()
        self.weighted = False
        """Whether a file says how popular services are."""
        self.services: tuple[str, ...] = ()
        self.users: tuple[str, ...] = ()
        """Names of users, as of the other two, by their places, where a file names them."""
        if "users" in given and "moves" in given:
            raise HadrlError("users must not be given beside moves, which say where users are, got both")
        for what in FILES:
            if what in given:
                getattr(self, f"_take_{what}")()

    def _one_number(self, name: str, what: str) -> int:
        """A count that is no range.

        Raises:
            HadrlError: it is one.
        """
        value = self.fields[name]
        if isinstance(value, Mapping):
            raise HadrlError(
                f"{name} must be one number with a file of {what}, got the range {shown(dict(value))}"
            )
        return int(value)

    # Sites and users -------------------------------------------------------------------------------------------------

    def _take_sites(self) -> None:
        self._one_number("num_servers", "sites")
        found = self._sites("sites")
        self.origin_deg = found.origin_deg
        self.sites = found.names
        self.fields |= {"num_servers": len(found.points), "server_positions_m": found.points}
        for name in ("compute_hz", "bandwidth_hz", "cache_bytes"):
            if name in found.rows:
                self.fields[name] = tuple(found.rows[name].tolist())

    def _take_users(self) -> None:
        self._one_number("num_users", "users")
        found = self._sites("users")
        self._check_unit("users", found.origin_deg is not None)
        self.users = found.names
        self.fields |= {"num_users": len(found.points), "user_positions_m": found.points}

    def _sites(self, what: str) -> Sites:
        path, columns = self.given[what], told(self.columns.get(what, {}))
        visits = path in (self.given.get("requests"), self.given.get("moves"))  # of which some have no place
        return _sites(what, path, columns, self.origin_deg, visits, stamp(path))

    def _check_unit(self, what: str, degrees: bool) -> None:
        """Places must be of one kind; those of a scenario without a file of sites are metres."""
        if degrees != (self.origin_deg is not None):
            units = ("x_m and y_m", "lat and lon")
            whose = "sites" if "sites" in self.given else "servers without a file of sites"
            raise HadrlError(f"{what} must have {units[not degrees]}, as {whose} have, got {units[degrees]}")

    # Services --------------------------------------------------------------------------------------------------------

    def _take_services(self) -> None:
        self._one_number("num_services", "services")
        table = open_table("services", self.given["services"], SERVICES, self.columns.get("services"))
        rows = table.whole(*SERVICES)
        self.services = different("services", rows["name"], table.files[0])
        if "storage_bytes" in rows and "load_s" in rows:
            raise HadrlError(f"services must have storage_bytes or load_s, got both in {table.files[0]}")
        if "load_s" in rows:  # what the backhaul brings in that time
            rows["storage_bytes"] = rows["load_s"] * self._backhaul()
        taken = {field: tuple(rows[name].tolist()) for name, field in FIELDS.items() if name in rows}
        lists = {one: None for one in FIELDS.values() if isinstance(self.fields[one], list | tuple)}
        popularity = {"popularity": "zipf"}  # of as many services as there are
        self.fields |= {**lists, **popularity, **taken, "num_services": len(self.services)}
        self.weighted = "weight" in rows

    def _backhaul(self) -> float:
        rate = self.fields["backhaul_bytes_per_s"]
        if isinstance(rate, Mapping):
            raise HadrlError(
                f"backhaul_bytes_per_s must be one number with load_s in services, got the range {shown(dict(rate))}"
            )
        return float(rate)

    # Requests --------------------------------------------------------------------------------------------------------

    def _take_requests(self) -> None:
        settings = self._settings("requests")
        users = self._one_number("num_users", "requests")
        file, columns = self.given["requests"], settings.get("columns") or {}
        if settings.get("services") is None:
            counts = survey("requests", file, columns).services
            others = settings.get("others", "drop")
            settings["services"] = self._services(file, counts, others) if counts else ()
        elif "requests" in self.new and settings["services"]:
            self._check_listed("services", file, survey("requests", file, columns).services)
        if settings.get("slot_s"):
            counts = survey("requests", file, columns).users
            if settings.get("users") and "requests" in self.new:
                self._check_listed("users", file, counts)
            elif counts and not settings.get("users") and settings.get("places") != "gather":
                settings["users"] = self._most_active(file, counts, users)
        self.users = tuple(settings.get("users") or self.users)
        settings.setdefault("sizes", RequestSettings(**settings).own_sizes())
        if settings.get("services") and not self.weighted and isinstance(self.fields["popularity"], str):
            self._take_popularity(settings, users)

    def _services(self, file: str, counts: Mapping[str, int], others: str) -> tuple[str, ...]:
        if not self.services:
            return chosen_services(file, counts, self._one_number("num_services", "requests"), others)
        beyond = [name for name in counts if name not in self.services]
        if len(beyond) == len(counts):
            raise HadrlError(f"services must name some of {file}, got {', '.join(self.services)}")
        if others == "gather" and beyond and OTHER not in self.services:
            raise HadrlError(f"services must have a row {OTHER} where others are gathered, got none")
        _tell_services(file, counts, self.services, others, "without a row in services")
        return self.services

    def _check_listed(self, what: str, file: str, counts: Mapping[str, int]) -> None:
        """Names that settings list must be in the file; what is left out by them is said."""
        settings = self._settings("requests")
        names, others = settings[what], settings.get("others", "drop")
        stands = OTHER if what == "services" and others == "gather" else None
        for name in names if counts else ():
            if name not in counts and name != stands:
                text = f"processes.requests_of_file.{what} must be of those in {file}, got {shown(name)}"
                raise HadrlError(text)
        if what == "services":
            _tell_services(file, counts, names, others, "that are not listed")
        else:
            _tell_users(file, counts, names)

    def _most_active(self, file: str, counts: Mapping[str, int], number: int) -> tuple[str, ...]:
        if self.users:  # those of a file of users
            lacking = [name for name in self.users if name not in counts]
            if lacking:
                raise HadrlError(f"requests must have all users of users, got none of {lacking[0]} in {file}")
            _tell_users(file, counts, self.users)
            return self.users
        names = list(counts)
        if "moves" in self.given:
            movers = survey("moves", self.given["moves"], self._settings("moves").get("columns") or {}).users
            both = [name for name in names if name in movers]
            names = both or names
        if number > len(names):
            raise HadrlError(f"num_users must be at most the {len(names)} users of {file}, got {number}")
        _tell_users(file, counts, names[:number])
        return tuple(names[:number])

    def _take_popularity(self, settings: Mapping[str, Any], users: int) -> None:
        """How often services are asked for in the training part."""
        read, number = RequestSettings(**settings), len(settings["services"])
        requests = read.load(users, number)
        counts = requests.counts(*bounds_of(requests.num_slots, read.parts, "train"), number)
        if counts.sum() > 0:
            self.fields["popularity"] = tuple(counts.astype(float).tolist())

    def _settings(self, what: str) -> dict[str, Any]:
        settings: dict[str, Any] = self.fields["processes"][PROCESSES[what]]
        return settings

    # Moves and gains -------------------------------------------------------------------------------------------------

    def _take_moves(self) -> None:
        settings = self._settings("moves")
        number, file = self._one_number("num_users", "moves"), self.given["moves"]
        columns = settings.get("columns") or {}
        degrees = in_degrees(open_table("moves", file, KINDS["moves"], columns))
        if degrees is None:
            raise HadrlError(f"moves must have x_m and y_m, or lat and lon, got neither in {file}")
        found = survey("moves", file, columns)
        if settings.get("origin_deg") is None:
            self._check_unit("moves", degrees)
            settings["origin_deg"] = self.origin_deg
        if "users" not in settings:
            settings["users"] = self._users_of("moves", file, found.users, number)
        self.users = tuple(settings["users"] or ())
        self._share_clock("moves", file, found.first_s, found.last_s)
        self.fields["processes"].setdefault("handover", {})

    def _take_channel(self) -> None:
        settings = self._settings("channel")
        number, file = self._one_number("num_users", "channel"), self.given["channel"]
        found = survey("channel", file, settings.get("columns") or {})
        if "users" not in settings:
            settings["users"] = self._users_of("channel", file, found.users, number)
        number = self._one_number("num_servers", "channel")
        named = different("sites", self.sites, self.given.get("sites", "")) or tuple(map(str, range(number)))
        settings.setdefault("servers", named)
        if found.first_s < found.last_s:
            self._share_clock("channel", file, found.first_s, found.last_s)

    def _users_of(self, what: str, file: str, counts: Mapping[str, int], number: int) -> tuple[str, ...]:
        """The names of the users who have a place: those of the files before this one, if it has them too."""
        lacking = next((name for name in self.users if name not in counts), None)
        if lacking is not None:
            raise HadrlError(
                f"{what} must have all users who have a place, got none of {lacking} in {file} "
                f"(processes.{PROCESSES[what]}.users says who stands for whom)"
            )
        if self.users:
            return self.users
        if number > len(counts):
            raise HadrlError(f"num_users must be at most the {len(counts)} users of {file}, got {number}")
        self.users = tuple(list(counts)[:number])
        return self.users

    def _share_clock(self, what: str, file: str, first_s: float, last_s: float) -> None:
        """The slots of a file are those of the file before it, if they have times in common."""
        settings = self._settings(what)
        slots = [self._settings(one).get("slot_s") for one in PROCESSES if one in self.given and one != what]
        settings.setdefault("slot_s", next(filter(None, slots), None if "requests" in self.given else 1.0))
        other = next((one for one in ("requests", "moves") if one in self.given and one != what), None)
        if other is None or "shares_clock" in settings:
            return
        found = survey(other, self.given[other], self._settings(other).get("columns") or {})
        settings["shares_clock"] = bool(first_s <= found.last_s and found.first_s <= last_s)
        if not settings["shares_clock"]:
            text = f"{file} and {self.given[other]} have no time in common: episodes begin in each anywhere"
            warnings.warn(text, HadrlWarning, stacklevel=1)


def _tell_services(
    file: str, counts: Mapping[str, int], names: Collection[str], others: str, which: str
) -> None:
    """Say what part of the requests is for services that have no place."""
    beyond = [name for name in counts if name not in names]
    if beyond:
        part = sum(counts[name] for name in beyond) / sum(counts.values())
        fate = "gathered" if others == "gather" else "dropped"
        text = f"{len(beyond)} services of {file} {which} are {fate}: {part:.1%} of its requests"
        warnings.warn(text, HadrlWarning, stacklevel=1)


def _tell_users(file: str, counts: Mapping[str, int], names: Collection[str]) -> None:
    """Say what part of the requests is of users who have a place."""
    if counts and len(names) < len(counts):
        part = sum(counts[name] for name in names) / sum(counts.values())
        text = f"{len(names)} of {len(counts)} users of {file} have a place, with {part:.1%} of its requests"
        warnings.warn(text, HadrlWarning, stacklevel=1)


@lru_cache(maxsize=16)
def _sites(
    what: str, path: str, columns: str, origin_deg: tuple[float, float] | None, visits: bool, _: Any
) -> Sites:
    """Where sites or users are: of sites at one place, or rows of one user, the first."""
    declared = SITES if what == "sites" else USERS
    table = open_table(what, path, declared, json.loads(columns))
    degrees = in_degrees(table)
    if degrees is None:
        raise HadrlError(f"{what} must have x_m and y_m, or lat and lon, got neither in {path}")
    rows = table.whole(*declared, without=PLACE if visits else ())
    place = np.stack([rows[name] for name in (("lat", "lon") if degrees else ("x_m", "y_m"))], axis=1)
    key = rows["user"].astype(str) if "user" in rows else place
    if what == "sites" or "user" in rows:
        _, first = np.unique(key, axis=0, return_index=True)
        if len(first) < len(place):
            text = f"{len(first)} {what} of {len(place)} rows of {path}: the first row of each counts"
            warnings.warn(text, HadrlWarning, stacklevel=1)
        rows = {name: values[np.sort(first)] for name, values in rows.items()}
        place = place[np.sort(first)]
    if degrees and origin_deg is None:
        origin_deg = (float(place[:, 0].mean()), _mean_longitude(place[:, 1]))
    if degrees:
        _warn_of_distance(what, path, place[:, 0], origin_deg)
    points = projected(rows, origin_deg if degrees else None).tolist()
    named = "name" if what == "sites" else "user"
    names = tuple(map(str, rows[named])) if named in rows else ()
    return Sites(rows, tuple((x, y) for x, y in points), names, origin_deg if degrees else None)


def _mean_longitude(lon: Any) -> float:
    """Also of places on both sides of 180°."""
    if np.ptp(lon) <= 180:
        return float(lon.mean())
    mean = lon[0] + (np.remainder(lon - lon[0] + 180, 360) - 180).mean()
    return float(np.remainder(mean + 180, 360) - 180)


def _warn_of_distance(what: str, path: str, lat: Any, origin_deg: tuple[float, float] | None) -> None:
    """Say so where a plane is no map of them."""
    assert origin_deg is not None
    width = np.cos(np.radians(lat)) / np.cos(np.radians(origin_deg[0]))
    off = float(np.abs(width - 1).max())
    if off > FARTHEST_OFF:
        text = f"{what} of {path} reach so far that their distances are off by {off:.1%} after projection"
        warnings.warn(text, HadrlWarning, stacklevel=1)


def different(what: str, names: Collection[str], path: str | Path) -> tuple[str, ...]:
    """Names that must differ.

    Raises:
        HadrlError: they don't.
    """
    again = twice(map(str, names))
    if again is not None:
        raise HadrlError(f"{what} must have each name once, got {shown(again)} twice in {path}")
    return tuple(map(str, names))

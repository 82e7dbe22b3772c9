"""Files of moves and of gains as compact arrays: where users are, and what their links lose."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from hadrl_lightning.errors import HadrlError, shown
from hadrl_lightning.table_files import Table, open_table
from hadrl_lightning.trace_files import (
    GAINS,
    MOVES,
    PLACE,
    Array,
    Part,
    check_file,
    check_names,
    check_slot,
    in_degrees,
    numbered,
    projected,
    stamp,
    stored,
    survey,
    told,
    users_of,
    warn_of_change,
    warn_of_degrees,
)

Parts = tuple[float, float, float]


@dataclass(frozen=True)
class _OfUsers:
    """A file of users at times, and when networks begin in it."""

    file: str = ""
    """Its path, or a folder or a pattern of several."""
    columns: dict[str, Any] = field(default_factory=dict)
    """What its columns are called there."""
    users: tuple[str, ...] | None = None
    """Names by their places; none: those with most rows."""
    slot_s: float | None = None
    """Length of a slot, where episodes begin at times of their own; none: 1 s."""
    shares_clock: bool = False
    """Whether its times are those of the slots of another file: of `requests_of_file`, for gains else of
    `moves_of_file`; if not, episodes begin at times of its own."""
    parts: Parts = (0.7, 0.15, 0.15)
    """As those of requests, of the time in which all users are known."""
    part: Part | None = None
    """As that of requests."""
    digest: str | None = None
    """As that of requests."""

    def __post_init__(self) -> None:
        check_file(self.file, self.columns, self.parts)
        check_slot(self.slot_s)
        check_names(users=self.users)


@dataclass(frozen=True)
class MoveSettings(_OfUsers):
    """A file of moves; a pattern may be of one file for each user. Columns: `time_s`, `user`, and a place."""

    origin_deg: tuple[float, float] | None = None
    """Latitude and longitude of (0, 0), for a file in degrees: that of the servers' places."""

    def load(self, num_users: int) -> "Moves":
        """Where so many users are; networks of one process share that.

        Raises:
            HadrlError: the file can't be read, or has fewer users.
        """
        warn_of_change(self.file, self.digest)
        users = self.users or _some_users("moves", self.file, self.columns, num_users)
        return _load_moves(self.file, told(self.columns), users, self.origin_deg, stamp(self.file))


@dataclass(frozen=True)
class GainSettings(_OfUsers):
    """A file of gains of links. Columns: `time_s`, `user`, `server`, and `gain_db` or `gain`."""

    servers: tuple[str, ...] | None = None
    """Names by their places; none: 0, 1, …"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_names(servers=self.servers)

    def load(self, num_users: int, num_servers: int) -> "Gains":
        """The losses of links; networks of one process share them.

        Raises:
            HadrlError: the file can't be read, or lacks a link.
        """
        warn_of_change(self.file, self.digest)
        users = self.users or _some_users("channel", self.file, self.columns, num_users)
        servers = self.servers or tuple(map(str, range(num_servers)))
        return _load_gains(self.file, told(self.columns), users, servers, stamp(self.file))


def _some_users(what: str, file: str, columns: Mapping[str, Any], number: int) -> tuple[str, ...]:
    users = tuple(survey(what, file, columns).users)
    if number > len(users):
        raise HadrlError(f"num_users must be at most the {len(users)} users of {file}, got {number}")
    return users[:number]


class Moves(NamedTuple):
    """Where U users are, by straight lines between what the file has."""

    key: Array
    """Times of all users one behind the other: s since `first_s`, and `apart` more for each user."""
    points: Array
    """(x, y) in metres, [R, 2]."""
    ends: Array
    """First and last time of each user, s since `first_s`, [U, 2]."""
    first_s: float
    apart: float

    def at(self, times_s: Array) -> Array:
        """Where users are at a time of each network, [B] → [B, U, 2]; before and after what is known at its ends."""
        users = np.arange(len(self.ends))
        time = np.clip((times_s - self.first_s)[:, None], *self.ends.T)
        key = time + users * self.apart
        after = np.searchsorted(self.key, key, side="right").clip(1, len(self.key) - 1)
        before = after - 1
        wide = self.key[after] - self.key[before]
        part = np.clip((key - self.key[before]) / np.where(wide > 0, wide, 1), 0, 1)[..., None]
        return self.points[before] * (1 - part) + self.points[after] * part


@lru_cache(maxsize=8)
def _load_moves(
    path: str, columns: str, users: tuple[str, ...], origin_deg: tuple[float, float] | None, _: Any
) -> Moves:
    table = open_table("moves", path, MOVES, json.loads(columns))
    degrees = in_degrees(table)
    if degrees is None or degrees != (origin_deg is not None):
        wanted = "x_m and y_m, as servers are" if origin_deg is None else "lat and lon, as origin_deg is"
        raise HadrlError(f"moves must have {wanted}, got {', '.join(table.sources)} in {path}")
    found = stored(_kept_moves(table, users, origin_deg))
    have = np.bincount(found["place"], minlength=len(users)) if found else np.zeros(len(users))
    if (have == 0).any():
        raise HadrlError(f"moves must have the user {shown(users[int(have.argmin())])}, got none in {path}")
    order = np.lexsort((found["time_s"], found["place"]))
    time, place, points = (found[name][order] for name in ("time_s", "place", "points"))
    if origin_deg is None:
        warn_of_degrees(f"x_m and y_m of {path}", points)
    first, span = float(time.min()), float(np.ptp(time))
    begin = np.searchsorted(place, np.arange(len(users) + 1))
    ends = np.stack([time[begin[:-1]], time[begin[1:] - 1]], axis=1) - first
    apart = span + 1.0
    return Moves(time - first + place * apart, points, ends, first, apart)


def _kept_moves(
    table: Table, users: tuple[str, ...], origin_deg: tuple[float, float] | None
) -> Iterator[dict[str, Array]]:
    for part in table.batches(*MOVES, without=PLACE):
        names = users_of(table, part)
        assert names is not None
        place = numbered(users, names)
        keep = place >= 0
        points = projected(part, origin_deg)[keep].astype(np.float32)
        yield {"time_s": part["time_s"][keep], "place": place[keep], "points": points}


# Gains ----------------------------------------------------------------------------------------------------------------


class Gains(NamedTuple):
    """Losses of all links, which stay as they are until the next time that the file has."""

    times_s: Array
    """[T]; of a file without times a single 0."""
    loss_db: Array
    """[T, U, S]."""

    def at(self, times_s: Array) -> Array:
        """At a time of each network, [B] → [B, U, S]."""
        step = np.searchsorted(self.times_s, times_s, side="right") - 1
        return np.asarray(self.loss_db[step.clip(0, len(self.times_s) - 1)])


@lru_cache(maxsize=8)
def _load_gains(path: str, columns: str, users: tuple[str, ...], servers: tuple[str, ...], _: Any) -> Gains:
    table = open_table("channel", path, GAINS, json.loads(columns))
    if ("gain_db" in table) == ("gain" in table):
        raise HadrlError(
            f"channel must have either gain_db or gain, got {', '.join(table.sources)} in {path}"
        )
    found = stored(_kept_gains(table, users, servers))
    if not len(found.get("link", ())):
        raise HadrlError(f"channel must have the user {shown(users[0])}, got none in {path}")
    times, step = np.unique(found["time_s"], return_inverse=True)
    loss = np.full((len(times), len(users) * len(servers)), np.nan, dtype=np.float32)
    cell, number = np.unique(step * loss.shape[1] + found["link"], return_counts=True)
    loss[step, found["link"]] = found["loss_db"]
    if (number > 1).any():
        at, link = divmod(int(cell[number.argmax()]), loss.shape[1])
        raise HadrlError(
            f"channel must have one row of each user and server for each time, got {int(number.max())} of "
            f"{_link(link, users, servers)}{_when(table, times[at])} in {path}"
        )
    if np.isnan(loss).any():
        at, link = (int(one[0]) for one in np.nonzero(np.isnan(loss)))
        raise HadrlError(
            f"channel must have a row of each user and server for each time, got none of "
            f"{_link(link, users, servers)}{_when(table, times[at])} in {path}"
        )
    return Gains(times, loss.reshape(len(times), len(users), len(servers)))


def _link(link: int, users: tuple[str, ...], servers: tuple[str, ...]) -> str:
    return f"user {users[link // len(servers)]} and server {servers[link % len(servers)]}"


def _when(table: Table, time_s: float) -> str:
    return f" at time {time_s:g} s" if "time_s" in table else ""


def _kept_gains(table: Table, users: tuple[str, ...], servers: tuple[str, ...]) -> Iterator[dict[str, Array]]:
    name = "gain_db" if "gain_db" in table else "gain"
    for part in table.batches(*GAINS):
        user, server = numbered(users, part["user"]), numbered(servers, part["server"])
        keep = (user >= 0) & (server >= 0)
        gain_db = part[name] if name == "gain_db" else 10 * np.log10(part[name])
        time = part.get("time_s", np.zeros(len(keep)))
        link = (user.astype(np.int64) * len(servers) + server)[keep]
        yield {"time_s": time[keep], "link": link, "loss_db": (-gain_db[keep]).astype(np.float32)}

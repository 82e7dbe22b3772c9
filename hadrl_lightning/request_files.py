"""Files of requests as compact arrays: who asks for what in which slot."""

import json
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np

from hadrl_lightning.errors import HadrlError, HadrlWarning
from hadrl_lightning.table_files import ROWS, Cells, Table, open_table
from hadrl_lightning.trace_files import (
    OTHER,
    REQUESTS,
    SIZES,
    Array,
    Part,
    check_file,
    check_names,
    check_slot,
    chosen_services,
    numbered,
    stamp,
    stored,
    survey,
    told,
    warn_of_change,
)

MOST_SLOTS = 100_000_000
"""Slots of a file; more are a slot length in another unit."""
ROUNDING = 1e-9
"""Of a slot: a time that is a multiple of its length is the begin of a slot, whichever way it is rounded."""


@dataclass(frozen=True)
class RequestSettings:
    """A file of requests, and how its requests come to slots, places and services."""

    file: str = ""
    """Its path, or a folder or a pattern of several."""
    columns: dict[str, Any] = field(default_factory=dict)
    """What `time_s`, `user`, `service`, `input_bytes`, `cycles` and `deadline_s` are called there."""
    slot_s: float | None = None
    """Length of a slot; none: each slot holds the next requests of the file, one for each place, whoever made them."""
    services: tuple[str, ...] | None = None
    """Names by their places; none: the most asked, the most asked of all last. Of an empty list services are drawn by
    the scenario's popularity, as where the file names none."""
    others: Literal["drop", "gather"] = "drop"
    """What becomes of requests for further services: none, or they ask for the service called `other`."""
    users: tuple[str, ...] | None = None
    """Names by their places; none: by `places`."""
    places: Literal["most_active", "gather"] = "most_active"
    """Who has a place: those who ask most often, or all users, put onto the places in turn."""
    several: Literal["next", "drop"] = "next"
    """What becomes of further requests of a place in a slot: they wait for its next free slots, or are dropped."""
    sizes: tuple[str, ...] | None = None
    """What requests have of their own, of `input_bytes`, `cycles` and `deadline_s`; none: what the file has."""
    parts: tuple[float, float, float] = (0.7, 0.15, 0.15)
    """Shares of the slots, in the order of time, for training, validation and test."""
    part: Part | None = None
    """Which of them networks play; none: what they are for, training where nothing else is known."""
    digest: str | None = None
    """What tells the file from any other when the scenario is made (`digest`); of another one a line says so."""

    def __post_init__(self) -> None:
        check_file(self.file, self.columns, self.parts)
        check_slot(self.slot_s)
        check_names(services=self.services, users=self.users)
        for name in self.sizes or ():
            if name not in SIZES:
                raise ValueError(f"sizes must be of {', '.join(SIZES)}, got {name}")

    def own_sizes(self) -> tuple[str, ...]:
        """`sizes`, as the file has them where they are not said.

        Raises:
            HadrlError: the file can't be read.
        """
        if self.sizes is not None:
            return self.sizes
        table = open_table("requests", self.file, REQUESTS, self.columns)
        return tuple(name for name in SIZES if name in table)

    def load(self, num_users: int, num_services: int, rows: int = ROWS) -> "Requests":
        """The requests, on so many places; networks of one process share them.

        Args:
            num_users: places.
            num_services: that have a place.
            rows: that are read at a time.

        Raises:
            HadrlError: the file can't be read, or has fewer users or services.
        """
        warn_of_change(self.file, self.digest)
        services, users = self.services or (), self.users or ()
        if self.services is None or (self.slot_s is not None and not users):
            found = survey("requests", self.file, self.columns)
            if found.services and self.services is None:
                services = chosen_services(self.file, found.services, num_services, self.others)
            if found.users and self.slot_s is not None and not users:
                if num_users > len(found.users):
                    raise HadrlError(
                        f"num_users must be at most the {len(found.users)} users of {self.file}, got {num_users}"
                    )
                users = tuple(found.users)[: num_users if self.places == "most_active" else None]
        file = RequestFile(
            path=self.file,
            columns=told(self.columns),
            slot_s=self.slot_s,
            services=services,
            others=self.others,
            users=() if self.slot_s is None else users,
            several=self.several,
            num_users=num_users,
            rows=rows,
        )
        return _load_requests(file, stamp(self.file))


class RequestFile(NamedTuple):
    """A file of requests, and how its rows come to slots and places."""

    path: str
    columns: str
    """As `told` gives them."""
    slot_s: float | None
    """Length of a slot; none: each slot holds the next requests, one for each place."""
    services: tuple[str, ...]
    """Names by their places; empty where the file names no services."""
    others: Literal["gather", "drop"]
    users: tuple[str, ...]
    """Names by their places, and on from the first place again if there are more; empty where requests take turns."""
    several: Literal["next", "drop"]
    """What becomes of further requests of a place in a slot: they wait for its next free slots, or are dropped."""
    num_users: int
    rows: int = ROWS
    """That are read at a time."""


class Requests:
    """Requests slot by slot: those of slot n are the entries `starts[n]` to `starts[n + 1]`.

    Args:
        starts: where slots begin, [N + 1].
        place: who asks, [R].
        service: what for, [R]; none where the file does not say.
        sizes: what requests have of their own, by name, [R] each.
        times_s: when slots begin, [N].
        num_users: U.
    """

    def __init__(
        self,
        starts: Array,
        place: Array,
        service: Array | None,
        sizes: dict[str, Array],
        times_s: Array,
        num_users: int,
    ) -> None:
        self.starts, self.place, self.service, self.sizes = starts, place, service, sizes
        self.times_s, self.num_users = times_s, num_users

    @property
    def num_slots(self) -> int:
        """N."""
        return len(self.starts) - 1

    def slots(self, at: Array) -> dict[str, Array]:
        """What is asked in some slots, one of each network, [B] → [B, U] each: `asks`, `service`, and sizes.

        A user who does not ask has service 0; a size that a request does not have of its own is NaN.
        """
        first, number = self.starts[at], self.starts[at + 1] - self.starts[at]
        network = np.repeat(np.arange(len(at)), number)
        within = np.arange(number.sum()) - np.repeat(np.cumsum(number) - number, number)
        entry = np.repeat(first, number) + within
        cell = network, np.asarray(self.place[entry]).astype(np.int64)
        asks = np.zeros((len(at), self.num_users), dtype=bool)
        asks[cell] = True
        service = np.zeros(asks.shape, dtype=np.int64)
        if self.service is not None:
            service[cell] = self.service[entry]
        found: dict[str, Array] = {"asks": asks, "service": service}
        for name, values in self.sizes.items():
            found[name] = np.full(asks.shape, np.nan)
            found[name][cell] = values[entry]
        return found

    def sum(self, name: str, first: int, last: int) -> float:
        """The sizes that the requests of some slots have of their own, all in all."""
        low, high = int(self.starts[first]), int(self.starts[last])
        return float(np.nansum(self.sizes[name][low:high], dtype=float)) if name in self.sizes else 0.0

    def lacking(self, name: str, first: int, last: int, num_services: int) -> Array:
        """How many requests of some slots have no such size of their own, of each service, [K]; of no services, [1]."""
        if name not in self.sizes:
            return self.counts(first, last, num_services)
        low, high = int(self.starts[first]), int(self.starts[last])
        without = np.isnan(self.sizes[name][low:high])
        if self.service is None:
            return np.array([without.sum()])
        return np.bincount(self.service[low:high][without], minlength=num_services)

    def counts(self, first: int, last: int, num_services: int) -> Array:
        """How often each service was asked for from one slot to before another, [K]; of no services all, [1]."""
        low, high = int(self.starts[first]), int(self.starts[last])
        if self.service is None:
            return np.array([high - low])
        return np.bincount(self.service[low:high], minlength=num_services)


@lru_cache(maxsize=8)
def _load_requests(file: RequestFile, _: Any) -> Requests:
    table = open_table("requests", file.path, REQUESTS, json.loads(file.columns))
    for name, wanted in (("service", file.services), ("user", file.users)):
        if wanted and name not in table:
            raise HadrlError(
                f"requests must have a column {name} where {name}s are named, got none in {file.path}"
            )
    found = stored(_kept_requests(file, table))
    if not len(found.get("time_s", ())):
        raise HadrlError(
            f"requests must be of the services and users that have a place, got none in {file.path}"
        )
    if not any(found[name].any() if name in found else True for name in ("input_bytes", "cycles")):
        raise HadrlError(
            f"requests must ask for something, got 0 input_bytes and 0 cycles in each row of {file.path}"
        )
    time = found["time_s"]
    if (np.diff(time) < 0).any():
        order = np.argsort(time, kind="stable")
        found = {name: values[order] for name, values in found.items()}
        time = found["time_s"]
    slots = _in_turn if file.slot_s is None else _by_time
    starts, times_s, found = slots(file, found)
    sizes = {name: found[name] for name in SIZES if name in found}
    return Requests(starts, found["place"], found.get("service"), sizes, times_s, file.num_users)


def _kept_requests(file: RequestFile, table: Table) -> Iterator[Cells]:
    """The requests of services and users that have a place, in compact numbers."""
    before = 0
    gathered = file.services.index(OTHER) if OTHER in file.services and file.others == "gather" else -1
    for part in table.batches(*REQUESTS, rows=file.rows):
        kept: dict[str, Array] = {"time_s": part["time_s"]}
        keep = np.ones(len(part["time_s"]), dtype=bool)
        if file.services:
            service = numbered(file.services, part["service"], gathered)
            keep &= service >= 0
            kept["service"] = service.astype(np.int16 if len(file.services) < 2**15 else np.int32)
        if file.users:
            user = numbered(file.users, part["user"])
            keep &= user >= 0
            kept["place"] = user % file.num_users
        kept |= {name: part[name].astype(np.float32) for name in SIZES if name in part}
        kept = {name: values[keep] for name, values in kept.items()}
        if "place" not in kept:
            turn = np.arange(before, before + int(keep.sum()))
            kept["place"] = (turn % max(1, file.num_users)).astype(np.int32)
        before += int(keep.sum())
        yield kept


def _in_turn(file: RequestFile, found: dict[str, Array]) -> tuple[Array, Array, dict[str, Array]]:
    """Each slot holds the next requests, one for each place, whoever makes them."""
    users = max(1, file.num_users)
    number = len(found["time_s"]) // users
    found = {name: values[: number * users] for name, values in found.items()}
    found["place"] = np.tile(np.arange(users, dtype=np.int32), number)
    return np.arange(number + 1) * users, np.asarray(found["time_s"][::users]), found


def _by_time(file: RequestFile, found: dict[str, Array]) -> tuple[Array, Array, dict[str, Array]]:
    """Slots of one length from the first request on."""
    slot_s, time = file.slot_s, found["time_s"]
    assert slot_s is not None
    span = float(time[-1] - time[0])
    if span / slot_s >= MOST_SLOTS:
        raise HadrlError(
            f"slot_s must make fewer than {MOST_SLOTS:g} slots of the {span:g} s of {file.path}, got {slot_s:g}"
        )
    number = math.floor(span / slot_s + ROUNDING) + 1
    slot = np.floor((time - time[0]) / slot_s + ROUNDING).astype(np.int64).clip(max=number - 1)
    order = np.lexsort((slot, found["place"]))  # of each place by itself, in time
    wanted = slot[order]
    slot, again = _one_a_slot(wanted, found["place"][order], number, file.several == "next")
    if again.any() or (slot > wanted).any():
        waiting = int(((slot > wanted) & ~again).sum())
        text = f"{waiting} of {len(slot)} requests of {file.path} wait for a free slot of their place, "
        warnings.warn(text + f"{int(again.sum())} are dropped", HadrlWarning, stacklevel=1)
    order, slot = order[~again], slot[~again]
    by_slot = np.argsort(slot, kind="stable")
    starts = np.searchsorted(slot[by_slot], np.arange(number + 1))
    found = {name: values[order[by_slot]] for name, values in found.items() if name != "time_s"}
    return starts, time[0] + slot_s * np.arange(number), found


def _one_a_slot(slot: Array, place: Array, number: int, wait: bool) -> tuple[Array, Array]:
    """The slots of requests, each place by itself and in time, such that a place has one a slot; and which are dropped.

    Those that wait come in order, each a slot after the one before it at the earliest: the n-th of a place comes in
    slot n + the largest of slot - n so far.
    """
    begins = np.concatenate([[True], place[1:] != place[:-1]])
    if not wait:
        return slot, np.concatenate([[False], (slot[1:] == slot[:-1]) & ~begins[1:]])
    index = np.arange(len(slot))
    within = index - np.maximum.accumulate(np.where(begins, index, 0))
    apart = (np.cumsum(begins) - 1) * (number + len(slot) + 1)  # no place reaches into the next one
    moved = np.maximum.accumulate(slot - within + apart) - apart + within
    return moved, moved >= number

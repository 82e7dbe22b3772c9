"""What files of requests, moves and gains have in common: columns, places, names, parts, and arrays of any size."""

import hashlib
import json
import math
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hadrl_lightning.errors import HadrlError, HadrlWarning, shown
from hadrl_lightning.table_files import Cells, Column, Table, files_of, open_table

if TYPE_CHECKING:
    import polars

Array = NDArray[Any]
Part = Literal["train", "validation", "test", "all"]
PARTS: tuple[Part, ...] = ("train", "validation", "test")
OTHER = "other"
"""Name of the service that stands for all that have no place of their own."""
IN_MEMORY = 2**31
"""Bytes of arrays that are kept in memory; larger ones lie in a temporary file, which is read where it is needed."""
EARTH_M = 6_371_008.8
"""Mean radius of the earth, m."""

PLACE = {
    "x_m": Column(least=-1e7, most=1e7, whole=True),
    "y_m": Column(least=-1e7, most=1e7, whole=True),
    "lat": Column(least=-90, most=90, also=("latitude",), whole=True),
    "lon": Column(least=-180, most=180, also=("lng", "longitude"), whole=True),
}
"""Columns of places: metres, or degrees."""
REQUESTS = {
    "time_s": Column("time", needed=True),
    "user": Column("text", whole=True),
    "service": Column("text", whole=True),
    "input_bytes": Column(least=0, most=1e12),
    "cycles": Column(least=0, most=1e20),
    "deadline_s": Column(least=1e-9, most=1e12),
}
SIZES = ("input_bytes", "cycles", "deadline_s")
"""What a request may have of its own; an empty cell stands for what its service has."""
MOVES = {"time_s": Column("time", needed=True), "user": Column("text", whole=True), **PLACE}
GAINS = {
    "time_s": Column("time", whole=True),
    "user": Column("text", needed=True),
    "server": Column("text", needed=True),
    "gain_db": Column(least=-1000, most=1000, whole=True),
    "gain": Column(least=1e-100, most=1e100, whole=True),
}


def stamp(path: str) -> tuple[tuple[str, int, int], ...]:
    """What changes when a file, or one of a folder or a pattern, is written anew; empty where there is none."""
    found = [(one, one.stat()) for one in files_of(path)]
    return tuple((str(one), stat.st_mtime_ns, stat.st_size) for one, stat in found)


def digest(path: str) -> str:
    """What tells a file, or those of a folder or a pattern, from any other contents, wherever they lie."""
    return _digest(stamp(path))


@lru_cache(maxsize=32)
def _digest(files: tuple[tuple[str, int, int], ...]) -> str:
    found = hashlib.sha256()
    for name, _, size in files:
        found.update(f"{Path(name).name} {size} ".encode() if len(files) > 1 else b"")
        try:
            with open(name, "rb") as stream:
                found.update(hashlib.file_digest(stream, "sha256").digest())
        except OSError as error:
            raise HadrlError(f"files must be readable, got {name}: {error.strerror or error}") from error
    return found.hexdigest()[:16]


def warn_of_change(file: str, known: str | None) -> None:
    """Say so where a file is no longer what it was when the scenario was made."""
    if known is not None and known != digest(file):
        text = f"{file} has changed since the scenario was made: what it says now is played"
        warnings.warn(text, HadrlWarning, stacklevel=1)


def told(columns: Mapping[str, Any]) -> str:
    """Columns as a text, which can be the key of what is kept."""
    return json.dumps(columns, sort_keys=True, default=str)


def bounds_of(num_slots: int, parts: Sequence[float], part: Part) -> tuple[int, int]:
    """The first slot of a part and the first behind it: parts follow one another in time, without overlap."""
    if part == "all":
        return 0, num_slots
    whole = math.fsum(parts)
    ends = [0, *(round(num_slots * math.fsum(parts[: n + 1]) / whole) for n in range(3))]
    return list(pairwise(ends))[PARTS.index(part)]


def check_file(file: str, columns: Any, parts: Sequence[float]) -> None:
    """Check settings that all files have which are played slot by slot.

    Raises:
        ValueError: one is not allowed.
    """
    if not file:
        raise ValueError("file must be the path of a file, got none")
    if not isinstance(columns, Mapping):
        raise ValueError(f"columns must be columns by our names, got {shown(columns)}")
    if not (all(0 <= one <= 1 for one in parts) and abs(math.fsum(parts) - 1) < 1e-6):
        raise ValueError(f"parts must be shares of training, validation and test of sum 1, got {list(parts)}")


def check_names(**names: Sequence[str] | None) -> None:
    """Check names by places.

    Raises:
        ValueError: one is there twice.
    """
    for what, some in names.items():
        again = twice(some or ())
        if again is not None:
            raise ValueError(f"{what} must have each name once, got {shown(again)} twice")


def twice(names: Iterable[str]) -> str | None:
    """The first name that is there again."""
    seen: set[str] = set()
    return next((name for name in names if name in seen or seen.add(name)), None)  # type: ignore[func-returns-value]


def check_slot(slot_s: float | None) -> None:
    """Check the length of a slot.

    Raises:
        ValueError: it is out of range.
    """
    if slot_s is not None and not 1e-6 <= slot_s <= 1e9:
        raise ValueError(f"slot_s must be from 1e-06 to 1e+09, got {slot_s:g}")


# Places ---------------------------------------------------------------------------------------------------------------


def in_degrees(table: Table) -> bool | None:
    """Whether places are in degrees; None where the table has none.

    Raises:
        HadrlError: it has metres and degrees, or half of either.
    """
    metres, degrees = (
        [name for name in names if name in table] for names in (("x_m", "y_m"), ("lat", "lon"))
    )
    have = [*metres, *degrees]
    if len(have) not in (0, 2) or (metres and degrees):
        raise HadrlError(
            f"{table.what} must have x_m and y_m, or lat and lon, got {', '.join(have)} in {table.files[0]}"
        )
    return bool(degrees) if have else None


def projected(found: Mapping[str, Any], origin_deg: Sequence[float] | None) -> Array:
    """(x, y) of rows in metres, [N, 2]: degrees by a local equirectangular projection around the origin."""
    if origin_deg is None:
        return np.stack([found["x_m"], found["y_m"]], axis=1)
    lat, lon = origin_deg
    east = np.remainder(found["lon"] - lon + 180, 360) - 180
    x = np.radians(east) * math.cos(math.radians(lat)) * EARTH_M
    return np.stack([x, np.radians(found["lat"] - lat) * EARTH_M], axis=1)


def warn_of_degrees(what: str, points: Array) -> None:
    """Say so where metres look like degrees: latencies of users who all stand in one point would look plausible."""
    spread, most = np.ptp(points, axis=0).max(), np.sort(np.abs(points).max(axis=0))
    if 0 < spread < 1 and most[0] <= 90 and most[1] <= 180:
        text = f"{what} look like degrees, got {tuple(points[0].tolist())} and others within 1 m: call them lat and lon"
        warnings.warn(text, HadrlWarning, stacklevel=1)


# Who and what a file names --------------------------------------------------------------------------------------------


class Survey(NamedTuple):
    """What a file is about, of one look at all of it."""

    rows: int
    first_s: float
    last_s: float
    users: dict[str, int]
    """How many rows each has, the most first; empty where the file names none."""
    services: dict[str, int]
    begins_s: dict[str, float]
    """The first time of each user."""
    ends_s: dict[str, float]


KINDS = {"requests": REQUESTS, "moves": MOVES, "channel": GAINS}


def survey(what: str, path: str, columns: Mapping[str, Any]) -> Survey:
    """What a file of requests, moves or gains is about; found once for a file as it is.

    Raises:
        HadrlError: the file can't be read, or has no rows.
    """
    return _survey(what, path, told(columns), stamp(path))


@lru_cache(maxsize=32)
def _survey(what: str, path: str, columns: str, _: Any) -> Survey:
    table = open_table(what, path, KINDS[what], json.loads(columns))
    users: Counter[str] = Counter()
    services: Counter[str] = Counter()
    begins: dict[str, float] = {}
    ends: dict[str, float] = {}
    rows, first, last = 0, math.inf, -math.inf
    where = PLACE if what == "moves" else ()
    for part in table.batches("time_s", "user", "service", *where, without=where):
        names = users_of(table, part)
        rows += len(next(one for one in (part.get("time_s"), names) if one is not None))
        if "time_s" in part and len(part["time_s"]):
            first, last = min(first, part["time_s"].min()), max(last, part["time_s"].max())
        if "service" in part:
            services.update(_counted(part["service"]))
        if names is not None:
            users.update(_counted(names))
        if what == "moves" and names is not None:
            for name, low, high in _ends(names, part["time_s"]):
                begins[name] = min(begins.get(name, low), low)
                ends[name] = max(ends.get(name, high), high)
    if not rows:
        raise HadrlError(f"{what} must have rows, got none in {path}")
    return Survey(rows, first, last, _ranked(users), _ranked(services), begins, ends)


def _ranked(counts: Mapping[str, int]) -> dict[str, int]:
    """The most first; of as many 2 before 10, so that numbers of users stay those of their places."""
    return dict(sorted(counts.items(), key=lambda one: (-one[1], len(one[0]), one[0])))


def users_of(table: Table, part: Cells) -> "polars.Series | None":
    """Who each row is about: as it says, or by the name of its file where there is one file for each user."""
    import polars as pl

    if "user" in part:
        return part["user"]
    if table.what != "moves":
        return None
    file = table.files[int(part["file"][0])]
    name = (file.with_suffix("") if file.suffix == ".gz" else file).stem
    return pl.repeat(name, len(part["time_s"]), dtype=pl.String, eager=True)


def _counted(names: "polars.Series") -> dict[str, int]:
    return dict(names.alias("name").value_counts().iter_rows())


def _ends(names: "polars.Series", time_s: Array) -> "Iterable[tuple[str, float, float]]":
    import polars as pl

    frame = pl.DataFrame({"name": names, "time_s": time_s})
    time = pl.col("time_s")
    return frame.group_by("name").agg(time.min().alias("low"), time.max().alias("high")).iter_rows()


def numbered(names: Sequence[str], values: "polars.Series", missing: int = -1) -> Array:
    """The place of each value among names, int32; `missing` of one that is none of them."""
    import polars as pl

    of_name = pl.Series(names, dtype=pl.String), pl.Series(range(len(names)), dtype=pl.Int32)
    return values.replace_strict(*of_name, default=missing, return_dtype=pl.Int32).to_numpy()


def chosen_services(path: str, counts: Mapping[str, int], number: int, others: str) -> tuple[str, ...]:
    """The services of a file that get a place, the most asked last, as in the published popularity.

    Where there are more, the first one stands for the others if these are gathered.

    Raises:
        HadrlError: there are fewer.
    """
    if len(counts) < number:
        raise HadrlError(f"num_services must be at most the {len(counts)} services of {path}, got {number}")
    names = list(counts)
    if len(names) == number:
        return tuple(reversed(names))
    kept = names[: number - (others == "gather")]
    rest = sum(counts[name] for name in names[len(kept) :]) / sum(counts.values())
    fate = f"gathered in the service {OTHER}" if others == "gather" else "dropped"
    text = (
        f"{len(names) - len(kept)} of {len(names)} services of {path} are {fate}: {rest:.1%} of its requests"
    )
    warnings.warn(text, HadrlWarning, stacklevel=1)
    return (*([OTHER] if others == "gather" else []), *reversed(kept))


def stored(parts: Iterable[dict[str, Array]]) -> dict[str, Array]:
    """Columns that come part by part, whole: in memory, or from `IN_MEMORY` bytes on in temporary files."""
    kept: dict[str, list[Array]] = {}
    files: dict[str, Any] = {}
    shapes: dict[str, tuple[Any, tuple[int, ...]]] = {}
    size = 0
    for part in parts:
        for name, values in part.items():
            kept.setdefault(name, []).append(values)
            shapes[name] = values.dtype, values.shape[1:]
            size += values.nbytes
        if size > IN_MEMORY:
            for name, some in kept.items():
                file = files.setdefault(name, tempfile.TemporaryFile())  # noqa: SIM115 (as long as its array)
                for values in some:
                    values.tofile(file)
            kept = {name: [] for name in kept}
    if not files:
        return {name: np.concatenate(some) for name, some in kept.items()}
    whole: dict[str, Array] = {}
    for name, file in files.items():
        for values in kept[name]:
            values.tofile(file)
        dtype, row = shapes[name]
        whole[name] = np.memmap(file, dtype=dtype, mode="r").reshape(-1, *row)
    return whole

"""Tables in files: CSV, other separated text and Parquet, read part by part, with columns by names of ours."""

import glob
import gzip
import math
import re
import warnings
import zlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from hadrl_lightning.errors import HadrlError, HadrlWarning, require, shown

if TYPE_CHECKING:
    import polars

ROWS = 1_000_000
"""Rows that are read at a time."""
PARQUET = (".parquet", ".pq")
"""Ends of the names of Parquet files; all others are text, those that end in .gz packed."""
_SEPARATORS = "\t;,|"
_ISO = (
    r"^\s*(\d{4})[-/](\d{1,2})[-/](\d{1,2})"
    r"(?:[T ]\s*(\d{1,2}):(\d{2})(?::(\d{2}(?:\.\d*)?))?)?\s*(Z|UTC|[-+]\d{2}:?\d{2})?\s*$"
)
"""A date, or a time of a day, in UTC where no offset is said."""
_ROW, _RAW = "__row", "__raw "
_AGAIN = r"_duplicated_\d+$"
"""What Polars adds to the name of a column that is there again."""

Cells = dict[str, Any]
"""Columns by names of ours: numbers as arrays of NumPy, names as series of Polars."""


class Column(NamedTuple):
    """What a table may have under a name of ours."""

    kind: Literal["number", "time", "text"] = "number"
    """Numbers; times as numbers of seconds or as dates; names."""
    needed: bool = False
    """Whether each row must have it."""
    least: float | int = -math.inf
    most: float | int = math.inf
    also: tuple[str, ...] = ()
    """Other names that files have for it."""
    whole: bool = False
    """Whether each row must have it where there is such a column."""

    @property
    def words(self) -> str:
        """What may stand in it."""
        if self.kind == "text":
            return "a name"
        if self.kind == "time":
            return "a number of seconds or a time such as 2024-01-31 12:30:00"
        ends = [
            f"{word} {end:g}" for word, end in (("from", self.least), ("to", self.most)) if math.isfinite(end)
        ]
        return " ".join(["a number", *ends])


class Source(NamedTuple):
    """Where a column of ours comes from."""

    column: str
    times: float | None
    """What its numbers are multiplied with; none: they stay."""


@dataclass(frozen=True)
class Table:
    """One file, or several of the same columns, to be read as often as it takes.

    Args:
        what: the setting that names it, for errors: `requests`.
        files: where it lies.
        declared: what it may have.
        sources: where what it has comes from, by names of ours.
        header: whether the first row names the columns.
        separator: of the columns: one character, or a regular expression; empty of a Parquet file.
    """

    what: str
    files: tuple[Path, ...]
    declared: Mapping[str, Column]
    sources: Mapping[str, Source]
    header: bool
    separator: str

    def __contains__(self, name: str) -> bool:
        return name in self.sources

    def batches(self, *names: str, rows: int = ROWS, without: Collection[str] = ()) -> Iterator[Cells]:
        """The columns of these names, so many rows at a time; `file` is the number of the file they are of.

        Numbers and times (in s) are of double precision, NaN where a cell is empty. Rows with an empty cell of one of
        the names in `without` are left out, and a line says how many.

        Raises:
            HadrlError: a file that can't be read, or a cell that does not hold what the column must.
        """
        (pl,) = require(self.what, ["polars"])
        wanted = [name for name in names if name in self.sources]
        left_out = 0
        for number, file in enumerate(self.files):
            with _reading(self, file):
                raw = self._scanned(file)
                self._check_columns(wanted, file, raw.collect_schema(), pl)
                read = raw.select(_ROW, *(e for name in wanted for e in self._read(name, raw)))
                batches = read.collect_batches(chunk_size=rows, maintain_order=True, engine="streaming")
                for frame in batches:
                    raws = [f"{_RAW}{name}" for name in wanted]
                    there = frame.filter(pl.any_horizontal(pl.col(raws).is_not_null()))  # no blank lines
                    lacks = [pl.col(f"{_RAW}{name}").is_null() for name in wanted if name in without]
                    kept = there.filter(~pl.any_horizontal(lacks)) if lacks else there
                    left_out += len(there) - len(kept)
                    yield {**self._checked(kept, wanted, file), "file": np.full(1, number)}
        if left_out:
            lacking = " or ".join(name for name in without if name in self.sources)
            text = f"{left_out} rows of {self.files[0]} without {lacking} are left out of {self.what}"
            warnings.warn(text, HadrlWarning, stacklevel=1)

    def _check_columns(self, names: list[str], file: Path, schema: Mapping[str, Any], pl: Any) -> None:
        for name in names:
            column = self.sources[name].column
            if column not in schema:
                have = ", ".join(one for one in schema if one != _ROW)
                raise HadrlError(
                    f"{self.what} must have the column {column} in each file, got {have} in {file}"
                )
            if schema[column] == pl.Boolean and self.declared[name].kind != "text":
                raise HadrlError(
                    f"{self.what} must have {self.declared[name].words} as {name}, got true or false in {file}, "
                    f"column {column}"
                )

    def whole(self, *names: str, without: Collection[str] = ()) -> Cells:
        """The columns of these names, of a table that is small; names as arrays of texts.

        Raises:
            HadrlError: as `batches`, or there are no rows.
        """
        parts = list(self.batches(*names, without=without))
        have = [name for name in names if name in self]
        found = {name: np.concatenate([part[name] for part in parts]) for name in have if parts}
        if not found or not len(next(iter(found.values()))):
            raise HadrlError(f"{self.what} must have rows, got none in {self.files[0]}")
        return found

    def _checked(self, frame: Any, names: list[str], file: Path) -> Cells:
        for name in names:
            column = self.declared[name]
            value, raw = frame[name], frame[f"{_RAW}{name}"]
            wrong = value.is_null() if column.needed or column.whole else value.is_null() & raw.is_not_null()
            if column.kind != "text":
                inside = value.is_finite() & (value >= column.least) & (value <= column.most)
                wrong = wrong | ~inside.fill_null(True)
            if wrong.any():
                row = int(wrong.arg_max())  # the first
                got = raw[row]
                where = f"{file}, row {frame[_ROW][row]}, column {self.sources[name].column}"
                raise HadrlError(
                    f"{self.what} must have {column.words} as {name}, got "
                    f"{'nothing' if got is None else shown(got)} in {where}"
                )
        return {
            name: frame[name] if self.declared[name].kind == "text" else _numbers(frame[name])
            for name in names
        }

    def _read(self, name: str, raw: "polars.LazyFrame") -> "list[polars.Expr]":
        import polars as pl

        column, times = self.sources[name]
        cell, dtype = pl.col(column), raw.collect_schema()[column]
        kept = cell.alias(f"{_RAW}{name}")
        if dtype == pl.String:
            text = cell.str.strip_chars()
            text = pl.when(text != "").then(text)
            kept = text.alias(f"{_RAW}{name}")
        kind = self.declared[name].kind
        if kind == "text":
            return [kept, (text if dtype == pl.String else cell.cast(pl.String)).alias(name)]
        if dtype.is_temporal():
            number = cell.cast(pl.Datetime("us")).dt.epoch("us") / 1e6
        elif dtype == pl.String:
            number = text.cast(pl.Float64, strict=False)
        else:
            number = cell.cast(pl.Float64, strict=False)
        if times is not None:
            number = number * times
        if kind == "time" and dtype == pl.String:
            number = pl.coalesce(number, _seconds(text, pl))
        return [kept, number.alias(name)]

    def _scanned(self, file: Path) -> "polars.LazyFrame":
        import polars as pl

        offset = 2 if self.header and self.separator else 1
        if not self.separator:
            return pl.scan_parquet(file, row_index_name=_ROW, row_index_offset=1, glob=False)
        if len(self.separator) == 1:
            return pl.scan_csv(
                file,
                has_header=self.header,
                separator=self.separator,
                infer_schema=False,
                row_index_name=_ROW,
                row_index_offset=offset,
                glob=False,
            )
        lines = pl.scan_lines(file, name="line", row_index_name=_ROW, row_index_offset=1, glob=False)
        names = _split(_first_line(file), self.separator)
        names = names if self.header else [f"column_{place + 1}" for place in range(len(names))]
        if self.header:
            lines = lines.filter(pl.col(_ROW) > 1)
        text = pl.col("line").str.strip_prefix("\ufeff").str.strip_chars()
        cells = text.str.replace_all(self.separator, "\t").str.split("\t")
        parts = [cells.list.get(place, null_on_oob=True).alias(name) for place, name in enumerate(names)]
        return lines.select(_ROW, *parts)


def _numbers(column: "polars.Series") -> Any:
    import polars as pl

    return column.cast(pl.Float64).to_numpy()


def open_table(
    what: str, path: str, declared: Mapping[str, Column], columns: Mapping[str, Any] | None = None
) -> Table:
    """The table of a file; of a folder, or a pattern such as `walks/*.txt`, that of all its files.

    Args:
        what: the setting that names it, for errors.
        path: of the file, the folder or the pattern.
        declared: what it may have, by names of ours.
        columns: what these are called in the file: a name, or a number from 0 of a file without a row of names; or
            `{column: …, times: …}`. None: it has none of that kind. What is not said is looked for under our name.

    Raises:
        HadrlError: there is no such file or column, one is missing, or Polars is not installed.
    """
    require(what, ["polars"])
    files = _files(what, path)
    given = {name: _source(what, name, value) for name, value in (columns or {}).items() if value is not None}
    for name in columns or {}:
        if name not in declared:
            raise HadrlError(f"columns.{what} must be of {', '.join(declared)}, got {name}")
    numbered = {isinstance(one, int) for one, _ in given.values()}
    if len(numbered) > 1:
        raise HadrlError(f"columns.{what} must be all names or all numbers, got {shown(dict(columns or {}))}")
    table = Table(what, files, declared, {}, numbered != {True}, _separator(files[0]))
    with _reading(table, files[0]):
        have = [name for name in table._scanned(files[0]).collect_schema().names() if name != _ROW]
    sources = _sources(what, files[0], declared, given, have, set(columns or {}))
    lacking = [name for name, one in declared.items() if one.needed and name not in sources]
    if lacking:
        raise HadrlError(
            f"{what} must have a column {lacking[0]} (columns.{what}.{lacking[0]} says what it is called), "
            f"got {', '.join(have)} in {files[0]}"
        )
    return Table(what, files, declared, sources, table.header, table.separator)


def _sources(
    what: str,
    file: Path,
    declared: Mapping[str, Column],
    given: Mapping[str, tuple[str | int, float | None]],
    have: list[str],
    settled: set[str],
) -> dict[str, Source]:
    sources: dict[str, Source] = {}
    twice = {re.sub(_AGAIN, "", one) for one in have if re.search(_AGAIN, one)}
    twice |= {one for one, number in Counter(have).items() if number > 1}
    for name, (column, times) in given.items():
        if times is not None and declared[name].kind == "time" and times < 0:
            raise HadrlError(f"columns.{what}.{name}.times must be above 0, got {times:g}")
        if isinstance(column, int):
            if not 0 <= column < len(have):
                raise HadrlError(
                    f"columns.{what}.{name} must be from 0 to {len(have) - 1}, got {column} for {file}"
                )
            column = have[column]
        if column not in have:
            raise HadrlError(
                f"columns.{what}.{name} must be one of {', '.join(have)}, got {column} for {file}"
            )
        sources[name] = Source(column, times)
    counts = Counter(one.strip().lower() for one in have)
    lower = {one.strip().lower(): one for one in reversed(have)}
    for name, one in declared.items() if not any(isinstance(c, int) for c, _ in given.values()) else ():
        found = next((lower[alias] for alias in (name, *one.also) if alias in lower), None)
        if found is not None and name not in settled:
            sources[name] = Source(found, None)
            twice |= {found} if counts[found.strip().lower()] > 1 else set()
    for source in sources.values():
        if source.column in twice:
            raise HadrlError(f"{what} must have each column once, got {source.column} twice in {file}")
    return sources


def _source(what: str, name: str, value: Any) -> tuple[str | int, float | None]:
    times = None
    if isinstance(value, Mapping) and set(value) == {"column", "times"}:
        value, times = value["column"], value["times"]
        if (
            isinstance(times, bool)
            or not isinstance(times, int | float)
            or not math.isfinite(times)
            or not times
        ):
            raise HadrlError(
                f"columns.{what}.{name}.times must be a finite number other than 0, got {shown(times)}"
            )
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise HadrlError(
            f"columns.{what}.{name} must be the name of a column, its number from 0, or {{column: …, times: …}}, "
            f"got {shown(value)}"
        )
    return value, None if times is None else float(times)


def files_of(path: str) -> tuple[Path, ...]:
    """The files that are read of a file, a folder (but hidden ones) or a pattern, in their order; there may be none."""
    place = Path(path)
    if place.is_file():
        return (place,)
    if place.is_dir():
        found = [one for one in place.iterdir() if not one.name.startswith(".")]
    else:
        found = [Path(one) for one in glob.glob(path)]
    return tuple(sorted(one for one in found if one.is_file()))


def _files(what: str, path: str) -> tuple[Path, ...]:
    found = files_of(path)
    if not found:
        raise HadrlError(
            f"{what} must be a file, a folder or a pattern of files, got {path}, where there is none; "
            f"--data.{what} PATH says where it is"
        )
    return found


def _first_line(file: Path) -> str:
    with gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb") as stream:
        return stream.readline(1_000_000).decode("utf-8-sig").rstrip("\r\n")


def _separator(file: Path) -> str:
    """What lies between the columns, by the first line."""
    if file.suffix.lower() in PARQUET:
        return ""
    try:
        line = _first_line(file)
    except UnicodeDecodeError:
        raise HadrlError(f"files must be text in UTF-8, or Parquet, got {file} in another encoding") from None
    except (OSError, EOFError, zlib.error) as error:  # the latter two of what is packed
        reason = getattr(error, "strerror", None) or error
        raise HadrlError(f"files must be readable, got {file}: {reason}") from error
    if "\r" in line:
        raise HadrlError(
            f"files must have lines that end in a line feed, got carriage returns alone in {file}"
        )
    if "::" in line:
        return "::"
    plain = re.sub(r'"[^"]*"', "", line)
    most = max(_SEPARATORS, key=plain.count)
    if plain.count(most):
        return most
    return r"\s+" if len(plain.split()) > 1 else ","


def _split(line: str, separator: str) -> list[str]:
    return re.split(separator, line.strip())


def _seconds(text: "polars.Expr", pl: Any) -> "polars.Expr":
    """Seconds since 1970 of texts that are dates, with or without a time of day; else null."""
    parts = text.str.extract_groups(_ISO).struct
    year, month, day, hour, minute, second, offset = (parts.field(str(place)) for place in range(1, 8))
    date = pl.concat_str(year, month.str.zfill(2), day.str.zfill(2), separator="-")
    days = date.str.to_date("%Y-%m-%d", strict=False).cast(pl.Int64)

    def number(one: Any, most: float) -> Any:
        found = one.cast(pl.Float64, strict=False)
        return pl.when(one.is_null()).then(0.0).when(found < most).then(found)

    digits = offset.str.replace(":", "")
    shift = digits.str.slice(1, 2).cast(pl.Float64, strict=False) * 3600
    shift = shift + digits.str.slice(3, 2).cast(pl.Float64, strict=False) * 60
    shift = pl.when(digits.str.starts_with("-")).then(-shift).otherwise(shift)
    of_day = number(hour, 24.0) * 3600 + number(minute, 60.0) * 60 + number(second, 61.0)
    return days * 86400.0 + of_day - pl.when(digits.str.contains(r"^[-+]")).then(shift).otherwise(0.0)


@contextmanager
def _reading(table: Table, file: Path) -> Iterator[None]:
    """Within, what Polars says of a file becomes one line."""
    import polars as pl

    try:
        yield
    except pl.exceptions.NoDataError as error:
        raise HadrlError(f"{table.what} must have rows, got none in {file}") from error
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        words = _not_text(table, file, reason) or _too_long(table, file) or reason.strip()[:160]
        raise HadrlError(f"{table.what} must be a readable table, got {file}: {words}") from error


def _not_text(table: Table, file: Path, reason: str) -> str:
    """The first row of a text that is not in UTF-8, in words; empty where that is not what is wrong."""
    if not table.separator or "utf" not in reason.lower():
        return ""
    with (
        suppress(EOFError, zlib.error),
        gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb") as stream,
    ):
        for row, line in enumerate(stream, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return f"row {row} is not in UTF-8"
    return ""


def _too_long(table: Table, file: Path) -> str:
    """The first row of a text that has more columns than the first one, in words; empty where there is none."""
    import polars as pl

    if len(table.separator) != 1 or file.suffix == ".gz":
        return ""
    quoted = r'"[^"]*"'
    try:
        most = re.sub(quoted, "", _first_line(file)).count(table.separator)
        plain = pl.col("line").str.replace_all(quoted, "")
        lines = pl.scan_lines(file, row_index_name=_ROW, row_index_offset=1, glob=False)
        longer = lines.filter(plain.str.count_matches(table.separator, literal=True) > most).head(1).collect()
    except (pl.exceptions.PolarsError, OSError, UnicodeDecodeError):
        return ""
    if not len(longer):
        return ""
    return f"row {longer[_ROW][0]} has more than {most + 1} columns, {shown(longer['line'][0])}"

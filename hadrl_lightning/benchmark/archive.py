"""The results of a benchmark folder in one compact file, from which tables and figures are made again."""

import hashlib
import json
import lzma
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from hadrl_lightning.benchmark import cells
from hadrl_lightning.benchmark.cells import Cell, CellResult, Outcome, result_in, rounded
from hadrl_lightning.benchmark.plan import Plan
from hadrl_lightning.benchmark.policies import label_with, rank
from hadrl_lightning.benchmark.records import Record
from hadrl_lightning.errors import HadrlError
from hadrl_lightning.files import replacing

FILE = "cells.json.xz"
"""Its name in the folder."""
FORMAT = 1
JUDGED = ("scenario", "physics", "test")
"""Settings of a cell by which all policies of a place are judged alike."""
OF_ONES_OWN = "world"
"""One that a cell has as well where its world is of processes or a physics of one's own: their modules."""
OF_A_SEED = "agent"
"""Setting of a cell that is another one for each seed: the contents of a trained agent's file."""


class Noted(NamedTuple):
    """Where a result belongs in the tables."""

    scenario: str
    sweep_key: str
    sweep_value: Any
    policy: str
    label: str
    seed: int
    key: str
    """Of the cell."""
    judged: str
    """Hash of what makes results comparable: the network and the test episodes."""
    made_by: str = ""
    """Hash of what else the policy depends on but its seed; empty in files of before it was noted."""

    @property
    def place(self) -> str:
        """The place in the tables, as a text."""
        return json.dumps([self.scenario, self.sweep_key, self.sweep_value])

    @property
    def identity(self) -> tuple[str, str, int, str]:
        """Of two that are the same entry, which may only be called otherwise."""
        return self.place, self.policy, self.seed, self.key


class Archive:
    """What a benchmark folder holds of all commands that were given for it: every result.

    In the tables what a command computes takes the place of what was there, of all seeds if the policy has other
    settings; where it judges on other episodes or another network, of all that was in that place of the tables.

    Raises:
        HadrlError: the file is damaged, or of another format.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.noted: list[Noted] = []
        """Those of newer commands later."""
        self.results: dict[str, CellResult] = {}
        # Of this command; what is read from the file can be older than what others write there meanwhile.
        self._new: list[Noted] = []
        self._computed: dict[str, CellResult] = {}
        self._failed: set[str] = set()
        file = folder / FILE
        if not file.is_file():
            return
        try:
            stored = json.loads(lzma.decompress(file.read_bytes()))
            if stored["format"] != FORMAT:
                raise HadrlError(f"{file} must be of format {FORMAT}, got {stored['format']}")
            self.noted = [_noted(one) for one in stored["noted"]]
            self.results = {key: CellResult(**one) for key, one in stored["results"].items()}
        except HadrlError:  # another format: a ValueError too
            raise
        except (OSError, lzma.LZMAError, ValueError, KeyError, TypeError) as error:
            raise HadrlError(f"{file} must be an undamaged archive of results, got {error}") from error

    def collect(self) -> None:
        """Take over what the folder `cells` holds by now."""
        files = {file.stem.rpartition("-")[2]: file for file in (self.folder / "cells").glob("*.json")}
        for key in {one.key for one in self.noted} & set(files):
            result = result_in(files[key])
            if result is not None:
                self.results[key] = self._computed[key] = result

    def note(self, plan: Plan) -> None:
        """Write down where the results of a plan will belong."""
        new = [
            Noted(
                entry.scenario,
                entry.sweep_key,
                entry.sweep_value,
                entry.policy,
                entry.label,
                entry.seed,
                entry.cell.key,
                judged(entry.cell),
                made_by(entry.cell),
            )
            for entry in plan.entries
        ]
        self._new = new
        self.write()

    def add(self, new: Sequence[Noted]) -> None:
        """Take entries over, as the newest."""
        again = {one.identity for one in new}
        self.noted = [*(one for one in self.noted if one.identity not in again), *new]

    def shown(self) -> list[Noted]:
        """The entries that have a result, without those that newer ones with a result contradict."""
        judgements: dict[str, str] = {}
        makers: dict[tuple[str, str], str] = {}
        found: dict[tuple[str, str, int], Noted] = {}
        for one in reversed(self.noted):
            place, policy = one.place, (one.place, one.policy)
            if (
                one.key in self.results
                and judgements.setdefault(place, one.judged) == one.judged
                and makers.setdefault(policy, one.made_by) == one.made_by
            ):
                found.setdefault((*policy, one.seed), one)
        return list(reversed(found.values()))

    def finish(self, outcomes: Mapping[str, Outcome]) -> None:
        """Take over what became of cells, and write the file."""
        self._computed |= {key: one.result for key, one in outcomes.items() if one.result is not None}
        self._failed = {key for key, one in outcomes.items() if one.result is None}
        self.write()

    def records(self) -> list[Record]:
        """The results by their places in the tables, those of learners first."""
        shown = self.shown()
        known = {place: number for number, place in enumerate(dict.fromkeys(one.place for one in shown))}
        ordered = sorted(shown, key=lambda one: (known[one.place], rank(one.policy), one.seed))
        return [self._record(one, self.results[one.key]) for one in ordered]

    @staticmethod
    def _record(one: Noted, result: CellResult) -> Record:
        place = (one.scenario, one.sweep_key, one.sweep_value)
        return Record(*place, one.policy, label_with(one.label, result.scores), one.seed, one.key, result)

    def write(self) -> None:
        """Write the file, with the results that belong somewhere, and what other commands have written meanwhile."""
        there = Archive(self.folder)
        self.noted = there.noted
        self.add(self._new)
        wanted = {one.key for one in self.noted} - self._failed
        results = {**there.results, **self._computed}
        self.results = {key: result for key, result in results.items() if key in wanted}
        stored = {
            "format": FORMAT,
            "noted": [list(one) for one in self.noted],
            "results": {key: rounded(asdict(result)) for key, result in sorted(self.results.items())},
        }
        packed = lzma.compress(json.dumps(stored, separators=(",", ":")).encode(), preset=6)
        with replacing(self.folder / FILE) as temporary:
            temporary.write_bytes(packed)


def judged(cell: Cell, cells_format: int = cells.FORMAT) -> str:
    """Hash of what makes the results of cells comparable: the network, the test episodes, and who draws them."""
    of_ones_own = [cell.settings[OF_ONES_OWN]] if OF_ONES_OWN in cell.settings else []
    return _hash([cells_format, *(cell.settings[name] for name in JUDGED), *of_ones_own])


def made_by(cell: Cell) -> str:
    """Hash of what a policy depends on beside that and its seed: results of different ones are no seeds of one."""
    return _hash({name: value for name, value in cell.settings.items() if name not in (*JUDGED, OF_A_SEED)})


def _hash(what: Any) -> str:
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:12]


def _noted(stored: Sequence[Any]) -> Noted:
    """From JSON, which knows no tuples."""
    noted = Noted(*stored)
    value = noted.sweep_value
    return noted._replace(sweep_value=tuple(value) if isinstance(value, list) else value)


def chosen(
    records: Iterable[Record],
    scenarios: Sequence[str] = (),
    sweep_keys: Sequence[str] = (),
    policies: Sequence[str] = (),
    seeds: Sequence[int] = (),
) -> list[Record]:
    """Those records that are asked for; what is empty leaves all in."""
    return [
        one
        for one in records
        if one.scenario in (scenarios or [one.scenario])
        and one.sweep_key in (sweep_keys or [one.sweep_key])
        and one.policy in (policies or [one.policy])
        and one.seed in (seeds or [one.seed])
    ]

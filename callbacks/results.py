"""The table that validate and test show, and the lines on the weights that it is about."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from hadrl_lightning.agent_files import is_shipped, stored_file
from hadrl_lightning.callbacks.references import LEAST, OWN, has_agents_caches
from hadrl_lightning.errors import HadrlError
from hadrl_lightning.files import load_tensors
from hadrl_lightning.judge import (
    FURTHER,
    BestAndLast,
    Interval,
    Scoreboard,
    Validation,
    after_epochs,
    best_and_last,
    by_unit,
    convergence_text,
    figures_table,
    optimal_hit_ratio_if_known,
)
from hadrl_lightning.scenario import Physics, Scenario


def result_table(
    title: str,
    scenarios: Sequence[Scenario],
    agent: Scoreboard,
    others: Sequence[Scoreboard],
    physics: Physics = "strict",
) -> list[Table]:
    """A row a policy, in two tables; the ratios say how much longer its latency is than that of the two yardsticks.

    Of the other policies those under the agent's caches have the ratio to the best known there. `scenarios` are those
    of the networks played.
    """
    boards = [agent, *(board for board in others if board.num_episodes)]
    by_name = {board.name: board for board in boards}
    own, least = by_name.get(OWN), by_name.get(LEAST)
    optimum = optimal_hit_ratio_if_known(*scenarios) if others else None
    found = [
        (
            board.name,
            by_unit(_figures(board, optimum, own if _own_caches(board, agent) else None, least), physics),
        )
        for board in boards
    ]
    return [
        figures_table(title, "policy", found),
        figures_table("spread, and further figures", "policy", found, headings=FURTHER),
    ]


def _own_caches(board: Scoreboard, agent: Scoreboard) -> bool:
    return board is agent or has_agents_caches(board.name)


def _figures(
    board: Scoreboard, optimum: float | None, own: Scoreboard | None, least: Scoreboard | None
) -> dict[str, Interval]:
    found = {}
    for name, value in (board.values() | board.times()).items():
        over_episodes = board.interval(name) or Interval(math.nan, math.nan, math.nan)
        found[name] = over_episodes._replace(mean=float(value))
    if has_agents_caches(board.name):
        del found["caching_ms"]  # nobody decided on them anew
    if optimum:
        found["hit_ratio_share"] = Interval(found["hit_ratio"].mean / optimum, math.nan, math.nan)
    if own is not None:
        found["own_ratio"] = board.ratio(own)
    if least is not None:
        found["least_ratio"] = board.ratio(least)
    return found


class Weights:
    """Which weights are judged, and how their training went.

    Args:
        file: the checkpoint that they come from; None where they are those of the training at hand.
        validations: of the training at hand; those of the checkpoint where there are none.
        key: of the evaluation's state in a checkpoint.
    """

    def __init__(self, file: str | Path | None, validations: Sequence[Validation], key: str) -> None:
        self.name = _name(Path(file)) if file else ""
        contents = _contents(file) if file else {}
        stored = contents.get("callbacks", {}).get(key, {}).get("validations", [])
        self.epochs = _epochs(contents)
        known = [Validation(**one) for one in stored]
        self.course: BestAndLast | None = best_and_last(validations or known)
        self.validation = next((one for one in known if one.epoch == self.epochs), None)
        """That of these weights, if they were validated."""

    @property
    def source(self) -> str:
        """Where they are from; empty where that is the training at hand."""
        after = f", {after_epochs(self.epochs)}" if self.epochs else ""
        return f"weights of {self.name}{after}" if self.name else ""

    @property
    def text(self) -> str:
        """One or two lines; none where nothing is known."""
        course = convergence_text(self.course) if self.course is not None else ""
        return "\n".join(filter(None, (self.source, course)))

    def warning(self, scenario: Scenario) -> str:
        """What is wrong with the weights that validation found best; empty if nothing is."""
        shown = self.validation
        if shown is None or shown.caching_learnt or _all_fit(scenario):
            return ""
        text = (
            f"these weights are those {after_epochs(shown.epoch)}, when the caching agent had learnt nothing yet "
            "(planning.caching_warmup_epochs): their caches are those of an untrained agent"
        )
        trained_later = self.course is not None and self.course.last.caching_learnt
        return f"{text}; last.ckpt has trained ones" if trained_later else text


def _name(file: Path) -> str:
    """A shipped agent by its name, which is the same wherever the package lies; any other file by its path."""
    return f"{file.name}, which ships with the package" if is_shipped(file) else os.path.relpath(file)


def _contents(file: str | Path) -> dict[str, Any]:
    try:
        contents = load_tensors(stored_file(file))
    except HadrlError:  # whoever loads the weights has said so
        return {}
    return contents if isinstance(contents, dict) else {}


def _epochs(contents: dict[str, Any]) -> int:
    """Epochs that were trained through when the checkpoint was saved; 0 where it does not say."""
    try:
        return int(contents["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"])
    except KeyError:
        return 0


def _all_fit(scenario: Scenario) -> bool:
    """Whether every cache holds all services, so that there is nothing to learn about them."""
    return all(sum(one.storage_bits) <= min(one.usable_cache_bits) for one in scenario.corners())

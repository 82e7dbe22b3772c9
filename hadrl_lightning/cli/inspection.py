"""`hadrl inspect FILE`: what an agent's file says of itself, without the seconds that building the agent takes."""

import argparse
import math
import os
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hadrl_lightning.agent_files import RECORD, find_agent, read_agent
from hadrl_lightning.agents.seen import NUMBERS, range_shown
from hadrl_lightning.cli.mistakes import LineParser
from hadrl_lightning.config_files import shipped_configs
from hadrl_lightning.scenario import Scenario
from hadrl_lightning.scenario.ranges import RANGED

WIDTH = 80
LABEL = 12
"""Characters of the first column."""


def run(words: Sequence[str]) -> int:
    """Carry out `inspect …` and return the exit status.

    Raises:
        HadrlError: a mistake of the user, or a file that is not what was written.
    """
    path = find_agent(inspect_parser().parse_args(list(words[1:])).file, "FILE")
    print("\n".join(description(os.path.relpath(path), read_agent(path, "FILE"))))
    return 0


def inspect_parser() -> LineParser:
    """Of `hadrl inspect`."""
    parser = LineParser(
        prog="hadrl inspect",
        allow_abbrev=False,
        description="Show what the file of an agent, or a checkpoint of a training, was made by: version, date,\n"
        "scenario, models, data, scores, the ranges that training saw, and its digest, which is checked.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", metavar="FILE", help="a path, or a shipped agent such as es2.ckpt")
    return parser


def description(name: str, contents: Mapping[str, Any]) -> Iterable[str]:
    """Lines of at most 80 characters on the contents of a file."""
    record, settings = contents[RECORD], contents["hyper_parameters"]
    to_go_on = "optimizer_states" in contents
    yield from _row("file", [name])
    yield from _row("holds", ["a training, to go on from" if to_go_on else "weights alone"])
    yield from _row("made by", [f"hadrl-lightning {record['version']}, {record['made']}"])
    yield from _row("trained", (f"{value} {unit}" for unit, value in record["training"].items()))
    yield from _row("scores", (f"{key} {value:.4g}" for key, value in record["scores"].items()))
    yield from _row("models", _models(contents["state_dict"], settings))
    yield from _row("physics", [settings["physics"]])
    yield from _row("scenario", _scenario(Scenario.from_dict(settings["scenario"])))
    yield from _row("data", (f"{key} {value}" for key, value in record["data"].items()))
    yield from _row("digest", [record["digests"]["agent"]])
    yield "seen in training:"
    weights = contents["state_dict"]
    ends = zip(NUMBERS, weights["seen.least"].tolist(), weights["seen.most"].tolist())
    for number, least, most in ends:
        if least <= most:
            yield f"  {number:<40} {range_shown(number, (least, most))}"


def _row(label: str, items: Iterable[str]) -> list[str]:
    text = ", ".join(items) or "not known"
    return textwrap.wrap(
        text, WIDTH, initial_indent=f"{label:<{LABEL}}", subsequent_indent=" " * LABEL, break_on_hyphens=False
    )


def _models(weights: Mapping[str, Any], settings: Mapping[str, Any]) -> Iterable[str]:
    yield f"fast level {settings['fast_level']}"
    yield f"slow level {settings['slow_level']}"
    yield f"{sum(math.prod(value.shape) for value in weights.values()):,} numbers"


def _scenario(scenario: Scenario) -> Iterable[str]:
    """The shipped scenario that it is; else sizes, and what differs from the defaults."""
    named = (name for name in shipped_configs() if _is(scenario, name))
    yield from [next(named, "of its own")]
    default, sizes = Scenario().to_dict(), ("num_servers", "num_users", "num_services")
    for name, value in scenario.to_dict().items():
        if name in sizes or value != default[name]:
            yield f"{name} {_value(name, value)}"


def _value(name: str, value: Any) -> str:
    """A setting of a scenario; a range as its ends."""
    if name in RANGED and isinstance(value, Mapping):
        further = [word for word in ("log", "alike") if value[word]]
        return " ".join([f"{value['low']:.10g} to {value['high']:.10g}", *further])
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def _is(scenario: Scenario, name: str) -> bool:
    try:
        return Scenario.from_config(name) == scenario
    except ValueError:  # no scenario in it
        return False

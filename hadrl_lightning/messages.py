"""What a command says in one line: errors, warnings, each once, and what a parser of settings has to say."""

import difflib
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hadrl_lightning.errors import HadrlWarning

PLAIN = {
    "int": ("a whole number", "whole numbers"),
    "float": ("a number", "numbers"),
    "bool": ("true|false", "true or false"),
    "str": ("a text", "texts"),
    "dict": ("a mapping", "mappings"),
    "NoneType": ("null", "null"),
}
"""What a type of Python is called: one of it, and several."""


def tell(kind: str, message: object) -> None:
    """Print one line, such as `hadrl: error: …`."""
    if sys.stderr is not None:  # closed before the start
        sys.stderr.write(f"hadrl: {kind}: {' '.join(str(message).split())}\n")


@contextmanager
def warnings_in_one_line() -> Iterator[None]:
    """Within, a `HadrlWarning` is one line of rank 0, however often it is raised; other warnings are Python's."""
    told: set[str] = set()
    with warnings.catch_warnings():
        others = warnings.showwarning

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            *rest: Any,
            **named: Any,
        ) -> None:
            if not issubclass(category, HadrlWarning):
                others(message, category, filename, lineno, *rest, **named)
            elif str(message) not in told and _rank() == 0:
                told.add(str(message))
                tell("warning", message)

        warnings.filterwarnings("always", category=HadrlWarning)
        warnings.showwarning = show
        yield


def _rank() -> int:
    """Which rank this process is; 0 as long as nothing knows of ranks."""
    known = sys.modules.get("lightning.pytorch.utilities.rank_zero")
    return getattr(known.rank_zero_only, "rank", 0) if known is not None else 0


def known_settings(parser: Any) -> list[str]:
    """Dotted names of all settings of a parser."""
    return sorted({action.dest for action in parser._actions if action.dest and action.dest != "help"})


def essence(message: str, known: list[str]) -> str:
    """One line out of a parser's message: the setting, what is allowed, the value.

    Args:
        message: What jsonargparse says, of one or more lines.
        known: Names of settings, to suggest the nearest where one is unknown.
    """
    unknown = re.search(
        r"does not accept (?:option|nested key) '([^']+)'|unrecognized arguments: --([^\s=]+)", message
    )
    if unknown:
        key = unknown.group(1) or unknown.group(2)
        group = re.search(r"Group '([^']+)'", message)
        return _unknown(f"{group.group(1)}.{key}" if group and unknown.group(1) else key, known)
    keys: list[str] = re.findall(r'Parser key "([^"]+)"', message)
    nested = re.search(r"Given value: NestedArg\(key='([\w.]+)'", message)
    if nested:  # a setting of a group that may be null
        inner = re.search(rf"- {re.escape(nested.group(1))} (must be .*)", message)
        return f"{keys[-1]}.{nested.group(1)} {inner.group(1) if inner else 'has a wrong value'}"
    value = re.search(r"(?:Got value|Given value): (.*)", message)
    if keys and value:
        kinds = _allowed(message)
        got = re.findall(r"Given value: (.*)", message) or [value.group(1)]
        return f"{keys[-1]} must be {kinds}, got {got[-1].strip()}"
    no_group = re.search(r'Parser key "([^"]+)":\s+Unable to load config (.*?)\s+-\s', message)
    if no_group:
        return f"{no_group.group(1)} must be a group of settings, got {no_group.group(2)}"
    text = re.sub(r'^(?:Parser key "config": *)+', "", " ".join(message.split()))
    return text.removeprefix("argument ")


def _unknown(key: str, known: list[str]) -> str:
    nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.75)
    if not nearest:
        last = {name.rpartition(".")[2]: name for name in known}
        nearest = [last[name] for name in difflib.get_close_matches(key.rpartition(".")[2], list(last), n=1)]
    return f"unknown setting {key}" + (f"; did you mean {nearest[0]}?" if nearest else "")


def _allowed(message: str) -> str:
    """What a parser says that it expects, in plain words."""
    union = re.findall(r"Subtypes: [\[(](.*)[\])]", message)
    single = re.findall(r"Expected an? (.*?)\. Got value", message)
    if not union and not single:
        return "another value"
    types = re.sub(r"<class '([\w.]+)'>", r"\1", union[-1] if union else single[-1])
    words = list(dict.fromkeys(word for one in _parts(types) for word in _words(one)))
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _words(kind: str, several: bool = False) -> list[str]:
    """What a type stands for: `tuple[float, ...]` is `a list of numbers`."""
    name, _, inner = kind.partition("[")
    name, parts = name.rpartition(".")[2], _parts(inner.removesuffix("]"))
    if name == "Literal":
        return [part.strip("'") for part in parts]
    if name == "dict" and "bool" in inner:
        return ["a range {low: …, high: …}"]
    if name in PLAIN:
        return [PLAIN[name][1]] if several else PLAIN[name][0].split("|")
    if parts:
        pair = name == "tuple" and parts[1:] and parts[-1] != "..."
        each = " or ".join(_words(parts[0], several=True))
        return [f"{'pairs' if several else 'a pair'} of {each}" if pair else f"a list of {each}"]
    return ["a group of settings" if name.endswith("Settings") else f"{name}s" if several else f"a {name}"]


def _parts(types: str) -> list[str]:
    """The types of a list of types, which may be lists themselves."""
    parts, depth = [""], 0
    for character in types:
        depth += (character == "[") - (character == "]")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]

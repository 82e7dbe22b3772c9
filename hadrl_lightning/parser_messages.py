"""What a parser of settings says, in one line."""

import difflib
import re
from typing import Any


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
    value = re.search(r"(?:Got value|Given value): (.*)", message)
    if keys and value:
        kinds = _allowed(message)
        got = re.findall(r"Given value: (.*)", message) or [value.group(1)]
        return f"{keys[-1]} must be {kinds}, got {got[-1].strip()}"
    no_group = re.search(r'Parser key "([^"]+)": Unable to load config (.*?) - ', message)
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
    union = re.findall(r"Subtypes: [\[(](.*)[\])]", message)
    single = re.findall(r"Expected an? (.*?)\. Got value", message)
    kinds = union[-1] if union else single[-1] if single else "another value"
    kinds = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", kinds)
    for name, plain in (("typing.", ""), ("NoneType", "null"), (", ...]", "]")):
        kinds = kinds.replace(name, plain)
    literals = re.compile(r"Literal\[([^\]]*)\]")
    return literals.sub(lambda match: match.group(1).replace(", ", " | "), kinds).replace(", ", " | ")

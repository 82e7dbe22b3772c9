"""The parser: settings files by name, and every mistake told in one line."""

import difflib
import os
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from jsonargparse import ActionConfigFile
from lightning.pytorch.cli import LightningArgumentParser

from hadrl_lightning.cli.help import OPENINGS, opening, use_our_texts
from hadrl_lightning.config_files import find_config, numbers_for_units, read_config
from hadrl_lightning.errors import HadrlError


class ConfigByName(ActionConfigFile):
    """`--config NAME`: a path if there is one, else the file of that name that ships with the package."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        """Merge the settings of the file into `cfg`."""
        super().__call__(parser, cfg, str(find_config(values)), option_string)


class HadrlParser(LightningArgumentParser):
    """Raises a HadrlError of one line where its base class prints the usage and exits."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """See the class."""
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)

    def parse_args(self, args: Any = None, *rest: Any, **kwargs: Any) -> Any:
        """Parse, numbers with units too; a whole number beyond double precision is a mistake like any other."""
        try:
            return super().parse_args(args if args is None else _without_units(args), *rest, **kwargs)
        except OverflowError as error:
            raise HadrlError(f"settings must be numbers of at most 1.8e308: {error}") from error

    def parse_path(self, path: Any, *args: Any, **kwargs: Any) -> Any:
        """Parse a file of settings in UTF-8, whatever the encoding of the system."""
        text = read_config(path)
        try:
            return super().parse_path(path, *args, **kwargs)
        except UnicodeDecodeError:
            return self.parse_string(text, os.path.basename(path), *args, **kwargs)

    def parse_string(self, content: str, *args: Any, **kwargs: Any) -> Any:
        """Parse settings, numbers with units too."""
        return super().parse_string(numbers_for_units(content.removeprefix("\ufeff")), *args, **kwargs)

    def format_help(self, formatter: Any = None) -> str:
        """What matters first, then all settings."""
        command = self.prog.rpartition(" ")[2]
        if command not in OPENINGS:
            return super().format_help(formatter)
        use_our_texts(self, command)
        self.usage, self.description = command, None
        return opening(self, command) + super().format_help(formatter).partition("\n\n")[2]

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the essence of `message`."""
        parser = getattr(ex, "subcommand_parser", None) or self
        raise HadrlError(essence(message, known_settings(parser))) from ex


def _without_units(words: Sequence[str]) -> list[str]:
    """The same command line with a number in place of every number with a unit."""
    plain: list[str] = []
    key = ""
    for word in words:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            plain.append(f"--{name}={numbers_for_units(value, name)}" if equals else word)
            key = "" if equals else name
        else:
            plain.append(numbers_for_units(word, key) if "." in key else word)
            key = ""
    return plain


def known_settings(parser: LightningArgumentParser) -> list[str]:
    """Dotted names of all settings of `parser`."""
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

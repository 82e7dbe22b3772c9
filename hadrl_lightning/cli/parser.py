"""The parser: settings files by name, and every mistake told in one line."""

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import yaml
from jsonargparse import ActionConfigFile
from lightning.pytorch.cli import LightningArgumentParser

from hadrl_lightning.cli.help import OPENINGS, opening, use_our_texts
from hadrl_lightning.cli.inspection import inspect_parser, show_parser
from hadrl_lightning.cli.studies import benchmark_parser, plot_parser
from hadrl_lightning.config_files import (
    BASE,
    find_config,
    groups_of,
    load_config,
    merged,
    numbers_for_units,
    parse_setting,
)
from hadrl_lightning.errors import HadrlError
from hadrl_lightning.messages import essence, known_settings
from hadrl_lightning.network_files import FILES, PROCESSES
from hadrl_lightning.scenario.limits import with_popularity

BY_NAME = dict[str, dict[str, Any] | None]
"""Type of settings of several things by their names."""
FLAG = "\0"
"""Before the settings of a flag that are read as those of a file would be; nobody can type it."""
OF_A_PROCESS = re.compile(r"--(data\.scenario\.processes\..+\.\w+)")
"""A flag of one setting of a process, whose other settings stay as they are, or of a process of one's own."""


class ConfigByName(ActionConfigFile):
    """`--config NAME`: a path if there is one, else the file of that name that ships with the package."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        """Merge the settings of the file into `cfg`; what is set by name is added to what earlier files name."""
        parser.named_before = {key: cfg.get(key) for key in _set_by_name(parser) if cfg.get(key)}
        if not str(values).startswith(FLAG):
            super().__call__(parser, cfg, str(find_config(values)), option_string)
            return
        parser.flag = yaml.safe_load(values.removeprefix(FLAG))
        files = list(cfg.get(self.dest) or [])
        super().__call__(parser, cfg, str(find_config(BASE)), option_string)
        cfg[self.dest], parser.flag = files, None


class HadrlParser(LightningArgumentParser):
    """Raises a HadrlError of one line where its base class prints the usage and exits."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """See the class."""
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)
        self._settings: dict[str, Any] = {}
        """Of the file that is parsed."""
        self.flag: dict[str, Any] | None = None
        """In place of the file that is parsed."""
        self.named_before: dict[str, Any] = {}
        """What is set by name in the files before it, by the dotted key of the setting."""
        self._found: tuple[list[Any], Any] = ([], None)
        """The defaults as they were set, and as they were found last."""

    def parse_args(self, args: Any = None, *rest: Any, **kwargs: Any) -> Any:
        """Parse, numbers with units too; a whole number beyond double precision is a mistake like any other."""
        try:
            words = args if args is None else _flags_as_files(_without_units(args))
            return _with_absolute_paths(super().parse_args(words, *rest, **kwargs))
        except OverflowError as error:
            raise HadrlError(f"settings must be numbers of at most 1.8e308: {error}") from error

    def get_defaults(self, *args: Any, **kwargs: Any) -> Any:
        """All defaults, of which a command line asks several times; found again where one was set since."""
        now = [action.default for action in self._actions]
        before, found = self._found
        if (
            found is None
            or len(now) != len(before)
            or any(one is not other for one, other in zip(now, before))
        ):
            found = super().get_defaults(*args, **kwargs)
            self._found = now, found
        return found.clone()

    def parse_path(self, path: Any, *args: Any, **kwargs: Any) -> Any:
        """Parse a file of settings in UTF-8, whatever the encoding of the system, numbers with units too."""
        self._settings = load_config(path, groups_of(self)) if self.flag is None else self.flag
        for key, before in self.named_before.items():
            _add_to(self._settings, key.split("."), before)
        try:
            return super().parse_path(path, *args, **kwargs)
        except UnicodeDecodeError:
            return self.parse_string("", os.path.basename(path), *args, **kwargs)

    def parse_string(self, content: str, *args: Any, **kwargs: Any) -> Any:
        """Parse the settings of the file at hand in place of its text."""
        return super().parse_string(yaml.safe_dump(self._settings, sort_keys=False), *args, **kwargs)

    def get_completion_script(self, completion_type: str, **kwargs: Any) -> str:
        """The script for a shell, with the commands that have parsers of their own."""
        if self._subcommands_action is not None and completion_type.startswith("shtab-"):
            others = {
                "benchmark": benchmark_parser,
                "plot": plot_parser,
                "show": show_parser,
                "inspect": inspect_parser,
            }
            parser: Any  # of argparse, which is enough for a script
            for name, parser in others.items():
                self._subcommands_action.add_subcommand(name, parser())
        return super().get_completion_script(completion_type, **kwargs)

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


def _with_absolute_paths(settings: Any) -> Any:
    """The same settings, with paths of files of the network that hold wherever they are used."""
    data = (settings.get(settings.get("subcommand") or "") or settings).get("data")
    places = [(data, name) for name in FILES] if data is not None else []
    processes = (data.get("scenario") or {}).get("processes") if data is not None else None
    places += [(one, "file") for name, one in (processes or {}).items() if name in PROCESSES.values() and one]
    for place, name in places:
        if isinstance(place.get(name), str) and place[name]:  # of none with_files says what is wrong
            place[name] = os.path.abspath(place[name])
    if data is not None and data.get("scenario"):
        before = vars(data["scenario"])
        popularity = with_popularity(before, vars(data)).get("popularity")
        if popularity != before.get("popularity"):
            data["scenario"]["popularity"] = popularity
    return settings


def _set_by_name(parser: Any) -> list[str]:
    """Keys of settings that are settings of several things by their names, such as processes."""
    return [action.dest for action in parser._actions if getattr(action, "_typehint", None) == BY_NAME]


def _add_to(settings: dict[str, Any], words: Sequence[str], before: Mapping[str, Any]) -> None:
    """Put what was set before beneath what is set now, where it is."""
    for word in words[:-1]:
        settings = settings.get(word) or {}
    now = settings.get(words[-1])
    if isinstance(now, Mapping):
        settings[words[-1]] = merged(before, now)


def _flags_as_files(words: Sequence[str]) -> list[str]:
    """The same command line with `--config` in place of flags of processes: what files name is so added to."""
    found: list[str] = []
    rest = iter(words)
    for word in rest:
        name, equals, value = word.partition("=")
        flag = OF_A_PROCESS.fullmatch(name)
        if flag is None:
            found.append(word)
            continue
        if not equals:
            value = next(rest, "")
        if not value:
            found.append(word)
            continue
        from hadrl_lightning.benchmark.plan import nested

        key = flag.group(1)
        settings = nested(key, parse_setting(key.rpartition(".")[2], value))
        found += ["--config", FLAG + yaml.safe_dump(settings, sort_keys=False)]
    return found


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

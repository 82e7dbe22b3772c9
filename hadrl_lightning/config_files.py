"""Settings files by name: a path if there is one, else the file of that name that ships with the package."""

import codecs
import copy
import difflib
import functools
import json
import re
from argparse import SUPPRESS
from collections.abc import Callable, Collection, Mapping
from dataclasses import is_dataclass
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import yaml

from hadrl_lightning.errors import HadrlError
from hadrl_lightning.files import is_file
from hadrl_lightning.messages import essence, known_settings
from hadrl_lightning.units import read_units

BASE = "base.yaml"
"""The shipped file that lies beneath all others: settings of the Trainer, which no class of ours has as defaults."""

Made = TypeVar("Made")
Groups = Mapping[str, bool]
"""Dotted names of groups of settings, and whether null has a meaning of its own there."""


_UNREADABLE = (ValueError, RecursionError, yaml.YAMLError)
"""What a text that is no YAML raises: a date such as 2026-99-99 a ValueError."""


def shipped_configs() -> tuple[str, ...]:
    """Names of the settings files that ship with the package, in alphabetical order."""
    files = resources.files("hadrl_lightning.configs").iterdir()
    return tuple(sorted(file.name for file in files if file.name.endswith(".yaml")))


def find_config(name: str | Path) -> Path:
    """The file that `name` stands for: a path if there is one, else the shipped file of that name.

    Raises:
        HadrlError: there is neither; the line names the shipped files and the nearest of them.
    """
    path = Path(name)
    if is_file(path):
        return path
    shipped = shipped_configs()
    if str(name) in shipped:
        return Path(str(resources.files("hadrl_lightning.configs") / str(name)))
    nearest = difflib.get_close_matches(path.name, shipped, n=1) or difflib.get_close_matches(
        path.stem, [file.removesuffix(".yaml") for file in shipped], n=1
    )
    hint = f"; did you mean {nearest[0].removesuffix('.yaml')}.yaml?" if nearest else ""
    raise HadrlError(
        f"config must be a path or one of the shipped files ({', '.join(shipped)}), got {str(name)!r}{hint}"
    )


def load_config(name: str | Path, groups: Groups | None = None) -> dict[str, Any]:
    """The settings in the file that `name` stands for (see `find_config`), as nested dictionaries.

    Args:
        name: of the file.
        groups: what must be a group of settings there (see `said`).

    Raises:
        HadrlError: there is no such file, or it is not a YAML mapping, or a group of settings is something else.
    """
    path = find_config(name)
    return parse_config(read_config(path), path, groups or {})


def parse_config(text: str, path: str | Path, groups: Groups) -> dict[str, Any]:
    """The settings in the text of a file, as nested dictionaries; none where it is empty.

    Raises:
        HadrlError: see `load_config`.
    """
    try:
        settings = yaml.load(text, Loader=_Loader)  # a SafeLoader
    except _UNREADABLE as error:
        raise HadrlError(f"config must be a readable YAML file, got {path}: {_one_line(error)}") from error
    if settings is None:
        return {}
    if not isinstance(settings, dict):
        raise HadrlError(f"config must be a YAML mapping, got a {type(settings).__name__} in {path}")
    return said(read_units(settings), groups, f" in {path}")


def said(settings: Mapping[str, Any], groups: Groups, where: str = "", prefix: str = "") -> dict[str, Any]:
    """What settings say: all of them but the groups that are null, which say nothing.

    Args:
        settings: nested dictionaries.
        groups: what must be a group of settings (see `groups_of`).
        where: the settings come from, for the message.
        prefix: dotted name of the group they are, with a dot.

    Raises:
        HadrlError: a group is something else than a mapping or null.
    """
    result: dict[str, Any] = {}
    for name, value in settings.items():
        key = f"{prefix}{name}"
        if key not in groups or (value is None and groups[key]):
            result[name] = value
        elif isinstance(value, Mapping):
            result[name] = said(value, groups, where, f"{key}.")
        elif value is not None:
            raise HadrlError(f"{key} must be a group of settings, got {value!r}{where}")
    return result


def groups_of(parser: Any) -> dict[str, bool]:
    """The groups of settings of a parser of jsonargparse; null has a meaning where a setting is a dataclass or null."""
    groups: dict[str, bool] = {}
    for action in parser._actions:
        hint = getattr(action, "_typehint", None)
        if hint is None or action.default == SUPPRESS:  # the last: --KEY.help
            continue
        words = action.dest.split(".")
        groups |= {".".join(words[:depth]): False for depth in range(1, len(words))}
        if words[0] != "trainer" and _dataclasses(hint):
            groups[action.dest] = _allows_null(hint)
    return groups


def read_config(path: str | Path) -> str:
    """The text of a settings file: UTF-8, with or without a mark in front.

    Raises:
        HadrlError: it can't be read or is in another encoding.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise HadrlError(f"config must be a readable file, got {path}: {error.strerror or error}") from error
    wide = content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    if wide or (len(content) > 1 and (not any(content[::2]) or not any(content[1::2]))):
        raise HadrlError(f"config must be a text file in UTF-8, got {path} in UTF-16")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise HadrlError(f"config must be a text file in UTF-8, got {path} in another encoding") from None


def numbers_for_units(text: str, name: str) -> str:
    """The value of a setting on a command line with a number in place of every number with a unit.

    Args:
        text: YAML; it is left as it is where there are none.
        name: of the setting.

    Raises:
        HadrlError: a number with a unit of another kind.
    """
    value = _parsed(text)
    plain = read_units(value, name)
    if plain == value:
        return text
    return yaml.safe_dump(plain) if isinstance(plain, dict) else json.dumps(plain)


def parse_setting(name: str, text: str) -> Any:
    """The value of the setting `name` that stands on a command line, as a settings file would have it.

    Raises:
        HadrlError: a number with a unit of another kind.
    """
    value = _parsed(text)
    known = isinstance(value, str | bool | int | float | list | dict) or value is None
    return read_units(value if known else text, name)


def _parsed(text: str) -> Any:
    """What YAML makes of a text; the text itself where that is nothing: whoever reads it says what is wrong."""
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader
    except _UNREADABLE:
        return text


def merged(*settings: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings in which the later ones win; dictionaries are merged, everything else is replaced."""
    result: dict[str, Any] = {}
    for one in settings:
        for name, value in one.items():
            both = isinstance(value, Mapping) and isinstance(result.get(name), Mapping)
            result[name] = merged(result[name], value) if both else copy.deepcopy(value)
    return result


def class_parser(cls: Callable[..., Any], group: str, elsewhere: Mapping[str, Collection[str]]) -> Any:
    """A parser of jsonargparse for the arguments of a class, the same one for the same arguments: don't change it.

    Args:
        cls: the class.
        group: name of the group of settings that they are.
        elsewhere: names of other groups, and the arguments that are there.
    """
    return _class_parser(cls, group, tuple((other, tuple(names)) for other, names in elsewhere.items()))


@functools.lru_cache(maxsize=8)  # each takes a while to build
def _class_parser(
    cls: Callable[..., Any], group: str, elsewhere: tuple[tuple[str, tuple[str, ...]], ...]
) -> Any:
    from jsonargparse import ArgumentParser  # takes a while

    parser = ArgumentParser(exit_on_error=False)
    moved = {name for _, names in elsewhere for name in names}
    parser.add_class_arguments(cls, group, fail_untyped=False, instantiate=False, skip=moved)
    stay = {action.dest.split(".")[1] for action in parser._actions if "." in action.dest}
    for other, names in elsewhere:
        skip = stay | (moved - set(names))
        parser.add_class_arguments(cls, other, fail_untyped=False, instantiate=False, skip=skip)
    return parser


def construct(
    cls: Callable[..., Made], parser: Any, settings: Mapping[str, Any], others: Mapping[str, Any]
) -> Made:
    """Call a class with settings as plain values, read and checked as those of a file are.

    Args:
        cls: the class.
        parser: of its arguments (see `class_parser`).
        settings: its arguments as plain values in the groups of the parser; what is missing has its default.
        others: arguments as they are, in place of those.

    Raises:
        HadrlError: a setting is unknown, or its value not allowed.
    """
    try:
        parsed = parser.parse_object(settings)
        refuse_nulls(parser, parsed)
        groups = parser.instantiate(parsed)
        arguments = {name: value for group in settings for name, value in groups[group].as_dict().items()}
        return cls(**{**arguments, **others})
    except HadrlError:
        raise
    except Exception as error:  # jsonargparse raises several kinds
        raise HadrlError(essence(str(error), known_settings(parser))) from error


def refuse_nulls(parser: Any, settings: Any) -> None:
    """Refuse a null for a setting whose type has none: jsonargparse passes any null of a file through.

    Settings of the Trainer are left to Lightning.

    Args:
        parser: of these settings.
        settings: as parsed, a jsonargparse Namespace or nested dictionaries.

    Raises:
        HadrlError: there is such a null; the line names the setting.
    """
    for action in parser._actions:
        hint = getattr(action, "_typehint", None)
        lightnings = action.dest.startswith("trainer.")  # where null stands for a default
        if hint in (None, Any) or lightnings or action.default == SUPPRESS:  # the last: --KEY.help
            continue
        place = settings
        for word in action.dest.split("."):
            if not hasattr(place, "get") or word not in place:
                break
            place = place.get(word)
        else:
            if place is None and not (action.default is None or _allows_null(hint)):
                raise HadrlError(f"{action.dest} must not be null")
            for name, part in _dataclasses(hint).items():
                if place is not None and place.get(name, 0) is None and not _allows_null(part):
                    raise HadrlError(f"{action.dest}.{name} must not be null")


def _allows_null(hint: Any) -> bool:
    return hint is Any or type(None) in get_args(hint)


def _dataclasses(hint: Any) -> dict[str, Any]:
    """Types of the fields of a setting that is a dataclass or null."""
    kinds = [part for part in (hint, *get_args(hint)) if isinstance(part, type) and is_dataclass(part)]
    return {name: found for kind in kinds for name, found in get_type_hints(kind).items()}


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


class _Loader(yaml.SafeLoader):
    """Safe YAML that reads 200e6 as a number, as jsonargparse does on the command line.

    It refuses what would silently be lost or never end: a name that stands twice in a group, and a part of itself.
    """

    def construct_document(self, node: yaml.Node) -> Any:
        """All of a part before the part itself: else one that holds itself would be there already."""
        self.deep_construct = True
        return super().construct_document(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping whose names differ."""
        names: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in names:
                raise yaml.YAMLError(
                    f"{key.value} stands twice in a group, in line {key.start_mark.line + 1}"
                )
            names |= {key.value} if isinstance(key, yaml.ScalarNode) else set()
        return super().construct_mapping(node, deep=True)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int | float:
        """A whole number; one of more digits than Python reads is beyond what any setting may be."""
        try:
            return super().construct_yaml_int(node)
        except ValueError:
            return float(str(node.value).replace("_", ""))


_Loader.yaml_implicit_resolvers = {
    first: list(resolvers) for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)[eE][-+]?[0-9]+$"),
    list("-+0123456789."),
)
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)

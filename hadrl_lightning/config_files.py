"""Settings files by name: a path if there is one, else the file of that name that ships with the package."""

import codecs
import copy
import difflib
import json
import re
from argparse import SUPPRESS
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import yaml

from hadrl_lightning.errors import HadrlError
from hadrl_lightning.units import read_units

BASE = "base.yaml"
"""The shipped file that lies beneath all others: settings of the Trainer, which no class of ours has as defaults."""

Made = TypeVar("Made")


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
    try:
        if path.is_file():
            return path
    except OSError:  # too long for a file's name
        pass
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


def load_config(name: str | Path) -> dict[str, Any]:
    """The settings in the file that `name` stands for (see `find_config`), as nested dictionaries.

    Raises:
        HadrlError: there is no such file, or it is not a YAML mapping.
    """
    path = find_config(name)
    text = read_config(path)
    try:
        settings = yaml.load(text, Loader=_Loader)  # a SafeLoader
    except (
        ValueError,
        RecursionError,
        yaml.YAMLError,
    ) as error:  # a date such as 2026-99-99: ValueError
        raise HadrlError(f"config must be a readable YAML file, got {path}: {_one_line(error)}") from error
    if settings is None:
        return {}
    if not isinstance(settings, dict):
        raise HadrlError(f"config must be a YAML mapping, got a {type(settings).__name__} in {path}")
    return read_units(settings)


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


def numbers_for_units(text: str, name: str = "") -> str:
    """YAML with a number in place of every number with a unit; the text as it is where there are none.

    Args:
        text: a file, or the value of a setting.
        name: of that setting.

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
    except (ValueError, RecursionError, yaml.YAMLError):
        return text


def merged(*settings: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings in which the later ones win; dictionaries are merged, everything else is replaced."""
    result: dict[str, Any] = {}
    for one in settings:
        for name, value in one.items():
            both = isinstance(value, Mapping) and isinstance(result.get(name), Mapping)
            result[name] = merged(result[name], value) if both else copy.deepcopy(value)
    return result


def construct(cls: Callable[..., Made], settings: Mapping[str, Any], others: Mapping[str, Any]) -> Made:
    """Call a class with settings as plain values, read and checked as those of a file are.

    Args:
        cls: the class.
        settings: its arguments as plain values; what is missing has its default.
        others: arguments as they are, in place of those.

    Raises:
        HadrlError: a setting is unknown, or its value not allowed.
    """
    from jsonargparse import ArgumentParser  # takes a while

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(cls, "it", fail_untyped=False, instantiate=False)
    try:
        parsed = parser.parse_object({"it": {**settings}})
        refuse_nulls(parser, parsed)
        arguments = parser.instantiate(parsed).it
        return cls(**{**arguments.as_dict(), **others})
    except HadrlError:
        raise
    except Exception as error:  # jsonargparse raises several kinds
        raise HadrlError(_one_line(error)) from error


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
        place, path = settings, ""
        for word in action.dest.split("."):
            if not hasattr(place, "get") or word not in place:
                break
            place, path = place.get(word), f"{path}.{word}".lstrip(".")
            if place is None and (path != action.dest or not (action.default is None or _allows_null(hint))):
                raise HadrlError(f"{path} must not be null")
        else:
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
    """Safe YAML that reads 200e6 as a number, as jsonargparse does on the command line."""


_Loader.yaml_implicit_resolvers = {
    first: list(resolvers) for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)[eE][-+]?[0-9]+$"),
    list("-+0123456789."),
)

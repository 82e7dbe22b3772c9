"""Mistakes of the user, told in one line, and told from bugs of ours where an object is built from settings."""

import argparse
import dataclasses
import inspect
import re
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from lightning.pytorch.utilities.exceptions import MisconfigurationException

from hadrl_lightning.errors import HadrlError


class LineParser(argparse.ArgumentParser):
    """Raises a HadrlError of one line where its base class, argparse's parser, prints the usage and exits."""

    _subcommands_action = None
    """It has no commands below it; jsonargparse asks when it writes the script of a shell's completion."""

    def error(self, message: str) -> NoReturn:
        """Raise `message`."""
        raise HadrlError(message)


@contextmanager
def naming_settings(groups: Mapping[str, type], given: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Turn the ValueError by which a settings class refuses a value into a HadrlError with the setting's dotted name.

    The user's is a ValueError whose first word is a field or constructor parameter of the settings, module or callback
    that was being built or read. Any other passes as it is: it is a bug.

    Args:
        groups: What is built: the class under every top-level key of the settings.
        given: The settings by dotted key: tells apart two settings of the same class.
    """
    try:
        yield
    except ValueError as error:
        for one in _chain(error):
            key = _setting(one, list(settings_classes(groups)), given or {})
            if key is not None:
                raise HadrlError(f"{key}{str(one)[len(key.rpartition('.')[2]) :]}") from error
        raise


@contextmanager
def trainer_mistakes(*kinds: type[Exception]) -> Iterator[None]:
    """Turn what Lightning itself raises into a HadrlError, if it is of these kinds.

    They come on top of its `MisconfigurationException`: where a Trainer is made, ValueError, TypeError and ImportError
    are the user's too, where it runs they are not.
    """
    refusals: tuple[type[Exception], ...] = (MisconfigurationException, *kinds)
    try:
        yield
    except refusals as error:
        innermost = list(_frames(error))[-1]
        if isinstance(error, HadrlError) or not innermost.f_globals.get("__name__", "").startswith(
            "lightning."
        ):
            raise
        raise HadrlError(f"trainer: {' '.join(str(error).split())}") from error


@contextmanager
def resuming_from(path: Path | None) -> Iterator[None]:
    """Turn the KeyError of what loads a checkpoint into a HadrlError: one of an earlier state lacks something."""
    try:
        yield
    except KeyError as error:
        loading = {"load_state_dict", "on_load_checkpoint"}
        if path is None or loading.isdisjoint(frame.f_code.co_name for frame in _frames(error)):
            raise
        raise HadrlError(
            f"ckpt_path must be in the present format to train on from, got {path} without {error}"
        ) from error


def settings_classes(groups: Mapping[str, type]) -> Iterator[tuple[str, type]]:
    """The dotted names of all classes that `groups` are built from, nested dataclasses included, outermost last."""
    for key, cls in groups.items():
        try:
            hints = typing.get_type_hints(
                cls if dataclasses.is_dataclass(cls) else vars(cls).get("__init__", cls)
            )
        except NameError:
            hints = {}
        for name, hint in hints.items():
            for part in (hint, *typing.get_args(hint)):
                if isinstance(part, type) and dataclasses.is_dataclass(part):
                    yield from settings_classes({f"{key}.{name}": part})
        yield key, cls


def _setting(error: BaseException, classes: list[tuple[str, type]], given: Mapping[str, Any]) -> str | None:
    """The dotted name of the setting that `error` begins with, if an object built from settings raised it."""
    word = re.split(r"[^\w]", str(error), maxsplit=1)[0]
    for frame in reversed(list(_frames(error))):
        for owner in list(frame.f_locals.values()):
            keys = [f"{key}.{word}" for key, cls in classes if cls is type(owner)]
            if keys and word in _parameters(type(owner)):
                value = getattr(owner, word, None)
                return next((key for key in keys if key in given and given[key] == value), keys[0])
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what caused it: a parser wraps the errors of optional settings in one of its own."""
    one: BaseException | None = error
    while one is not None:
        yield one
        one = one.__cause__


def _parameters(cls: Callable[..., Any]) -> set[str]:
    return set(inspect.signature(cls).parameters)


def _frames(error: BaseException) -> Iterator[Any]:
    traceback = error.__traceback__
    while traceback is not None:
        yield traceback.tb_frame
        traceback = traceback.tb_next

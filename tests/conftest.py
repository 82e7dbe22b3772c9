"""What all tests share."""

import functools
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from docstring_parser.attrdoc import AttributeDocstrings
from jsonargparse import _core, _subcommands

import hadrl_lightning

ROOT = Path(__file__).resolve().parent.parent

# callbacks/ and configs/ stand outside the package's folder. Looked up there too, they are checked like everything else
# by jaxtyping's import hook, which asks only the ordinary finder.
hadrl_lightning.__path__.append(str(ROOT))

torch.set_num_threads(1)

# A parser of the command line reads every docstring of every class from its source: once is enough for all parsers.
read_docstrings = AttributeDocstrings.get_attr_docs
docstrings_of = functools.cache(lambda component: read_docstrings(AttributeDocstrings(), component))
AttributeDocstrings.get_attr_docs = lambda self, component: docstrings_of(component)

# A parser looks through all its settings for every key, thousands of times for a command line: once a key is enough.
look_up = _subcommands.find_action_and_subcommand


def find_setting(parser: Any, key: str, exclude: Any = None) -> Any:
    """The setting of a key, as jsonargparse finds it; looked up anew where the parser has more settings by now."""
    if getattr(parser, "_subparsers", True) is not None:  # one of commands, or a group
        return look_up(parser, key, exclude)
    number, found = parser.__dict__.get("_found_settings", (-1, {}))
    if number != len(parser._actions):
        found = {}
        parser._found_settings = len(parser._actions), found
    if (key, exclude) not in found:
        found[key, exclude] = look_up(parser, key, exclude)
    return found[key, exclude]


_subcommands.find_action_and_subcommand = _core.find_action_and_subcommand = find_setting

# pytest-xdist tells its workers the columns of the terminal: tables would look as wide as where the tests are started.
os.environ.pop("COLUMNS", None)


@pytest.fixture(scope="session")
def root() -> Path:
    """The folder of the repository."""
    return ROOT


@pytest.fixture
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run the test in a folder of its own, as a user who installed the package would."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["hadrl"])
    return tmp_path

"""What all tests share."""

import functools
import os
import sys
from pathlib import Path

import pytest
import torch
from docstring_parser.attrdoc import AttributeDocstrings

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

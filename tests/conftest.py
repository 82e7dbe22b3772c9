"""What all tests share."""

import functools
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
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


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Check types at run time, but in tests of whole commands: there it takes most of the time."""
    jaxtyping.config.update("jaxtyping_disable", item.get_closest_marker("unchecked") is not None)


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


@pytest.fixture
def as_installed() -> Iterator[None]:
    """Run the test without the type checker, which would refuse some arguments before the package does."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)

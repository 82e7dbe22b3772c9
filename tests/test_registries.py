"""Things that settings name: registered, of entry points, by module paths."""

from collections.abc import Callable
from pathlib import Path

import pytest

from hadrl_lightning.registries import Registry


@pytest.fixture
def shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry[Callable[[], str]]:
    """A registry of one shape; an installed package has two more, one of them broken."""
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    info = tmp_path / "site" / "their_shapes-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-shapes\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[test.shapes]\nround = their_shapes:disc\nbroken = their_shapes:lost\n"
    )
    (tmp_path / "site" / "their_shapes.py").write_text("def disc():\n    return 'disc'\nAREA = 3\n")
    registry: Registry[Callable[[], str]] = Registry("shape", "test.shapes")

    @registry.register("square")
    def square() -> str:
        return "square"

    assert square() == "square"
    return registry


def test_a_short_name_stands_for_what_is_registered_or_what_an_installed_package_declares(
    shapes: Registry[Callable[[], str]],
) -> None:
    assert shapes.names() == ["square", "broken", "round"]
    assert [shapes.find(name, "shape")() for name in ("square", "round", "round")] == [
        "square",
        "disc",
        "disc",
    ]


def test_a_module_path_stands_for_what_a_module_of_the_working_directory_has(
    shapes: Registry[Callable[[], str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shapes_here.py").write_text("def oval():\n    return 'oval'\n")
    with pytest.raises(ValueError, match="No module named 'shapes_here'"):
        shapes.find("shapes_here.oval", "shape")
    monkeypatch.chdir(tmp_path)
    assert shapes.find("shapes_here.oval", "shape")() == "oval"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "sqare",
            "shape must be one of square, broken, round, or a shape of your own as module.name, got sqare",
        ),
        ("their_shapes.AREA", "shape must be a shape, got their_shapes.AREA, which is 3"),
        (
            "their_shapes.lost",
            "shape must be a module path that can be imported, got their_shapes.lost: "
            "AttributeError: module 'their_shapes' has no attribute 'lost'",
        ),
        (
            "nowhere.lost",
            "shape must be a module path that can be imported, got nowhere.lost: "
            "ModuleNotFoundError: No module named 'nowhere'",
        ),
        (
            "broken",
            "shape must be a shape that can be imported, got broken (their_shapes:lost): "
            "AttributeError: module 'their_shapes' has no attribute 'lost'",
        ),
    ],
)
def test_what_a_name_does_not_stand_for_is_said_in_one_line(
    shapes: Registry[Callable[[], str]], name: str, said: str
) -> None:
    with pytest.raises(ValueError, match=r"^shape must") as caught:
        shapes.find(name, "shape")
    assert str(caught.value) == said


@pytest.mark.parametrize("name", ["square", "", "a.b"])
def test_a_short_name_is_new_and_has_no_dot(shapes: Registry[Callable[[], str]], name: str) -> None:
    with pytest.raises(ValueError, match=r"^name of a shape must be new and have no dot, got "):
        shapes.register(name)


def test_only_what_can_be_an_entry_is_registered(shapes: Registry[Callable[[], str]]) -> None:
    with pytest.raises(ValueError, match=r"^three must be a shape, got 3"):
        shapes.register("three")(3)

import subprocess
import sys

import pytest

from hadrl_lightning.files import replacing


def write(path, text):
    with replacing(path) as temporary:
        temporary.write_text(text)


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path):
    file = tmp_path / "new" / "a.txt"
    write(file, "one")
    write(file, "two")
    assert file.read_text() == "two"
    assert [path.name for path in file.parent.iterdir()] == ["a.txt"]


def test_an_error_while_writing_leaves_the_old_file_and_no_temporary_one(tmp_path):
    file = tmp_path / "a.txt"
    write(file, "one")
    with pytest.raises(TypeError, match="data must be str"):
        write(file, 2)
    assert file.read_text() == "one"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_the_temporary_file_of_a_killed_process_is_removed_that_of_a_live_one_stays(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as live:
        for process in (dead, live):
            (tmp_path / f".a.txt.{process.pid}.tmp").write_text("half")
        (tmp_path / ".other.txt.1.tmp").write_text("of another file")
        write(tmp_path / "a.txt", "whole")
        assert {path.name for path in tmp_path.iterdir()} == {
            "a.txt",
            f".a.txt.{live.pid}.tmp",
            ".other.txt.1.tmp",
        }
        live.communicate(b"\n")

"""Files that are whole or not there, whatever interrupts the writing."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary file in the folder of `path` to write to; it takes the place of `path` once it is safely on disk.

    An exception leaves `path` as it was and no temporary file. The folder is made if there is none. A process that is
    killed leaves its temporary file, `.NAME.PID.tmp`; the next one that replaces `path` removes it, unless the process
    it belongs to is still alive.

    Raises:
        OSError: the folder can't be written to, or the disk is full.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _remove_abandoned(path: Path) -> None:
    for other in path.parent.glob(f".{path.name}.*.tmp"):
        process = other.suffixes[-2].lstrip(".")
        if process.isdecimal() and not _alive(int(process)):
            other.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True

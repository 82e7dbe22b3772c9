"""Files that are whole or not there, whatever interrupts the writing; and checkpoints that can't run code."""

import errno
import os
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hadrl_lightning.errors import HadrlError, OutputError

DISK_ERRORS = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EIO,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
)
"""What a disk, or the rights on it, may refuse: a matter of the user's machine."""


def unwritable(error: OSError, remark: str = "") -> OutputError:
    """The error in one line that names the file, if it is known."""
    name = error.filename
    path = (
        os.fsdecode(name) if isinstance(name, str | bytes | os.PathLike) else "a file"
    )  # a number: a descriptor
    return OutputError(f"{path} can't be written: {error.strerror or error}{remark}")


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turn the OSError of a full disk or an unwritable folder into one line that names the file.

    Raises:
        OutputError: what is done within met an OSError.
    """
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path} can't be written: {error.strerror or error}") from error


def is_file(path: str | Path) -> bool:
    """Whether there is such a file; no name is too long for the question."""
    try:
        return Path(path).is_file()
    except OSError:
        return False


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary file in the folder of `path` to write to; it takes the place of `path` once it is safely on disk.

    An exception leaves `path` as it was and no temporary file. The folder is made if there is none. A process that is
    killed leaves its temporary file, `.NAME.PID.tmp`; the next one that replaces `path` removes it, unless the process
    it belongs to is still alive.

    Raises:
        OutputError: the folder can't be written to, or the disk is full.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path)
        try:
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            with suppress(OSError):  # no folder, nothing to remove
                temporary.unlink()


def load_tensors(path: str | Path, name: str = "ckpt_path") -> Any:
    """The contents of a file saved by `torch.save`, on the CPU; tensors and plain values only, never code.

    Args:
        path: The file.
        name: What the error calls it.

    Raises:
        HadrlError: it is damaged, can't be read, or holds anything that could run code when loaded.
    """
    import torch  # not needed by those who only write

    try:
        if Path(path).stat().st_size == 0:
            raise ValueError("it is empty")
        if not zipfile.is_zipfile(path):  # torch would try older formats and find instructions in the damage
            raise ValueError("it is cut off, or no file of torch.save")
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a flipped bit can make a reader raise anything
        code = re.search(r"(?i)unsupported (?:global: )?(?:global|class|operand) (\S+)", str(error))
        if code:
            raise HadrlError(
                f"{name} must hold tensors and plain values only, got {path} with {code.group(1)}, which could run code"
            ) from error
        reason = str(error).strip().partition("\n")[0].partition(". ")[0][:120] or type(error).__name__
        raise HadrlError(f"{name} must be an undamaged checkpoint, got {path} ({reason})") from error


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

"""Output into a pipe: a reader that leaves before the end, as `| head` does, is no mistake of anybody's."""

import os
import select
import signal
import sys
from collections.abc import Callable

STATUS = 128 + signal.SIGPIPE
"""Exit status of a command whose output nobody reads any more, as a shell gives it."""


def while_read(work: Callable[[], int]) -> int:
    """The status of `work`, or `STATUS`, without a word, where the reader of stdout leaves before it ends."""
    try:
        try:
            return work()
        finally:
            sys.stdout.flush()  # here rather than when Python ends
    except BrokenPipeError:
        if not _reader_is_gone():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is left in buffers
        return STATUS


def _reader_is_gone() -> bool:
    poll = select.poll()
    poll.register(sys.stdout.fileno(), select.POLLOUT)
    return any(event & select.POLLERR for _, event in poll.poll(0))

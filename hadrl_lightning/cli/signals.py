"""SIGINT and SIGTERM as a request to stop: what a Ctrl+C, a batch system or a preempted machine sends.

And output into a pipe: a reader that leaves before the end, as `| head` does, is no mistake of anybody's.
"""

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SAME_REQUEST_S = 1.0
"""A signal that follows another within so many seconds is the same request: a launcher forwards what the terminal has
sent to all processes already."""
UNREAD = 128 + signal.SIGPIPE
"""Exit status of a command whose output nobody reads any more, as a shell gives it."""


class Stopped(BaseException):
    """A signal ended the command: no `Exception`, so that who keeps the exceptions of others does not go on after it.

    Args:
        signum: The signal.
        advice: How to go on, for the one line that is shown.
    """

    def __init__(self, signum: int, advice: str = "") -> None:
        super().__init__(signum)
        self.signum = signum
        self.advice = advice

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self.signum).name}" + (f"; {self.advice}" if self.advice else "")

    @property
    def status(self) -> int:
        """Exit status as shells count: 130 for SIGINT, 143 for SIGTERM."""
        return 128 + self.signum


class StopSignals:
    """Notes the first SIGINT or SIGTERM; a second one ends the process at once.

    Args:
        abandonable: Whether the first one may raise `Stopped` wherever the main thread stands. Else whoever works asks
            for `requested` where it is well placed to stop.
    """

    def __init__(self, abandonable: bool = False) -> None:
        self.requested = 0
        """The signal that asks to stop; 0 while there is none."""
        self.abandonable = abandonable
        self._since = 0.0

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Within, the signals are handled so; only the main thread of a process can do that."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before: dict[int, Any] = {signum: signal.signal(signum, self._note) for signum in SIGNALS}
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)

    def abandon(self) -> None:
        """From here on a signal may end the work wherever it stands: nothing of it is worth keeping.

        Raises:
            Stopped: there was one already.
        """
        if self.requested:
            raise Stopped(self.requested)
        self.abandonable = True

    def keep(self) -> None:
        """From here on the work is worth keeping."""
        self.abandonable = False

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self.requested:
            if time.monotonic() - self._since > SAME_REQUEST_S:
                signal.signal(signum, signal.SIG_DFL)
                os.kill(os.getpid(), signum)
            return
        self.requested, self._since = signum, time.monotonic()
        if self.abandonable:
            self.abandonable = False
            raise Stopped(signum)
        if os.isatty(2):
            os.write(2, b"\nStopping after the present step; once more ends at once.\n")


def while_read(work: Callable[[], int]) -> int:
    """The status of `work`, or `UNREAD`, without a word, where the reader of stdout leaves before it ends."""
    try:
        try:
            return work()
        finally:
            if sys.stdout is not None:  # closed before the start
                sys.stdout.flush()  # here rather than when Python ends
    except BrokenPipeError:
        if not _reader_is_gone():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is left in buffers
        return UNREAD


def _reader_is_gone() -> bool:
    poll = select.poll()
    poll.register(sys.stdout.fileno(), select.POLLOUT)
    return any(event & select.POLLERR for _, event in poll.poll(0))

"""Says in one line that another rank is gone, and how to go on."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import distributed

from hadrl_lightning.errors import HadrlError

_LOST = re.compile(r"gloo|nccl|TCPStore|(?i:connection (closed|reset|refused)|broken pipe|timed out)")
"""What the messages of torch.distributed's backends have in common."""


class RankLost(HadrlError):
    """Another rank ended or stopped answering: no mistake of the user."""

    status = 1


@contextmanager
def naming_lost_ranks(advice: Callable[[], str]) -> Iterator[None]:
    """Turn the failure of an exchange between ranks into a `RankLost` that says what to do.

    Args:
        advice: how to go on.
    """
    try:
        yield
    except RuntimeError as error:
        if not _is_of_exchange(error):
            raise
        raise RankLost(
            f"another rank ended or does not answer; {advice()} ({_who()} saw: {_reason(error)})"
        ) from error


def _met() -> bool:
    """Whether the ranks have found each other."""
    return distributed.is_available() and distributed.is_initialized()


def _who() -> str:
    if not _met():
        return "the ranks had not all met; this one"
    return f"rank {distributed.get_rank()} of {distributed.get_world_size()}"


def _is_of_exchange(error: RuntimeError) -> bool:
    if distributed.is_available() and isinstance(error, distributed.DistError):
        return True
    return _met() and distributed.get_world_size() > 1 and _LOST.search(str(error)) is not None


def _reason(error: RuntimeError) -> str:
    """What the backend says, without the place in its source."""
    text = " ".join(str(error).split())
    return re.sub(r"^\[[^]]*\] *", "", text).partition(". ")[0][:120]

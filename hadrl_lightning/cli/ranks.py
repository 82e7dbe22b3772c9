"""Says in one line that another rank is gone, and how to go on."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import distributed

from ..errors import HadrlError

_LOST = re.compile(r"gloo|nccl|TCPStore|(?i:connection (closed|reset|refused)|broken pipe|timed out)")
"""What the messages of torch.distributed's backends have in common."""


class RankLost(HadrlError):
    """Another rank ended or stopped answering: no mistake of the user."""

    exit_status = 1


@contextmanager
def naming_lost_ranks(last_checkpoint: Callable[[], str]) -> Iterator[None]:
    """Turn the failure of an exchange between ranks into a `RankLost` that says what to do.

    Args:
        last_checkpoint: the path of the last checkpoint; empty where there is none yet.
    """
    try:
        yield
    except RuntimeError as error:
        if not _is_of_exchange(error):
            raise
        path = last_checkpoint()
        again = f"resume with: hadrl fit ... --ckpt_path {path}" if path else "there is no checkpoint yet"
        rank, ranks = distributed.get_rank(), distributed.get_world_size()
        raise RankLost(
            f"another rank ended or does not answer; {again} (rank {rank} of {ranks} saw: {_reason(error)})"
        ) from error


def _is_of_exchange(error: RuntimeError) -> bool:
    if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
        return False
    return isinstance(error, distributed.DistError) or _LOST.search(str(error)) is not None


def _reason(error: RuntimeError) -> str:
    """What the backend says, without the place in its source."""
    text = " ".join(str(error).split())
    return re.sub(r"^\[[^]]*\] *", "", text).partition(". ")[0][:120]

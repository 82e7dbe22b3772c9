"""What a command says on stderr: one line an error, one line a warning, each warning once."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hadrl_lightning.errors import HadrlWarning


def tell(kind: str, message: object) -> None:
    """Print one line, such as `hadrl: error: …`."""
    sys.stderr.write(f"hadrl: {kind}: {' '.join(str(message).split())}\n")


@contextmanager
def warnings_in_one_line() -> Iterator[None]:
    """Within, a `HadrlWarning` is one line of rank 0, however often it is raised; other warnings are Python's."""
    told: set[str] = set()
    with warnings.catch_warnings():
        others = warnings.showwarning

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            *rest: Any,
            **named: Any,
        ) -> None:
            if not issubclass(category, HadrlWarning):
                others(message, category, filename, lineno, *rest, **named)
            elif str(message) not in told and _rank() == 0:
                told.add(str(message))
                tell("warning", message)

        warnings.filterwarnings("always", category=HadrlWarning)
        warnings.showwarning = show
        yield


def _rank() -> int:
    """Which rank this process is; 0 as long as nothing knows of ranks."""
    known = sys.modules.get("lightning.pytorch.utilities.rank_zero")
    return getattr(known.rank_zero_only, "rank", 0) if known is not None else 0

"""Run by test_stopping.py: imports everything once, then forks a process for every `hadrl` it is asked for.

Reads a request a line as JSON, and answers each with a line: `run` with the process id, `wait` with the exit status.
"""

import io
import json
import os
import sys
from pathlib import Path
from signal import SIGKILL
from typing import Any

import torch
import torch.utils.tensorboard

from hadrl_lightning.agents import HADRL
from hadrl_lightning.callbacks.collection import Collection
from hadrl_lightning.cli import app, loggers, main


def die_in_checkpoint(at: str, number: int) -> None:
    """Kill this process around the `number`-th time that last.ckpt is written."""
    replace, save = os.replace, torch.save
    left = [number]

    def counted_replace(source: Any, target: Any) -> None:
        here = Path(target).name == "last.ckpt"
        left[0] -= here
        if here and left[0] == 0 and at == "before the rename":
            os.kill(os.getpid(), SIGKILL)
        replace(source, target)
        if here and left[0] == 0 and at == "after the rename":
            os.kill(os.getpid(), SIGKILL)

    def half_a_save(checkpoint: Any, file: Any) -> None:
        if left[0] == 1:
            whole = io.BytesIO()
            save(checkpoint, whole)
            file.write(whole.getvalue()[: len(whole.getvalue()) // 2])
            file.flush()
            os.kill(os.getpid(), SIGKILL)
        save(checkpoint, file)

    os.replace = counted_replace
    if at == "in mid-write":
        torch.save = half_a_save


def die_before_row(number: int) -> None:
    """Kill this process instead of logging the `number`-th row of metrics."""
    log, left = loggers.MetricsLogger.log_metrics, [number]

    def counted(self: Any, metrics: Any, step: Any = None) -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), SIGKILL)
        log(self, metrics, step)

    loggers.MetricsLogger.log_metrics = counted  # type: ignore[method-assign]


def interrupt(owner: str, method: str, number: int, signum: int) -> None:
    """Send this process a signal as the `number`-th call of a method begins."""
    cls = {"Collection": Collection, "HADRL": HADRL}[owner]
    inner, left = getattr(cls, method), [number]

    def counted(*args: Any, **kwargs: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signum)
        return inner(*args, **kwargs)

    setattr(cls, method, counted)


def run(request: dict[str, Any]) -> None:
    """Be that `hadrl`."""
    os.chdir(request["folder"])
    output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.environ.update(request["env"])
    sys.argv = ["hadrl", *request["words"]]
    at = request["die"]
    if at is not None and at[0] == "before the row":
        die_before_row(at[1])
    elif at is not None:
        die_in_checkpoint(*at)
    if request["interrupt"] is not None:
        interrupt(*request["interrupt"])
    status = 1
    try:
        status = main(request["words"])
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def serve() -> None:
    """Answer requests until there are none."""
    assert app is not None
    torch.set_num_threads(1)
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "wait":
            answer = os.waitstatus_to_exitcode(os.waitpid(request["pid"], 0)[1])
        else:
            answer = os.fork()
            if answer == 0:
                run(request)
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()

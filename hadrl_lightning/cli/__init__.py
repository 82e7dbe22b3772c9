"""The command `hadrl` and its subcommands; settings from YAML files and the command line."""

import difflib
import os
import shlex
import signal
import sys
from collections.abc import Sequence

from hadrl_lightning import __version__
from hadrl_lightning.characters import use_plain_characters
from hadrl_lightning.cli.signals import Stopped, StopSignals, while_read
from hadrl_lightning.errors import HadrlError
from hadrl_lightning.files import DISK_ERRORS, unwritable
from hadrl_lightning.messages import tell, warnings_in_one_line

__all__ = ["main"]

COMMANDS = ("fit", "validate", "test", "predict", "benchmark", "plot", "show", "inspect")

USAGE = """usage: hadrl [-h] [--version] {fit,validate,test,predict,benchmark,plot,show,inspect} ...

Hierarchical reinforcement learning with active inference for service caching and computation offloading.

commands:
  fit        train: hadrl fit --config es2.yaml
  validate   episodes without exploration, on the seeds of validation
  test       episodes without exploration, on the seeds of the test: hadrl test --ckpt_path last
  predict    the decisions themselves, one row a user and slot, to a file: hadrl predict --ckpt_path best
  benchmark  HADRL beside every baseline and the best known, on the same episodes: hadrl benchmark --quick
  plot       the figures of a benchmark, or the learning curves of a run: hadrl plot DIR
  show       an episode as a picture that moves: hadrl show --config es3.yaml --config mobile.yaml
  inspect    what a file of an agent was made by, and what its training saw: hadrl inspect FILE

settings:
  --config NAME      a path, or a shipped file (CONFIGS);
                     give several, the later ones win
  --ckpt_path PATH   a checkpoint, or last or best: that of the newest run of the same configs, of all
                     runs without --config; the run's own settings hold beneath the flags.
                     fit goes on in its folder, and with flags that differ in a new one
  --weights PATH     fit begins with what an agent has learnt, and with all else fresh;
                     the scenario may be another one
  --KEY VALUE        any single setting, such as --data.scenario.num_users 60
  --print_config     the settings that result, as YAML

`hadrl COMMAND --help` explains every setting with its unit.
"""


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    A mistake of the user gets one line on stderr and status 2, a number that is not finite status 3, SIGINT and SIGTERM
    one line with the command that goes on and status 130 and 143; where the reader of a pipe leaves, the command ends
    with status 141. A bug of ours keeps its traceback, and with `HADRL_DEBUG=1` so does a mistake.

    Args:
        args: The words after `hadrl`; the ones the process was started with if None.
    """
    words = list(sys.argv[1:] if args is None else args)
    use_plain_characters()
    with warnings_in_one_line():
        return while_read(lambda: _main(words, args))


def _main(words: list[str], args: Sequence[str] | None) -> int:
    try:
        if not words or words[0] in (
            "-h",
            "--help",
        ):  # answered without the seconds that importing torch takes
            from hadrl_lightning.config_files import shipped_configs

            print(USAGE.replace("CONFIGS", ", ".join(shipped_configs())), end="")
            return 0 if words else 2
        if words[0] == "--version":
            print(f"hadrl-lightning {__version__}")
            return 0
        if words[0] not in COMMANDS and not words[0].startswith("-"):
            nearest = difflib.get_close_matches(words[0], COMMANDS, n=1)
            hint = f"; did you mean {nearest[0]}?" if nearest else ""
            raise HadrlError(f"command must be one of {', '.join(COMMANDS)}, got {words[0]!r}{hint}")
        if words[0] == "inspect":
            from hadrl_lightning.cli.inspection import run as inspect

            return inspect(words)
        if words[0] == "show":
            with StopSignals(abandonable=True).handled():
                from hadrl_lightning.cli.inspection import run as show

                return show(words)
        if words[0] in ("benchmark", "plot"):
            with StopSignals(abandonable=True).handled():
                from hadrl_lightning.cli.studies import run as run_study

                return run_study(words)
        from hadrl_lightning.cli.app import run

        run(args)
    except HadrlError as error:
        if os.environ.get("HADRL_DEBUG", "") not in ("", "0"):
            raise
        tell("error", error)
        return error.status
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        tell("error", unwritable(error))
        return 2
    except (Stopped, KeyboardInterrupt) as error:  # KeyboardInterrupt: before anything began
        stopped = error if isinstance(error, Stopped) else Stopped(signal.SIGINT)
        advice = stopped.advice or f"start again with: {shlex.join(['hadrl', *words])}"
        print(f"hadrl: {Stopped(stopped.signum, advice)}", file=sys.stderr)
        return stopped.status
    return 0

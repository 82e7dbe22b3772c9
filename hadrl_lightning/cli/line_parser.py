"""A parser of plain arguments, without settings: every mistake is told in one line."""

import argparse
from typing import NoReturn

from hadrl_lightning.errors import HadrlError


class LineParser(argparse.ArgumentParser):
    """Raises a HadrlError of one line where its base class prints the usage and exits."""

    _subcommands_action = None
    """It has no commands below it; jsonargparse asks when it writes the script of a shell's completion."""

    def error(self, message: str) -> NoReturn:
        """Raise `message`."""
        raise HadrlError(message)

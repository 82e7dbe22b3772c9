"""Errors that a user caused or can mend, as opposed to bugs of ours: the command line shows them as one line."""


class HadrlError(ValueError):
    """A request that can't be carried out: one line that names what is wrong, the value and what is allowed.

    The command line prints it without a traceback and ends with the exit status of the class.
    """

    status = 2
    """Exit status of the command line."""


class OutputError(HadrlError):
    """A file that can't be written: a full disk, a folder that is not writable."""


class HadrlWarning(UserWarning):
    """Something that the user should know and that stops nothing; the command line shows it in one line, once."""


class NonFiniteError(HadrlError):
    """A number of the training that is infinite or not a number."""

    status = 3

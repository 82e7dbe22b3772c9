"""The error that a user caused and can mend, as opposed to a bug of ours."""


class HadrlError(ValueError):
    """A request that can't be carried out: one line that names what is wrong, the value and what is allowed.

    The command line prints it without a traceback and ends with `exit_status`.
    """

    exit_status = 2

"""The one error type for everything a user can mend."""


class DimeError(Exception):
    """What was asked cannot be done; the message says why, with the value, and what to do instead.

    The command line prints the message alone and exits with status 2.
    """

"""The root of every error that zsm raises on purpose."""


class Error(Exception):
    """Something the caller can put right: the message says what was wrong, the value, and what to do.

    The command line prints the message alone and exits with status 1.
    """

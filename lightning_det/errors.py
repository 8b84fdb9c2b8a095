"""Errors that a user can mend."""


class UserError(Exception):
    """Commands print the message without a traceback and exit with 1."""

"""Errors that a user can mend."""


class UserError(Exception):
    """Commands print the message without a traceback and exit with 1."""


class ConfigError(UserError):
    """A setting is unknown, has the wrong type or contradicts another."""

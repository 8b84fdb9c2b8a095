"""Errors that a user can mend, and how they are said."""

import errno
import re


class UserError(Exception):
    """Commands print the message without a traceback and exit with 1."""


class ConfigError(UserError):
    """A setting is unknown, has the wrong type or contradicts another."""


def printable(text: str) -> str:
    """Text for a terminal or a log: what files may hold and neither can show is escaped, except ends of lines."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""A disk or a quota has no room."""


def explained(error: Exception) -> str | None:
    """An error in words that name what can be done about it; None for what is no fault of files or machine.

    Args:
        error: as it came out of a command.
    """
    text = str(error)
    if isinstance(error, UserError):
        # What a loader's process raises arrives as the report of its traceback, with the message at the end.
        name = f"{type(error).__module__}.{type(error).__qualname__}: "
        return printable(text.rpartition(name)[2].strip())
    if isinstance(error, RuntimeError) and re.search(r"DataLoader worker.*(killed|exited)", text):
        return (
            f"{text.splitlines()[0].rstrip('. ')}. The system ends loader processes that run out of memory, or of "
            "shared memory (df -h /dev/shm; docker run --shm-size=8g). Give data.num_workers=0 or fewer than now, or a "
            "smaller data.batch_size, and go on from the last checkpoint with resume=RUN_FOLDER"
        )
    if isinstance(error, RuntimeError) and re.search(r"Connection (closed|reset) by peer", text):
        return (
            "the connection to another rank is lost: it has ended, and says why, unless it was killed. Go on from the "
            "last checkpoint with resume=RUN_FOLDER"
        )
    if isinstance(error, OSError):
        # A full disk does not say which file it has no room for.
        place = "cannot write a file" if error.filename is None and error.errno in FULL else error.filename
        place = "" if place is None else f"{place}: "
        return printable(f"{place}{error.strerror or text or type(error).__name__}{_remedy(error)}")
    return None


def _remedy(error: OSError) -> str:
    if error.errno in FULL:
        return "; make space, or write elsewhere with hydra.run.dir=FOLDER"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENOENT):
        return "; if this is where results go, choose a folder that can be written with hydra.run.dir=FOLDER"
    return ""

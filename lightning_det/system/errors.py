"""Errors that a user can mend, and how they are said."""

import errno
import re

from lightning_det.system.refusals import explain_refusal


class UserError(Exception):
    """Commands print the message without a traceback and exit with 1."""


class ConfigError(UserError):
    """A setting is unknown, has the wrong type or contradicts another."""


def printable(text: str) -> str:
    """Text for a terminal or a log: what files may hold and neither can show is escaped, except ends of lines."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def one_line(text: str, longest: int | None = None) -> str:
    """`printable` for names, in which ends of lines are escaped too; cut off where they are too long to be shown."""
    shown = printable(text if longest is None else text[: longest + 1]).replace("\n", r"\n")
    return shown if longest is None or len(shown) <= longest else f"{shown[:longest]}..."


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""A disk or a quota has no room."""


OUT_OF_MEMORY = re.compile(
    r"out of memory|can't allocate memory|cannot allocate memory|not enough memory|unable to allocate|bad_alloc"
    r"|_ALLOC_FAILED|MemoryError|unable to (mmap|write to file|open shared memory)",
    re.IGNORECASE,
)
"""What torch, CUDA and its libraries, NumPy and the system say, in their own words or in a loader process's report."""


def out_of_memory(error: BaseException) -> bool:
    """Whether there was no room in the memory of the machine or of its accelerator."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    return isinstance(error, RuntimeError) and OUT_OF_MEMORY.search(str(error)) is not None


def explain_error(error: Exception) -> str | None:
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
    if out_of_memory(error):
        said = next((part.strip() for part in re.split(r"\.\s|\n", text) if OUT_OF_MEMORY.search(part)), "")
        return printable(
            f"out of memory{f' ({said[:200]})' if said else ''}. What needs less: a smaller data.batch_size "
            "(data.test_batch_size in validation and inference), a smaller dataset.resolution, tiles instead of whole "
            "images (strategy=[tiles,flip], test=[tiles]), fewer loader processes (data.num_workers). A training goes "
            "on from its last checkpoint with resume=RUN_FOLDER and the options that change"
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
    if type(error).__module__.startswith("wandb."):
        return (
            f"wandb: {text.strip().rstrip('.')}. Log in with `wandb login` or WANDB_API_KEY=..., or leave runs on this "
            "machine with logger.wandb.offline=true; `wandb sync` uploads them later"
        )
    return explain_refusal(error)


def _remedy(error: OSError) -> str:
    if error.errno in FULL:
        return "; make space, or write elsewhere with hydra.run.dir=FOLDER"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENOENT):
        return "; if this is where results go, choose a folder that can be written with hydra.run.dir=FOLDER"
    return ""

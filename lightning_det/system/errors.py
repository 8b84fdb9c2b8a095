"""Errors that a user can fix, and their messages."""

import errno
import re


class UserError(Exception):
    """An error that a user can fix. Commands print its message without a traceback and exit with 1."""


class ConfigError(UserError):
    """A setting is unknown, has the wrong type or contradicts another. Commands exit with 2."""


class ImageError(UserError):
    """A detector cannot learn from an image.

    Args:
        image: its position in the training split.
        reason: message that does not name the image.
    """

    def __init__(self, image: int, reason: str):
        super().__init__(f"image {image} of the training split (counted from 0): {reason}")
        self.image = image
        self.reason = reason


class CapabilityError(ConfigError):
    """A detector is asked for something that it cannot do; the message names the detector and the remedy."""


def printable(text: str) -> str:
    """Escapes characters that cannot be printed, except line breaks, for a terminal or a log."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def one_line(text: str, longest: int | None = None) -> str:
    """`printable` for names: line breaks are escaped too, and text beyond ``longest`` characters is cut off."""
    shown = printable(text if longest is None else text[: longest + 1]).replace("\n", r"\n")
    return shown if longest is None or len(shown) <= longest else f"{shown[:longest]}..."


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers of a full disk and of an exhausted quota."""

OUT_OF_MEMORY = re.compile(
    r"out of memory|can't allocate memory|cannot allocate memory|not enough memory|unable to allocate|bad_alloc"
    r"|_ALLOC_FAILED|MemoryError|unable to (mmap|write to file|open shared memory)",
    re.IGNORECASE,
)
"""Messages of torch, CUDA and its libraries, NumPy and the system, also in the traceback of a loader process."""


def out_of_memory(error: BaseException) -> bool:
    """Whether an error means that the memory of the machine or of its accelerator is exhausted."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    return isinstance(error, RuntimeError) and OUT_OF_MEMORY.search(str(error)) is not None


def explain_error(error: Exception) -> str | None:
    """Returns a message with remedies; None for errors that are not caused by settings, files or the machine.

    Args:
        error: an exception that has ended a command.
    """
    text = str(error)
    if isinstance(error, UserError):
        # An error of a loader process arrives as the text of its traceback, with the message at the end.
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
            "(data.test_batch_size or data.test_megapixels in validation and inference), a smaller dataset.resolution, "
            "tiles instead of whole images (strategy=[tiles,flip], test=[tiles]), fewer loader processes "
            "(data.num_workers). A training goes on from its last checkpoint with resume=RUN_FOLDER and the options "
            "that change"
        )
    if isinstance(error, RuntimeError) and re.search(r"Connection (closed|reset) by peer", text):
        return (
            "the connection to another rank is lost: it has ended, and says why, unless it was killed. Go on from the "
            "last checkpoint with resume=RUN_FOLDER"
        )
    if isinstance(error, OSError):
        # The error of a full disk does not name the file.
        subject = "cannot write a file" if error.filename is None and error.errno in FULL else error.filename
        prefix = "" if subject is None else f"{subject}: "
        return printable(f"{prefix}{error.strerror or text or type(error).__name__}{_remedy(error)}")
    if type(error).__module__.startswith("wandb."):
        return (
            f"wandb: {text.strip().rstrip('.')}. Log in with `wandb login` or WANDB_API_KEY=..., or leave runs on this "
            "machine with logger.wandb.offline=true; `wandb sync` uploads them later"
        )
    from lightning_det.system.refusals import explain_refusal  # Lightning, which takes seconds

    return explain_refusal(error)


def _remedy(error: OSError) -> str:
    if error.errno in FULL:
        return "; make space, or write elsewhere with hydra.run.dir=FOLDER"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENOENT):
        return "; if this is where results go, choose a folder that can be written with hydra.run.dir=FOLDER"
    return ""

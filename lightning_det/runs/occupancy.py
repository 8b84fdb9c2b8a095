"""A run folder belongs to one run, and to one process at a time."""

import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import IO

from lightning_det.runs.resume import OVERRIDES
from lightning_det.system.errors import ConfigError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK = ".lock"
"""In a folder in which a process works: its number and machine."""

SWEEP = "sweep.yaml"
"""How a sweep was started, in its folder."""

OF_A_TRAINING = ("checkpoints/*.ckpt", "metrics.csv")

OF_A_SWEEP = ("sweep.json", SWEEP, "multirun.yaml")

OF_A_RUN = (*OF_A_TRAINING, "config.yaml", OVERRIDES, "metrics.json", "mining.ckpt", "proposals.npz", "status.json")
"""What a new training would overwrite or, worse, take for its own. Hydra's own files tell of refused starts too."""

HELD: dict[Path, IO] = {}
"""Lock files of the folders in which this process works."""


def found(folder: Path, patterns: tuple[str, ...]) -> list[str]:
    """Which of some files a folder holds."""
    return [str(file.relative_to(folder)) for pattern in patterns for file in sorted(folder.glob(pattern))]


def refuse_used(folder: Path, command: str, elsewhere: str | None = None) -> None:
    """Refuses a run folder whose run a new one would overwrite.

    A training needs a folder without any run. Other commands replace their own results, but leave trainings alone.

    Args:
        folder: that may not exist.
        command: ``train``, or what else is to run there.
        elsewhere: the option that gives another folder; None is that of a single run.

    Raises:
        ConfigError: with the ways out.
    """
    there = found(folder, (*OF_A_RUN, *OF_A_SWEEP) if command == "train" else OF_A_TRAINING)
    if not there:
        return
    several = " ..." if len(there) > 4 else ""
    elsewhere = elsewhere or f"hydra.run.dir={free(folder)}"
    ways = [f"another folder ({elsewhere})", "remove this one first"]
    ended, begun = ((folder / name).exists() for name in ("metrics.json", OVERRIDES))
    if found(folder, OF_A_SWEEP):
        kind, ways = "a sweep", [f"go on with it (-m hydra.sweep.dir={folder})", *ways]
    elif "status.json" in there:
        kind, ways = "a job of a sweep", ["go on with its sweep (-m hydra.sweep.dir=ITS_FOLDER)", *ways]
    else:
        kind = "a run that has ended" if ended else "a run that was begun"
        if (folder / "checkpoints/last.ckpt").exists() or (begun and not ended):
            ways.insert(0, f"go on with it (train resume={folder})")
    raise ConfigError(
        f"{folder} holds {kind} ({', '.join(there[:4])}{several}), which another one would overwrite. "
        f"Choose: {', '.join(ways[:-1])}, or {ways[-1]}"
    )


def occupy(folder: Path, command: str, goes_on: bool = False) -> None:
    """Takes a run folder for this process; of several that want it at once, one gets it.

    Args:
        folder: is made, if nothing speaks against it.
        command: see `refuse_used`.
        goes_on: with the run that is there.

    Raises:
        ConfigError: another process works there, or it holds another run.
    """
    if not goes_on and not (folder / LOCK).exists():
        refuse_used(folder, command)
    hold(folder)
    if not goes_on:
        try:
            refuse_used(folder, command)  # perhaps of a process that has ended in between
        except ConfigError:
            release(folder)
            raise


def forget(folder: Path) -> list[str]:
    """Removes what a training that starts over has left of its first start, and would be taken for its own.

    Returns:
        The files.
    """
    gone = found(folder, (*OF_A_TRAINING, "metrics.json"))
    for name in gone:
        (folder / name).unlink(missing_ok=True)
    return gone


def free(folder: Path) -> Path:
    """A folder of this name and a number that does not exist."""
    folder = folder if folder.name else folder.resolve()
    number = 2
    while (place := folder.with_name(f"{folder.name}-{number}")).exists():
        number += 1
    return place


def hold(folder: Path) -> None:
    """Locks a folder until `release` or the end of this process, even if it is killed.

    The lock is no child's, so that loader processes do not keep it longer. Where the file system has no locks,
    nothing is locked.

    Args:
        folder: is made.

    Raises:
        ConfigError: another process works there.
    """
    place = folder.resolve()
    if fcntl is None or place in HELD:
        return
    place.mkdir(parents=True, exist_ok=True)
    while True:
        stream = (place / LOCK).open("a+")
        if not _locked(stream):
            with stream:
                raise ConfigError(used_by(folder, _holder(stream)))
        if _is(stream, place / LOCK):
            break
        stream.close()  # the one before has just removed it
    stream.truncate(0)
    stream.write(f"{os.getpid()} on {socket.gethostname()}")
    stream.flush()
    HELD[place] = stream


def used_by(folder: Path, holder: str) -> str:
    """What is said of a folder in which another process works."""
    return (
        f"{folder} is in use: process {holder} works in it. Let it end, or stop it; what else is to run needs a "
        f"folder of its own, such as {free(folder)}"
    )


def release(folder: Path) -> None:
    """Unlocks a folder, if this process has locked it."""
    stream = HELD.pop(folder.resolve(), None)
    if stream is not None:
        with stream, suppress(OSError):
            os.unlink(stream.name)


def _locked(stream: IO) -> bool:
    """Whether this process has the lock of a file now, or none is to be had on its file system."""
    try:
        fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        pass
    return True


def _holder(stream: IO) -> str:
    stream.seek(0)
    return stream.read().strip() or "of an unknown number"


def _is(stream: IO, file: Path) -> bool:
    """Whether an open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(stream.fileno()), file.stat())
    except FileNotFoundError:
        return False

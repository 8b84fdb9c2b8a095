"""A run folder belongs to one run, and to one process at a time."""

import os
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

from lightning_det.runs.layout import LAST, LOCK, METRICS, OF_A_RUN, OF_A_SWEEP, OF_A_TRAINING, OVERRIDES, STATUS
from lightning_det.system.errors import ConfigError

if sys.platform != "win32":
    import fcntl

PATIENCE = 5.0
"""Seconds that a process waits for the one that has just locked a folder to write its number."""

LOCKED: dict[Path, IO[str]] = {}
"""Open lock files by folder, of the folders that this process has locked."""


def find_files(folder: Path, patterns: tuple[str, ...]) -> list[str]:
    """The files of a folder that match some patterns, relative to the folder."""
    return [str(file.relative_to(folder)) for pattern in patterns for file in sorted(folder.glob(pattern))]


def check_unused(folder: Path, command: str, elsewhere: str | None = None) -> None:
    """Refuses a run folder whose run a new one would overwrite.

    A training needs a folder without any run. Other commands replace their own results, but leave trainings alone.

    Args:
        folder: need not exist.
        command: the command that is to run there.
        elsewhere: the override that gives another folder; None takes ``hydra.run.dir``.

    Raises:
        ConfigError: the folder holds a run. The message lists the alternatives.
    """
    there = find_files(folder, (*OF_A_RUN, *OF_A_SWEEP) if command == "train" else OF_A_TRAINING)
    if not there:
        return
    several = " ..." if len(there) > 4 else ""
    elsewhere = elsewhere or f"hydra.run.dir={unused_folder(folder)}"
    ways = [f"another folder ({elsewhere})", "remove this one first"]
    ended, begun = ((folder / name).exists() for name in (METRICS, OVERRIDES))
    if find_files(folder, OF_A_SWEEP):
        kind, ways = "a sweep", [f"go on with it (-m hydra.sweep.dir={folder})", *ways]
    elif STATUS in there:
        kind, ways = "a job of a sweep", ["go on with its sweep (-m hydra.sweep.dir=ITS_FOLDER)", *ways]
    else:
        kind = "a run that has ended" if ended else "a run that was begun"
        if (folder / LAST).exists() or (begun and not ended):
            ways.insert(0, f"go on with it (train resume={folder})")
    raise ConfigError(
        f"{folder} holds {kind} ({', '.join(there[:4])}{several}), which another one would overwrite. "
        f"Choose: {', '.join(ways[:-1])}, or {ways[-1]}"
    )


def take_folder(folder: Path, command: str, resumes: bool = False) -> None:
    """Locks a run folder for this process. If several processes want it at once, one of them gets it.

    Args:
        folder: is created unless it is refused.
        command: the command that is to run there.
        resumes: whether the run in the folder is resumed.

    Raises:
        ConfigError: another process works there, or the folder holds another run.
    """
    if not resumes and not (folder / LOCK).exists():
        check_unused(folder, command)
    lock_folder(folder)
    if not resumes:
        try:
            check_unused(folder, command)  # another process may have worked there since the first check
        except ConfigError:
            unlock_folder(folder)
            raise


def remove_results(folder: Path) -> list[str]:
    """Removes files of a training that starts over, which would be mistaken for files of the new start.

    Returns:
        The removed files.
    """
    removed = find_files(folder, (*OF_A_TRAINING, METRICS))
    for name in removed:
        (folder / name).unlink(missing_ok=True)
    return removed


def unused_folder(folder: Path) -> Path:
    """A folder that does not exist, named like the given one with a number added."""
    folder = folder if folder.name else folder.resolve()
    number = 2
    while (other := folder.with_name(f"{folder.name}-{number}")).exists():
        number += 1
    return other


def lock_folder(folder: Path) -> None:
    """Locks a folder until `unlock_folder` or the end of this process, even if the process is killed.

    Child processes do not inherit the lock, so loader processes do not keep it longer. Nothing is locked where the
    system or the file system has no locks.

    Args:
        folder: is created.

    Raises:
        ConfigError: another process has locked it.
    """
    resolved = folder.resolve()
    if sys.platform == "win32" or resolved in LOCKED:
        return
    resolved.mkdir(parents=True, exist_ok=True)
    while True:
        stream = (resolved / LOCK).open("a+")
        if not _try_lock(stream):
            with stream:
                raise ConfigError(_in_use(folder, _read_holder(stream)))
        if _is_same_file(stream, resolved / LOCK):
            break
        stream.close()  # its former holder has just removed it
    stream.truncate(0)
    stream.write(f"{os.getpid()} on {socket.gethostname()}")
    stream.flush()
    LOCKED[resolved] = stream


def _in_use(folder: Path, holder: str) -> str:
    """The message about a folder that another process has locked."""
    return (
        f"{folder} is in use: process {holder} works in it. Let it end, or stop it; what else is to run needs a "
        f"folder of its own, such as {unused_folder(folder)}"
    )


def unlock_folder(folder: Path) -> None:
    """Unlocks a folder if this process has locked it."""
    stream = LOCKED.pop(folder.resolve(), None)
    if stream is not None:
        with stream, suppress(OSError):
            os.unlink(stream.name)


def _try_lock(stream: IO[str]) -> bool:
    """Locks a file; False if another process has it. A file system without locks counts as success."""
    if sys.platform == "win32":
        return True
    try:
        fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        pass
    return True


def _read_holder(stream: IO[str]) -> str:
    """The number and machine of the process that has locked a file, as it wrote them right after."""
    end = time.monotonic() + PATIENCE
    while True:
        stream.seek(0)
        holder = stream.read().strip()
        if holder or time.monotonic() > end:
            return holder or "of an unknown number"
        time.sleep(0.02)


def _is_same_file(stream: IO[str], file: Path) -> bool:
    """Whether an open file is still the one with its name."""
    try:
        return os.path.samestat(os.fstat(stream.fileno()), file.stat())
    except FileNotFoundError:
        return False

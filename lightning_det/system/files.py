"""Writes files completely or not at all, reads many files, and lets processes take turns."""

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar

if sys.platform != "win32":
    import fcntl

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def atomic_write(file: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Opens a new file that replaces the old one only when it is completely on disk.

    If the process is killed or the disk is full, the old file is kept.

    Args:
        file: the file to write. Its folder is created.
        mode: ``w`` for UTF-8 text with line ends as they are, or ``wb``.

    Raises:
        OSError: the file cannot be written. No partial file is left.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    try:
        with part.open("wb") if mode == "wb" else part.open("w", encoding="utf-8", newline="") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(file)
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(file)  # the error of a full disk does not name the file
        raise
    finally:
        part.unlink(missing_ok=True)


def write_json(file: Path, content: object, indent: int | None = 1) -> None:
    """Writes plain data as JSON, on one line if ``indent`` is None."""
    with atomic_write(file) as stream:
        json.dump(content, stream, indent=indent)


def read_json(file: Path) -> dict[str, Any]:
    """Reads the dictionary in a JSON file; empty if the file is damaged or does not exist."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def in_threads(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Calls a function that waits for the disk in several threads; returns results in the order of the items.

    A thread gets many items at once: handing over a single item takes longer than reading the size of a file.
    """
    parts = [items[start : start + 1000] for start in range(0, len(items), 1000)]
    with ThreadPoolExecutor(8) as pool:
        return [result for part in pool.map(lambda part: list(map(function, part)), parts) for result in part]


def files_below(folder: Path) -> list[Path]:
    """Lists all files in a folder and its subfolders, sorted. Follows links, except to a folder that contains them.

    Raises:
        OSError: a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise error

    found, real = [], os.path.realpath
    parents = {str(folder): {real(folder)}}  # real paths of a folder and its parents
    for path, folders, files in os.walk(str(folder), onerror=refuse, followlinks=True):
        own = parents.pop(path)
        below = {name: real(os.path.join(path, name)) for name in folders}
        folders[:] = [name for name in folders if below[name] not in own]
        parents |= {os.path.join(path, name): own | {below[name]} for name in folders}
        found += [Path(path, name) for name in files]
    return sorted(found)


def same_files(files: Sequence[str | Path]) -> dict[int, int]:
    """Maps positions of repeated files to their first position in the list; links to the same file count too."""
    first: dict[tuple[int, int], int] = {}
    again = {}
    for number, file in enumerate(files):
        try:
            status = os.stat(file)
        except (OSError, ValueError):
            continue
        before = first.setdefault((status.st_dev, status.st_ino), number)
        if before != number and status.st_ino:  # some file systems have no inode numbers
            again[number] = before
    return again


@contextmanager
def exclusive(file: Path) -> Iterator[None]:
    """Runs the body in one process at a time.

    This avoids repeated work, but is no guarantee: if files cannot be locked, all processes enter, and two may enter
    after the first has left. The body must be safe in these cases.

    Args:
        file: the lock file, which exists only while a process is inside.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as stream:
        if sys.platform != "win32":
            with suppress(OSError):  # some network file systems have no locks
                fcntl.flock(stream, fcntl.LOCK_EX)
        try:
            yield
        finally:
            file.unlink(missing_ok=True)

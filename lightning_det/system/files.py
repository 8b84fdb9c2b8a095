"""Files that are there as a whole or not at all, and processes that wait for each other's."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


@contextmanager
def atomic_write(file: Path, mode: str = "w") -> Iterator[IO]:
    """Opens a file to write that replaces the old one only when all of it is on the disk.

    A process that is killed, or a disk that is full, leaves the old file, if there was one.

    Args:
        file: to write; its folder is made.
        mode: ``w`` or ``wb``.

    Raises:
        OSError: it cannot be written; nothing is left behind.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    try:
        with part.open(mode, **({} if "b" in mode else {"encoding": "utf-8", "newline": ""})) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(file)
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(file)  # a full disk does not say which file it has no room for
        raise
    finally:
        part.unlink(missing_ok=True)


def write_json(file: Path, content: object, indent: int | None = 1) -> None:
    """Writes plain data as json, for people to read unless ``indent`` is None."""
    with atomic_write(file) as stream:
        json.dump(content, stream, indent=indent)


def read_json(file: Path) -> dict[str, Any]:
    """What a json file of ours holds; nothing if it is damaged or not there."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def in_threads(function: Callable, items: Sequence) -> list:
    """Results of a quick function that waits for the disk, in order.

    A thread takes many items at once: handing over each by itself takes longer than to ask for the size of a file.
    """
    parts = [items[start : start + 1000] for start in range(0, len(items), 1000)]
    with ThreadPoolExecutor(8) as pool:
        return [result for part in pool.map(lambda part: list(map(function, part)), parts) for result in part]


def files_below(folder: Path) -> list[Path]:
    """All files in a folder and its subfolders, sorted. Links are followed, but not to a folder that they lie in.

    Raises:
        OSError: a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise error

    found, real = [], os.path.realpath
    above = {str(folder): {real(folder)}}  # where the folders on the way to one really are
    for place, folders, files in os.walk(str(folder), onerror=refuse, followlinks=True):
        way = above.pop(place)
        below = {name: real(os.path.join(place, name)) for name in folders}
        folders[:] = [name for name in folders if below[name] not in way]
        above |= {os.path.join(place, name): way | {below[name]} for name in folders}
        found += [Path(place, name) for name in files]
    return sorted(found)


def same_files(files: Sequence[str | Path]) -> dict[int, int]:
    """Positions of files that have been there before under this name or, by links, another; with where that was."""
    first: dict[tuple[int, int], int] = {}
    again = {}
    for number, file in enumerate(files):
        try:
            status = os.stat(file)
        except (OSError, ValueError):
            continue
        before = first.setdefault((status.st_dev, status.st_ino), number)
        if before != number and status.st_ino:  # some file systems number nothing
            again[number] = before
    return again


@contextmanager
def exclusive(file: Path) -> Iterator[None]:
    """Lets one process in while others wait.

    Where nothing can be locked all come in, and when the first has left perhaps two: it saves work that several would
    do at once, and what they do has to bear that.

    Args:
        file: that stands for what they do; it is there only while one is in.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as stream:
        if fcntl is not None:
            with suppress(OSError):  # some network file systems have no locks
                fcntl.flock(stream, fcntl.LOCK_EX)
        try:
            yield
        finally:
            file.unlink(missing_ok=True)

"""Sizes of image files, and damage that only decoding them shows."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from lightning_det.annotations.problems import IMAGE_LEFT_OUT, Problem
from lightning_det.data.images import LARGE, decode, header
from lightning_det.data.opening import ImageError
from lightning_det.data.windows import open_windows
from lightning_det.system.workload import progress

_one_large = threading.Lock()

Result = TypeVar("Result")


def image_size(path: Path) -> tuple[int, int]:
    """Reads the (width, height) of an image file, as it is displayed, from its header.

    A JPEG file without an end marker, or a PNG file with a wrong checksum, is decoded: it may be damaged or merely
    unusual.

    Raises:
        ImageError: the file is missing, cut off or damaged, or `open_image` refuses it.
    """
    found = header(path)
    return found.size if found.complete else decoded_size(path)


def decoded_size(path: Path) -> tuple[int, int]:
    """Decodes an image to find damage; returns its (width, height).

    Threads decode images of `LARGE` pixels and more one at a time.

    Raises:
        ImageError: see `decode`.
    """

    def size() -> tuple[int, int]:
        _, height, width = decode(path).shape
        return width, height

    width, height = header(path).stored
    if width * height < LARGE:
        return size()
    windows = open_windows(path)
    if windows is not None:
        with _one_large:
            windows.check()
        return width, height
    # A new thread reuses the memory of the previous one; each thread of a pool would keep its freed memory.
    with _one_large, ThreadPoolExecutor(1) as pool:
        return pool.submit(size).result()


def size_fault(path: Path, annotated: tuple[int, int], size: tuple[int, int], name: str = "it") -> str:
    """Says why an image does not have the size that its annotations state.

    Args:
        path: the file.
        annotated: (width, height) that the annotations state.
        size: (width, height) of the image as it is displayed.
        name: word for the image in the message.
    """
    stated, real = (" x ".join(map(str, s)) for s in (annotated, size))
    reason = f"annotated as {stated}, but {name} is {real}"
    try:
        found = header(path)
    except ImageError:
        return reason
    if found.size != tuple(size) or found.stored != tuple(annotated) or found.orientation == 1:
        return reason
    return (
        f"{reason} as it is seen: it is stored as {stated} and turned by its Exif orientation {found.orientation}, so "
        "the annotations seem to be for the unturned pixels. Annotate it as it is seen, or take the orientation out "
        "of the file (exiftool -Orientation= FILE), which leaves its pixels as they are annotated"
    )


def check_all(
    paths: Sequence[Path], function: Callable[[Path], Result], description: str, threads: int = 8
) -> tuple[list[Result | None], dict[int, Problem]]:
    """Runs a function on many image files, in threads, with a progress bar.

    Args:
        paths: the files.
        function: reads an image file; raises `ImageError` for a bad file.
        description: of the progress bar.
        threads: number of files that are read at once.

    Returns:
        A result for each file (None for a bad one), and the problem of every bad file by its position.
    """
    problems: dict[int, Problem] = {}

    def attempt(number: int, path: Path) -> Result | None:
        try:
            return function(path)
        except ImageError as error:
            reason = str(error).removeprefix(f"{path}: ")
            problems[number] = Problem(str(path), "", reason, IMAGE_LEFT_OUT)
            return None

    with ThreadPoolExecutor(threads) as pool:
        results = pool.map(attempt, range(len(paths)), paths, chunksize=64)
        return list(progress(results, description, len(paths))), dict(sorted(problems.items()))

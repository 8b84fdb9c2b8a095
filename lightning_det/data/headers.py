"""Sizes of many images, which are looked at once and then only if they have changed."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lightning_det.annotations.problems import Problem
from lightning_det.annotations.strings import Strings
from lightning_det.data.cache import keep, kept, named
from lightning_det.data.images import check_all, image_size
from lightning_det.system.files import in_threads

FEWEST = 5000
"""Images of a folder from which on their sizes are kept: fewer are read in a second."""

SETTLED = 2.0
"""Seconds for which a file must not have changed: on some file systems, changes within them have the same time."""


def sizes_of(root: Path, files: Sequence[str]) -> tuple[np.ndarray, dict[int, Problem]]:
    """Sizes of images by their headers.

    Of a folder of many images the good ones are known by their file's size, times and number, and looked at anew when
    one of these has changed. Bad ones are looked at every time.

    Args:
        root: folder that ``files`` are relative to.
        files: names.

    Returns:
        (n, 2) int64 width and height, zeros for a bad image, and what is wrong with it, by its position.
    """
    sizes, known = np.zeros((len(files), 2), np.int64), np.zeros(len(files), bool)
    if len(files) >= FEWEST:
        name, began = named(str(root.resolve()), Strings.pack(files).data.tobytes()), time.time_ns()
        stamps = np.array(in_threads(_stamp, [f"{root}/{file}" for file in files]), np.int64)
        sizes, known = _known(name, stamps)
    unknown = np.flatnonzero(~known)
    if not len(unknown):
        return sizes, {}
    found, problems = check_all([root / files[i] for i in unknown], image_size, "reading image headers")
    sizes[unknown] = np.array([size or (0, 0) for size in found], np.int64).reshape(-1, 2)
    if len(files) >= FEWEST:
        settled = stamps[:, 1:3].max(axis=1) < began - SETTLED * 1e9
        keep(name, {"stamps": np.where(settled[:, None], stamps, 0), "sizes": sizes})
    return sizes, {int(unknown[position]): problem for position, problem in problems.items()}


def _stamp(path: str) -> tuple[int, int, int, int]:
    """What changes with a file: its size, times of change of content and of the file, its number. Zeros: no file."""
    try:
        found = os.stat(path)
    except OSError:
        return 0, 0, 0, 0
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino % 2**63


def _known(name: str, stamps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sizes (n, 2) that are kept, and for which files (n,) they still hold."""
    arrays = kept(name) or {}
    before, sizes = (arrays.get(key, np.zeros(0)) for key in ("stamps", "sizes"))
    if before.shape != stamps.shape or sizes.shape != (len(stamps), 2) or {before.dtype, sizes.dtype} != {stamps.dtype}:
        return np.zeros((len(stamps), 2), np.int64), np.zeros(len(stamps), bool)
    known = (before == stamps).all(axis=1) & (stamps[:, 0] > 0) & (sizes > 0).all(axis=1)
    return np.where(known[:, None], sizes, 0), known

"""Reads the sizes of many images: once, and again only for files that have changed."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lightning_det.annotations.problems import Problem
from lightning_det.annotations.strings import Strings
from lightning_det.data.cache import cache_key, load_cached, save_cached
from lightning_det.data.sizes import check_all, image_size
from lightning_det.system.files import in_threads

FEWEST = 5000
"""Minimum number of images in a folder whose sizes are cached: fewer can be read in a second."""

SETTLED = 2.0
"""A file's size is cached if the file is this many seconds old: some file systems round times to seconds."""


def sizes_of(root: Path, files: Sequence[str]) -> tuple[np.ndarray, dict[int, Problem]]:
    """Reads the sizes of images from their headers.

    In a folder of many images, sizes are cached and read again when length, times or number (inode) of the file have
    changed. Bad images are read every time.

    Args:
        root: folder that ``files`` are relative to.
        files: names of the images.

    Returns:
        (n, 2) int64 width and height, zeros for a bad image, and the problem of every bad image by its position.
    """
    sizes, known = np.zeros((len(files), 2), np.int64), np.zeros(len(files), bool)
    if len(files) >= FEWEST:
        key, began = cache_key(str(root.resolve()), Strings.pack(files).data.tobytes()), time.time_ns()
        stamps = np.array(in_threads(_stamp, [f"{root}/{file}" for file in files]), np.int64)
        sizes, known = _load_known(key, stamps)
    unknown = np.flatnonzero(~known).tolist()
    if not unknown:
        return sizes, {}
    found, problems = check_all([root / files[i] for i in unknown], image_size, "reading image headers")
    sizes[unknown] = np.array([size or (0, 0) for size in found], np.int64).reshape(-1, 2)
    if len(files) >= FEWEST:
        settled = stamps[:, 1:3].max(axis=1) < began - SETTLED * 1e9
        save_cached(key, {"stamps": np.where(settled[:, None], stamps, 0), "sizes": sizes})
    return sizes, {unknown[position]: problem for position, problem in problems.items()}


def _stamp(path: str) -> tuple[int, int, int, int]:
    """Length of a file, times of its last change of content and of status, and inode; zeros if there is no file."""
    try:
        found = os.stat(path)
    except OSError:
        return 0, 0, 0, 0
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino % 2**63


def _load_known(key: str, stamps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Loads cached sizes (n, 2) int64, and whether they are still valid (n,) bool."""
    arrays = load_cached(key) or {}
    before, sizes = (arrays.get(key, np.zeros(0)) for key in ("stamps", "sizes"))
    if before.shape != stamps.shape or sizes.shape != (len(stamps), 2) or {before.dtype, sizes.dtype} != {stamps.dtype}:
        return np.zeros((len(stamps), 2), np.int64), np.zeros(len(stamps), bool)
    known = (before == stamps).all(axis=1) & (stamps[:, 0] > 0) & (sizes > 0).all(axis=1)
    return np.where(known[:, None], sizes, 0), known

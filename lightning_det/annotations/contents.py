"""Identifies image files by length and content: a copy elsewhere counts as the same file, a replaced file does not."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lightning_det.system.files import in_threads

PART = 32 * 2**10
"""How many bytes are read at the beginning, and as many at the end, of a file."""


def lengths_of(paths: Sequence[Path]) -> np.ndarray:
    """Lengths (n,) int64 of files in bytes; -1 for a file that is missing."""
    return np.array(in_threads(_length, paths), np.int64)


def digests_of(paths: Sequence[Path]) -> np.ndarray:
    """Digests (n,) uint64 of each file's length, first and last bytes; 0 for a file that cannot be read."""
    return np.array(in_threads(_digest, paths), np.uint64)


def _length(path: Path) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return -1


def _digest(path: Path) -> int:
    try:
        with path.open("rb") as file:
            length = file.seek(0, os.SEEK_END)
            file.seek(0)
            content = file.read(PART)
            file.seek(max(len(content), length - PART))
            content += file.read(PART)
    except OSError:
        return 0
    return int.from_bytes(hashlib.blake2b(b"%d " % length + content, digest_size=8).digest())

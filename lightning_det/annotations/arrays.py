"""Arrays in ``.npz`` files, with plain data beside them; nothing is pickled."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, ZipFile

import numpy as np

from lightning_det.system.files import atomic_write


def save_arrays(file: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays, whole or not at all; the folder is made if need be."""
    with atomic_write(file, "wb") as stream:
        np.savez(stream, **arrays)


def load_arrays(file: Path) -> dict[str, np.ndarray]:
    """Reads what `save_arrays` wrote.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no such file; among others (`BadZipFile`, `EOFError`) that NumPy raises for damaged ones.
        MemoryError: an array claims to be larger than memory.
    """
    with ZipFile(file) as content:
        # Stored as they are, arrays cannot become larger than the file is.
        if any(entry.compress_type != ZIP_STORED for entry in content.infolist()):
            raise ValueError(f"{file}: compressed arrays")
    with np.load(file, allow_pickle=False) as data:
        return dict(data)


def check_groups(offsets: np.ndarray, groups: int, size: int) -> None:
    """Checks that offsets divide a flat array of some ``size`` into so many ``groups``.

    Raises:
        ValueError: they do not.
    """
    sound = offsets.dtype == np.int64 and offsets.shape == (groups + 1,)
    if not sound or offsets[0] != 0 or offsets[-1] != size or (np.diff(offsets) < 0).any():
        raise ValueError("offsets do not divide their array")


def from_plain(data: Any) -> np.ndarray:
    """Plain data as an array: the bytes of its json."""
    return np.frombuffer(json.dumps(data).encode(), np.uint8)


def to_plain(array: np.ndarray) -> Any:
    """Undoes `from_plain`."""
    return json.loads(array.tobytes())

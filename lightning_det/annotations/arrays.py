"""Arrays and json data in uncompressed ``.npz`` files; nothing is pickled."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, ZipFile

import numpy as np

from lightning_det.system.files import atomic_write


def save_arrays(file: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes named arrays to a file atomically; creates the folder if it is missing."""
    with atomic_write(file, "wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]  # its stub takes any name for allow_pickle


def load_arrays(file: Path) -> dict[str, np.ndarray]:
    """Reads a file that `save_arrays` wrote.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not such a file. For damaged files NumPy also raises `BadZipFile`, `EOFError` and others.
        MemoryError: an array claims to be larger than memory.
    """
    with ZipFile(file) as content:
        # Without compression, arrays cannot become larger than the file.
        if any(entry.compress_type != ZIP_STORED for entry in content.infolist()):
            raise ValueError(f"{file}: compressed arrays")
    with np.load(file, allow_pickle=False) as data:
        return dict(data)


def check_groups(offsets: np.ndarray, groups: int, length: int) -> None:
    """Checks offsets that divide a flat array into groups.

    Args:
        offsets: should be (groups + 1,) int64, ascending from 0 to ``length``.
        groups: number of groups.
        length: length of the flat array.

    Raises:
        ValueError: they do not.
    """
    sound = offsets.dtype == np.int64 and offsets.shape == (groups + 1,)
    if not sound or offsets[0] != 0 or offsets[-1] != length or (np.diff(offsets) < 0).any():
        raise ValueError("offsets do not divide their array")


def pack_json(data: Any) -> np.ndarray:
    """Encodes plain data as json, in an array (N,) uint8 of its bytes."""
    return np.frombuffer(json.dumps(data).encode(), np.uint8)


def unpack_json(array: np.ndarray) -> Any:
    """Undoes `pack_json`."""
    return json.loads(array.tobytes())

"""Arrays in ``.npz`` files, with plain data beside them; nothing is pickled."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lightning_det.files import whole


def save_arrays(file: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays, whole or not at all; the folder is made if need be."""
    with whole(file, "wb") as stream:
        np.savez(stream, **arrays)


def from_plain(data: Any) -> np.ndarray:
    """Plain data as an array: the bytes of its json."""
    return np.frombuffer(json.dumps(data).encode(), np.uint8)


def to_plain(array: np.ndarray) -> Any:
    """Undoes `from_plain`."""
    return json.loads(array.tobytes())

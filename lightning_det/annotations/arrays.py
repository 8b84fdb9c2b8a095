"""Arrays in ``.npz`` files, with plain data beside them; nothing is pickled."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


def save_arrays(file: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays, whole or not at all; the folder is made if need be."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    with partial.open("wb") as stream:
        np.savez(stream, **arrays)
    partial.replace(file)


def from_plain(data: Any) -> np.ndarray:
    """Plain data as an array: the bytes of its json."""
    return np.frombuffer(json.dumps(data).encode(), np.uint8)


def to_plain(array: np.ndarray) -> Any:
    """Undoes `from_plain`."""
    return json.loads(array.tobytes())

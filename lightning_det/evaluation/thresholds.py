"""Score thresholds of the classes, as an evaluation has measured them, and their file ``thresholds.json``."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from lightning_det.system.errors import UserError
from lightning_det.system.files import write_json

THRESHOLDS = "thresholds.json"
"""Name of the file in a run folder."""

SHOWN = 0.3
"""Lowest score of the detections of a class for which nothing has been measured."""

FEWEST = 10
"""A class with fewer boxes in the evaluated images has no threshold of its own: so few say little."""


@dataclass(frozen=True)
class Thresholds:
    """Score thresholds: detections with a lower score are left out.

    Each maximises F1, the harmonic mean of precision and recall, at IoU 0.5 on the evaluated images.
    """

    per_class: Mapping[str, float]
    """Threshold of each class by its name. Classes with fewer than `FEWEST` boxes, and classes of which no detection
    is right, are absent."""
    overall: float | None
    """One threshold for all classes, by the sum of their boxes and detections; None if no detection is right."""
    f1: Mapping[str, float]
    """F1 of each class in ``per_class`` at its threshold, 0 to 1."""
    boxes: Mapping[str, int]
    """Number of boxes of every class in the evaluated images, without ignored ones."""
    images: int
    """Number of evaluated images."""
    measured_on: str
    """The split and its source, for messages."""

    def of(self, names: Sequence[str], otherwise: float) -> np.ndarray:
        """Thresholds of classes in the order of their labels, (K,) float64.

        Args:
            names: of the classes.
            otherwise: threshold of classes without one of their own, if there is no ``overall`` either.
        """
        fallback = otherwise if self.overall is None else self.overall
        return np.array([self.per_class.get(name, fallback) for name in names], np.float64)

    def write(self, path: Path) -> None:
        """Writes a JSON file."""
        write_json(path, asdict(self))

    @classmethod
    def read(cls, path: Path) -> "Thresholds":
        """Reads a JSON file, or the one in a run folder.

        Raises:
            UserError: the file does not exist, or holds no thresholds; the message names it.
        """
        file = path / THRESHOLDS if path.is_dir() else path
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise UserError(
                f"{file}: no such file; lightning-det eval checkpoint=RUN writes it into its run folder"
            ) from error
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"{file}: cannot be read as JSON ({error})") from error
        if wrong := _find_wrong(content):
            raise UserError(f"{file}: not the thresholds of an evaluation: {wrong}")
        return cls(**{field.name: content[field.name] for field in fields(cls)})


def _find_wrong(content: Any) -> str:
    """Names what is wrong with the content of a file; empty if nothing is."""
    if not isinstance(content, dict):
        return "a dictionary is expected"
    missing = [field.name for field in fields(Thresholds) if field.name not in content]
    if missing:
        return f"{', '.join(missing)} missing"
    for name, largest in {"per_class": 1.0, "f1": 1.0, "boxes": float("inf")}.items():
        node = content[name]
        if not isinstance(node, dict) or not all(_is_number(value, largest) for value in node.values()):
            return f"{name} must map class names to numbers from 0" + (" to 1" if largest == 1 else "")
    if not (content["overall"] is None or _is_number(content["overall"], 1.0)):
        return "overall must be a number from 0 to 1, or null"
    return "" if type(content["images"]) is int and isinstance(content["measured_on"], str) else "images, measured_on"


def _is_number(value: object, largest: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= largest

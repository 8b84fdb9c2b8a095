"""Datasets whose layout is recognised."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from lightning_det.annotations.problems import DatasetError, NoSplitError, Problem
from lightning_det.annotations.store import AnnotationStore
from lightning_det.data.coco import Coco
from lightning_det.data.kinds import KINDS
from lightning_det.data.layouts import recognise
from lightning_det.data.voc import Voc
from lightning_det.data.yolo import Yolo


class Reader(Protocol):
    """Reads the splits of a dataset."""

    def read(self, split: Any) -> tuple[AnnotationStore, list[Problem]]:
        """Annotations of a split, and their problems."""


READERS = {"coco": Coco, "voc": Voc, "yolo": Yolo}


class AnyFormat:
    """A folder in COCO's, VOC's or YOLO's layout, with splits called ``train``, ``val`` and ``test`` in each of them.

    Args:
        root: the folder.
        format: ``coco``, ``voc`` or ``yolo``, or a list of those that come into question; None for all.
    """

    def __init__(self, root: str, format: str | Sequence[str] | None = None):
        self.root = Path(root)
        self.formats = [format] if isinstance(format, str) else list(format or ())

    def read(self, split: str | Sequence[str]) -> tuple[AnnotationStore, list[Problem]]:
        """Reads the annotations of a split, and their problems.

        Args:
            split: ``train``, ``val`` or ``test``; or a name, or list of names, that the format's own reader takes.

        Raises:
            DatasetError: the layout is not recognised, or there is no such split.
        """
        layout = recognise(self.root, self.formats)
        names = [split] if isinstance(split, str) else list(split)
        if isinstance(split, str) and split in KINDS:
            own = layout.splits.get(split, [])
            names = [split] if split in own and not layout.together else own
            if not names:
                there = ", ".join(f"{kind} ({', '.join(own)})" for kind, own in layout.splits.items())
                raise NoSplitError(f"{self.root}: no split {split!r} in {layout}; there is {there or 'none'}")
            if len(names) > 1 and not layout.together:
                raise DatasetError(
                    f"{self.root}: {' and '.join(names)} may all be the split {split!r}; say which with "
                    f"dataset.{split}=NAME"
                )
        reader: Reader = READERS[layout.format](str(self.root))
        return reader.read(names[0] if len(names) == 1 else names)

"""Annotations in memory: flat arrays, whatever the source was.

Lists of dicts cost 17 times the memory, 63 times with COCO's polygons, and are copied into every loader worker by
reference counting; arrays are shared. 118,000 images with 860,000 boxes take 45 MB here (`benchmarks/annotations.py`).
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from lightning_det.annotations.labels import LabelMap
from lightning_det.annotations.strings import Strings
from lightning_det.protocols.structures import ImageRecord


def gather(offsets: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Selects groups of a flat array, in the given order.

    Args:
        offsets: (n + 1,) int64, where each group begins, and the end.
        groups: (k,) int64 positions.

    Returns:
        (k + 1,) int64 offsets of the new array, and the rows of the old array to copy into it.
    """
    counts = (offsets[1:] - offsets[:-1])[groups]
    new = np.concatenate([[0], np.cumsum(counts)])
    return new, np.arange(new[-1]) + np.repeat(offsets[:-1][groups] - new[:-1], counts)


@dataclass
class ProposalSet:
    """Class-agnostic boxes of a store's images; image ``i`` has rows ``offsets[i]`` to ``offsets[i + 1]``."""

    offsets: np.ndarray
    """(n + 1,) int64."""
    boxes: np.ndarray
    """(K, 4) float32 ``xyxy``, pixels of the original images."""
    scores: np.ndarray
    """(K,) float32 objectness."""

    def of(self, index: int) -> np.ndarray:
        """Returns the (k, 4) boxes of an image."""
        return self.boxes[self.offsets[index] : self.offsets[index + 1]]

    def select(self, images: np.ndarray) -> "ProposalSet":
        """Proposals of some images, in the given order."""
        offsets, rows = gather(self.offsets, images)
        return ProposalSet(offsets, self.boxes[rows], self.scores[rows])


@dataclass
class AnnotationStore:
    """Images and boxes of one split of a dataset.

    Boxes of image ``i`` are rows ``offsets[i]`` to ``offsets[i + 1]`` of the flat arrays.
    """

    root: Path
    """Folder that ``files`` are relative to."""
    files: Strings
    ids: Strings
    """Image ids as the source writes them; `source_id` has their type."""
    widths: np.ndarray
    """(n,) int32, pixels."""
    heights: np.ndarray
    """(n,) int32, pixels."""
    offsets: np.ndarray
    """(n + 1,) int64."""
    boxes: np.ndarray
    """(M, 4) float64 ``xyxy``, pixels, inside the image up to rounded decimals."""
    labels: np.ndarray
    """(M,) int32, classes counted from 0; `ANY_CLASS` for ignored regions of classes that are left out."""
    ignored: np.ndarray
    """(M,) bool, crowd, difficult, and other classes."""
    areas: np.ndarray
    """(M,) float64, square pixels: COCO's area of the mask, the size in its evaluation; otherwise the box's."""
    label_map: LabelMap
    integer_ids: bool = False
    """Whether image ids are numbers, as in COCO."""
    proposals: ProposalSet | None = None
    """Regions that a proposal network found in the images, see `lightning_det.annotations.proposals`."""
    other_classes: Mapping[str, int] = field(default_factory=dict)
    """Number of boxes by class that ``dataset.classes`` leaves out, in the split as it was read."""

    def __len__(self) -> int:
        return len(self.widths)

    @property
    def num_boxes(self) -> int:
        """Number of boxes, ignored ones included."""
        return len(self.labels)

    def path(self, index: int) -> Path:
        """File of an image."""
        return self.root / self.files[index]

    def source_id(self, index: int) -> int | str:
        """Id of an image as in the source."""
        return int(self.ids[index]) if self.integer_ids else self.ids[index]

    def record(self, index: int) -> ImageRecord:
        """Width, height, boxes and proposals of an image; arrays are views, not copies."""
        part = slice(self.offsets[index], self.offsets[index + 1])
        return ImageRecord(
            int(self.widths[index]),
            int(self.heights[index]),
            self.boxes[part],
            self.labels[part],
            self.ignored[part],
            *([] if self.proposals is None else [self.proposals.of(index)]),
        )

    def records(self) -> Iterator[ImageRecord]:
        """Records of all images."""
        return (self.record(i) for i in range(len(self)))

    def select(self, images: np.ndarray) -> "AnnotationStore":
        """A store of some images, in the given order.

        Args:
            images: int64 positions.
        """
        images = np.asarray(images, np.int64)
        offsets, rows = gather(self.offsets, images)
        return AnnotationStore(
            self.root,
            Strings.pack([self.files[i] for i in images]),
            Strings.pack([self.ids[i] for i in images]),
            self.widths[images],
            self.heights[images],
            offsets,
            self.boxes[rows],
            self.labels[rows],
            self.ignored[rows],
            self.areas[rows],
            self.label_map,
            self.integer_ids,
            None if self.proposals is None else self.proposals.select(images),
            self.other_classes,
        )

    def select_boxes(self, kept: np.ndarray) -> "AnnotationStore":
        """A store of all images with some of their boxes.

        Args:
            kept: (M,) bool.
        """
        offsets = np.concatenate([[0], np.cumsum(kept)])[self.offsets].astype(np.int64)
        return replace(
            self,
            offsets=offsets,
            boxes=self.boxes[kept],
            labels=self.labels[kept],
            ignored=self.ignored[kept],
            areas=self.areas[kept],
        )

    def with_labels(self, label_map: LabelMap) -> "AnnotationStore":
        """Renumbers the classes as in ``label_map``, which must contain the names of all of them.

        Classes that only ``label_map`` contains get unused source ids.
        """
        numbers = np.array([label_map.names.index(name) for name in self.label_map.names], np.int32)
        source_ids = dict(zip(self.label_map.names, self.label_map.source_ids, strict=True))
        spare = itertools.count(max(source_ids.values()) + 1)
        ids = [source_ids[name] if name in source_ids else next(spare) for name in label_map.names]
        labels = np.where(self.labels < 0, self.labels, numbers[self.labels])
        return replace(self, labels=labels, label_map=LabelMap(label_map.names, ids))

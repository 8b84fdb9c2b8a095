"""Annotations in memory: flat arrays, whatever the source was.

Lists of dicts cost 17 times the memory, 63 times with COCO's polygons, and are copied into every loader worker by
reference counting; arrays are shared. 118,000 images with 860,000 boxes take 45 MB here (`benchmarks/annotations.py`).
"""

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lightning_det.annotations.arrays import check_groups
from lightning_det.annotations.labels import LabelMap
from lightning_det.annotations.problems import BOX_CLIPPED, BOX_LEFT_OUT, IMAGE_LEFT_OUT, Problem
from lightning_det.protocols.structures import ImageRecord
from lightning_det.system.files import same_files

ROUNDING = 0.1
"""Pixels by which a box may leave its image and stay as annotated: decimals that were rounded."""

SLACK = 0.01
"""Share of an image's side, but at least a pixel, up to which a box that leaves the image is clipped without further
ado; one that reaches farther is a problem."""


def gather(offsets: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Offsets and rows of some groups of a flat array, in the given order.

    Args:
        offsets: (n + 1,) int64, where each group begins, and the end.
        groups: (k,) int64 positions.

    Returns:
        (k + 1,) int64 offsets of the new array, and the rows of the old one that it consists of.
    """
    counts = (offsets[1:] - offsets[:-1])[groups]
    new = np.concatenate([[0], np.cumsum(counts)])
    return new, np.arange(new[-1]) + np.repeat(offsets[:-1][groups] - new[:-1], counts)


@dataclass
class ProposalSet:
    """Class-agnostic boxes of a store's images; image ``i`` has rows ``offsets[i]`` to ``offsets[i + 1]``."""

    offsets: np.ndarray
    boxes: np.ndarray
    """(K, 4) float32 ``xyxy``, pixels of the original images."""
    scores: np.ndarray
    """(K,) float32."""

    def of(self, index: int) -> np.ndarray:
        """(k, 4) boxes of an image."""
        return self.boxes[self.offsets[index] : self.offsets[index + 1]]

    def select(self, images: np.ndarray) -> "ProposalSet":
        """Those of some images, in the given order."""
        offsets, rows = gather(self.offsets, images)
        return ProposalSet(offsets, self.boxes[rows], self.scores[rows])


class Strings(Sequence[str]):
    """Immutable strings in two arrays.

    Args:
        data: uint8, the UTF-8 bytes of all strings.
        offsets: int64, where each begins, and the end.
    """

    def __init__(self, data: np.ndarray, offsets: np.ndarray):
        self.data = data
        self.offsets = offsets

    @classmethod
    def pack(cls, strings: Sequence[str]) -> "Strings":
        """Packs strings."""
        encoded = [s.encode() for s in strings]
        offsets = np.zeros(len(encoded) + 1, np.int64)
        np.cumsum([len(e) for e in encoded], out=offsets[1:])
        return cls(np.frombuffer(b"".join(encoded), np.uint8), offsets)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], name: str) -> "Strings":
        """What `to_arrays` made.

        Raises:
            KeyError, ValueError: the arrays are missing or something else.
        """
        data, offsets = arrays[f"{name}_data"], arrays[f"{name}_offsets"]
        if data.dtype != np.uint8 or data.ndim != 1:
            raise ValueError(f"{name}_data holds no bytes")
        check_groups(offsets, len(offsets) - 1, len(data))
        strings = cls(data, offsets)
        list(strings)  # UnicodeDecodeError is a ValueError
        return strings

    def to_arrays(self, name: str) -> dict[str, np.ndarray]:
        """Both arrays under names of their own, for a file."""
        return {f"{name}_data": self.data, f"{name}_offsets": self.offsets}

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __iter__(self) -> Iterator[str]:
        data = self.data.tobytes()
        return (data[start:stop].decode() for start, stop in itertools.pairwise(self.offsets.tolist()))

    def __getitem__(self, index: int) -> str:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        start, stop = self.offsets[index % len(self)], self.offsets[index % len(self) + 1]
        return self.data[start:stop].tobytes().decode()


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
    heights: np.ndarray
    offsets: np.ndarray
    boxes: np.ndarray
    """(M, 4) float64 ``xyxy``, pixels, inside the image up to `ROUNDING`."""
    labels: np.ndarray
    """(M,) int32, classes counted from 0."""
    ignored: np.ndarray
    """(M,) bool, crowd and difficult."""
    areas: np.ndarray
    """(M,) float64: COCO's area (of the mask), by which its evaluation sorts sizes; elsewhere the box's."""
    label_map: LabelMap
    integer_ids: bool = False
    """Whether image ids are numbers, as in COCO."""
    proposals: ProposalSet | None = None
    """What a proposal network found in the images, see `lightning_det.annotations.proposals`."""

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
        """Size and boxes of an image; arrays are not copied."""
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
        )

    def with_labels(self, label_map: LabelMap) -> "AnnotationStore":
        """This store with its classes counted as in ``label_map``, which has all their names."""
        numbers = np.array([label_map.names.index(name) for name in self.label_map.names], np.int32)
        source_ids = dict(zip(self.label_map.names, self.label_map.source_ids, strict=True))
        # Classes that the source does not have get ids that it does not use.
        spare = itertools.count(max(source_ids.values()) + 1)
        ids = [source_ids[name] if name in source_ids else next(spare) for name in label_map.names]
        return replace(self, labels=numbers[self.labels], label_map=LabelMap(label_map.names, ids))


@dataclass
class RawAnnotations:
    """What a reader found in the annotation files, before boxes are judged."""

    root: Path
    files: list[str]
    ids: list[int | str]
    widths: np.ndarray
    heights: np.ndarray
    image_of_box: np.ndarray
    """(M,) int64, position of each box's image."""
    boxes: np.ndarray
    """(M, 4) float64 ``xyxy``, as annotated."""
    labels: np.ndarray
    ignored: np.ndarray
    areas: np.ndarray
    """(M,) float64, NaN where the source has none."""
    label_map: LabelMap
    problems: list[Problem]
    """Problems that the reader found; their records are left out already."""

    def judged(self, locate) -> tuple[AnnotationStore, list[Problem]]:
        """Checks images and boxes, and sorts the boxes by image.

        An image whose file has been there before is left out, and its boxes go to the first mention. Boxes without
        area, outside the image or not finite are left out, boxes that leave it by more than `ROUNDING` are clipped, and
        of identical boxes of one class the first stays. Each is named in the problems.

        Args:
            locate: ``row -> (file, record)``, where the source has the box of a row.
        """
        problems = list(self.problems)
        images, image_of_box = self._once(problems)
        limits = np.stack([self.widths, self.heights, self.widths, self.heights], axis=1)[self.image_of_box]
        with np.errstate(invalid="ignore"):
            clipped = np.clip(self.boxes, 0, limits)
            finite = np.isfinite(self.boxes).all(axis=1)
            degenerate = (self.boxes[:, 2:] <= self.boxes[:, :2]).any(axis=1)
            outside = (clipped[:, 2:] <= clipped[:, :2]).any(axis=1)
            excess = np.abs(clipped - self.boxes)
            beyond = (excess > ROUNDING).any(axis=1)
            far = (excess > np.maximum(1, SLACK * limits)).any(axis=1)
            # One box of a pixel may be meant; where all are, and images are larger, they are no pixels.
            shares = bool(len(limits)) and bool((self.boxes <= 1).all() and (limits > 8).all())
        usable = finite & ~degenerate & ~outside & (not shares)
        for row in np.flatnonzero(~usable | beyond):
            corners = ", ".join(f"{v:g}" for v in self.boxes[row])
            width, height = (int(v) for v in limits[row, :2])
            action, harmless = BOX_LEFT_OUT, False
            if not finite[row]:
                reason = f"box has a coordinate that is no number ({corners})"
            elif degenerate[row]:
                reason = f"box has no area (x1, y1, x2, y2 = {corners})"
            elif outside[row]:
                reason = f"box ({corners}) lies outside the {width} x {height} image"
            elif shares:
                reason = f"box ({corners}) lies within a pixel, as all boxes do: shares of the image instead of pixels?"
            else:
                reason = f"box ({corners}) reaches beyond the {width} x {height} image"
                action, harmless = BOX_CLIPPED, not bool(far[row])
            problems.append(Problem(*locate(row), reason, action, harmless))

        # Rounded decimals stay as annotated: evaluation then agrees with COCO's to the last digit.
        boxes = np.where(beyond[:, None], clipped, self.boxes)
        keep = np.flatnonzero(usable)
        keep = keep[np.argsort(image_of_box[keep], kind="stable")]
        copies = _copies((image_of_box, self.labels, self.ignored, *boxes.T), keep)
        for row, first in copies.items():
            (file, record), (first_file, first_record) = locate(row), locate(first)
            reason = f"box is identical to that of {first_record}" + f" of {first_file}" * (first_file != file)
            problems.append(Problem(file, record, reason, BOX_LEFT_OUT, harmless=True))
        keep = keep[~np.isin(keep, list(copies))]
        boxes, areas = boxes[keep], self.areas[keep]
        counts = np.bincount(image_of_box[keep], minlength=len(self.files))[images]
        store = AnnotationStore(
            self.root,
            Strings.pack([self.files[i] for i in images]),
            Strings.pack([str(self.ids[i]) for i in images]),
            self.widths[images].astype(np.int32),
            self.heights[images].astype(np.int32),
            np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            boxes,
            self.labels[keep].astype(np.int32),
            self.ignored[keep].astype(bool),
            np.where(np.isnan(areas), (boxes[:, 2:] - boxes[:, :2]).prod(axis=1), areas),
            self.label_map,
            all(isinstance(i, int) for i in self.ids),
        )
        return store, problems

    def _once(self, problems: list[Problem]) -> tuple[np.ndarray, np.ndarray]:
        """Positions of the images that have a file of their own, and the image of every box among all images."""
        first = np.arange(len(self.files))
        for image, before in same_files([os.path.join(self.root, name) for name in self.files]).items():
            first[image] = before
            reason = f"its file is that of image {self.ids[before]} ({self.files[before]}), which gets its boxes"
            file = str(self.root / self.files[image])
            problems.append(Problem(file, f"image {self.ids[image]}", reason, IMAGE_LEFT_OUT))
        return np.flatnonzero(first == np.arange(len(first))), first[self.image_of_box]


def _copies(columns: Sequence[np.ndarray], among: np.ndarray) -> dict[int, int]:
    """Positions at which all columns are as at an earlier position, with the first of these.

    Args:
        columns: (n,) each.
        among: positions to look at, in order.
    """
    values = [column[among] + 0.0 for column in columns]  # and -0.0 is 0.0
    with np.errstate(over="ignore"):
        # Equal rows have equal sums; sorting these is ten times as fast as sorting the rows.
        sums = sum(value.view(np.uint64) * np.uint64(2 * 11**n + 1) for n, value in enumerate(values, start=9))
    ordered = np.sort(sums)
    suspected = np.isin(sums, ordered[1:][ordered[1:] == ordered[:-1]])
    first: dict[tuple, int] = {}
    again = {}
    for position in np.flatnonzero(suspected):
        row = int(among[position])
        before = first.setdefault(tuple(value[position] for value in values), row)
        if before != row:
            again[row] = before
    return again

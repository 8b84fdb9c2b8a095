"""Annotations as a reader found them, and the checks that turn them into an `AnnotationStore`."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lightning_det.annotations.box_checks import Locate, box_problems, check_boxes, copy_problem, find_copies
from lightning_det.annotations.labels import LabelMap
from lightning_det.annotations.problems import IMAGE_LEFT_OUT, Problem
from lightning_det.annotations.store import AnnotationStore
from lightning_det.annotations.strings import Strings
from lightning_det.system.files import same_files


@dataclass
class RawAnnotations:
    """Images and boxes of one split as annotated, before any check."""

    root: Path
    """Folder that ``files`` are relative to."""
    files: list[str]
    ids: Sequence[int | str]
    """Image ids as the source has them."""
    widths: np.ndarray
    """(n,) int64, pixels."""
    heights: np.ndarray
    """(n,) int64, pixels."""
    image_of_box: np.ndarray
    """(M,) int64, position of each box's image."""
    boxes: np.ndarray
    """(M, 4) float64 ``xyxy``, pixels."""
    labels: np.ndarray
    """(M,) int32, classes counted from 0."""
    ignored: np.ndarray
    """(M,) bool, crowd and difficult."""
    areas: np.ndarray
    """(M,) float64, square pixels; NaN or 0 where the source has none: then it is that of the box."""
    label_map: LabelMap
    problems: list[Problem]
    """Problems that the reader found; their records are left out already."""

    def check(self, locate: Locate) -> tuple[AnnotationStore, list[Problem]]:
        """Checks images and boxes, and sorts the boxes by image.

        If an image file is listed twice, the second mention is left out, and its boxes are given to the first. Boxes
        that are NaN or infinite, have no area or lie outside the image are left out. Boxes that leave the image by more
        than `ROUNDING` are clipped. Of identical boxes of one class, the first one is kept.

        Args:
            locate: gives the file and the record of a row, for problems.

        Returns:
            The store, and the reader's problems followed by a problem for each record that was left out or clipped.
        """
        problems = list(self.problems)
        images, image_of_box = self._merge_mentions(problems)
        limits = self._limits()
        checks = check_boxes(self.boxes, limits)
        problems += box_problems(self.boxes, limits, checks, locate)
        # Rounded decimals stay as annotated: evaluation then agrees with COCO's to the last digit.
        boxes = np.where(checks.beyond[:, None], checks.clipped, self.boxes)
        keep = np.flatnonzero(checks.usable)
        keep = keep[np.argsort(image_of_box[keep], kind="stable")]
        copies = find_copies((image_of_box, self.labels, self.ignored, *boxes.T), keep)
        problems += [copy_problem(locate(row), locate(first)) for row, first in copies.items()]
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
            np.where(areas > 0, areas, (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)),
            self.label_map,
            all(isinstance(i, int) for i in self.ids),
        )
        return store, problems

    def _limits(self) -> np.ndarray:
        """(M, 4) width, height, width and height of each box's image."""
        return np.stack([self.widths, self.heights, self.widths, self.heights], axis=1)[self.image_of_box]

    def _merge_mentions(self, problems: list[Problem]) -> tuple[np.ndarray, np.ndarray]:
        """Keeps the first mention of every image file; each further mention is added to the problems.

        Returns:
            Positions of the images that are kept, and (M,) the position of the image that each box now belongs to.
        """
        first = np.arange(len(self.files))
        for image, before in same_files([os.path.join(self.root, name) for name in self.files]).items():
            first[image] = before
            reason = f"its file is that of image {self.ids[before]} ({self.files[before]}), which gets its boxes"
            file = str(self.root / self.files[image])
            problems.append(Problem(file, f"image {self.ids[image]}", reason, IMAGE_LEFT_OUT))
        return np.flatnonzero(first == np.arange(len(first))), first[self.image_of_box]

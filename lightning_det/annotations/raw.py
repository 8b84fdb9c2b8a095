"""Annotations as a reader found them, and the checks that turn them into an `AnnotationStore`."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lightning_det.annotations.labels import LabelMap
from lightning_det.annotations.problems import BOX_CLIPPED, BOX_LEFT_OUT, IMAGE_LEFT_OUT, Problem
from lightning_det.annotations.store import AnnotationStore
from lightning_det.annotations.strings import Strings
from lightning_det.system.files import same_files

ROUNDING = 0.1
"""Pixels by which a box may leave its image and stay as annotated: decimals that were rounded."""

SLACK = 0.01
"""A box that leaves the image by at most this share of its side (at least a pixel) is clipped and reported as harmless.
A box that reaches farther is a problem."""

Locate = Callable[[int], tuple[str, str]]
"""From the row of a box to the file and the record that hold it."""


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
        checks = _check_boxes(self.boxes, self._limits())
        problems += self._box_problems(checks, locate)
        # Rounded decimals stay as annotated: evaluation then agrees with COCO's to the last digit.
        boxes = np.where(checks.beyond[:, None], checks.clipped, self.boxes)
        keep = np.flatnonzero(checks.usable)
        keep = keep[np.argsort(image_of_box[keep], kind="stable")]
        copies = _find_copies((image_of_box, self.labels, self.ignored, *boxes.T), keep)
        problems += [_copy_problem(locate(row), locate(first)) for row, first in copies.items()]
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

    def _box_problems(self, checks: "_BoxChecks", locate: Locate) -> list[Problem]:
        """Makes a problem for each box that is left out or clipped, in the order of the rows."""
        limits, problems = self._limits(), []
        for row in np.flatnonzero(~checks.usable | checks.beyond).tolist():
            corners = ", ".join(f"{v:g}" for v in self.boxes[row])
            width, height = (int(v) for v in limits[row, :2])
            action, harmless = BOX_LEFT_OUT, False
            if not checks.finite[row]:
                reason = f"box has a NaN or infinite coordinate ({corners})"
            elif checks.empty[row]:
                reason = f"box has no area (x1, y1, x2, y2 = {corners})"
            elif checks.outside[row]:
                reason = f"box ({corners}) lies outside the {width} x {height} image"
            elif checks.fractions:
                reason = f"box ({corners}) lies within a pixel, as all boxes do: shares of the image instead of pixels?"
            else:
                reason = f"box ({corners}) reaches beyond the {width} x {height} image"
                action, harmless = BOX_CLIPPED, not bool(checks.far[row])
            problems.append(Problem(*locate(row), reason, action, harmless))
        return problems


class _BoxChecks(NamedTuple):
    """Properties of ``M`` boxes; arrays are (M,) bool except the first."""

    clipped: np.ndarray
    """(M, 4) float64, the boxes clipped to their images."""
    finite: np.ndarray
    empty: np.ndarray
    """Whether a box has no area."""
    outside: np.ndarray
    beyond: np.ndarray
    """Whether a box leaves its image by more than `ROUNDING`."""
    far: np.ndarray
    """Whether a box leaves its image by more than `SLACK`."""
    fractions: bool
    """Whether all boxes seem to be given in shares of the image instead of pixels."""
    usable: np.ndarray


def _check_boxes(boxes: np.ndarray, limits: np.ndarray) -> _BoxChecks:
    """Compares boxes (M, 4) with the sides (M, 4) of their images."""
    with np.errstate(invalid="ignore"):
        clipped = np.clip(boxes, 0, limits)
        finite = np.isfinite(boxes).all(axis=1)
        empty = (boxes[:, 2] <= boxes[:, 0]) | (boxes[:, 3] <= boxes[:, 1])
        outside = (clipped[:, 2:] <= clipped[:, :2]).any(axis=1)
        excess = np.abs(clipped - boxes)
        beyond = (excess > ROUNDING).any(axis=1)
        far = (excess > (SLACK * limits).clip(min=1)).any(axis=1)
        # A single box of one pixel may be intended. If all boxes are that small, they are shares of the image's sides.
        fractions = bool(len(limits)) and bool((boxes <= 1).all() and (limits > 8).all())
    usable = finite & ~empty & ~outside & (not fractions)
    return _BoxChecks(clipped, finite, empty, outside, beyond, far, fractions, usable)


def _copy_problem(place: tuple[str, str], first: tuple[str, str]) -> Problem:
    """Makes the problem of a box that repeats another one; each is given by file and record."""
    (file, record), (first_file, first_record) = place, first
    reason = f"box is identical to that of {first_record}" + f" of {first_file}" * (first_file != file)
    return Problem(file, record, reason, BOX_LEFT_OUT, harmless=True)


def _find_copies(columns: Sequence[np.ndarray], among: np.ndarray) -> dict[int, int]:
    """Finds rows that are equal in all columns to an earlier row.

    Args:
        columns: (n,) each.
        among: (k,) rows to look at, in order.

    Returns:
        From each such row to the first row that it equals.
    """
    values = [column[among] + 0.0 for column in columns]  # + 0.0 makes -0.0 equal to 0.0
    with np.errstate(over="ignore"):
        # Equal rows have equal sums; sorting these is ten times as fast as sorting the rows.
        hashes = [value.view(np.uint64) * np.uint64(2 * 11**n + 1) for n, value in enumerate(values, start=9)]
        sums = np.sum(hashes, axis=0)
    ordered = np.sort(sums)
    suspected = np.isin(sums, ordered[1:][ordered[1:] == ordered[:-1]])
    first: dict[tuple[float, ...], int] = {}
    copies = {}
    for position in np.flatnonzero(suspected):
        row = int(among[position])
        before = first.setdefault(tuple(value[position] for value in values), row)
        if before != row:
            copies[row] = before
    return copies

"""Ground truth that a program has, as annotations to compare detections with."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from lightning_det.annotations.box_checks import box_problems, check_boxes, copy_problem, find_copies
from lightning_det.annotations.problems import DatasetError, summary
from lightning_det.annotations.store import AnnotationStore
from lightning_det.inference.pictures import ImageLike

log = logging.getLogger("lightning_det")

SHOWN = 5
"""Number of problems that a message lists."""


class Truth(NamedTuple):
    """An image, and the objects in it."""

    image: ImageLike
    boxes: ArrayLike
    """(n, 4) ``xyxy``, pixels of the image as it is displayed."""
    names: Sequence[str]
    """(n,) names of their classes."""
    ignored: ArrayLike | None = None
    """(n,) bool, regions in which detections do not count, such as crowds; None: no box is one."""
    areas: ArrayLike | None = None
    """(n,) square pixels, sizes for AP by size, such as those of masks; 0 or None: the box's."""


TruthLike: TypeAlias = Truth | tuple[ImageLike, ArrayLike, Sequence[str]]


def truth_of(given: TruthLike, number: int) -> Truth:
    """Completes a tuple.

    Args:
        given: ground truth of an image.
        number: its position, for the message.

    Raises:
        DatasetError: it is neither a `Truth` nor a tuple (image, boxes, names).
    """
    if not isinstance(given, tuple | list) or not 3 <= len(given) <= len(Truth._fields):
        raise DatasetError(
            f"image {number}: needed is a list of Truth(image, boxes, names), or of such tuples, got {given!r:.100}"
        )
    return Truth(*given)


def annotated(store: AnnotationStore, truths: Sequence[Truth]) -> AnnotationStore:
    """Adds the objects of images to a store without boxes, after the checks that a dataset's boxes go through.

    Boxes that leave their image a little are clipped, and of identical ones of a class the first is kept; both are
    logged.

    Args:
        store: the images, with the detector's classes.
        truths: one per image.

    Raises:
        DatasetError: no image, a class that the detector does not know, or boxes that are none or do not lie in their
            image; the message names the image.
    """
    if not truths:
        raise DatasetError("there is no image to evaluate")
    rows = [_objects(truth, store.files[n], store.label_map.names) for n, truth in enumerate(truths)]
    boxes, labels, ignored, areas = (np.concatenate(parts) for parts in zip(*rows, strict=True))
    counts = [len(row[1]) for row in rows]
    images = np.repeat(np.arange(len(rows)), counts)
    numbers = np.concatenate([np.arange(count) for count in counts])

    def place(row: int) -> tuple[str, str]:
        return store.files[images[row]], f"box {numbers[row]}"

    limits = np.stack([store.widths, store.heights] * 2, axis=1)[images]
    checks = check_boxes(boxes, limits)
    problems = box_problems(boxes, limits, checks, place)
    if serious := [str(problem) for problem in problems if not problem.harmless]:
        more = f"\n... and {len(serious) - SHOWN} more" * (len(serious) > SHOWN)
        raise DatasetError("\n".join(serious[:SHOWN]) + more)
    boxes = np.where(checks.beyond[:, None], checks.clipped, boxes)
    areas = np.where(areas > 0, areas, (boxes[:, 2:] - boxes[:, :2]).prod(axis=1))
    copies = find_copies((images, labels, ignored, *boxes.T), np.arange(len(boxes)))
    problems += [copy_problem(place(row), place(first)) for row, first in copies.items()]
    if problems:
        log.warning("boxes to evaluate with: %s (the first one: %s)", summary(problems), problems[0])
    keep = ~np.isin(np.arange(len(boxes)), list(copies))
    offsets = np.concatenate([[0], np.cumsum(np.bincount(images[keep], minlength=len(rows)))]).astype(np.int64)
    return replace(
        store, offsets=offsets, boxes=boxes[keep], labels=labels[keep], ignored=ignored[keep], areas=areas[keep]
    )


def _objects(truth: Truth, image: str, classes: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Boxes, labels, ignored and areas of an image; an area is NaN where it is that of the box."""
    try:
        boxes = np.asarray(truth.boxes, np.float64)
    except (TypeError, ValueError) as error:
        raise DatasetError(f"{image}: boxes must be numbers (n, 4), xyxy in pixels: {truth.boxes!r:.200}") from error
    boxes = boxes.reshape(0, 4) if boxes.size == 0 else boxes
    count = len(truth.names)
    if boxes.shape != (count, 4):
        raise DatasetError(f"{image}: {count} names need boxes ({count}, 4), got an array {boxes.shape}")
    if unknown := sorted({str(name) for name in truth.names if name not in classes}):
        raise DatasetError(f"{image}: the detector does not know {', '.join(unknown)}; it knows {', '.join(classes)}")
    sides = boxes[:, 2:] - boxes[:, :2]
    if not (np.isfinite(boxes).all() and (sides > 0).all()):
        raise DatasetError(f"{image}: a box needs x1 < x2 and y1 < y2 (xyxy, pixels): {boxes.tolist()!r:.200}")
    ignored = np.zeros(count, bool) if truth.ignored is None else _column(truth.ignored, "ignored", count, image) != 0
    areas = np.full(count, np.nan)
    if truth.areas is not None:
        areas = _column(truth.areas, "areas", count, image)
        if not ((areas >= 0) & (areas < np.inf)).all():
            raise DatasetError(f"{image}: areas must be square pixels, or 0 for the box's: {areas.tolist()!r:.200}")
    labels = np.array([classes.index(name) for name in truth.names], np.int32)
    return boxes, labels, ignored, areas


def _column(values: ArrayLike, name: str, count: int, image: str) -> np.ndarray:
    """A number per box, (count,) float64.

    Raises:
        DatasetError: they are others.
    """
    try:
        column = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise DatasetError(f"{image}: {name} must be a value per box: {values!r:.200}") from error
    if column.shape != (count,):
        raise DatasetError(f"{image}: {count} boxes need {name} ({count},), got an array {column.shape}")
    return column

"""Ground truth that a program has, as annotations to compare detections with."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from lightning_det.annotations.problems import DatasetError
from lightning_det.annotations.store import AnnotationStore
from lightning_det.inference.pictures import ImageLike


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
    """(n,) square pixels, sizes for AP by size, such as those of masks; None: the boxes'."""


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
    """Adds the objects of images to a store without boxes.

    Args:
        store: the images, with the detector's classes.
        truths: one per image.

    Raises:
        DatasetError: no image, a class that the detector does not know, or boxes that are none; the message names the
            image.
    """
    if not truths:
        raise DatasetError("there is no image to evaluate")
    rows = [_objects(truth, store.files[n], store.label_map.names) for n, truth in enumerate(truths)]
    boxes, labels, ignored, areas = (np.concatenate(parts) for parts in zip(*rows, strict=True))
    offsets = np.cumsum([0, *(len(row[1]) for row in rows)]).astype(np.int64)
    return replace(store, offsets=offsets, boxes=boxes, labels=labels, ignored=ignored, areas=areas)


def _objects(truth: Truth, image: str, classes: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Boxes, labels, ignored and areas of an image."""
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
    ignored = np.zeros(count, bool) if truth.ignored is None else np.asarray(truth.ignored, bool)
    areas = sides.prod(axis=1) if truth.areas is None else np.asarray(truth.areas, np.float64)
    if not len(ignored) == len(areas) == count:
        raise DatasetError(f"{image}: {count} boxes, but {len(ignored)} values of ignored and {len(areas)} areas")
    labels = np.array([classes.index(name) for name in truth.names], np.int32)
    return boxes, labels, ignored, areas

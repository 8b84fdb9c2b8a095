"""Boxes in the views of training, beside the anchors that are to find them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lightning_det.annotations.store import AnnotationStore
from lightning_det.data.dataset import Look
from lightning_det.data.sampler import plan_epoch
from lightning_det.detectors.reach import MET, Shapes, best_ious
from lightning_det.structures import State
from lightning_det.views.planner import Planner
from lightning_det.views.targets import targets


class Reach(NamedTuple):
    """How well anchors meet the boxes of training views."""

    boxes: int
    """Boxes that the views learn from."""
    size: float
    """Their median size, sqrt(width * height) in pixels of the view."""
    mean_iou: float
    """Mean over the boxes of the IoU with the best anchor."""
    missed: float
    """Share of the boxes that no anchor meets at `MET`."""


def boxes_in_views(store: AnnotationStore, looks: Sequence[Look], min_visible: float, min_side: float) -> np.ndarray:
    """(n, 4) boxes that views learn from, ``xyxy`` in pixels of their views; see `targets`."""
    parts = [np.zeros((0, 4), np.float32)]
    for look in looks:
        found = targets(store.record(look.image), look.view, min_visible, min_side)
        parts.append(found.boxes[found.states == State.VALID])
    return np.concatenate(parts).astype(float)


def planned_boxes(
    store: AnnotationStore, planner: Planner, seed: int, min_visible: float, min_side: float
) -> np.ndarray:
    """What `boxes_in_views` finds in an epoch of a planner."""
    return boxes_in_views(store, plan_epoch(store, planner, seed), min_visible, min_side)


def reach(boxes: np.ndarray, shapes: Shapes) -> Reach | None:
    """How well anchors meet (n, 4) boxes in pixels of views; None without boxes."""
    if not len(boxes):
        return None
    ious = best_ious(boxes, shapes)
    size = np.median(np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(axis=1)))
    return Reach(len(boxes), float(size), float(ious.mean()), float((ious < MET).mean()))

"""What a view shows of an image's boxes, and what it may learn from each."""

from typing import NamedTuple

import numpy as np

from lightning_det.protocols.structures import ImageRecord, State
from lightning_det.views.view import View, boxes_to_view


class Targets(NamedTuple):
    """Boxes that a view shows."""

    boxes: np.ndarray
    """(n, 4) float32 ``xyxy``, pixels of the view, clipped to it."""
    labels: np.ndarray
    """(n,) int64, classes counted from 0."""
    states: np.ndarray
    """(n,) int64, values of `State`, never ``PADDING``."""
    source: np.ndarray
    """(n,) int64, positions of the boxes in the image's list."""


def targets(image: ImageRecord, view: View, min_visible: float = 0.5, min_side: float = 1.0) -> Targets:
    """Cuts and moves an image's boxes into a view and judges each.

    A box is ``VALID`` when its size in the original image lies in the range that the view's anchors learn from and
    enough of it is visible, or when the view lists it among its ``valid_boxes``; what else is visible is ``INVALID``
    and keeps its class. What is left of a box that is too small to be seen is ignored, as ignored regions are. (RoIs
    are judged by their own size against the view's valid range.)

    Args:
        image: size and boxes.
        view: the view.
        min_visible: least share of a box's area inside the window; 1 demands full enclosure.
        min_side: least width and height of the clipped box, pixels of the view.
    """
    height, width = view.size
    # Annotations may leave the image by a rounding: that part is not hidden by the window.
    boxes = np.clip(image.boxes, 0, [image.width, image.height] * 2)
    moved = boxes_to_view(boxes, view)
    clipped = np.clip(moved, 0, [width, height, width, height])
    sides = clipped[:, 2:] - clipped[:, :2]
    shown = np.flatnonzero((sides > 0).all(axis=1))

    moved_sides = (moved[:, 2:] - moved[:, :2])[shown]
    visible = sides[shown].prod(axis=1) / moved_sides.prod(axis=1)
    if view.valid_boxes is None:
        size = np.sqrt((boxes[shown, 2:] - boxes[shown, :2]).prod(axis=1))
        low, high = view.anchor_range or view.valid_range
        # The tolerance keeps rounding from turning an enclosed box into a cut one.
        valid = (size >= low) & (size < high) & (visible >= min_visible - 1e-6)
    else:
        valid = np.isin(shown, view.valid_boxes)
    states = np.where(valid, State.VALID, State.INVALID)
    unseen = (sides[shown] < min_side).any(axis=1)
    states = np.where(image.ignored[shown] | unseen, State.IGNORED, states)
    return Targets(
        clipped[shown].astype(np.float32), image.labels[shown].astype(np.int64), states.astype(np.int64), shown
    )

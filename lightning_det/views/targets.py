"""The boxes of an image that a view shows, and what may be learned from each."""

from typing import NamedTuple

import numpy as np

from lightning_det.protocols.structures import ImageRecord, State
from lightning_det.views.view import Range, View, boxes_to_view, in_learning_range


class Targets(NamedTuple):
    """Boxes that a view shows."""

    boxes: np.ndarray
    """(n, 4) float32 ``xyxy``, pixels of the view, clipped to it."""
    labels: np.ndarray
    """(n,) int64, classes counted from 0."""
    states: np.ndarray
    """(n,) int64, values of `State` for the detector proper, never ``PADDING``."""
    anchor_states: np.ndarray
    """(n,) int64, the same for the anchors of a proposal network."""
    source: np.ndarray
    """(n,) int64, positions of the boxes in the image's list."""


def targets(image: ImageRecord, view: View, min_visible: float = 0.5, min_side: float = 1.0) -> Targets:
    """Clips an image's boxes to a view, converts them to its pixels, and says what may be learned from each.

    A box is ``VALID`` if its size in the original image lies in the view's range and enough of it is visible, or if
    the view lists it. The other visible boxes are ``INVALID`` and keep their class. The detector proper and the
    anchors of a proposal network have a range and a list each, see `View.ranges` and `View.lists`. A box with too
    little visible area is ``IGNORED`` for both, as are ignored regions. (For RoIs, their own size is compared with the
    view's valid range.)

    Args:
        image: size and boxes.
        view: the view.
        min_visible: minimum share of a box's area inside the window; 1 requires full enclosure.
        min_side: minimum width and height of the clipped box, pixels of the view.
    """
    height, width = view.size
    # Annotations may leave the image by rounding; that part does not count as hidden by the window.
    boxes = np.clip(image.boxes, 0, [image.width, image.height] * 2)
    moved = boxes_to_view(boxes, view)
    clipped = np.clip(moved, 0, [width, height, width, height])
    sides = clipped[:, 2:] - clipped[:, :2]
    shown = np.flatnonzero((sides > 0).all(axis=1))

    visible = sides[shown].prod(axis=1) / (moved[:, 2:] - moved[:, :2])[shown].prod(axis=1)
    # With the tolerance, rounding does not turn an enclosed box into a cut one.
    suffices = visible >= min_visible - 1e-6
    ignored = image.ignored[shown] | (sides[shown] < min_side).any(axis=1)

    def judge(limits: Range, listed: tuple[int, ...] | None) -> np.ndarray:
        by_range = in_learning_range(boxes[shown], limits) & suffices
        valid = by_range if listed is None else np.isin(shown, listed)
        return np.where(ignored, State.IGNORED, np.where(valid, State.VALID, State.INVALID)).astype(np.int64)

    states, anchor_states = map(judge, view.ranges, view.lists)
    labels = image.labels[shown].astype(np.int64)
    return Targets(clipped[shown].astype(np.float32), labels, states, anchor_states, shown)

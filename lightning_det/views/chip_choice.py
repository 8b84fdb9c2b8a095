"""Which boxes need a chip at which scale (SNIPER, section 3.1), for many images at once."""

from collections.abc import Sequence
from math import inf
from typing import NamedTuple

import numpy as np

from lightning_det.views.cover import is_enclosable
from lightning_det.views.view import View

MIN_SIDE = 2.0
"""At the finest scale, thinner boxes get no chip of their own, original pixels."""


class ScaledBoxes(NamedTuple):
    """The n boxes of some images, all of which are shown at V scales, finest first."""

    boxes: np.ndarray
    """(n, 4) ``xyxy``, pixels of their image, inside it."""
    scales: np.ndarray
    """(V, n), pixels of the view per original pixel."""
    ranges: np.ndarray
    """(2, 2, V, n): for the detector proper and for anchors, the lower and upper bound of each scale's range."""
    extents: np.ndarray
    """(n, 2), width and height of their image."""
    strides: np.ndarray
    """(n,), distance of candidate positions of chips, pixels of the view."""


def scaled(
    boxes: np.ndarray, owners: np.ndarray, views: Sequence[Sequence[View]], strides: Sequence[int]
) -> ScaledBoxes:
    """Puts boxes and the views of their images together.

    Args:
        boxes: (n, 4) ``xyxy``, pixels of their image; what lies outside it is cut off.
        owners: (n,), number of each box's image.
        views: V views of each whole image.
        strides: of each image.
    """
    extents = np.array([image[-1].window[2:] for image in views])[owners]
    return ScaledBoxes(
        np.minimum(np.maximum(boxes, 0), np.concatenate([extents, extents], axis=1)),
        np.array([[view.scale for view in image] for image in views]).T[:, owners],
        np.array([[view.ranges for view in image] for image in views]).transpose(2, 3, 1, 0)[..., owners],
        extents,
        np.asarray(strides)[owners],
    )


def fits(given: ScaledBoxes, size: int, kind: int) -> np.ndarray:
    """Finds the boxes inside each scale's range that are short enough for its chips: (V, n) bool.

    Args:
        given: the boxes.
        size: side of a chip, pixels of the view.
        kind: the ranges of the detector proper (0) or of anchors (1).
    """
    sides = given.boxes[:, 2:] - given.boxes[:, :2]
    sizes = np.sqrt(sides[:, 0] * sides[:, 1])
    longest = (size - given.strides - 1) / given.scales
    longest[-1] = inf
    low, high = given.ranges[kind]
    inside = (sizes >= low) & (sizes < high) & (sides.max(axis=1) < longest)
    if len(inside) > 1:
        inside[0] &= sides.min(axis=1) >= MIN_SIDE
    return inside


def learnable(given: ScaledBoxes, size: int, min_side: float) -> np.ndarray:
    """Finds the boxes that a chip of each scale can enclose and show large enough to learn from: (V, n) bool.

    Whether a chip can enclose them is checked for the coarsest scale only: in the others, `fits` excludes boxes that
    are too long.

    Args:
        given: the boxes.
        size: side of a chip, pixels of the view.
        min_side: minimum side of a box to learn from, pixels of the chip.
    """
    boxes, scale = given.boxes, given.scales[-1]
    large = (boxes[:, 2:] - boxes[:, :2]).min(axis=1) * _least_scale(given, size) >= min_side
    for axis, length in enumerate((given.extents * scale[:, None]).T):
        low, high = boxes[:, axis] * scale, boxes[:, axis + 2] * scale
        # A chip that is longer than the image shows the whole axis.
        large[-1] &= (length <= size) | is_enclosable(low, high, length, size, given.strides)
    return large


def _least_scale(given: ScaledBoxes, size: int) -> np.ndarray:
    """Minimum scale of a chip, after rounding its window and its size: (V, n)."""
    side = np.floor(size / given.scales + 1e-6)
    longest = np.minimum(side + 2, given.extents.max(axis=1))
    shortest = np.maximum(1, np.minimum(side, given.extents.min(axis=1)))
    return np.maximum(0.0, np.minimum(given.scales, size / longest) - 0.5 / shortest)

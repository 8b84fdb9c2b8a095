"""From the chips that a cover has chosen to windows of whole original pixels."""

from collections.abc import Sequence

import numpy as np

from lightning_det.views.cover import Chip
from lightning_det.views.view import View


def windows(found: Sequence[tuple[View, Sequence[Chip]]], boxes: np.ndarray, size: int) -> list[View]:
    """Rounds chips to windows of whole original pixels that enclose the same boxes.

    Args:
        found: views of whole images, and the chips that are cut from each.
        boxes: (m, 4) ``xyxy``, original pixels: the boxes that the first chip encloses, those of the second, and so on.
        size: side of a chip, pixels of the view.

    Returns:
        One view for each chip, in order.
    """
    views = [view for view, chips in found for _ in chips]
    chips = [chip for _, chips in found for chip in chips]
    if not chips:
        return []
    first = np.cumsum([0, *(len(chip.boxes) for chip in chips[:-1])])
    scales = np.array([view.scale for view in views])
    begin, end = intervals(
        np.array([(chip.x, chip.y) for chip in chips]) / scales[:, None],
        np.minimum.reduceat(boxes[:, :2], first),
        np.maximum.reduceat(boxes[:, 2:], first),
        (size / scales)[:, None],
        np.array([view.window[2:] for view in views]),
    )
    # Around boxes as long as the chip, rounding may add two pixels, which are shrunk into it.
    fitted = np.minimum(scales, (size / (end - begin)).min(axis=1))
    corners = np.concatenate([begin, end], axis=1)
    return [
        View._make((scale, tuple(window), *view[2:]))
        for scale, window, view in zip(fitted.tolist(), corners.tolist(), views, strict=True)
    ]


def intervals(
    start: np.ndarray, low: np.ndarray, high: np.ndarray, size: np.ndarray, length: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Places windows along an axis in whole pixels: near ``start``, inside the image, around the enclosed boxes.

    The shapes of the arguments are broadcast.

    Args:
        start: first pixels of the chips, not rounded.
        low: smallest coordinates of the boxes.
        high: largest coordinates of the boxes.
        size: sides of the chips, not rounded; they are rounded down if the windows still enclose the boxes.
        length: sides of the images, integers.

    Returns:
        First pixels, and those after the last: int64.
    """
    side = np.minimum((size + 1e-6).astype(np.int64), length)
    floor, ceil = np.floor(low).astype(np.int64), np.ceil(high).astype(np.int64)
    first = np.maximum(0, np.ceil(high - side).astype(np.int64))
    last = np.minimum(length - side, floor)
    begin = np.minimum(np.maximum(np.rint(start).astype(np.int64), first), last)
    fits = first <= last
    return np.where(fits, begin, floor), np.where(fits, begin + side, ceil)

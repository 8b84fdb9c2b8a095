"""Draws the outlines of boxes, antialiased and around the boxes, so they hide no pixel of an object."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lightning_det.plotting.colours import BLACK, Colour

CASING = 0.5
"""Opacity of the dark line around an outline, which sets it off from a bright background."""

DASH = 5
"""Length of dashes and of the gaps between them, in widths of the line."""


THINNEST = 1.25
"""Width of the thinnest line, pixels."""


OUTWARD = np.array([-1, -1, 1, 1])
"""Directions in which the sides ``xyxy`` of a box move when it grows."""


class Ring(NamedTuple):
    """The area between two rectangles ``xyxy``."""

    outer: np.ndarray
    inner: np.ndarray


def line_widths(boxes: np.ndarray, longest: int) -> np.ndarray:
    """Computes the widths of outlines, which follow the size of the object and of the picture.

    An object of 10 pixels gets a thin line wherever it is, a large one in a picture of 4000 pixels one that is still
    visible when the picture is shrunk to a screen.

    Args:
        boxes: (n, 4) ``xyxy`` pixels.
        longest: longer side of the picture, pixels.

    Returns:
        (n,) pixels.
    """
    sizes = np.sqrt(np.prod(np.clip(boxes[:, 2:] - boxes[:, :2], 1, None), axis=1))
    return np.clip(sizes / 16, THINNEST, max(THINNEST, longest / 400))


def outer_boxes(boxes: np.ndarray, widths: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns the boxes (n, 4) that the outlines fill, dark casings included, inside of a picture.

    Args:
        boxes: (n, 4) ``xyxy`` pixels.
        widths: (n,) of the lines.
        size: (width, height) of the picture.
    """
    return np.clip(_whole(boxes) + (widths + _casing(widths))[:, None] * OUTWARD, 0, [*size, *size])


def draw_outlines(
    canvas: np.ndarray, boxes: np.ndarray, widths: np.ndarray, colours: Sequence[Colour], dashed: Sequence[bool]
) -> None:
    """Draws outlines into a picture, those of large boxes first.

    Args:
        canvas: (H, W, 3) uint8, changed.
        boxes: (n, 4) ``xyxy`` pixels. Outlines that would leave the picture are drawn along its border.
        widths: (n,) of the lines, pixels.
        colours: one per box.
        dashed: whether a box has dashed lines, one per box.
    """
    height, width = canvas.shape[:2]
    corner = np.array([width, height, width, height], float)
    for number in np.argsort(-np.prod(boxes[:, 2:] - boxes[:, :2], axis=1), kind="stable").tolist():
        line, casing = float(widths[number]), float(_casing(widths[number]))
        inner = np.clip(_whole(boxes[number]), line, np.maximum(corner - line, line))
        middle = np.clip(inner + line * OUTWARD, 0, corner)
        outer = np.clip(middle + casing * OUTWARD, 0, corner)
        dash = line * DASH if dashed[number] else None
        _blend(canvas, Ring(outer, middle), BLACK, CASING, dash)
        _blend(canvas, Ring(middle, inner), colours[number], 1.0, dash)


def _whole(boxes: np.ndarray) -> np.ndarray:
    """Returns the whole pixels that boxes (..., 4) touch, so that lines are sharp where they meet an object."""
    return np.concatenate([np.floor(boxes[..., :2]), np.ceil(boxes[..., 2:])], axis=-1)


def _casing(widths: np.ndarray) -> np.ndarray:
    return np.clip(widths / 2, 1.0, None)


def _blend(canvas: np.ndarray, ring: Ring, colour: Colour, opacity: float, dash: float | None) -> None:
    """Blends a colour into a ring. A pixel that is partly in the ring is coloured partly."""
    x1, y1, x2, y2 = ring.outer.tolist()
    left, top = max(0, int(x1)), max(0, int(y1))
    right, bottom = min(canvas.shape[1], -int(-x2 // 1)), min(canvas.shape[0], -int(-y2 // 1))
    if left >= right or top >= bottom:
        return
    across, down = np.arange(left, right), np.arange(top, bottom)
    outside = _coverage(across, x1, x2), _coverage(down, y1, y2)
    inside = _coverage(across, ring.inner[0], ring.inner[2]), _coverage(down, ring.inner[1], ring.inner[3])
    # Rows and columns that are completely inside are skipped; they are most of a large box.
    rows, columns = _solid(inside[1]), _solid(inside[0])
    for part, lines in (
        ((slice(0, rows[0]), slice(None)), across - x1),
        ((slice(rows[1], None), slice(None)), across - x1),
        ((slice(*rows), slice(0, columns[0])), (down - y1)[:, None]),
        ((slice(*rows), slice(columns[1], None)), (down - y1)[:, None]),
    ):
        target = canvas[top:bottom, left:right][part]
        if target.size == 0:
            continue
        alpha = outside[1][part[0], None] * outside[0][part[1]] - inside[1][part[0], None] * inside[0][part[1]]
        if dash is not None:
            along = lines[part[0]] if lines.ndim == 2 else lines[part[1]]
            alpha = alpha * (along % (2 * dash) < dash)
        mixed = target + (opacity * alpha)[..., None] * (np.array(colour, float) - target)
        target[...] = np.rint(mixed)


def _coverage(pixels: np.ndarray, start: float, end: float) -> np.ndarray:
    """Returns the share of each pixel (from its number to the next one) between ``start`` and ``end``."""
    return np.clip(np.minimum(pixels + 1, end) - np.maximum(pixels, start), 0, 1)


def _solid(coverage: np.ndarray) -> tuple[int, int]:
    """Returns the first position that is covered completely, and the one after the last; equal if none is."""
    full = np.flatnonzero(coverage == 1)
    return (int(full[0]), int(full[-1]) + 1) if len(full) else (len(coverage), len(coverage))

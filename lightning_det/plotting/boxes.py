"""Draws boxes and their labels on images, so that even objects of ten pixels can be seen; puts pictures on pages."""

from collections.abc import Sequence
from math import isqrt
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw

from lightning_det.plotting.colours import Colour, ink_on
from lightning_det.plotting.outlines import draw_outlines, line_widths, outer_boxes
from lightning_det.plotting.placement import place_labels
from lightning_det.plotting.text import LONGEST, SMALLEST_FONT, fit, font_of, line_height, text_width
from lightning_det.system.errors import one_line

LabelMode = bool | Literal["auto"]
"""Which labels are drawn: those that have room (``auto``), all, or none."""

FEW = 10
"""With ``auto``, labels that are higher than their objects are drawn only if there are at most this many of them."""

MARGIN = 6
"""Space between pictures, pixels."""


def draw_boxes(
    pixels: np.ndarray,
    boxes: np.ndarray,
    captions: Sequence[str],
    colours: Sequence[Colour],
    dashed: Sequence[bool] | None = None,
    draw_labels: LabelMode = "auto",
) -> np.ndarray:
    """Draws boxes with captions.

    Lines are thin and lie around the boxes, so they hide no object. With ``auto``, a caption is drawn only if there is
    room for it next to its box, where it hides no other box. The captions that come first get the room.

    Args:
        pixels: (H, W, 3) uint8.
        boxes: (n, 4) ``xyxy`` pixels.
        captions: one per box; "" for none.
        colours: one per box.
        dashed: whether a box has dashed lines, per box; None: no box has.
        draw_labels: which captions are drawn.

    Returns:
        A drawn copy.
    """
    canvas = pixels.copy()
    if len(boxes) == 0:
        return canvas
    height, width = canvas.shape[:2]
    widths = line_widths(boxes, max(width, height))
    draw_outlines(canvas, boxes, widths, colours, [False] * len(boxes) if dashed is None else dashed)
    if draw_labels is False:
        return canvas
    sides = np.sqrt(np.prod(np.clip(boxes[:, 2:] - boxes[:, :2], 0, None), axis=1))
    size = _font_size(sides, max(width, height))
    pad = max(1, size // 6)
    texts = [fit(caption, size, width - 2 * pad) for caption in captions]
    sizes = np.array([(text_width(text, size) + 2 * pad, line_height(size)) for text in texts])
    wanted = np.array([caption != "" for caption in captions])
    small = wanted & (sides < sizes[:, 1])
    if draw_labels == "auto" and small.sum() > FEW:
        wanted &= ~small
    taken = outer_boxes(boxes, widths, (width, height))
    places = place_labels(taken, sizes, (width, height), wanted, force=draw_labels is True)
    image = Image.fromarray(canvas)
    draw = ImageDraw.Draw(image)
    for place, text, (w, h), colour in zip(places, texts, sizes.tolist(), colours, strict=True):
        if place is not None:
            x, y = place
            draw.rectangle((x, y, x + w - 1, y + h - 1), fill=colour)
            draw.text((x + pad, y), text, fill=ink_on(colour), font=font_of(size))
    return np.asarray(image)


def _font_size(sides: np.ndarray, longest: int) -> int:
    """Chooses the size of captions, pixels: half of a median object, and at most a fiftieth of the picture.

    Args:
        sides: (n,) square roots of the areas of the boxes, pixels.
        longest: longer side of the picture, pixels.
    """
    return round(max(SMALLEST_FONT, min(float(np.median(sides)) / 2, longest / 50)))


def side_by_side(left: np.ndarray, right: np.ndarray, titles: tuple[str, str]) -> np.ndarray:
    """Puts two images (h, w, 3) uint8 of equal height next to each other, with titles above."""
    gap = np.full((left.shape[0], MARGIN, 3), 255, np.uint8)
    row = np.concatenate([left, gap, right], axis=1)
    font = font_of(14)
    header = Image.new("RGB", (row.shape[1], 20), "white")
    draw = ImageDraw.Draw(header)
    draw.text((2, 2), one_line(titles[0], LONGEST), fill="black", font=font)
    draw.text((left.shape[1] + MARGIN + 2, 2), one_line(titles[1], LONGEST), fill="black", font=font)
    return np.concatenate([np.asarray(header), row])


def page(pictures: Sequence[np.ndarray], titles: Sequence[str], columns: int | None = None) -> np.ndarray:
    """Puts pictures (h, w, 3) uint8 into a grid, each below its title: in three columns, more for many, or as told."""
    font = font_of(13)
    columns = columns or max(3, isqrt(len(pictures)))  # hundreds in three columns are higher than a JPEG may be
    cell = max(p.shape[1] for p in pictures) + MARGIN
    rows = []
    for start in range(0, len(pictures), columns):
        row = pictures[start : start + columns]
        height = max(p.shape[0] for p in row) + 20 + MARGIN
        canvas = Image.new("RGB", (cell * columns, height), "white")
        for column, picture in enumerate(row):
            title = one_line(titles[start + column], LONGEST)
            ImageDraw.Draw(canvas).text((cell * column + 2, 2), title, fill="black", font=font)
            canvas.paste(Image.fromarray(picture), (cell * column, 20))
        rows.append(np.asarray(canvas))
    return np.concatenate(rows)

"""Draws boxes on images."""

import colorsys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lightning_det.system.errors import one_line

Colour = tuple[int, int, int]
"""RGB, 0 to 255."""

GREY: Colour = (150, 150, 150)
MARGIN = 6
LONGEST = 80
"""Maximum length of a caption or title."""


@lru_cache
def font_of(size: int) -> ImageFont.FreeTypeFont:
    """Loads Matplotlib's font; unlike Pillow's, it has letters of languages other than English."""
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf"), size)


def class_colour(label: int) -> Colour:
    """Colour of a class, RGB; hues follow the golden ratio, so neighbouring classes differ."""
    red, green, blue = colorsys.hsv_to_rgb(label * 0.618034 % 1, 0.85, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def draw_boxes(
    pixels: np.ndarray,
    boxes: np.ndarray,
    captions: Sequence[str],
    colours: Sequence[Colour],
    dashed: Sequence[bool] | None = None,
) -> np.ndarray:
    """Draws boxes with captions.

    Args:
        pixels: (H, W, 3) uint8.
        boxes: (n, 4) ``xyxy`` pixels.
        captions: one per box; "" for none.
        colours: one per box.
        dashed: whether a box has dashed lines, per box; None: no box has.

    Returns:
        A drawn copy.
    """
    image = Image.fromarray(pixels).copy()
    draw = ImageDraw.Draw(image)
    width = max(1, round(max(image.size) / 500))
    font = font_of(max(10, round(max(image.size) / 60)))
    dashed = [False] * len(boxes) if dashed is None else dashed
    # Large boxes first, so small ones stay visible.
    order = np.argsort(-np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)).tolist() if len(boxes) else []
    for number in order:
        box = np.minimum(boxes[number], np.array([*image.size] * 2) - 1.0).tolist()  # keeps edges at the border visible
        if dashed[number]:
            _dashed_rectangle(draw, box, colours[number], width)
        else:
            draw.rectangle(box, outline=colours[number], width=width)
    for number in order:
        if captions[number]:
            _draw_caption(draw, boxes[number], captions[number], colours[number], font, image.size)
    return np.asarray(image)


def _dashed_rectangle(
    draw: ImageDraw.ImageDraw, box: Sequence[float], colour: Colour, width: int, dash: int = 5
) -> None:
    """Draws a rectangle in dashes of ``dash`` pixels."""
    x1, y1, x2, y2 = box
    for x in np.arange(x1, x2, 2 * dash):
        for y in (y1, y2):
            draw.line([(x, y), (min(x + dash, x2), y)], fill=colour, width=width)
    for y in np.arange(y1, y2, 2 * dash):
        for x in (x1, x2):
            draw.line([(x, y), (x, min(y + dash, y2))], fill=colour, width=width)


def _draw_caption(
    draw: ImageDraw.ImageDraw,
    box: np.ndarray,
    text: str,
    colour: Colour,
    font: ImageFont.FreeTypeFont,
    image_size: tuple[int, int],
) -> None:
    """Draws a caption above its box, or inside it at the top of the image (of (width, height) ``image_size``)."""
    text = one_line(text, LONGEST)
    _, _, w, h = draw.textbbox((0, 0), text, font=font)
    x = min(max(0, float(box[0])), max(0, image_size[0] - w))
    y = float(box[1]) - h - 1
    y = float(box[1]) + 1 if y < 0 else y
    draw.rectangle((x, y, x + w + 1, y + h), fill=colour)
    dark = sum(c * f for c, f in zip(colour, (0.3, 0.59, 0.11), strict=True)) < 120
    draw.text((x + 1, y), text, fill="white" if dark else "black", font=font)


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


def page(pictures: Sequence[np.ndarray], titles: Sequence[str], columns: int = 3) -> np.ndarray:
    """Puts pictures (h, w, 3) uint8 into a grid, each below its title."""
    font = font_of(13)
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

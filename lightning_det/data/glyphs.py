"""Plates with glyphs, the objects of the generated dataset."""

import numpy as np
from PIL import Image, ImageDraw

CLASSES = ("bar-h", "bar-v", "plus", "cross", "ring", "triangle")
DECOYS = ("empty", "diagonal", "dot", "half")
"""Glyphs of the look-alikes, which belong to the background."""

SILHOUETTES = ("square", "round", "octagon")

OVERSAMPLING = 4


def draw_plate(rng: np.random.Generator, glyph: str, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws a plate that touches all four sides of its box.

    Args:
        rng: source of silhouette, colours and outline.
        glyph: one of `CLASSES` or `DECOYS`.
        width: pixels.
        height: pixels.

    Returns:
        Colour (height, width, 3) float64 of 0 to 255 and opacity (height, width) of 0 to 1.
    """
    ground, ink = _draw_colours(rng)
    silhouette = SILHOUETTES[rng.integers(len(SILHOUETTES))]
    size = (width * OVERSAMPLING, height * OVERSAMPLING)
    shape, figure = (Image.new("L", size) for _ in range(2))
    _draw_silhouette(ImageDraw.Draw(shape), silhouette, *size)
    _draw_glyph(ImageDraw.Draw(figure), glyph, *size)
    opacity, inked = (np.asarray(i.reduce(OVERSAMPLING), np.float64) / 255 for i in (shape, figure))
    colour = ground + inked[..., None] * (ink - ground)
    if rng.random() < 0.5 and min(width, height) >= 16:
        inner = Image.new("L", size)
        edge = max(OVERSAMPLING, round(0.05 * min(size)))
        _draw_silhouette(ImageDraw.Draw(inner), silhouette, size[0] - 2 * edge, size[1] - 2 * edge, edge)
        rim = opacity - np.asarray(inner.reduce(OVERSAMPLING), np.float64) / 255
        colour = colour + rim.clip(0, 1)[..., None] * (rng.uniform(0, 255, 3) - colour)
    return colour, opacity


def _draw_colours(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two RGB colours (3,) float64 of 0 to 255 that differ clearly in brightness."""
    brightness = np.array([0.299, 0.587, 0.114])
    while True:
        ground, ink = rng.uniform(0, 255, (2, 3))
        if abs(brightness @ (ground - ink)) > 90:
            return ground, ink


def _draw_silhouette(draw: ImageDraw.ImageDraw, kind: str, width: int, height: int, offset: int = 0) -> None:
    """Draws the outline of a plate, filled with white."""
    box = (offset, offset, offset + width - 1, offset + height - 1)
    if kind == "round":
        draw.ellipse(box, fill=255)
    elif kind == "square":
        draw.rectangle(box, fill=255)
    else:
        x, y = 0.3 * width, 0.3 * height
        left, top, right, bottom = box
        corners = [(left + x, top), (right - x, top), (right, top + y), (right, bottom - y)]
        corners += [(right - x, bottom), (left + x, bottom), (left, bottom - y), (left, top + y)]
        draw.polygon(corners, fill=255)


def _draw_glyph(draw: ImageDraw.ImageDraw, kind: str, width: int, height: int) -> None:
    """Draws a glyph in white. Lengths are shares of the plate, and a mirrored glyph stays in its class."""

    def at(*shares: float) -> list[tuple[float, float]]:
        return [(x * width, y * height) for x, y in zip(shares[::2], shares[1::2], strict=True)]

    stroke = max(1, round(0.17 * min(width, height)))
    if kind in ("bar-h", "plus"):
        draw.rectangle(at(0.2, 0.41, 0.8, 0.59), fill=255)
    if kind in ("bar-v", "plus"):
        draw.rectangle(at(0.41, 0.2, 0.59, 0.8), fill=255)
    if kind in ("cross", "diagonal"):
        draw.line(at(0.26, 0.26, 0.74, 0.74), fill=255, width=stroke)
    if kind == "cross":
        draw.line(at(0.26, 0.74, 0.74, 0.26), fill=255, width=stroke)
    if kind == "ring":
        draw.ellipse(at(0.22, 0.22, 0.78, 0.78), outline=255, width=stroke)
    if kind == "triangle":
        draw.polygon(at(0.5, 0.2, 0.8, 0.76, 0.2, 0.76), fill=255)
    if kind == "dot":
        draw.ellipse(at(0.38, 0.38, 0.62, 0.62), fill=255)
    if kind == "half":
        draw.rectangle(at(0.2, 0.55, 0.8, 0.8), fill=255)

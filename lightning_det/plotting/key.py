"""Colour keys: which colour is which class."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from lightning_det.plotting.colours import Colour
from lightning_det.plotting.text import SMALLEST_FONT, fit, font_of, line_height, text_width

FRAME: Colour = (70, 70, 70)
"""Frame of a colour in the key; bright ones would vanish on its white."""


class Entry(NamedTuple):
    """A colour and its text, at a place in the margin."""

    x: int
    y: int
    text: str
    colour: Colour


def with_key(picture: np.ndarray, entries: Sequence[tuple[str, Colour]]) -> np.ndarray:
    """Adds a colour key in a margin below a picture, where it hides nothing.

    Args:
        picture: (h, w, 3) uint8.
        entries: texts and their colours, in the order of the key. Without entries, nothing is added.

    Returns:
        (h + margin, w, 3) uint8; the margin has an even number of rows, as videos need it.
    """
    if not entries:
        return picture
    width = picture.shape[1]
    size = round(max(SMALLEST_FONT, np.sqrt(picture.shape[0] * width) / 50))
    line, gap = line_height(size), size // 2
    places = _arrange(entries, width, size)
    height = places[-1].y + line + gap
    strip = Image.new("RGB", (width, height + height % 2), "white")
    draw = ImageDraw.Draw(strip)
    for x, y, text, colour in places:
        top = y + (gap + line - size) // 2
        draw.rectangle((x, top, x + size - 1, top + size - 1), fill=colour, outline=FRAME)
        draw.text((x + size + gap, y + gap // 2), text, fill="black", font=font_of(size))
    return np.concatenate([picture, np.asarray(strip)])


def _arrange(entries: Sequence[tuple[str, Colour]], width: int, size: int) -> list[Entry]:
    """Arranges entries in lines of at most ``width`` pixels, in a font of ``size``."""
    gap = size // 2
    places: list[Entry] = []
    x, y = gap, 0
    for text, colour in entries:
        shown = fit(text, size, width - 3 * gap - size)
        needed = size + gap + text_width(shown, size)
        if x > gap and x + needed + gap > width:
            x, y = gap, y + line_height(size)
        places.append(Entry(x, y, shown, colour))
        x += needed + 2 * gap
    return places

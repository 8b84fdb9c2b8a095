"""Fonts, and texts that fit into a width."""

from functools import lru_cache
from pathlib import Path

from PIL import ImageFont

from lightning_det.system.errors import one_line

LONGEST = 80
"""Maximum length of a text in a picture, characters."""

SMALLEST_FONT = 11
"""Size of the smallest letters that can be read well, pixels."""


@lru_cache
def font_of(size: int) -> ImageFont.FreeTypeFont:
    """Loads Matplotlib's font; unlike Pillow's, it has letters of languages other than English."""
    import matplotlib  # slow to import, and only needed where text is drawn

    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf"), size)


@lru_cache(maxsize=4096)
def text_width(text: str, size: int) -> int:
    """Returns the width of a text in pixels, rounded up."""
    return -int(-font_of(size).getlength(text) // 1)


def line_height(size: int) -> int:
    """Returns the height of a line of text in pixels, letters below the base line included."""
    return sum(font_of(size).getmetrics())


def fit(text: str, size: int, width: int) -> str:
    """Returns a text in one printable line of at most ``width`` pixels; what is too long ends with an ellipsis."""
    shown = one_line(text, LONGEST)
    if not shown or text_width(shown, size) <= width:
        return shown
    count = max(1, int(len(shown) * width / text_width(shown, size)))
    while count > 1 and text_width(f"{shown[:count]}…", size) > width:
        count -= 1
    return f"{shown[:count]}…"

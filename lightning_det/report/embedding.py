"""Pictures as parts of a page: data URIs, so that the page is one file."""

import base64
import io
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image

QUALITY = 80
"""Of JPEG pictures, 0 to 95. WebP is smaller, but takes ten times as long."""

BUDGET = 7_000_000
"""Maximum number of bytes of a page's photographs, as data URIs."""


class Picture(NamedTuple):
    """A picture to embed."""

    uri: str
    alt: str
    """What it shows, for readers who do not see it."""
    width: int
    height: int
    caption: str = ""


def embed_svg(text: str, alt: str, width: float, height: float) -> Picture:
    """Embeds an SVG of a size in CSS pixels."""
    encoded = base64.b64encode(text.encode()).decode()
    return Picture(f"data:image/svg+xml;base64,{encoded}", alt, round(width), round(height))


def embed_pixels(pixels: np.ndarray, alt: str, caption: str = "") -> Picture:
    """Embeds an image (h, w, 3) uint8 as JPEG."""
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "JPEG", quality=QUALITY, subsampling=0)  # thin lines keep their colours
    encoded = base64.b64encode(data.getvalue()).decode()
    return Picture(f"data:image/jpeg;base64,{encoded}", alt, pixels.shape[1], pixels.shape[0], caption)


def within_budget(pictures: Iterable[Picture], used: int = 0) -> Iterator[Picture]:
    """Yields pictures until the next one would exceed the `BUDGET`, of which some bytes are already used."""
    for picture in pictures:
        used += len(picture.uri)
        if used > BUDGET:
            return
        yield picture

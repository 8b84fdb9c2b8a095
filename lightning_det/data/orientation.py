"""Exif orientation: how an image is rotated and mirrored for display."""

import numpy as np
from PIL.Image import Image
from PIL.PngImagePlugin import PngImageFile

from lightning_det.data.png import read_exif

ORIENTATION = 0x0112
"""Exif tag."""


def read_orientation(image: Image) -> int:
    """Exif's orientation, 1 to 8; 1 (as stored) if it is missing or cannot be read."""
    try:
        exif = Image.getexif(image)  # the method of PNG images would decode the whole file
        if isinstance(image, PngImageFile) and ORIENTATION not in exif and image.fp is not None:
            exif.load(read_exif(image.fp))
        value = exif.get(ORIENTATION, 1)
    except Exception:  # Pillow raises errors of many kinds for damaged Exif; the pixels may be fine
        return 1
    return value if value in range(1, 9) else 1


def swaps_sides(orientation: int) -> bool:
    """Whether an orientation rotates the image by 90 degrees, which swaps width and height."""
    return orientation >= 5


def apply_orientation(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Rotates and mirrors pixels (3, H, W) according to Exif; returns a view of the array."""
    if swaps_sides(orientation):
        pixels = pixels.swapaxes(1, 2)
    flips = (orientation - 1) % 4
    if flips in (1, 2):
        pixels = pixels[:, :, ::-1]
    return pixels[:, ::-1] if flips in (2, 3) else pixels
